"""Reports and comparisons as plain text tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixaug._terminal import printable
from mixaug.evaluate.audit.result import SIGNS, verdict_text
from mixaug.evaluate.corruptions.tables import SEVERITIES, corruption_label
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import attack_label, interval_text
from mixaug.evaluate.report.data import more_is_better, report_notes, summary
from mixaug.evaluate.tables import cut, fitted_tables, text_table, wrapped

if TYPE_CHECKING:
    from mixaug.evaluate.report.comparison import ComparisonData
    from mixaug.evaluate.report.data import ReportData


def report_text(report: ReportData) -> str:
    """The verdict, the figures, the attacks, the corruptions, the flip rates and the notes; lines of 110 columns."""
    blocks = [
        printable(report.name),
        _verdict(report),
        *(wrapped(f"Note: {text}") for text in report.notices),
        *(wrapped(f"Left out, {part.replace('_', ' ')}: {why}") for part, why in report.left_out.items()),
        _headlines(report),
        _attacks(report),
        _corruptions(report),
        *(measure.text(result) for measure, result in report.measures),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n" + "\n".join(map(wrapped, report_notes(report)))


def _verdict(report: ReportData) -> str:
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


def _headlines(report: ReportData) -> str:
    higher = more_is_better()
    rows = [
        [
            cut(label) + (" (higher is better)" if key in higher else ""),
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


def _attacks(report: ReportData) -> str:
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


def _corruptions(report: ReportData) -> str:
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


_FULL = 3  # models up to which each difference has a line of its own


def comparison_text(comparison: ComparisonData) -> str:
    """Verdicts, figures, differences, corruptions and notes; ``<`` marks the best of a column."""
    blocks = [
        _verdicts(comparison),
        _main(comparison),
        *(_differences(comparison) if len(comparison.names) <= _FULL else [_all_differences(comparison)]),
        _compared_corruptions(comparison),
        *(measure.compared_text(results, comparison.models) for measure, results in comparison.shared),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n" + "\n".join(map(wrapped, comparison.notes))


def _verdicts(comparison: ComparisonData) -> str:
    rows = [
        wrapped(f"{name}: {verdict_text(report.audit)}")
        for name, report in zip(comparison.names, comparison.reports, strict=True)
        if report.audit is not None
    ]
    return "\n".join(rows)


def _main(comparison: ComparisonData) -> str:
    rows = []
    for index, name in enumerate(comparison.names):
        cells = [name]
        for key in comparison.columns:
            best = " <" if index in comparison.best[key] else "  "
            cells.append(comparison.values[key][index].text + (" †" if comparison.distrusted(index, key) else best))
        rows.append(cells)
    rows.append(["n", *(f"{comparison.values[key][0].n}  " for key in comparison.columns)])
    return fitted_tables(["model", *(f"{cut(label)}  " for label in comparison.columns.values())], rows)


def _differences(comparison: ComparisonData) -> list[str]:
    """A table for each model."""
    tables = []
    for index, found in enumerate(comparison.differences):
        if found:
            rows = [
                [cut(label), found[key].change, interval_text(found[key]), comparison.verdict(index, key)]
                for key, label in comparison.columns.items()
            ]
            title = f"{comparison.names[index]} against {comparison.names[0]}, {comparison.unit}"
            tables.append(f"{wrapped(title)}\n" + text_table(["figure", "change", "95% interval", ""], rows))
    return tables


def _all_differences(comparison: ComparisonData) -> str:
    """One table for all models: intervals stand on the page and in the JSON."""
    rows = []
    for index, found in enumerate(comparison.differences):
        if found:
            marks = {"better": " ✓", "worse": " ✗"}
            cells = [found[key].change + marks.get(comparison.verdict(index, key), "  ") for key in comparison.columns]
            rows.append([comparison.names[index], *cells])
    title = f"Differences to {comparison.names[0]}, {comparison.unit}; ✓ clearly better, ✗ clearly worse"
    header = ["model", *(f"{cut(label)}  " for label in comparison.columns.values())]
    return f"{wrapped(title)}\n" + fitted_tables(header, rows)


def _compared_corruptions(comparison: ComparisonData) -> str:
    if not comparison.corruptions:
        return ""
    rows = [
        [corruption_label(name)]
        + [
            f"{100 * report.corruption_means[name].value:.1f}" + (" <" if index in comparison.best[name] else "  ")
            for index, report in enumerate(comparison.reports)
        ]
        for name in comparison.corruptions
    ]
    return fitted_tables(["error in %, mean of severities", *(f"{cut(name, 24)}  " for name in comparison.names)], rows)
