"""Whether variants differ by more than their seeds do, against tables and simulations."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("scipy")
from study import variance

#: Three sources by three seeds: sources 10, 12, 14, seeds 0, 1, 5, and a rest of one point in four of the nine.
THREE = {
    "a": {0: 11.0, 1: 10.0, 2: 15.0},
    "b": {0: 11.0, 1: 14.0, 2: 17.0},
    "c": {0: 14.0, 1: 15.0, 2: 19.0},
}


def test_the_spread_of_sources_and_of_seeds():
    found = variance.spread_of(THREE)
    assert list(found.means) == ["a", "b", "c"] and (found.lowest, found.highest) == ("a", "c")
    assert found.means == pytest.approx({"a": 12.0, "b": 14.0, "c": 16.0}) and found.range == pytest.approx(4.0)
    # The rest: a (+1, -1, 0), b (-1, +1, 0), of 2 x 2 degrees of freedom.
    assert found.within == pytest.approx(1.0)
    assert found.between == pytest.approx(math.sqrt(4 - 1 / 3))
    # Tukey's q of three means and four degrees of freedom is 5.040 in every table.
    assert found.half == pytest.approx(5.040 / math.sqrt(3), rel=1e-3)
    assert found.by_chance == pytest.approx(1.693 / math.sqrt(3), rel=1e-3)


def test_equal_sources_have_no_spread_between_them():
    values = {"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 1.0}}
    found = variance.spread_of(values)
    assert found.between == 0.0 and found.range == 0.0 and found.p == 1.0


@pytest.mark.parametrize("values", [{}, {"a": {0: 1.0, 1: 1.0}}, {"a": {0: 1.0, 1: 2.0}, "b": {1: 2.0}}])
def test_too_few_runs_have_no_spread(values):
    assert variance.spread_of(values) is None


def test_just_the_common_seeds_are_compared():
    more = {"a": {**THREE["a"], 3: 99.0}, "b": THREE["b"], "c": {7: -5.0, **THREE["c"]}}
    assert variance.spread_of(more) == variance.spread_of(THREE) and variance.spread_of(more).seeds == 3


def test_chance_is_what_equal_sources_show():
    tables = torch.randn(20_000, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    means, centre = tables.mean(2), tables.mean((1, 2), keepdim=True)
    rest = tables - tables.mean(2, keepdim=True) - tables.mean(1, keepdim=True) + centre
    ratios = (means.amax(1) - means.amin(1)) / (rest.square().sum((1, 2)) / 8 / 3).sqrt()
    for width in (2.0, 4.886):  # in tables of Tukey's distribution, 5% are above 4.886
        assert variance.chance(width, 1.0, 5, 8) == pytest.approx((ratios > width).double().mean().item(), abs=0.01)
    assert variance.chance(4.886, 1.0, 5, 8) == pytest.approx(0.05, abs=1e-4)


def test_runs_without_luck_are_certain():
    assert variance.chance(1.0, 0.0, 5, 8) == 0.0 and variance.chance(0.0, 0.0, 5, 8) == 1.0


def test_the_expected_range_of_normal_draws():
    assert [round(variance.expected_range(k), 3) for k in (1, 2, 5)] == [0.0, 1.128, 2.326]


def test_a_contrast_and_its_interval():
    values = {**THREE, "d": {0: 13.0, 1: 14.0, 2: 18.0}}  # a point above the mean of the three, whatever the seed
    found = variance.contrast(values, "d", ["a", "b", "c"])
    assert found.value == pytest.approx(1.0)
    # The rest's squares are 4 as before, now of six degrees of freedom, whose t is 2.447.
    half = 2.447 * math.sqrt(4 / 6 * (1 + 1 / 3) / 3)
    assert found.half == pytest.approx(half, rel=1e-3) and not found.clear
    assert variance.Contrast(-2.0, 1.9).clear
    assert variance.contrast(values, "e", ["a", "b", "c"]) is None
    assert variance.contrast(values, "d", ["a", "x"]) is None
    assert variance.contrast({**THREE, "d": {0: 1.0}}, "d", ["a", "b", "c"]) is None


def test_p_values_are_adjusted_for_their_number():
    assert variance.holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert variance.holm([0.9, 0.8]) == [1.0, 1.0] and variance.holm([]) == []
