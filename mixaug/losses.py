"""Losses for mixed labels, for several views of one image, and for adversarial training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixaug._checks import (
    MAX_COUNT,
    check_choice,
    check_field,
    check_finite,
    check_flag,
    check_int,
    check_label_values,
    check_number,
    check_tensor,
)

__all__ = [
    "SHAPES",
    "AdaptiveLoss",
    "EpsSchedule",
    "jensen_shannon",
    "soft_target_cross_entropy",
    "trades_loss",
]


# AugMix clamps the mixture here before its logarithm: a class that no view believes in adds no infinite gradient.
_SMALLEST_PROBABILITY = 1e-7


def soft_target_cross_entropy(
    logits: Tensor, targets: Tensor, reduction: str = "mean", *, check_values: bool | None = None
) -> Tensor:
    r"""Cross-entropy against probabilities, the loss of labels that were mixed or smoothed.

    .. math:: L = -\frac{1}{B} \sum_{b} \sum_{k} t_{bk} \log \mathrm{softmax}(z_b)_k

    For a mixture of two labels, :math:`t = \lambda\,e_i + (1-\lambda)\,e_j`, it is the mixture of the two losses of
    mixup (Zhang et al., 2018, arXiv:1710.09412, section 2).

    Convention: the mean is over the rows, not over the classes; whole numbers are taken as class indices, for which the
    loss is the usual cross-entropy. Half-precision logits are computed in float32 and the loss is float32.

    Args:
        logits: unnormalised scores of the model.
        targets: probabilities whose rows sum to one (not checked here: that would make the device wait for the host),
            or class indices.
        reduction: "mean" (default), "sum" or "none".
        check_values: whether NaN and infinite logits and targets out of range are refused; None (default): those of
            tensors on the CPU, where reading them waits for nothing. Never in a compiled graph.

    Shape: logits (B, K) float16, bfloat16, float32 or float64; targets (B, K) of a floating dtype in [0, 1], or (B,)
        int64 in [0, K).

    Returns:
        Tensor: a scalar, or (B,) for ``reduction="none"``; float32, float64 for float64 logits. The mean of no
            rows is 0.

    Raises:
        TypeError: an argument is not a tensor, logits are not floating, or targets are of neither kind.
        ValueError: the shapes do not fit together, the reduction is unknown; values that ``check_values`` reads are
            not finite, no classes or no probabilities.

    Note:
        ``torch.nn.functional.cross_entropy`` gives the same for matching dtypes; this one also takes float32 labels
        with half-precision logits and returns 0, not NaN, for an empty batch.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> round(soft_target_cross_entropy(logits, torch.tensor([[0.3, 0.7]])).item(), 4)
        0.6931
    """
    _check_logits("logits", logits)
    check_tensor("targets", targets)
    reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))
    check = _reads(check_values, logits)
    if check:
        check_finite("logits", logits)
    log_probabilities = F.log_softmax(_at_least_float32(logits), dim=1)
    if targets.is_floating_point():
        if targets.shape != logits.shape:
            raise ValueError(
                f"targets of probabilities must have logits' shape {tuple(logits.shape)}, got {tuple(targets.shape)}"
            )
        if check:
            check_label_values(targets, logits.shape[1], "targets")
        rows = -(targets.to(log_probabilities.dtype) * log_probabilities).sum(dim=1)
    elif targets.dtype == torch.int64:
        if targets.shape != logits.shape[:1]:
            raise ValueError(
                f"targets of class indices must have the shape ({len(logits)},), got {tuple(targets.shape)}"
            )
        if check:
            check_label_values(targets, logits.shape[1], "targets")
        rows = -log_probabilities.gather(1, targets.unsqueeze(1)).squeeze(1)
    else:
        raise TypeError(f"targets must be floating probabilities or int64 class indices, got {targets.dtype}")
    if reduction == "none":
        return rows
    total = rows.sum()
    return total if reduction == "sum" else total / max(len(rows), 1)


def jensen_shannon(
    logits_clean: Tensor, logits_one: Tensor, logits_two: Tensor, *, check_values: bool | None = None
) -> Tensor:
    r"""Jensen-Shannon consistency of the predictions for a clean image and two augmented views of it.

    .. math::
        M = \mathrm{clamp}\bigl(\tfrac13 (p_0 + p_1 + p_2),\ 10^{-7},\ 1\bigr), \qquad
        JS = \tfrac13 \sum_{v=0}^{2} \frac1B \sum_b KL(p_{v,b} \,\|\, M_b)

    Hendrycks et al., "AugMix", 2020, arXiv:1912.02781, section 3. AugMix, PixMix and IPMix train with
    ``cross_entropy(logits_clean, labels) + 12 * jensen_shannon(...)``.

    Convention: the mean is over the rows and over the three views; nats; between 0 (all three agree) and log 3. The
    gradient flows into all three arguments. Half-precision logits are computed in float32.

    Args:
        logits_clean: unnormalised scores for the clean images.
        logits_one: scores for the first augmented view, row by row of the same images.
        logits_two: scores for the second augmented view.
        check_values: as :func:`soft_target_cross_entropy`'s.

    Shape: each (B, K), float16, bfloat16, float32 or float64, on one device.

    Returns:
        Tensor: a scalar, float32, or float64 for float64 logits. 0 for an empty batch.

    Raises:
        TypeError: an argument is not a floating tensor.
        ValueError: an argument is not 2-D or the three shapes differ.

    Note:
        Probabilities stay in logarithms (``log_softmax``, ``log_target=True``), so that a probability that underflows
        adds 0 and no NaN gradient; AugMix's own code takes softmax first. The values agree.

    Example:
        >>> agree = torch.tensor([[2.0, 0.0]])
        >>> jensen_shannon(agree, agree, agree).item() < 1e-6
        True
    """
    views = {"logits_clean": logits_clean, "logits_one": logits_one, "logits_two": logits_two}
    for name, logits in views.items():
        _check_logits(name, logits)
        if logits.shape != logits_clean.shape:
            raise ValueError(
                f"{name} must have the shape of logits_clean {tuple(logits_clean.shape)}, got {tuple(logits.shape)}"
            )
        if _reads(check_values, logits):
            check_finite(name, logits)
    logs = [F.log_softmax(_at_least_float32(logits), dim=1) for logits in views.values()]
    mixture = sum((log.exp() for log in logs[1:]), start=logs[0].exp()) / 3
    log_mixture = mixture.clamp(_SMALLEST_PROBABILITY, 1.0).log()
    total = sum(
        (F.kl_div(log_mixture, log, reduction="sum", log_target=True) for log in logs[1:]),
        start=F.kl_div(log_mixture, logs[0], reduction="sum", log_target=True),
    )
    return total / (3 * max(len(logits_clean), 1))


def trades_loss(
    logits_clean: Tensor, logits_adv: Tensor, labels: Tensor, beta: float = 6.0, *, check_values: bool | None = None
) -> Tensor:
    r"""Cross-entropy of the clean images plus the divergence of the predictions for their adversarial copies.

    .. math:: L = \frac1B \sum_b CE(z_b, y_b) + \frac{\beta}{B} \sum_b KL(p_b \,\|\, p'_b), \qquad
        p = \mathrm{softmax}(z),\ p' = \mathrm{softmax}(z')

    Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, "Theoretically principled trade-off between robustness and accuracy"
    (TRADES), 2019, arXiv:1901.08573, section 5.

    Convention: both means are over the rows; nats. The gradient flows into both sets of logits, as in the authors'
    code. Half-precision logits are computed in float32.

    Args:
        logits_clean: unnormalised scores z for the clean images.
        logits_adv: scores z' for their adversarial copies, row by row, such as those of
            ``mixaug.attacks.KLPGD``.
        labels: class indices, or probabilities whose rows sum to one.
        beta: weight of the divergence, 0 or more; default 6.
        check_values: as :func:`soft_target_cross_entropy`'s.

    Shape: logits (B, K) float16, bfloat16, float32 or float64; labels (B,) int64 in [0, K) or (B, K) floating.

    Returns:
        Tensor: a scalar, float32, or float64 for float64 logits. 0 for an empty batch.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: the shapes do not fit together, or beta is negative or not finite.

    Note:
        The authors' code runs the model twice on the clean images, once for each term; here the same logits serve both.

    Example:
        >>> clean, adv = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> round(trades_loss(clean, adv, torch.tensor([0])).item(), 4)
        0.6931
    """
    _check_pair(logits_clean, logits_adv)
    beta = check_number("beta", beta, 0.0)
    if _reads(check_values, logits_clean):
        check_finite("logits_clean", logits_clean)
        check_finite("logits_adv", logits_adv)
    clean, adv = (F.log_softmax(_at_least_float32(logits), dim=1) for logits in (logits_clean, logits_adv))
    divergence = F.kl_div(adv, clean, reduction="sum", log_target=True) / max(len(clean), 1)
    return soft_target_cross_entropy(logits_clean, labels, check_values=check_values) + beta * divergence


class AdaptiveLoss(nn.Module):
    r"""Cross-entropy of clean images and of their adversarial copies, weighed by the accuracies on both.

    .. math:: L = \alpha\,L_{clean} + (1-\alpha)\,L_{adv}, \qquad
        \alpha = \frac{Acc_{adv}}{Acc_{adv} + Acc_{clean}}

    Delviz et al., "Advanced techniques for strengthening adversarial robustness in deep learning models", 2024, section
    3.2. The fewer adversarial images are right, the more they weigh.

    Convention: both losses are means over the rows. ``alpha`` is a plain number, the same for every row: 0.5 until
    :meth:`update` is called, and again when both accuracies are 0. It is part of ``state_dict()``.

    Shape: calling the object with ``(logits_clean, logits_adv, labels)``: logits (B, K) floating, labels (B,) int64 in
        [0, K) or (B, K) floating probabilities.

    Returns:
        Calling gives a scalar Tensor, float32, or float64 for float64 logits. 0 for an empty batch.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: the shapes do not fit together; an accuracy outside [0, 1].

    Note:
        The paper measures the accuracies "on the validation sets" after each epoch. Never use the test part for it:
        alpha is chosen by what it is measured on.

    Example:
        >>> criterion = AdaptiveLoss()
        >>> criterion.alpha
        0.5
        >>> criterion.update(accuracy_clean=0.9, accuracy_adv=0.3)
        0.25
        >>> criterion(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item()
        0.6931471824645996
    """

    def __init__(self) -> None:
        super().__init__()
        #: Weight of the clean loss, in [0, 1].
        self.alpha = 0.5

    def update(self, accuracy_clean: float, accuracy_adv: float) -> float:
        """Sets ``alpha`` from the accuracies of an epoch, each in [0, 1], and returns it."""
        accuracy_clean = check_number("accuracy_clean", accuracy_clean, 0.0, 1.0)
        accuracy_adv = check_number("accuracy_adv", accuracy_adv, 0.0, 1.0)
        total = accuracy_adv + accuracy_clean
        self.alpha = accuracy_adv / total if total > 0 else 0.5
        return self.alpha

    def forward(
        self, logits_clean: Tensor, logits_adv: Tensor, labels: Tensor, *, check_values: bool | None = None
    ) -> Tensor:
        """The loss of a batch; ``check_values`` as :func:`soft_target_cross_entropy`'s."""
        _check_pair(logits_clean, logits_adv)
        clean = soft_target_cross_entropy(logits_clean, labels, check_values=check_values)
        adversarial = soft_target_cross_entropy(logits_adv, labels, check_values=check_values)
        return self.alpha * clean + (1 - self.alpha) * adversarial

    def get_extra_state(self) -> Tensor:
        """What ``state_dict()`` keeps: alpha."""
        return torch.tensor(self.alpha, dtype=torch.float64)

    def set_extra_state(self, state: Tensor | Mapping[str, Any]) -> None:
        """Restores it; earlier versions kept a dict."""
        self.alpha = float(state["alpha"] if isinstance(state, Mapping) else state)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"alpha={self.alpha:g}"


def _check_pair(logits_clean: Tensor, logits_adv: Tensor) -> None:
    _check_logits("logits_clean", logits_clean)
    _check_logits("logits_adv", logits_adv)
    if logits_adv.shape != logits_clean.shape:
        raise ValueError(
            f"logits_adv must have the shape of logits_clean {tuple(logits_clean.shape)}, got {tuple(logits_adv.shape)}"
        )


def _reads(check_values: bool | None, logits: Tensor) -> bool:
    """Whether values are read: reading those of a GPU would make the host wait, and a compiled graph has none."""
    if check_values is None:
        return logits.device.type == "cpu" and type(logits) is Tensor and not torch.compiler.is_compiling()
    return check_flag("check_values", check_values) and not torch.compiler.is_compiling()


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _check_logits(name: str, logits: Tensor) -> None:
    check_tensor(name, logits, floating=True)
    if logits.ndim != 2:
        raise ValueError(f"{name} must have the shape (B, K), got {tuple(logits.shape)}")


#: How the radius rises; ``constant`` is the full radius from the first epoch on.
SHAPES = ("linear", "cosine", "step", "constant")


@dataclass(frozen=True)
class EpsSchedule:
    r"""The adversary's radius for each epoch: from a tenth of ``eps`` in the first one to ``eps`` in the last.

    .. math:: eps_e = start + (eps - start)\,s(t), \qquad t = e / (epochs - 1)

    with :math:`s(t) = t` (linear), :math:`(1 - \cos \pi t) / 2` (cosine) or :math:`\lfloor 5 e / epochs \rfloor / 4`
    (step: five equal stairs). Delviz et al., "Advanced techniques for strengthening adversarial robustness in deep
    learning models", 2024, Algorithm 1, which starts at ``eps / 10`` and leaves the shape open.

    Convention: one value an epoch, in the units of ``eps`` (pixels of images in [0, 1]); the first epoch is 0. From
    epoch ``epochs - 1`` on it is ``eps`` exactly; a schedule of a single epoch is ``eps``.

    Args:
        eps: the full radius, 0 or more.
        epochs: over which the radius rises, at least 1.
        start: radius of the first epoch, in [0, eps]; default None: ``eps / 10``.
        shape: ``"linear"`` (default), ``"cosine"``, ``"step"``, or ``"constant"`` for ``eps`` in every epoch.

    Returns:
        Calling the object with the number of an epoch, from 0, gives its radius, a float.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a value out of range or an unknown shape.

    Note:
        With fewer than five epochs ``step`` has as many stairs as epochs.

    Example:
        >>> schedule = EpsSchedule(eps=0.03, epochs=10)
        >>> [round(schedule(epoch), 4) for epoch in (0, 1, 9, 20)]
        [0.003, 0.006, 0.03, 0.03]
    """

    eps: float
    epochs: int
    start: float | None = None
    shape: str = "linear"

    def __post_init__(self) -> None:
        check_field(self, "epochs", check_int, 1, MAX_COUNT)
        check_field(self, "eps", check_number, 0.0)
        check_field(self, "start", check_number, 0.0, self.eps, optional=True)
        check_field(self, "shape", check_choice, SHAPES)

    def __call__(self, epoch: int) -> float:
        """The radius of an epoch, from 0."""
        epoch = check_int("epoch", epoch, 0)
        if self.shape == "constant" or epoch >= self.epochs - 1:
            return float(self.eps)
        if self.shape == "linear":
            rise = epoch / (self.epochs - 1)
        elif self.shape == "cosine":
            rise = (1 - math.cos(math.pi * epoch / (self.epochs - 1))) / 2
        else:
            stairs = min(5, self.epochs)
            rise = (stairs * epoch // self.epochs) / (stairs - 1)
        start = self.eps / 10 if self.start is None else self.start
        return start + (self.eps - start) * rise
