"""Fractals a second: vectorised NumPy of the same mathematics against the compiled kernels on one and two threads.

Run: ``pytest benchmarks/bench_fractals.py --benchmark-group-by=group``, each test by itself on a machine that does
other things too. 200 iterations, 2 x 2 points a pixel, the same pictures for all; the NumPy version is in float32 and
stops orbits in cycles too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
import reference_fractals

from mixaug.mixing_sets import make_pictures, render_fractals, sample_fractals

PICTURES = 12
SIZES = (64, 256, 512)


@pytest.fixture(scope="module")
def params():
    return sample_fractals(PICTURES, seed=3)


@pytest.mark.benchmark(group="fractals")
@pytest.mark.parametrize("size", SIZES)
def test_numpy(benchmark, params, size):
    def run():
        for i in range(PICTURES):
            reference_fractals.render(params, i, size)

    benchmark.extra_info["pictures"] = PICTURES
    benchmark.pedantic(run, rounds=3, warmup_rounds=0)


@pytest.mark.benchmark(group="fractals")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_compiled(benchmark, params, size, threads):
    benchmark.extra_info["pictures"] = PICTURES
    benchmark.pedantic(render_fractals, (params, size), {"threads": threads}, rounds=9, warmup_rounds=1)


@pytest.mark.benchmark(group="fractals with drawing and richness")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_make(benchmark, size, threads):
    benchmark.extra_info["pictures"] = PICTURES
    benchmark.pedantic(make_pictures, ("fractals", PICTURES, size, 3), {"threads": threads}, rounds=5, warmup_rounds=1)
