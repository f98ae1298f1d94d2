"""Intervals agree with those by hand and with the normal distribution."""

from __future__ import annotations

import pytest
import torch

from mixaug.evaluate.intervals import bootstrap_means, centred, resample, wilson


def test_wilson_by_hand():
    # p = 0.3, n = 50, z = 1.96: centre (0.3 + 3.8415/100) / 1.07683, half 1.96 sqrt(.0042 + .00038415) / 1.07683
    estimate = wilson(15, 50)
    assert estimate.value == 0.3
    assert estimate.low == pytest.approx(0.19103, abs=1e-4)
    assert estimate.high == pytest.approx(0.43750, abs=1e-4)
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    for successes, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="must"):
            wilson(successes, n)


def test_bootstrap_agrees_with_the_normal_interval():
    values = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    for column, estimate in enumerate(bootstrap_means(values)):
        half = 1.96 * values[:, column].std().item() / 20
        assert estimate.value == pytest.approx(values[:, column].mean().item(), abs=1e-6)
        assert estimate.high - estimate.value == pytest.approx(half, rel=0.1)
        assert estimate.value - estimate.low == pytest.approx(half, rel=0.1)
    draws = torch.cat([values[index, 0].double().mean(1) for index in resample(400, 1000)])
    moved = centred(values[:, 0].mean().item(), draws, 400, lower=0.0)
    assert moved.high - moved.value == pytest.approx(1.96 * values[:, 0].std().item() / 20, rel=0.15)
