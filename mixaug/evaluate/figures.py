"""The figures of a report and of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mixaug.evaluate._drawing import COLOURS, GREY, FigureImage, add_legend, colours, new_figure, png_of
from mixaug.evaluate.intervals import Estimate, Quantity
from mixaug.evaluate.labels import corruption_label
from mixaug.evaluate.outcomes import SEVERITIES
from mixaug.evaluate.picture_figures import adversarial_examples, corrupted_examples
from mixaug.evaluate.report import Report
from mixaug.evaluate.surface_figure import surface_comparison, surface_figure

if TYPE_CHECKING:
    from mixaug.evaluate.comparison import Comparison

_FEW = 5  # images below which a bin's accuracy is noise


def report_figures(report: Report) -> dict[str, FigureImage]:
    """All figures of one report by file name part; those without data are left out.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    reports, names = [report], [report.name]
    figures: dict[str, FigureImage] = {}
    if report.outcomes.corrupted:
        figures["corruptions"] = corruption_bars(reports, names)
        figures["severity"] = severity_lines(reports, names)
    figures["reliability"] = reliability_diagram(report)
    if report.examples.corrupted:
        figures["corrupted"] = corrupted_examples(reports, names)
    for attack in report.attacks:
        if any(example.attack == attack for example in report.examples.adversarial):
            figures[f"adversarial-{_file_part(attack)}"] = adversarial_examples(report, attack)
    if report.examples.surfaces:
        figures["surface"] = surface_figure(report.examples.surfaces)
    return figures


def comparison_figures(comparison: Comparison) -> dict[str, FigureImage]:
    """All figures of a comparison by file name part; those without data are left out.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    reports, names = comparison.reports, comparison.names
    figures = {"headline": headline_bars(comparison)}
    if comparison.corruptions:
        figures["corruptions"] = corruption_bars(reports, names, comparison.corruptions)
        figures["severity"] = severity_lines(reports, names)
    figures["reliability"] = reliability_lines(reports, names)
    if _same_examples(reports):
        figures["corrupted"] = corrupted_examples(reports, names)
    if comparison.radii:
        surfaces = {name: each.examples.surfaces for name, each in zip(names, reports, strict=True)}
        figures["surface"] = surface_comparison(surfaces)
    return figures


def headline_bars(comparison: Comparison) -> FigureImage:
    """Clean error, mCE, calibration and attack errors of each model, with intervals."""
    rows = [
        (label, [report.figures[key][1] for report in comparison.reports])
        for key, label in comparison.columns.items()
        if not isinstance(comparison.reports[0].figures[key][1], Quantity)  # its size is not that of a share
    ]
    return FigureImage(
        _grouped_bars(rows, comparison.names, "%"),
        "The main figures",
        "All are errors: shorter is better. Lines are 95% intervals of each figure by itself; "
        "for the difference of two models see the table of differences, which compares image by image.",
    )


def corruption_bars(reports: Sequence[Report], names: Sequence[str], which: Sequence[str] | None = None) -> FigureImage:
    """Error of each corruption, mean over the severities; one bar a model."""
    which = list(reports[0].outcomes.corrupted) if which is None else which
    rows = [(corruption_label(name), [report.corruption_means[name] for report in reports]) for name in which]
    clean = [report.clean_error_of_corrupted.value for report in reports if report.clean_error_of_corrupted]
    caption = (
        f"Mean over five severities, n = {len(reports[0].outcomes.corruption_index)} images; lines are 95% intervals, "
        "dashed is the error on the same images uncorrupted."
    )
    return FigureImage(_grouped_bars(rows, names, "error in %", clean), "Error by corruption", caption)


def severity_lines(reports: Sequence[Report], names: Sequence[str]) -> FigureImage:
    """Error against severity, mean over the corruptions; severity 0 is the clean images."""
    figure, axes = new_figure(3.4)
    for report, name, colour in zip(reports, names, colours(len(reports)), strict=True):
        clean = report.clean_error_of_corrupted or report.clean_error
        estimates = [clean, *report.severity_means]
        places = [0, *SEVERITIES]
        axes.fill_between(
            places,
            [100 * estimate.low for estimate in estimates],
            [100 * estimate.high for estimate in estimates],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        values = [100 * estimate.value for estimate in estimates]
        axes.plot(places, values, "o-", color=colour, label=name, markersize=4.5)
    axes.set_xticks([0, *SEVERITIES], ["clean", *map(str, SEVERITIES)])
    axes.set_xlabel("severity")
    axes.set_ylabel("error in %")
    axes.set_ylim(bottom=0)
    add_legend(axes, names)
    caption = f"Mean over {len(reports[0].outcomes.corrupted)} corruptions; bands are 95% intervals."
    return FigureImage(png_of(figure), "Error by severity", caption)


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
    """Accuracy against confidence of several models; bins of few images are left out."""
    figure, axes = new_figure(4.2)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
    for report, name, colour in zip(reports, names, colours(len(reports)), strict=True):
        curve = report.reliability
        filled = [index for index, count in enumerate(curve.counts) if count >= _FEW]
        axes.plot(
            [curve.confidence[index] for index in filled],
            [curve.accuracy[index] for index in filled],
            "o-",
            color=colour,
            markersize=4.5,
            label=f"{name} (ECE {100 * report.ece.value:.1f}%)",
        )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    return FigureImage(
        png_of(figure),
        "Confidence and accuracy",
        f"Below the dashed line a model is too sure. Bins with fewer than {_FEW} images are left out.",
    )


def _grouped_bars(
    rows: Sequence[tuple[str, Sequence[Estimate]]],
    names: Sequence[str],
    unit: str,
    lines: Sequence[float] = (),
) -> bytes:
    count = len(names)
    height = 0.8 / count
    figure, axes = new_figure(0.9 + len(rows) * (0.16 + 0.17 * count))
    hues = colours(count)
    for index, (name, colour) in enumerate(zip(names, hues, strict=True)):
        places = [row + (index - (count - 1) / 2) * height for row in range(len(rows))]
        values = [100 * estimates[index].value for _, estimates in rows]
        reach = [
            [100 * (estimates[index].value - estimates[index].low) for _, estimates in rows],
            [100 * (estimates[index].high - estimates[index].value) for _, estimates in rows],
        ]
        error_style = {"ecolor": "#333333", "elinewidth": 0.9, "capsize": 0}
        axes.barh(places, values, height=0.9 * height, color=colour, label=name, xerr=reach, error_kw=error_style)
        for place, (_, estimates) in zip(places, rows, strict=True):
            text = f"{100 * estimates[index].value:.1f}"
            axes.annotate(
                text, (100 * estimates[index].high, place), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
    for value, colour in zip(lines, hues, strict=False):
        axes.axvline(100 * value, color=colour, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)  # the first row on top
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    if count > 1:
        figure.legend(loc="outside upper center", ncols=min(count, 3), fontsize=9, frameon=False)
    return png_of(figure)


def _same_examples(reports: Sequence[Report]) -> bool:
    """Whether all reports show the same corrupted pictures (they do for the same seed and images)."""
    first, *others = (report.examples.corrupted for report in reports)
    return bool(first) and all(
        len(first) == len(other)
        and all(torch.equal(one.image, two.image) for one, two in zip(first, other, strict=True))
        for other in others
    )


def _file_part(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in name)
