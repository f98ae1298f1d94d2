"""The figure of the study of mixing sets: every seed a dot, the spread of the sources shaded, and each corruption."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from study_mixing_sets_plan import FIGURES, IMAGE_LEVEL, MIXTURE, REFERENCE, SOURCES
from study_page import DataResults, Study, values_of

from mixaug._files import atomic_path
from mixaug.evaluate.labels import corruption_label

#: Of the sources, in their order; then of what they are compared with.
COLOURS = dict(zip(SOURCES, ("#1f5fa8", "#2a8a4a", "#b06a00", "#7a4fa3", "#b0304a"), strict=True))
OTHER = {MIXTURE: "#111111", "noise": "#777777", "flat colours": "#999999", IMAGE_LEVEL: "#666666"}
STYLE = {REFERENCE: "#444444", **COLOURS, **OTHER}
MARKERS = {REFERENCE: "s", MIXTURE: "D", "noise": "x", "flat colours": "_", IMAGE_LEVEL: "+"}


def draw(study: Study, path: Path) -> None:
    """For each data set a row of panels, one a figure, above the error of each corruption."""
    from matplotlib.figure import Figure

    every = list(study.data.values())
    heights = []
    for data in every:
        heights += [0.28 * len(data.rows) + 0.8, 3.5]
    figure = Figure(figsize=(14.5, sum(heights) + 0.3), layout="constrained", facecolor="white")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for index, data in enumerate(every):
        _panels(parts[2 * index], data)
        _corruptions(parts[2 * index + 1], data)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})


def _panels(part: Any, data: DataResults) -> None:
    names = list(data.rows)
    axes = part.subplots(1, len(FIGURES), sharey=True)
    part.suptitle(data.label, fontsize=11, fontweight="bold", x=0.005, ha="left")
    for axis, (key, heading) in zip(axes, FIGURES.items(), strict=True):
        means = [statistics.mean(values_of(data.rows[name], key)) for name in names]
        of_sources = [mean for name, mean in zip(names, means, strict=True) if name in SOURCES]
        if of_sources:  # the band of the question: from the best to the worst source
            axis.axvspan(min(of_sources), max(of_sources), color="#1f5fa8", alpha=0.08, linewidth=0)
        for place, (name, mean) in enumerate(zip(names, means, strict=True)):
            values, colour = values_of(data.rows[name], key), STYLE[name]
            axis.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, linewidth=2)
            axis.plot(values, [place] * len(values), "o", color=colour, markersize=4, alpha=0.6)
            axis.annotate(
                f"{mean:.1f}", (max(values), place), (6, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.set_title(f"{heading}, %", fontsize=9, loc="left")
        axis.margins(x=0.2)
        _plain(axis, "x")
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.5, -0.5)


def _corruptions(part: Any, data: DataResults) -> None:
    axis = part.subplots()
    corruptions = list(data.any_row["corruptions"])
    for index, (name, rows) in enumerate(data.rows.items()):
        shift = (index - (len(data.rows) - 1) / 2) * 0.085
        for place, corruption in enumerate(corruptions):
            values = [100 * row["corruptions"][corruption] for row in rows.values()]
            axis.plot([place + shift] * 2, [min(values), max(values)], color=STYLE[name], linewidth=1)
            mean, label = statistics.mean(values), name if place == 0 else None
            axis.plot(place + shift, mean, MARKERS.get(name, "o"), color=STYLE[name], markersize=4, label=label)
    for border in range(1, len(corruptions)):
        axis.axvline(border - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    axis.set_xticks(range(len(corruptions)), [corruption_label(name).replace(" ", "\n") for name in corruptions])
    axis.set_xlim(-0.5, len(corruptions) - 0.5)
    axis.set_ylim(0, 1.06 * axis.get_ylim()[1])
    axis.set_title(
        "error of each corruption, %: mean over five severities, lines from the lowest to the highest seed",
        fontsize=9, loc="left",
    )  # fmt: skip
    _plain(axis, "y")
    axis.legend(ncols=len(data.rows), fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.13))


def _plain(axis: Any, lines: str) -> None:
    axis.grid(axis=lines, color="#dddddd", linewidth=0.6)
    axis.tick_params(labelsize=8, length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
