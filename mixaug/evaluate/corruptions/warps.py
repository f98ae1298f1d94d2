"""Bilinear warps and zooms that the corruptions share, for whole batches and any size of image."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import border, kernels


def warp(images: Tensor, affine: Tensor, offsets: Tensor | None, mode: str) -> Tensor:
    """Bilinear values at ``affine (x, y, 1) + offset`` of each pixel (pixel centres at integers).

    Args:
        images: ``(N, C, H, W)`` float32.
        affine: ``(N, 2, 3)`` float32, rows for x and y.
        offsets: ``(2, N, H, W)`` float32, of x and of y; None: none.
        mode: of :func:`~mixaug.evaluate.corruptions.filters.border`.

    Example:
        >>> image, still = torch.tensor([[[[0.0, 1.0]]]]), torch.eye(2, 3)[None]
        >>> warp(image, still, torch.tensor([0.25, 0.0]).view(2, 1, 1, 1).expand(2, 1, 1, 2), "nearest").tolist()
        [[[[0.25, 1.0]]]]
    """
    if images.device.type != "cpu":
        return warp_torch(images, affine, offsets, mode)
    images = images.contiguous()
    out = torch.empty_like(images)
    moves = torch.empty(2, 0, 0, 0, dtype=torch.float32) if offsets is None else offsets.contiguous()
    loops = kernels()
    loops.over_images(
        loops.warp_images, len(images), images.numpy(), out.numpy(), affine.contiguous().numpy(), moves.numpy(),
        loops.MODES[mode],
    )  # fmt: skip
    return out


def warp_torch(images: Tensor, affine: Tensor, offsets: Tensor | None, mode: str) -> Tensor:
    """:func:`warp` in torch.

    Example:
        >>> warp_torch(torch.eye(3).view(1, 1, 3, 3), torch.eye(2, 3)[None], None, "reflect").view(3, 3).equal(
        ...     torch.eye(3)
        ... )
        True
    """
    h, w = images.shape[-2:]
    x = torch.arange(w, device=images.device, dtype=torch.float32).expand(h, w)
    y = torch.arange(h, device=images.device, dtype=torch.float32)[:, None].expand(h, w)
    u, v = (a[:, 0] * x[None] + a[:, 1] * y[None] + a[:, 2] for a in affine[:, :, :, None, None].unbind(1))
    if offsets is not None:
        u, v = u + offsets[0], v + offsets[1]
    return sample_bilinear(images, v, u, mode)


def sample_bilinear(images: Tensor, y: Tensor, x: Tensor, mode: str) -> Tensor:
    """Bilinear values at float positions (pixel centres at integers), a grid an image.

    Args:
        images: ``(N, C, H, W)`` float.
        y: ``(N, H', W')`` rows.
        x: ``(N, H', W')`` columns.
        mode: of :func:`~mixaug.evaluate.corruptions.filters.border`.

    Example:
        >>> image = torch.tensor([[[[0.0, 1.0]]]])
        >>> sample_bilinear(image, torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.25), "nearest").item()
        0.25
    """
    n, channels, h, w = images.shape
    y0, x0 = y.floor(), x.floor()
    fy, fx = (y - y0)[:, None], (x - x0)[:, None]
    flat = images.flatten(2)

    def pixel(rows: Tensor, columns: Tensor) -> Tensor:
        index = border(rows.long(), h, mode) * w + border(columns.long(), w, mode)
        return flat.gather(2, index.view(n, 1, -1).expand(-1, channels, -1)).view(n, channels, *y.shape[1:])

    top = pixel(y0, x0) * (1 - fx) + pixel(y0, x0 + 1) * fx
    bottom = pixel(y0 + 1, x0) * (1 - fx) + pixel(y0 + 1, x0 + 1) * fx
    return top * (1 - fy) + bottom * fy


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarges the centre by ``factor``, keeping the size (bilinear, corner pixels aligned, as SciPy's zoom).

    Args:
        images: ``(N, C, H, W)`` float.
        factor: at least 1.

    Example:
        >>> clipped_zoom(torch.ones(1, 1, 5, 8), 1.3).shape
        torch.Size([1, 1, 5, 8])
    """
    h, w = images.shape[-2:]
    (ch, top, tall, trim_y), (cw, left, wide, trim_x) = _zoomed(h, factor), _zoomed(w, factor)
    crop = images[:, :, top : top + ch, left : left + cw]
    large = torch.nn.functional.interpolate(crop, size=(tall, wide), mode="bilinear", align_corners=True)
    return large[:, :, trim_y : trim_y + h, trim_x : trim_x + w]


def mean_of_zooms(images: Tensor, factors: Sequence[float]) -> Tensor:
    """The mean of the images and of their :func:`clipped_zoom` by each factor.

    Args:
        images: ``(N, C, H, W)`` float32.
        factors: at least 1 each.

    Example:
        >>> mean_of_zooms(torch.ones(1, 3, 5, 8), [1.0, 1.5]).allclose(torch.ones(1, 3, 5, 8))
        True
    """
    if images.device.type != "cpu":
        return mean_of_zooms_torch(images, factors)
    n, channels, h, w = images.shape
    planes = images.reshape(n * channels, h, w).contiguous()
    out = torch.empty_like(planes)
    loops = kernels()
    groups = -(-len(planes) // loops.LANES)
    places = (*_between(h, tuple(factors)), *_between(w, tuple(factors)))
    loops.over_images(loops.zoom_planes, groups, planes.numpy(), out.numpy(), *places)
    return out.view(images.shape)


def mean_of_zooms_torch(images: Tensor, factors: Sequence[float]) -> Tensor:
    """:func:`mean_of_zooms` in torch.

    Example:
        >>> mean_of_zooms_torch(torch.ones(1, 3, 5, 8), [1.0, 1.5]).allclose(torch.ones(1, 3, 5, 8))
        True
    """
    total = images.clone()
    for factor in factors:
        total += clipped_zoom(images, factor)
    return total / (len(factors) + 1)


def _zoomed(size: int, factor: float) -> tuple[int, int, int, int]:
    """Of one axis: length of the crop, its start, its length enlarged, what is then cut off at the start."""
    crop = math.ceil(size / factor)
    # Never smaller than the image, which rounding could make it by a pixel.
    large = max(size, round(crop * factor))
    return crop, (size - crop) // 2, large, (large - size) // 2


@functools.lru_cache(64)
def _between(size: int, factors: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For each factor and position of the result: the position before it in the source, and the share of the next."""
    before = np.empty((len(factors), size), np.int64)
    shares = np.empty((len(factors), size), np.float32)
    for i, factor in enumerate(factors):
        crop, start, large, trim = _zoomed(size, factor)
        place = (trim + np.arange(size)) * ((crop - 1) / (large - 1) if large > 1 else 0.0)
        low = np.minimum(np.floor(place).astype(np.int64), max(crop - 2, 0))
        before[i], shares[i] = start + low, place - low
    return before, shares
