"""Contrast, elastic transform and pixelate; JPEG has a file of its own."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import gaussian_blur, kernels, uniform
from mixaug.evaluate.corruptions.warps import warp

_BITS = 22  # of the weights in PIL's resampling


def contrast(images: Tensor, factor: float, generator: torch.Generator | None) -> Tensor:
    """Pulls each channel towards its mean."""
    return torch.lerp(images.mean((2, 3), keepdim=True), images, factor)


def elastic_transform(images: Tensor, setting: tuple[float, ...], generator: torch.Generator | None) -> Tensor:
    """A random affine map of three points, then a smooth random displacement of each pixel; bilinear both times.

    Amplitude, sigma and affine shift are in sides of the image (its shorter one).
    """
    n, _, h, w = images.shape
    side = min(h, w)
    amplitude, sigma, affine = (value * side for value in setting)
    shift = (uniform((n, 3, 2), images, generator) * 2 - 1) * affine
    if third := side // 3:
        images = warp(images, affine_of_points(h // 2, w // 2, third, shift), None, "reflect101")
    if amplitude == 0:
        return images
    noise = uniform((2, n, h, w), images, generator) * 2 - 1
    still = torch.eye(2, 3, dtype=torch.float32, device=images.device).expand(n, 2, 3)
    return warp(images, still, gaussian_blur(noise, sigma, truncate=3.0, mode="reflect").mul_(amplitude), "reflect")


def affine_of_points(centre_y: int, centre_x: int, reach: int, shift: Tensor) -> Tensor:
    """The inverse of the affine map that takes three points to themselves plus a shift.

    The points are ``(cy + r, cx + r)``, ``(cy + r, cx - r)`` and ``(cy - r, cx - r)``. The original passes them as
    (row, column) where OpenCV takes (x, y); its images are square, and so is it here.

    Args:
        centre_y: cy.
        centre_x: cx.
        reach: r, above 0.
        shift: ``(N, 3, 2)``.

    Returns:
        ``(N, 2, 3)`` float32: where the pixel (x, y) is fetched from.

    Example:
        >>> moved = affine_of_points(4, 4, 2, torch.ones(1, 3, 2))
        >>> moved.equal(torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]]))
        True
    """
    start = torch.tensor([centre_y + reach, centre_x + reach], dtype=torch.float64, device=shift.device)
    moved = shift.double()
    # Along the sides of the right triangle that they are.
    first = (moved[:, 1] - moved[:, 2]) / (2 * reach) + start.new_tensor([1.0, 0.0])
    second = (moved[:, 0] - moved[:, 1]) / (2 * reach) + start.new_tensor([0.0, 1.0])
    (a, c), (b, d) = first.unbind(1), second.unbind(1)
    determinant = a * d - b * c
    inverse = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2) / determinant[:, None, None]
    back = start - (inverse @ (start + moved[:, 0])[:, :, None])[..., 0]
    return torch.cat([inverse, back[:, :, None]], 2).float()


def pixelate(images: Tensor, scale: float, generator: torch.Generator | None) -> Tensor:
    """Box-filtered down to ``int(side * scale)`` pixels and up again, in PIL's integers: rounded to bytes each time."""
    if images.device.type != "cpu":
        return pixelate_torch(images, scale)
    n, channels, h, w = images.shape
    small_h, small_w = max(1, int(h * scale)), max(1, int(w * scale))
    planes = images.reshape(n * channels, h, w).contiguous()
    out = torch.empty_like(planes)
    steps = [part for step in ((small_w, w), (small_h, h), (w, small_w), (h, small_h)) for part in box_taps(*step)]
    loops = kernels()
    loops.over_images(loops.pixelate_planes, len(planes), planes.numpy(), out.numpy(), *steps)
    return out.view(images.shape)


def pixelate_torch(images: Tensor, scale: float) -> Tensor:
    """:func:`pixelate` in torch.

    Example:
        >>> pixelate_torch(torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 1, 4), 0.5).flatten().tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    h, w = images.shape[-2:]
    levels = (images * 255 + 0.5).int()
    small_h, small_w = max(1, int(h * scale)), max(1, int(w * scale))
    for axis, target, source in ((3, small_w, w), (2, small_h, h), (3, w, small_w), (2, h, small_h)):
        first, weights = (torch.from_numpy(part).to(images.device) for part in box_taps(target, source))
        total = torch.full((), 1 << (_BITS - 1), device=images.device)
        for tap, weight in enumerate(weights.int().unbind(1)):
            part = levels.index_select(axis, first + tap)
            total = total + part * (weight if axis == 3 else weight[:, None])
        levels = (total >> _BITS).clamp(0, 255)
    return levels.float() / 255


@functools.lru_cache(256)
def box_taps(target: int, source: int) -> tuple[np.ndarray, np.ndarray]:
    """PIL's box filter along one axis: the first source position of each result, and the weights from there.

    Args:
        target: length after it.
        source: length before it.

    Returns:
        ``(target,)`` int64 and ``(target, taps)`` int64 in units of 2^-22; every position is inside.

    Example:
        >>> first, weights = box_taps(2, 4)
        >>> first.tolist(), (weights / 2**22).tolist()
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]])
    """
    ratio = source / target
    width = max(ratio, 1.0)
    centre = (np.arange(target) + 0.5) * ratio
    low = np.maximum((centre - width / 2 + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + width / 2 + 0.5).astype(np.int64), source)
    position = np.arange(source)
    distance = (position - centre[:, None] + 0.5) / width
    inside = (position >= low[:, None]) & (position < high[:, None]) & (distance > -0.5) & (distance <= 0.5)
    weights = np.floor(inside / inside.sum(1, keepdims=True) * 2**_BITS + 0.5).astype(np.int64)
    taps = int(inside.sum(1).max())
    first = np.minimum(inside.argmax(1), source - taps)
    return first, np.take_along_axis(weights, first[:, None] + np.arange(taps), 1)
