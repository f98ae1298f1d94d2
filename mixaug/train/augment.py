"""Random crop and horizontal flip of whole batches: the basic transform under every method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixaug._random import drawn_by

__all__ = ["CropFlipParams", "crop_flip", "default_padding", "sample_crop_flip"]


@dataclass(frozen=True)
class CropFlipParams:
    """What was drawn for a batch; :func:`crop_flip` carries it out.

    Args:
        top: first row of each crop in the padded image, ``(B,)`` int64 in ``[0, 2 padding]``.
        left: first column, likewise.
        flip: whether the crop is mirrored, ``(B,)`` bool.
        padding: pixels of black added on each side before the crop.

    Example:
        >>> sample_crop_flip(5, padding=4).top.shape
        torch.Size([5])
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    padding: int


def default_padding(image_size: int) -> int:
    """An eighth of the side: the field's 4 pixels at 28 and 32, 8 at 64, 28 at 224, 1 for the 8-px digits.

    Example:
        >>> [default_padding(side) for side in (8, 28, 32, 64, 224)]
        [1, 4, 4, 8, 28]
    """
    return (image_size + 4) // 8


def sample_crop_flip(
    batch_size: int, padding: int = 4, flip: bool = True, generator: torch.Generator | None = None
) -> CropFlipParams:
    """Draws places and flips for a batch.

    Convention:
        Each image has its own place, uniform over the ``(2 padding + 1)^2`` possible ones, and its own flip with
        probability 1/2. Drawn on the generator's device; :func:`crop_flip` moves the draw to the images.

    Args:
        batch_size: number of images, 0 or more.
        padding: pixels on each side, 0 or more, default 4. 0: no crop.
        flip: draw flips; False (for digits, whose mirror images are no digits): none. Default True.
        generator: of torch; None: torch's own on the CPU.

    Returns:
        the draw.

    Raises:
        ValueError: a negative batch size or padding.

    Example:
        >>> bool(sample_crop_flip(100, flip=False).flip.any())
        False
    """
    for name, value in (("batch_size", batch_size), ("padding", padding)):
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    device = "cpu" if generator is None else generator.device
    place = torch.randint(0, 2 * padding + 1, (2, batch_size), device=device, **drawn_by(generator))
    # Drawn also when it is not used: turning flips off leaves the crops of a seed as they were.
    mirrored = torch.rand(batch_size, device=device, dtype=torch.float32, **drawn_by(generator)) < 0.5
    return CropFlipParams(place[0], place[1], mirrored & flip, padding)


def crop_flip(images: Tensor, params: CropFlipParams) -> Tensor:
    """Pads each image with black, crops it back to its size at its own place and mirrors it where drawn.

    Convention:
        One gather for the batch; the pixels are copied, never interpolated.

    Args:
        images: the batch; not written to.
        params: of :func:`sample_crop_flip` for this batch size.

    Shape:
        ``(B, C, H, W)`` of any dtype, also for the result, which keeps the device and the memory format.

    Returns:
        the crops.

    Raises:
        ValueError: not a batch of images, or params of another batch size.

    Example:
        >>> images = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> still = CropFlipParams(torch.tensor([1]), torch.tensor([1]), torch.tensor([True]), padding=1)
        >>> crop_flip(images, still).flatten().tolist()
        [1.0, 0.0, 3.0, 2.0]
    """
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    if len(params.top) != len(images):
        raise ValueError(f"params must be of the batch size {len(images)}, got {len(params.top)}")
    batch, _, height, width = images.shape
    device, pad = images.device, params.padding
    top, left, flip = (drawn.to(device, non_blocking=True)[:, None] for drawn in (params.top, params.left, params.flip))
    columns = torch.arange(width, device=device)
    rows = torch.arange(height, device=device) + top
    columns = torch.where(flip, width - 1 - columns, columns) + left
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    rank = torch.arange(batch, device=device)[:, None, None]
    # Two indexed axes with a slice between: the result is (B, H, W, C), which is channels_last for free.
    crops = padded[rank, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return crops.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
