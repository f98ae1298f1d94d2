"""Radial contours: against plain NumPy, the same everywhere, rich, and none twice."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import reference_contours
import torch

from mixaug.mixing_sets import contours, iter_pictures, make_pictures, richness
from mixaug.mixing_sets.contours import KINDS, MAX_FIGURES, ContourParams, render_contours, sample_contours

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
COUNT = 60 if JIT else 3
SIZE = 48 if JIT else 12


@pytest.fixture(scope="module", autouse=True)
def tiny_previews():
    """Without compilation (the coverage pass) the loops run in Python: keep them short, take the first draw."""
    with pytest.MonkeyPatch.context() as patch:
        if not JIT:
            for name, value in (("PREVIEW_SIZE", 8), ("_MAX_ATTEMPTS", 1)):
                patch.setattr(contours, name, value)
        yield


@pytest.fixture(scope="module")
def params(tiny_previews) -> ContourParams:
    return sample_contours(COUNT, seed=11)


def figure(**changes) -> ContourParams:
    """A record of one plain figure: ten round contours of distance 0.04 in the middle, white lines on black bands."""
    record = sample_contours(1, seed=0, kinds="single")
    values = {
        "vertices": 160, "contours": 10, "lobes": 5, "line": 2, "palette": 0, "loose": 0, "aspect": 1.0, "inner": 0.04,
        "growth": 0.04, "halo": 0.004, "star": 0.0, "jitter": 0.0, "bend": 0.0, "rough": 0.0, "fill": 1.0, "shade": 0.0,
        "grey": 0.0, "shadow": 0.0, "relief": 0.0,
    }  # fmt: skip
    tensors = {}
    for name, value in (values | changes).items():
        tensors[name] = getattr(record, name).clone()
        tensors[name][:, 0] = value
    centre, place, ink = record.centre.clone(), record.place.clone(), record.ink.clone()
    centre[:, 0] = 0.5
    place[0, 0], ink[0, 0] = torch.tensor([0.25, 0.0, 0.0]), torch.tensor([0.75, 0.0, 0.0])
    palettes = torch.zeros_like(record.palettes)
    palettes[:, :, 128:] = 250.0
    ground = torch.tensor([[100.0] * 6 + [1.0, 0.0]], dtype=torch.float64)
    return replace(record, **tensors, centre=centre, place=place, ink=ink, palettes=palettes, ground=ground)


# --- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [41, 9] if JIT else [9])
def test_each_kind_equals_numpy_reference(kind, size):
    record = sample_contours(12 if JIT else 1, seed=5, kinds=kind)
    made = render_contours(record, size).numpy()
    gaps = np.stack(
        [np.abs(reference_contours.render(record, i, size).astype(int) - made[i]) for i in range(len(made))]
    )
    assert gaps.max() <= 1
    assert (gaps > 0).mean() <= 1e-3


@pytest.mark.skipif(not JIT, reason="many pixels")
def test_equals_numpy_reference_at_full_size(params):
    made = render_contours(params[:4], 256).numpy()
    for i in range(4):
        gap = np.abs(reference_contours.render(params, i, 256).astype(int) - made[i])
        assert gap.max() <= 1 and (gap > 0).mean() <= 1e-3


def test_lines_lie_where_the_record_says():
    """Ten circles: along the row through the centre a line of 0.01 sides every 0.04 sides, and ground beyond 0.4."""
    size = 400 if JIT else 100
    row = render_contours(figure(), size)[0, 0, size // 2].to(torch.float64)
    place = ((torch.arange(size) + 0.5) / size - 0.5).abs() * 25.0  # in contours
    nearest = (place - place.round()).abs()
    inside, pixel = place < 9.8, 25.0 / size
    assert (row[inside & (nearest < 0.125 - pixel) & (place > 0.5)] > 245).all()
    assert (row[inside & (nearest > 0.125 + pixel) & (place > 3.6)] < 5).all()
    assert (row[place < 0.5] < 5).all()
    assert (row[place > 10.0 + pixel] == 100).all()


def test_lines_closer_than_a_pixel_blend():
    """Lines of a quarter of the distance of two contours: a quarter of their white, whatever the size."""
    record = figure(growth=0.002, contours=190, inner=0.002)
    for size in (16, 64) if JIT else (16,):
        centre = render_contours(record, size)[0, 0, size // 3 : -(size // 3), size // 3 : -(size // 3)]
        assert (centre.to(torch.float64) - 62.5).abs().max() < 16


def test_same_picture_at_every_size(params):
    small = 32 if JIT else 12
    large = render_contours(params[:8], 4 * small).to(torch.float64)
    gap = torch.nn.functional.avg_pool2d(large, 4) - render_contours(params[:8], small)
    assert gap.abs().mean() < 6  # grey levels; 60 between two pictures


def test_grey_shadow_and_relief():
    coloured = torch.zeros(1, 2, 256, 3, dtype=torch.float64)
    coloured[..., 0] = 200.0
    red = replace(figure(grey=0.0, line=0), palettes=coloured)
    grey = replace(figure(grey=1.0, line=0), palettes=coloured)
    middle = render_contours(red, 20)[0, :, 10, 10].tolist(), render_contours(grey, 20)[0, :, 10, 10].tolist()
    assert middle == ([200, 0, 0], [60, 60, 60])
    plain, shadowed = (render_contours(figure(halo=0.06, shadow=s), 20)[0, 0] for s in (0.0, 0.8))
    assert shadowed[10, 1] < 90 and plain[10, 1] == 100 and shadowed[0, 0] == 100
    facets = figure(relief=0.4, line=8, vertices=12)
    lit = render_contours(replace(facets, light=torch.tensor([[[1.0, 0.0]] * MAX_FIGURES])), 20)
    assert lit[0, 0, 10, 17] == 255 and lit[0, 0, 10, 2] < 170


def test_loose_figures_show_the_ground():
    filled, loose = render_contours(figure(inner=0.2, line=0), 20), render_contours(figure(inner=0.2, loose=1), 20)
    assert filled[0, 0, 10, 10] == 0 and loose[0, 0, 10, 10] == 100


@pytest.mark.skipif(not JIT, reason="pixels of the compiled kernels")
def test_known_pixels():
    """The picture of a seed is a promise: other numbers here mean another mixing set for every user."""
    picture = make_pictures("contours", 1, size=64, seed=0)[0]
    assert abs(picture[:, ::21, ::21].sum().item() - 6666) <= 48  # one grey level each
    assert np.abs(np.array(picture[:, 10, 20].tolist()) - [171, 157, 171]).max() <= 1


# --- from a seed ----------------------------------------------------------------------------------------------------


def test_picture_depends_on_seed_and_index_only(params):
    few = sample_contours(2, seed=11)
    later = sample_contours(1, seed=11, start=1)
    for f in fields(ContourParams):
        assert torch.equal(getattr(params, f.name)[:2], getattr(few, f.name)), f.name
        assert torch.equal(getattr(params, f.name)[1:2], getattr(later, f.name)), f.name


def test_threads_chunks_and_count_do_not_matter():
    count, size = (5, 130) if JIT else (2, SIZE)
    one = make_pictures("contours", count, size, seed=3, threads=1)
    assert torch.equal(one, make_pictures("contours", count, size, seed=3, threads=2))
    assert torch.equal(one[:1], make_pictures("contours", 1, size, seed=3))
    assert torch.equal(one, torch.cat(list(iter_pictures("contours", count, size, seed=3, chunk=2))))


def test_seeds_differ_and_global_generator_is_left_alone():
    state = torch.get_rng_state()
    one, two = sample_contours(1, seed=1), sample_contours(1, seed=2)
    assert not torch.equal(one.palettes, two.palettes) and not torch.equal(one.key, two.key)
    assert torch.equal(state, torch.get_rng_state())


def test_pictures_share_no_number(params):
    """Every picture draws all of its own: places, palettes, keys."""
    for values in (params.centre[:, 0, 0], params.light[:, 0, 0], params.palettes[:, 0].sum((1, 2)), params.key[:, 0]):
        assert len(set(values.tolist())) == len(params)
    other = sample_contours(2, seed=12)
    assert not set(other.centre[:, 0, 0].tolist()) & set(params.centre[:, 0, 0].tolist())


def test_render_does_not_write_to_params(params):
    before = {f.name: getattr(params, f.name).clone() for f in fields(params)}
    render_contours(params[:2], 8)
    assert all(torch.equal(value, getattr(params, name)) for name, value in before.items())


def test_rows_of_a_record(params):
    chosen = render_contours(params[[2, 0]], 8)
    assert torch.equal(chosen, render_contours(params[:3], 8)[[2, 0]])
    mask = torch.arange(len(params)) == 1
    assert len(params[mask]) == 1 and torch.equal(params[mask].centre, params.centre[1:2])


@pytest.mark.parametrize("size", [8, 9, 41] if JIT else [8, 9])
def test_odd_sizes(params, size):
    pictures = render_contours(params[:3], size)
    assert pictures.shape == (3, 3, size, size) and pictures.dtype == torch.uint8
    assert all(picture.unique().numel() > 8 for picture in pictures)


@pytest.mark.skipif(not hasattr(os, "fork") or not JIT, reason="needs fork and compiled code")
def test_made_in_a_forked_child_after_use_in_the_parent():
    code = """
