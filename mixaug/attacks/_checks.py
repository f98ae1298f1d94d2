"""Checks of what an adversary is given: models, batches, labels, logits and radii."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixaug._checks import (
    ABOVE_ZERO,
    check_choice,
    check_dense,
    check_field,
    check_length,
    check_number,
    clipped,
)

NORMS = ("linf", "l2")
#: Whether an attack's passes leave the batch norms' running statistics as they are.
BATCH_NORMS = ("still", "moves")


def check_model(model: object) -> None:
    """Raises unless ``model`` is a module: its modes and parameters are looked after, which a function has none of."""
    if not isinstance(model, nn.Module):
        hint = "; wrap it in a torch.nn.Module" if callable(model) else ""
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}{hint}")


def check_radius(attack: object) -> None:
    """Raises unless ``norm`` is known and ``eps`` a radius in it: at most 1 in l-infinity, any finite one in l2.

    An attack without ``norm`` has l-infinity's.

    Args:
        attack: while it is made; its fields become Python's own kinds.
    """
    if hasattr(attack, "norm"):
        check_field(attack, "norm", check_choice, NORMS)
    if getattr(attack, "norm", "linf") == "linf":
        check_field(attack, "eps", check_length)
    else:
        check_field(attack, "eps", check_number, 0.0)


def check_step_size(attack: object) -> None:
    """Raises unless ``step_size`` is above 0 (0 is allowed with ``eps=0``), in l-infinity at most 1, or None."""
    low = 0.0 if vars(attack)["eps"] == 0 else ABOVE_ZERO
    check = check_length if getattr(attack, "norm", "linf") == "linf" else check_number
    check_field(attack, "step_size", check, low, optional=True)


def check_objective(objective: object) -> None:
    """Raises unless ``objective`` can be called."""
    if not callable(objective):
        raise TypeError(f"objective must be a function (logits, labels) -> (B,), got {objective!r}")


def check_batch(model: nn.Module, images: Tensor, labels: Tensor, *, values: bool = True) -> Tensor:
    """The images, if they are (B, C, H, W) floats in [0, 1] and ``labels`` fit them, on one device.

    Values outside by rounding (``RANGE_SLACK``) are clipped, so that the ball around them lies in [0, 1]. Labels are
    (B,) int64 from 0 or (B, K) floating point rows that sum to 1. Reading values makes a GPU wait, so those of tensors
    that are not on the CPU are read only with ``values``.
    """
    check_model(model)
    check_dense("images", images)
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}; divide uint8 images by 255")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    _check_labels("labels", labels, images, probabilities=True)
    if images.numel() == 0:
        return images
    if not (values or images.device.type == "cpu"):
        return images.detach().clamp(0, 1)
    images = clipped("images", images, "; normalise inside the model, as its first layer")
    _check_label_values("labels", labels)
    return images


def check_targets(targets: Tensor, images: Tensor, *, values: bool = True) -> None:
    """Raises unless ``targets`` are one class index per image, on the images' device."""
    _check_labels("targets", targets, images, probabilities=False)
    if targets.numel() and (values or targets.device.type == "cpu"):
        _check_label_values("targets", targets)


def check_logits(logits: object, count: int) -> Tensor:
    """The model's output, if it is logits for ``count`` images."""
    if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == count and logits.is_floating_point():
        return logits
    expected = f"model must return logits of shape ({count}, classes), a floating point tensor"
    if isinstance(logits, Tensor):
        raise ValueError(f"{expected}, got {logits.dtype} of shape {tuple(logits.shape)}")
    got = type(logits).__name__
    if isinstance(logits, tuple | list):
        got += f" of {len(logits)}; wrap the model in a module that returns the logits alone"
    raise ValueError(f"{expected}, got {got}")


def check_class_range(name: str, labels: Tensor, classes: int) -> None:
    """Raises unless class indices lie below ``classes``, or probabilities have that many columns. Reads values."""
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise ValueError(f"{name} must have the model's {classes} columns, got shape {tuple(labels.shape)}")
    elif int(labels.max()) >= classes:
        raise ValueError(f"{name} must lie below the model's {classes} classes, got {int(labels.max())}")


def _check_labels(name: str, labels: Any, images: Tensor, probabilities: bool) -> None:
    check_dense(name, labels, "an int64 tensor")
    rows = probabilities and labels.ndim == 2 and labels.is_floating_point()
    if not rows and labels.dtype != torch.int64:
        also = " (or probabilities of shape (B, classes))" if probabilities else ""
        raise TypeError(f"{name} must be an int64 tensor{also}, got {labels.dtype} of shape {tuple(labels.shape)}")
    if labels.shape[:1] != images.shape[:1] or (not rows and labels.ndim != 1):
        raise ValueError(f"{name} must have shape ({len(images)},), one per image, got {tuple(labels.shape)}")
    if labels.device != images.device:
        raise ValueError(f"{name} must be on the images' device {images.device}, got {labels.device}")


def _check_label_values(name: str, labels: Tensor) -> None:
    if labels.ndim == 1:
        if int(labels.min()) < 0:
            raise ValueError(f"{name} must be 0 or more, got {int(labels.min())}")
        return
    sums = labels.detach().float().sum(1)
    off = (sums - 1).abs()
    tolerance = 1e-3 if labels.dtype in (torch.float32, torch.float64) else 2e-2
    if not (float(labels.min()) >= 0 and float(off.max()) <= tolerance):  # also false for NaN
        raise ValueError(
            f"{name} must be probabilities, 0 or more, with rows that sum to 1; "
            f"got a least value of {float(labels.min()):g} and sums from {float(sums.min()):g} to {float(sums.max()):g}"
        )
