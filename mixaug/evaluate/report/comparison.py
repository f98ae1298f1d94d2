"""Several reports on the same images: their differences, image by image, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mixaug.evaluate.audit.result import outcome
from mixaug.evaluate.corruptions import OURS
from mixaug.evaluate.intervals import Estimate, Quantity, bootstrap_means, share
from mixaug.evaluate.labels import attack_label
from mixaug.evaluate.measure import PAIRED, Measure, ModelInfo
from mixaug.evaluate.measures import all_measures
from mixaug.evaluate.report.data import ReportData, headline, listed, more_is_better, verdict
from mixaug.evaluate.results import all_right, within


def measure_of(key: str, report: ReportData) -> Measure[Any] | None:
    """The measure that a headline figure is of; None for the report's own."""
    return next((measure for measure, result in report.measures if key in measure.rows(result)), None)


def difference(report: ReportData, reference: ReportData, key: str, worst: Sequence[str] = ()) -> Estimate:
    """The figure ``key`` of ``report`` less that of ``reference``.

    Args:
        report: the one model.
        reference: the other, on the same images.
        key: of :func:`~mixaug.evaluate.report.data.headline`.
        worst: names of the attacks that the worst case counts.

    Returns:
        The difference with a 95% bootstrap interval; each draw takes the same images of both.

    Raises:
        KeyError: a report has no such figure.
    """
    measure = measure_of(key, reference)
    if measure is not None:
        return measure.difference(report.results[measure.name], reference.results[measure.name], key)
    change = by_image(report, key, worst) - by_image(reference, key, worst)
    return bootstrap_means(change[:, None], method=PAIRED)[0]


def by_image(report: ReportData, key: str, worst: Sequence[str] = ()) -> Tensor:
    """(n,) float64, of which the report's own figure ``key`` is the mean: an error for each image.

    Raises:
        KeyError: the report has no such figure.
    """
    outcomes = report.outcomes
    if key == "clean_error":
        return (~outcomes.correct).double()
    if key == "mce":
        return outcomes.failures()
    if key == "worst_case":
        return (~all_right(outcomes, list(worst))[1]).double()
    return (~outcomes.attacked[key]).double()


FORMAT = "mixaug-comparison-2"
# Attacks that need no gradient, or hold one that does not: gradients that are masked do not stop them.
_WITHOUT_GRADIENT = ("Square", "SPSA", "AutoAttack")


