"""Reliability diagrams: accuracy against confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixaug._drawing import COLOURS, GREY, FigureImage, add_legend, looks, new_figure, png_of

if TYPE_CHECKING:
    from mixaug.evaluate.calibration import ReliabilityCurve
    from mixaug.evaluate.report import Report

_FEW = 5  # images below which a bin's accuracy is noise
_TOGETHER = 4  # models up to which lines in one diagram can be followed
_COLUMNS = 3


def reliability_diagram(report: Report) -> FigureImage:
    """Accuracy against confidence in equal-width bins, over a histogram of the confidence."""
    curve = report.reliability
    figure, (axes, histogram) = new_figure(4.6, rows=2, ratios=[3.2, 1])
    filled = [index for index, count in enumerate(curve.counts) if count]
    width = 1 / len(curve.counts)
    centres = [curve.edges[index] + width / 2 for index in filled]
    accuracy = [curve.accuracy[index] for index in filled]
    confidence = [curve.confidence[index] for index in filled]
    bars = axes.bar(centres, accuracy, width=0.92 * width, color=COLOURS[0], alpha=0.85, label="accuracy")
    for bar, index in zip(bars, filled, strict=True):
        if curve.counts[index] < _FEW:
            bar.set_alpha(0.3)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="calibrated")
    axes.plot(confidence, accuracy, "o", color="black", markersize=3, label="mean of the bin")
    axes.set_ylabel("accuracy")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.tick_params(labelbottom=False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    share = [100 * curve.counts[index] / len(report.outcomes.correct) for index in filled]
    histogram.bar(centres, share, width=0.92 * width, color=GREY)
    histogram.set(xlim=(0, 1), xlabel="confidence", ylabel="images in %")
    caption = (
        f"Bars below the dashed line: the model is too sure. Pale bars hold fewer than {_FEW} images. "
        f"RMS {report.rms}, ECE {report.ece}, "
        f"n = {len(report.outcomes.correct)}."
    )
    return FigureImage(png_of(figure), "Confidence and accuracy", caption)


def reliability_lines(reports: Sequence[Report], names: Sequence[str]) -> FigureImage:
    """Accuracy against confidence of several models; bins of few images are left out.

    With many models each has a diagram of its own, the others pale behind it.
    """
    together = len(reports) <= _TOGETHER
    rows = 1 if together else -(-len(reports) // _COLUMNS)
    figure, grid = new_figure(4.4 if together else 1.95 * rows, rows=rows, columns=1 if together else _COLUMNS)
    every = [grid] if together else list(grid.flat)
    curves = [report.reliability for report in reports]
    labels = [f"{name} (ECE {100 * report.ece.value:.1f}%)" for name, report in zip(names, reports, strict=True)]
    styles = looks(len(reports))
    for axes in every[len(reports) :]:
        axes.remove()
    for axes in every[: len(reports)]:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    for index, (label, curve, look) in enumerate(zip(labels, curves, styles, strict=True)):
        axes = every[0] if together else every[index]
        if not together:
            axes.set_title("\n(ECE".join(label.rsplit(" (ECE", 1)), fontsize=7.5)
            axes.tick_params(labelsize=7.5)
            for other in curves:
                axes.plot(*_line(other), color="#cccccc", linewidth=0.8, zorder=1)
        axes.plot(
            *_line(curve),
            look.line if together else "-",
            marker=look.marker,
            color=look.colour,
            markersize=4,
            label=label,
        )
    if together:
        every[0].set(xlabel="confidence", ylabel="accuracy")
        add_legend(figure, labels)
    else:
        figure.supxlabel("confidence", fontsize=9)
        figure.supylabel("accuracy", fontsize=9)
    return FigureImage(
        png_of(figure),
        "Confidence and accuracy",
        f"Below the dashed line a model is too sure. Bins with fewer than {_FEW} images are left out."
        + ("" if together else " Grey: the other models."),
    )


def _line(curve: ReliabilityCurve) -> tuple[list[Any], list[Any]]:
    filled = [index for index, count in enumerate(curve.counts) if count >= _FEW]
    return [curve.confidence[index] for index in filled], [curve.accuracy[index] for index in filled]
