"""The figures of a report as JSON values, to be read by people and other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixaug.evaluate.corruptions import OURS
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.results import rises_to_json

if TYPE_CHECKING:
    from mixaug.evaluate.report import Report
    from mixaug.evaluate.robustness import WorstCase


def figures_to_json(report: Report) -> dict[str, Any]:
    """All figures with their intervals; None for what was not measured."""
    anomaly, gap, outcomes = report.anomaly, report.robustness_gap, report.outcomes
    return {
        "clean_error": vars(report.clean_error),
        "mce": None if report.mce is None else vars(report.mce) | {"label": report.mce_label},
        "mce_relative_to_alexnet": report.mce_alexnet,
        "corruptions_missing": report.missing,
        "corruptions_ours": [name for name in outcomes.corrupted if name in OURS],
        "corruption_errors": {name: [vars(cell) for cell in row] for name, row in report.corruption_errors.items()},
        "corruption_means": {name: vars(mean) for name, mean in report.corruption_means.items()},
        "severity_means": [vars(mean) for mean in report.severity_means],
        "calibration": {name: vars(figure) for name, figure in report.calibration.items()},
        "attacks": {
            name: {key: vars(figure) for key, figure in vars(result).items()} for name, result in report.attacks.items()
        },
        "robustness_gap": None if gap is None else vars(gap[1]) | {"attack": gap[0]},
        "worst_case": None if report.worst_case is None else _worst_case(report.worst_case),
        "accuracy_curve": [vars(each) | {"eps": eps} for eps, each in report.accuracy_curve.items()],
        "flip_rate": _figure(report.flip_rate),
        "occlusion": _figure(report.occlusion),
        "anomaly": None
        if anomaly is None
        else {name: vars(getattr(anomaly, name)) for name in ("auroc", "aupr", "fpr95")}
        | {"base_rate": anomaly.base_rate},
        "lipschitz": _figure(report.lipschitz),
        "loss_rise": rises_to_json(report.loss_rises),
    }


def _figure(figure: Estimate | None) -> dict[str, Any] | None:
    return None if figure is None else vars(figure)


def _worst_case(worst: WorstCase) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else vars(value) for name, value in vars(worst).items()}
