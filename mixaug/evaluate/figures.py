"""Which figures a report and a comparison have, in the order of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mixaug._drawing import FigureImage
from mixaug.evaluate.anomaly_figure import anomaly_figure
from mixaug.evaluate.attack_figure import attack_bars
from mixaug.evaluate.audit_figure import audit_grid
from mixaug.evaluate.bar_figures import corruption_bars, headline_rows, severity_lines
from mixaug.evaluate.consistency_figure import flip_bars, flip_sequences
from mixaug.evaluate.curve_figure import curve_figure
from mixaug.evaluate.features_figure import feature_figure
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import attack_label
from mixaug.evaluate.occlusion_figure import occlusion_figure
from mixaug.evaluate.picture_figures import activation_examples, adversarial_examples, corrupted_examples
from mixaug.evaluate.reliability_figure import reliability_diagram, reliability_lines
from mixaug.evaluate.surface_figure import surface_comparison, surface_figure

if TYPE_CHECKING:
    from mixaug.evaluate.comparison import Comparison
    from mixaug.evaluate.report import Report

__all__ = ["FigureImage", "comparison_figures", "report_figures"]


def report_figures(report: Report) -> dict[str, FigureImage]:
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


def comparison_figures(comparison: Comparison) -> dict[str, FigureImage]:
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


def _at_eps(report: Report) -> dict[str, Estimate]:
    """Accuracy under each attack that kept to the radius."""
    names = () if report.worst_case is None else report.worst_case.attacks
    return {attack_label(name): report.attacks[name].accuracy for name in names}


def _same_examples(reports: Sequence[Report]) -> bool:
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
