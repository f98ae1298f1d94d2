"""The figure of the D-ReLU study: accuracy against lambda for each attack, against the radius, and the caps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from study_adversarial_tables import Study
from study_drelu_plan import CURVES, PLAIN, DreluPlan
from study_drelu_tables import ACCURACIES, percent, plan_of
from study_page import Row

from mixaug._files import atomic_path

BLUE, RED, GREEN, GREY, BLACK = "#1f5fa8", "#b3282d", "#2a8a4a", "#888888", "#222222"
#: Accuracies that have a panel, in the order of the panels.
SHOWN = ("clean", "fgsm", "pgd-20", "apgd-ce", "apgd-dlr", "cw-20", "cw-l2", "square", "transfer", "autoattack")


def draw(study: Study, path: Path) -> None:
    """Ten panels of accuracy against lambda (the paper's Figs. 11 to 15), three against the radius, two of the caps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 9.6), layout="constrained", facecolor="white")
    axes = figure.subplots(3, 5)
    for key, axis in zip(SHOWN, axes[:2].flat, strict=True):
        _against_lambda(axis, study, key)
    axes[0, 0].legend(fontsize=7, frameon=False, loc="lower left")
    for name, axis in zip(CURVES, axes[2, :3], strict=True):
        _against_radius(axis, study, name)
    axes[2, 0].legend(fontsize=7, frameon=False)
    _caps(axes[2, 3], study)
    _shares(axes[2, 4], study)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})


def _against_lambda(axis: Any, study: Study, key: str) -> None:
    plan = plan_of(study)
    _line(axis, study, lambda rows: percent(rows, "figures", key), BLUE, "D-ReLU")
    if key not in ("clean", "cw-l2"):
        _line(axis, study, lambda rows: percent(rows, "same_images", "all"), RED, "D-ReLU, all attacks")
    else:
        axis.plot([], [], "o-", color=RED, markersize=4, linewidth=1.2, label="D-ReLU, all attacks")
    for name, style in ((plan.baseline, "--"), (PLAIN, ":")):
        if name in study.rows and (name != PLAIN or style == ":"):
            level = statistics.mean(percent(study.rows[name], "figures", key))
            axis.axhline(level, color=BLACK if style == "--" else GREY, linestyle=style, linewidth=1.2, label=name)
    axis.set_title(f"{ACCURACIES[key]}, accuracy in %", fontsize=9, loc="left")
    axis.set_ylim(-3, 100)
    _lambda_axis(axis, plan)


def _against_radius(axis: Any, study: Study, name: str) -> None:
    plan = plan_of(study)
    finished = [variant for variant in plan.names.values() if variant in study.rows]
    chosen = {plan.baseline: (BLACK, "s--")}
    chosen |= dict(zip(_some(finished), ((GREEN, "^-"), (BLUE, "o-"), (RED, "D-")), strict=False))
    for variant, (colour, marker) in chosen.items():
        if variant not in study.rows:
            continue
        columns = [percent(study.rows[variant], "curves", name, f"{radius:g}") for radius in plan.sizes.radii]
        _spread(axis, list(plan.sizes.radii), columns, colour, marker, variant)
    axis.set_title(f"{ACCURACIES[name]}, accuracy in % against the radius", fontsize=9, loc="left")
    axis.set_xlabel("eps", fontsize=8)
    axis.set_ylim(-3, 100)
    _plain(axis)


def _some(names: list[str]) -> list[str]:
    """The first, one before the last and the last: weakest to strongest."""
    return list(dict.fromkeys([*names[:1], *names[-2:]]))


def _caps(axis: Any, study: Study) -> None:
    plan = plan_of(study)
    quantiles = {0: "10%", 1: "median", 2: "90%"}
    for (place, label), colour in zip(quantiles.items(), (GREEN, BLUE, RED), strict=True):

        def values(rows: Mapping[int, Row], place: int = place) -> list[float]:
            return [max(row["caps"]["quantiles"][place + 1], 0.0) for row in rows.values()]

        _line(axis, study, values, colour, label)
    axis.set_yscale("symlog", linthresh=0.01)
    axis.set_ylim(bottom=0)
    axis.set_title("quantiles of m at the end", fontsize=9, loc="left")
    axis.legend(fontsize=7, frameon=False)
    _lambda_axis(axis, plan)


def _shares(axis: Any, study: Study) -> None:
    shown = {"capped_share": "activations at their cap", "capped_units": "units that cap for some image"}
    for (key, label), colour in zip(
        {**shown, "zero_gradient": "images without a gradient"}.items(), (BLUE, GREEN, RED), strict=True
    ):
        _line(axis, study, partial(_caps_share, key=key), colour, label)
    axis.set_title("shares in %", fontsize=9, loc="left")
    axis.set_ylim(-3, 140)  # room for the legend
    axis.set_yticks(range(0, 101, 20))
    axis.legend(fontsize=7, frameon=False, loc="upper left")
    _lambda_axis(axis, plan_of(study))


def _caps_share(rows: Mapping[int, Row], key: str) -> list[float]:
    return percent(rows, "caps", key)


def _line(axis: Any, study: Study, values: Callable[[Mapping[int, Row]], list[float]], colour: str, label: str) -> None:
    """D-ReLU's values against lambda, at equal distances: lambda may be 0."""
    plan = plan_of(study)
    places = [place for place, lam in enumerate(plan.lambdas) if plan.names[lam] in study.rows]
    columns = [values(study.rows[plan.names[plan.lambdas[place]]]) for place in places]
    if columns:
        _spread(axis, [float(place) for place in places], columns, colour, "o-", label)


def _spread(axis: Any, x: list[float], columns: list[list[float]], colour: str, style: str, label: str) -> None:
    """Means as a line, from the lowest to the highest seed as a band."""
    axis.plot(x, [statistics.mean(c) for c in columns], style, color=colour, markersize=4, linewidth=1.2, label=label)
    axis.fill_between(x, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15, linewidth=0)


def _lambda_axis(axis: Any, plan: DreluPlan) -> None:
    axis.set_xticks(range(len(plan.lambdas)), [f"{lam:g}" for lam in plan.lambdas])
    axis.set_xlabel("lambda", fontsize=8)
    _plain(axis)


def _plain(axis: Any) -> None:
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.tick_params(labelsize=8, length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
