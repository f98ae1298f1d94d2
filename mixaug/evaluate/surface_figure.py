"""Figures of loss surfaces: one row an image or a model, one column a radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mixaug._drawing import FigureImage, new_figure, png_of
from mixaug.evaluate.surface import LossSurface
from mixaug.evaluate.tables import cut

_ROW = 1.95  # inches
_WHAT = (
    "along the direction of PGD-20 of the same radius (attack) and a random one orthogonal to it, each from minus to "
    "plus the radius, in units of pixels in [0, 1]; points are clipped to that range. "
)
_READ = (
    "Less rise along the attack is better; as much along the random direction is a sign that the attack found little."
)
_MANY = 4  # models above which only the largest radius is shown
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
    images = _by_image(surfaces)
    rows: list[tuple[str, list[LossSurface]]] = []
    if len(images) > 1:
        rows.append((f"mean of {len(images)} images", _means(images)))
    rows += [(f"image {index}" if index >= 0 else "", row) for index, row in list(images.items())[:_SHOWN]]
    caption = f"How far the loss rises around an image, {_WHAT}One scale for each row. {_READ}"
    return FigureImage(_picture(rows, [_scale(row) for _, row in rows]), "Loss surface", caption)


def surface_comparison(surfaces: Mapping[str, Sequence[LossSurface]]) -> FigureImage:
    """The mean loss surface of each model, all on one scale.

    Args:
        surfaces: each model's name to its surfaces, around the same images at the same radii.

    Raises:
        ValueError: no surface, or images with different radii.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> flat = LossSurface(torch.zeros(3, 3), torch.tensor([-0.1, 0.0, 0.1]), 0.1, label=0, index=7)
        >>> surface_comparison({"one": [flat], "two": [flat]}).title
        'Loss surface'
    """
    images = {name: _by_image(each) for name, each in surfaces.items()}
    rows = [(name, _means(each)) for name, each in images.items()]
    low, high = _scale([surface for _, row in rows for surface in row])
    if len(rows) > _MANY:  # rows of their own would be a figure of half a metre
        picture = _side_by_side([(name, row[-1]) for name, row in rows], (low, high))
    else:
        picture = _picture(rows, [(low, high)] * len(rows))
    count = max(map(len, images.values()))
    caption = (
        f"How far the loss rises, mean over {count} image{'s' if count > 1 else ''}, {_WHAT}One scale for all. {_READ}"
    )
    return FigureImage(picture, "Loss surface", caption)


def _by_image(surfaces: Sequence[LossSurface]) -> dict[int, list[LossSurface]]:
    images: dict[int, list[LossSurface]] = {}
    for surface in surfaces:
        images.setdefault(surface.index, []).append(surface)
    radii = [[surface.radius for surface in row] for row in images.values()]
    if not radii or any(row != radii[0] for row in radii):
        raise ValueError(f"surfaces must be of one image or more at the same radii, got the radii {radii}")
    return images


def _means(images: Mapping[int, Sequence[LossSurface]]) -> list[LossSurface]:
    return [_mean(column) for column in zip(*images.values(), strict=True)]


def _scale(row: Sequence[LossSurface]) -> tuple[float, float]:
    rises = torch.stack([surface.rise for surface in row])
    return min(float(rises.min()), 0.0), max(float(rises.max()), 1e-3)


def _picture(rows: Sequence[tuple[str, Sequence[LossSurface]]], scales: Sequence[tuple[float, float]]) -> bytes:
    figure, grid = new_figure(_ROW * len(rows), rows=len(rows), columns=len(rows[0][1]), projection="3d")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.04, hspace=0.0)
    for axes_row, (name, row), scale in zip(_as_rows(grid, len(rows)), rows, scales, strict=True):
        for column, (axes, surface) in enumerate(zip(axes_row, row, strict=True)):
            _draw(axes, surface, *scale)
            axes.set_title(f"{name if column == 0 else ''}\nradius {surface.radius:g}", fontsize=8.5, pad=0)
    figure.supylabel("rise of the cross entropy", fontsize=8.5)
    return png_of(figure)


def _side_by_side(models: Sequence[tuple[str, LossSurface]], scale: tuple[float, float]) -> bytes:
    """The largest radius alone, three models beside each other."""
    rows = -(-len(models) // 3)
    figure, grid = new_figure(_ROW * rows, rows=rows, columns=3, projection="3d")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.04, hspace=0.0)
    places = list(_as_rows(grid, rows).flat)
    for axes, (name, surface) in zip(places, models, strict=False):
        _draw(axes, surface, *scale)
        axes.set_title(f"{cut(name, 24)}\nradius {surface.radius:g}", fontsize=8.5, pad=0)
    for axes in places[len(models) :]:
        axes.remove()
    figure.supylabel("rise of the cross entropy", fontsize=8.5)
    return png_of(figure)


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
    axes.set_zlim(low, high)
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
