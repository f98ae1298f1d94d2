"""Fractals: against plain NumPy, the same everywhere, rich, and none twice."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import reference_fractals
import torch

import mixaug_ext
from mixaug.mixing_sets import (
    FractalParams,
    Richness,
    fractals,
    iter_pictures,
    make_pictures,
    render_fractals,
    richness,
    sample_fractals,
)
from mixaug.mixing_sets.drawing import Stream, draw_palette, mix
from mixaug.mixing_sets.fractals import KINDS, SOURCE
from mixaug.mixing_sets.fractals import draws as _params
from mixaug.mixing_sets.fractals.draws import FAMILIES, IMAGE, TRAPS, draw_bitmap
from mixaug_ext import _fractals

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
COUNT = 96 if JIT else 10  # pictures whose properties are looked at
SIZE = 48 if JIT else 12
ITERATIONS = 200 if JIT else 20


@pytest.fixture(scope="module", autouse=True)
def tiny_previews():
    """Without compilation (the coverage pass) the loops run in Python: keep them short, take the first draw."""
    with pytest.MonkeyPatch.context() as patch:
        if not JIT:
            for name, value in (("PREVIEW_SIZE", 8), ("_PREVIEW_SAMPLES", 1), ("ITERATIONS", 12), ("_MAX_ATTEMPTS", 1)):
                patch.setattr(fractals, name, value)
        yield


@pytest.fixture(scope="module")
def params(tiny_previews) -> FractalParams:
    return sample_fractals(COUNT, seed=11)


def _with(params: FractalParams, **columns: object) -> FractalParams:
    """A copy of the record with other columns."""
    new = {name: torch.as_tensor(value, dtype=getattr(params, name).dtype) for name, value in columns.items()}
    return replace(params, **new)


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_equals_numpy_reference(params):
    size, pictures = (41, 40) if JIT else (9, 2)
    made = render_fractals(params[:pictures], size, iterations=ITERATIONS).numpy()
    different = total = 0
    for i in range(pictures):
        gap = np.abs(reference_fractals.render(params, i, size, ITERATIONS).astype(int) - made[i])
        assert gap.max() <= 1, f"picture {i}: {FAMILIES[params.family[i]]}, {TRAPS[params.trap[i]]}"
        different += (gap > 0).sum()
        total += gap.size
    assert different <= 1e-3 * total


@pytest.mark.skipif(not JIT, reason="orbits of many pixels need compiled code")
@pytest.mark.parametrize("family", range(len(FAMILIES)))
@pytest.mark.parametrize("trap", range(len(TRAPS)))
def test_each_family_and_trap_equals_reference(params, family, trap):
    rows = (params.family == family).nonzero().flatten()[:2].tolist()
    bitmap = params.bitmap[params.trap == IMAGE][:1].expand(len(rows), -1, -1, -1)
    chosen = _with(params[rows], trap=[trap] * len(rows), bitmap=bitmap)
    assert rows
    made = render_fractals(chosen, 24, samples=1).numpy()
    for i in range(len(rows)):
        expected = reference_fractals.render(chosen, i, 24, samples=1)
        assert (expected != made[i]).mean() <= 1e-3
        assert np.abs(expected.astype(int) - made[i]).max() <= 1


@pytest.mark.skipif(not JIT, reason="pixels of the compiled kernels")
def test_known_pixels():
    """The picture of a seed is a promise: other numbers here mean another default mixing set for every user."""
    picture = make_pictures("fractals", 1, size=64, seed=0)[0]
    assert abs(picture[:, ::21, ::21].sum().item() - 4963) <= 48  # one grey level each
    assert np.abs(np.array(picture[:, 10, 20].tolist()) - [87, 55, 53]).max() <= 1


compiled = pytest.mark.skipif(mixaug_ext.library() is None or not JIT, reason="compares two compiled forms")


@compiled
@pytest.mark.parametrize("size,iterations,samples", [(33, 200, 2), (8, 1, 1), (41, 37, 3)])
def test_both_compiled_forms_make_the_same_picture(params, monkeypatch, size, iterations, samples):
    """C++ and numba, bit for bit: every family and trap, orbits in float32 and in float64."""
    rows = replace(params[:60], width=torch.where(torch.arange(60) % 7 == 0, 1e-3, params.width[:60]))
    made = render_fractals(rows, size, iterations, samples)
    monkeypatch.setattr(mixaug_ext, "library", lambda: None)
    assert torch.equal(render_fractals(rows, size, iterations, samples), made)
    drawn = sample_fractals(12, seed=5)  # with the same look for the boundary
    monkeypatch.undo()
    again = sample_fractals(12, seed=5)
    assert all(torch.equal(getattr(drawn, f.name), getattr(again, f.name)) for f in fields(drawn))


@pytest.mark.parametrize("form", ["C++", "numba"])
@pytest.mark.parametrize("name", ["centre", "base", "glow", "trap_radius", "glow_width", "polynomial", "palettes"])
def test_a_record_of_numbers_that_are_none_crashes_nothing(params, monkeypatch, name, form):
    if form == "numba":
        monkeypatch.setattr(mixaug_ext, "library", lambda: None)
    for value in (float("nan"), float("inf"), -1e300):
        rows = params[:6] if JIT else params[:1]
        column = torch.full_like(getattr(rows, name), value)
        with np.errstate(all="ignore"):
            assert render_fractals(replace(rows, **{name: column}), 8, 3, 1).shape == (len(rows), 3, 8, 8)


@compiled
def test_the_compiled_call_refuses_arrays_of_another_kind(params):
    one = params.packed().row(0)
    out = np.zeros((3, 8, 8), np.uint8)
    typed = _params.numbers(one.ints, one.floats, np.float32)
    call = [one.ints, one.floats, typed, one.floats.astype(np.float32), one.palettes, one.bitmap, False, 1, 9, 0, out]
    for place, wrong in ((0, one.ints[:6]), (2, typed.astype(np.float16)), (3, one.floats), (4, one.palettes[:, ::-1])):
        with pytest.raises(ValueError, match="must be contiguous"):
            _fractals.render_rows(*call[:place], wrong, *call[place + 1 :])
    with pytest.raises(ValueError, match="out must be uint8"):
        _fractals.render_rows(*call[:-1], out[:, :, ::2])
    with pytest.raises(ValueError, match="must be at least 1"):
        _fractals.render_rows(*call[:7], 0, *call[8:])


def test_orbit_kernels_are_not_contracted():
    """No fused multiply-add in the compiled code: it rounds once where IEEE asks for twice."""
    if not JIT:
        pytest.skip("nothing is compiled")
    from mixaug.mixing_sets.fractals import kernels as _kernels

    render_fractals(sample_fractals(1), 8)
    # In a process of its own: code that came from the disk cache has no listing.
    loaded = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True)
    assert loaded.stdout.strip() == "0", loaded.stdout + loaded.stderr
    assert not _kernels.render_rows.targetoptions.get("fastmath")


LISTING = """
import numba, numpy as np
from mixaug.mixing_sets.fractals import kernels as k
kept = tuple(np.zeros(1, np.float32)[0] for _ in range(11))
f = numba.njit(error_model="numpy")(k._square_block.py_func)
f(np.zeros(17 * 256, np.float32), 16, np.zeros(60, np.float32), kept, kept[:5], np.float32(8))
listing = "".join(f.inspect_asm().values())
assert "mul" in listing
print(sum(line.split()[0].startswith(("vfmadd", "vfmsub", "vfnm", "fmadd", "fmla"))
          for line in listing.splitlines() if line.split()))
