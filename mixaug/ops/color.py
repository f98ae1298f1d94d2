"""Colour operations on 8-bit images with PIL's arithmetic: a 256-entry table per image and channel, or a blend.

Each image of the batch has its own operation and strength. Levels are IPMix's ``L`` (see ``docs/methods/ipmix.md``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug.ops.ipmix_record import OP


def luma(images: Tensor) -> Tensor:
    """Rec. 601 luma with PIL's integer weights: ``(19595 R + 38470 G + 7471 B + 32768) >> 16``.

    Args:
        images: ``(..., 3, H, W)`` or ``(..., 1, H, W)`` uint8; grey is returned as it is.

    Returns:
        ``(..., 1, H, W)`` uint8.

    Example:
        >>> luma(torch.full((3, 1, 1), 200, dtype=torch.uint8)).item()
        200
    """
    if images.shape[-3] == 1:
        return images
    red, green, blue = images.int().unbind(-3)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8).unsqueeze(-3)


def apply_table(images: Tensor, table: Tensor) -> Tensor:
    """Looks every byte up in its image's and channel's table.

    Args:
        images: ``(n, C, H, W)`` uint8.
        table: ``(n, C or 1, 256)`` uint8.

    Returns:
        ``(n, C, H, W)`` uint8.

    Example:
        >>> table = torch.arange(255, -1, -1, dtype=torch.uint8).expand(1, 1, 256)
        >>> apply_table(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), table).item()
        255
    """
    table = table.expand(-1, images.shape[1], -1)
    return table.gather(2, images.flatten(2).long()).view(images.shape)


def pointwise(images: Tensor, op: Tensor, level: Tensor) -> Tensor:
    """Posterize, solarize, invert and brightness: tables that do not depend on the image.

    posterize keeps the ``4 - int(0.4 L)`` highest bits; solarize inverts values ``>= 256 - int(25.6 L)``; brightness
    blends with black by the factor ``0.18 L + 0.1``.

    Args:
        images: ``(n, C, H, W)`` uint8.
        op: ``(n,)`` int64, each one of these operations' codes.
        level: ``(n,)`` float32.

    Returns:
        ``(n, C, H, W)`` uint8.

    Example:
        >>> black = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
        >>> pointwise(black, torch.tensor([OP["invert"]]), torch.ones(1)).item()
        255
    """
    value = torch.arange(256, device=images.device)
    strength = level.double()[:, None]
    op = op[:, None]
    bits = (4 - (0.4 * strength).long()).clamp_min(0)
    posterized = value & (256 - (torch.ones_like(bits) << (8 - bits)))
    threshold = torch.where(op == OP["invert"], 0, 256 - (25.6 * strength).long())
    solarized = torch.where(value < threshold, value, 255 - value)
    table = torch.where(op == OP["posterize"], posterized, solarized).to(torch.uint8)
    dimmed = _blend(torch.zeros_like(value), value, _factor(level)[:, None])
    table = torch.where(op == OP["brightness"], dimmed, table)
    return apply_table(images, table[:, None])


def histogram_based(images: Tensor, op: Tensor, level: Tensor) -> Tensor:
    """Equalize and autocontrast (which cuts ``10 - L`` percent of the pixels off each end), per channel.

    Args:
        images: ``(n, C, H, W)`` uint8.
        op: ``(n,)`` int64, each the code of equalize or autocontrast.
        level: ``(n,)`` float32.

    Returns:
        ``(n, C, H, W)`` uint8.

    Example:
        >>> image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
        >>> histogram_based(image, torch.tensor([OP["equalize"]]), torch.ones(1)).equal(image)
        True
    """
    flat = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    equalized = _equalize_table(counts)
    stretched = _autocontrast_table(counts, level.double()[:, None, None])
    return apply_table(images, torch.where((op == OP["equalize"])[:, None, None], equalized, stretched))


def contrast(images: Tensor, level: Tensor) -> Tensor:
    """Blends each image with its mean grey, ``int(mean luma + 0.5)``, by the factor ``0.18 L + 0.1``.

    Args:
        images: ``(n, C, H, W)`` uint8.
        level: ``(n,)`` float32.

    Returns:
        ``(n, C, H, W)`` uint8.

    Example:
        >>> grey = torch.full((1, 3, 2, 2), 90, dtype=torch.uint8)
        >>> contrast(grey, torch.ones(1)).equal(grey)
        True
    """
    pixels = images.shape[-2] * images.shape[-1]
    mean = (luma(images).sum((1, 2, 3), dtype=torch.int64).double() / pixels + 0.5).long()
    return _blend(mean[:, None, None, None], images, _factor(level)[:, None, None, None])


def color(images: Tensor, level: Tensor) -> Tensor:
    """Blends each image with its luma by the factor ``0.18 L + 0.1``; grey images stay as they are.

    Args:
        images: ``(n, C, H, W)`` uint8.
        level: ``(n,)`` float32.

    Returns:
        ``(n, C, H, W)`` uint8.

    Example:
        >>> grey = torch.full((1, 3, 2, 2), 90, dtype=torch.uint8)
        >>> color(grey, torch.ones(1)).equal(grey)
        True
    """
    if images.shape[1] == 1:
        return images
    return _blend(luma(images), images, _factor(level)[:, None, None, None])


def sharpness(images: Tensor, level: Tensor) -> Tensor:
    """Blends each image with its smoothed form (3x3, weights 1 and 5 in the centre, over 13) by ``0.18 L + 0.1``.

    Convention: as in PIL the one-pixel border is not smoothed; images under 3 pixels a side stay as they are.

    Args:
        images: ``(n, C, H, W)`` uint8.
        level: ``(n,)`` float32.

    Returns:
        ``(n, C, H, W)`` uint8.

    Example:
        >>> flat = torch.full((1, 1, 5, 5), 7, dtype=torch.uint8)
        >>> sharpness(flat, torch.ones(1)).equal(flat)
        True
    """
    height, width = images.shape[-2:]
    if height < 3 or width < 3:
        return images
    x = images.int()
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * x[..., 1:-1, 1:-1]
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = (2 * total + 13) // 26
    return _blend(smooth, images, _factor(level)[:, None, None, None])


def _factor(level: Tensor) -> Tensor:
    return (0.18 * level.double() + 0.1).float()


def _blend(degenerate: Tensor, value: Tensor, factor: Tensor) -> Tensor:
    """PIL's ``Image.blend`` on bytes: float32, clipped, truncated."""
    degenerate, value = degenerate.int(), value.int()
    blended = degenerate.float() + factor * (value - degenerate).float()
    return blended.clamp(0.0, 255.0).to(torch.uint8)


