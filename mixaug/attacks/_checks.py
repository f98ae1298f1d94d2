"""Checks of the adversaries' arguments: the message names the argument, the rule and the value received."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Raises unless ``value`` is a real number with ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (math.isfinite(value) and low <= value <= high):
        bound = "0 or more" if low == 0 else "above 0"
        raise ValueError(f"{name} must be {bound} and at most {high:g} (images lie in [0, 1]), got {value}")


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


def check_batch(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raises unless ``images`` are (B, C, H, W) floats in [0, 1] and ``labels`` (B,) int64 from 0, on one device."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}; divide uint8 images by 255")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an int64 tensor, got {got}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must have shape ({len(images)},), one per image, got {tuple(labels.shape)}")
    if labels.device != images.device:
        raise ValueError(f"labels must be on the images' device {images.device}, got {labels.device}")
    if images.numel() == 0:
        return
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(
            f"images must lie in [0, 1], got values from {low:g} to {high:g}; "
            "normalise inside the model, as its first layer"
        )
    if int(labels.min()) < 0:
        raise ValueError(f"labels must be 0 or more, got {int(labels.min())}")
