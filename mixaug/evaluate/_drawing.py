"""How the figures of a report are drawn: matplotlib without a display and without its global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixaug.evaluate._optional import optional_import

# Narrow and tall: readable on a phone, two beside each other on a desk.
_WIDTH = 5.2
_DPI = 180
# Okabe and Ito's colours, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
RIGHT, WRONG, GREY = "#00734F", "#B3400A", "#777777"
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


def colours(count: int) -> list[str]:
    """A colour for each of ``count`` models."""
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def add_legend(axes: Any, names: Sequence[str]) -> None:
    """A legend where there is more than one model."""
    if len(names) > 1:
        axes.legend(loc="upper left", fontsize=9, frameon=False)
