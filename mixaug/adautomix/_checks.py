"""Checks of what AdAutoMix is given, before any pass: each error names the argument, its rule and the value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixaug._checks import kind_of
from mixaug._records import Rule, Rules, check_record, kept, reads_values
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
        check_draw(draw, count, draw.ratios.device, "draws")
    if len(draws[0].index) != count:
        raise ValueError(f"draws must be for the {count} images of the batch, got {len(draws[0].index)}")


def check_draw(
    draw: Any, count: int, device: torch.device, name: str = "params", check_values: bool = False
) -> MixDraw:
    """The draw on ``device``, if it is one of a batch of ``count`` images: rows of it, ratios that sum to 1.

    Args:
        draw: what was given as a draw.
        count: images of the batch.
        device: where it is used.
        name: of the argument, for messages.
        check_values: read the values on a GPU too, where the host waits for them.
    """
    if not isinstance(draw, MixDraw):
        raise TypeError(f"{name} must be a MixDraw, got {kind_of(draw)}")
    for field in ("index", "ratios"):
        if not isinstance(getattr(draw, field), Tensor):
            raise TypeError(f"{name}.{field} must be a tensor, got {kind_of(getattr(draw, field))}")
    values = reads_values(device, check_values)
    rows, n = draw.index.shape if draw.index.ndim == 2 else (0, -1)
    if n < min(2, count):
        raise ValueError(
            f"{name}.index must name at least {min(2, count)} of the {count} images of the batch, got shape "
            f"{tuple(draw.index.shape)}"
        )
    draw = check_record(draw, _rules(rows, n, count), device, values=values, move=True, name=name)
    ratios = draw.ratios
    if values and bool(((ratios.sum(1) - 1).abs() > _SUM_TOLERANCE).any()):
        wrong = int((ratios.sum(1) - 1).abs().argmax())
        raise ValueError(f"{name}.ratios must be 0 or more and sum to 1, got {ratios[wrong].tolist()}")
    return draw


@kept
def _rules(rows: int, n: int, count: int) -> Rules:
    return Rules(
        index=Rule(torch.int64, (rows, n), 0, count - 1),
        ratios=Rule(torch.float32, (rows, n), 0.0, 1.0),
        plain=Rule(torch.bool, (rows,)),
    )


__all__ = ["check_draw", "check_draws", "check_images", "check_logits"]
