"""The figure of class activation maps: images, and each map laid over its image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixaug._drawing import _colours, new_figure, overlay, png_of
from mixaug._files import atomic_path
from mixaug._pictures import as_bytes

__all__ = [
    "draw_activation_maps",
]


_COLUMNS = 6  # pictures side by side, where an image with its maps is not wider
_WIDTH = 5.2  # inches of a figure
_TITLE = 0.18  # inches above a picture with a name


def draw_activation_maps(
    images: Tensor,
    maps: Tensor,
    names: Sequence[str] | Sequence[Sequence[str]] | None,
    path: str | os.PathLike[str],
) -> Path:
    """Draws images, each followed by its class activation maps laid over it, as a PNG file.

    Args:
        images: a batch.
        maps: of :func:`~mixaug.evaluate.class_activation_maps` for these images.
        names: of each map, such as the class; None: none.
        path: the file; it is written whole or not at all, and its folder is made if it is missing.

    Shape:
        images: (B, C, H, W) with B of 1 or more and C of 1 or 3, uint8 or floating point in [0, 1]; maps: (B, H, W), or
        (B, M, H, W) with M names for each image, in [0, 1].

    Returns:
        the path.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes or numbers of names that do not fit each other.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
        >>> draw_activation_maps(images, maps, ["cat", "dog"], "maps.png").name
        'maps.png'
    """
    _check(images, maps)
    maps = maps if maps.ndim == 4 else maps[:, None]
    count, many = maps.shape[:2]
    titles = _titles(names, count, many)
    groups = max(1, min(count, _COLUMNS // (1 + many)))  # images beside each other, each with its maps
    rows, columns = -(-count // groups), groups * (1 + many)
    cell = _WIDTH / columns * images.shape[2] / images.shape[3]
    figure, grid = new_figure(rows * (cell + (0 if names is None else _TITLE)), rows=rows, columns=columns)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for axes in grid.flat:
        axes.axis("off")
    bytes_ = as_bytes(images.detach().cpu().float() if images.is_floating_point() else images.detach().cpu())
    for index, image in enumerate(bytes_):
        row, group = divmod(index, groups)
        cells = grid[row, group * (1 + many) :][: 1 + many]
        pictures = [_colours(image), *(overlay(image, map_) for map_ in maps[index].detach().cpu())]
        for axes, picture, title in zip(cells, pictures, ("", *titles[index]), strict=True):
            smooth = "nearest" if max(picture.shape[:2]) <= 96 else "antialiased"
            axes.imshow(picture.numpy(), interpolation=smooth)
            axes.set_title(title, fontsize=7.5, pad=2)
    png = png_of(figure)
    with atomic_path(path) as temporary:
        temporary.write_bytes(png)
    return Path(path)


def _titles(names: Any, count: int, many: int) -> list[list[str]]:
    if names is None:
        return [[""] * many] * count
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"names must be a sequence of names, one for each map, or None, got {type(names).__name__}")
    rows = [[name] if isinstance(name, str) else list(name) for name in names]
    if len(rows) != count or any(len(row) != many for row in rows):
        raise ValueError(
            f"names must have {count} entries of {many} name{'s' * (many > 1)} each, got {[len(row) for row in rows]}"
        )
    return rows


def _check(images: Any, maps: Any) -> None:
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be uint8 or floating point in [0, 1], got {got}")
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must have shape (B, C, H, W) with B of 1 or more and C of 1 or 3, got {tuple(images.shape)}"
        )
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        got = maps.dtype if isinstance(maps, Tensor) else type(maps).__name__
        raise TypeError(f"maps must be a floating point tensor, got {got}")
    fits = maps.ndim in (3, 4) and len(maps) == len(images) and maps.shape[-2:] == images.shape[-2:] and maps.numel()
    if not fits:
        sizes = ", ".join(str(size) for size in images.shape[2:])
        raise ValueError(
            f"maps must have shape ({len(images)}, {sizes}) or ({len(images)}, M, {sizes}), got {tuple(maps.shape)}"
        )
    low, high = (float(bound) for bound in maps.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(f"maps must lie in [0, 1], got values from {low:g} to {high:g}")
