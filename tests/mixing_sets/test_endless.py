"""Recipes without an end: their pictures go on where those of the finite set stop."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from mixaug import MixingSet
from mixaug.mixing_sets import make_pictures
from mixaug.mixing_sets.recipes import SyntheticRecipe
from mixaug.mixing_sets.streaming import supervisor as _endless
from mixaug.mixing_sets.streaming.supervisor import endless_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path))


@pytest.fixture
def labelled(monkeypatch):
    """Pictures whose channels say their seed and their index."""

    def labels(source, count, size, seed, *, start=0, kinds=None, chunk=16, threads=None):
        for index in itertools.count(start, chunk) if count is None else range(start, start + count, chunk):
            rows = torch.arange(index, index + chunk if count is None else min(index + chunk, start + count))
            pictures = torch.full((len(rows), 3, size, size), seed, dtype=torch.uint8)
            pictures[:, 1] = (rows // 200).to(torch.uint8)[:, None, None]
            pictures[:, 2] = (rows % 200).to(torch.uint8)[:, None, None]
            yield pictures

    monkeypatch.setattr(_endless, "iter_pictures", labels)
    monkeypatch.setattr(SyntheticRecipe, "chunks", lambda self: labels(self.source, self.count, self.size, self.seed))


def names(pictures) -> list[tuple[int, int]]:
    return [(int(p[0, 0, 0]), 200 * int(p[1, 0, 0]) + int(p[2, 0, 0])) for p in pictures]


def first(recipe, start: int, count: int, chunk: int = 3) -> list[tuple[int, int]]:
    pieces = recipe.pictures_from(start, chunk, None)
    return names(itertools.islice((p for piece in pieces for p in piece), count))


def test_synthetic_goes_on(labelled):
    assert first(endless_recipe(SyntheticRecipe("fractals", 4, 16, 7)), 4, 5) == [(7, k) for k in range(4, 9)]


def mixture(counts=(6, 3)) -> MixingSet:
    return MixingSet.mixture([MixingSet.fractals(n, 16, seed=k + 1) for k, n in enumerate(counts)])


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_mixture_begins_with_the_finite_one_and_keeps_its_shares(labelled, chunk):
    pictures = mixture()
    recipe = endless_recipe(pictures._recipe)
    assert names(pictures.pictures) == first(recipe, 0, 9, chunk)
    assert recipe.stem == pictures._recipe.stem and recipe.shape == (9, 3, 16, 16)
    long = first(recipe, 0, 90, chunk)
    assert len(set(long)) == 90 and Counter(seed for seed, _ in long) == {1: 60, 2: 30}
    for seed in (1, 2):
        own = [index for s, index in long if s == seed]
        assert own == list(range(len(own)))


@pytest.mark.parametrize("start", [1, 8, 9, 13, 40])
def test_mixture_from_any_place(labelled, start):
    recipe = endless_recipe(mixture((4, 2, 3))._recipe)
    assert first(recipe, start, 12) == first(recipe, 0, start + 12)[start:]


def test_mixture_of_mixtures_and_sizes(labelled):
    both = MixingSet.mixture([mixture(), MixingSet.fractals(9, 32, seed=5)])
    recipe = endless_recipe(both._recipe)
    assert names(both.pictures) == first(recipe, 0, 18)
    assert next(recipe.pictures_from(30, 5, None)).shape == (5, 3, 16, 16)
    assert Counter(seed for seed, _ in first(recipe, 18, 18)) == {1: 6, 2: 3, 5: 9}


def test_stream_of_a_mixture_of_real_pictures():
    parts = [MixingSet.dead_leaves(2, 16, seed=1), MixingSet.contours(2, 16, seed=2)]
    with MixingSet.mixture(parts).stream() as stream:
        assert len(stream) == 4 and torch.equal(stream[:], MixingSet.mixture(parts)[:])
    fresh = next(endless_recipe(MixingSet.mixture(parts)._recipe).pictures_from(4, 4, 1))
    leaves, contours = make_pictures("dead-leaves", 4, 16, 1), make_pictures("contours", 4, 16, 2)
    assert torch.equal(fresh, torch.stack([leaves[2], contours[2], leaves[3], contours[3]]))


def test_what_has_no_next_picture_is_refused(tmp_path):
    grey = MixingSet.from_tensor(torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
    grey.save(tmp_path / "pictures", progress=False)
    folder = MixingSet.from_folder(tmp_path / "pictures", size=16)
    for pictures in (grey, folder, MixingSet.mixture([folder, MixingSet.fractals(3, 16)])):
        with pytest.raises(TypeError, match=r"a stream needs synthetic sources .* or a mixture of them"):
            pictures.stream()
    with pytest.raises(ValueError, match="threads must be from 1 to 1024, got 0"):
        MixingSet.fractals(2, 16).stream(threads=0)
