"""Labels: whether they fit, and what mixing and smoothing make of them. Where they are, `sample` finds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixaug._checks import MAX_CLASSES, check_dense, check_int, check_label_values, check_number


def smooth_labels(labels: Tensor, num_classes: int | None, smoothing: float) -> Tensor:
    r"""Labels as smoothed probabilities.

    .. math:: \bar y = (1 - \alpha)\, y + \alpha / K

    (Szegedy et al., 2016, arXiv:1512.00567), with :math:`y` one-hot, or probabilities as they are.

    Convention:
        float32 whatever the labels' dtype, on their device.

    Args:
        labels: class indices or probabilities.
        num_classes: ``K``; None: as many as probabilities have columns.
        smoothing: ``alpha`` in ``[0, 1]``; 0 changes nothing.

    Shape:
        labels: ``(B,)`` of an integer dtype in ``[0, K)``, or ``(B, K)`` whose rows sum to 1.

    Returns:
        ``(B, K)`` float32, rows sum to 1.

    Raises:
        TypeError: labels are not a tensor of those dtypes.
        ValueError: another shape, ``num_classes`` missing, ``smoothing`` out of range; on the CPU also class indices
            out of range and rows that do not sum to 1 (elsewhere that would make the host wait for the device).

    Example:
        >>> smooth_labels(torch.tensor([1]), 4, 0.1)
        tensor([[0.0250, 0.9250, 0.0250, 0.0250]])
    """
    smoothing = check_number("smoothing", smoothing, 0.0, 1.0)
    num_classes = check_classes(num_classes)
    classes = check_labels(labels, num_classes)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        check_label_values(labels, classes)
    return smooth(probabilities(labels, classes), smoothing)


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """``(1 - smoothing) targets + smoothing / K``: the one place where labels are smoothed.

    Args:
        targets: ``(B, K)`` float32 probabilities.
        smoothing: in ``[0, 1]``.

    Example:
        >>> smooth(torch.tensor([[1.0, 0.0]]), 0.5)
        tensor([[0.7500, 0.2500]])
    """
    if not smoothing:
        return targets
    return (targets * (1.0 - smoothing)).add_(smoothing / max(1, targets.shape[1]))


def mix_labels(targets: Tensor, lam: Tensor, index: Tensor, beta: Tensor) -> Tensor:
    """``lam y + (1 - lam) (beta y_a + (1 - beta) y_b)`` with the partners' rows from the same batch.

    Args:
        targets: ``(B, K)`` float32 probabilities.
        lam: ``(B,)`` weight of the row itself.
        index: ``(B, 2)`` rows of the partners a and b.
        beta: ``(B,)`` weight of a against b.

    Example:
        >>> one_hot, index = torch.eye(3), torch.tensor([[1, 2], [2, 0], [0, 1]])
        >>> mix_labels(one_hot, torch.full((3,), 0.5), index, torch.full((3,), 0.75))[0]
        tensor([0.5000, 0.3750, 0.1250])
    """
    lam, beta = lam[:, None], beta[:, None]
    inside = targets[index[:, 0]] * beta + targets[index[:, 1]] * (1.0 - beta)
    return targets * lam + inside * (1.0 - lam)


def probabilities(labels: Tensor, num_classes: int) -> Tensor:
    """Checked labels as float32 probabilities; a new tensor, or the labels themselves if they are that already.

    Args:
        labels: ``(B,)`` class indices or ``(B, K)``.
        num_classes: ``K``.

    Example:
        >>> probabilities(torch.tensor([2]), 3)
        tensor([[0., 0., 1.]])
    """
    if labels.ndim == 2:
        return labels.to(torch.float32)
    # Compared, not scattered: no host synchronisation, the same bits on every device.
    return (labels.long()[:, None] == torch.arange(num_classes, device=labels.device)).to(torch.float32)


def check_labels(labels: Any, num_classes: int | None, images: Tensor | None = None) -> int:
    """Checks kind, dtype, shape and device of labels without reading them.

    Args:
        labels: what was found as labels.
        num_classes: as given by the user.
        images: batch that they belong to.

    Returns:
        the number of classes.

    Raises:
        TypeError: not a tensor, or a dtype that labels cannot have.
        ValueError: a shape, number of classes or device that does not fit.

    Example:
        >>> check_labels(torch.eye(3), None)
        3
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
    check_dense("labels", labels)
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim not in (1, 2):
        raise ValueError(
            "labels must be class indices of shape (B,) or probabilities of shape (B, K), "
            f"got shape {tuple(labels.shape)}"
        )
    if not (whole if labels.ndim == 1 else whole or labels.is_floating_point()):
        kind = "class indices (B,) must be integers" if labels.ndim == 1 else "probabilities (B, K) must be floating"
        raise TypeError(f"labels: {kind}, got {labels.dtype} of shape {tuple(labels.shape)}")
    if images is not None:
        if labels.device != images.device:
            raise ValueError(f"labels must be on the images' device {images.device}, got {labels.device}")
        if labels.shape[0] != images.shape[0]:
            raise ValueError(f"labels must be {len(images)}, one for each image, got {len(labels)}")
    if labels.ndim == 1:
        if num_classes is None:
            raise ValueError("num_classes must be given when labels are class indices, got None")
        return num_classes
    if num_classes is not None and labels.shape[1] != num_classes:
        raise ValueError(f"labels must have num_classes={num_classes} columns, got {labels.shape[1]}")
    return labels.shape[1]


def check_classes(num_classes: Any) -> int | None:
    """``num_classes`` as an int of at least 1, or None.

    Args:
        num_classes: what was given.

    Example:
        >>> check_classes(10)
        10
    """
    return None if num_classes is None else check_int("num_classes", num_classes, 1, MAX_CLASSES)
