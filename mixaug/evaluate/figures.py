"""The figures of a report, drawn by matplotlib without a display and without its global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixaug.evaluate._optional import optional_import
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.outcomes import SEVERITIES
from mixaug.evaluate.report import Report, attack_label, corruption_label

if TYPE_CHECKING:
    from mixaug.evaluate.comparison import Comparison

# Narrow and tall: readable on a phone, two beside each other on a desk.
_WIDTH = 5.2
_DPI = 180
_FEW = 5  # images below which a bin's accuracy is noise
# Okabe and Ito's colours, told apart by colour-blind readers.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_RIGHT, _WRONG, _GREY = "#00734F", "#B3400A", "#777777"
_STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#888888",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class FigureImage:
    """A drawn figure: PNG bytes, its title and one sentence on how to read it."""

    png: bytes
    title: str
    caption: str


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
    return figures


def headline_bars(comparison: Comparison) -> FigureImage:
    """Clean error, mCE, calibration and attack errors of each model, with intervals."""
    rows = [
        (label, [report.figures[key][1] for report in comparison.reports]) for key, label in comparison.columns.items()
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
    figure, axes = _figure(3.4)
    for report, name, colour in zip(reports, names, _colours(len(reports)), strict=True):
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
    _legend(axes, names)
    caption = f"Mean over {len(reports[0].outcomes.corrupted)} corruptions; bands are 95% intervals."
    return FigureImage(_png(figure), "Error by severity", caption)


def reliability_diagram(report: Report) -> FigureImage:
    """Accuracy against confidence in equal-width bins, over a histogram of the confidence."""
    curve = report.reliability
    figure, (axes, histogram) = _figure(4.6, rows=2, ratios=[3.2, 1])
    filled = [index for index, count in enumerate(curve.counts) if count]
    width = 1 / len(curve.counts)
    centres = [curve.edges[index] + width / 2 for index in filled]
    accuracy = [curve.accuracy[index] for index in filled]
    confidence = [curve.confidence[index] for index in filled]
    bars = axes.bar(centres, accuracy, width=0.92 * width, color=_COLOURS[0], alpha=0.85, label="accuracy")
    for bar, index in zip(bars, filled, strict=True):
        if curve.counts[index] < _FEW:
            bar.set_alpha(0.3)
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1.2, label="calibrated")
    axes.plot(confidence, accuracy, "o", color="black", markersize=3, label="mean of the bin")
    axes.set_ylabel("accuracy")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.tick_params(labelbottom=False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    share = [100 * curve.counts[index] / len(report.outcomes.correct) for index in filled]
    histogram.bar(centres, share, width=0.92 * width, color=_GREY)
    histogram.set(xlim=(0, 1), xlabel="confidence", ylabel="images in %")
    caption = (
        f"Bars below the dashed line: the model is too sure. Pale bars hold fewer than {_FEW} images. "
        f"RMS {report.rms}, ECE {report.ece}, "
        f"n = {len(report.outcomes.correct)}."
    )
    return FigureImage(_png(figure), "Confidence and accuracy", caption)


def reliability_lines(reports: Sequence[Report], names: Sequence[str]) -> FigureImage:
    """Accuracy against confidence of several models; bins of few images are left out."""
    figure, axes = _figure(4.2)
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1.2)
    for report, name, colour in zip(reports, names, _colours(len(reports)), strict=True):
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
        _png(figure),
        "Confidence and accuracy",
        f"Below the dashed line a model is too sure. Bins with fewer than {_FEW} images are left out.",
    )


def corrupted_examples(reports: Sequence[Report], names: Sequence[str]) -> FigureImage:
    """One corrupted image for each corruption with what each model says."""
    columns = 3
    marks = [chr(ord("A") + index) for index in range(len(names))]  # names are too long to stand below a picture
    rows = -(-len(reports[0].examples.corrupted) // columns)
    figure, grid = _figure((2.0 + 0.25 * len(reports)) * rows, rows=rows, columns=columns)
    for axes in grid.flat:
        axes.axis("off")
    for axes, *examples in zip(grid.flat, *(report.examples.corrupted for report in reports), strict=False):
        first = examples[0]
        _show(axes, first.image)
        axes.set_title(corruption_label(first.corruption), fontsize=9, pad=3)
        lines = [
            (
                (f"{mark}: " if len(names) > 1 else "")
                + f"{report.class_name(example.predicted)} {100 * example.confidence:.0f}%",
                example.predicted == example.label,
            )
            for report, mark, example in zip(reports, marks, examples, strict=True)
        ]
        _below(axes, lines, reports[0].class_name(first.label))
    severity = reports[0].examples.corrupted[0].severity
    legend = "" if len(names) == 1 else " " + ", ".join(f"{m}: {n}" for m, n in zip(marks, names, strict=True)) + "."
    caption = (
        f"Severity {severity} of 5, one image each; below it the prediction with its confidence, "
        f"green if right, red if not.{legend}"
    )
    return FigureImage(_png(figure), "Corrupted images and predictions", caption)


def adversarial_examples(report: Report, attack: str) -> FigureImage:
    """Images before and after an attack, and their difference, amplified."""
    examples = [example for example in report.examples.adversarial if example.attack == attack]
    figure, grid = _figure(2.15 * len(examples), rows=len(examples), columns=3)
    largest = max(1, *(_difference(example.clean, example.adversarial).abs().max().item() for example in examples))
    for row, (axes_row, example) in enumerate(zip(grid.reshape(-1, 3), examples, strict=True)):
        amplified = (127.5 + _difference(example.clean, example.adversarial) * (127.5 / largest)).round().clamp(0, 255)
        for axes, image in zip(axes_row, (example.clean, example.adversarial, amplified.to(torch.uint8)), strict=True):
            axes.axis("off")
            _show(axes, image)
        if row == 0:
            for axes, title in zip(axes_row, ("clean", "attacked", f"change x {127.5 / largest:.0f}"), strict=True):
                axes.set_title(title, fontsize=10, pad=4)
        truth = report.class_name(example.label)
        before = f"{report.class_name(example.predicted_clean)} {100 * example.confidence_clean:.0f}%"
        after = f"{report.class_name(example.predicted)} {100 * example.confidence:.0f}%"
        _below(axes_row[0], [(before, example.predicted_clean == example.label)], truth)
        _below(axes_row[1], [(after, example.predicted == example.label)], truth)
    change = 255 * report.outcomes.attack_change[attack]
    caption = (
        f"{attack_label(attack)}; no pixel changes by more than {change:.1f} of 255 grey levels. Grey means no change. "
        "The images that the attack turned are shown first."
    )
    return FigureImage(_png(figure), f"Attacked images ({attack_label(attack)})", caption)


def _grouped_bars(
    rows: Sequence[tuple[str, Sequence[Estimate]]],
    names: Sequence[str],
    unit: str,
    lines: Sequence[float] = (),
) -> bytes:
    count = len(names)
    height = 0.8 / count
    figure, axes = _figure(0.9 + len(rows) * (0.16 + 0.17 * count))
    colours = _colours(count)
    for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
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
    for value, colour in zip(lines, colours, strict=False):
        axes.axvline(100 * value, color=colour, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)  # the first row on top
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    if count > 1:
        figure.legend(loc="outside upper center", ncols=min(count, 3), fontsize=9, frameon=False)
    return _png(figure)


def _figure(height: float, rows: int = 1, columns: int = 1, ratios: Sequence[float] | None = None) -> tuple[Any, Any]:
    matplotlib = optional_import("matplotlib")
    figure_class = optional_import("matplotlib.figure").Figure
    with matplotlib.rc_context(_STYLE):
        # The class itself, not pyplot: no window, no global list of figures, nothing changed for the user's own plots.
        figure = figure_class(figsize=(_WIDTH, height), layout="constrained", facecolor="white")
        axes = figure.subplots(rows, columns, height_ratios=ratios, squeeze=rows * columns == 1 or ratios is not None)
    return figure, axes


def _png(figure: Any) -> bytes:
    optional_import("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    file = io.BytesIO()
    # No version or date inside: the same figures give the same bytes.
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def _colours(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]


def _legend(axes: Any, names: Sequence[str]) -> None:
    if len(names) > 1:
        axes.legend(loc="upper left", fontsize=9, frameon=False)


def _show(axes: Any, image: Tensor) -> None:
    smooth = "nearest" if max(image.shape[1:]) <= 96 else "antialiased"
    if image.shape[0] == 1:
        axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    else:
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation=smooth)


def _below(axes: Any, lines: Sequence[tuple[str, bool]], truth: str) -> None:
    """Predictions under a picture, each green or red, and the truth where one is wrong."""
    texts = [(_short(text), _RIGHT if right else _WRONG) for text, right in lines]
    if not all(right for _, right in lines):
        texts.append((_short(f"is: {truth}"), _GREY))
    for place, (text, colour) in enumerate(texts):
        # An invisible line above each keeps the layout's room for all of them.
        axes.text(
            0.5, -0.03, "\n" * place + text, transform=axes.transAxes, ha="center", va="top", fontsize=8, color=colour
        )


def _same_examples(reports: Sequence[Report]) -> bool:
    """Whether all reports show the same corrupted pictures (they do for the same seed and images)."""
    first, *others = (report.examples.corrupted for report in reports)
    return bool(first) and all(
        len(first) == len(other)
        and all(torch.equal(one.image, two.image) for one, two in zip(first, other, strict=True))
        for other in others
    )


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:15] + "…" + text[-8:]


def _difference(clean: Tensor, adversarial: Tensor) -> Tensor:
    return adversarial.float() - clean.float()


def _file_part(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in name)
