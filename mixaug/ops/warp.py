"""Rotate, shear, translate and mirror as one affine warp with a matrix per image, on 8-bit images.

PIL's geometry: the pixel centre ``(x + 1/2, y + 1/2)`` is mapped to source coordinates, bilinear between pixel
centres, edge pixels repeated up to the image's border, 0 beyond, truncated to a byte. Coordinates are 64-bit fixed
point with 32 fractional bits and the weights have 11 bits, so the result is the same on every device; it is within
one grey level of PIL's, which uses doubles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixaug.ops.ipmix_record import OP

_ONE = 1 << 32
_BITS = 11
#: Weights of the two taps of a coordinate sum to this.
UNIT = 1 << _BITS
#: Cosine and sine of -30..30 degrees: a constant table, since cos differs in the last bit between devices.
_ANGLES = [degrees * (math.pi / 180.0) for degrees in range(-30, 31)]


def affine_matrix(op: Tensor, level: Tensor, sign: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse map of each image's geometric operation, ``(x, y) -> (a x + b y + c, d x + e y + f)``.

    rotate by ``int(3 L)`` degrees about the centre; shear by ``0.03 L``; translate by ``int(L side / 30)`` pixels,
    where side is the width for x and the height for y.

    Args:
        op: ``(n,)`` int64, codes of the geometric operations.
        level: ``(n,)`` float32, ``L`` in ``(0, 10]``.
        sign: ``(n,)`` int64, -1 or 1.
        size: ``(H, W)`` in pixels.

    Returns:
        ``(n, 6)`` int64, rows ``a b c d e f`` in units of ``2^-32``.

    Example:
        >>> one = torch.ones(1)
        >>> (affine_matrix(torch.tensor([OP["mirror"]]), one, one.long(), (4, 4)) / 2**32).tolist()
        [[-1.0, 0.0, 4.0, 0.0, 1.0, 0.0]]
    """
    h, w = size
    strength = level.double()
    zero, one = torch.zeros_like(strength), torch.ones_like(strength)
    degrees = (3.0 * strength).long() * sign
    index = degrees + 30
    cos = torch.tensor([math.cos(angle) for angle in _ANGLES], dtype=torch.float64, device=op.device)[index]
    sin = torch.tensor([math.sin(angle) for angle in _ANGLES], dtype=torch.float64, device=op.device)[index]
    # In double: an int64 tensor times a Python float would be float32.
    shear = sign.double() * 0.03 * strength
    identity = [one, zero, zero, zero, one, zero]
    cx, cy = 0.5 * w, 0.5 * h
    rows = {
        "mirror": [-one, zero, w * one, zero, one, zero],
        "rotate": [cos, -sin, -cx * cos + cy * sin + cx, sin, cos, -cx * sin - cy * cos + cy],
        "shear_x": [one, shear, zero, zero, one, zero],
        "shear_y": [one, zero, zero, shear, one, zero],
        "translate_x": [one, zero, (sign * (strength * w / 30.0).long()).double(), zero, one, zero],
        "translate_y": [one, zero, zero, zero, one, (sign * (strength * h / 30.0).long()).double()],
    }  # fmt: skip
    matrix = torch.stack(identity, 1)
    for name, row in rows.items():
        matrix = torch.where((op == OP[name])[:, None], torch.stack(row, 1), matrix)
    return (matrix * _ONE).round().long()


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Warps each image by its own matrix.

    Args:
        images: ``(n, C, H, W)`` uint8.
        matrix: ``(n, 6)`` int64 of :func:`affine_matrix`.

    Returns:
        ``(n, C, H, W)`` uint8, 0 where the source lies outside the image.

    Example:
        >>> row = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)
        >>> one = torch.ones(1)
        >>> warp(row, affine_matrix(torch.tensor([OP["mirror"]]), one, one.long(), (1, 3))).flatten().tolist()
        [3, 2, 1]
    """
    n, channels, h, w = images.shape
    a, b, c, d, e, f = (column[:, None, None] for column in matrix.unbind(1))
    x = 2 * torch.arange(w, device=images.device) + 1
    y = 2 * torch.arange(h, device=images.device)[:, None] + 1
    x0, x1, fx, in_x = taps(((a * x + b * y) >> 1) + c, w)
    y0, y1, fy, in_y = taps(((d * x + e * y) >> 1) + f, h)
    flat = images.flatten(2)

    def pixel(row: Tensor, column: Tensor) -> Tensor:
        index = (row * w + column).view(n, 1, h * w).expand(-1, channels, -1)
        return flat.gather(2, index).view(images.shape).int()

    fx, fy = fx[:, None], fy[:, None]
    top = pixel(y0, x0) * (UNIT - fx) + pixel(y0, x1) * fx
    bottom = pixel(y1, x0) * (UNIT - fx) + pixel(y1, x1) * fx
    value = (top * (UNIT - fy) + bottom * fy) >> (2 * _BITS)
    return torch.where((in_x & in_y)[:, None], value, 0).to(torch.uint8)


def taps(coordinate: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two pixels whose centres enclose a coordinate, and their weights.

    Args:
        coordinate: int64 in units of ``2^-32`` pixels, 0 at the image's border.
        size: pixels on this axis.

    Returns:
        the two positions (clamped to the image), the second one's weight (int32, of ``UNIT``), and whether the
        coordinate lies inside the image.

    Example:
        >>> [int(part) for part in taps(torch.tensor(5 << 31), 4)]
        [2, 3, 0, 1]
    """
    shifted = coordinate - _ONE // 2 + (1 << (31 - _BITS))
    index = shifted >> 32
    weight = ((shifted >> (32 - _BITS)) & (UNIT - 1)).int()
    inside = (coordinate >= 0) & (coordinate < size * _ONE)
    return index.clamp(0, size - 1), (index + 1).clamp(0, size - 1), weight, inside
