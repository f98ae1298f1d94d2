"""A report as plain text for the terminal, and what a reader must know of its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixaug.evaluate.corruptions import OURS
from mixaug.evaluate.labels import corruption_label, interval_text
from mixaug.evaluate.outcomes import SEVERITIES
from mixaug.evaluate.tables import text_table

if TYPE_CHECKING:
    from mixaug.evaluate.report import Report


def report_text(report: Report) -> str:
    """The figures, the errors of the corruptions, and the notes."""
    rows = [
        [label, figure.text, interval_text(figure), str(figure.n)] for label, figure in report.figures.values()
    ]  # fmt: skip
    parts = [f"{report.name}\n", text_table(["figure", "value", "95% interval", "n"], rows)]
    if report.mce_alexnet is not None:
        parts.append(f"mCE relative to AlexNet: {100 * report.mce_alexnet:.1f}%")
    if report.corruption_errors:
        cells = [
            [
                corruption_label(name),
                *(f"{100 * cell.value:.1f}" for cell in [*errors, report.corruption_means[name]]),
            ]
            for name, errors in report.corruption_errors.items()
        ]
        cells.append(["mean", *(f"{100 * cell.value:.1f}" for cell in report.severity_means), ""])
        if report.mce is not None:
            cells[-1][-1] = f"{100 * report.mce.value:.1f}"
        header = ["error in %", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
        parts += ["", text_table(header, cells)]
    if report.loss_rises:
        rows = [
            [f"{radius:g}", rise.attack.text, interval_text(rise.attack), rise.random.text, interval_text(rise.random),
             str(rise.attack.n)]
            for radius, rise in report.loss_rises.items()
        ]  # fmt: skip
        header = ["rise of the loss, radius", "attack", "95% interval", "random", "95% interval", "n"]
        parts += ["", text_table(header, rows)]
    return "\n".join([*parts, *report_notes(report)])


def report_notes(report: Report) -> list[str]:
    """What a reader must know about the figures, a sentence each."""
    notes = [f"All figures{' in %' if report.lipschitz is not None else ''} are errors: lower is better."]
    if report.lipschitz is not None:
        notes.append(
            "The Lipschitz constant is a lower bound found by gradient ascent, and grows with the scale of the logits."
        )
    if len({result.error.n for result in report.attacks.values()}) > 1:
        notes.append(
            "The attacks were measured on different numbers of images; the smaller sets are part of the larger."
        )
    if any(name in OURS for name in report.outcomes.corrupted):
        names = ", ".join(name for name in report.outcomes.corrupted if name in OURS)
        notes.append(f"* {names}: our own texture, not the original benchmark's; compare it with our figures only.")
    if report.missing:
        notes.append(f"Not measured: {', '.join(report.missing)}; the mean is over {len(report.outcomes.corrupted)}.")
    if len(report.outcomes.correct) < 1000:
        notes.append(
            f"RMS and ECE on {len(report.outcomes.correct)} images are biased upwards by sampling noise; "
            "compare them on the same images only."
        )
    return notes
