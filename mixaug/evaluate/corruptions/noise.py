"""Gaussian, speckle, shot and impulse noise: each value of each channel on its own."""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import normal, uniform


def gaussian_noise(images: Tensor, sd: float, generator: torch.Generator | None) -> Tensor:
    """``x + sd n``, n standard normal."""
    return images + sd * normal(tuple(images.shape), images, generator)


def speckle_noise(images: Tensor, sd: float, generator: torch.Generator | None) -> Tensor:
    """``x + sd x n``, n standard normal."""
    return images + images * sd * normal(tuple(images.shape), images, generator)


def shot_noise(images: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """``Poisson(rate x) / rate``."""
    device = images.device if generator is None else generator.device
    return torch.poisson((images * rate).to(device), generator=generator).to(images.device) / rate


def impulse_noise(images: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """A share of the values becomes 0 or 1, half each."""
    u = uniform(tuple(images.shape), images, generator)
    return torch.where(u < share / 2, 0.0, torch.where(u < share, 1.0, images))
