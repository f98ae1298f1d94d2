"""Curves with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mixaug._drawing import Look
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