@dataclass(frozen=True)
class ComparisonData:
    """The numbers of a :class:`~mixaug.evaluate.Comparison`: reports side by side, differences to the first of them.

    Args:
        reports: two or more reports on the same images.
        names: a name for each, all different.
    """

    reports: tuple[ReportData, ...]
    names: tuple[str, ...]

    @cached_property
    def higher(self) -> dict[str, str]:
        """The columns of which more is better, key to a short word."""
        return more_is_better()

    @cached_property
    def _headlines(self) -> list[dict[str, tuple[str, Estimate]]]:
        return [self._shared(report) for report in self.reports]

    @cached_property
    def columns(self) -> dict[str, str]:
        """The headline figures that all reports have of the same images: key to label."""
        first, *others = self._headlines
        return {
            key: label
            for key, (label, _) in first.items()
            if all(key in other for other in others) and self._comparable(key)
        }

    @cached_property
    def values(self) -> dict[str, list[Estimate]]:
        """For each column the figure of each report."""
        return {key: [figures[key][1] for figures in self._headlines] for key in self.columns}

    @cached_property
    def not_shared(self) -> list[str]:
        """Labels of the figures that some reports lack, or that were measured on other images."""
        labels = {key: label for figures in self._headlines for key, (label, _) in figures.items()}
        return [label for key, label in labels.items() if key not in self.columns]

    @cached_property
    def worst_attacks(self) -> list[str]:
        """The attacks that every report has and that kept to the radius on every model: those of the worst case."""
        first, *others = (within(report.outcomes, report.settings.get("eps", 0.0)) for report in self.reports)
        return [name for name in first if all(name in other for other in others)]

    @cached_property
    def attack_columns(self) -> list[str]:
        """The columns of single attacks and of their worst case."""
        return [key for key in self.columns if key == "worst_case" or key in self.reports[0].attacks]

    @cached_property
    def masked(self) -> list[bool | None]:
        """Whether each model's robustness is masked; None without a verdict."""
        return [outcome(report.audit) for report in self.reports]

    def distrusted(self, index: int, key: str) -> bool:
        """Whether a figure says little, because the model hides its gradients from what measured it.

        Convention: of a masked model these are all single attacks, and measures by gradients. The
        worst case is trusted where it holds an attack that needs no gradient (Square, SPSA, AutoAttack).
        """
        if not self.masked[index]:
            return False
        if key == "worst_case":
            kinds = self.reports[index].settings.get("attacks", {})
            return not any(kinds.get(name, {}).get("kind") in _WITHOUT_GRADIENT for name in self.worst_attacks)
        measure = measure_of(key, self.reports[index])
        return key in self.attack_columns or (measure is not None and bool(measure.by_gradients))

    def verdict(self, index: int, key: str) -> str:
        """What the difference of a report to the reference says: better, worse, no clear difference, or masked."""
        if self.distrusted(index, key) or self.distrusted(0, key):
            return "masked"
        return verdict(self.differences[index][key], higher=key in self.higher)

    @property
    def worst_labels(self) -> list[str]:
        """The attacks of the worst case, as they are written."""
        return [attack_label(name) for name in self.worst_attacks]

    @property
    def marked_names(self) -> list[str]:
        """The names, with a sign behind those of masked models."""
        return [name + (" †" if masked else "") for name, masked in zip(self.names, self.masked, strict=True)]

    @cached_property
    def shared(self) -> list[tuple[Measure[Any], list[Any]]]:
        """The measures that all reports have of the same images, with what each found."""
        found = []
        for measure, first in self.reports[0].measures:
            results = [report.results.get(measure.name) for report in self.reports]
            if all(result is not None for result in results) and all(
                measure.same(first, other, (self.models[0], model))
                for other, model in zip(results[1:], self.models[1:], strict=True)
            ):
                found.append((measure, results))
        return found

    @cached_property
    def models(self) -> list[ModelInfo]:
        """What measures say of each model."""
        return [replace(report.info, name=name) for name, report in zip(self.names, self.reports, strict=True)]

    def _comparable(self, key: str) -> bool:
        """Whether a headline figure is of the same images; :func:`~mixaug.evaluate.compare` insists on the rest."""
        measure = measure_of(key, self.reports[0])
        return measure is None or any(measure is shared for shared, _ in self.shared)

    @property
    def corruptions(self) -> list[str]:
        """The corruptions that all reports have."""
        first, *others = (report.outcomes.corrupted for report in self.reports)
        return [name for name in first if all(name in other for other in others)]

    @property
    def unit(self) -> str:
        """What differences are written in."""
        own = [measure.quantity for measure in self._of_columns() if measure.quantity]
        return "in points" + "".join(f"; {quantity} in its own unit" for quantity in own)

    def _of_columns(self) -> list[Measure[Any]]:
        """The measures that have a column."""
        found = [measure_of(key, self.reports[0]) for key in self.columns]
        return [measure for measure in dict.fromkeys(found) if measure is not None]

    @cached_property
    def best(self) -> dict[str, list[int]]:
        """For each column and each corruption the indices of the best reports (several at a tie).

        Convention: the lowest error, the highest AUROC and AUPR. A figure that is :meth:`distrusted` is never best.
        """
        rows = {key: [each.value for each in column] for key, column in self.values.items()}
        rows |= {name: [report.corruption_means[name].value for report in self.reports] for name in self.corruptions}
        best = {}
        for key, row in rows.items():
            sign = -1 if key in self.higher else 1
            found = {index: sign * value for index, value in enumerate(row) if not self.distrusted(index, key)}
            # Means of the same number of images: equal counts give equal values up to the order of a sum.
            best[key] = [index for index, value in found.items() if value <= min(found.values()) + 1e-12]
        return best

    @cached_property
    def differences(self) -> list[dict[str, Estimate]]:
        """For each report its figures minus the reference's, with paired bootstrap intervals over the images.

        Negative is better, but for AUROC and AUPR. The reference's own entry is empty.
        """
        reference = self.reports[0]
        return [
            {}
            if report is reference
            else {key: difference(report, reference, key, self.worst_attacks) for key in self.columns}
            for report in self.reports
        ]

    @property
    def notes(self) -> list[str]:
        """What a reader must know about the figures, a sentence each."""
        return comparison_notes(self)

    def to_json(self) -> dict[str, Any]:
        """Figures, differences and settings of each report; the image-by-image outcomes stay in the reports' own."""
        return {
            "format": FORMAT,
            "reference": self.names[0],
            "columns": self.columns,
            "higher_is_better": [key for key in self.columns if key in self.higher],
            "not_shared": self.not_shared,
            "worst_case_attacks": self.worst_attacks,
            "models": [
                {
                    "name": self.names[index],
                    "masked": self.masked[index],
                    "verdict": None if report.audit is None else report.audit.verdict,
                    "figures": {key: vars(self.values[key][index]) for key in self.columns},
                    "difference_to_reference": {key: vars(value) for key, value in self.differences[index].items()},
                    "corruption_means": {name: vars(report.corruption_means[name]) for name in self.corruptions},
                    **self._summaries(report),
                    "left_out": report.left_out,
                    "notices": report.notices,
                    "settings": report.settings,
                    "environment": report.environment,
                    "seconds": report.seconds,
                }
                for index, report in enumerate(self.reports)
            ],
            "best": {key: [self.names[index] for index in row] for key, row in self.best.items()},
        }

    def _summaries(self, report: ReportData) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for measure in all_measures():
            found |= measure.compared_summary(report.results.get(measure.name))
        return found

    def _shared(self, report: ReportData) -> dict[str, tuple[str, Estimate]]:
        """The headline figures, the worst case over the attacks that count for all reports."""
        figures, names = headline(report), self.worst_attacks
        right = all_right(report.outcomes, names)[1] if len(names) > 1 else torch.empty(0, dtype=torch.bool)
        if "worst_case" in figures and len(right):
            figures["worst_case"] = (f"worst case of {len(names)} attacks", share(~right))
        else:
            figures.pop("worst_case", None)
        return figures


