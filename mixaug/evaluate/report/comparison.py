"""Several reports on the same images: their differences, image by image, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mixaug.evaluate.audit.result import outcome
from mixaug.evaluate.corruptions import OURS
from mixaug.evaluate.intervals import Estimate, Quantity, bootstrap_means, centred, share
from mixaug.evaluate.labels import attack_label
from mixaug.evaluate.measures.anomaly import resampled_figures as resampled_anomaly
from mixaug.evaluate.measures.calibration import CALIBRATION
from mixaug.evaluate.report.data import HIGHER, ReportData, headline, verdict
from mixaug.evaluate.results import all_right, rises_to_json, within

_METHOD = "paired bootstrap"
_OTHER = "out_of_distribution_sha256"


def same_images(one: ReportData, two: ReportData, key: str) -> bool:
    """Whether both reports measured the figure ``key`` on the same images and in the same way.

    Convention: only of the parts that ``compare`` does not insist on; it refuses other images for the rest.
    """
    first, second = one.outcomes, two.outcomes
    if key == "lipschitz":
        return torch.equal(first.lipschitz_index, second.lipschitz_index)
    if key == "flip_rate":
        return torch.equal(first.flip_index, second.flip_index) and _kind_of_flips(one) == _kind_of_flips(two)
    if key == "occlusion":
        same = torch.equal(first.occlusion_index, second.occlusion_index)
        return same and _kind_of_occlusion(one) == _kind_of_occlusion(two)
    if key == "curve":
        return torch.equal(first.curve_index, second.curve_index) and list(first.curve) == list(second.curve)
    if key in HIGHER:
        same = len(first.ood_confidence) == len(second.ood_confidence)
        return same and one.settings.get(_OTHER) == two.settings.get(_OTHER)
    return True


def difference(report: ReportData, reference: ReportData, key: str, worst: Sequence[str] = ()) -> Estimate:
    """The figure ``key`` of ``report`` less that of ``reference``.

    Args:
        report: the one model.
        reference: the other, on the same images, see :func:`same_images`.
        key: of :func:`~mixaug.evaluate.report.data.headline`.
        worst: names of the attacks that the worst case counts.

    Returns:
        The difference with a 95% bootstrap interval; each draw takes the same images of both.
    """
    if key in CALIBRATION:
        return _calibration(report, reference, key)
    if key in HIGHER:
        return _anomaly(report, reference, key)
    change = by_image(report, key, worst) - by_image(reference, key, worst)
    (estimate,) = bootstrap_means(change[:, None], method=_METHOD)
    return Quantity(**vars(estimate)) if key == "lipschitz" else estimate


def by_image(report: ReportData, key: str, worst: Sequence[str] = ()) -> Tensor:
    """(n,) float64, of which the figure ``key`` is the mean: an error, flip rate or constant for each image.

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
    if key == "lipschitz":
        return outcomes.lipschitz.double()
    if key == "flip_rate" and outcomes.flips is not None:
        counts = torch.stack([count.double() for count in outcomes.flips.flips.values()])
        return counts.mean(0) / outcomes.flips.pairs
    if key == "occlusion" and outcomes.occlusion is not None:
        return (~outcomes.occlusion.correct).double().mean(0)
    return (~outcomes.attacked[key]).double()


def _calibration(report: ReportData, reference: ReportData, key: str) -> Estimate:
    value = report.calibration[key].value - reference.calibration[key].value
    draws = report.resampled_calibration[key] - reference.resampled_calibration[key]
    return centred(value, draws, len(report.outcomes.correct), lower=-1.0, method=_METHOD)


