"""Calibration errors against figures worked out by hand, and against each other."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from mixaug.evaluate.intervals import resample
from mixaug.evaluate.measures import calibration
from mixaug.evaluate.measures.calibration import (
    CALIBRATION,
    ece,
    reliability_curve,
    resampled_calibration,
    rms,
    rms_equal_width,
)


def test_ece_and_rms_by_hand():
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = torch.tensor([True, True, True, False, True, False])
    # bins: four images at 0.95 with accuracy 0.75 (gap 0.2), two at 0.55 with accuracy 0.5 (gap 0.05)
    assert ece(confidence, correct, bins=10) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6, abs=1e-6)
    expected = math.sqrt((4 * 0.2**2 + 2 * 0.05**2) / 6)
    assert rms_equal_width(confidence, correct, bins=10) == pytest.approx(expected, abs=1e-6)
    assert rms(confidence, correct, bin_size=6) == pytest.approx(abs(4.9 / 6 - 4 / 6), abs=1e-6)


def test_equal_count_bins_and_the_papers_variant_by_hand():
    confidence = torch.tensor([0.9, 0.2, 0.8, 0.4, 0.6])  # sorted: .2 .4 | .6 .8 .9 (the last takes the remainder)
    correct = torch.tensor([True, False, False, True, True])
    first, last = abs(0.3 - 0.5), abs(2.3 / 3 - 2 / 3)
    expected = math.sqrt((2 * first**2 + 3 * last**2) / 5)
    assert rms(confidence, correct, bin_size=2) == pytest.approx(expected, abs=1e-6)
    papers = rms(confidence, correct, bin_size=2, variant="ipmix-papers")
    assert papers == pytest.approx(math.sqrt(2 * first**2 / 5), abs=1e-6)


def papers_loop(confidence, correct, beta=100):
    """The published procedure, written out: bins of beta, the last takes the rest, the sum stops before the last."""
    pairs = sorted(zip(confidence.tolist(), correct.tolist(), strict=True), key=lambda pair: pair[0])
    bins = [pairs[i * beta : (i + 1) * beta] for i in range(len(pairs) // beta)]
    total = 0.0
    for part in bins[:-1]:
        gap = sum(pair[0] for pair in part) / len(part) - sum(pair[1] for pair in part) / len(part)
        total += len(part) / len(pairs) * gap**2
    return math.sqrt(total)


@pytest.mark.parametrize("n", [100, 250, 1099])
def test_the_papers_variant_equals_a_plain_loop(n):
    generator = torch.Generator().manual_seed(n)
    confidence, correct = torch.rand(n, generator=generator), torch.rand(n, generator=generator) < 0.7
    assert rms(confidence, correct, variant="ipmix-papers") == pytest.approx(papers_loop(confidence, correct), abs=1e-9)


def test_few_images_make_one_bin():
    confidence, correct = torch.tensor([0.5, 0.7]), torch.tensor([True, True])
    assert rms(confidence, correct) == pytest.approx(0.4, abs=1e-6)
    assert rms(confidence, correct, variant="ipmix-papers") == 0


def test_equals_the_multi_class_errors_of_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.softmax(2 * torch.randn(500, 7, generator=generator), dim=1)
    labels = torch.randint(7, (500,), generator=generator)
    confidence, predicted = probabilities.max(1)
    for norm, ours in (("l1", ece), ("l2", rms_equal_width)):
        theirs = functional.multiclass_calibration_error(probabilities, labels, 7, n_bins=15, norm=norm)
        assert ours(confidence, predicted == labels) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("bins", [5, 15])
def test_the_reliability_curve_is_scikit_learns(bins):
    calibration = pytest.importorskip("sklearn.calibration")
    generator = torch.Generator().manual_seed(bins)
    confidence = torch.rand(600, generator=generator).double().sqrt()
    correct = torch.rand(600, generator=generator) < confidence
    curve = reliability_curve(confidence, correct, bins=bins)
    filled = [index for index, count in enumerate(curve.counts) if count]
    accuracy, mean = calibration.calibration_curve(correct.numpy(), confidence.numpy(), n_bins=bins)
    assert [curve.accuracy[index] for index in filled] == pytest.approx(accuracy.tolist())
    assert [curve.confidence[index] for index in filled] == pytest.approx(mean.tolist())


def test_equal_count_bins_are_scikit_learns_quantiles():
    calibration = pytest.importorskip("sklearn.calibration")
    generator = torch.Generator().manual_seed(3)
    confidence = torch.rand(1000, generator=generator).double()
    correct = torch.rand(1000, generator=generator) < 0.6
    accuracy, mean = calibration.calibration_curve(correct.numpy(), confidence.numpy(), n_bins=10, strategy="quantile")
    gaps = accuracy - mean  # ten bins of a hundred each
    assert rms(confidence, correct) == pytest.approx(math.sqrt((gaps**2).mean()), abs=1e-9)
    papers = math.sqrt((gaps[:-1] ** 2).sum() / 10)
    assert rms(confidence, correct, variant="ipmix-papers") == pytest.approx(papers, abs=1e-9)


def test_an_image_on_an_edge_belongs_to_the_bin_above():
    confidence, correct = torch.tensor([0.25, 0.4, 0.5, 0.75, 1.0]), torch.tensor([True, False, True, True, False])
    curve = reliability_curve(confidence, correct, bins=4)
    assert curve.counts == [0, 2, 1, 2]
    # Gaps of the bins' sums: 0.65 against 1 right, 0.5 against 1, 1.75 against 1.
    assert ece(confidence, correct, bins=4) == pytest.approx((0.35 + 0.5 + 0.75) / 5, abs=1e-6)


def test_equal_confidences_keep_their_order():
    # Where all are equally sure, the bins are those of the images' order.
    confidence = torch.full((4,), 0.5)
    correct = torch.tensor([True, True, False, False])
    assert rms(confidence, correct, bin_size=2) == pytest.approx(0.5)
    assert rms(confidence, correct[[0, 2, 1, 3]], bin_size=2) == pytest.approx(0)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equals_torchmetrics_from_full_probabilities(classes, bins):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(classes)
    probabilities = torch.softmax(3 * torch.randn(400, classes, generator=generator), dim=1)
    labels = torch.where(torch.rand(400, generator=generator) < 0.7, probabilities.argmax(1), 0)
    confidence, predicted = probabilities.max(1)
    for norm, ours in (("l1", ece), ("l2", rms_equal_width)):
        theirs = functional.multiclass_calibration_error(probabilities, labels, classes, n_bins=bins, norm=norm)
        assert ours(confidence, predicted == labels, bins=bins) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("n", [1, 7, 150, 1234])
def test_resamples_are_those_one_by_one(n):
    g = torch.Generator().manual_seed(n)
    confidence = (torch.rand(n, generator=g, dtype=torch.float64) * 1.2).clamp(0.3, 1.0)  # a part of exactly 1
    correct = torch.rand(n, generator=g) < 0.7
    draws = resampled_calibration(confidence, correct, resamples=60)
    index = torch.cat(list(resample(n, 60)))
    for name, measure in CALIBRATION.items():
        expected = [measure(confidence[row], correct[row]) for row in index]
        torch.testing.assert_close(draws[name], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_reliability_curve_gives_the_ece():
    generator = torch.Generator().manual_seed(2)
    confidence, correct = torch.rand(400, generator=generator), torch.rand(400, generator=generator) < 0.4
    curve = reliability_curve(confidence, correct, bins=12)
    assert sum(curve.counts) == 400
    assert len(curve.edges) == 13
    gaps = zip(curve.counts, curve.confidence, curve.accuracy, strict=True)
    total = sum(count / 400 * abs(sure - right) for count, sure, right in gaps if count)
    assert total == pytest.approx(ece(confidence, correct, bins=12), abs=1e-6)


def test_a_perfect_and_a_hopeless_model():
    ones = torch.ones(300)
    for measure in (ece, rms, rms_equal_width):
        assert abs(measure(ones, ones.bool())) < 1e-6
        assert abs(measure(ones, ~ones.bool()) - 1) < 1e-6


@pytest.mark.parametrize("measure", [ece, rms, rms_equal_width, reliability_curve])
def test_refuses_bad_input(measure):
    good, right = torch.rand(5), torch.ones(5, dtype=torch.bool)
    for arguments, error, message in [
        (([0.5], right), TypeError, "confidence must be a floating point tensor, got list"),
        ((right, right), TypeError, "confidence must be a floating point tensor, got torch.bool"),
        ((good, right.long()), TypeError, "correct must be a bool tensor, got torch.int64"),
        ((good, [True]), TypeError, "correct must be a bool tensor, got list"),
        ((good, right[:4]), ValueError, r"got \(5,\) and \(4,\)"),
        ((good[:0], right[:0]), ValueError, "n of 1 or more"),
        ((good + 1, right), ValueError, r"confidence must lie in \[0, 1\]"),
        ((good * float("nan"), right), ValueError, r"confidence must lie in \[0, 1\]"),
        ((good, right, 0), ValueError, r"must be from 1 to \d+, got 0"),
    ]:
        with pytest.raises(error, match=message):
            measure(*arguments)


def test_refuses_an_unknown_variant():
    with pytest.raises(ValueError, match="variant must be one of all-bins, ipmix-papers, got 'pixmix'"):
        rms(torch.rand(5), torch.ones(5, dtype=torch.bool), variant="pixmix")


def test_names_the_extra_when_torchmetrics_is_missing(monkeypatch):
    calibration._library.cache_clear()
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mixaug\[train\]"'):
        ece(torch.rand(5), torch.ones(5, dtype=torch.bool))


def test_saturated_confidences_share_the_last_bin():
    """Half the images at exactly 1 and wrong, half at 0.95 and right: by hand |0.5 - 0.975| in one bin."""
    confidence = torch.tensor([1.0] * 50 + [0.95] * 50)
    correct = torch.tensor([False] * 50 + [True] * 50)
    assert abs(ece(confidence, correct) - 0.475) < 1e-5
    assert abs(rms_equal_width(confidence, correct) - 0.475) < 1e-5
