"""Losses for mixed labels and for several views of one image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["jensen_shannon", "soft_target_cross_entropy"]

# AugMix clamps the mixture here before its logarithm: a class that no view believes in adds no infinite gradient.
_SMALLEST_PROBABILITY = 1e-7


def soft_target_cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
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

    Shape: logits (B, K) float16, bfloat16, float32 or float64; targets (B, K) of a floating dtype in [0, 1], or (B,)
        int64 in [0, K).

    Returns:
        Tensor: a scalar, or (B,) for ``reduction="none"``; float32, float64 for float64 logits. The mean of no
            rows is 0.

    Raises:
        TypeError: an argument is not a tensor, logits are not floating, or targets are of neither kind.
        ValueError: the shapes do not fit together, or the reduction is unknown.

    Note:
        ``torch.nn.functional.cross_entropy`` gives the same for matching dtypes; this one also takes float32 labels
        with half-precision logits and returns 0, not NaN, for an empty batch.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> round(soft_target_cross_entropy(logits, torch.tensor([[0.3, 0.7]])).item(), 4)
        0.6931
    """
    _check_logits("logits", logits)
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a tensor, got {type(targets).__name__}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    log_probabilities = F.log_softmax(_at_least_float32(logits), dim=1)
    if targets.is_floating_point():
        if targets.shape != logits.shape:
            raise ValueError(
                f"targets of probabilities must have logits' shape {tuple(logits.shape)}, got {tuple(targets.shape)}"
            )
        rows = -(targets.to(log_probabilities.dtype) * log_probabilities).sum(dim=1)
    elif targets.dtype == torch.int64:
        if targets.shape != logits.shape[:1]:
            raise ValueError(
                f"targets of class indices must have the shape ({len(logits)},), got {tuple(targets.shape)}"
            )
        rows = -log_probabilities.gather(1, targets.unsqueeze(1)).squeeze(1)
    else:
        raise TypeError(f"targets must be floating probabilities or int64 class indices, got {targets.dtype}")
    if reduction == "none":
        return rows
    total = rows.sum()
    return total if reduction == "sum" else total / max(len(rows), 1)


def jensen_shannon(logits_clean: Tensor, logits_one: Tensor, logits_two: Tensor) -> Tensor:
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
    logs = [F.log_softmax(_at_least_float32(logits), dim=1) for logits in views.values()]
    mixture = sum((log.exp() for log in logs[1:]), start=logs[0].exp()) / 3
    log_mixture = mixture.clamp(_SMALLEST_PROBABILITY, 1.0).log()
    total = sum(
        (F.kl_div(log_mixture, log, reduction="sum", log_target=True) for log in logs[1:]),
        start=F.kl_div(log_mixture, logs[0], reduction="sum", log_target=True),
    )
    return total / (3 * max(len(logits_clean), 1))


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _check_logits(name: str, logits: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(logits).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be floating, got {logits.dtype}")
    if logits.ndim != 2:
        raise ValueError(f"{name} must have the shape (B, K), got {tuple(logits.shape)}")
