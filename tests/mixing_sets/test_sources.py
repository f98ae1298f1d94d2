"""What every synthetic source promises: pictures that depend on their seed and index only, on every machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from mixaug import MixingSet
from mixaug.mixing_sets import SOURCES, iter_pictures, make_pictures
from mixaug.mixing_sets import sources as _sources
from mixaug.mixing_sets.drawing import draw_accepted
from mixaug.mixing_sets.threads import on_threads

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
compiled = pytest.mark.skipif(not JIT, reason="loops over pixels need compiled code")


def digest(pictures: torch.Tensor) -> str:
    return hashlib.sha256(pictures.contiguous().numpy().tobytes()).hexdigest()


@pytest.fixture(scope="module")
def first() -> dict[str, torch.Tensor]:
    """Four pictures of each source."""
    return {source: make_pictures(source, 4, 40, seed=6, threads=1) for source in SOURCES}


@compiled
@pytest.mark.parametrize("source", SOURCES)
def test_kind_of_result(first, source):
    pictures = first[source]
    assert pictures.shape == (4, 3, 40, 40) and pictures.dtype == torch.uint8 and pictures.is_contiguous()
    assert len({digest(p) for p in pictures}) == 4
    assert all(p.float().std() > 5 for p in pictures)


@compiled
@pytest.mark.parametrize("source", SOURCES)
def test_threads_chunks_start_and_count_do_not_matter(first, source):
    assert torch.equal(first[source], make_pictures(source, 4, 40, seed=6, threads=2))
    assert torch.equal(first[source], torch.cat(list(iter_pictures(source, 4, 40, seed=6, chunk=3))))
    assert torch.equal(first[source][2:3], next(iter_pictures(source, 1, 40, seed=6, start=2)))
    assert torch.equal(first[source][:1], make_pictures(source, 1, 40, seed=6))


@compiled
@pytest.mark.parametrize("source", SOURCES)
def test_the_global_generator_is_neither_read_nor_moved(first, source):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert torch.equal(make_pictures(source, 1, 40, seed=6), first[source][:1])
    assert torch.equal(state, torch.get_rng_state())


@compiled
@pytest.mark.parametrize("source", SOURCES)
def test_a_picture_is_the_same_at_another_size(source):
    """A record is a picture, not its pixels: the small one is the large one reduced, but for the finest detail."""
    small, large = make_pictures(source, 6, 32, seed=2), make_pictures(source, 6, 128, seed=2)
    reduced = torch.nn.functional.adaptive_avg_pool2d(large.double(), 8).flatten(1)
    alike = torch.nn.functional.adaptive_avg_pool2d(small.double(), 8).flatten(1)
    gaps = torch.cdist(alike, reduced) / reduced.shape[1] ** 0.5
    own = gaps.diagonal()
    others = gaps + torch.diag(torch.full((6,), 1e9, dtype=gaps.dtype))
    assert (own < 0.5 * others.min(1).values).all() and own.median() < 12


@compiled
@pytest.mark.parametrize("source", SOURCES)
def test_kinds(source):
    known = _sources.source_of(source).kinds
    assert len(known) >= 2
    for kind in known:
        one = make_pictures(source, 1, 16, seed=1, kinds=kind)
        assert one.shape == (1, 3, 16, 16)
        assert torch.equal(one, make_pictures(source, 1, 16, seed=1, kinds=[kind]))
    turned = make_pictures(source, 2, 16, seed=1, kinds=known[::-1])
    assert torch.equal(turned, make_pictures(source, 2, 16, seed=1))  # their order does not matter


SCRIPT = """
import hashlib, sys
from mixaug.mixing_sets import SOURCES, make_pictures
for source in SOURCES:
    print(hashlib.sha256(make_pictures(source, 4, 40, seed=6, threads=1).numpy().tobytes()).hexdigest())
"""


@compiled
def test_another_process_makes_the_same_bytes(first):
    made = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=300)
    assert made.stdout.split() == [digest(first[source]) for source in SOURCES]


@compiled
@pytest.mark.slow
def test_a_plain_processor_makes_the_same_pictures(tmp_path, first):
    """Code for the oldest processor of this family: no wide vectors, no fused operations. Where Fourier transforms or
    functions of NumPy and MKL have a part, one level is allowed."""
    code = (
        "import sys, torch; from mixaug.mixing_sets import SOURCES, make_pictures\n"
        "torch.save({s: make_pictures(s, 4, 40, seed=6, threads=1) for s in SOURCES}, sys.argv[1])"
    )
    settings = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    }
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "pictures.pt")]
    subprocess.run(command, env=os.environ | settings, check=True, timeout=500)
    for source, pictures in torch.load(tmp_path / "pictures.pt").items():
        gap = (pictures.int() - first[source].int()).abs()
        most = 0 if source in ("fractals", "dead-leaves", "contours") else 1
        assert gap.max() <= most and (gap > 0).double().mean() <= 1e-3, source


@compiled
@pytest.mark.parametrize("source", SOURCES)
def test_a_set_of_each(source, tmp_path, monkeypatch, first):
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path))
    make = getattr(MixingSet, source.replace("-", "_"))
    pictures = make(4, 40, seed=6)
    assert "not made yet" in repr(pictures) and len(pictures) == 4
    assert torch.equal(pictures.pictures, first[source]) and pictures.path.parent == tmp_path
    assert torch.equal(make(4, 40, 6).pictures, first[source])
    kind = _sources.source_of(source).kinds[0]
    other = make(2, 40, 6, kinds=kind)
    assert kind in repr(other) and torch.equal(other.pictures, make_pictures(source, 2, 40, 6, kinds=kind))
    assert other.path != pictures.path
    saved = pictures.save(tmp_path / "saved", progress=False)
    read = MixingSet.from_folder(tmp_path / "saved", size=40)
    assert len(saved) == 4 and torch.equal(read.pictures, first[source])


@compiled
def test_made_in_a_forked_child_after_use_in_the_parent(first):
    """No source starts a pool of threads that a fork would break."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    code = """
