"""Losses: hand values, the papers' formulas written out, gradients, dtypes, refusals."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

from mixaug.losses import AdaptiveLoss, EpsSchedule, jensen_shannon, soft_target_cross_entropy, trades_loss


def random_logits(rows: int = 5, classes: int = 7, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=generator, dtype=torch.float64).mul(3).to(dtype)


def random_targets(rows: int = 5, classes: int = 7) -> torch.Tensor:
    return random_logits(rows, classes, seed=9, dtype=torch.float64).softmax(1)


# --- soft_target_cross_entropy ------------------------------------------------------------------------------------


def test_soft_target_hand_value() -> None:
    # softmax of (log 1, log 3) is (1/4, 3/4).
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    targets = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    first = -(0.2 * math.log(0.25) + 0.8 * math.log(0.75))
    second = -math.log(0.25)
    torch.testing.assert_close(soft_target_cross_entropy(logits, targets, "none"), torch.tensor([first, second]))
    assert soft_target_cross_entropy(logits, targets).item() == pytest.approx((first + second) / 2, rel=1e-6)
    assert soft_target_cross_entropy(logits, targets, "sum").item() == pytest.approx(first + second, rel=1e-6)


def test_soft_target_is_the_mixture_of_two_hard_losses() -> None:
    logits, one, two, lam = random_logits(), torch.arange(5), torch.tensor([6, 5, 4, 3, 2]), 0.3
    mixed = lam * F.one_hot(one, 7) + (1 - lam) * F.one_hot(two, 7)
    expected = lam * F.cross_entropy(logits, one) + (1 - lam) * F.cross_entropy(logits, two)
    torch.testing.assert_close(soft_target_cross_entropy(logits, mixed), expected)


def test_class_indices_give_the_usual_cross_entropy() -> None:
    logits, labels = random_logits(), torch.arange(5)
    torch.testing.assert_close(soft_target_cross_entropy(logits, labels), F.cross_entropy(logits, labels))


def test_soft_target_gradients() -> None:
    logits = random_logits(dtype=torch.float64).requires_grad_()
    targets = random_targets().requires_grad_()
    assert torch.autograd.gradcheck(soft_target_cross_entropy, (logits, targets))


def test_soft_target_bad_input() -> None:
    logits = random_logits()
    with pytest.raises(TypeError, match="logits must be a tensor, got list"):
        soft_target_cross_entropy([[0.0]], torch.zeros(1, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="targets must be a tensor, got int"):
        soft_target_cross_entropy(logits, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"targets must be floating .* got torch.int32"):
        soft_target_cross_entropy(logits, torch.zeros(5, dtype=torch.int32))
    with pytest.raises(TypeError, match=r"logits must be a tensor of floating point, got torch.int64"):
        soft_target_cross_entropy(logits.long(), torch.zeros(5, 7))
    with pytest.raises(ValueError, match=r"targets of probabilities must have logits' shape \(5, 7\), got \(5, 6\)"):
        soft_target_cross_entropy(logits, torch.zeros(5, 6))
    with pytest.raises(ValueError, match=r"targets of class indices must have the shape \(5,\), got \(4,\)"):
        soft_target_cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none, got 'average'"):
        soft_target_cross_entropy(logits, random_targets(), "average")
    with pytest.raises(ValueError, match=r"logits must have the shape \(B, K\), got \(7,\)"):
        soft_target_cross_entropy(logits[0], torch.zeros(7))


# --- jensen_shannon -----------------------------------------------------------------------------------------------


def augmix_formula(*logits: torch.Tensor) -> torch.Tensor:
    """The formula of the paper, on probabilities, one row at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(logits[0])):
        probabilities = [view[row].double().softmax(0) for view in logits]
        mixture = (sum(probabilities) / 3).clamp(1e-7, 1.0)
        total += sum((p * (p.log() - mixture.log())).sum() for p in probabilities) / 3
    return total / len(logits[0])


def test_jensen_shannon_is_the_papers_formula() -> None:
    views = [random_logits(seed=seed, dtype=torch.float64) for seed in range(3)]
    torch.testing.assert_close(jensen_shannon(*views), augmix_formula(*views))


def test_jensen_shannon_hand_values() -> None:
    same = random_logits()
    assert jensen_shannon(same, same, same).item() == pytest.approx(0.0, abs=1e-6)
    # Three certain views that disagree: each KL is log 3.
    certain = [1000.0 * F.one_hot(torch.tensor([label]), 3).float() for label in range(3)]
    assert jensen_shannon(*certain).item() == pytest.approx(math.log(3.0), rel=1e-6)
    # Two agree on (1, 0), one on (0, 1): mixture (2/3, 1/3).
    two = [1000.0 * F.one_hot(torch.tensor([label]), 2).float() for label in (0, 0, 1)]
    assert jensen_shannon(*two).item() == pytest.approx((2 * math.log(1.5) + math.log(3.0)) / 3, rel=1e-6)


