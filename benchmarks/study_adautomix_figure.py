"""The figure of the AdAutoMix study: every seed a dot, and the accuracy under occlusion."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from study_adautomix_page import FIGURES
from study_adautomix_plan import METHODS
from study_adversarial_tables import Study
from study_page import values_of

from mixaug._files import atomic_path

#: Of the methods; everything else is a form of the last one.
COLOURS = ("#555555", "#b06a00", "#2a8a4a", "#7a4fa3", "#1f5fa8")
OTHER = "#7aa3d4"


def draw(study: Study, path: Path) -> None:
    """A row of panels, one for each figure; below, the curves of the methods under occlusion."""
    from matplotlib.figure import Figure

    height = 0.3 * len(study.rows) + 0.8
    figure = Figure(figsize=(15, height + 3.6), layout="constrained", facecolor="white")
    top, bottom = figure.subfigures(2, 1, height_ratios=[height, 3.6])
    styles = dict(zip(METHODS, COLOURS, strict=True))
    _panels(top, study, styles)
    _occlusion(bottom, study, styles)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _panels(part: Any, study: Study, styles: dict[str, str]) -> None:
    axes = part.subplots(1, len(FIGURES), sharey=True)
    for axis, (key, heading) in zip(axes, FIGURES.items(), strict=True):
        for place, (name, rows) in enumerate(study.rows.items()):
            colour, values = styles.get(name, OTHER), values_of(rows, key)
            mean = statistics.mean(values)
            axis.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, linewidth=2)
            axis.plot(values, [place] * len(values), "o", color=colour, markersize=4, alpha=0.6)
            axis.annotate(
                f"{mean:.1f}", (max(values), place), (6, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.set_title(f"{heading}, %", fontsize=9, loc="left")
        axis.margins(x=0.25)
        _plain(axis, "x")
    axes[0].set_yticks(range(len(study.rows)), list(study.rows), fontsize=9)
    axes[0].set_ylim(len(study.rows) - 0.5, -0.5)


def _occlusion(part: Any, study: Study, styles: dict[str, str]) -> None:
    axis = part.subplots()
    for name, colour in styles.items():
        if name not in study.rows:
            continue
        rows = list(study.rows[name].values())
        ratios = list(rows[0]["occlusion"])
        means = [100 * statistics.mean(row["occlusion"][ratio]["value"] for row in rows) for ratio in ratios]
        axis.plot([100 * float(ratio) for ratio in ratios], means, "o-", color=colour, markersize=4, label=name)
    axis.set_title("accuracy with a share of the patches hidden, %, mean of the seeds", fontsize=9, loc="left")
    axis.set_xlabel("hidden patches, %", fontsize=8)
    axis.set_ylim(bottom=0)
    if axis.get_lines():  # matplotlib warns of an empty legend
        axis.legend(fontsize=8, frameon=False)
    _plain(axis, "y")


def _plain(axis: Any, lines: str) -> None:
    axis.grid(axis=lines, color="#dddddd", linewidth=0.6)
    axis.tick_params(labelsize=8, length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
