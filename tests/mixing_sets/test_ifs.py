"""IFS fractals: against plain NumPy, the game and its conditions, the same everywhere, rich, and none twice."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import reference_ifs
import torch

from mixaug.mixing_sets import Richness, ifs, iter_pictures, make_pictures, richness
from mixaug.mixing_sets.ifs import KINDS, IFSParams, render_ifs, sample_ifs
from mixaug.mixing_sets.ifs.render import LANES, MOST_MAPS, settle

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
COUNT = 48 if JIT else 3
SIZE = 40 if JIT else 8


@pytest.fixture(scope="module", autouse=True)
def tiny_previews():
    """Without compilation (the coverage pass) the loops run in Python: keep them short, take the first draw."""
    with pytest.MonkeyPatch.context() as patch:
        if not JIT:
            patch.setattr(ifs, "PREVIEW_SIZE", 8)
            patch.setattr(ifs, "_MAX_ATTEMPTS", 1)
        yield


@pytest.fixture(scope="module")
def params(tiny_previews) -> IFSParams:
    return sample_ifs(COUNT, seed=11)


# --- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("size", [8, 41, 96] if JIT else [9])
def test_equals_numpy_reference(params, kind, size):
    rows = (params.kind == kind).nonzero().flatten()[: 8 if JIT else 1].tolist()
    made = render_ifs(params[rows], size).numpy()
    different = total = 0
    for i in range(len(rows)):
        gap = np.abs(reference_ifs.render(params[rows], i, size).astype(int) - made[i])
        assert gap.max() <= 1, f"picture {rows[i]}"
        different += (gap > 0).sum()
        total += gap.size
    assert total > 0 and different <= 1e-3 * total


@pytest.mark.skipif(not JIT, reason="pixels of the compiled kernels")
def test_known_pixels():
    """The picture of a seed is a promise: other numbers here mean other mixing sets for every user."""
    pictures = make_pictures("ifs", 2, size=64, seed=0)
    assert np.abs(np.array(pictures[0, :, 30, 30].tolist()) - [246, 174, 160]).max() <= 1
    assert np.abs(np.array(pictures[1, :, 30, 30].tolist()) - [191, 194, 249]).max() <= 1
    assert (pictures[:, :, ::21, ::21].sum((1, 2, 3)) - torch.tensor([6478, 8710])).abs().max() <= 48


@pytest.mark.skipif(not JIT, reason="nothing is compiled")
def test_game_is_not_contracted():
    """No fused multiply-add in the compiled code: it rounds once where IEEE asks for twice."""
    # In a process of its own: code that came from the disk cache has no listing.
    loaded = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True)
    assert loaded.stdout.strip() == "0", loaded.stdout + loaded.stderr


LISTING = """
import numba, numpy as np
from mixaug.mixing_sets.ifs import kernels as k
f = numba.njit(error_model="numpy")(k._step.py_func)
points = np.zeros((3, 8), np.float32)
f(np.zeros((2, 8), np.float32), np.array([0, 4, 8]), np.arange(8, dtype=np.int32), 5, points, points.copy())
listing = "".join(f.inspect_asm().values())
assert "mul" in listing
print(sum(line.split()[0].startswith(("vfmadd", "vfmsub", "vfnm", "fmadd", "fmla"))
          for line in listing.splitlines() if line.split()))