def test_jensen_shannon_does_not_depend_on_the_order_and_is_a_mean_over_rows() -> None:
    one, two, three = (random_logits(seed=seed) for seed in range(3))
    torch.testing.assert_close(jensen_shannon(one, two, three), jensen_shannon(three, one, two))
    rows = torch.stack([jensen_shannon(one[i : i + 1], two[i : i + 1], three[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(jensen_shannon(one, two, three), rows.mean())


def test_jensen_shannon_gradients() -> None:
    views = tuple(
        random_logits(rows=3, classes=4, seed=seed, dtype=torch.float64).requires_grad_() for seed in range(3)
    )
    assert torch.autograd.gradcheck(jensen_shannon, views)


def test_extreme_logits_have_finite_gradients() -> None:
    views = [(10_000.0 * F.one_hot(torch.tensor([label]), 3).float()).requires_grad_() for label in range(3)]
    jensen_shannon(*views).backward()
    assert all(view.grad is not None and view.grad.isfinite().all() for view in views)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    views = [random_logits(seed=seed, dtype=dtype) for seed in range(3)]
    loss = jensen_shannon(*views)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, jensen_shannon(*(view.float() for view in views)))
    targets = random_targets().float()
    soft = soft_target_cross_entropy(views[0], targets)
    assert soft.dtype == torch.float32
    torch.testing.assert_close(soft, soft_target_cross_entropy(views[0].float(), targets))


def test_empty_batch_is_zero() -> None:
    empty = torch.zeros(0, 3)
    assert jensen_shannon(empty, empty, empty).item() == 0.0
    assert soft_target_cross_entropy(empty, empty).item() == 0.0
    assert soft_target_cross_entropy(empty, empty, "none").shape == (0,)


def test_inputs_are_not_written() -> None:
    views = [random_logits(seed=seed) for seed in range(3)]
    targets = random_targets()
    jensen_shannon(*views)
    soft_target_cross_entropy(views[0], targets)
    assert [tensor._version for tensor in (*views, targets)] == [0, 0, 0, 0]


def test_jensen_shannon_bad_input() -> None:
    logits = random_logits()
    with pytest.raises(ValueError, match=r"logits_two must have the shape of logits_clean \(5, 7\), got \(4, 7\)"):
        jensen_shannon(logits, logits, logits[:4])
    with pytest.raises(TypeError, match="logits_one must be a tensor, got NoneType"):
        jensen_shannon(logits, None, logits)  # type: ignore[arg-type]


# --- trades_loss --------------------------------------------------------------------------------------------------


def test_trades_hand_value() -> None:
    # p = (1/4, 3/4) clean, (1/2, 1/2) adversarial: CE = -log 3/4, KL = 1/4 log 1/2 + 3/4 log 3/2.
    clean, adv = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[2.0, 2.0]])
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    expected = -math.log(0.75) + 2.5 * divergence
    assert trades_loss(clean, adv, torch.tensor([1]), beta=2.5).item() == pytest.approx(expected, rel=1e-6)
    assert trades_loss(clean, adv, torch.tensor([1])).item() == pytest.approx(-math.log(0.75) + 6 * divergence)


def test_trades_is_the_authors_formula() -> None:
    """Their code: KL summed by ``kl_div(log q, p)`` and divided by the batch size."""
    clean, adv, labels = random_logits(seed=1), random_logits(seed=2), torch.arange(5)
    robust = torch.nn.KLDivLoss(reduction="sum")(F.log_softmax(adv, dim=1), F.softmax(clean, dim=1)) / 5
    torch.testing.assert_close(trades_loss(clean, adv, labels), F.cross_entropy(clean, labels) + 6.0 * robust)
    targets = random_targets().float()
    torch.testing.assert_close(trades_loss(clean, adv, targets, 0.0), soft_target_cross_entropy(clean, targets))
    assert (trades_loss(adv, clean, labels) - trades_loss(clean, adv, labels)).abs() > 0.1  # the KL has a direction


def test_trades_gradients_reach_both() -> None:
    clean = random_logits(rows=3, classes=4, dtype=torch.float64).requires_grad_()
    adv = random_logits(rows=3, classes=4, seed=1, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda one, two: trades_loss(one, two, labels, 6.0), (clean, adv))


def test_trades_bad_input() -> None:
    logits, labels = random_logits(), torch.arange(5)
    with pytest.raises(ValueError, match=r"logits_adv must have the shape of logits_clean \(5, 7\), got \(4, 7\)"):
        trades_loss(logits, logits[:4], labels)
    with pytest.raises(TypeError, match="logits_adv must be a tensor, got list"):
        trades_loss(logits, [1.0], labels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"beta must be finite and at least 0, got -1\.0"):
        trades_loss(logits, logits, labels, -1.0)
    with pytest.raises(TypeError, match="beta must be a number, got str"):
        trades_loss(logits, logits, labels, "6")  # type: ignore[arg-type]


# --- AdaptiveLoss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "adv", "alpha"), [(0.9, 0.3, 0.25), (0.8, 0.8, 0.5), (1.0, 0.0, 0.0), (0.0, 0.0, 0.5), (0.0, 0.4, 1.0)]
)
def test_alpha_is_the_share_of_the_adversarial_accuracy(clean: float, adv: float, alpha: float) -> None:
    criterion = AdaptiveLoss()
    assert criterion.alpha == 0.5
    assert criterion.update(clean, adv) == pytest.approx(alpha) and criterion.alpha == pytest.approx(alpha)
    one, two, labels = random_logits(seed=1), random_logits(seed=2), torch.arange(5)
    expected = alpha * F.cross_entropy(one, labels) + (1 - alpha) * F.cross_entropy(two, labels)
    torch.testing.assert_close(criterion(one, two, labels), expected)


