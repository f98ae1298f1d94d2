"""On how many images no gradient is left: the share whose input gradient is zero in every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixaug._checks import MAX_COUNT, check_int
from mixaug._model_state import check_batch
from mixaug._pictures import as_float
from mixaug.evaluate.intervals import Estimate, share
from mixaug.nn.caps import zero_gradients

__all__ = [
    "zero_gradient_share",
]


def zero_gradient_share(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> Estimate:
    """The share of the images whose input gradient of the cross-entropy is zero in every pixel.

    Convention:
        See :func:`zero_gradients`.

    Args:
        model: gives logits (B, K).
        images: any number, at least 1.
        labels: their classes, or probabilities.
        batch_size: images in one pass of the model, default 256.

    Shape:
        as :func:`zero_gradients`.

    Returns:
        the share with Wilson's 95% interval.

    Raises:
        TypeError, ValueError, FloatingPointError: as :func:`zero_gradients`; ValueError also without images.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> zero_gradient_share(model, torch.rand(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64)).value
        0.0
    """
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    images = check_batch(model, as_float(images) if isinstance(images, Tensor) else images, labels)
    if len(images) == 0:
        raise ValueError("images must be 1 or more, got 0")
    pieces = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return share(torch.cat([zero_gradients(model, batch, classes) for batch, classes in pieces]))
