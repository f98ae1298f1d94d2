"""Several models on the same images, side by side, with the intervals of their differences."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixaug.evaluate._save import save_files
from mixaug.evaluate.calibration import CALIBRATION
from mixaug.evaluate.corruptions import OURS
from mixaug.evaluate.intervals import Estimate, Quantity, bootstrap_centred, bootstrap_means
from mixaug.evaluate.labels import attack_label, corruption_label, interval_text
from mixaug.evaluate.report import Report
from mixaug.evaluate.results import rises_to_json
from mixaug.evaluate.tables import text_table

FORMAT = "mixaug-comparison-1"
# What must agree for two reports to be about the same question; a difference is paired image by image.
_SAME = ("data_sha256", "seed", "preset", "corruptions", "n_clean", "n_corruption", "eps")


@dataclass(frozen=True)
class Comparison:
    """Reports side by side; differences are to the first of them, the reference.

    Args:
        reports: two or more reports on the same images.
        names: a name for each, all different.
    """

    reports: tuple[Report, ...]
    names: tuple[str, ...]

    @property
    def columns(self) -> dict[str, str]:
        """The headline figures that all reports have of the same images: key to label."""
        first, *others = (report.figures for report in self.reports)
        # A Lipschitz constant of other images has no paired difference.
        return {
            key: label
            for key, (label, figure) in first.items()
            if all(key in other and (key != "lipschitz" or other[key][1].n == figure.n) for other in others)
        }

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
        """For each column and each corruption the indices of the reports with the lowest error (several at a tie)."""
        values = {key: [report.figures[key][1].value for report in self.reports] for key in self.columns}
        values |= {name: [report.corruption_means[name].value for report in self.reports] for name in self.corruptions}
        # Means of the same number of images: equal counts give equal values up to the order of a sum.
        return {
            key: [index for index, value in enumerate(row) if value <= min(row) + 1e-12] for key, row in values.items()
        }

    @cached_property
    def differences(self) -> list[dict[str, Estimate]]:
        """For each report its figures minus the reference's, with paired bootstrap intervals over the images.

        Negative is better. The reference's own entry is empty.
        """
        reference = self.reports[0]
        return [
            {} if report is reference else {key: _difference(report, reference, key) for key in self.columns}
            for report in self.reports
        ]

    def to_table(self) -> str:
        """The comparison as plain text for the terminal; ``<`` marks the best of a column."""
        rows = []
        for index, report in enumerate(self.reports):
            row = [self.names[index]]
            for key in self.columns:
                mark = " <" if index in self.best[key] else "  "
                row.append(report.figures[key][1].text + mark)
            rows.append(row)
        first = self.reports[0].figures
        rows.append(["n", *(f"{first[key][1].n}  " for key in self.columns)])
        parts = [text_table(["model", *(f"{label}  " for label in self.columns.values())], rows)]
        for index, difference in enumerate(self.differences):
            if difference:
                changes = [
                    [
                        label,
                        difference[key].change,
                        interval_text(difference[key]),
                        verdict(difference[key]),
                    ]
                    for key, label in self.columns.items()
                ]
                parts += [
                    f"\n{self.names[index]} against {self.names[0]}, {self.unit}",
                    text_table(["figure", "change", "95% interval", ""], changes),
                ]
        if self.corruptions:
            cells = [
                [corruption_label(name)]
                + [
                    f"{100 * report.corruption_means[name].value:.1f}" + (" <" if index in self.best[name] else "  ")
                    for index, report in enumerate(self.reports)
                ]
                for name in self.corruptions
            ]
            parts += ["", text_table(["error in %, mean of severities", *(f"{name}  " for name in self.names)], cells)]
        if self.radii:
            rises = [
                [name, *(report.loss_rises[radius].attack.text for radius in self.radii)]
                for name, report in zip(self.names, self.reports, strict=True)
            ]
            header = ["rise of the loss along the attack", *(f"radius {radius:g}" for radius in self.radii)]
            parts += ["", text_table(header, rises)]
        return "\n".join([*parts, *self.notes])

    @property
    def notes(self) -> list[str]:
        """What a reader must know about the figures, a sentence each."""
        errors = "All figures in % are errors" if "lipschitz" in self.columns else "All figures are errors"
        notes = [f"{errors}: lower is better; < marks the best. Intervals are paired bootstraps over images."]
        ours = [name for name in self.corruptions if name in OURS]
        if ours:
            notes.append(
                f"* {', '.join(ours)}: our own texture, not the original benchmark's; compare it with our figures only."
            )
        if any(report.missing for report in self.reports):
            missing = sorted({name for report in self.reports for name in report.missing})
            notes.append(f"Not measured for every model: {', '.join(missing)}; the mean is over those measured.")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Figures, differences and settings of each report; the image-by-image outcomes stay in the reports' own."""
        return {
            "format": FORMAT,
            "reference": self.names[0],
            "columns": self.columns,
            "models": [
                {
                    "name": self.names[index],
                    "figures": {key: vars(report.figures[key][1]) for key in self.columns},
                    "difference_to_reference": {key: vars(value) for key, value in self.differences[index].items()},
                    "corruption_means": {name: vars(report.corruption_means[name]) for name in self.corruptions},
                    "loss_rise": rises_to_json(report.loss_rises),
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
        from mixaug.evaluate.figures import comparison_figures
        from mixaug.evaluate.page import comparison_page

        figures = comparison_figures(self)
        return save_files(
            path, comparison_page(self, figures), self.to_json(), {key: figure.png for key, figure in figures.items()}
        )


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
        values = [report.settings["attacks"].get(name) for report in reports]
        if any(value != values[0] for value in values):
            raise ValueError(f"reports must agree in the settings of the attack {name!r}, got {values}")
    given = [report.name for report in reports] if names is None else list(names)
    unique = [name if given.count(name) == 1 else f"{name} ({index + 1})" for index, name in enumerate(given)]
    return Comparison(reports, tuple(unique))


def verdict(difference: Estimate) -> str:
    """What a difference of errors says: ``better``, ``worse``, or ``no clear difference`` where zero is inside."""
    if not difference.excludes_zero:
        return "no clear difference"
    return "better" if difference.value < 0 else "worse"


def _difference(report: Report, reference: Report, key: str) -> Estimate:
    one, two = report.outcomes, reference.outcomes
    if key in CALIBRATION:
        return _calibration_difference(CALIBRATION[key], report, reference)
    if key == "clean_error":
        change = (~one.correct).double() - (~two.correct).double()
    elif key == "mce":
        change = one.failures() - two.failures()
    elif key == "lipschitz":
        (estimate,) = bootstrap_means((one.lipschitz - two.lipschitz)[:, None], method="paired bootstrap")
        return Quantity(**vars(estimate))
    else:
        change = (~one.attacked[key]).double() - (~two.attacked[key]).double()
    return bootstrap_means(change[:, None], method="paired bootstrap")[0]


def _calibration_difference(metric: Callable[[Tensor, Tensor], float], report: Report, reference: Report) -> Estimate:
    one, two = report.outcomes, reference.outcomes

    def statistic(index: Tensor) -> Tensor:
        here = metric(one.confidence[index], one.correct[index])
        return torch.tensor(here - metric(two.confidence[index], two.correct[index]))

    return bootstrap_centred(statistic, len(one.correct), lower=-1.0, resamples=500, method="paired bootstrap")