"""


# --- the systems and the game ---------------------------------------------------------------------------------------


def test_systems_contract_and_have_the_right_size(params):
    singular = torch.linalg.svdvals(params.systems[:, :, :, :2])
    assert singular.max() < 1
    total = (singular[:, :, 0] + 2 * singular[:, :, 1]).sum(1)
    assert (total >= (5 + params.maps) / 2 - 1e-9).all() and (total <= (6 + params.maps) / 2 + 1e-9).all()
    assert params.systems[..., 2].abs().max() <= 1
    unused = torch.arange(MOST_MAPS) >= params.maps[:, None]
    assert params.systems[unused].eq(0).all() and params.systems[~unused][:, :, 2].ne(0).all()


@pytest.mark.skipif(not JIT, reason="many systems")
def test_systems_vary():
    systems = np.concatenate([ifs._draw(5, i, 0, KINDS).systems for i in range(150)])
    systems = systems[systems[:, 0, 2] != 0]
    turns = np.arctan2(systems[:, 1, 0], systems[:, 0, 0]) / (2 * np.pi) % 1
    assert np.histogram(turns, 4, (0, 1))[0].min() > 0.18 * len(turns)
    mirrored = (np.linalg.det(systems[:, :, :2]) < 0).mean()
    assert 0.4 < mirrored < 0.6
    quarters = np.histogram(systems[:, :, 2], 4, (-1, 1))[0] / (2 * len(systems))
    assert np.abs(quarters - 0.25).max() < 0.05


def test_maps_are_used_by_their_areas(params):
    for system, lanes, maps in zip(params.systems, params.lanes, params.maps.tolist(), strict=True):
        areas = torch.linalg.det(system[:maps, :, :2]).abs()
        areas = areas.clamp(min=0.02 * areas.sum())
        shares = lanes.diff()[:maps] / LANES
        assert (shares - areas / areas.sum()).abs().max() <= 1 / LANES
        assert lanes[0] == 0 and (lanes[maps:] == LANES).all() and shares.min() > 0.01


@pytest.mark.skipif(not JIT, reason="many points")
def test_orbits_play_the_chaos_game(params):
    """The same density as one orbit that draws each map at random."""
    rng = np.random.default_rng(0)
    for picture in params[:4].rows():
        made = settle(picture, 200).accumulate(picture.centre, picture.half, 8) >> 40
        maps = int(picture.maps)
        chosen = rng.choice(maps, 100_000, p=np.diff(picture.lanes[: maps + 1]) / LANES).tolist()
        system = picture.systems.tolist()
        x = y = 0.0
        orbit = []
        for k in chosen:
            (a, b, e), (c, d, f) = system[k]
            x, y = a * x + b * y + e, c * x + d * y + f
            orbit.append((x, y))
        edges = [np.linspace(m - h, m + h, 9) for m, h in zip(picture.centre, picture.half, strict=True)]
        plain = np.histogram2d(*np.array(orbit[100:]).T, bins=edges)[0].T
        share = made[1:-1, 1:-1] / (200 * LANES) - plain / len(orbit[100:])
        assert np.abs(share).sum() < 0.03
        assert 0.4 < plain.sum() / len(orbit) <= 1  # most of the attractor is in view


def test_orbits_stay_apart(params):
    points = settle(params.rows()[0], 4).follow(4)
    assert points.shape == (4, 3, LANES)
    assert len(np.unique(points[-1, :2], axis=1).T) > 0.98 * LANES
    assert points[:, 2].min() >= 0 and points[:, 2].max() <= 1


@pytest.mark.skipif(not JIT, reason="larger pictures")
def test_other_sizes_show_the_same_picture(params):
    small, large = render_ifs(params, 64).double(), render_ifs(params, 128).double()
    small, large = (torch.nn.functional.avg_pool2d(pictures, pictures.shape[-1] // 16) for pictures in (small, large))
    gap = (large - small).pow(2).mean((1, 2, 3)).sqrt() / large.flatten(1).std(1)
    assert gap[params.kind == 1].max() < 0.2
    assert gap[params.kind == 0].median() < 0.3 and gap.max() < 0.55  # a finer pen draws thinner lines


# --- independence and repetition ------------------------------------------------------------------------------------


def test_picture_depends_on_seed_and_index_only(params):
    few = sample_ifs(2, seed=11)
    later = sample_ifs(1, seed=11, start=1)
    for f in fields(IFSParams):
        assert torch.equal(getattr(params, f.name)[:2], getattr(few, f.name)), f.name
        assert torch.equal(getattr(params, f.name)[1:2], getattr(later, f.name)), f.name


def test_threads_chunks_and_count_do_not_matter():
    count = 5 if JIT else 2
    one = make_pictures("ifs", count, SIZE, seed=3, threads=1)
    assert torch.equal(one, make_pictures("ifs", count, SIZE, seed=3, threads=2))
    assert torch.equal(one[:1], make_pictures("ifs", 1, SIZE, seed=3))
    assert torch.equal(one, torch.cat(list(iter_pictures("ifs", count, SIZE, seed=3, chunk=2))))
    assert torch.equal(one[1:], torch.cat(list(iter_pictures("ifs", count - 1, SIZE, seed=3, start=1))))


def test_seeds_differ_and_global_generator_is_left_alone():
    state = torch.get_rng_state()
    assert not torch.equal(sample_ifs(1, seed=1).systems, sample_ifs(1, seed=2).systems)
    assert torch.equal(state, torch.get_rng_state())


def test_render_does_not_write_to_params(params):
    before = {f.name: getattr(params, f.name).clone() for f in fields(params)}
    render_ifs(params[:3], 8)
    assert all(torch.equal(value, getattr(params, name)) for name, value in before.items())


def test_rows_of_a_record(params):
    picture = render_ifs(params[[1]], 8)
    assert torch.equal(picture, render_ifs(params, 8)[1:2] if JIT else render_ifs(params[1:2], 8))
    assert len(params[params.kind == 0]) + len(params[params.kind == 1]) == COUNT


def test_odd_sizes(params):
    for size in (8, 9, 41) if JIT else (9,):
        pictures = render_ifs(params[:2], size)
        assert pictures.shape == (2, 3, size, size) and pictures.dtype == torch.uint8
        assert pictures.flatten(1).float().std(1).min() > 3


@pytest.mark.skipif(not JIT, reason="compiled code is what a child inherits")
def test_forked_child_after_use_in_the_parent():
    code = """
