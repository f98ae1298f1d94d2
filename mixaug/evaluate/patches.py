"""Random square patches of images hidden: the order in which they are hidden, and hiding them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixaug._checks import MAX_BATCH, MAX_SIDE, check_generator, check_int, check_number, kind_of
from mixaug._random import drawn_by

__all__ = ["check_fill", "check_ratio", "occlude", "patch_grid", "patch_size_of", "sample_patch_order"]


def patch_size_of(height: int, width: int) -> int:
    """The side of the patches that images of this size are hidden by: a 14th of the shorter side, at least 1 pixel.

    Convention: rounded; 16 px at 224, as in the papers; 2 at 28 and 32, 5 at 64, 7 at 96. So the grid is always about
    14x14, and curves of different sizes compare. A transformer sees CIFAR-100 enlarged to 224 px, where a patch of
    16 px is 2.3 px of the 32.

    Example:
        >>> [patch_size_of(side, side) for side in (8, 28, 32, 64, 224)]
        [1, 2, 2, 5, 16]
    """
    return max(1, round(min(height, width) / 14))


def sample_patch_order(
    batch_size: int, height: int, width: int, patch_size: int, generator: torch.Generator | None = None
) -> Tensor:
    """A random order of the patches of each image, in which :func:`occlude` hides them.

    Convention: patches are numbered row by row from the top left; where the side does not divide the image, the last
    row and column are cut off by the image's edge.

    Args:
        batch_size: number of images, 0 or more.
        height: of the images in pixels.
        width: of the images in pixels.
        patch_size: side of a patch in pixels, from 1 to the longer side of the images.
        generator: of torch; default torch's own on the CPU.

    Shape:
        (B, P) int64 on the generator's device, each row a permutation of 0 to P - 1, with
        ``P = ceil(height / patch_size) * ceil(width / patch_size)``.

    Returns:
        the orders.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a number out of range.

    Example:
        >>> sample_patch_order(2, 4, 6, 2).sort(1).values.tolist()
        [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    """
    batch_size = check_int("batch_size", batch_size, 0, MAX_BATCH)
    check_generator(generator)
    rows, columns = patch_grid(height, width, patch_size)
    device = "cpu" if generator is None else generator.device
    return torch.rand(batch_size, rows * columns, device=device, dtype=torch.float32, **drawn_by(generator)).argsort(1)


def occlude(
    images: Tensor, order: Tensor, ratio: float, patch_size: int, fill: float | Sequence[float] = 0.0
) -> Tensor:
    """Hides the first patches of each image's order.

    Convention: ``round(ratio * P)`` of the P patches, halves to the even number as Python rounds. Patches at the edge
    that are cut off by it count as one each, so the hidden share of pixels differs a little where the side does not
    divide the image.

    Args:
        images: a batch; not written to.
        order: of :func:`sample_patch_order` for this size and patch size.
        ratio: share of the patches, in [0, 1].
        patch_size: side of a patch in pixels.
        fill: the hidden pixels' value in the images' own unit (0 to 255 for bytes, [0, 1] else), one or one for each
            channel; default 0, black.

    Shape:
        images: (B, C, H, W) uint8 in [0, 255] or floating point in [0, 1]; order: (B, P) int64; result as images, of
        their dtype, device and memory format.

    Returns:
        the images with patches hidden.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range; an order for another number of images or patches.

    Example:
        >>> images = torch.full((1, 1, 2, 4), 9, dtype=torch.uint8)
        >>> occlude(images, torch.tensor([[1, 0]]), ratio=0.5, patch_size=2).tolist()
        [[[[9, 9, 0, 0], [9, 9, 0, 0]]]]
    """
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be uint8 or floating point in [0, 1], got {got}")
    if images.ndim != 4 or 0 in images.shape[2:]:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    ratio = check_ratio(ratio)
    height, width = images.shape[2:]
    rows, columns = patch_grid(height, width, patch_size)
    count = rows * columns
    if not isinstance(order, Tensor) or order.dtype != torch.int64:
        got = order.dtype if isinstance(order, Tensor) else type(order).__name__
        raise TypeError(f"order must be an int64 tensor, got {got}")
    if order.device != images.device:
        raise ValueError(f"order must be on the images' device {images.device}, got {order.device}")
    if order.shape != (len(images), count):
        raise ValueError(
            f"order must have shape ({len(images)}, {count}), the images and the patches of {patch_size} px, "
            f"got {tuple(order.shape)}"
        )
    hidden = torch.zeros_like(order, dtype=torch.bool)
    hidden.scatter_(1, order[:, : round(ratio * count)], True)
    grid = hidden.view(-1, 1, rows, columns)
    mask = grid.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)[..., :height, :width]
    result = torch.where(mask, check_fill(fill, images), images)
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return result.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of the patches that cover an image.

    Raises:
        TypeError, ValueError: the patch size is no int, below 1, or above the longer side.

    Example:
        >>> patch_grid(7, 10, 3)
        (3, 4)
    """
    height, width = check_int("height", height, 1, MAX_SIDE), check_int("width", width, 1, MAX_SIDE)
    patch_size = check_int("patch_size", patch_size, 1)
    if patch_size > max(height, width):
        raise ValueError(f"patch_size must be at most the longer side of the {height}x{width} images, got {patch_size}")
    return -(-height // patch_size), -(-width // patch_size)


def check_ratio(ratio: object) -> float:
    """A number in [0, 1], or an error."""
    return check_number("ratio", ratio, 0.0, 1.0)


def check_fill(fill: Any, images: Tensor) -> Tensor:
    """The hidden pixel, 0-dimensional or (C, 1, 1), of the images' dtype and on their device.

    Raises:
        TypeError, ValueError: not a number for all channels or one for each, or one out of the images' range.

    Example:
        >>> check_fill((0, 255), torch.zeros(1, 2, 4, 4, dtype=torch.uint8)).flatten().tolist()
        [0, 255]
    """
    if isinstance(fill, Tensor) and fill.device.type == "meta":
        raise TypeError(f"fill must be numbers, got {kind_of(fill)}")
    fill = fill.tolist() if isinstance(fill, np.ndarray | Tensor) else fill
    values = list(fill) if isinstance(fill, Sequence) and not isinstance(fill, str) else [fill]
    whole = images.dtype == torch.uint8
    for value in values:
        number = check_number("fill", value, 0.0, 255.0 if whole else 1.0)
        if whole and not number.is_integer():
            raise ValueError(f"fill must be a whole number for {images.dtype}, got {value}")
    if isinstance(fill, Sequence) and len(values) != images.shape[1]:
        raise ValueError(f"fill must have one value, or one for each of the {images.shape[1]} channels, got {fill}")
    tensor = torch.tensor(values, dtype=images.dtype, device=images.device)
    return tensor.view(-1, 1, 1) if isinstance(fill, Sequence) else tensor[0]
