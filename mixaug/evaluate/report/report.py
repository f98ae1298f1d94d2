"""Reports and comparisons as users have them: the numbers, and how they are shown and saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mixaug.evaluate.labels import attack_label
from mixaug.evaluate.report.comparison import ComparisonData
from mixaug.evaluate.report.data import ReportData
from mixaug.evaluate.report.figures import comparison_figures, report_figures
from mixaug.evaluate.report.html import save_files
from mixaug.evaluate.report.page import comparison_page, report_page
from mixaug.evaluate.report.text import comparison_text, report_text

__all__ = ["Comparison", "Report", "compare"]

# What must agree for two reports to be about the same question; a difference is paired image by image.
_SAME = ("data_sha256", "seed", "preset", "corruptions", "n_clean", "n_corruption", "eps")


class Report(ReportData):
    """What :func:`mixaug.evaluate.evaluate_model` measured of one model.

    Every figure is an :class:`~mixaug.evaluate.intervals.Estimate` with its 95% interval and its number of images:
    Wilson's for a share of images, a bootstrap over the images for means over corruptions and for calibration errors.

    Args:
        name: what the model is called in tables and figures.
        outcomes: right or wrong, image by image; all figures are computed from it.
        settings: everything needed to run the evaluation again: seed, radii, counts, hashes of weights and images.
        environment: versions and machine.
        seconds: time of each part.
        classes: names of the classes, or None.
        examples: pictures, loss surfaces, sequences and the map of the features.
        audit: whether robustness is real or masked; None: not asked for.
        left_out: what was asked for and could not be measured: part to reason.
        notices: what was noticed of the model, a sentence each.

    Example:
        >>> from mixaug.evaluate.results import Examples, Outcomes
        >>> outcomes = Outcomes(torch.tensor([True, True, True, False]), torch.tensor([0.9, 0.8, 0.9, 0.6]),
        ...                     torch.empty(0, dtype=torch.int64), {}, {}, {}, {})
        >>> report = Report("tiny", outcomes, {"preset": None}, {}, {}, None, Examples())
        >>> report.clean_error.value
        0.25
    """

    def to_table(self) -> str:
        """The report as plain text for the terminal."""
        return report_text(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report as one HTML page that needs no network, and beside it a ``.json`` and the figures as PNG.

        Args:
            path: where the page goes, such as ``runs/x/report.html``; the other files take its stem. Folders are made.

        Returns:
            The path of the page.

        Raises:
            ValueError: ``path`` does not end in ``.html``.
            ModuleNotFoundError: matplotlib is not installed.

        Note:
            Each file is written whole or not at all.
        """
        figures = report_figures(self)
        return save_files(
            path, report_page(self, figures), self.to_json(), {key: fig.png for key, fig in figures.items()}
        )


class Comparison(ComparisonData):
    """Reports side by side; differences are to the first of them, the reference.

    Args:
        reports: two or more reports on the same images.
        names: a name for each, all different.
    """

    def to_table(self) -> str:
        """The comparison as plain text for the terminal; ``<`` marks the best of a column."""
        return comparison_text(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one HTML page that needs no network, and beside it a ``.json`` and the figures as PNG.

        Args, returns and errors as :meth:`Report.save`.
        """
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
