"""Pictures a second of every source, against plain vectorised NumPy of the same mathematics.

    python benchmarks/bench_mixing_sets.py [--source fractals ...] [--size 64 256 512] [--rounds 5]

NumPy and the compiled renderer make the same pictures from the same records, in turns; NumPy has one thread, the
renderer one and two. A last column adds what a user waits for besides: drawing the records and refusing dull pictures.
A second table renders
many pictures of 256 px in one call, as a set is made, and says how that scales from one thread to two. Prints markdown.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from mixaug.mixing_sets import SOURCES, make_pictures
from mixaug.mixing_sets.sources import source_of

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
sys.path.append(str(Path(__file__).parent))
from measure import interleaved, versions

#: Pictures of 256 px in a call for the scaling: each call takes tenths of a second.
MANY = {"fractals": 24, "ifs": 96, "contours": 48, "dead-leaves": 64, "spectrum": 64}
#: Pictures of a call, so that NumPy takes seconds and the renderer milliseconds; even, for two threads.
PICTURES = {64: 24, 256: 8, 512: 4}


def reference_of(source: str) -> Callable[..., object]:
    """``render(params, i, size)`` in NumPy."""
    module = importlib.import_module(f"reference_{source.replace('-', '_')}")
    render: Callable[..., object] = module.render
    return render


def rows(source: str, size: int, rounds: int) -> Iterator[str]:
    found, reference = source_of(source), reference_of(source)
    count = PICTURES.get(size, 4)
    params = found.sample(count, 3)

    def numpy() -> None:
        for i in range(count):
            reference(params, i, size)

    cases = {
        "NumPy": numpy,
        "1 thread": partial(found.render, params, size, threads=1),
        "2 threads": partial(found.render, params, size, threads=2),
        "whole": partial(make_pictures, source, count, size, 3, threads=2),
    }
    times = interleaved(cases, rounds, at_most=60.0)
    seconds = {name: statistics.median(timing.seconds) for name, timing in times.items()}
    rate = {name: count / value for name, value in seconds.items()}
    yield (
        f"| {found.title} | {size} | {rate['NumPy']:.1f} | {rate['1 thread']:,.0f} | {rate['2 threads']:,.0f} "
        f"| {rate['1 thread'] / rate['NumPy']:.1f} | {rate['2 threads'] / rate['NumPy']:.1f} "
        f"| {rate['2 threads'] / rate['1 thread']:.2f} | {rate['whole']:,.0f} |"
    )


def scaling(source: str, rounds: int) -> str:
    """Row of the second table."""
    found, count = source_of(source), MANY[source]
    params = found.sample(count, 3)
    times = interleaved({f"{n}": partial(found.render, params, 256, threads=n) for n in (1, 2)}, rounds, at_most=30.0)
    one, two = (statistics.median(times[name].seconds) for name in ("1", "2"))
    return f"| {found.title} | {count} | {count / one:,.0f} | {count / two:,.0f} | {one / two:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", nargs="+", default=SOURCES, choices=SOURCES)
    parser.add_argument("--size", nargs="+", type=int, default=list(PICTURES))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(versions("numba", "numpy"))
    print()
    print("| source | px | NumPy, a second | 1 thread | 2 threads | 1 thread, times NumPy | 2 threads, times NumPy "
          "| 2 threads, times 1 | with drawing and refusing, 2 threads |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for source in options.source:
        for size in options.size:
            for row in rows(source, size, options.rounds):
                print(row, flush=True)
    print("\n| source, 256 px | pictures a call | 1 thread, a second | 2 threads | 2 threads, times 1 |")
    print("|---|---:|---:|---:|---:|")
    for source in options.source:
        print(scaling(source, options.rounds), flush=True)


if __name__ == "__main__":
    main()
