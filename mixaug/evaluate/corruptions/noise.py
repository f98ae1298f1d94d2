"""Gaussian, speckle, shot and impulse noise: each value of each channel on its own."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import kernels, normal, uniform

_BUCKETS = 64  # of a uniform, for which the search for a count starts at a place of its own


def gaussian_noise(images: Tensor, sd: float, generator: torch.Generator | None) -> Tensor:
    """``x + sd n``, n standard normal."""
    return torch.add(images, normal(tuple(images.shape), images, generator), alpha=sd)


def speckle_noise(images: Tensor, sd: float, generator: torch.Generator | None) -> Tensor:
    """``x + sd x n``, n standard normal."""
    return torch.addcmul(images, images, normal(tuple(images.shape), images, generator), value=sd)


def shot_noise(images: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """``Poisson(rate x) / rate``, with x at its nearest level of 8 bits.

    A uniform is looked up in the cumulative probabilities of its level: five times as fast as torch.poisson.
    """
    cumulative, guide = poisson_tables(rate)
    u = uniform(tuple(images.shape), images, generator)
    if images.device.type != "cpu":
        return poisson_torch(images, u, rate)
    images = images.contiguous()
    out = torch.empty_like(images)
    loops = kernels()
    loops.over_images(
        loops.poisson_levels, len(images), images.flatten(1).numpy(), u.flatten(1).numpy(), out.flatten(1).numpy(),
        cumulative.numpy(), guide.numpy(), 1 / rate,
    )  # fmt: skip
    return out


def poisson_torch(images: Tensor, uniforms: Tensor, rate: float) -> Tensor:
    """The look-up of :func:`shot_noise` in torch.

    Example:
        >>> poisson_torch(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.5, 0.0, 0.5]), 100.0).tolist()[::2]
        [0.0, 1.0]
    """
    cumulative, _ = poisson_tables(rate)
    cumulative = cumulative.to(images.device).double().clamp_max(1)
    levels = (images * 255 + 0.5).long()
    # All levels in one ascending line, each from its number to the next.
    line = (cumulative + torch.arange(256, device=images.device)[:, None]).view(-1)
    found = torch.searchsorted(line, uniforms.double() + levels, right=True) - levels * cumulative.shape[1]
    return found.to(torch.float32) / rate


def impulse_noise(images: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """A share of the values becomes 0 or 1, half each."""
    u = uniform(tuple(images.shape), images, generator)
    return torch.where(u < share, (u >= share / 2).to(images.dtype), images)


@functools.lru_cache(32)
def poisson_tables(rate: float) -> tuple[Tensor, Tensor]:
    """``P(count <= k)`` for the levels 0 to 255 of a pixel, and where a search may start for 64 parts of [0, 1).

    Args:
        rate: of a white pixel.

    Returns:
        ``(256, K)`` float32, whose last column is above every uniform; ``(256, 64)`` int64.

    Example:
        >>> cumulative, guide = poisson_tables(3.0)
        >>> round(float(cumulative[255, 0]), 4), guide[255, 0].item(), bool((cumulative[:, -1] > 1).all())
        (0.0498, 0, True)
    """
    # Uniforms have 24 bits: beyond 8 standard deviations and 12 counts no more than 1e-8 is left at any rate.
    counts = torch.arange(int(rate + 8 * rate**0.5 + 12), dtype=torch.float64)
    means = torch.arange(256, dtype=torch.float64)[:, None] * (rate / 255)
    log = torch.xlogy(counts, means) - means - torch.lgamma(counts + 1)
    cumulative = torch.cat([log.exp().cumsum(1), torch.full((256, 1), 2.0, dtype=torch.float64)], 1).float()
    edges = (torch.arange(_BUCKETS, dtype=torch.float32) / _BUCKETS).expand(256, -1).contiguous()
    return cumulative, torch.searchsorted(cumulative, edges, right=True)