def comparison_notes(comparison: ComparisonData) -> list[str]:
    """What a reader must know about the figures, a sentence each."""
    columns = comparison.columns
    quantities = any(isinstance(values[0], Quantity) for values in comparison.values.values())
    notes = [
        f"All figures{' in %' if quantities else ''} are errors: lower is better; < marks the best. "
        "Intervals are paired bootstraps over images."
    ]
    higher = [word for key, word in comparison.higher.items() if key in columns]
    if higher:
        is_no = "are no errors" if len(higher) > 1 else "is no error"
        notes.append(f"{listed(higher)} {is_no}: higher is better.")
    if any(comparison.masked):
        by_gradients = "".join(f", or {measure.by_gradients}," for measure in all_measures() if measure.by_gradients)
        notes.append(
            f"† Masked: the model hides its gradients, so that one attack{by_gradients} says little of it. Such a "
            "figure is never the best; the worst case is, if it holds an attack without gradients."
        )
    if "worst_case" in columns:
        notes.append(f"Worst case: over the attacks that all models share, {', '.join(comparison.worst_labels)}.")
    ours = [name for name in comparison.corruptions if name in OURS]
    if ours:
        notes.append(
            f"* {', '.join(ours)}: our own texture, not the original benchmark's; compare it with our figures only."
        )
    if any(report.missing for report in comparison.reports):
        missing = sorted({name for report in comparison.reports for name in report.missing})
        notes.append(f"Not measured for every model: {', '.join(missing)}; the mean is over those measured.")
    if comparison.not_shared:
        notes.append(f"Not compared, since not measured of all models on the same images: "
                     f"{', '.join(comparison.not_shared)}.")  # fmt: skip
    return notes
