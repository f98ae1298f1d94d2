"""Contrast, elastic transform, pixelate and JPEG compression."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import gaussian_blur, sample_bilinear, uniform


def contrast(images: Tensor, factor: float, generator: torch.Generator | None) -> Tensor:
    """Pulls each channel towards its mean."""
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * factor + mean


def elastic_transform(images: Tensor, setting: tuple[float, ...], generator: torch.Generator | None) -> Tensor:
    """A random affine map of three points, then a smooth random displacement of each pixel; bilinear both times.

    Amplitude, sigma and affine shift are in sides of the image (its shorter one).
    """
    n, _, h, w = images.shape
    side = min(h, w)
    amplitude, sigma, affine = (value * side for value in setting)
    centre = torch.tensor([h // 2, w // 2], dtype=torch.float64)
    third = side // 3
    # In OpenCV's order (x, y) the original passes (row, column); for square images, which it assumes, it is the same.
    points = torch.stack([centre + third, centre + torch.tensor([third, -third]), centre - third])
    shift = (uniform((n, 3, 2), images, generator).double().cpu() * 2 - 1) * affine
    homogeneous = torch.cat([points, torch.ones(3, 1, dtype=torch.float64)], 1)
    y = torch.arange(h, device=images.device, dtype=torch.float32)[:, None].expand(h, w)
    x = torch.arange(w, device=images.device, dtype=torch.float32).expand(h, w)
    if third:  # the affine map takes points to points + shift; pixels are fetched through its inverse
        forward = torch.linalg.solve(homogeneous.expand(n, 3, 3), points + shift)
        square = torch.cat([forward, torch.tensor([0.0, 0.0, 1.0]).double().view(1, 3, 1).expand(n, 3, 1)], 2)
        inverse = torch.linalg.inv(square).float().to(images.device)
        grid = torch.stack([x, y, torch.ones_like(x)], -1).view(1, h * w, 3) @ inverse
        images = sample_bilinear(images, grid[..., 1].view(n, h, w), grid[..., 0].view(n, h, w), "reflect101")
    if amplitude == 0:
        return images
    noise = uniform((2, n, h, w), images, generator) * 2 - 1
    dx, dy = gaussian_blur(noise, sigma, truncate=3.0, mode="reflect") * amplitude
    return sample_bilinear(images, y + dy, x + dx, "reflect")


def pixelate(images: Tensor, scale: float, generator: torch.Generator | None) -> Tensor:
    """Box-filtered down to ``int(side * scale)`` pixels and up again, rounded to bytes in between as PIL does."""
    h, w = images.shape[-2:]
    small_h, small_w = max(1, int(h * scale)), max(1, int(w * scale))
    down = _resize(images, box_matrix(small_h, h), box_matrix(small_w, w))
    return _resize(down, box_matrix(h, small_h), box_matrix(w, small_w))


def jpeg_compression(images: Tensor, quality: int, generator: torch.Generator | None) -> Tensor:
    """Written and read as JPEG by PIL (4:2:0 for RGB), an image at a time: there is no batched codec."""
    out = []
    for array in (images * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        PIL.Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(file, "JPEG", quality=quality)
        decoded = np.asarray(PIL.Image.open(file))
        out.append(torch.from_numpy(decoded.reshape(array.shape).copy()))
    return torch.stack(out).permute(0, 3, 1, 2).to(images.device).float() / 255


def box_matrix(target: int, source: int) -> Tensor:
    """PIL's box filter along one axis: ``(target, source)`` weights, rows sum to 1.

    Args:
        target: length after it.
        source: length before it.

    Example:
        >>> box_matrix(2, 4).tolist()
        [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    ratio = source / target
    width = max(ratio, 1.0)
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * ratio
    low = (centre - width / 2 + 0.5).long().clamp_min(0)
    high = (centre + width / 2 + 0.5).long().clamp_max(source)
    position = torch.arange(source)
    distance = (position + 0.5 - centre[:, None]) / width
    inside = (position >= low[:, None]) & (position < high[:, None]) & (distance > -0.5) & (distance <= 0.5)
    weights = inside.double()
    return (weights / weights.sum(1, keepdim=True)).float()


def _resize(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # PIL rounds halves up, and means of a few bytes often are halves; float64 keeps them exact.
    across = (images.double() @ columns.to(images.device).double().T * 255 + (0.5 + 1e-6)).floor() / 255
    return ((rows.to(images.device).double() @ across * 255 + (0.5 + 1e-6)).floor() / 255).float()
