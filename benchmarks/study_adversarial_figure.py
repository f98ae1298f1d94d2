"""The figure of the adversarial study: every seed a dot, validation accuracy by epoch, hybrid's schedules."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from study_adversarial_tables import ACCURACIES, Study, values_of

from mixaug._files import atomic_path

#: Of the variants in their order.
COLOURS = ("#555555", "#1f5fa8", "#2a8a4a", "#b06a00", "#b3282d", "#7a4fa3")
MARKERS = ("s", "o", "^", "v", "D", "P")


def draw(study: Study, path: Path) -> None:
    """A row of panels, one for each accuracy; below, the accuracies on the validation part while training."""
    from matplotlib.figure import Figure

    height = 0.32 * len(study.rows) + 0.8
    figure = Figure(figsize=(15, height + 3.3), layout="constrained", facecolor="white")
    top, bottom = figure.subfigures(2, 1, height_ratios=[height, 3.2])
    styles = dict(zip(study.plan.variants, zip(COLOURS, MARKERS, strict=True), strict=False))
    _panels(top, study, styles)
    _epochs(bottom, study, styles)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _panels(part: Any, study: Study, styles: dict[str, tuple[str, str]]) -> None:
    axes = part.subplots(1, len(ACCURACIES), sharey=True)
    for axis, (key, heading) in zip(axes, ACCURACIES.items(), strict=True):
        for place, (name, rows) in enumerate(study.rows.items()):
            colour, marker = styles[name]
            values = values_of(rows, key)
            mean = statistics.mean(values)
            axis.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, linewidth=2)
            axis.plot(values, [place] * len(values), marker, color=colour, markersize=4, alpha=0.6)
            axis.annotate(
                f"{mean:.1f}", (max(values), place), (6, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.set_title(f"{heading}, %", fontsize=9, loc="left")
        axis.set_xlim(-4, 116)  # room for the number beside a model that is always right
        _plain(axis, "x")
    axes[0].set_yticks(range(len(study.rows)), list(study.rows), fontsize=9)
    axes[0].set_ylim(len(study.rows) - 0.5, -0.5)


def _epochs(part: Any, study: Study, styles: dict[str, tuple[str, str]]) -> None:
    hybrid = study.rows.get("hybrid")
    panels = {"validation_accuracy": "clean", "validation_pgd_accuracy": "under PGD-10"}
    axes = part.subplots(1, len(panels) + bool(hybrid), squeeze=False)[0]
    for axis, (key, heading) in zip(axes, panels.items(), strict=False):
        for name, rows in study.rows.items():
            seeds = [row["history"] for row in rows.values() if key in row["history"][0]]
            if not seeds:
                continue
            epochs = [entry["epoch"] for entry in seeds[0]]
            means = [100 * statistics.mean(entry[key] for entry in column) for column in zip(*seeds, strict=True)]
            colour, marker = styles[name]
            axis.plot(epochs, means, marker=marker, markersize=4, color=colour, linewidth=1.2, label=name)
        axis.set_title(f"accuracy on the validation part, {heading}, %, mean of the seeds", fontsize=9, loc="left")
        axis.set_xlabel("epoch", fontsize=8)
        _plain(axis, "y")
    axes[0].legend(fontsize=8, frameon=False)
    if hybrid:
        _schedules(axes[-1], next(iter(hybrid.values()))["history"])


def _schedules(axis: Any, history: list[dict[str, float]]) -> None:
    epochs, full = [entry["epoch"] for entry in history], history[-1]["radius"]
    axis.plot(epochs, [entry["radius"] / full for entry in history], "o-", color="#1f5fa8", label="radius / eps")
    axis.plot(epochs, [entry["alpha"] for entry in history], "s-", color="#b3282d", label="alpha, the clean weight")
    axis.set_title("hybrid's schedules, one seed", fontsize=9, loc="left")
    axis.set_xlabel("epoch", fontsize=8)
    axis.set_ylim(0, 1.05)
    axis.legend(fontsize=8, frameon=False)
    _plain(axis, "y")


def _plain(axis: Any, lines: str) -> None:
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(axis=lines, color="#dddddd", linewidth=0.6)
    axis.tick_params(labelsize=8, length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
