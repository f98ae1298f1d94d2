"""Dead leaves: against plain NumPy, the laws of the model, the same everywhere, and none twice."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import reference_dead_leaves as reference
import torch

from mixaug.mixing_sets import dead_leaves, iter_pictures, make_pictures, richness
from mixaug.mixing_sets.dead_leaves import (
    KINDS,
    SHAPES,
    TEXTURES,
    DeadLeavesParams,
    render_dead_leaves,
    sample_dead_leaves,
)

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
COUNT = 48 if JIT else 12
SIZE = 40 if JIT else 10
compiled = pytest.mark.skipif(not JIT, reason="many pixels need compiled code")


@pytest.fixture(scope="module", autouse=True)
def few_leaves():
    """Without compilation (the coverage pass) the loops run in Python: large leaves, tiny previews, the first draw."""
    with pytest.MonkeyPatch.context() as patch:
        if not JIT:
            for name, value in (
                ("PREVIEW_SIZE", 8),
                ("_SMALLEST", (0.3, 1)),
                ("_LARGEST", (0.35, 0.45)),
                ("_MAX_ATTEMPTS", 1),
            ):
                patch.setattr(dead_leaves, name, value)
        yield


@pytest.fixture(scope="module")
def params(few_leaves) -> DeadLeavesParams:
    return sample_dead_leaves(COUNT, seed=11)


def of_kind(params: DeadLeavesParams, kind: str, most: int = 4) -> DeadLeavesParams:
    return params[(params.kind == KINDS.index(kind)).nonzero().flatten()[:most]]


def only(params: DeadLeavesParams, name: str, k: int) -> DeadLeavesParams:
    """The record with one shape or texture for all leaves."""
    shares = torch.zeros_like(getattr(params, name))
    shares[:, k] = 1.0
    return replace(params, **{name: shares})


# --- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [9, 41] if JIT else [8])
def test_equals_numpy_reference(params, kind, size):
    chosen = of_kind(params, kind, 2 if JIT else 1)
    made = render_dead_leaves(chosen, size).numpy()
    gaps = [np.abs(reference.render(chosen, i, size).astype(int) - made[i]) for i in range(len(chosen))]
    assert np.max(gaps) <= 1
    assert np.mean(np.array(gaps) > 0) <= 1e-3


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
def test_each_shape_equals_reference(params, shape):
    """Thin ones at any turn with long shadows, on the large side, where most pixels are skipped as covered wholly."""
    chosen = only(of_kind(params, "textured", 2 if JIT else 1), "shapes", shape)
    n = len(chosen)
    turns = torch.tensor([[0.1, 1.0]] * n, dtype=torch.float64)
    chosen = replace(chosen, turn=turns, flattest=torch.full_like(chosen.flattest, 0.25))
    chosen = replace(chosen, shadow=torch.linspace(0.0, 0.6, n, dtype=torch.float64))
    size = 64 if JIT else 9
    made = render_dead_leaves(chosen, size).numpy()
    gaps = [np.abs(reference.render(chosen, i, size).astype(int) - made[i]) for i in range(n)]
    assert np.max(gaps) <= 1
    assert np.mean(np.array(gaps) > 0) <= 1e-3


@pytest.mark.parametrize("texture", range(len(TEXTURES)), ids=TEXTURES)
def test_each_texture_equals_reference(params, texture):
    chosen = only(of_kind(params, "textured", 2 if JIT else 1), "textures", texture)
    chosen = replace(chosen, radius=torch.tensor([[0.1, 0.4]] * len(chosen), dtype=torch.float64))
    size = 64 if JIT else 9
    made = render_dead_leaves(chosen, size).numpy()
    gaps = [np.abs(reference.render(chosen, i, size).astype(int) - made[i]) for i in range(len(chosen))]
    assert np.max(gaps) <= 1
    assert np.mean(np.array(gaps) > 0) <= 1e-3


@compiled
def test_textures_differ(params):
    chosen = of_kind(params, "textured", 1)
    pictures = torch.cat([render_dead_leaves(only(chosen, "textures", k), 32) for k in range(len(TEXTURES))])
    assert len({picture.numpy().tobytes() for picture in pictures}) == len(TEXTURES)


@compiled
def test_known_pixels():
    """The picture of a seed is a promise: other numbers here mean another mixing set for every user."""
    pictures = make_pictures("dead-leaves", 4, size=64, seed=0)
    found = [picture[:, 10, 20].tolist() for picture in pictures]
    assert np.abs(np.array(found) - KNOWN).max() <= 1


KNOWN = [[95, 116, 198], [58, 68, 41], [87, 101, 123], [64, 134, 110]]


@compiled
def test_kernels_are_not_contracted():
    """No fused multiply-add: it rounds once where IEEE asks for twice."""
    from mixaug.mixing_sets.dead_leaves import kernels as _kernels

    assert not _kernels.render_rows.targetoptions.get("fastmath")
    assert not _kernels._lay.targetoptions.get("fastmath")


# --- the model ------------------------------------------------------------------------------------------------------


def all_white(params: DeadLeavesParams) -> DeadLeavesParams:
    zero = torch.zeros_like(params.shade)
    return replace(params, palettes=torch.full_like(params.palettes, 255.0), any_colour=zero, shade=zero)


def test_every_pixel_is_covered_once(params):
    """The shares of all leaves of a pixel sum to 1, so white leaves make a white picture."""
    white = all_white(params)
    assert (render_dead_leaves(replace(white, shadow=torch.zeros_like(white.shadow)), SIZE) == 255).all()


def test_shadows_darken_to_the_limit(params):
    white = all_white(of_kind(params, "textured", 8))
    dark = render_dead_leaves(replace(white, shadow=torch.full_like(white.shadow, 0.9)), SIZE)
    assert dark.min() >= 255 * 0.4 - 1
    assert 120 < dark.float().mean() < 250 and dark.min() < 130


@compiled
def test_radii_follow_the_cubic_law():
    """Of leaves with their centre in the picture: P(radius < r) = (b - 1/r^2) / (b - a), whatever their octave."""
    p = {"key": 12345, "radius": np.array([0.01, 0.4]), "turn": (0, 0), "shapes": np.eye(6)[0], "flattest": 1.0,
         "textures": np.eye(8)[0], "drift": (0, 0), "spread": 1.0, "any_colour": 1.0, "light": (1, 0), "shade": 0.0,
         "grain": 1.0, "palettes": np.zeros((256, 3))}  # fmt: skip
    batches = [reference.leaves(p, 1, first, reference.REACH) for first in range(0, 60 * reference.BATCH, 1024)]
    x, y, r = (np.concatenate([batch[name] for batch in batches]) for name in ("cx", "cy", "r"))
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    assert r.min() >= 0.01 - 1e-9 and r.max() <= 0.4 + 1e-9
    place = np.sort((1e4 - 1 / r[inside] ** 2) / (1e4 - 6.25))
    expected = (np.arange(len(place)) + 0.5) / len(place)
    assert len(place) > 20_000
    assert np.abs(place - expected).max() < 1.9 / len(place) ** 0.5  # Kolmogorov-Smirnov: once in 700 by chance
    tail = (r[inside] > 0.05).mean()  # the large ones, of which there are few
    assert tail == pytest.approx((400 - 6.25) / (1e4 - 6.25), rel=0.15)
    for values in (x[inside], y[inside]):
        assert np.abs(np.sort(values) - expected).max() < 1.9 / len(values) ** 0.5


@compiled
def test_first_leaf_lies_on_top(params):
    """The centre of a square or rectangle that no earlier leaf reaches has exactly its colour."""
    checked = 0
    for row in range(len(params)):
        p = params[[row]]
        if KINDS[p.kind[0]] not in ("squares", "oriented"):
            continue
        values = {name: getattr(p, name)[0].numpy() for name in
                  ("radius", "turn", "shapes", "textures", "drift", "light", "palettes")}  # fmt: skip
        values |= {
            name: getattr(p, name)[0].item()
            for name in ("key", "flattest", "spread", "any_colour", "shade", "shadow", "grain")
        }
        leaves = reference.leaves(values, 200, 0, reference.REACH)
        picture = render_dead_leaves(p, 200)[0]
        for k in range(60):
            x, y = leaves["cx"][k], leaves["cy"][k]
            free = np.hypot(leaves["cx"][:k] - x, leaves["cy"][:k] - y) > 1.42 * leaves["r"][:k] + 2
            if 1 < x < 199 and 1 < y < 199 and leaves["hy"][k] > 2 and free.all():
                colour = np.clip(leaves["first"][k] + 0.5, 0, 255).astype(int)
                assert np.abs(picture[:, int(y), int(x)].numpy() - colour).max() <= 1
                checked += 1
    assert checked > 50


@compiled
def test_squares_are_parallel_to_the_sides(params):
    """Both differences of a 2 x 2 block at once are rare: they are corners; a slanted edge is a line of them."""
    parallel = render_dead_leaves(of_kind(params, "squares", 8), 256).float()
    turned = render_dead_leaves(of_kind(params, "oriented", 8), 256).float()
    shares = []
    for pictures in (parallel, turned):
        mixed = pictures[..., 1:, 1:] - pictures[..., :-1, 1:] - pictures[..., 1:, :-1] + pictures[..., :-1, :-1]
        right = pictures[..., 1:] - pictures[..., :-1]
        shares.append((mixed.abs().amax(1) > 8).float().sum() / (right.abs().amax(1) > 8).float().sum())
    assert shares[0] < 0.5 * shares[1]


@compiled
def test_same_picture_at_every_size(params):
    """The area average of a large rendering is the small one."""
    small = render_dead_leaves(params, 64).float()
    large = torch.nn.functional.avg_pool2d(render_dead_leaves(params, 256).float(), 4)
    gap = (large - small).square().mean((1, 2, 3)).sqrt()
    textured = params.kind == KINDS.index("textured")
    assert gap[~textured].max() < 8 and gap[textured].max() < 16  # grey levels; two pictures differ by 50 or more
    shift = (large - small).mean((1, 2, 3)).abs()
    assert shift[~textured].max() < 0.5
    assert shift[textured].max() < 6  # shadows of leaves below a pixel are not resolved


# --- independence and repetition ------------------------------------------------------------------------------------


def test_picture_depends_on_seed_and_index_only(params):
    few = sample_dead_leaves(2, seed=11)
    later = sample_dead_leaves(1, seed=11, start=1)
    for f in fields(DeadLeavesParams):
        assert torch.equal(getattr(params, f.name)[:2], getattr(few, f.name)), f.name
        assert torch.equal(getattr(params, f.name)[1:2], getattr(later, f.name)), f.name


def test_threads_chunks_and_count_do_not_matter():
    count = 5 if JIT else 2
    one = make_pictures("dead-leaves", count, SIZE, seed=3, threads=1)
    assert torch.equal(one, make_pictures("dead-leaves", count, SIZE, seed=3, threads=2))
    assert torch.equal(one[:1], make_pictures("dead-leaves", 1, SIZE, seed=3))
    assert torch.equal(one, torch.cat(list(iter_pictures("dead-leaves", count, SIZE, seed=3, chunk=2))))
    assert torch.equal(one[1:], torch.cat(list(iter_pictures("dead-leaves", count - 1, SIZE, seed=3, start=1))))


def test_bands_are_the_whole_picture(params):
    size = 150 if JIT else 12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dead_leaves, "_BAND", 37 if JIT else 5)
        banded = render_dead_leaves(params[:5], size, threads=2)
    assert torch.equal(banded, render_dead_leaves(params[:5], size, threads=1))


def test_seeds_differ_and_global_generator_is_left_alone():
    state = torch.get_rng_state()
    keys = torch.cat([sample_dead_leaves(1, seed=seed).key for seed in range(4)])
    assert len(keys.unique()) == 4 and keys.min() >= 0
    assert torch.equal(state, torch.get_rng_state())


def test_render_does_not_write_to_params(params):
    before = {f.name: getattr(params, f.name).clone() for f in fields(params)}
    render_dead_leaves(params[:1], 8)
    assert all(torch.equal(value, getattr(params, name)) for name, value in before.items())


def test_leaves_of_one_size(params):
    one = replace(params[:2], radius=torch.full((2, 2), 0.2, dtype=torch.float64))
    made = render_dead_leaves(one, 9).numpy()
    assert (made != 0).any()
    assert np.array_equal(render_dead_leaves(one, 9, threads=1).numpy(), made)


def test_rows_of_a_record(params):
    pictures = render_dead_leaves(params[:4], 8)
    mask = torch.zeros(len(params), dtype=torch.bool)
    mask[2] = True
    assert torch.equal(render_dead_leaves(params[[3, 0]], 8), pictures[[3, 0]])
    assert torch.equal(render_dead_leaves(params[mask], 8), pictures[2:3])
    assert render_dead_leaves(params[:0], 8).shape == (0, 3, 8, 8)


FORKED = """
import os, torch
from mixaug.mixing_sets import make_pictures
parent = make_pictures("dead-leaves", 2, 16, threads=2)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as in a loader worker
    same = [torch.equal(make_pictures("dead-leaves", 2, 16, threads=threads), parent) for threads in (None, 1, 2)]
    os._exit(0 if all(same) else 3)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork") or not JIT, reason="needs fork and compiled code")