import os, torch
from mixaug.mixing_sets import SOURCES, make_pictures
parent = {source: make_pictures(source, 2, 40, threads=2) for source in SOURCES}
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as in a loader worker
    same = [torch.equal(make_pictures(s, 2, 40, threads=n), parent[s]) for s in SOURCES for n in (None, 2)]
    os._exit(0 if all(same) else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True, timeout=200)


@pytest.mark.parametrize("source", SOURCES)
def test_import_of_a_source_is_light(source):
    module = _sources._MODULES[source]
    code = f"import sys, mixaug.mixing_sets.{module}; print([m for m in ('numba', 'scipy', 'PIL') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() in ("[]", "['PIL']")  # torch may bring PIL


@pytest.mark.parametrize(
    "call,error,words",
    [
        (lambda: make_pictures("fractal", 1), ValueError, "source must be one of fractals, ifs, .*got 'fractal'"),
        (
            lambda: make_pictures(3, 1),
            TypeError,
            "source must be one of fractals, ifs, .*got int: 3",
        ),
        (lambda: make_pictures("ifs", 0), ValueError, "count must be from 1 to 10000000, got 0"),
        (lambda: make_pictures("ifs", 1, 1), ValueError, "size must be from 8 to 16384, got 1"),
        (lambda: make_pictures("ifs", 1, 8, -1), ValueError, "seed must be from 0 to 9223372036854775807, got -1"),
        (lambda: make_pictures("ifs", 1, threads=0), ValueError, "threads must be from 1 to 1024, got 0"),
        (lambda: make_pictures("ifs", 1, kinds="dots"), ValueError, "kinds must name some of points, .*got 'dots'"),
        (lambda: make_pictures("ifs", 1, kinds=[]), ValueError, "kinds must name some of"),
        (lambda: make_pictures("ifs", 1, kinds=["points", "points"]), ValueError, "each once"),
        (lambda: make_pictures("ifs", 1, kinds=[1]), TypeError, "kinds must be a str, a sequence"),
        (lambda: iter_pictures("ifs", 1, start=-1), ValueError, "start must be from 0 to 9223372036854775807, got -1"),
        (lambda: iter_pictures("ifs", 1, chunk=0), ValueError, "chunk must be from 1 to 2147483647, got 0"),
        (lambda: MixingSet.contours(0), ValueError, "count must be from 1 to 10000000, got 0"),
        (lambda: MixingSet.dead_leaves(4, 1), ValueError, "size must be from 8 to 16384, got 1"),
        (lambda: MixingSet.spectrum(4, seed=-2), ValueError, "seed must be from 0 to 9223372036854775807, got -2"),
        (lambda: MixingSet.ifs(4, kinds="x"), ValueError, "kinds must name some of"),
        (lambda: MixingSet.ifs(4, progress=3), TypeError, "progress must be True or False"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


# --- what the sources share -----------------------------------------------------------------------------------------


def test_draws_are_repeated_until_they_are_accepted():
    asked = []

    def draw(row, attempt):
        asked.append((row, attempt))
        return row, attempt

    wanted = [0, 2, 1, 0]
    draws, attempts = draw_accepted(4, draw, lambda values: [attempt >= wanted[row] for row, attempt in values])
    assert attempts == wanted and draws == list(enumerate(wanted))
    assert asked == [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2)]
    draws, attempts = draw_accepted(2, draw, lambda values: [False] * len(values), most=3)
    assert draws == [(0, 2), (1, 2)] and attempts == [2, 2]


def test_every_task_runs_once_and_the_first_alone():
    class Kernel:
        signatures: tuple[int, ...] = ()

    for threads in (1, 2, 5, None):
        done = []
        on_threads(done.append, range(7), Kernel, threads)
        assert sorted(done) == list(range(7)) and (threads in (1, None) or done[0] == 6)
    on_threads(done.append, [], Kernel)


def test_an_error_in_a_task_is_raised():
    def fail(task):
        raise ZeroDivisionError(task)

    with pytest.raises(ZeroDivisionError):
        on_threads(fail, range(3), None, 2)
