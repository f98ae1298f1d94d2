"""One picture for each image of a batch: chosen, resized, cropped and flipped at random."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mixaug._checks import (
    MAX_BATCH,
    MAX_PICTURES,
    MAX_SIDE,
    check_generator,
    check_int,
    check_number,
    check_range,
    check_size,
    kind_of,
)
from mixaug._random import drawn_by
from mixaug._records import Rule, Rules, check_record, kept, reads_values

#: Most that a picture is enlarged by: the side of a resized picture stays one that memory can hold.
MAX_SCALE = 100.0


@dataclass(frozen=True)
class PickParams:
    """Which part of which picture B images get.

    Args:
        size: (H, W) of the images.
        side: side in pixels of the resized pictures that are read; one for all, so that a set keeps one copy.
        index: (B,) int64, which picture.
        scale: (B,) float32, at least 1: the picture is resized so that its side is ``scale`` times the image's longer
            side.
        top, left: (B,) float32 in [0, 1], place of the crop: 0 at the upper or left end, 1 at the other.
        flip: (B,) bool, mirrored left to right.
    """

    size: tuple[int, int]
    side: int
    index: Tensor
    scale: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor

    def to(self, device: torch.device | str) -> PickParams:
        """The same record with its tensors on ``device``."""
        moved: dict[str, Any] = {f.name: getattr(self, f.name).to(device) for f in fields(self)[2:]}
        return replace(self, **moved)


def sample_picks(
    batch: int,
    size: tuple[int, int],
    pictures: int,
    scale: tuple[float, float] = (1.0, 1.5),
    flip: float = 0.5,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> PickParams:
    """Draws a `PickParams`: every picture equally likely, ``scale ~ U(scale)``, the crop's place uniform.

    Args:
        batch: number of images, 0 allowed.
        size: (H, W) of the images in pixels.
        pictures: number of pictures to choose from.
        scale: range of the scale, from 1 up.
        flip: probability of a mirrored picture.
        generator: of torch; its device counts. None: torch's default generator of ``device``.
        device: where the record is drawn. Default "cpu".
    """
    batch, size = check_int("batch", batch, 0, MAX_BATCH), check_size("size", size)
    pictures = check_int("pictures", pictures, 1, MAX_PICTURES)
    scale, flip = check_range("scale", scale, 1.0, MAX_SCALE), check_number("flip", flip, 0.0, 1.0)
    check_generator(generator)
    device = generator.device if generator is not None else torch.device(device)
    u = torch.rand(batch, 4, device=device, dtype=torch.float32, **drawn_by(generator))
    index = torch.randint(pictures, (batch,), device=device, **drawn_by(generator))
    low, high = scale
    side = math.ceil(high * max(size))
    return PickParams(size, side, index, low + (high - low) * u[:, 0], u[:, 1], u[:, 2], u[:, 3] < flip)


def check_picks(params: Any, pictures: int) -> PickParams:
    """The record as it may be used: of so many pictures, on one device, its values (read on the CPU) in range.

    Args:
        params: what was given as a record.
        pictures: number of pictures in the set.

    Raises:
        TypeError: the record, or a field of it, is of another kind or dtype.
        ValueError: a shape that does not fit, or a value out of range.

    Example:
        >>> check_picks(sample_picks(2, (32, 32), 5), 5).side
        48
    """
    if not isinstance(params, PickParams):
        raise TypeError(f"params must be PickParams, got {kind_of(params)}")
    if not isinstance(params.size, (tuple, list, torch.Size)) or len(params.size) != 2:
        raise TypeError(f"params.size must be a pair (H, W), got {kind_of(params.size)}")
    height, width = (check_int("params.size", side, 1, MAX_SIDE) for side in params.size)
    side = check_int("params.side", params.side, 1)
    if not isinstance(params.index, Tensor) or params.index.ndim != 1:
        raise TypeError(f"params.index must be a tensor (B,), got {kind_of(params.index)}")
    scale = params.scale
    if params.index.device.type == "meta" and isinstance(scale, Tensor) and scale.device.type != "meta":
        raise ValueError(f"params.index must be on {scale.device}, as the other fields, got meta")
    device, shape = params.index.device, tuple(params.index.shape)
    others = {
        len(value)
        for name in ("scale", "top", "left")
        if isinstance(value := getattr(params, name), Tensor) and value.ndim
    }
    if len(others) == 1 and others != {len(params.index)}:
        raise ValueError(f"params.index must have shape ({others.pop()},), as the other fields, got {shape}")
    params = check_record(params, _rules(shape, pictures), device, values=reads_values(device))
    return replace(params, size=(height, width), side=side)


@kept
def _rules(shape: tuple[int, ...], pictures: int) -> Rules:
    unit = Rule(torch.float32, shape, 0.0, 1.0)
    return Rules(
        index=Rule(torch.int64, shape, 0, pictures - 1),
        scale=Rule(torch.float32, shape, 1.0, MAX_SCALE),
        top=unit,
        left=unit,
        flip=Rule(torch.bool, shape),
    )


def crop_pictures(pictures: Tensor, params: PickParams) -> Tensor:
    """Carries a record out; no randomness.

    The pixel at row y of an image of H x W is the bilinear value of the picture at ``(o + y + 1/2) S / n - 1/2``, with
    ``n = scale max(H, W)`` the side of the resized picture and ``o = top (n - H)`` the offset of the crop; columns
    alike.

    Args:
        pictures: uint8 (N, 3, S, S); S is at best ``params.side``.
        params: for B images, on the same device.

    Returns:
        uint8 tensor (B, 3, H, W).

    Raises:
        TypeError: the record, or a field of it, is of another kind or dtype.
        ValueError: it does not fit the pictures, or a value of it is out of range (read on the CPU).
    """
    if not isinstance(pictures, Tensor) or pictures.dtype != torch.uint8 or pictures.ndim != 4:
        raise TypeError(f"pictures must be a uint8 tensor (N, 3, S, S), got {kind_of(pictures)}")
    return crop_checked(pictures, check_picks(params, len(pictures)))


def crop_checked(pictures: Tensor, params: PickParams) -> Tensor:
    """:func:`crop_pictures` of a record that is checked, or just drawn."""
    height, width = params.size
    side = params.scale * max(params.size)
    rows = params.top[:, None] * (side[:, None] - height) + torch.arange(height, device=pictures.device) + 0.5
    columns = params.left[:, None] * (side[:, None] - width) + torch.arange(width, device=pictures.device) + 0.5
    columns = torch.where(params.flip[:, None], columns.flip(1), columns)
    # grid_sample's own units: -1 and 1 are the outer edges of the picture, the middle of pixel k is (2k + 1) / S - 1.
    y, x = 2 * rows / side[:, None] - 1, 2 * columns / side[:, None] - 1
    shape = len(side), height, width
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], -1)
    chosen = pictures[params.index].to(torch.float32)
    cropped = torch.nn.functional.grid_sample(chosen, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.round_().clamp_(0, 255).to(torch.uint8)
