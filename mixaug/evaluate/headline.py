"""The headline figures of a report by key, and which way each is better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixaug.evaluate.intervals import Estimate

if TYPE_CHECKING:
    from mixaug.evaluate.report import Report

#: The figures of which a larger one is better; all others are errors, flip rates or constants.
HIGHER = ("auroc", "aupr")


def headline(report: Report) -> dict[str, tuple[str, Estimate]]:
    """All headline figures, key to label and estimate: ``report.figures``, and those of which more is better."""
    rows = dict(report.figures)
    if report.anomaly is not None:
        rows["auroc"] = ("anomaly AUROC", report.anomaly.auroc)
        rows["aupr"] = ("anomaly AUPR", report.anomaly.aupr)
    return rows


def summary(report: Report) -> dict[str, tuple[str, Estimate]]:
    """The headline figures without the single attacks, where their worst case stands for them."""
    rows = headline(report)
    return {key: value for key, value in rows.items() if "worst_case" not in rows or key not in report.attacks}


def verdict(difference: Estimate, *, higher: bool = False) -> str:
    """What a difference says: ``better``, ``worse``, or ``no clear difference`` where zero lies inside.

    Example:
        >>> verdict(Estimate(-0.1, -0.2, -0.05, 9)), verdict(Estimate(-0.1, -0.2, -0.05, 9), higher=True)
        ('better', 'worse')
    """
    if not difference.excludes_zero:
        return "no clear difference"
    return "better" if (difference.value > 0) == higher else "worse"