def test_alpha_is_kept_with_the_model() -> None:
    model = torch.nn.ModuleDict({"criterion": AdaptiveLoss()})
    model["criterion"].update(0.75, 0.25)
    again = torch.nn.ModuleDict({"criterion": AdaptiveLoss()})
    again.load_state_dict(model.state_dict())
    assert again["criterion"].alpha == 0.25 and "alpha=0.25" in repr(again)
    assert list(again.parameters()) == []


def test_adaptive_loss_bad_input() -> None:
    criterion, logits = AdaptiveLoss(), random_logits()
    for values in ((1.2, 0.5), (0.5, -0.1), (math.nan, 0.5)):
        with pytest.raises(ValueError, match=r"accuracy_\w+ must be from 0 to 1, got"):
            criterion.update(*values)
    with pytest.raises(TypeError, match="accuracy_adv must be a number, got None"):
        criterion.update(0.5, None)  # type: ignore[arg-type]
    assert criterion.alpha == 0.5
    with pytest.raises(ValueError, match=r"logits_adv must have the shape of logits_clean"):
        criterion(logits, logits[:, :3], torch.arange(5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adversarial_losses_in_half_precision_and_on_nothing(dtype: torch.dtype) -> None:
    clean, adv, labels = random_logits(dtype=dtype), random_logits(seed=1, dtype=dtype), torch.arange(5)
    for criterion in (trades_loss, AdaptiveLoss()):
        loss = criterion(clean, adv, labels)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, criterion(clean.float(), adv.float(), labels))
        assert criterion(clean[:0], adv[:0], labels[:0]).item() == 0.0
    assert [clean._version, adv._version, labels._version] == [0, 0, 0]


# --- EpsSchedule --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["linear", "cosine", "step"])
@pytest.mark.parametrize("epochs", [2, 3, 5, 7, 10, 50])
def test_the_radius_rises_from_a_tenth_to_eps(shape: str, epochs: int) -> None:
    schedule = EpsSchedule(0.03, epochs, shape=shape)
    radii = [schedule(epoch) for epoch in range(epochs + 3)]
    assert radii[0] == pytest.approx(0.003) and radii[epochs - 1 :] == [0.03] * 4
    assert radii == sorted(radii)
    assert all(isinstance(radius, float) for radius in radii)


def test_the_shapes_of_the_schedule() -> None:
    linear, cosine = EpsSchedule(1.0, 11), EpsSchedule(1.0, 11, start=0.0, shape="cosine")
    assert [linear(e) for e in range(11)] == pytest.approx([0.1 + 0.09 * e for e in range(11)])
    assert [cosine(e) for e in range(11)] == pytest.approx([(1 - math.cos(math.pi * e / 10)) / 2 for e in range(11)])
    stairs = EpsSchedule(1.0, 10, start=0.0, shape="step")
    assert [stairs(e) for e in range(10)] == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1]
    assert {EpsSchedule(8 / 255, 9, shape="constant")(e) for e in range(9)} == {8 / 255}
    assert EpsSchedule(8 / 255, 1)(0) == 8 / 255


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ((-0.1, 5), ValueError, "eps must be finite and at least 0, got -0.1"),
        ((math.inf, 5), ValueError, "eps must be finite and at least 0, got inf"),
        (("8", 5), TypeError, "eps must be a number, got str: '8'"),
        ((0.1, 0), ValueError, "epochs must be from 1 to 2147483647, got 0"),
        ((0.1, 2.5), TypeError, "epochs must be an int, got float: 2.5"),
        ((0.1, 5, 0.2), ValueError, "start must be from 0 to 0.1, got 0.2"),
        (
            (0.1, 5, None, "sine"),
            ValueError,
            "shape must be one of linear, cosine, step, constant, got 'sine'; did you mean 'cosine'?",
        ),
    ],
)
def test_schedules_that_are_refused(values: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        EpsSchedule(*values)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        EpsSchedule(0.1, 5)(-1)
    with pytest.raises(TypeError, match="epoch must be an int, got float"):
        EpsSchedule(0.1, 5)(1.0)  # type: ignore[arg-type]