import os, torch
from mixaug.mixing_sets import make_pictures
parent = make_pictures("contours", 2, 16, threads=2)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as in a loader worker
    same = [torch.equal(make_pictures("contours", 2, 16, threads=threads), parent) for threads in (None, 1, 2)]
    os._exit(0 if all(same) else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True, timeout=100)


# --- worth having ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not JIT, reason="many pictures")
def test_every_kind_occurs(params):
    shares = torch.bincount(params.kind, minlength=len(KINDS)) / len(params)
    assert (shares > 0.03).all()
    assert params.figures.min() == 1 and params.figures.max() == MAX_FIGURES
    used = params.vertices[params.vertices > 0]
    assert used.min() == 3 and used.max() > 150
    assert params.attempt.max() < 5


@pytest.mark.parametrize("kinds", ["single", ("bands", "smooth")], ids=str)
def test_chosen_kinds_only(kinds):
    record = sample_contours(8 if JIT else 2, seed=4, kinds=kinds)
    assert {KINDS[k] for k in record.kind.tolist()} <= set([kinds] if isinstance(kinds, str) else kinds)


@pytest.mark.skipif(not JIT, reason="many pictures")
def test_pictures_are_in_range_and_rich(params):
    for f in fields(params):
        assert getattr(params, f.name).to(torch.float64).isfinite().all(), f.name
    measured = richness(render_contours(params, 96))
    assert measured.entropy.min() > 2.9 and measured.flat.max() < 0.3 and measured.colours.min() > 15
    pictures = render_contours(params, 64)
    crops = pictures.unfold(2, 32, 32).unfold(3, 32, 32).to(torch.float64)
    spread = crops.std((1, 4, 5)).flatten(1)[params.kind > 0]
    assert (spread > 12).to(torch.float64).mean() > 0.97  # a random crop of many figures is not flat


