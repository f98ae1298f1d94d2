"""Mixtures of sets: the right share of each, none twice, evenly spread."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixaug.mixing_sets import MixingSet
from mixaug.mixing_sets.recipes import SyntheticRecipe, interleaved, mixture_counts


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def makes(monkeypatch):
    """Pictures whose first pixel says which set and which picture they are."""
    calls = []

    def chunks(self):
        calls.append(self)
        pictures = torch.full(self.shape, 100, dtype=torch.uint8)
        pictures[:, 0] = self.seed
        pictures[:, 1] = torch.arange(self.count, dtype=torch.uint8)[:, None, None]
        yield pictures

    monkeypatch.setattr(SyntheticRecipe, "chunks", chunks)
    return calls


def members(pictures: MixingSet) -> list[tuple[int, int]]:
    return [(int(p[0, 0, 0]), int(p[1, 0, 0])) for p in pictures.pictures]


def sets(*lengths: int, size: int = 16) -> list[MixingSet]:
    return [MixingSet.fractals(length, size, seed=k + 1) for k, length in enumerate(lengths)]


def test_all_pictures_without_weights(makes):
    mixed = MixingSet.mixture(sets(6, 3))
    assert len(mixed) == 9 and not makes and "not made yet" in repr(mixed) and "a mixture: 6 of" in repr(mixed)
    assert sorted(members(mixed)) == [(1, k) for k in range(6)] + [(2, k) for k in range(3)]
    assert [seed for seed, _ in members(mixed)] == [1, 2, 1, 1, 2, 1, 1, 2, 1]
    assert len(makes) == 2


def test_weights_are_the_shares(makes):
    mixed = MixingSet.mixture(sets(60, 60), [0.75, 0.25])
    assert len(mixed) == 80
    assert sum(seed == 1 for seed, _ in members(mixed)) == 60 and sum(seed == 2 for seed, _ in members(mixed)) == 20
    few = MixingSet.mixture(sets(60, 60), [0.75, 0.25], count=8)
    assert sum(seed == 1 for seed, _ in members(few)) == 6 and len(few) == 8


def test_a_set_with_weight_0_is_left_out(makes):
    mixed = MixingSet.mixture(sets(5, 7), [0.0, 1.0])
    assert members(mixed) == [(2, k) for k in range(7)] and len(makes) == 1


def test_sizes_are_brought_together(makes):
    mixed = MixingSet.mixture([MixingSet.fractals(2, 32, 1), MixingSet.fractals(2, 16, 2)])
    assert mixed.size == 16 and mixed.pictures.shape == (4, 3, 16, 16)
    assert MixingSet.mixture([MixingSet.fractals(2, 32, 1)], size=24).pictures.shape == (2, 3, 24, 24)


def test_cached_pickled_and_nested(makes, cache):
    mixed = MixingSet.mixture([MixingSet.mixture(sets(2, 2)), MixingSet.fractals(4, 16, 9)])
    assert len(mixed) == 8 and mixed.path is None
    first = mixed.pictures
    assert mixed.path is not None and mixed.path.parent == cache
    again = pickle.loads(pickle.dumps(mixed))
    assert torch.equal(again.resized(8), mixed.resized(8)) and torch.equal(again.pictures, first)
    assert torch.equal(MixingSet.mixture([MixingSet.mixture(sets(2, 2)), MixingSet.fractals(4, 16, 9)]).pictures, first)
    assert len(makes) == 3
    other = MixingSet.mixture([MixingSet.fractals(4, 16, 9), MixingSet.mixture(sets(2, 2))])
    assert not torch.equal(other.pictures, first)  # another order is another file


def test_with_a_tensor_it_lives_in_memory(makes):
    given_ = torch.full((2, 3, 16, 16), 7, dtype=torch.uint8)
    mixed = MixingSet.mixture([MixingSet.from_tensor(given_), *sets(2)])
    assert len(mixed) == 4 and "in memory" in repr(mixed)
    assert sorted(members(mixed)) == [(1, 0), (1, 1), (7, 7), (7, 7)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.data())
def test_counts(lengths, data):
    raw = data.draw(st.lists(st.integers(1, 9), min_size=len(lengths), max_size=len(lengths)))
    weights = [r / sum(raw) for r in raw]
    try:
        counts = mixture_counts(lengths, weights, None)
    except ValueError as error:
        assert "a picture of each set" in str(error)
        return
    assert all(0 < k <= n for k, n in zip(counts, lengths, strict=True))
    assert all(abs(k - w * sum(counts)) < 1 for k, w in zip(counts, weights, strict=True))
    # One more for each set would take a picture twice, or leave the shares.
    assert any(k + 2 > n for k, n in zip(counts, lengths, strict=True)) or sum(counts) < len(lengths)
    order = interleaved(counts)
    assert sorted(order) == [(k, j) for k, n in enumerate(counts) for j in range(n)]
    for k, n in enumerate(counts):
        for stop in range(len(order) + 1):  # every beginning holds its share, to one picture
            assert abs(sum(part == k for part, _ in order[:stop]) - n * stop / len(order)) < len(counts)


@pytest.mark.parametrize(
    "arguments,error,words",
    [
        ({"weights": [0.5, 0.4]}, ValueError, r"weights must sum to 1, got \[0.5, 0.4\] with sum 0.9"),
        ({"weights": [0.5]}, ValueError, "one number for each of the 2 sets, got 1"),
        ({"weights": [1.5, -0.5]}, ValueError, "weights must be finite and at least 0"),
        ({"weights": [float("nan"), 1.0]}, ValueError, "weights must be finite and at least 0"),
        ({"weights": ["a", "b"]}, TypeError, "weights must be numbers"),
        ({"weights": 1.0}, TypeError, "weights must be a sequence of numbers or None, got float"),
        ({"count": 0}, ValueError, "count must be from 1 to 10000000, got 0"),
        ({"count": 8}, ValueError, "count must be at most 7 .*got 8"),
        ({"count": 1, "weights": [0.5, 0.5]}, ValueError, "count must be large enough"),
        ({"size": 7}, ValueError, "size must be from 8 to 16384, got 7"),
        ({"progress": 1}, TypeError, "progress must be"),
    ],
)
def test_bad_input(arguments, error, words):
    with pytest.raises(error, match=words):
        MixingSet.mixture(sets(4, 3), **arguments)


@pytest.mark.parametrize("value,error", [([], ValueError), ([torch.zeros(1)], TypeError), (sets, TypeError)])
def test_bad_sets(value, error):
    with pytest.raises(error, match="sets must"):
        MixingSet.mixture(value)


def test_ipmix_takes_a_mixture(makes):
    from mixaug import IPMix

    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    ipmix = IPMix(mixing_set=MixingSet.mixture(sets(4, 4, size=36)))
    assert ipmix(images).shape == images.shape
