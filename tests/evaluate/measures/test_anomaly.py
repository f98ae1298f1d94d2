"""Anomaly scores: figures by hand and by scikit-learn, their intervals, and what a model is asked."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixaug.evaluate.images import fingerprint
from mixaug.evaluate.measures.anomaly import AnomalyScores, _by_sklearn, anomaly, anomaly_figure, resampled_scores

metrics = pytest.importorskip("sklearn.metrics")
levels = st.lists(st.integers(0, 6), min_size=1, max_size=25)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def confident(images: Tensor) -> Tensor:
    """Two classes; the brighter a picture, the surer of class 1."""
    brightness = 8 * images.mean((1, 2, 3))
    return torch.stack([torch.zeros_like(brightness), brightness], 1)


def slow_figures(inside: list[float], outside: list[float]) -> tuple[float, float, float]:
    """From their definitions: pairs in order; precision at each step of recall; the first threshold at 95%."""
    pairs = [(o < i) + 0.5 * (o == i) for i in inside for o in outside]
    thresholds = sorted({*inside, *outside})
    found = 0
    precision = 0.0
    false_rate = None
    for threshold in thresholds:
        true, false = sum(o <= threshold for o in outside), sum(i <= threshold for i in inside)
        precision += (true - found) / len(outside) * (true / (true + false))
        found = true
        if false_rate is None and 100 * true >= 95 * len(outside):
            false_rate = false / len(inside)
    assert false_rate is not None
    return sum(pairs) / len(pairs), precision, false_rate


# ---------------------------------------------------------------- figures


def test_by_hand():
    # From the least sure: out .5, in .7, out .75, in .8, in .9.
    scores = AnomalyScores(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.5, 0.75]))
    assert scores.auroc.value == pytest.approx(5 / 6)  # of six pairs one is in the wrong order
    assert scores.aupr.value == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert scores.fpr95.value == pytest.approx(1 / 3)
    assert scores.base_rate == 0.4
    assert {scores.auroc.n, scores.aupr.n, scores.fpr95.n} == {5} and scores.auroc.method == "bootstrap"


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        ([0.9, 0.8], [0.1, 0.2, 0.3], (1, 1, 0)),
        ([0.1, 0.2], [0.9, 0.8], (0, (1 / 3 + 2 / 4) / 2, 1)),
        ([0.5] * 6, [0.5] * 2, (0.5, 0.25, 1)),  # a score that knows nothing has the base rate as AUPR
        ([1.0], [1.0], (0.5, 0.5, 1)),
    ],
)
def test_perfect_reversed_and_blind_scores(inside, outside, expected):
    scores = AnomalyScores(torch.tensor(inside), torch.tensor(outside))
    found = (scores.auroc.value, scores.aupr.value, scores.fpr95.value)
    assert found == pytest.approx(expected)


def test_95_percent_is_counted_in_whole_images():
    # 19 of 20 are 95%: the last, as sure as can be, need not be found.
    outside = torch.tensor([0.1] * 19 + [1.0])
    assert AnomalyScores(torch.tensor([0.5, 0.9]), outside).fpr95.value == 0
    assert AnomalyScores(torch.tensor([0.5, 0.9]), outside[1:]).fpr95.value == 1  # 18 of 19 are 94.7%
    assert AnomalyScores(torch.tensor([0.05, 0.9]), outside).fpr95.value == 0.5


@settings(max_examples=60, deadline=None)
@given(inside=levels, outside=levels)
def test_the_definitions_and_scikit_learn_with_ties(inside, outside):
    inside, outside = ([level / 8 for level in group] for group in (inside, outside))
    found = _by_sklearn(torch.tensor(inside), torch.tensor(outside))
    assert found == pytest.approx(slow_figures(inside, outside))
    truth = [0] * len(inside) + [1] * len(outside)
    score = [-each for each in inside + outside]
    assert found[0] == pytest.approx(metrics.roc_auc_score(truth, score))
    assert found[1] == pytest.approx(metrics.average_precision_score(truth, score))


def test_equals_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    # Multiples of a 64th: in single precision torchmetrics would merge neighbours.
    inside = torch.randint(20, 65, (300,), generator=seeded()) / 64
    outside = torch.randint(10, 60, (80,), generator=seeded(1)) / 64
    score, truth = 1 - torch.cat([inside, outside]), torch.cat([torch.zeros(300), torch.ones(80)]).long()
    scores = AnomalyScores(inside, outside)
    assert scores.auroc.value == pytest.approx(float(functional.binary_auroc(score, truth)), abs=1e-6)
    assert scores.aupr.value == pytest.approx(float(functional.binary_average_precision(score, truth)), abs=1e-6)


# ---------------------------------------------------------------- intervals


def test_each_bootstrap_draw_is_what_scikit_learn_gives_for_its_images():
    inside = torch.randint(0, 9, (23,), generator=seeded()) / 8
    outside = torch.randint(0, 7, (20,), generator=seeded(1)) / 8  # of 20 a whole number is 95%
    found = resampled_scores(inside, outside)
    assert found.shape == (1000, 3)
    generator = seeded()
    draws = [(torch.randint(23, (50, 23), generator=generator), torch.randint(20, (50, 20), generator=generator))]
    for row in range(50):
        ours = found[row].tolist()
        assert ours == pytest.approx(
            slow_figures(inside[draws[0][0][row]].tolist(), outside[draws[0][1][row]].tolist())
        )


def test_intervals_hold_the_figures_and_shrink_with_more_images():
    def scores(count: int) -> AnomalyScores:
        inside = torch.rand(count, generator=seeded()).sqrt()
        return AnomalyScores(inside, torch.rand(count // 5, generator=seeded(1)))

    few, many = scores(100), scores(2000)
    for name in ("auroc", "aupr", "fpr95"):
        one, two = getattr(few, name), getattr(many, name)
        assert 0 <= one.low <= one.value <= one.high <= 1
        assert (two.high - two.low) < 0.5 * (one.high - one.low)
    # The variance of an AUROC after Hanley and McNeil, Radiology 143 (1982).
    a, n, m = many.auroc.value, 2000, 400
    variance = (a * (1 - a) + (m - 1) * (a / (2 - a) - a**2) + (n - 1) * (2 * a**2 / (1 + a) - a**2)) / (n * m)
    assert (many.auroc.high - many.auroc.low) == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.15)


def test_intervals_repeat():
    inside, outside = torch.rand(60, generator=seeded()), torch.rand(20, generator=seeded(1))
    state = torch.get_rng_state()
    assert AnomalyScores(inside, outside).auroc == AnomalyScores(inside, outside).auroc
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_json_is_exact(dtype):
    scores = AnomalyScores(torch.rand(7, generator=seeded()).to(dtype), torch.rand(3, generator=seeded(1)).to(dtype))
    written = json.loads(json.dumps(scores.to_json()))
    again = AnomalyScores.from_json(written)
    assert torch.equal(again.confidence_in, scores.confidence_in) and again.confidence_in.dtype == dtype
    assert torch.equal(again.confidence_out, scores.confidence_out)
    assert again.to_json() == scores.to_json() and written["auroc"]["value"] == scores.auroc.value
    assert (written["n_in"], written["n_out"], written["base_rate"]) == (7, 3, 0.3)


# ---------------------------------------------------------------- the measurement


def test_confidences_are_the_largest_softmax_probabilities():
    inside, outside = torch.rand(11, 1, 4, 4, generator=seeded()), torch.rand(4, 1, 4, 4, generator=seeded(1)) / 2
    scores = anomaly(confident, (inside, torch.zeros(11, dtype=torch.int64)), outside, n_out=4, batch_size=3)
    for images, found in ((inside, scores.confidence_in), (outside, scores.confidence_out)):
        expected = [1 / (1 + math.exp(-8 * float(image.mean()))) for image in images]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert scores.auroc.value == 1 or scores.auroc.value > 0.9


def test_a_fifth_of_the_data_set_is_out_of_distribution_by_default():
    inside, outside = torch.rand(20, 1, 4, 4), torch.rand(50, 1, 4, 4)
    labels = torch.zeros(20, dtype=torch.int64)
    assert anomaly(confident, (inside, labels), outside).base_rate == pytest.approx(1 / 6)
    assert len(anomaly(confident, (inside, labels), outside, n=10).confidence_out) == 2
    assert len(anomaly(confident, (inside, labels), outside[:3]).confidence_out) == 3
    assert len(anomaly(confident, (inside[:2], labels[:2]), outside).confidence_out) == 1
    whole = anomaly(confident, (inside, labels), outside, n=5, n_out=50)
    assert (len(whole.confidence_in), len(whole.confidence_out)) == (5, 50)


def test_labels_are_not_looked_at_and_any_form_of_images_will_do():
    inside, outside = torch.rand(6, 1, 4, 4, generator=seeded()), torch.rand(2, 1, 4, 4, generator=seeded(1))
    outside = (outside * 255).round().to(torch.uint8)
    pairs = [(image, 7) for image in outside]  # a class that the model does not have
    first = anomaly(confident, (inside, torch.full((6,), 5)), outside, n_out=2)
    for form in (pairs, (outside, torch.tensor([99, 3])), outside.float() / 255):
        assert torch.equal(anomaly(confident, (inside, torch.zeros(6).long()), form, n_out=2).confidence_out,
                           first.confidence_out)  # fmt: skip


def test_the_model_comes_back_as_it_was_and_is_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3))
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = fingerprint(dict(model.state_dict()))
    data = (torch.rand(6, 3, 8, 8, generator=seeded()), torch.arange(6) % 3)
    first = anomaly(model, data, torch.rand(3, 3, 8, 8, generator=seeded(1)))
    second = anomaly(model, data, torch.rand(3, 3, 8, 8, generator=seeded(1)), batch_size=1)
    assert torch.allclose(first.confidence_in, second.confidence_in, atol=1e-6)  # no dropout, no batch statistics
    assert [module.training for module in model.modules()] == modes
    assert fingerprint(dict(model.state_dict())) == before


def test_some_of_a_models_classes():
    class Some:
        images, labels, model_classes = torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64), torch.tensor([1])

    scores = anomaly(confident, Some(), torch.rand(2, 1, 4, 4))
    assert scores.confidence_in.tolist() == [1.0] * 5  # of one class all are sure


def test_pieces_are_kept_and_found_and_progress_is_told():
    inside, outside = torch.rand(5, 1, 4, 4, generator=seeded()), torch.rand(3, 1, 4, 4, generator=seeded(1))
    stored: dict[str, dict[str, Tensor]] = {}
    told: list[str] = []

    def keep(name, compute):
        if name not in stored:
            stored[name] = compute()
        return stored[name]

    def killed(images: Tensor) -> Tensor:
        raise AssertionError("nothing is computed twice")

    data = (inside, torch.zeros(5, dtype=torch.int64))
    how = {"n_out": 3, "batch_size": 2, "keep": keep, "advance": told.append}
    first = anomaly(confident, data, outside, **how)
    assert sorted(stored) == ["anomaly/in/0", "anomaly/in/1", "anomaly/in/2", "anomaly/out/0", "anomaly/out/1"]
    assert told == ["anomaly"] * 5
    assert anomaly(killed, data, outside, **how).to_json() == first.to_json()


# ---------------------------------------------------------------- bad input


def test_refuses_bad_scores():
    good = torch.rand(4)
    for arguments, error, message in [
        (([0.5], good), TypeError, "confidence_in must be a floating point tensor, got list"),
        ((good, good.long()), TypeError, r"confidence_out must be a floating point tensor, got torch\.int64"),
        ((good[:0], good), ValueError, r"confidence_in must have shape \(n,\) with n of 1 or more, got \(0,\)"),
        ((good, good[None]), ValueError, r"confidence_out must have shape .* got \(1, 4\)"),
        ((good + 1, good), ValueError, r"confidence_in must lie in \[0, 1\]"),
        ((good, good - 1), ValueError, r"confidence_out must lie in \[0, 1\]"),
        ((good, good * math.nan), ValueError, r"confidence_out must lie in \[0, 1\], got nan to nan"),
    ]:
        with pytest.raises(error, match=message):
            AnomalyScores(*arguments)


def test_refuses_bad_input():
    data = (torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64))
    other = torch.rand(3, 1, 4, 4)
    for change, error, message in [
        ({"n": 6}, ValueError, "n must be at most the 5 images of the data set, got 6"),
        ({"n_out": 4}, ValueError, "n_out must be at most the 3 images of the data set, got 4"),
        ({"n_out": 0}, ValueError, "n_out must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 to 2147483647, got 0"),
        ({"seed": 0.5}, TypeError, "seed must be an int, got float"),
    ]:
        with pytest.raises(error, match=message):
            anomaly(confident, data, other, **change)
    with pytest.raises(ValueError, match=r"out_of_distribution must have .* \(1, 4, 4\), got \(3, 4, 4\)"):
        anomaly(confident, data, torch.rand(3, 3, 4, 4))
    with pytest.raises(FloatingPointError, match="not finite"):
        anomaly(lambda images: confident(images) * math.inf, data, other)
    with pytest.raises(ValueError, match=r"model must return logits of shape \(5, classes\)"):
        anomaly(lambda images: images, data, other)
    with pytest.raises(TypeError, match="model must be"):
        anomaly("resnet", data, other)


def test_names_the_extra_when_scikit_learn_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mixaug\[train\]"'):
        _ = AnomalyScores(torch.rand(3), torch.rand(3)).auroc


# ---------------------------------------------------------------- figure


def test_the_histograms_are_shares_of_each_group(monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    drawn = []
    plain = Axes.stairs
    monkeypatch.setattr(Axes, "stairs", lambda self, values, *rest, **how: drawn.append(values) or plain(
        self, values, *rest, **how))  # fmt: skip
    scores = AnomalyScores(torch.tensor([1.0, 0.99, 0.5, 0.0]), torch.tensor([0.02, 0.03]))
    figure = anomaly_figure(scores)
    assert figure.png.startswith(b"\x89PNG") and "AUROC" in figure.caption and "33.3%" in figure.caption
    inside, outside = np.array(drawn[0]), np.array(drawn[2])
    assert inside.sum() == pytest.approx(100) and outside.sum() == pytest.approx(100)
    assert (inside[24], inside[12], inside[0], outside[0]) == pytest.approx((50, 25, 25, 100))