import hashlib, os
from mixaug.mixing_sets import make_pictures
digest = lambda: hashlib.sha256(make_pictures("ifs", 4, 64, seed=0, threads=2).numpy().tobytes()).digest()
mine = digest()
child = os.fork()
if child == 0:
    os._exit(0 if digest() == mine else 1)
print(os.waitpid(child, 0)[1])
"""
    settings = os.environ | {"PYTHONWARNINGS": "ignore"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=settings)
    assert result.stdout.strip() == "0", result.stdout + result.stderr


# --- richness -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not JIT, reason="many pictures")
def test_every_kind_and_number_of_maps_occurs(params):
    assert set(params.kind.tolist()) == {0, 1}
    assert set(params.maps.tolist()) == set(range(2, MOST_MAPS + 1))
    assert params.attempt.max() < 20 and params.attempt.max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_can_be_chosen(kind):
    chosen = sample_ifs(3 if JIT else 1, seed=4, kinds=kind)
    assert (chosen.kind == KINDS.index(kind)).all()
    assert torch.equal(chosen.key, sample_ifs(3 if JIT else 1, seed=4, kinds=[kind]).key)


@pytest.mark.skipif(not JIT, reason="many pictures")
@pytest.mark.parametrize("size", [64, 128])
def test_accepted_pictures_are_rich(params, size):
    measured = richness(render_ifs(params, size))
    assert measured.accepted.float().mean() >= 0.95
    assert measured.within(-0.15).all()  # the few others miss a limit by little
    for f in fields(Richness):
        assert getattr(measured, f.name).isfinite().all()


@pytest.mark.skipif(not JIT, reason="many pictures")
def test_accepted_pictures_fill_the_frame(params):
    filled = [np.count_nonzero(settle(p, 16).accumulate(p.centre, p.half, 64)) / 64**2 for p in params.rows()]
    assert min(filled) >= ifs.MIN_FILLING and max(filled) > 0.6
    refused = [ifs._filling(ifs._draw(11, i, 0, KINDS)) for i in range(COUNT)]
    assert min(refused) < ifs.MIN_FILLING  # there is something to refuse


@pytest.mark.skipif(not JIT, reason="many pictures")
def test_pictures_of_a_seed_differ(params):
    assert len(set(params.key.tolist())) == COUNT
    thumbnails = render_ifs(params, 16).flatten(1).to(torch.float32)
    distance = torch.cdist(thumbnails, thumbnails) / thumbnails.shape[1] ** 0.5
    distance.fill_diagonal_(1e9)
    assert distance.min() > 12  # grey levels, root mean square


@pytest.mark.skipif(not JIT, reason="many pictures")
def test_no_near_duplicates():
    thumbnails = torch.cat([make_pictures("ifs", 1, 16, seed=seed) for seed in range(1000)])
    thumbnails = thumbnails.flatten(1).to(torch.float32)
    distance = torch.cdist(thumbnails, thumbnails) / thumbnails.shape[1] ** 0.5
    distance.fill_diagonal_(1e9)
    assert distance.min() > 12  # grey levels, root mean square
    assert thumbnails.std(1).min() > 10


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call,error,words",
    [
        (lambda: make_pictures("ifs", 0), ValueError, "count must be from 1 to 10000000, got 0"),
        (lambda: make_pictures("ifs", 1, size=7), ValueError, "size must be from 8 to 16384, got 7"),
        (lambda: sample_ifs(0), ValueError, "count must be from 1 to 10000000, got 0"),
        (lambda: sample_ifs(2.0), TypeError, "count must be an int, got float"),
        (lambda: sample_ifs(True), TypeError, "count must be an int, got bool"),
        (lambda: sample_ifs(1, seed=-1), ValueError, "seed must be from 0 to 9223372036854775807, got -1"),
        (lambda: sample_ifs(1, seed="0"), TypeError, "seed must be an int, got str: '0'"),
        (lambda: sample_ifs(1, start=-1), ValueError, "start must be from 0 to 9223372036854775807, got -1"),
        (lambda: sample_ifs(1, kinds="lines"), ValueError, "kinds must name some of points, patches, each once"),
        (lambda: sample_ifs(1, kinds=["points", "points"]), ValueError, "kinds must name some of"),
        (lambda: sample_ifs(1, kinds=3), TypeError, "kinds must be a str, a sequence of them or None, got int"),
        (lambda: render_ifs([1]), TypeError, "params must be an IFSParams, got list"),
        (lambda: render_ifs(sample_ifs(1), size=7), ValueError, "size must be from 8 to 16384, got 7"),
        (lambda: render_ifs(sample_ifs(1), size=64.0), TypeError, "size must be an int, got float"),
        (lambda: render_ifs(sample_ifs(1), threads=0), ValueError, "threads must be from 1 to 1024, got 0"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
