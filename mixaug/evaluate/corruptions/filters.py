"""Linear filters that the corruptions share, for whole batches and any size of image.

On the CPU they run compiled loops; on other devices, and as the definition that the loops are tested against, torch.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType

import torch
from torch import Tensor

from mixaug._random import drawn_by


@functools.cache
def kernels() -> ModuleType:
    """The compiled loops: importing numba takes a while, so it waits for the first use."""
    from mixaug.evaluate.corruptions import _kernels

    return _kernels


def uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniforms in ``[0, 1)`` on ``like``'s device, drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.rand(shape, device=device, dtype=torch.float32, **drawn_by(generator)).to(like.device)


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normals on ``like``'s device, drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, device=device, dtype=torch.float32, **drawn_by(generator)).to(like.device)


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


@functools.lru_cache(256)
def gaussian_weights(sigma: float, truncate: float) -> Tensor:
    """Of ``2 int(truncate sigma + 1/2) + 1`` taps as in SciPy, float64; sigma 0 gives the identity.

    Example:
        >>> gaussian_weights(0.0, 4.0).tolist()
        [1.0]
    """
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / max(sigma, 1e-12)) ** 2)
    return weights / weights.sum()


def gaussian_matrix(size: int, sigma: float, *, truncate: float, mode: str) -> Tensor:
    """A Gaussian blur along one axis as a ``(size, size)`` matrix: borders are part of it, whatever the radius.

    Args:
        size: length of the axis.
        sigma: in pixels.
        truncate: radius in sigmas.
        mode: of :func:`border`.

    Example:
        >>> torch.allclose(gaussian_matrix(5, 1.0, truncate=4, mode="nearest").sum(1), torch.ones(5))
        True
    """
    weights = gaussian_weights(sigma, truncate)
    radius = len(weights) // 2
    target = border(torch.arange(size)[:, None] + torch.arange(-radius, radius + 1), size, mode)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, target, weights.expand(size, -1))
    return matrix.float()


def gaussian_blur(images: Tensor, sigma: float, *, truncate: float = 4.0, mode: str = "nearest") -> Tensor:
    """Gaussian blur of the last two axes (scikit-image's ``gaussian``: nearest border, 4 sigmas).

    Args:
        images: ``(..., H, W)`` float32.
        sigma: in pixels.
        truncate: radius in sigmas.
        mode: of :func:`border`.

    Example:
        >>> gaussian_blur(torch.ones(1, 1, 4, 6), 2.0).allclose(torch.ones(1, 1, 4, 6))
        True
    """
    h, w = images.shape[-2:]
    weights = gaussian_weights(sigma, truncate)
    radius = len(weights) // 2
    if radius == 0:
        return images.clone()
    # A matrix product is right at any radius; below a third of the side, row by row takes less time (measured at 224).
    if images.device.type != "cpu" or 3 * len(weights) > max(h, w):
        rows = gaussian_matrix(h, sigma, truncate=truncate, mode=mode).to(images)
        columns = gaussian_matrix(w, sigma, truncate=truncate, mode=mode).to(images)
        return rows @ images @ columns.T
    planes = images.reshape(-1, h, w).contiguous()
    out = torch.empty_like(planes)
    taps = weights.float().numpy()
    y, x = (border(torch.arange(-radius, size + radius), size, mode).numpy() for size in (h, w))
    loops = kernels()
    loops.over_images(loops.blur_planes, len(planes), planes.numpy(), out.numpy(), taps, y, taps, x)
    return out.view(images.shape)


def convolve(images: Tensor, kernel: Tensor, mode: str = "reflect101") -> Tensor:
    """Correlates every channel with one odd kernel; borders as :func:`border`, at any size of image.

    Args:
        images: ``(N, C, H, W)`` float32.
        kernel: ``(k, k)``, k odd. On the CPU the time goes with the changes of value along its rows.
        mode: of :func:`border`.

    Example:
        >>> convolve(torch.ones(1, 2, 1, 3), torch.full((3, 3), 1 / 9)).allclose(torch.ones(1, 2, 1, 3))
        True
    """
    if images.device.type != "cpu":
        return convolve_torch(images, kernel, mode)
    n, channels, h, w = images.shape
    reach = kernel.shape[0] // 2
    planes = images.reshape(n * channels, h, w).contiguous()
    out = torch.empty_like(planes)
    rows, columns = (border(torch.arange(-reach, size + reach), size, mode).numpy() for size in (h, w))
    # sum_x k(x) in(x) is, with the prefix sums of a row, a sum over the jumps of k; a disk has few.
    jumps = torch.nn.functional.pad(kernel.double(), (1, 1)).diff(dim=1)
    dy, dx = (jumps.abs() > 1e-10).nonzero(as_tuple=True)
    weights = jumps[dy, dx].float().numpy()
    loops = kernels()
    loops.over_images(
        loops.convolve_planes, len(planes), planes.numpy(), out.numpy(), rows, columns, dy.numpy(), dx.numpy(), weights
    )
    return out.view(images.shape)


def convolve_torch(images: Tensor, kernel: Tensor, mode: str = "reflect101") -> Tensor:
    """:func:`convolve` in torch.

    Example:
        >>> convolve_torch(torch.ones(1, 2, 1, 3), torch.full((3, 3), 1 / 9)).allclose(torch.ones(1, 2, 1, 3))
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
        images: ``(N, C, H, W)`` float32.
        radius: in pixels.
        sigma: in pixels.
        degrees: ``(N,)`` angles, clockwise from the right.

    Example:
        >>> directional_blur(torch.ones(2, 1, 3, 3), 2, 1.0, torch.zeros(2)).allclose(torch.ones(2, 1, 3, 3))
        True
    """
    if images.device.type != "cpu":
        return directional_blur_torch(images, radius, sigma, degrees)
    dy, dx, weights = _taps(radius, sigma, degrees)
    images = images.contiguous()
    out = torch.empty_like(images)
    loops = kernels()
    loops.over_images(
        loops.directional_images, len(images), images.numpy(), out.numpy(), dy.numpy(), dx.numpy(), weights.numpy(),
        2 * radius,
    )  # fmt: skip
    return out


def directional_blur_torch(images: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """:func:`directional_blur` in torch.

    Example:
        >>> directional_blur_torch(torch.ones(2, 1, 3, 3), 2, 1.0, torch.zeros(2)).allclose(torch.ones(2, 1, 3, 3))
        True
    """
    n, channels, h, w = images.shape
    dy, dx, weights = _taps(radius, sigma, degrees)
    y, x = torch.arange(h, device=images.device)[:, None], torch.arange(w, device=images.device)
    flat = images.flatten(2)
    out = torch.zeros_like(flat)
    for tap in range(len(weights)):
        rows = (y + dy[:, tap, None, None]).clamp(0, h - 1)
        columns = (x + dx[:, tap, None, None]).clamp(0, w - 1)
        index = (rows * w + columns).view(n, 1, h * w).expand(-1, channels, -1)
        out += weights[tap] * flat.gather(2, index)
    return out.view(images.shape)


def _taps(radius: int, sigma: float, degrees: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    taps = torch.arange(2 * radius + 1, dtype=torch.float64, device=degrees.device)
    weights = torch.exp(-0.5 * (taps / sigma) ** 2)
    angle = degrees.double()[:, None] * (math.pi / 180)
    dy, dx = torch.ceil(taps * angle.sin() - 0.5).long(), torch.ceil(taps * angle.cos() - 0.5).long()
    return dy, dx, (weights / weights.sum()).float()
