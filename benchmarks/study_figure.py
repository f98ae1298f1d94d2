"""The figure of a study: every seed a dot, and the error of each corruption."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from study_page import FIGURES, DataResults, Study, values_of

from mixaug._files import atomic_path
from mixaug.evaluate.labels import corruption_label

#: Figures that have a panel.
SHOWN = ("clean", "mce", "rms", "pgd_2", "pgd_8")
#: Colour and marker by variant; the rest are ablations.
STYLE = {
    "standard": ("#555555", "s"),
    "AugMix": ("#b06a00", "^"),
    "IPMix": ("#1f5fa8", "o"),
    "IPMix + JSD": ("#2a8a4a", "D"),
}
OTHER_STYLE = ("#7aa3d4", "o")


def draw(study: Study, path: Path) -> None:
    """For each data set a row of panels, each seed a dot and the mean a line, above the error of each corruption."""
    from matplotlib.figure import Figure

    every = list(study.data.values())
    heights = []
    for data in every:
        heights += [0.3 * len(data.rows) + 0.7, 3.0]
    figure = Figure(figsize=(14.5, sum(heights) + 0.3), layout="constrained", facecolor="white")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for index, data in enumerate(every):
        _panels(parts[2 * index], data)
        _corruptions(parts[2 * index + 1], data)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _panels(part: Any, data: DataResults) -> None:
    names = list(data.rows)
    axes = part.subplots(1, len(SHOWN), sharey=True)
    part.suptitle(data.label, fontsize=11, fontweight="bold", x=0.005, ha="left")
    for axis, key in zip(axes, SHOWN, strict=True):
        for place, name in enumerate(names):
            values = values_of(data.rows[name], key)
            colour, marker = STYLE.get(name, OTHER_STYLE)
            mean = statistics.mean(values)
            axis.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, linewidth=2)
            axis.plot(values, [place] * len(values), marker, color=colour, markersize=4, alpha=0.6)
            axis.annotate(
                f"{mean:.1f}", (max(values), place), (6, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.set_title(f"{FIGURES[key]}, %", fontsize=9, loc="left")
        axis.margins(x=0.25)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.tick_params(labelsize=8, length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.5, -0.5)


def _corruptions(part: Any, data: DataResults) -> None:
    axis = part.subplots()
    names = data.finished(data.methods) or list(data.rows)
    corruptions = list(data.any_row["corruptions"])
    for index, name in enumerate(names):
        colour, marker = STYLE.get(name, OTHER_STYLE)
        shift = (index - (len(names) - 1) / 2) * 0.16
        for place, corruption in enumerate(corruptions):
            values = [100 * row["corruptions"][corruption] for row in data.rows[name].values()]
            axis.plot([place + shift] * 2, [min(values), max(values)], color=colour, linewidth=1.2)
            mean, label = statistics.mean(values), name if place == 0 else None
            axis.plot(place + shift, mean, marker, color=colour, markersize=6, label=label)
    for border in range(1, len(corruptions)):
        axis.axvline(border - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    axis.set_xticks(range(len(corruptions)), [corruption_label(name).replace(" ", "\n") for name in corruptions])
    axis.set_xlim(-0.5, len(corruptions) - 0.5)
    axis.set_ylim(0, 1.06 * axis.get_ylim()[1])
    axis.set_title(
        "error of each corruption, %: mean over five severities, lines from the lowest to the highest seed",
        fontsize=9, loc="left",
    )  # fmt: skip
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.tick_params(labelsize=8, length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(ncols=len(names), fontsize=9, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