def _anomaly(report: ReportData, reference: ReportData, key: str) -> Estimate:
    one, two = report.anomaly, reference.anomaly
    if one is None or two is None:
        raise KeyError(key)
    # The draws depend on the numbers of images alone, which agree: each takes the same images of both models.
    draws = [resampled_anomaly(each.confidence_in, each.confidence_out)[:, HIGHER.index(key)] for each in (one, two)]
    ends = torch.quantile(draws[0] - draws[1], torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    figures = [getattr(each, key) for each in (one, two)]
    value = figures[0].value - figures[1].value
    return Estimate(value, min(ends[0], value), max(ends[1], value), figures[0].n, _METHOD)


def _kind_of_flips(report: ReportData) -> Any:
    flips = report.outcomes.flips
    return None if flips is None else (list(flips.flips), flips.pairs)


def _kind_of_occlusion(report: ReportData) -> Any:
    curve = report.outcomes.occlusion
    return None if curve is None else (curve.ratios, curve.patch_size, curve.fill)


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
    def _headlines(self) -> list[dict[str, tuple[str, Estimate]]]:
        return [self._shared(report) for report in self.reports]

    @cached_property
    def columns(self) -> dict[str, str]:
        """The headline figures that all reports have of the same images: key to label."""
        first, *others = self._headlines
        return {
            key: label
            for key, (label, _) in first.items()
            if all(key in other for other in others) and self._on_same_images(key)
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

        Convention: of a masked model these are all single attacks and the Lipschitz constant, which gradients find. The
        worst case is trusted where it holds an attack that needs no gradient (Square, SPSA, AutoAttack).
        """
        if not self.masked[index]:
            return False
        if key == "worst_case":
            kinds = self.reports[index].settings.get("attacks", {})
            return not any(kinds.get(name, {}).get("kind") in _WITHOUT_GRADIENT for name in self.worst_attacks)
        return key == "lipschitz" or key in self.attack_columns

    def verdict(self, index: int, key: str) -> str:
        """What the difference of a report to the reference says: better, worse, no clear difference, or masked."""
        if self.distrusted(index, key) or self.distrusted(0, key):
            return "masked"
        return verdict(self.differences[index][key], higher=key in HIGHER)

    @property
    def worst_labels(self) -> list[str]:
        """The attacks of the worst case, as they are written."""
        return [attack_label(name) for name in self.worst_attacks]

    @property
    def marked_names(self) -> list[str]:
        """The names, with a sign behind those of masked models."""
        return [name + (" †" if masked else "") for name, masked in zip(self.names, self.masked, strict=True)]

    def shares(self, part: str) -> bool:
        """Whether all reports have the part ``curve``, ``flip_rate`` or ``occlusion`` of the same images."""
        has = {
            "curve": lambda report: bool(report.accuracy_curve),
            "flip_rate": lambda report: report.outcomes.flips is not None,
            "occlusion": lambda report: report.outcomes.occlusion is not None,
        }
        return all(has[part](report) for report in self.reports) and self._on_same_images(part)

    @property
    def corruptions(self) -> list[str]:
        """The corruptions that all reports have."""
        first, *others = (report.outcomes.corrupted for report in self.reports)
        return [name for name in first if all(name in other for other in others)]

    @property
    def radii(self) -> list[float]:
        """The radii of loss surfaces that all reports have, around the same images."""
        images = [[(each.index, each.radius) for each in report.examples.surfaces] for report in self.reports]
        return list(self.reports[0].loss_rises) if all(each == images[0] for each in images) else []

    @property
    def unit(self) -> str:
        """What differences are written in."""
        return "in points" + ("; the Lipschitz constant in its own unit" if "lipschitz" in self.columns else "")

    @cached_property
    def best(self) -> dict[str, list[int]]:
        """For each column and each corruption the indices of the best reports (several at a tie).

        Convention: the lowest error, the highest AUROC and AUPR. A figure that is :meth:`distrusted` is never best.
        """
        rows = {key: [each.value for each in column] for key, column in self.values.items()}
        rows |= {name: [report.corruption_means[name].value for report in self.reports] for name in self.corruptions}
        best = {}
        for key, row in rows.items():
            sign = -1 if key in HIGHER else 1
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
            "higher_is_better": [key for key in self.columns if key in HIGHER],
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
                    "accuracy_curve": [vars(each) | {"eps": eps} for eps, each in report.accuracy_curve.items()],
                    "loss_rise": rises_to_json(report.loss_rises),
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

    def _on_same_images(self, key: str) -> bool:
        return all(same_images(self.reports[0], other, key) for other in self.reports[1:])

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
    notes = [
        f"All figures{' in %' if 'lipschitz' in columns else ''} are errors: lower is better; < marks the best. "
        "Intervals are paired bootstraps over images."
    ]
    if any(key in columns for key in HIGHER):
        notes.append("AUROC and AUPR are no errors: higher is better.")
    if any(comparison.masked):
        notes.append(
            "† Masked: the model hides its gradients, so that one attack, or a Lipschitz constant found by gradients, "
            "says little of it. Such a figure is never the best; the worst case is, if it holds an attack without "
            "gradients."
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
