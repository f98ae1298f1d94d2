"""Gaussian, defocus, glass, motion and zoom blur."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import border, convolve, directional_blur, kernels, uniform
from mixaug.evaluate.corruptions.filters import gaussian_blur as smooth
from mixaug.evaluate.corruptions.warps import mean_of_zooms


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
    # The original goes through bytes, truncated; a ten-thousandth of a level keeps flat parts from falling by one.
    blurred = smooth(images, sigma).mul_(255).add_(1e-4).floor_().div_(255)
    ys, xs = max(0, h - 2 * reach), max(0, w - 2 * reach)
    if ys and xs:
        u = uniform((len(images), rounds, ys, xs), images, generator)
        # One draw gives both shifts: a code (dy + reach) * 2 reach + dx + reach.
        codes = u.mul_((2 * reach) ** 2).to(torch.uint8)
        blurred = copy_near(blurred, codes, reach)
    return smooth(blurred, sigma)


def motion_blur(images: Tensor, setting: tuple[int, float], generator: torch.Generator | None) -> Tensor:
    """A one-sided Gaussian along an angle drawn from -45 to 45 degrees for each image."""
    return directional_blur(images, *setting, uniform((len(images),), images, generator) * 90 - 45)


def zoom_blur(images: Tensor, setting: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """The mean of the image and of its enlargements by 1, 1 + step, ... below the limit."""
    # numpy.arange itself, since its rounding decides whether the limit is among the factors in the published sets.
    return mean_of_zooms(images, np.arange(1, *setting).tolist())


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
    weights = torch.exp(-0.5 * (offsets.to(torch.float32) / alias_blur) ** 2).double()
    weights = weights / weights.sum()
    blur = torch.zeros(len(axis), len(axis), dtype=torch.float64)
    target = border(torch.arange(len(axis))[:, None] + offsets, len(axis), "reflect101")
    blur.scatter_add_(1, target, weights.expand(len(axis), -1))
    kernel = blur @ kernel @ blur.T
    used = (kernel > 0).nonzero()
    edge = int((used - reach).abs().max())
    return kernel[reach - edge : reach + edge + 1, reach - edge : reach + edge + 1]


def copy_near(images: Tensor, codes: Tensor, reach: int) -> Tensor:
    """The glass blur's copies in the original's order: from the last pixel to the first, each seeing those before.

    Args:
        images: ``(N, C, H, W)`` float32.
        codes: ``(N, rounds, H - 2 reach, W - 2 reach)`` uint8, ``(dy + reach) 2 reach + dx + reach`` with shifts in
            ``[-reach, reach)``; first entries belong to the last pixels.
        reach: in pixels.

    Returns:
        images of the same shape.

    Example:
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> copy_near(image, torch.zeros(1, 1, 1, 1, dtype=torch.uint8), 1).flatten().tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 4.0]
    """
    if images.device.type != "cpu":
        return copy_near_torch(images, codes, reach)
    out = images.clone(memory_format=torch.contiguous_format)
    loops = kernels()
    loops.over_images(loops.copy_pixels, len(out), out.numpy(), codes.contiguous().numpy(), reach)
    return out


def copy_near_torch(images: Tensor, codes: Tensor, reach: int) -> Tensor:
    """:func:`copy_near` in torch: where a pixel's value comes from is found by doubling its chain of copies.

    Example:
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> copy_near_torch(image, torch.zeros(1, 1, 1, 1, dtype=torch.uint8), 1).flatten().tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 4.0]
    """
    n, channels, h, w = images.shape
    place = torch.arange(h * w, device=images.device).view(h, w)
    source = place.view(1, -1).expand(n, -1)
    for turn in codes.unbind(1):
        shift = turn.flip(1, 2).long()
        dy, dx = shift // (2 * reach) - reach, shift % (2 * reach) - reach
        near = place.repeat(n, 1, 1)
        near[:, reach + 1 : h - reach + 1, reach + 1 : w - reach + 1] += dy * w + dx
        near = near.view(n, -1)
        # Pixels are written from the last to the first: one after this has its new value already, one before not yet.
        follow = torch.where(near <= place.view(-1), place.view(-1), near)
        for _ in range(max(1, (h * w - 1).bit_length())):
            follow = follow.gather(1, follow)
        source = source.gather(1, near.gather(1, follow))
    index = source[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, index).view(images.shape)
