"""Random starts and targets, from a generator that may live on another device than the images."""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug._random import drawn_by

_DRAWN = torch.float32  # the same numbers for images of any precision


def uniform_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1) of the images' shape, dtype and device, drawn in float32 where the generator is."""
    return torch.rand(images.shape, device=_home(images, generator), dtype=_DRAWN, **drawn_by(generator)).to(images)


def normal_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the images' shape, dtype and device, drawn in float32 where the generator is."""
    return torch.randn(images.shape, device=_home(images, generator), dtype=_DRAWN, **drawn_by(generator)).to(images)


def signs_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """-1 or 1 with equal chances, in the images' shape, dtype and device."""
    bits = torch.randint(0, 2, images.shape, device=_home(images, generator), dtype=torch.int8, **drawn_by(generator))
    return (2 * bits - 1).to(images)


def start_in_ball(images: Tensor, eps: float, norm: str, generator: torch.Generator | None) -> Tensor:
    """``images`` plus a uniform point of the ball of radius ``eps``; not yet clipped to [0, 1].

    In l2 the direction is that of normal numbers and the length ``eps * U^(1/n)`` with n the number of pixels, since
    the ball's volume within r grows as ``r^n``.
    """
    if norm == "linf":
        return images + eps * (2 * uniform_like(images, generator) - 1)
    home = _home(images, generator)
    direction = torch.randn(images.shape, device=home, dtype=_DRAWN, **drawn_by(generator)).to(images.device)
    lengths = torch.rand(len(images), 1, 1, 1, device=home, dtype=_DRAWN, **drawn_by(generator)).to(images.device)
    pixels = images[0].numel()
    unit = direction / direction.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return images + (eps * lengths ** (1 / pixels) * unit).to(images.dtype)


def other_classes(labels: Tensor, classes: int, generator: torch.Generator | None) -> Tensor:
    """For each label a uniformly random class of the ``classes - 1`` others."""
    if classes < 2:
        raise ValueError(f"targeted needs a model with 2 classes or more, got logits of {classes} class")
    offset = torch.randint(1, classes, labels.shape, device=_home(labels, generator), **drawn_by(generator))
    return (labels + offset.to(labels.device)) % classes


def _home(tensor: Tensor, generator: torch.Generator | None) -> torch.device:
    return tensor.device if generator is None else generator.device
