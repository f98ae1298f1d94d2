"""Frost: a texture of ours, or crops of a user's photographs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixaug._pictures import FolderWalk, read_tensor
from mixaug.evaluate.corruptions.filters import normal, uniform
from mixaug.evaluate.corruptions.weather import grey

#: Photographs are made smaller by this before they are cut, by preset.
SCALES = {"cifar": 0.2, "imagenet": 1.0}
_MARGIN = 1.1  # a photograph that is too small is enlarged to this times the image


def frost(
    images: Tensor,
    setting: tuple[float, float],
    generator: torch.Generator | None,
    textures: Sequence[Tensor] | None = None,
) -> Tensor:
    """A weighted sum of the image and frost: a texture that is made, or crops of the photographs given."""
    texture = frost_texture(images, generator) if textures is None else frost_crops(images, textures, generator)
    return torch.add(setting[0] * images, texture, alpha=setting[1])


def load_frost_textures(folder: str | Path) -> list[Tensor]:
    """The pictures of a folder, for ``frost_textures`` of :func:`~mixaug.evaluate.corruptions.corrupt`.

    Args:
        folder: with pictures, such as the frost photographs of the original code.

    Returns:
        uint8 ``(3, h, w)`` each, in the order of their names.

    Raises:
        ValueError: no folder, no picture in it, or one that cannot be read.

    Example:
        >>> import PIL.Image, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> PIL.Image.new("RGB", (40, 30), "white").save(folder / "frost.png")
        >>> [tuple(texture.shape) for texture in load_frost_textures(folder)]
        [(3, 30, 40)]
    """
    walk = FolderWalk()
    files = walk.pictures(folder) if Path(folder).is_dir() else []
    walk.warn_of_links()
    if not files:
        raise ValueError(f"folder must hold pictures of frost, such as PNG or JPEG, found none in {folder}")
    return [read_tensor(file) for file in files]


def scaled_textures(textures: Sequence[Tensor], scale: float, h: int, w: int, device: torch.device) -> list[Tensor]:
    """Textures at a scale, enlarged where they would not cover ``(h, w)``; float32 in [0, 1] on a device.

    Raises:
        TypeError: something else than uint8 tensors.
        ValueError: no texture, or one of another shape than ``(3, h, w)``.

    Example:
        >>> small = scaled_textures([torch.zeros(3, 50, 100, dtype=torch.uint8)], 0.2, 32, 32, torch.device("cpu"))
        >>> tuple(small[0].shape)
        (3, 36, 71)
    """
    if not textures:
        raise ValueError("frost_textures must hold 1 texture or more, got none")
    made = []
    for texture in textures:
        if not isinstance(texture, Tensor) or texture.dtype != torch.uint8:
            raise TypeError(f"frost_textures must be uint8 tensors, got {getattr(texture, 'dtype', type(texture))}")
        if texture.ndim != 3 or texture.shape[0] != 3 or 0 in texture.shape:
            raise ValueError(f"frost_textures must have shape (3, h, w), got {tuple(texture.shape)}")
        height, width = (max(1, round(side * scale)) for side in texture.shape[1:])
        lacking = max(h / height, w / width)
        if lacking > 1:
            height, width = (int(np.ceil(side * lacking * _MARGIN)) for side in (height, width))
        resized = texture.to(device).float()[None] / 255
        if (height, width) != texture.shape[1:]:
            # Without a filter before it, as cv2.resize.
            resized = torch.nn.functional.interpolate(resized, size=(height, width), mode="bilinear")
        made.append(resized[0])
    return made


def frost_crops(images: Tensor, textures: Sequence[Tensor], generator: torch.Generator | None) -> Tensor:
    """A crop for each image: texture and place are drawn. The textures are float, and cover the images.

    Example:
        >>> texture = torch.rand(3, 9, 9)
        >>> frost_crops(torch.zeros(2, 3, 8, 8), [texture], torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    n, channels, h, w = images.shape
    place = images.device
    heights, widths = (torch.tensor([t.shape[axis] for t in textures], device=place) for axis in (1, 2))
    starts = (heights * widths).cumsum(0) - heights * widths
    pixels = torch.cat([texture.flatten(1) for texture in textures], 1)
    which, down, right = uniform((3, n), images, generator)
    number = (which * len(textures)).long()
    top = (down * (heights[number] - h).clamp_min(1)).long()
    left = (right * (widths[number] - w).clamp_min(1)).long()
    rows = (top[:, None] + torch.arange(h, device=place)) * widths[number, None] + starts[number, None]
    columns = left[:, None] + torch.arange(w, device=place)
    crops = pixels[:, rows[:, :, None] + columns[:, None, :]].transpose(0, 1)
    return crops if channels == 3 else grey(crops)


def frost_texture(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """A picture of frost for each image: bright ridges where smooth noise crosses zero, at three scales, bluish.

    Args:
        images: ``(N, C, H, W)``; only size and device are used.
        generator: of torch.

    Returns:
        ``(N, C, H, W)`` float32 in ``[0, 1]``.

    Example:
        >>> frost_texture(torch.zeros(2, 3, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 32, 32])
    """
    n, channels, h, w = images.shape
    total = torch.zeros(n, h, w, dtype=torch.float32, device=images.device)
    for cells, share in ((2, 0.45), (4, 0.35), (8, 0.2)):
        # Needles: noise that is three times as smooth along a direction of its own, given by a sheared grid.
        rows, columns = min(h, cells * 3), min(w, cells)
        coarse = normal((n, rows + 1, columns + 1), images, generator)
        smooth = _bicubic(rows + 1, h).to(images.device) @ coarse @ _bicubic(columns + 1, w).to(images.device).T
        if cells % 4 == 0 and h == w:
            smooth = smooth.transpose(-1, -2)
        total.add_(smooth.abs().mul_(-4).exp_(), alpha=share)
    grain = uniform((n, h, w), images, generator)
    ridges = total.mul_(grain.mul_(0.5).add_(0.75)).mul_(1.25).add_(0.08).clamp_(0, 1)[:, None]
    if channels == 1:
        return ridges
    tint = torch.tensor([0.86, 0.95, 1.0], dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
    return ridges * tint


@functools.lru_cache(64)
def _bicubic(source: int, target: int) -> Tensor:
    """Bicubic interpolation along one axis, ends aligned, as a matrix ``(target, source)``."""
    lines = torch.eye(source, dtype=torch.float32)[:, None, None, :]
    made = torch.nn.functional.interpolate(lines, size=(1, target), mode="bicubic", align_corners=True)
    return made[:, 0, 0].T.contiguous()
