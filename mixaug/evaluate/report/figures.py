"""The figures of a report and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixaug._drawing import (
    COLOURS,
    GREY,
    RIGHT,
    WRONG,
    FigureImage,
    Look,
    add_legend,
    looks,
    new_figure,
    overlay,
    png_of,
)
from mixaug.evaluate.audit.result import audit_grid
from mixaug.evaluate.corruptions.tables import SEVERITIES
from mixaug.evaluate.drawing import _BARS, BANDS, draw_curve, grouped
from mixaug.evaluate.intervals import Estimate, Quantity
from mixaug.evaluate.labels import attack_label, corruption_label, radius_text
from mixaug.evaluate.measures.anomaly import anomaly_figure
from mixaug.evaluate.measures.consistency import flip_bars, flip_sequences
from mixaug.evaluate.measures.features import feature_figure
from mixaug.evaluate.measures.occlusion import occlusion_figure
from mixaug.evaluate.measures.surface import surface_comparison, surface_figure
from mixaug.evaluate.report.data import HIGHER, ReportData
from mixaug.evaluate.results import CorruptedExample

if TYPE_CHECKING:
    from mixaug.evaluate.measures.calibration import ReliabilityCurve
    from mixaug.evaluate.report.comparison import ComparisonData
    from mixaug.evaluate.report.data import ReportData

__all__ = [
    "FigureImage",
    "comparison_figures",
    "report_figures",
]


def headline_rows(comparison: ComparisonData) -> FigureImage:
    """The errors that all models have, with intervals."""
    rows = [
        (label, [column[index] for index in range(len(comparison.names))])
        for key, label in comparison.columns.items()
        if key not in HIGHER
        for column in [comparison.values[key]]
        if not isinstance(column[0], Quantity)  # its size is not that of a share
    ]
    return FigureImage(
        grouped(rows, comparison.marked_names, "%"),
        "The main figures",
        "All are errors: lower is better. Lines are 95% intervals of each figure by itself; "
        "for the difference of two models see the table of differences, which compares image by image."
        + (" † masked: one attack says little of it." if any(comparison.masked) else ""),
    )


def corruption_bars(
    reports: Sequence[ReportData], names: Sequence[str], which: Sequence[str] | None = None
) -> FigureImage:
    """Error of each corruption, mean over the severities."""
    which = list(reports[0].outcomes.corrupted) if which is None else which
    rows = [(corruption_label(name), [report.corruption_means[name] for report in reports]) for name in which]
    clean = [report.clean_error_of_corrupted.value for report in reports if report.clean_error_of_corrupted]
    few = len(reports) <= _BARS
    caption = (
        f"Mean over five severities, n = {len(reports[0].outcomes.corruption_index)} images; lines are 95% intervals"
        + (", dashed is the error on the same images uncorrupted." if few else ".")
    )
    return FigureImage(grouped(rows, names, "error in %", clean if few else ()), "Error by corruption", caption)


def severity_lines(
    reports: Sequence[ReportData], names: Sequence[str], styles: Sequence[Look] | None = None
) -> FigureImage:
    """Error against severity, mean over the corruptions; severity 0 is the clean images."""
    figure, axes = new_figure(3.4 + 0.1 * len(names))
    few = len(reports) <= BANDS
    for report, name, look in zip(reports, names, styles or looks(len(reports)), strict=True):
        clean = report.clean_error_of_corrupted or report.clean_error
        draw_curve(axes, [0, *SEVERITIES], [clean, *report.severity_means], name, look, few)
    axes.set_xticks([0, *SEVERITIES], ["clean", *map(str, SEVERITIES)])
    axes.set_xlabel("severity")
    axes.set_ylabel("error in %")
    axes.set_ylim(bottom=0)
    add_legend(figure, names)
    caption = f"Mean over {len(reports[0].outcomes.corrupted)} corruptions{'; bands are 95% intervals' if few else ''}."
    return FigureImage(png_of(figure), "Error by severity", caption)


_NAMED = 4  # models up to which each one's prediction stands below a picture


def corrupted_examples(reports: Sequence[ReportData], names: Sequence[str]) -> FigureImage:
    """One corrupted image for each corruption with what each model says; with many models, who is right."""
    columns = 3
    few = len(names) <= _NAMED
    marks = [chr(ord("A") + index) for index in range(len(names))]  # names are too long to stand below a picture
    rows = -(-len(reports[0].examples.corrupted) // columns)
    lines_below = len(reports) if few else 2
    figure, grid = new_figure((2.0 + 0.25 * lines_below) * rows, rows=rows, columns=columns)
    for axes in grid.flat:
        axes.axis("off")
    for axes, *examples in zip(grid.flat, *(report.examples.corrupted for report in reports), strict=False):
        first = examples[0]
        _show(axes, first.image)
        axes.set_title(corruption_label(first.corruption), fontsize=9, pad=3)
        lines = _each_model(reports, marks, examples) if few else _who_is_right(marks, examples)
        _below(axes, lines, reports[0].class_name(first.label))
    severity = reports[0].examples.corrupted[0].severity
    legend = "" if len(names) == 1 else " " + ", ".join(f"{m}: {n}" for m, n in zip(marks, names, strict=True)) + "."
    what = "the prediction with its confidence" if few else "the models that are right, and those that are wrong"
    caption = f"Severity {severity} of 5, one image each; below it {what}, green if right, red if not.{legend}"
    return FigureImage(png_of(figure), "Corrupted images and predictions", caption)


def _each_model(
    reports: Sequence[ReportData], marks: Sequence[str], examples: Sequence[CorruptedExample]
) -> list[tuple[str, bool]]:
    return [
        (
            (f"{mark}: " if len(marks) > 1 else "")
            + f"{report.class_name(example.predicted)} {100 * example.confidence:.0f}%",
            example.predicted == example.label,
        )
        for report, mark, example in zip(reports, marks, examples, strict=True)
    ]


def _who_is_right(marks: Sequence[str], examples: Sequence[CorruptedExample]) -> list[tuple[str, bool]]:
    """Two lines for any number of models."""
    lines = []
    for right, word in ((True, "right"), (False, "wrong")):
        found = [mark for mark, each in zip(marks, examples, strict=True) if (each.predicted == each.label) == right]
        if found:
            lines.append((f"{word}: {''.join(found)}", right))
    return lines


def adversarial_examples(report: ReportData, attack: str) -> FigureImage:
    """Images before and after an attack, and their difference, amplified."""
    examples = [example for example in report.examples.adversarial if example.attack == attack]
    figure, grid = new_figure(2.15 * len(examples), rows=len(examples), columns=3)
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
    return FigureImage(png_of(figure), f"Attacked images ({attack_label(attack)})", caption)


def activation_examples(report: ReportData) -> FigureImage:
    """Images with the class activation maps of their label and of what the model predicts."""
    examples = report.examples.maps
    height = 5.2 / 3 * examples[0].image.shape[1] / examples[0].image.shape[2] + 0.3
    figure, grid = new_figure(height * len(examples), rows=len(examples), columns=3)
    for axes_row, example in zip(grid.reshape(-1, 3), examples, strict=True):
        right = example.predicted == example.label
        label, predicted = report.class_name(example.label), report.class_name(example.predicted)
        maps = [overlay(example.image, map_.float() / 255) for map_ in (example.label_map, example.predicted_map)]
        titles = ("image", f"label: {label}", f"predicted: {predicted} {100 * example.confidence:.0f}%")
        for axes in axes_row:
            axes.axis("off")
        _show(axes_row[0], example.image)
        for axes, map_ in zip(axes_row[1:], maps, strict=True):
            _show(axes, map_.permute(2, 0, 1))
        for axes, title, colour in zip(axes_row, titles, ("black", GREY, RIGHT if right else WRONG), strict=True):
            axes.set_title(_short(title, 26), fontsize=8, pad=3, color=colour)
    caption = (
        "Class activation maps: the brighter, the more this place speaks for the class. Where the prediction is wrong, "
        "its title is red and the two maps show what each class was seen in."
    )
    return FigureImage(png_of(figure), "Class activation maps", caption)


def _show(axes: Any, image: Tensor) -> None:
    smooth = "nearest" if max(image.shape[1:]) <= 96 else "antialiased"
    if image.shape[0] == 1:
        axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    else:
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation=smooth)


def _below(axes: Any, lines: Sequence[tuple[str, bool]], truth: str) -> None:
    """Predictions under a picture, each green or red, and the truth where one is wrong."""
    texts = [(_short(text), RIGHT if right else WRONG) for text, right in lines]
    if not all(right for _, right in lines):
        texts.append((_short(f"is: {truth}"), GREY))
    for place, (text, colour) in enumerate(texts):
        # An invisible line above each keeps the layout's room for all of them.
        axes.text(
            0.5, -0.03, "\n" * place + text, transform=axes.transAxes, ha="center", va="top", fontsize=8, color=colour
        )


def _short(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 9] + "…" + text[-8:]


def _difference(clean: Tensor, adversarial: Tensor) -> Tensor:
    return adversarial.float() - clean.float()


def attack_bars(report: ReportData) -> FigureImage:
    """Accuracy without an attack, under each attack, and in the worst case of those within the radius.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    case = report.worst_case
    inside = () if case is None else case.attacks
    first = next(iter(report.attacks.values()))
    rows: list[tuple[str, Estimate, str, float]] = [("no attack", first.clean_accuracy, GREY, 1.0)]
    for name, result in sorted(report.attacks.items(), key=lambda item: -item[1].accuracy.value):
        # Pale: it is not held to the radius, and not to be compared with the others.
        mark, strength = ("", 1.0) if name in inside else (" †", 0.4)
        rows.append((attack_label(name) + mark, result.accuracy, COLOURS[0], strength))
    if case is not None and len(case.attacks) > 1:
        rows.append(("worst case", case.accuracy, WRONG, 1.0))
    figure, axes = new_figure(0.8 + 0.3 * len(rows))
    for place, (_, estimate, colour, strength) in enumerate(rows):
        reach = [[100 * (estimate.value - estimate.low)], [100 * (estimate.high - estimate.value)]]
        axes.barh(
            place, 100 * estimate.value, height=0.68, color=colour, alpha=strength, xerr=reach,
            error_kw={"ecolor": "#333333", "elinewidth": 0.9},
        )  # fmt: skip
        axes.annotate(
            f"{100 * estimate.value:.1f}", (100 * estimate.high, place), (4, 0), textcoords="offset points",
            va="center", fontsize=8.5,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlabel("accuracy in %")
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="y", visible=False)
    counts = sorted({estimate.n for _, estimate, *_ in rows})
    caption = (
        f"Radius {radius_text(report.settings.get('eps', 0.0))}, n = {' or '.join(f'{n:,}' for n in counts)} images; "
        "lines are 95% intervals."
        + (" Worst case: right under every attack within the radius." if rows[-1][0] == "worst case" else "")
        + (
            " † moves pixels by more than the radius; not counted in the worst case."
            if len(inside) < len(report.attacks)
            else ""
        )
    )
    return FigureImage(png_of(figure), "Accuracy under each attack", caption)


