"""Figures of errors: by corruption, by severity, and the headline figures of several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixaug._drawing import FigureImage, Look, add_legend, looks, new_figure, png_of
from mixaug.evaluate.drawing import BANDS, draw_curve
from mixaug.evaluate.headline import HIGHER
from mixaug.evaluate.intervals import Estimate, Quantity
from mixaug.evaluate.labels import corruption_label
from mixaug.evaluate.outcomes import SEVERITIES

if TYPE_CHECKING:
    from mixaug.evaluate.comparison import Comparison
    from mixaug.evaluate.report import Report

_BARS = 4  # models up to which each has a bar; more are points in one row
_ERROR = {"ecolor": "#333333", "elinewidth": 0.9, "capsize": 0}


def headline_rows(comparison: Comparison) -> FigureImage:
    """The errors that all models have, with intervals."""
    rows = [
        (label, [column[index] for index in range(len(comparison.names))])
        for key, label in comparison.columns.items()
        if key not in HIGHER
        for column in [comparison.values[key]]
        if not isinstance(column[0], Quantity)  # its size is not that of a share
    ]
    return FigureImage(
        grouped(rows, comparison.marked_names, "%"),
        "The main figures",
        "All are errors: lower is better. Lines are 95% intervals of each figure by itself; "
        "for the difference of two models see the table of differences, which compares image by image."
        + (" † masked: one attack says little of it." if any(comparison.masked) else ""),
    )


def corruption_bars(reports: Sequence[Report], names: Sequence[str], which: Sequence[str] | None = None) -> FigureImage:
    """Error of each corruption, mean over the severities."""
    which = list(reports[0].outcomes.corrupted) if which is None else which
    rows = [(corruption_label(name), [report.corruption_means[name] for report in reports]) for name in which]
    clean = [report.clean_error_of_corrupted.value for report in reports if report.clean_error_of_corrupted]
    few = len(reports) <= _BARS
    caption = (
        f"Mean over five severities, n = {len(reports[0].outcomes.corruption_index)} images; lines are 95% intervals"
        + (", dashed is the error on the same images uncorrupted." if few else ".")
    )
    return FigureImage(grouped(rows, names, "error in %", clean if few else ()), "Error by corruption", caption)


def severity_lines(
    reports: Sequence[Report], names: Sequence[str], styles: Sequence[Look] | None = None
) -> FigureImage:
    """Error against severity, mean over the corruptions; severity 0 is the clean images."""
    figure, axes = new_figure(3.4 + 0.1 * len(names))
    few = len(reports) <= BANDS
    for report, name, look in zip(reports, names, styles or looks(len(reports)), strict=True):
        clean = report.clean_error_of_corrupted or report.clean_error
        draw_curve(axes, [0, *SEVERITIES], [clean, *report.severity_means], name, look, few)
    axes.set_xticks([0, *SEVERITIES], ["clean", *map(str, SEVERITIES)])
    axes.set_xlabel("severity")
    axes.set_ylabel("error in %")
    axes.set_ylim(bottom=0)
    add_legend(figure, names)
    caption = f"Mean over {len(reports[0].outcomes.corrupted)} corruptions{'; bands are 95% intervals' if few else ''}."
    return FigureImage(png_of(figure), "Error by severity", caption)


def grouped(
    rows: Sequence[tuple[str, Sequence[Estimate]]],
    names: Sequence[str],
    unit: str,
    lines: Sequence[float] = (),
) -> bytes:
    """A group for each row with a bar, or for many models a point, for each model."""
    count = len(names)
    few = count <= _BARS
    # Bars of twelve models would be a figure of a metre; points stand closer.
    figure, axes = new_figure(0.9 + 0.1 * count + len(rows) * (0.16 + (0.17 if few else 0.055) * count))
    styles = looks(count)
    step = 0.8 / count
    for index, (name, look) in enumerate(zip(names, styles, strict=True)):
        places = [place + (index - (count - 1) / 2) * step for place in range(len(rows))]
        column = [estimates[index] for _, estimates in rows]
        (_bars if few else _points)(axes, places, column, name, look, 0.9 * step)
    for value, look in zip(lines, styles, strict=False):
        axes.axvline(100 * value, color=look.colour, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)  # the first row on top
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    if not few:
        for place in range(1, len(rows)):
            axes.axhline(place - 0.5, color="#d0d0d0", linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    add_legend(figure, names)
    return png_of(figure)


def _reach(column: Sequence[Estimate]) -> list[list[float]]:
    return [[100 * (each.value - each.low) for each in column], [100 * (each.high - each.value) for each in column]]


def _bars(axes: Any, places: Sequence[float], column: Sequence[Estimate], name: str, look: Look, height: float) -> None:
    values = [100 * each.value for each in column]
    axes.barh(places, values, height=height, color=look.colour, label=name, xerr=_reach(column), error_kw=_ERROR)
    for place, each in zip(places, column, strict=True):
        axes.annotate(
            f"{100 * each.value:.1f}", (100 * each.high, place), (4, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip


def _points(axes: Any, places: Sequence[float], column: Sequence[Estimate], name: str, look: Look, _: float) -> None:
    axes.errorbar(
        [100 * each.value for each in column], places, xerr=_reach(column), fmt=look.marker, color=look.colour,
        label=name, markersize=4.5, elinewidth=0.8, capsize=0,
    )  # fmt: skip