def _equalize_table(counts: Tensor) -> Tensor:
    value = torch.arange(256, device=counts.device)
    total = counts.sum(2, keepdim=True)
    last = counts.gather(2, ((counts > 0) * value).amax(2, keepdim=True))
    step = (total - last) // 255
    before = counts.cumsum(2) - counts
    table = (step // 2 + before) // step.clamp_min(1)
    return torch.where(step == 0, value, table.clamp_max(255)).to(torch.uint8)


def _autocontrast_table(counts: Tensor, level: Tensor) -> Tensor:
    value = torch.arange(256, device=counts.device)
    total = counts.sum(2, keepdim=True)
    cut = (total.double() * (10.0 - level) / 100.0).floor().long()
    below = counts.cumsum(2) - counts
    counts = counts - torch.minimum((cut - below).clamp_min(0), counts)
    above = counts.sum(2, keepdim=True) - counts.cumsum(2)
    counts = counts - torch.minimum((cut - above).clamp_min(0), counts)
    used = counts > 0
    low = torch.where(used, value, 255).amin(2, keepdim=True)
    high = torch.where(used, value, 0).amax(2, keepdim=True)
    # A true division: Python's `255.0 / tensor` is a reciprocal times 255, which is off by one in the last bit.
    scale = torch.tensor(255.0, dtype=torch.float64, device=counts.device) / (high - low).clamp_min(1)
    table = (value * scale + (-low.double() * scale)).long().clamp(0, 255)
    return torch.where(high <= low, value, table).to(torch.uint8)
