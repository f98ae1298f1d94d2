"""Checks of what AdAutoMix is given, before any pass: each error names the argument, its rule and the value."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mixaug.adautomix.draws import MixDraw

_SUM_TOLERANCE = 1e-3


def check_images(images: Any) -> None:
    """Raises unless ``images`` are a floating batch of at least one. Reads no value."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating tensor in [0, 1], got {kind}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be (B, C, H, W) with at least one image, got shape {tuple(images.shape)}")


def check_logits(logits: Any, count: int, num_classes: int) -> Tensor:
    """The logits, if they are for so many images and classes."""
    if not isinstance(logits, Tensor) or logits.shape != (count, num_classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model must give logits of shape ({count}, num_classes = {num_classes}), got {got}")
    return logits


def check_draws(draws: Any, count: int) -> None:
    """Raises unless ``draws`` are a classifier's and a generator's for a batch of ``count`` images."""
    if not isinstance(draws, (tuple, list)) or len(draws) != 2 or not all(isinstance(d, MixDraw) for d in draws):
        raise TypeError(f"draws must be a pair of MixDraw, got {type(draws).__name__}")
    for draw in draws:
        check_draw(draw, count)
    if len(draws[0].index) != count:
        raise ValueError(f"draws must be for the {count} images of the batch, got {len(draws[0].index)}")


def check_draw(draw: MixDraw, count: int) -> None:
    """Raises unless the ratios sum to 1 and the rows are those of a batch of ``count`` images."""
    off = (draw.ratios.sum(1) - 1).abs() > _SUM_TOLERANCE
    if bool(off.any()) or bool((draw.ratios < 0).any()):
        wrong = int((off | (draw.ratios < 0).any(1)).int().argmax())
        raise ValueError(f"ratios must be 0 or more and sum to 1, got {draw.ratios[wrong].tolist()}")
    index = draw.index
    if index.shape[1] < min(2, count) or (index.numel() and not 0 <= int(index.min()) <= int(index.max()) < count):
        raise ValueError(
            f"index must name at least {min(2, count)} of the {count} images of the batch, got {index.tolist()}"
        )


__all__ = ["check_draw", "check_draws", "check_images", "check_logits"]
