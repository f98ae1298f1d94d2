"""Linear filters that the corruptions share, for whole batches and any size of image."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniforms in ``[0, 1)`` on ``like``'s device, drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device).to(like.device)


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normals on ``like``'s device, drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device).to(like.device)


def border(index: Tensor, size: int, mode: str) -> Tensor:
    """Positions outside ``0..size-1`` brought inside, at any distance.

    Args:
        index: int64 positions.
        size: length of the axis.
        mode: ``"nearest"`` (aaa|abc|ccc), ``"reflect"`` (cba|abc|cba, SciPy's name) or ``"reflect101"`` (cb|abc|ba,
            OpenCV's name).

    Example:
        >>> border(torch.tensor([-2, -1, 0, 3, 4]), 3, "reflect").tolist()
        [1, 0, 0, 2, 1]
    """
    if mode == "nearest" or size == 1:
        return index.clamp(0, size - 1)
    if mode == "reflect":
        index = index.remainder(2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    index = index.remainder(2 * size - 2)
    return torch.minimum(index, 2 * size - 2 - index)


def gaussian_matrix(size: int, sigma: float, *, truncate: float, mode: str) -> Tensor:
    """A Gaussian blur along one axis as a ``(size, size)`` matrix: borders are part of it, whatever the radius.

    The radius is ``int(truncate sigma + 1/2)`` as in SciPy; sigma 0 gives the identity. A dense product is fast at
    these sizes and right even where the radius exceeds the image (elastic transform at severity 1).

    Args:
        size: length of the axis.
        sigma: in pixels.
        truncate: radius in sigmas.
        mode: of :func:`border`.

    Example:
        >>> torch.allclose(gaussian_matrix(5, 1.0, truncate=4, mode="nearest").sum(1), torch.ones(5))
        True
    """
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / max(sigma, 1e-12)) ** 2)
    weights = weights / weights.sum()
    target = border(torch.arange(size)[:, None] + offsets, size, mode)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, target, weights.expand(size, -1))
    return matrix.float()


def gaussian_blur(images: Tensor, sigma: float, *, truncate: float = 4.0, mode: str = "nearest") -> Tensor:
    """Gaussian blur of the last two axes (scikit-image's ``gaussian``: nearest border, 4 sigmas).

    Args:
        images: ``(..., H, W)`` float.
        sigma: in pixels.
        truncate: radius in sigmas.
        mode: of :func:`border`.

    Example:
        >>> gaussian_blur(torch.ones(1, 1, 4, 6), 2.0).allclose(torch.ones(1, 1, 4, 6))
        True
    """
    h, w = images.shape[-2:]
    rows = gaussian_matrix(h, sigma, truncate=truncate, mode=mode).to(images)
    columns = gaussian_matrix(w, sigma, truncate=truncate, mode=mode).to(images)
    return rows @ images @ columns.T


def convolve(images: Tensor, kernel: Tensor, mode: str = "reflect101") -> Tensor:
    """Correlates every channel with one odd kernel; borders as :func:`border`, at any size of image.

    Args:
        images: ``(N, C, H, W)`` float.
        kernel: ``(k, k)``, k odd.
        mode: of :func:`border`.

    Example:
        >>> convolve(torch.ones(1, 2, 1, 3), torch.full((3, 3), 1 / 9)).allclose(torch.ones(1, 2, 1, 3))
        True
    """
    n, channels, h, w = images.shape
    reach = kernel.shape[0] // 2
    y = border(torch.arange(-reach, h + reach, device=images.device), h, mode)
    x = border(torch.arange(-reach, w + reach, device=images.device), w, mode)
    padded = images[:, :, y[:, None], x].reshape(n * channels, 1, h + 2 * reach, w + 2 * reach)
    return torch.nn.functional.conv2d(padded, kernel.to(images)[None, None]).view(n, channels, h, w)


def directional_blur(images: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """ImageMagick's motion blur: a one-sided Gaussian of ``2 radius + 1`` taps along each image's angle.

    Tap ``i`` has weight ``exp(-i^2 / (2 sigma^2))`` and lies at ``(ceil(i cos a - 1/2), ceil(i sin a - 1/2))``; edge
    pixels are repeated.

    Args:
        images: ``(N, C, H, W)`` float.
        radius: in pixels.
        sigma: in pixels.
        degrees: ``(N,)`` angles, clockwise from the right.

    Example:
        >>> directional_blur(torch.ones(2, 1, 3, 3), 2, 1.0, torch.zeros(2)).allclose(torch.ones(2, 1, 3, 3))
        True
    """
    n, channels, h, w = images.shape
    taps = torch.arange(2 * radius + 1, dtype=torch.float64, device=images.device)
    weights = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights = (weights / weights.sum()).to(images.dtype)
    angle = degrees.double()[:, None] * (math.pi / 180)
    dx = torch.ceil(taps * angle.cos() - 0.5).long()
    dy = torch.ceil(taps * angle.sin() - 0.5).long()
    y, x = torch.arange(h, device=images.device)[:, None], torch.arange(w, device=images.device)
    flat = images.flatten(2)
    out = torch.zeros_like(flat)
    for tap in range(len(taps)):
        rows = (y + dy[:, tap, None, None]).clamp(0, h - 1)
        columns = (x + dx[:, tap, None, None]).clamp(0, w - 1)
        index = (rows * w + columns).view(n, 1, h * w).expand(-1, channels, -1)
        out += weights[tap] * flat.gather(2, index)
    return out.view(images.shape)


def sample_bilinear(images: Tensor, y: Tensor, x: Tensor, mode: str) -> Tensor:
    """Bilinear values at float positions (pixel centres at integers), a grid an image.

    Args:
        images: ``(N, C, H, W)`` float.
        y: ``(N, H', W')`` rows.
        x: ``(N, H', W')`` columns.
        mode: of :func:`border`.

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
    ch, cw = math.ceil(h / factor), math.ceil(w / factor)
    top, left = (h - ch) // 2, (w - cw) // 2
    # Never smaller than the image, which rounding could make it by a pixel.
    size = [max(h, round(ch * factor)), max(w, round(cw * factor))]
    crop = images[:, :, top : top + ch, left : left + cw]
    large = torch.nn.functional.interpolate(crop, size=size, mode="bilinear", align_corners=True)
    trim_y, trim_x = (size[0] - h) // 2, (size[1] - w) // 2
    return large[:, :, trim_y : trim_y + h, trim_x : trim_x + w]