"""


@pytest.mark.skipif(not JIT, reason="orbits of many pixels need compiled code")
def test_deep_views_are_followed_in_float64(params, monkeypatch):
    """A view so narrow that columns of float32 points fall together."""
    row = ((params.family == 0) & (params.degree == 2) & (params.trap != IMAGE)).nonzero()[0].tolist()
    one = _with(params[row], centre=[[-0.7453, 0.1127]], width=[5e-7], constant=[[0.0, 0.0]], parameter_plane=[1])
    one = _with(one, fold=[0], conj=[0], view_axis=[[1.0, 0.0]], base=[[0.0, 200.0, 50.0, 50.0, 0.0, 0.0]])
    made = render_fractals(one, 24, samples=1)[0]
    expected = reference_fractals.render(one, 0, 24, samples=1)
    assert np.abs(expected.astype(int) - made.numpy()).max() <= 1
    monkeypatch.setattr(_params, "_DEEP", 0.0)
    coarse = render_fractals(one, 24, samples=1)[0]
    distinct = [torch.unique(picture.flatten(0, 1), dim=1).shape[1] for picture in (made, coarse)]
    assert distinct[0] == 24 and distinct[1] < 16


@pytest.mark.skipif(not JIT, reason="orbits of many pixels need compiled code")
def test_orbits_that_stop_in_a_cycle_look_as_if_followed_to_the_end(params, monkeypatch):
    monkeypatch.setattr(_params, "_CONSTANTS", (*_params._CONSTANTS[:5], 0.0, *_params._CONSTANTS[6:]))
    rows = params[:40]
    whole = render_fractals(rows, 48)
    monkeypatch.undo()
    made = render_fractals(rows, 48)
    gap = (made.int() - whole.int()).abs()
    assert gap.float().mean() < 0.5 and gap.max() > 0  # grey levels; some orbits do stop


@pytest.mark.skipif(not JIT, reason="orbits of many pixels need compiled code")
def test_newton_finds_the_roots():
    """z^3 - 1: the three sectors of the plane go to the roots that lie in them, and take few steps."""
    from mixaug.mixing_sets.fractals import kernels as _kernels

    ints = np.array([FAMILIES.index("newton"), 3, 1, 0, 0, 0, 0], np.int64)
    floats = np.zeros(_params.N_FLOATS)
    floats[2], floats[4], floats[7] = 1.0, 3.0, 1.0
    floats[30:42] = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, -1, 0]
    orbit = np.zeros((10, 30 * 30), np.float32)
    _kernels.follow(ints, floats, _params.numbers(ints, floats, np.float32), 30, 200, 0, orbit)
    ends = orbit[1] + 1j * orbit[2]
    assert (orbit[0] > 0).all() and orbit[0].mean() < 12
    assert np.abs(ends**3 - 1).max() < 1e-3
    shares = [(np.abs(ends - np.exp(2j * np.pi * k / 3)) < 1e-3).mean() for k in range(3)]
    assert min(shares) > 0.25 and sum(shares) == pytest.approx(1)


def test_image_trap_shows_its_bitmap(params):
    """A red image on the trap makes red where orbits fall on it, and nothing else of the picture changes."""
    row = (params.trap == IMAGE).nonzero()[:1, 0].tolist() if JIT else [0]
    one = _with(params[row], trap=[IMAGE], shade=[0.0], trap_radius=[0.8])
    red = torch.zeros_like(one.bitmap)
    red[..., 0], red[..., 3] = 255, 255
    clear = _with(one, bitmap=torch.zeros_like(red))
    one = _with(one, bitmap=red)
    size = 48 if JIT else 9
    shown, plain = (render_fractals(p, size, ITERATIONS, samples=1)[0] for p in (one, clear))
    is_red = (shown == torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]).all(0)
    assert 0.02 < is_red.float().mean() < 0.999
    assert torch.equal(shown[:, ~is_red], plain[:, ~is_red])


def test_only_image_traps_have_a_bitmap(params):
    assert not params.bitmap[params.trap != IMAGE].any()
    assert (params.bitmap[params.trap == IMAGE].flatten(1).amax(1) > 0).all()


def test_bitmaps_are_shapes_on_a_clear_ground():
    streams = [Stream(9, i) for i in range(60)]
    bitmaps = torch.from_numpy(np.stack([draw_bitmap(s, draw_palette(s)) for s in streams]))
    alpha = bitmaps[..., 3].float() / 255
    line = (torch.arange(64) + 0.5) / 32 - 1
    outside = line[:, None] ** 2 + line**2 > 1
    assert (alpha[:, outside] == 0).all()
    assert alpha.mean((1, 2)).min() > 0.03 and alpha.mean((1, 2)).max() < 0.85
    assert (bitmaps[..., :3].float().std((1, 2)).amax(1) > 5).all()


# --- independence and repetition ------------------------------------------------------------------------------------


def test_picture_depends_on_seed_and_index_only(params):
    few = sample_fractals(2, seed=11)
    later = sample_fractals(1, seed=11, start=1)
    for f in fields(FractalParams):
        assert torch.equal(getattr(params, f.name)[:2], getattr(few, f.name)), f.name
        assert torch.equal(getattr(params, f.name)[1:2], getattr(later, f.name)), f.name


def test_threads_chunks_and_count_do_not_matter():
    count = 5 if JIT else 2
    one = make_pictures("fractals", count, SIZE, seed=3, threads=1)
    two = make_pictures("fractals", count, SIZE, seed=3, threads=2)
    assert torch.equal(one, two)
    assert torch.equal(one[:1], make_pictures("fractals", 1, SIZE, seed=3))
    assert torch.equal(one, torch.cat(list(iter_pictures("fractals", count, SIZE, seed=3, chunk=2))))


def test_seeds_differ_and_global_generator_is_left_alone():
    state = torch.get_rng_state()
    assert not torch.equal(sample_fractals(1, seed=1).base, sample_fractals(1, seed=2).base)
    assert torch.equal(state, torch.get_rng_state())


def test_render_does_not_write_to_params(params):
    before = {f.name: getattr(params, f.name).clone() for f in fields(params)}
    render_fractals(params[:1], 8, iterations=10)
    assert all(torch.equal(value, getattr(params, name)) for name, value in before.items())


def test_stream_keeps_64_bits_of_its_key():
    words = [mix(seed, index) for seed in range(20) for index in range(500)]
    assert len(set(words)) == len(words)
    first = {Stream(0, index, 0).uniform(0.0, 1.0) for index in range(300)}
    assert len(first) == 300


def test_stream_shapes():
    s = Stream(1)
    values = torch.tensor([s.uniform(-2.0, 3.0) for _ in range(100)])
    assert values.min() >= -2 and values.max() <= 3
    s = Stream(2)
    assert all(abs(np.hypot(*s.unit()) - 1) < 1e-12 for _ in range(50))
    s = Stream(3)
    widths = [s.octaves(1.0, 4) for _ in range(100)]
    assert min(widths) >= 1 / 16 and max(widths) <= 1.0
    counts = torch.bincount(torch.tensor([Stream(4, i).pick((0.2, 0.5, 0.3)) for i in range(600)]), minlength=3)
    assert (counts / 600 - torch.tensor([0.2, 0.5, 0.3])).abs().max() < 0.08


@pytest.mark.parametrize(
    "size,samples", [(8, 1), (9, 3), (70, 1)] if JIT else [(8, 1), (9, 2)], ids=lambda v: str(v)
)  # fmt: skip
def test_odd_sizes(params, size, samples):
    pictures = render_fractals(params[:1], size, iterations=ITERATIONS, samples=samples)
    assert pictures.shape == (1, 3, size, size) and pictures.dtype == torch.uint8


# --- richness -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not JIT, reason="many pictures")
def test_every_family_and_trap_occurs(params):
    assert set(params.family.tolist()) == set(range(len(FAMILIES)))
    assert set(params.trap.tolist()) == set(range(len(TRAPS)))
    assert set(params.degree.tolist()) >= {2, 3, 4, 5}
    assert 0 < params.parameter_plane.float().mean() < 1
    assert 0 < params.attempt.float().mean() < 1.2 and params.attempt.max() < 20


OF_KIND = {
    "julia": lambda p: (p.family == 0) & (p.degree == 2) & (p.parameter_plane == 0) & (p.fold + p.conj == 0),
    "julia-powers": lambda p: (p.family == 0) & (p.degree > 2) & (p.parameter_plane == 0),
    "mandelbrot": lambda p: (p.family == 0) & (p.degree == 2) & (p.parameter_plane == 1) & (p.fold + p.conj == 0),
    "mandelbrot-powers": lambda p: (p.family == 0) & (p.degree > 2) & (p.parameter_plane == 1),
    "burning-ship": lambda p: (p.family == 0) & (p.fold == 1) & (p.conj == 0),
    "tricorn": lambda p: (p.family == 0) & (p.fold == 0) & (p.conj == 1),
    "phoenix": lambda p: p.family == 1,
    "pole": lambda p: p.family == 2,
    "newton": lambda p: (p.family == 3) & (p.constant == 0).all(1) & (p.parameter_plane == 0),
    "nova": lambda p: (p.family == 3) & (p.constant != 0).any(1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_what_they_say(kind):
    chosen = sample_fractals(4 if JIT else 2, seed=5, kinds=kind)
    assert OF_KIND[kind](chosen).all()
    others = [name for name in KINDS if name != kind]
    assert not any(OF_KIND[name](chosen).any() for name in others)
    assert SOURCE.kinds == KINDS and set(OF_KIND) == set(KINDS)


@pytest.mark.skipif(not JIT, reason="many pictures")
@pytest.mark.parametrize("size", [64, 128])
def test_accepted_pictures_are_rich(params, size):
    measured = richness(render_fractals(params, size))
    assert measured.accepted.float().mean() >= 0.98
    assert measured.within(-0.15).all()  # the few others miss a limit by little
    for f in fields(Richness):
        assert getattr(measured, f.name).isfinite().all()


@pytest.mark.skipif(not JIT, reason="many pictures")
def test_a_thousand_seeds_are_rich_and_differ():
    """One picture each of 1,000 seeds: no two alike, none flat, dark or bright."""
    thumbnails = torch.cat([make_pictures("fractals", 1, 16, seed=seed) for seed in range(1000)]).float()
    spread = thumbnails.flatten(1).std(1)
    assert spread.min() > 12 and thumbnails.isfinite().all()
    assert thumbnails.mean((1, 2, 3)).min() > 40 and thumbnails.mean((1, 2, 3)).max() < 220
    flat = thumbnails.flatten(1)
    distance = torch.cdist(flat, flat) / flat.shape[1] ** 0.5
    distance.fill_diagonal_(1e9)
    assert distance.min() > 15  # grey levels, root mean square


@pytest.mark.skipif(not JIT, reason="many pictures")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_makes_the_same_picture():
    expected = make_pictures("fractals", 2, 16, seed=4, threads=2)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        made = pool.apply(_pictures_as_numpy, ("fractals", 2, 16, 4))
    assert np.array_equal(made, expected.numpy())


def _pictures_as_numpy(*arguments: object) -> np.ndarray:
    return make_pictures(*arguments).numpy()


def _gradient() -> torch.Tensor:
    ramp = torch.arange(64).mul(4).expand(64, 64)
    return torch.stack([ramp, ramp.T, 255 - ramp])


def _noise(low: int, high: int) -> torch.Tensor:
    return torch.randint(low, high, (3, 64, 64), generator=torch.Generator().manual_seed(0))


def _half_flat() -> torch.Tensor:
    picture = make_pictures("fractals", 1, 64, seed=0)[0] if JIT else _noise(0, 256)
    picture[:, :36] = 90
    return picture


DULL = {
    "black": lambda: torch.zeros(3, 64, 64),
    "flat": lambda: torch.full((3, 64, 64), 128),
    "near black": lambda: _noise(0, 30),
    "blown out": lambda: _noise(225, 256),
    "grey": lambda: _noise(0, 256)[:1].expand(3, 64, 64),
    "two colours": lambda: 255 * (_gradient() > 128),
    "smooth gradient": _gradient,
    "noise": lambda: _noise(0, 256),
    "half flat": _half_flat,
}


@pytest.mark.parametrize("name", DULL)
def test_dull_pictures_are_refused(name):
    assert not richness(DULL[name]().to(torch.uint8)).accepted.item()


def test_richness_numbers():
    black = richness(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert [getattr(black, f.name).item() for f in fields(black)] == [0, 0, 0, 0, 1, 0]
    halves = torch.zeros(3, 64, 64, dtype=torch.uint8)
    halves[:, :, 32:] = 255
    measured = richness(halves)
    assert measured.entropy.item() == 1 and measured.flat.item() == 0.5 and measured.colours.item() == 0
    assert measured.edges.item() == pytest.approx(1 / 63) and measured.brightness.item() == pytest.approx(127.5)
    assert richness(_noise(0, 256).to(torch.uint8)).grain.item() == pytest.approx(1.13, abs=0.03)


def test_richness_is_per_picture_and_reduces_large_ones():
    pictures = torch.stack([_noise(0, 256), _gradient()]).to(torch.uint8)
    both = richness(pictures)
    large = richness(pictures.repeat_interleave(3, 2).repeat_interleave(3, 3))
    for f in fields(Richness):
        values = getattr(both, f.name)
        assert torch.equal(values[1:], getattr(richness(pictures[1]), f.name))
        assert torch.allclose(values, getattr(large, f.name), atol=1e-6)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call,error,words",
    [
        (lambda: make_pictures("fractals", 0), ValueError, "count must be from 1 to 10000000, got 0"),
        (lambda: make_pictures("fractals", -3), ValueError, "count must be from 1 to 10000000, got -3"),
        (lambda: make_pictures("fractals", 2.0), TypeError, "count must be an int, got float"),
        (lambda: make_pictures("fractals", True), TypeError, "count must be an int, got bool"),
        (lambda: make_pictures("fractals", 1, size=7), ValueError, "size must be from 8 to 16384, got 7"),
        (lambda: sample_fractals(1, kinds="mandelbulb"), ValueError, "kinds must name some of julia, julia-powers"),
        (lambda: sample_fractals(1, kinds=["julia", "julia"]), ValueError, "each once"),
        (lambda: sample_fractals(1, kinds=[]), ValueError, "kinds must name some of"),
        (lambda: sample_fractals(1, kinds=3), TypeError, "kinds must be a str, a sequence of them or None, got int"),
        (lambda: sample_fractals(1, threads=0), ValueError, "threads must be from 1 to 1024"),
        (
            lambda: make_pictures("fractals", 1, seed=-1),
            ValueError,
            "seed must be from 0 to 9223372036854775807",
        ),
        (lambda: make_pictures("fractals", 1, seed="0"), TypeError, "seed must be an int, got str: '0'"),
        (lambda: sample_fractals(1, start=-1), ValueError, "start must be from 0 to 9223372036854775807"),
        (lambda: render_fractals([1]), TypeError, "params must be a FractalParams, got list"),
        (lambda: render_fractals(sample_fractals(1), samples=9), ValueError, "samples must be from 1 to 8, got 9"),
        (
            lambda: render_fractals(sample_fractals(1), iterations=0),
            ValueError,
            "iterations must be from 1 to 2147483647",
        ),
        (lambda: render_fractals(sample_fractals(1), threads=0), ValueError, "threads must be from 1 to 1024"),
        (lambda: richness(torch.zeros(3, 8, 8)), TypeError, "pictures must be a uint8 tensor, got torch.float32"),
        (lambda: richness("x"), TypeError, "pictures must be a uint8 tensor, got str"),
        (lambda: richness(torch.zeros(8, 8, dtype=torch.uint8)), ValueError, "shape"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_import_is_light():
    code = "import sys, mixaug, mixaug.mixing_sets; print('numba' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