@pytest.mark.skipif(not JIT, reason="many pictures")
def test_no_near_duplicates():
    thumbnails = make_pictures("contours", 1000, 16).flatten(1).to(torch.float32)
    distance = torch.cdist(thumbnails, thumbnails) / thumbnails.shape[1] ** 0.5
    distance.fill_diagonal_(1e9)
    assert distance.min() > 12  # grey levels, root mean square


def test_dull_draws_are_refused(monkeypatch):
    dull = torch.zeros(2, dtype=torch.bool)
    dull[1] = True
    verdicts = iter([dull, torch.ones(1, dtype=torch.bool)])
    monkeypatch.setattr(contours, "_MAX_ATTEMPTS", 8)
    monkeypatch.setattr(contours, "_worth_having", lambda measured: next(verdicts))
    assert sample_contours(2, seed=11).attempt.tolist() == [1, 0]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call,error,words",
    [
        (lambda: make_pictures("contours", 0), ValueError, "count must be from 1 to 10000000, got 0"),
        (lambda: make_pictures("contours", 1, size=7), ValueError, "size must be from 8 to 16384, got 7"),
        (
            lambda: make_pictures("contours", 1, seed=-1),
            ValueError,
            "seed must be from 0 to 9223372036854775807",
        ),
        (lambda: make_pictures("contours", 1, kinds="waves"), ValueError, "kinds must name some of single, polygons"),
        (lambda: sample_contours(0), ValueError, "count must be from 1 to 10000000, got 0"),
        (lambda: sample_contours(1, seed="0"), TypeError, "seed must be an int, got str: '0'"),
        (lambda: sample_contours(1, start=-1), ValueError, "start must be from 0 to 9223372036854775807"),
        (lambda: sample_contours(1, kinds=("bands", "bands")), ValueError, "each once"),
        (lambda: sample_contours(1, kinds=3), TypeError, "kinds must be a str, a sequence of them or None, got int: 3"),
        (lambda: sample_contours(1, threads=0), ValueError, "threads must be from 1 to 1024"),
        (lambda: render_contours([1]), TypeError, "params must be a ContourParams, got list"),
        (lambda: render_contours(sample_contours(1), 7), ValueError, "size must be from 8 to 16384, got 7"),
        (lambda: render_contours(sample_contours(1), threads=0), ValueError, "threads must be from 1 to 1024"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
