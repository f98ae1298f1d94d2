"""How the figures of a report are drawn: matplotlib without a display and without its global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixaug._checks import optional_import

__all__ = [
    "overlay",
]


# Narrow and tall: readable on a phone, two beside each other on a desk.
_WIDTH = 5.2
_DPI = 180
# Okabe and Ito's colours, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
RIGHT, WRONG, GREY = "#00734F", "#B3400A", "#777777"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
_LINES = ("-", "--", ":")
_STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#888888",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class FigureImage:
    """A drawn figure: PNG bytes, its title and one sentence on how to read it."""

    png: bytes
    title: str
    caption: str


def new_figure(
    height: float,
    rows: int = 1,
    columns: int = 1,
    ratios: Sequence[float] | None = None,
    projection: str | None = None,
) -> tuple[Any, Any]:
    """A figure of the report's width and its axes: one, or an array of them."""
    matplotlib = optional_import("matplotlib")
    figure_class = optional_import("matplotlib.figure").Figure
    with matplotlib.rc_context(_STYLE):
        # The class itself, not pyplot: no window, no global list of figures, nothing changed for the user's own plots.
        figure = figure_class(figsize=(_WIDTH, height), layout="constrained", facecolor="white")
        axes = figure.subplots(
            rows,
            columns,
            height_ratios=ratios,
            squeeze=rows * columns == 1 or ratios is not None,
            subplot_kw={"projection": projection},
        )
    return figure, axes


def png_of(figure: Any) -> bytes:
    """The figure as PNG."""
    optional_import("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    file = io.BytesIO()
    # No version or date inside: the same figures give the same bytes.
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


@dataclass(frozen=True)
class Look:
    """How one model looks in every figure: colour, marker and line differ, so that grey paper will do."""

    colour: str
    marker: str
    line: str


def looks(count: int) -> list[Look]:
    """A look for each of ``count`` models, all different up to 12 (36 with repeated markers).

    Example:
        >>> len(set(looks(12))), looks(2)[1].marker
        (12, 's')
    """
    return [
        Look(
            COLOURS[index % len(COLOURS)],
            _MARKERS[index % len(_MARKERS)],
            _LINES[index // len(COLOURS) % len(_LINES)],
        )
        for index in range(count)
    ]


def colours(count: int) -> list[str]:
    """A colour for each of ``count`` models."""
    return [look.colour for look in looks(count)]


def add_legend(figure: Any, names: Sequence[str]) -> None:
    """A legend above the axes, where there is more than one model: inside, many models would hide the lines."""
    if len(names) > 1:
        # Long names need the room of two columns.
        columns = 1 if max(map(len, names)) > 34 else 3 if max(map(len, names)) < 14 else 2
        figure.legend(loc="outside upper center", ncols=min(len(names), columns), fontsize=8.5, frameon=False)


_STRENGTH = 0.75  # of the colour where a map is 1


def overlay(image: Tensor, map_: Tensor) -> Tensor:
    """An image in grey with a map over it, in colours that grow stronger with the map.

    Args:
        image: (C, H, W) uint8, C of 1 or 3.
        map_: (H, W) in [0, 1].

    Shape:
        result: (H, W, 3) uint8.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> overlay(torch.full((1, 1, 1), 9, dtype=torch.uint8), torch.zeros(1, 1)).tolist()
        [[[9, 9, 9]]]
    """
    colour_map = optional_import("matplotlib").colormaps["inferno"]
    colours = torch.from_numpy(colour_map(map_.float().numpy())[..., :3]) * 255
    grey = as_rgb(image).double().mean(-1, keepdim=True)
    strength = (_STRENGTH * map_.double())[..., None]
    return (grey * (1 - strength) + colours * strength).round().to(torch.uint8)


def as_rgb(image: Tensor) -> Tensor:
    """(H, W, 3) of (1 or 3, H, W), as it is drawn."""
    return image.expand(3, -1, -1).permute(1, 2, 0)