def test_forked_child_after_use_in_the_parent():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    assert subprocess.run(command, timeout=100).returncode == 0


# --- kinds and richness ---------------------------------------------------------------------------------------------


@compiled
def test_every_kind_occurs(params):
    assert set(params.kind.tolist()) == set(range(len(KINDS)))
    assert (params.any_colour == 1).any() and (params.any_colour < 1).any()


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_what_they_say(kind):
    chosen = sample_dead_leaves(6 if JIT else 1, seed=2, kinds=kind)
    assert (chosen.kind == KINDS.index(kind)).all()
    used = {SHAPES[k] for k in (chosen.shapes > 0).any(0).nonzero().flatten().tolist()}
    wanted = {"squares": {"square"}, "oriented": {"square", "rectangle"}}
    assert used == wanted.get(kind, set(SHAPES))
    assert torch.allclose(chosen.shapes.sum(1), torch.ones(len(chosen), dtype=torch.float64))
    assert ((chosen.textures[:, 0] == 1) == (kind != "textured")).all()
    assert ((chosen.turn == 0).all(1) == (kind == "squares")).all()
    assert (chosen.radius[:, 0] < chosen.radius[:, 1]).all()


@compiled
def test_two_kinds():
    assert set(sample_dead_leaves(20, kinds=["shapes", "squares"]).kind.tolist()) == {0, 2}


