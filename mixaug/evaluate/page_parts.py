"""The tables of the parts that not every report has: radii, flips, anomalies, occlusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixaug.evaluate._html import cell, note, percent, row, table
from mixaug.evaluate.labels import corruption_label, radius_text

if TYPE_CHECKING:
    from mixaug.evaluate.report import Report


def curve_table(report: Report) -> str:
    """Accuracy by radius."""
    curve = report.accuracy_curve
    if not curve:
        return ""
    header = ["radius", *(radius_text(eps) if eps else "0" for eps in curve)]
    n = next(iter(curve.values())).n
    return table(header, [row("accuracy, %", [percent(each) for each in curve.values()])]) + note(
        f"Accuracy under the strongest attack of each radius, n = {n:,} images; small figures are 95% intervals."
    )


def flip_table(report: Report) -> str:
    """The flip rate of each perturbation and their mean."""
    flips = report.outcomes.flips
    if flips is None:
        return ""
    rows = [row(corruption_label(name), [percent(rate), cell(f"{rate.n:,}")]) for name, rate in flips.rates.items()]
    rows.append(row("mean", [percent(flips.mean), cell(f"{flips.mean.n:,}")], "total"))
    return table(["perturbation", "flip rate, %", "n"], rows) + note(
        f"Share of {flips.pairs} pairs of frames of a sequence between which the prediction changes: with the frame "
        "before, for noise with the first. Small figures are 95% intervals."
    )


def anomaly_table(report: Report) -> str:
    """How well the confidence tells the images of another data set apart."""
    scores = report.anomaly
    if scores is None:
        return ""
    rows = [
        row("AUROC", [percent(scores.auroc)]),
        row("AUPR", [percent(scores.aupr)]),
        row("false alarms at 95% found", [percent(scores.fpr95)]),
    ]
    known, other = len(scores.confidence_in), len(scores.confidence_out)
    return table(["by the confidence", "%"], rows) + note(
        f"{other:,} images of another data set are to be found among {known:,} clean ones. A score that knows nothing "
        f"has an AUROC of 50% and an AUPR of {100 * scores.base_rate:.1f}%; of these two higher is better. Small "
        "figures are 95% intervals."
    )


def occlusion_table(report: Report) -> str:
    """Accuracy by hidden share."""
    curve = report.outcomes.occlusion
    if curve is None:
        return ""
    header = ["hidden", *(f"{100 * ratio:.0f}%" for ratio in curve.ratios), "mean"]
    cells = [percent(each) for each in (*curve.accuracy, curve.area)]
    return table(header, [row("accuracy, %", cells)]) + note(
        f"Random patches of {curve.patch_size} px hidden, n = {curve.area.n:,} images; small figures are 95% intervals."
    )
