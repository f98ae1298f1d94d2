"""The tables of one model's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixaug.evaluate._html import cell, details, note, percent, row, table
from mixaug.evaluate.labels import attack_label, corruption_label, interval_text
from mixaug.evaluate.outcomes import SEVERITIES

if TYPE_CHECKING:
    from mixaug.evaluate.report import Report


def corruption_table(report: Report) -> str:
    """Error of each corruption at each severity."""
    rows = [
        row(
            corruption_label(name),
            [*(percent(each, heat=True) for each in errors), percent(report.corruption_means[name], heat=True)],
        )
        for name, errors in report.corruption_errors.items()
    ]
    last = [percent(each, heat=True) for each in report.severity_means]
    rows.append(row("mean", [*last, *([percent(report.mce, heat=True)] if report.mce is not None else [])], "total"))
    header = ["corruption", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
    count = f"n = {len(report.outcomes.corruption_index):,} images; small figures are 95% intervals."
    return table(header, rows) + note(count)


def attack_table(report: Report) -> str:
    """Each attack's figures, and the worst case over those within the radius."""
    rows = [
        row(
            attack_label(name),
            [
                percent(result.clean_accuracy),
                percent(result.accuracy),
                percent(result.error),
                percent(result.gap),
                percent(result.confidence),
                cell(f"{255 * report.outcomes.attack_change[name]:.1f} / 255"),
                cell(f"{result.error.n:,}"),
            ],
        )
        for name, result in report.attacks.items()
    ]
    case = report.worst_case
    if case is not None:
        figures = [percent(figure) for figure in (case.clean_accuracy, case.accuracy, case.error, case.gap)]
        label = f"worst case of {len(case.attacks)}" if len(case.attacks) > 1 else "worst case"
        rows.append(row(label, [*figures, cell("–"), cell("–"), cell(f"{case.error.n:,}")], "total"))
    header = [
        "attack", "accuracy before, %", "accuracy under it, %", "error, %", "gap, points", "confidence, %",
        "largest change", "n",
    ]  # fmt: skip
    worst, gap = report.robustness_gap or ("", None)
    text = (
        "Gap: accuracy before less accuracy under the attack on the same images"
        + ("" if gap is None else f"; the largest is that of {attack_label(worst)}")
        + ". Confidence: mean probability of the predicted class on the attacked images. "
        "Small figures are 95% intervals."
    )
    return table(header, rows) + note(text) + (note(worst_case_text(report)) if case is not None else "")


def worst_case_text(report: Report) -> str:
    """What the worst case is, and which attacks it does not count."""
    case = report.worst_case
    if case is None:
        return ""
    outside = [attack_label(name) for name in report.attacks if name not in case.attacks]
    left = f" Not counted, since it moves pixels by more than the radius: {', '.join(outside)}." if outside else ""
    return f"Worst case: an image is right if no attack within the radius turned it.{left}"


def rise_table(report: Report) -> str:
    """How far the loss rises at each radius."""
    rows = [
        row(
            f"{radius:g}",
            [
                cell(rise.attack.text, interval_text(rise.attack)),
                cell(rise.random.text, interval_text(rise.random)),
                cell(f"{rise.attack.n:,}"),
            ],
        )
        for radius, rise in report.loss_rises.items()
    ]
    return table(["radius, pixels in [0, 1]", "attack", "random", "n"], rows) + note(
        "Rise of the cross entropy, mean over the images: at the end of PGD-20 of the same radius, and at both ends of "
        "a random direction. Small figures are 95% intervals."
    )


def calibration_table(report: Report) -> str:
    """The calibration errors by each definition."""
    labels = {
        "rms": "RMS, equal-count bins of 100",
        "rms_ipmix_papers": "the same without the last bin, as the IPMix papers' code",
        "rms_equal_width": "RMS, 15 equal-width bins",
        "ece": "ECE, 15 equal-width bins",
    }
    rows = [row(labels[name], [percent(figure), cell(f"{figure.n:,}")]) for name, figure in report.calibration.items()]
    return table(["calibration error", "%", "n"], rows)


def settings_table(reports: Sequence[Report], names: Sequence[str]) -> str:
    """Settings, versions, hashes and times: all that is needed to repeat the evaluation."""
    columns = [
        {key: _plain(value) for key, value in report.settings.items()}
        | report.environment
        | {f"seconds: {part}": f"{seconds:.1f}" for part, seconds in report.seconds.items()}
        for report in reports
    ]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = []
    for key in keys:
        values = [column.get(key, "") for column in columns]
        # What all models share is written once: twelve copies of a long list are not read by anybody.
        if len(values) > 1 and len(set(values)) == 1:
            values, span = values[:1], len(values)
        else:
            span = 1
        rows.append(row(key.replace("_", " "), [cell(value, span=span) for value in values]))
    header = ["setting", *names] if len(reports) > 1 else []
    return details("How to repeat this: settings, versions, times", table(header, rows, "settings"))


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
