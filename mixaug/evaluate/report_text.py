"""A report as plain text for the terminal, and what a reader must know of its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixaug._terminal import printable
from mixaug.evaluate.corruptions import OURS
from mixaug.evaluate.headline import HIGHER, summary
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import attack_label, corruption_label, interval_text
from mixaug.evaluate.outcomes import SEVERITIES
from mixaug.evaluate.page_audit import SIGNS, verdict_text
from mixaug.evaluate.tables import cut, text_table, wrapped

if TYPE_CHECKING:
    from mixaug.evaluate.report import Report


def report_text(report: Report) -> str:
    """The verdict, the figures, the attacks, the corruptions, the flip rates and the notes; lines of 110 columns."""
    blocks = [
        printable(report.name),
        _verdict(report),
        *(wrapped(f"Note: {text}") for text in report.notices),
        *(wrapped(f"Left out, {part.replace('_', ' ')}: {why}") for part, why in report.left_out.items()),
        _headlines(report),
        _attacks(report),
        _corruptions(report),
        _flips(report),
        _rises(report),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n" + "\n".join(map(wrapped, report_notes(report)))


def report_notes(report: Report) -> list[str]:
    """What a reader must know about the figures, a sentence each."""
    shares = report.lipschitz is not None or report.anomaly is not None
    notes = [f"All figures{' in %' if shares else ''} are errors: lower is better."]
    if report.anomaly is not None:
        notes[0] = "All figures in % but AUROC and AUPR are errors: lower is better. Of those two higher is better."
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


def _verdict(report: Report) -> str:
    if report.audit is None:
        return ""
    lines, checks = [wrapped(verdict_text(report.audit))], report.audit.checks
    lines += [
        wrapped(f"{SIGNS[check.status]} {check.status}: {check.label}. {check.reason}")
        for check in checks
        if check.status in ("fail", "warn")
    ]
    for status in ("pass", "not run"):
        labels = [check.label for check in checks if check.status == status]
        if labels:
            lines.append(wrapped(f"{SIGNS[status]} {status}: {'; '.join(labels)}"))
    return "\n".join(lines)


def _headlines(report: Report) -> str:
    rows = [
        [
            cut(label) + (" (higher is better)" if key in HIGHER else ""),
            figure.text,
            interval_text(figure),
            str(figure.n),
        ]
        for key, (label, figure) in summary(report).items()
    ]
    text = text_table(["figure", "value", "95% interval", "n"], rows)
    if report.mce_alexnet is not None:
        text += f"\nmCE relative to AlexNet: {100 * report.mce_alexnet:.1f}%"
    return text


def _attacks(report: Report) -> str:
    """Accuracies and errors under each attack, and in the worst case."""
    if not report.attacks:
        return ""

    def line(label: str, before: Estimate, after: Estimate, error: Estimate, gap: Estimate, *last: str) -> list[str]:
        return [cut(label), before.text, after.text, interval_text(after), error.text, gap.change, *last]

    rows = [
        line(
            attack_label(name), each.clean_accuracy, each.accuracy, each.error, each.gap, each.confidence.text,
            f"{255 * report.outcomes.attack_change[name]:.1f}/255", str(each.error.n),
        )
        for name, each in report.attacks.items()
    ]  # fmt: skip
    case = report.worst_case
    if case is not None and len(case.attacks) > 1:
        label = f"worst case of {len(case.attacks)}"
        rows.append(line(label, case.clean_accuracy, case.accuracy, case.error, case.gap, "", "", str(case.error.n)))
    header = ["attack", "before", "accuracy", "95% interval", "error", "gap", "confidence", "change", "n"]
    return text_table(header, rows)


def _corruptions(report: Report) -> str:
    if not report.corruption_errors:
        return ""
    cells = [
        [corruption_label(name), *(f"{100 * cell.value:.1f}" for cell in [*errors, report.corruption_means[name]])]
        for name, errors in report.corruption_errors.items()
    ]
    cells.append(["mean", *(f"{100 * cell.value:.1f}" for cell in report.severity_means), ""])
    if report.mce is not None:
        cells[-1][-1] = f"{100 * report.mce.value:.1f}"
    return text_table(["error in %", *(f"severity {severity}" for severity in SEVERITIES), "mean"], cells)


def _flips(report: Report) -> str:
    flips = report.outcomes.flips
    if flips is None:
        return ""
    rows = [[corruption_label(name), rate.text, interval_text(rate)] for name, rate in flips.rates.items()]
    return text_table(["perturbation", "flip rate", "95% interval"], rows)


def _rises(report: Report) -> str:
    if not report.loss_rises:
        return ""
    rows = [
        [f"{radius:g}", rise.attack.text, interval_text(rise.attack), rise.random.text, interval_text(rise.random),
         str(rise.attack.n)]
        for radius, rise in report.loss_rises.items()
    ]  # fmt: skip
    header = ["rise of the loss, radius", "attack", "95% interval", "random", "95% interval", "n"]
    return text_table(header, rows)
