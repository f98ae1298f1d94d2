"""The figure of loss surfaces: one row an image, one column a radius."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mixaug.evaluate._drawing import FigureImage, new_figure, png_of
from mixaug.evaluate.surface import LossSurface

_ROW = 1.95  # inches
_SHOWN = 2  # images with a row of their own, below the mean of all


def surface_figure(surfaces: Sequence[LossSurface]) -> FigureImage:
    """Loss surfaces in three dimensions: the mean over the images, and some images by themselves.

    Args:
        surfaces: of one or more images, each at the same radii and with as many points.

    Returns:
        The figure: height is the loss less that of the image itself; a row has one scale, so its radii compare.

    Raises:
        ValueError: no surface, or images with different radii.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> flat = LossSurface(torch.zeros(3, 3), torch.tensor([-0.1, 0.0, 0.1]), 0.1, label=0, index=7)
        >>> surface_figure([flat]).title
        'Loss surface'
    """
    images: dict[int, list[LossSurface]] = {}
    for surface in surfaces:
        images.setdefault(surface.index, []).append(surface)
    radii = [[surface.radius for surface in row] for row in images.values()]
    if not radii or any(row != radii[0] for row in radii):
        raise ValueError(f"surfaces must be of one image or more at the same radii, got the radii {radii}")
    rows: list[tuple[str, list[LossSurface]]] = []
    if len(images) > 1:
        rows.append((f"mean of {len(images)} images", [_mean(column) for column in zip(*images.values(), strict=True)]))
    rows += [(f"image {index}" if index >= 0 else "", row) for index, row in list(images.items())[:_SHOWN]]
    figure, grid = new_figure(_ROW * len(rows), rows=len(rows), columns=len(radii[0]), projection="3d")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.04, hspace=0.0)
    for axes_row, (name, row) in zip(_as_rows(grid, len(rows)), rows, strict=True):
        rises = torch.stack([surface.rise for surface in row])
        low, high = float(rises.min()), max(float(rises.max()), 1e-3)
        for column, (axes, surface) in enumerate(zip(axes_row, row, strict=True)):
            _draw(axes, surface, low, high)
            title = f"{name if column == 0 else ''}\nradius {surface.radius:g}"
            axes.set_title(title, fontsize=8.5, pad=0)
    figure.supylabel("rise of the cross entropy", fontsize=8.5)
    caption = (
        "How far the loss rises around an image, along the direction of PGD-20 of the same radius (attack) and a "
        "random one orthogonal to it, each from minus to plus the radius, in units of pixels in [0, 1]; points are "
        "clipped to that range. One scale for each row. Less rise along the attack is better; as much along the "
        "random direction is a sign that the attack found little."
    )
    return FigureImage(png_of(figure), "Loss surface", caption)


def _mean(column: Sequence[LossSurface]) -> LossSurface:
    first = column[0]
    return LossSurface(torch.stack([surface.rise for surface in column]).mean(0), first.offsets, first.radius, -1)


def _as_rows(grid: Any, rows: int) -> Any:
    import numpy as np

    return np.reshape(np.asarray(grid, dtype=object), (rows, -1))


def _draw(axes: Any, surface: LossSurface, low: float, high: float) -> None:
    across, along = torch.meshgrid(surface.offsets, surface.offsets, indexing="ij")
    axes.plot_surface(
        along.numpy(), across.numpy(), surface.rise.numpy(), cmap="viridis", vmin=low, vmax=high, linewidth=0,
        rcount=len(surface.offsets), ccount=len(surface.offsets), antialiased=True,
    )  # fmt: skip
    axes.set_zlim(min(low, 0.0), high)
    axes.view_init(elev=26, azim=-125)
    # The corner of both negative ends has no room for two labels.
    ends = [-surface.radius, 0, surface.radius]
    axes.set_xticks(ends, ["", "0", f"{surface.radius:g}"])
    axes.set_yticks(ends, ["", "0", f"{surface.radius:g}"])
    axes.tick_params(labelsize=7, pad=-3)
    axes.set_xlabel("attack", fontsize=8, labelpad=-7)
    axes.set_ylabel("random", fontsize=8, labelpad=-7)
    axes.locator_params(axis="z", nbins=4)
    axes.set_box_aspect(None, zoom=0.98)