@compiled
@pytest.mark.parametrize("size", [64, 128])
def test_pictures_are_rich(params, size):
    measured = richness(render_dead_leaves(params, size))
    assert measured.entropy.min() >= 3.2 and measured.colours.min() >= 12.5
    assert measured.flat.max() <= 0.28 and measured.edges.min() >= 0.1
    assert measured.brightness.min() >= 60 and measured.brightness.max() <= 200
    assert params.attempt.max() < 10


@compiled
def test_dull_draws_are_refused(monkeypatch):
    monkeypatch.setattr(dead_leaves, "_MIN_ENTROPY", 4.2)
    chosen = sample_dead_leaves(12, seed=1)
    assert richness(render_dead_leaves(chosen, 64)).entropy.min() >= 4.2 and chosen.attempt.max() > 0


@compiled
def test_no_near_duplicates():
    """A thousand seeds, the first picture of each."""
    rows = [sample_dead_leaves(1, seed=seed) for seed in range(1000)]
    together = DeadLeavesParams(
        **{f.name: torch.cat([getattr(row, f.name) for row in rows]) for f in fields(DeadLeavesParams)}
    )
    pictures = render_dead_leaves(together, 16)
    assert (pictures.flatten(1).float().std(1) > 10).all()  # none is flat
    thumbnails = pictures.flatten(1).float()
    distance = torch.cdist(thumbnails, thumbnails) / thumbnails.shape[1] ** 0.5
    distance.fill_diagonal_(1e9)
    assert distance.min() > 15  # grey levels, root mean square


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call,error,words",
    [
        (lambda: sample_dead_leaves(0), ValueError, "count must be from 1 to 10000000, got 0"),
        (lambda: sample_dead_leaves(2.0), TypeError, "count must be an int, got float"),
        (lambda: sample_dead_leaves(1, seed=-1), ValueError, "seed must be from 0 to 9223372036854775807, got -1"),
        (lambda: sample_dead_leaves(1, start=-1), ValueError, "start must be from 0 to 9223372036854775807, got -1"),
        (lambda: sample_dead_leaves(1, threads=0), ValueError, "threads must be from 1 to 1024, got 0"),
        (lambda: sample_dead_leaves(1, kinds="leaves"), ValueError, "kinds must name some of squares, oriented"),
        (lambda: sample_dead_leaves(1, kinds=[]), ValueError, "each once, got \\[\\]"),
        (lambda: sample_dead_leaves(1, kinds=["shapes", "shapes"]), ValueError, "each once"),
        (lambda: sample_dead_leaves(1, kinds=3), TypeError, "kinds must be a str, a sequence of them or None, got int"),
        (lambda: render_dead_leaves([1]), TypeError, "params must be a DeadLeavesParams, got list"),
        (lambda: render_dead_leaves(sample_dead_leaves(1), 7), ValueError, "size must be from 8 to 16384, got 7"),
        (lambda: render_dead_leaves(sample_dead_leaves(1), 8.0), TypeError, "size must be an int, got float"),
        (lambda: render_dead_leaves(sample_dead_leaves(1), 8, threads=0), ValueError, "threads must be from 1 to 1024"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
