"""The four mixing operators of the patch and pixel level, on 8-bit images.

With ``u`` the image and ``s`` the other picture in ``[0, 1]`` (PixMix, Hendrycks et al., CVPR 2022;
Summers and Dinneen, WACV 2019 for the random masks)::

    add              ((2u - 1) a + (2s - 1) b + 1) / 2
    multiply         (2u)^a (2s)^b / 2
    random pixels    u where hash(pixel) < keep, else s
    random elements  u where hash(pixel, channel) < keep, else s

The result is clipped to ``[0, 1]`` and rounded to a byte. Powers of bytes are 256-entry tables.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixaug.ops.ipmix_record import OP

# 2u of the image is 0^a = 0 at u = 0; 2s is clipped at 1e-37, the smallest power of ten in float32.
_LOG2 = [math.log2(2.0 * value / 255.0 if value else 1e-37) for value in range(256)]


def quantise(images: Tensor) -> Tensor:
    """Bytes of images: ``round(255 x)``, half to even, clipped; uint8 is returned as it is, NaN becomes 0.

    Args:
        images: uint8, or float in ``[0, 1]``.

    Returns:
        uint8 of the same shape.

    Example:
        >>> quantise(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    if images.dtype == torch.uint8:
        return images
    return to_byte(images.float() * 255.0)


def to_byte(value: Tensor) -> Tensor:
    """Clips to ``[0, 255]``, rounds half to even; NaN becomes 0.

    Example:
        >>> to_byte(torch.tensor([-1.0, 2.5, 300.0])).tolist()
        [0, 2, 255]
    """
    return value.nan_to_num(0.0, posinf=255.0, neginf=0.0).clamp(0.0, 255.0).round().to(torch.uint8)


def counter_hash(index: Tensor, seed: Tensor) -> Tensor:
    """A 32-bit hash of ``(index, seed)`` by two rounds of multiply-xorshift: the same integers on every device.

    Args:
        index: int64 in ``[0, 2^32)``.
        seed: int64, all 64 bits used; broadcast against ``index``.

    Returns:
        int64 in ``[0, 2^32)``.

    Example:
        >>> counter_hash(torch.tensor([0, 1]), torch.tensor(7)).unique().numel()
        2
    """
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    return _mix32((_mix32(index ^ low) + high) & 0xFFFFFFFF)


def _mix32(x: Tensor) -> Tensor:
    # The second multiplier is written as its negative residue, so that no product leaves 64 bits.
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * (0x846CA68B - (1 << 32))) & 0xFFFFFFFF
    return x ^ (x >> 16)


def mix(
    images: Tensor,
    sources: Tensor,
    op: Tensor,
    a: Tensor,
    b: Tensor,
    keep: Tensor,
    seed: Tensor,
    box: Tensor,
) -> Tensor:
    """Mixes each image with its source inside its box; outside the box nothing changes.

    Args:
        images: ``(n, C, H, W)`` uint8. Not written.
        sources: ``(n, C, H, W)`` uint8.
        op: ``(n,)`` int64, each the code of one of ``MIXING_OPERATIONS``.
        a: ``(n,)`` float32, exponent (multiply) or coefficient (add) of the image.
        b: ``(n,)`` float32, that of the source.
        keep: ``(n,)`` float32 in ``[0, 1]``, share of the image that the random operators keep.
        seed: ``(n,)`` int64 of the random masks.
        box: ``(n, 4)`` int64, XYXY, half-open.

    Returns:
        ``(n, C, H, W)`` uint8.

    Example:
        >>> u, s = torch.full((2, 1, 1, 4, 4), 100, dtype=torch.uint8).unbind()
        >>> one, box = torch.ones(1), torch.tensor([[0, 0, 2, 4]])
        >>> mix(u, s, torch.tensor([OP["add"]]), one, one, one, one.long(), box)[0, 0, 0].tolist()
        [72, 72, 100, 100]
    """
    _, channels, h, w = images.shape
    op, a, b, keep, seed = (value.view(-1, 1, 1, 1) for value in (op, a, b, keep, seed))
    added = to_byte(images.float() * a + (sources.float() * b + 127.5 * ((1.0 - a) - b)))

    log2 = torch.tensor(_LOG2, dtype=torch.float64, device=images.device)
    image_power = (127.5 * torch.exp2(a.double().flatten(1) * log2)).float()
    image_power[:, 0] = (a.flatten() == 0).to(torch.float32) * 127.5
    source_power = torch.exp2(b.double().flatten(1) * log2).float()
    multiplied = to_byte(_look_up(image_power, images) * _look_up(source_power, sources))

    pixel = torch.arange(h * w, device=images.device).view(1, 1, h, w)
    element = pixel + torch.arange(channels, device=images.device).view(1, -1, 1, 1) * (h * w)
    index = torch.where(op == OP["random_pixels"], pixel, element)
    kept = (counter_hash(index, seed) >> 8) < (keep * 16777216.0).long()
    chosen = torch.where(kept, images, sources)

    mixed = torch.where(op == OP["add"], added, torch.where(op == OP["multiply"], multiplied, chosen))
    x0, y0, x1, y1 = (edge.view(-1, 1, 1, 1) for edge in box.unbind(1))
    x, y = torch.arange(w, device=images.device), torch.arange(h, device=images.device)[:, None]
    return torch.where((x >= x0) & (x < x1) & (y >= y0) & (y < y1), mixed, images)


def _look_up(table: Tensor, images: Tensor) -> Tensor:
    return table.gather(1, images.flatten(1).long()).view(images.shape)
