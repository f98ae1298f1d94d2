"""The figures of a report and of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixaug._drawing import COLOURS, GREY, RIGHT, WRONG, FigureImage, Look, add_legend, looks, new_figure, png_of
from mixaug.evaluate.audit.result import audit_grid
from mixaug.evaluate.corruptions.tables import SEVERITIES, corruption_label
from mixaug.evaluate.drawing import BANDS, BARS, draw_curve, grouped, show_image
from mixaug.evaluate.intervals import Estimate, Quantity
from mixaug.evaluate.labels import attack_label, radius_text, shortened
from mixaug.evaluate.measure import Drawn
from mixaug.evaluate.report.data import ReportData
from mixaug.evaluate.results import CorruptedExample

if TYPE_CHECKING:
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
        if key not in comparison.higher
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
    few = len(reports) <= BARS
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
        show_image(axes, first.image)
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
            show_image(axes, image)
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


def _below(axes: Any, lines: Sequence[tuple[str, bool]], truth: str) -> None:
    """Predictions under a picture, each green or red, and the truth where one is wrong."""
    texts = [(shortened(text), RIGHT if right else WRONG) for text, right in lines]
    if not all(right for _, right in lines):
        texts.append((shortened(f"is: {truth}"), GREY))
    for line, (text, colour) in enumerate(texts):
        # An invisible line above each keeps the layout's room for all of them.
        axes.text(
            0.5,
            -0.03,
            "\n" * line + text,
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=8,
            color=colour,
        )


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
    for position, (_, estimate, colour, strength) in enumerate(rows):
        reach = [[100 * (estimate.value - estimate.low)], [100 * (estimate.high - estimate.value)]]
        axes.barh(
            position, 100 * estimate.value, height=0.68, color=colour, alpha=strength, xerr=reach,
            error_kw={"ecolor": "#333333", "elinewidth": 0.9},
        )  # fmt: skip
        axes.annotate(
            f"{100 * estimate.value:.1f}", (100 * estimate.high, position), (4, 0), textcoords="offset points",
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


def report_figures(report: ReportData) -> dict[str, FigureImage]:
    """All figures of one report by file name part; those without data are left out.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    reports, names = [report], [report.name]
    outcomes, examples = report.outcomes, report.examples
    drawn: list[Drawn] = []
    if outcomes.corrupted:
        drawn.append(Drawn("corruptions", 10, corruption_bars(reports, names)))
        drawn.append(Drawn("severity", 10, severity_lines(reports, names)))
    if report.attacks:
        drawn.append(Drawn("attacks", 30, attack_bars(report)))
    for attack in report.attacks:
        if any(example.attack == attack for example in examples.adversarial):
            drawn.append(Drawn(figure_key(attack), 60, adversarial_examples(report, attack)))
    if examples.corrupted:
        drawn.append(Drawn("corrupted", 65, corrupted_examples(reports, names)))
    for measure, result in report.measures:
        drawn += measure.figures(result, report.info)
    return _in_order(drawn)


def _in_order(drawn: Sequence[Drawn]) -> dict[str, FigureImage]:
    return {each.key: each.figure for each in sorted(drawn, key=lambda each: each.position)}


def comparison_figures(comparison: ComparisonData) -> dict[str, FigureImage]:
    """All figures of a comparison by file name part; those without data are left out.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    reports, names = comparison.reports, comparison.names
    drawn = [Drawn("headline", 0, headline_rows(comparison))]
    audits = {name: each.audit for name, each in zip(names, reports, strict=True) if each.audit is not None}
    if audits and len({tuple(check.name for check in audit.checks) for audit in audits.values()}) == 1:
        drawn.append(Drawn("audit", 5, audit_grid(audits)))
    if comparison.corruptions:
        drawn.append(Drawn("corruptions", 10, corruption_bars(reports, names, comparison.corruptions)))
        drawn.append(Drawn("severity", 10, severity_lines(reports, names)))
    if _same_examples(reports):
        drawn.append(Drawn("corrupted", 65, corrupted_examples(reports, names)))
    for measure, results in comparison.shared:
        drawn += measure.compared_figures(results, comparison.models)
    return _in_order(drawn)


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