_FEW = 5  # images below which a bin's accuracy is noise
_TOGETHER = 4  # models up to which lines in one diagram can be followed
_COLUMNS = 3


def reliability_diagram(report: ReportData) -> FigureImage:
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


def reliability_lines(reports: Sequence[ReportData], names: Sequence[str]) -> FigureImage:
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


def curve_figure(
    curves: Mapping[str, Mapping[float, Estimate]],
    eps: float,
    attacks: Mapping[str, Estimate] | None = None,
    styles: Sequence[Look] | None = None,
) -> FigureImage:
    """Accuracy against the radius, with the radius of the evaluation marked.

    Args:
        curves: each model's name to its accuracy by radius in [0, 1].
        eps: the radius of the evaluation.
        attacks: accuracy under single attacks of that radius, drawn as points: for one model.
        styles: how each model looks; default one after the other.

    Returns:
        The figure; bands are 95% intervals.

    Raises:
        ValueError: no curve.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> curve_figure({"one": {0.0: Estimate(0.9, 0.8, 1.0, 10), 0.1: Estimate(0.1, 0.0, 0.2, 10)}}, 0.1).title
        'Accuracy by radius of the attack'
    """
    if not curves:
        raise ValueError("curves must be one or more, got none")
    figure, axes = new_figure(3.6 + 0.1 * len(curves))
    for (name, curve), look in zip(curves.items(), styles or looks(len(curves)), strict=True):
        draw_curve(axes, list(curve), list(curve.values()), name, look, len(curves) <= BANDS)
    if eps > 0:
        axes.axvline(eps, color="#333333", linestyle=":", linewidth=1.2)
        axes.annotate(
            f"eps {radius_text(eps)}", (eps, 1), (4, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8.5, color="#333333",
        )  # fmt: skip
    if attacks:
        axes.plot(
            [eps] * len(attacks), [100 * figure.value for figure in attacks.values()], "_", color="#B3400A",
            markersize=13, markeredgewidth=1.8, clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set_xlabel("radius, pixels in [0, 1]")
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    add_legend(figure, list(curves))
    counts = sorted({estimate.n for curve in curves.values() for estimate in curve.values()})
    points = f" Red marks: each attack at eps, {', '.join(attacks)}." if attacks else ""
    caption = (
        f"Right under the strongest attack of each radius, n = {' or '.join(f'{n:,}' for n in counts)} images"
        + ("; bands are 95% intervals." if len(curves) <= BANDS else ".")
        + f"{points} A curve that does not fall to zero is a sign of masking."
        + (" † masked: the attack sees little." if any(name.endswith("†") for name in curves) else "")
    )
    return FigureImage(png_of(figure), "Accuracy by radius of the attack", caption)


def report_figures(report: ReportData) -> dict[str, FigureImage]:
    """All figures of one report by file name part; those without data are left out.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    reports, names = [report], [report.name]
    outcomes, examples = report.outcomes, report.examples
    figures: dict[str, FigureImage] = {}
    if outcomes.corrupted:
        figures["corruptions"] = corruption_bars(reports, names)
        figures["severity"] = severity_lines(reports, names)
    if report.accuracy_curve:
        figures["curve"] = curve_figure({report.name: report.accuracy_curve}, report.settings["eps"], _at_eps(report))
    if report.attacks:
        figures["attacks"] = attack_bars(report)
    figures["reliability"] = reliability_diagram(report)
    if outcomes.flips is not None:
        figures["flips"] = flip_bars({report.name: outcomes.flips})
        if outcomes.flips.examples:
            figures["sequences"] = flip_sequences(outcomes.flips, report.classes)
    for attack in report.attacks:
        if any(example.attack == attack for example in examples.adversarial):
            figures[figure_key(attack)] = adversarial_examples(report, attack)
    if examples.corrupted:
        figures["corrupted"] = corrupted_examples(reports, names)
    if examples.surfaces:
        figures["surface"] = surface_figure(examples.surfaces)
    if examples.maps:
        figures["maps"] = activation_examples(report)
    if examples.features is not None:
        figures["features"] = feature_figure(examples.features, report.classes)
    if report.anomaly is not None:
        figures["anomaly"] = anomaly_figure(report.anomaly)
    if outcomes.occlusion is not None:
        figures["occlusion"] = occlusion_figure({"": outcomes.occlusion})
    return figures


def comparison_figures(comparison: ComparisonData) -> dict[str, FigureImage]:
    """All figures of a comparison by file name part; those without data are left out.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    reports, names = comparison.reports, comparison.names
    figures = {"headline": headline_rows(comparison)}
    audits = {name: each.audit for name, each in zip(names, reports, strict=True) if each.audit is not None}
    if audits and len({tuple(check.name for check in audit.checks) for audit in audits.values()}) == 1:
        figures["audit"] = audit_grid(audits)
    if comparison.corruptions:
        figures["corruptions"] = corruption_bars(reports, names, comparison.corruptions)
        figures["severity"] = severity_lines(reports, names)
    if comparison.shares("curve"):
        curves = {name: each.accuracy_curve for name, each in zip(comparison.marked_names, reports, strict=True)}
        figures["curve"] = curve_figure(curves, reports[0].settings["eps"])
    figures["reliability"] = reliability_lines(reports, names)
    if comparison.shares("flip_rate"):
        figures["flips"] = flip_bars(
            {n: r.outcomes.flips for n, r in zip(names, reports, strict=True) if r.outcomes.flips}
        )
    if comparison.shares("occlusion"):
        figures["occlusion"] = occlusion_figure(
            {
                name: report.outcomes.occlusion
                for name, report in zip(names, reports, strict=True)
                if report.outcomes.occlusion
            }
        )
    if _same_examples(reports):
        figures["corrupted"] = corrupted_examples(reports, names)
    if comparison.radii:
        surfaces = {name: each.examples.surfaces for name, each in zip(names, reports, strict=True)}
        figures["surface"] = surface_comparison(surfaces)
    return figures


def _at_eps(report: ReportData) -> dict[str, Estimate]:
    """Accuracy under each attack that kept to the radius."""
    names = () if report.worst_case is None else report.worst_case.attacks
    return {attack_label(name): report.attacks[name].accuracy for name in names}


def _same_examples(reports: Sequence[ReportData]) -> bool:
    """Whether all reports show the same corrupted pictures (they do for the same seed and images)."""
    first, *others = (report.examples.corrupted for report in reports)
    return bool(first) and all(
        len(first) == len(other)
        and all(torch.equal(one.image, two.image) for one, two in zip(first, other, strict=True))
        for other in others
    )


def figure_key(attack: str) -> str:
    """The file name part of an attack's pictures.

    Example:
        >>> figure_key("my attack/2")
        'adversarial-my-attack-2'
    """
    return "adversarial-" + "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in attack)
