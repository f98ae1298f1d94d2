"""The figure of audits: models by checks, a coloured cell each."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from mixaug._drawing import FigureImage, new_figure, png_of
from mixaug.evaluate.audit import Audit
from mixaug.evaluate.audit.result import FAIL, NOT_RUN, PASS, WARN, Check
from mixaug.evaluate.intervals import Quantity

#: A status' colour and its letter, which tells it without colours.
STYLE = {PASS: ("#cfe8dc", ""), WARN: ("#ffe2a8", "!"), FAIL: ("#e8896a", "x"), NOT_RUN: ("#f1f1f1", "")}
SHORT = {
    "black-box": "black box",
    "transfer": "transfer",
    "noise": "noise",
    "averaged": "averaged",
    "cross-entropy": "other loss",
    "one-step": "one step",
    "together": "together",
    "large-radius": "radius 0.5",
    "growing-radius": "growing radius",
    "zero-gradients": "no gradient",
    "repeated-calls": "equal calls",
    "rough-surface": "roughness",
}
_MASKED, _REAL, _OPEN = "#B3400A", "#00734F", "#777777"


def audit_grid(audits: Mapping[str, Audit]) -> FigureImage:
    """Models by checks: green passed, yellow warned, red failed, grey not run; with the figure that decided.

    Args:
        audits: model's name to its audit.

    Returns:
        The figure. Numbers are points that the check saw too much; shares of the images for gradients and calls; a
        cosine for roughness.

    Raises:
        ValueError: no audits.

    Example:
        >>> import torch
        >>> from mixaug.evaluate.audit import audit_images
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> audit = audit_images(model, torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1]), eps=0.1)
        >>> audit_grid({"model": audit}).png[1:4]
        b'PNG'
    """
    if not audits:
        raise ValueError("audits must hold one or more, got none")
    figure, axes = new_figure(1.5 + 0.27 * len(audits))
    names = [check.name for check in next(iter(audits.values())).checks]
    for row, audit in enumerate(audits.values()):
        for column, check in enumerate(audit.checks):
            colour, _ = STYLE[check.status]
            axes.add_patch(_cell(column, row, colour))
            text = cell_text(check).replace(" ", "\n")
            axes.text(column, row, text, ha="center", va="center", fontsize=5.8, linespacing=0.85)
        word, colour = verdict_word(audit)
        axes.text(len(names) - 0.4, row, word, ha="left", va="center", fontsize=6.5, color=colour, fontweight="bold")
    axes.set_xlim(-0.5, len(names) + 1.6)
    axes.set_ylim(len(audits) - 0.5, -0.5)
    axes.set_xticks(range(len(names)), [SHORT[name] for name in names], rotation=60, ha="left", fontsize=7)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(audits)), [textwrap.fill(name, 22) for name in audits], fontsize=7)
    axes.tick_params(length=0, pad=2)
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    caption = (
        "Each row a model, each column a check of the audit: green passed, yellow (!) warned, red (x) failed, grey not "
        "run. Numbers: points of accuracy that another attack takes beyond the one it is compared with; percent of the "
        "images for gradients and calls; percent left at a radius of 0.5; the cosine of near gradients."
    )
    return FigureImage(png_of(figure), "The masking audit", caption)


def cell_text(check: Check) -> str:
    """What a cell says: the figure, behind a mark where it is no pass.

    Example:
        >>> cell_text(Check("noise", "", "not run", "", {}, 0.02, ""))
        '-'
    """
    if check.status == NOT_RUN:
        return "-"
    for key in ("difference", "rise"):
        if key in check.figures and check.name != "large-radius":
            return f"{STYLE[check.status][1]} {100 * check.figures[key].value:+z.0f}".strip()
    figure = next(iter(check.figures.values()))
    if check.name == "zero-gradients":  # either loss may be the one without
        figure = max(check.figures.values(), key=float)
    text = f"{figure.value:.2f}" if isinstance(figure, Quantity) else f"{100 * figure.value:.0f}%"
    return f"{STYLE[check.status][1]} {text}".strip()


def verdict_word(audit: Audit) -> tuple[str, str]:
    """``masked``, ``not masked`` or ``open``, and its colour."""
    if audit.masked:
        return "masked", _MASKED
    if audit.verdict.startswith("No verdict"):
        return "no verdict", _OPEN
    return "not masked", _REAL


def _cell(column: int, row: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=colour, edgecolor="none")
