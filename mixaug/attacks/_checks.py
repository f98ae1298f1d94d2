"""Checks of the adversaries' arguments: the message names the argument, the rule and the value received."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NORMS = ("linf", "l2")


def check_number(name: str, value: object, low: float, high: float) -> float:
    """``value``; raises unless it is a real number with ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (math.isfinite(value) and low <= value <= high):
        bound = "0 or more" if low == 0 else "above 0"
        above = "finite" if math.isinf(high) else f"at most {high:g}"
        raise ValueError(f"{name} must be {bound} and {above}, got {value}")
    return value


def check_length(name: str, value: object, low: float = 0.0) -> None:
    """Raises unless ``value`` is a number from ``low`` by which a pixel of images in [0, 1] can change."""
    number = check_number(name, value, low, math.inf)
    if number > 1:
        raise ValueError(f"{name} must be at most 1 (images lie in [0, 1]), got {value}{bytes_hint(number)}")


def bytes_hint(value: float) -> str:
    """Asks whether a whole number above 1, given as a length in pixels of [0, 1], was meant in steps of 8-bit images.

    Example:
        >>> bytes_hint(8.0), bytes_hint(1.5)
        ('; did you mean 8/255?', '')
    """
    return f"; did you mean {value:g}/255?" if 1 < value <= 255 and float(value).is_integer() else ""


def check_model(model: object) -> None:
    """Raises unless ``model`` is a module: its modes and parameters are looked after, which a function has none of."""
    if not isinstance(model, nn.Module):
        hint = "; wrap it in a torch.nn.Module" if callable(model) else ""
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}{hint}")


def check_int(name: str, value: object, low: int) -> None:
    """Raises unless ``value`` is an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be {low} or more, got {value}")


def check_flag(name: str, value: object) -> None:
    """Raises unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def check_radius(eps: object, norm: object) -> None:
    """Raises unless ``norm`` is known and ``eps`` a radius in it: at most 1 in l-infinity, any in l2."""
    check_choice("norm", norm, NORMS)
    if norm == "linf":
        check_length("eps", eps)
    else:
        check_number("eps", eps, low=0.0, high=math.inf)


def check_step_size(step_size: object, eps: float, norm: str) -> None:
    """Raises unless ``step_size`` is above 0 (0 is allowed with ``eps=0``), in l-infinity at most 1."""
    low = 0.0 if eps == 0 else math.ulp(0.0)
    if norm == "linf":
        check_length("step_size", step_size, low)
    else:
        check_number("step_size", step_size, low, math.inf)


def check_batch_size(batch_size: object) -> None:
    """Raises unless ``batch_size`` is None or 1 or more."""
    if batch_size is not None:
        check_int("batch_size", batch_size, low=1)


def check_generator(generator: object) -> None:
    """Raises unless ``generator`` is a torch.Generator or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")


def check_batch(model: nn.Module, images: Tensor, labels: Tensor, *, values: bool = True) -> None:
    """Raises unless ``images`` are (B, C, H, W) floats in [0, 1] and ``labels`` fit them, on one device.

    Labels are (B,) int64 from 0 or (B, K) floating point rows that sum to 1. Reading values makes a GPU wait, so those
    of tensors that are not on the CPU are read only with ``values``.
    """
    check_model(model)
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}; divide uint8 images by 255")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    _check_labels("labels", labels, images, probabilities=True)
    if images.numel() == 0 or not (values or images.device.type == "cpu"):
        return
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(
            f"images must lie in [0, 1], got values from {low:g} to {high:g}; "
            "normalise inside the model, as its first layer"
        )
    _check_label_values("labels", labels)


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


def _check_labels(name: str, labels: object, images: Tensor, probabilities: bool) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be an int64 tensor, got {type(labels).__name__}")
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
