"""Several models on the same images, side by side, with the intervals of their differences."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixaug.evaluate._save import save_files
from mixaug.evaluate.comparison_text import comparison_notes, comparison_text
from mixaug.evaluate.differences import difference, same_images
from mixaug.evaluate.headline import HIGHER, headline, verdict
from mixaug.evaluate.intervals import Estimate, share
from mixaug.evaluate.labels import attack_label
from mixaug.evaluate.page_audit import outcome
from mixaug.evaluate.report import Report
from mixaug.evaluate.results import rises_to_json
from mixaug.evaluate.robustness import all_right, within

FORMAT = "mixaug-comparison-2"
# What must agree for two reports to be about the same question; a difference is paired image by image.
_SAME = ("data_sha256", "seed", "preset", "corruptions", "n_clean", "n_corruption", "eps")
# Attacks that need no gradient, or hold one that does not: gradients that are masked do not stop them.
_WITHOUT_GRADIENT = ("Square", "SPSA", "AutoAttack")


@dataclass(frozen=True)
class Comparison:
    """Reports side by side; differences are to the first of them, the reference.

    Args:
        reports: two or more reports on the same images.
        names: a name for each, all different.
    """

    reports: tuple[Report, ...]
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

    def to_table(self) -> str:
        """The comparison as plain text for the terminal; ``<`` marks the best of a column."""
        return comparison_text(self)

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

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one HTML page that needs no network, and beside it a ``.json`` and the figures as PNG.

        Args, returns and errors as :meth:`Report.save`.
        """
        from mixaug.evaluate.comparison_page import comparison_page
        from mixaug.evaluate.figures import comparison_figures

        figures = comparison_figures(self)
        return save_files(
            path, comparison_page(self, figures), self.to_json(), {key: figure.png for key, figure in figures.items()}
        )

    def _on_same_images(self, key: str) -> bool:
        return all(same_images(self.reports[0], other, key) for other in self.reports[1:])

    def _shared(self, report: Report) -> dict[str, tuple[str, Estimate]]:
        """The headline figures, the worst case over the attacks that count for all reports."""
        figures, names = headline(report), self.worst_attacks
        right = all_right(report.outcomes, names)[1] if len(names) > 1 else torch.empty(0, dtype=torch.bool)
        if "worst_case" in figures and len(right):
            figures["worst_case"] = (f"worst case of {len(names)} attacks", share(~right))
        else:
            figures.pop("worst_case", None)
        return figures


def compare(reports: Sequence[Report], names: Sequence[str] | None = None) -> Comparison:
    """Puts reports on the same images side by side.

    Args:
        reports: two or more; the first is the reference of the differences.
        names: a name for each, default the reports' own; equal ones get a number.

    Returns:
        A :class:`Comparison` with ``to_table()`` and ``save(path)``.

    Raises:
        TypeError: something that is not a report.
        ValueError: fewer than two, a wrong number of names, or reports that differ in images, seed, preset, counts or
            radius, so that their differences would not be between models alone.

    Example:
        >>> from mixaug.evaluate import evaluate_model
        >>> images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
        >>> data = (images, torch.arange(8) % 2)
        >>> models = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)) for _ in range(2)]
        >>> reports = [evaluate_model(model, data, attacks=None, corruptions=None) for model in models]
        >>> compare(reports, ["one", "two"]).names
        ('one', 'two')
    """
    reports = tuple(reports)
    for report in reports:
        if not isinstance(report, Report):
            raise TypeError(f"reports must be Report objects, got {type(report).__name__}")
    if len(reports) < 2:
        raise ValueError(f"reports must be 2 or more, got {len(reports)}")
    if names is not None and len(names) != len(reports):
        raise ValueError(f"names must be one for each of the {len(reports)} reports, got {len(names)}")
    for key in _SAME:
        values = [report.settings.get(key) for report in reports]
        if any(value != values[0] for value in values):
            raise ValueError(f"reports must agree in {key} to be compared image by image, got {values}")
    for name in set.intersection(*(set(report.outcomes.attacked) for report in reports)):
        counts = [len(report.outcomes.attacked[name]) for report in reports]
        if len(set(counts)) > 1:
            raise ValueError(
                f"reports must agree in the number of images of {attack_label(name)} to be compared image by image, "
                f"got {counts}"
            )
        _check_same_index(f"images of {attack_label(name)}", [report.outcomes.attack_index[name] for report in reports])
        values = [report.settings["attacks"].get(name) for report in reports]
        if any(value != values[0] for value in values):
            raise ValueError(f"reports must agree in the settings of the attack {name!r}, got {values}")
    if reports[0].outcomes.corrupted:
        _check_same_index("corrupted images", [report.outcomes.corruption_index for report in reports])
    given = [report.name for report in reports] if names is None else list(names)
    unique = [name if given.count(name) == 1 else f"{name} ({index + 1})" for index, name in enumerate(given)]
    return Comparison(reports, tuple(unique))


def _check_same_index(what: str, indices: Sequence[Tensor]) -> None:
    if not all(torch.equal(index, indices[0]) for index in indices):
        raise ValueError(f"reports must agree in the {what} to be compared image by image, got other positions")
