"""Panels that several pages draw: every seed a dot, the error of each corruption."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixaug._files import atomic_path
from mixaug.evaluate.corruptions.tables import corruption_label
from study.tables import DataResults, Rows, Study, values_of

#: Colour and marker of a variant, by its name.
Style = Callable[[str], tuple[str, str]]


def seed_panels(
    part: Any, rows: Mapping[str, Rows], metrics: Mapping[str, str], style: Style, margin: float = 0.25
) -> list[Any]:
    """A row of panels, one a metric: a line for each variant, every seed a dot, the mean a bar with its number.

    Args:
        part: of the figure.
        rows: by variant and seed.
        metrics: heading by key.
        style: of the variants.
        margin: beside the dots, which has room for the numbers.
    """
    axes = part.subplots(1, len(metrics), sharey=True)
    for axis, (key, heading) in zip(axes, metrics.items(), strict=True):
        for place, (name, seeds) in enumerate(rows.items()):
            (colour, marker), values = style(name), values_of(seeds, key)
            mean = statistics.mean(values)
            axis.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, linewidth=2)
            axis.plot(values, [place] * len(values), marker, color=colour, markersize=4, alpha=0.6)
            axis.annotate(
                f"{mean:.1f}", (max(values), place), (6, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.set_title(f"{heading}, %", fontsize=9, loc="left")
        axis.margins(x=margin)
        plain(axis, "x")
    axes[0].set_yticks(range(len(rows)), list(rows), fontsize=9)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return list(axes)


def corruption_panel(
    part: Any, rows: Mapping[str, Rows], style: Style, *, step: float, width: float, size: float
) -> Any:
    """The error of each corruption: a variant's mean over the seeds a marker, from its lowest to its highest a line.

    Args:
        part: of the figure.
        rows: by variant and seed.
        style: of the variants.
        step: from a variant to the next.
        width: of the lines.
        size: of the markers.
    """
    axis = part.subplots()
    corruptions = list(next(iter(next(iter(rows.values())).values()))["corruptions"])
    for index, (name, seeds) in enumerate(rows.items()):
        colour, marker = style(name)
        shift = (index - (len(rows) - 1) / 2) * step
        for place, corruption in enumerate(corruptions):
            values = [100 * row["corruptions"][corruption] for row in seeds.values()]
            axis.plot([place + shift] * 2, [min(values), max(values)], color=colour, linewidth=width)
            mean, label = statistics.mean(values), name if place == 0 else None
            axis.plot(place + shift, mean, marker, color=colour, markersize=size, label=label)
    for border in range(1, len(corruptions)):
        axis.axvline(border - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    axis.set_xticks(range(len(corruptions)), [corruption_label(name).replace(" ", "\n") for name in corruptions])
    axis.set_xlim(-0.5, len(corruptions) - 0.5)
    axis.set_ylim(0, 1.06 * axis.get_ylim()[1])
    axis.set_title(
        "error of each corruption, %: mean over five severities, lines from the lowest to the highest seed",
        fontsize=9, loc="left",
    )  # fmt: skip
    plain(axis, "y")
    return axis


def plain(axis: Any, lines: str) -> None:
    """No frame and no ticks, a grid along one of the axes."""
    axis.grid(axis=lines, color="#dddddd", linewidth=0.6)
    axis.tick_params(labelsize=8, length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def data_parts(
    study: Study, row: float, more: float, corruptions: float
) -> tuple[Any, list[tuple[DataResults, Any, Any]]]:
    """A figure with two parts for each data set: its panels, and below them its corruptions.

    Args:
        study: of the page.
        row: inches of a variant.
        more: inches above and below all of them.
        corruptions: inches of the second part.
    """
    from matplotlib.figure import Figure

    every = list(study.data.values())
    heights = [height for data in every for height in (row * len(data.rows) + more, corruptions)]
    figure = Figure(figsize=(14.5, sum(heights) + 0.3), layout="constrained", facecolor="white")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for data, part in zip(every, parts[::2], strict=True):
        part.suptitle(data.plan.label, fontsize=11, fontweight="bold", x=0.005, ha="left")
    return figure, list(zip(every, parts[::2], parts[1::2], strict=True))


def save(figure: Any, path: Path, dpi: int) -> None:
    """Writes a figure as PNG whole or not at all, without the version of what drew it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
