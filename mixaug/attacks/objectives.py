"""What an attack climbs: one loss per image from logits and labels, larger the less the label is believed.

Each takes ``(logits, labels)`` with logits (B, K) in float32 or float64 and gives (B,) losses. Any function of that
form can be the ``objective`` of an attack; a targeted attack goes down the same loss with the target as its label.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixaug._checks import check_dense, check_label_values, check_tensor, kind_of

#: For torch, the class that is ignored: one that no label is.
_NO_CLASS = -(2**62)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy ``-sum_k y_k log softmax(z)_k`` of each image.

    Args:
        logits: (B, K).
        labels: (B,) int64, or (B, K) probabilities.

    Returns:
        (B,) losses, 0 or more. Where the logits are far apart its gradient underflows to exactly 0, so an attack on it
        alone can fail against a model that is only confident; :func:`margin` and :func:`dlr` do not.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.6931])
    """
    if isinstance(labels, Tensor) and labels.ndim == 2:
        _check_rows("labels", logits, labels)
        return nn.functional.cross_entropy(logits, labels.to(logits.dtype), reduction="none")
    _check("cross_entropy", logits, labels, classes=1)
    try:  # torch's own ignored class is -100, which would be a loss of 0
        return nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=_NO_CLASS)
    except (IndexError, RuntimeError):
        _check_classes(logits, labels)
        raise


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Margin ``max_{j != y} z_j - z_y`` of each image, above 0 where it is misclassified.

    Carlini, Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017 (arXiv:1608.04644), its f_6
    without the cut at 0: the gradient goes on after the image is misclassified.

    Args:
        logits: (B, K), 2 classes or more.
        labels: (B,) int64.

    Returns:
        (B,) margins.

    Raises:
        TypeError: labels that are not class indices.
        ValueError: fewer than 2 classes.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([-1.])
    """
    _check("margin", logits, labels, classes=2)
    chosen = labels[:, None]
    try:
        others = logits.scatter(1, chosen, float("-inf"))
    except (IndexError, RuntimeError):
        _check_classes(logits, labels)
        raise
    return others.amax(1) - logits.gather(1, chosen)[:, 0]


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio ``-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))``, z_(i) the i-th largest logit.

    Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020 (arXiv:2003.01690), eq. 6: invariant to shifts and to the scale of the logits.

    Args:
        logits: (B, K), 3 classes or more.
        labels: (B,) int64.

    Returns:
        (B,) losses; at most 1 in size where the label is the largest or second largest logit.

    Raises:
        TypeError: labels that are not class indices.
        ValueError: fewer than 3 classes.

    Example:
        >>> dlr(torch.tensor([[4.0, 3.0, 2.0], [40.0, 30.0, 20.0]]), torch.tensor([0, 0]))
        tensor([-0.5000, -0.5000])
    """
    _check("dlr", logits, labels, classes=3)
    largest = logits.topk(3, dim=1).values
    return margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


def kl(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Divergence ``KL(p || softmax(z)) = sum_k p_k (log p_k - log softmax(z)_k)`` from given probabilities.

    With p the clean prediction this is the inner loss of TRADES: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan,
    "Theoretically principled trade-off between robustness and accuracy", ICML 2019 (arXiv:1901.08573).

    Args:
        logits: (B, K).
        probabilities: (B, K), rows that sum to 1; zeros are allowed.

    Returns:
        (B,) divergences, 0 or more.

    Raises:
        TypeError: class indices instead of probabilities.

    Example:
        >>> kl(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).exp()
        tensor([2.])
    """
    _check_rows("probabilities", logits, probabilities)
    probabilities = probabilities.to(logits.dtype)
    return (torch.xlogy(probabilities, probabilities) - probabilities * logits.log_softmax(1)).sum(1)


def _check(name: str, logits: Tensor, labels: Tensor, classes: int) -> None:
    """Raises unless the labels are of the kind and number that the logits need. Reads no value."""
    check_tensor("logits", logits, 2, floating=True)
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.dtype != torch.int64:
        raise TypeError(f"{name} needs class indices of shape (B,) as labels, got {kind_of(labels)}")
    if len(labels) != len(logits):
        raise ValueError(f"labels must be {len(logits)}, one for each row of logits, got {len(labels)}")
    if logits.shape[1] < classes:
        raise ValueError(f"{name} needs {classes} classes or more, got logits of {logits.shape[1]}")


def _check_classes(logits: Tensor, labels: Tensor) -> None:
    """Says which class was out of range, if that is why torch refused: an attack's step reads no value without need."""
    if labels.device.type == "cpu":
        check_label_values(labels, logits.shape[1])


def _check_rows(name: str, logits: Tensor, rows: Tensor) -> None:
    """Raises unless the rows of probabilities fit the logits."""
    check_tensor("logits", logits, 2, floating=True)
    check_dense(name, rows)
    if rows.ndim != 2 or not rows.is_floating_point():
        raise TypeError(f"{name} must be probabilities of shape (B, classes), got {kind_of(rows)}")
    if rows.shape != logits.shape:
        raise ValueError(f"{name} must have the shape of logits {tuple(logits.shape)}, got {tuple(rows.shape)}")
