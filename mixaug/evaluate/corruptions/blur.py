"""Gaussian, defocus, glass, motion and zoom blur."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import (
    border,
    clipped_zoom,
    convolve,
    directional_blur,
    uniform,
)
from mixaug.evaluate.corruptions.filters import (
    gaussian_blur as smooth,
)


def gaussian_blur(images: Tensor, sigma: float, generator: torch.Generator | None) -> Tensor:
    """Gaussian blur of 4 sigmas, edge pixels repeated."""
    return smooth(images, sigma)


def defocus_blur(images: Tensor, setting: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """Correlation with a disk that is itself blurred a little."""
    return convolve(images, disk(*setting))


def glass_blur(images: Tensor, setting: tuple[float, int, int], generator: torch.Generator | None) -> Tensor:
    """Gaussian blur, ``rounds`` passes in which each pixel takes the value of a near one, Gaussian blur.

    The original means to swap the two pixels, but its tuple assignment of NumPy views copies one over the other; the
    published sets have the copy, and so has this.
    """
    sigma, reach, rounds = setting
    h, w = images.shape[-2:]
    blurred = (smooth(images, sigma) * 255).floor() / 255  # the original goes through bytes, truncated
    ys, xs = range(h - reach, reach, -1), range(w - reach, reach, -1)
    if len(ys) and len(xs):
        shape = (len(images), rounds, len(ys), len(xs), 2)
        shift = (uniform(shape, images, generator) * (2 * reach)).long().clamp_max(2 * reach - 1) - reach
        source = np.arange(h * w).repeat(len(images)).reshape(h * w, -1).T.copy()
        _follow()(source, shift.cpu().numpy(), h, w, reach)
        index = torch.from_numpy(source).to(images.device)
        blurred = blurred.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
    return smooth(blurred, sigma)


def motion_blur(images: Tensor, setting: tuple[int, float], generator: torch.Generator | None) -> Tensor:
    """A one-sided Gaussian along an angle drawn from -45 to 45 degrees for each image."""
    return directional_blur(images, *setting, uniform((len(images),), images, generator) * 90 - 45)


def zoom_blur(images: Tensor, setting: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """The mean of the image and of its enlargements by 1, 1 + step, ... below the limit."""
    # numpy.arange itself, since its rounding decides whether the limit is among the factors in the published sets.
    factors = np.arange(1, *setting).tolist()
    total = images.clone()
    for factor in factors:
        total += clipped_zoom(images, factor)
    return total / (len(factors) + 1)


@functools.cache
def disk(radius: float, alias_blur: float) -> Tensor:
    """The kernel of the defocus blur: a disk, normalised, blurred by 3x3 (5x5 above radius 8), trimmed of zeros.

    Example:
        >>> disk(1, 0.2).shape, round(disk(1, 0.2).sum().item(), 5)
        (torch.Size([5, 5]), 1.0)
    """
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = (axis[:, None] ** 2 + axis**2 <= radius**2).double()
    kernel = kernel / kernel.sum()
    offsets = torch.arange(-taps, taps + 1)
    weights = torch.exp(-0.5 * (offsets / alias_blur) ** 2).double()
    weights = weights / weights.sum()
    blur = torch.zeros(len(axis), len(axis), dtype=torch.float64)
    target = border(torch.arange(len(axis))[:, None] + offsets, len(axis), "reflect101")
    blur.scatter_add_(1, target, weights.expand(len(axis), -1))
    kernel = blur @ kernel @ blur.T
    used = (kernel > 0).nonzero()
    edge = int((used - reach).abs().max())
    return kernel[reach - edge : reach + edge + 1, reach - edge : reach + edge + 1].float()


@functools.cache
def _follow() -> Callable[..., Any]:
    """The glass blur's copies, compiled at the first use: each depends on those before it."""
    import numba

    return numba.njit(cache=True)(_follow_copies)


def _follow_copies(source, shift, h, w, reach):  # type: ignore[no-untyped-def]
    for image in range(source.shape[0]):
        for turn in range(shift.shape[1]):
            for i in range(shift.shape[2]):
                y = h - reach - i
                for j in range(shift.shape[3]):
                    x = w - reach - j
                    dx, dy = shift[image, turn, i, j, 0], shift[image, turn, i, j, 1]
                    source[image, y * w + x] = source[image, (y + dy) * w + x + dx]
