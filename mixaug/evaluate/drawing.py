"""Curves with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mixaug._drawing import Look, add_legend, looks, new_figure, png_of
from mixaug.evaluate.intervals import Estimate

__all__ = [
    "BANDS",
    "draw_curve",
]


#: Lines above which their bands would cover each other.
BANDS = 5


def draw_curve(
    axes: Any, places: Sequence[float], estimates: Sequence[Estimate], name: str, look: Look, band: bool = True
) -> None:
    """A line in percent with its band of 95% intervals."""
    if band:
        low, high = ([100 * getattr(estimate, end) for estimate in estimates] for end in ("low", "high"))
        axes.fill_between(places, low, high, color=look.colour, alpha=0.12, linewidth=0)
    values = [100 * estimate.value for estimate in estimates]
    axes.plot(
        places, values, look.line, marker=look.marker, color=look.colour, label=name, markersize=4.5, linewidth=1.6
    )


BARS = 4  # models up to which each has a bar; more are points in one row
_ERROR = {"ecolor": "#333333", "elinewidth": 0.9, "capsize": 0}


def grouped(
    rows: Sequence[tuple[str, Sequence[Estimate]]],
    names: Sequence[str],
    unit: str,
    lines: Sequence[float] = (),
) -> bytes:
    """A group for each row with a bar, or for many models a point, for each model."""
    count = len(names)
    few = count <= BARS
    # Bars of twelve models would be a figure of a metre; points stand closer.
    figure, axes = new_figure(0.9 + 0.1 * count + len(rows) * (0.16 + (0.17 if few else 0.055) * count))
    styles = looks(count)
    step = 0.8 / count
    for index, (name, look) in enumerate(zip(names, styles, strict=True)):
        places = [position + (index - (count - 1) / 2) * step for position in range(len(rows))]
        column = [estimates[index] for _, estimates in rows]
        (_bars if few else _points)(axes, places, column, name, look, 0.9 * step)
    for value, look in zip(lines, styles, strict=False):
        axes.axvline(100 * value, color=look.colour, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)  # the first row on top
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    if not few:
        for position in range(1, len(rows)):
            axes.axhline(position - 0.5, color="#d0d0d0", linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    add_legend(figure, names)
    return png_of(figure)


def _reach(column: Sequence[Estimate]) -> list[list[float]]:
    return [[100 * (each.value - each.low) for each in column], [100 * (each.high - each.value) for each in column]]


def _bars(axes: Any, places: Sequence[float], column: Sequence[Estimate], name: str, look: Look, height: float) -> None:
    values = [100 * each.value for each in column]
    axes.barh(places, values, height=height, color=look.colour, label=name, xerr=_reach(column), error_kw=_ERROR)
    for position, each in zip(places, column, strict=True):
        axes.annotate(
            f"{100 * each.value:.1f}", (100 * each.high, position), (4, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip


def _points(axes: Any, places: Sequence[float], column: Sequence[Estimate], name: str, look: Look, _: float) -> None:
    axes.errorbar(
        [100 * each.value for each in column], places, xerr=_reach(column), fmt=look.marker, color=look.colour,
        label=name, markersize=4.5, elinewidth=0.8, capsize=0,
    )  # fmt: skip


def show_image(axes: Any, image: Tensor) -> None:
    """A grey or RGB picture, uint8 (C, H, W); small ones keep their pixels."""
    smooth = "nearest" if max(image.shape[1:]) <= 96 else "antialiased"
    if image.shape[0] == 1:
        axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    else:
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation=smooth)
