"""The report of one model: its figures, their table, and the files that show them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixaug._files import atomic_path
from mixaug.evaluate import calibration as measures
from mixaug.evaluate.corruptions import CORRUPTIONS, OURS
from mixaug.evaluate.intervals import Estimate, bootstrap_centred, bootstrap_means, wilson
from mixaug.evaluate.outcomes import SEVERITIES, Examples, Outcomes
from mixaug.evaluate.tables import text_table

FORMAT = "mixaug-report-1"
CALIBRATION = {
    "rms": measures.rms,
    "rms_ipmix_papers": lambda confidence, correct: measures.rms(confidence, correct, variant="ipmix-papers"),
    "rms_equal_width": measures.rms_equal_width,
    "ece": measures.ece,
}
# AlexNet's mean error over the five severities of each ImageNet-C corruption, in the order of CORRUPTIONS.
_ALEXNET = (88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7)


@dataclass(frozen=True)
class AttackResult:
    """A model under one attack.

    Args:
        accuracy: share of the attacked images that the model still gets right.
        error: the rest of them.
        clean_accuracy: accuracy on the same images before the attack.
    """

    accuracy: Estimate
    error: Estimate
    clean_accuracy: Estimate


@dataclass(frozen=True)
class Report:
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
        examples: corrupted and adversarial pictures.

    Example:
        >>> outcomes = Outcomes(torch.tensor([True, True, True, False]), torch.tensor([0.9, 0.8, 0.9, 0.6]),
        ...                     torch.empty(0, dtype=torch.int64), {}, torch.empty(0, dtype=torch.int64), {}, {})
        >>> report = Report("tiny", outcomes, {"preset": None}, {}, {}, None, Examples())
        >>> report.clean_error.value
        0.25
    """

    name: str
    outcomes: Outcomes
    settings: dict[str, Any]
    environment: dict[str, str]
    seconds: dict[str, float]
    classes: list[str] | None
    examples: Examples

    @cached_property
    def clean_error(self) -> Estimate:
        """Share of the clean images that the model gets wrong."""
        return error_of(self.outcomes.correct)

    @cached_property
    def corruption_errors(self) -> dict[str, list[Estimate]]:
        """Error of each corruption at severity 1 to 5."""
        return {name: [error_of(row) for row in rows] for name, rows in self.outcomes.corrupted.items()}

    @cached_property
    def corruption_means(self) -> dict[str, Estimate]:
        """Error of each corruption, mean over its severities."""
        if not self.outcomes.corrupted:
            return {}
        columns = torch.stack([(~rows).double().mean(0) for rows in self.outcomes.corrupted.values()], dim=1)
        return dict(zip(self.outcomes.corrupted, bootstrap_means(columns), strict=True))

    @cached_property
    def severity_means(self) -> list[Estimate]:
        """Error at severity 1 to 5, mean over the corruptions; empty without corruptions."""
        if not self.outcomes.corrupted:
            return []
        wrong = torch.stack([(~rows).double() for rows in self.outcomes.corrupted.values()])
        return bootstrap_means(wrong.mean(0).T)

    @cached_property
    def clean_error_of_corrupted(self) -> Estimate | None:
        """Clean error of the images that were corrupted, what corruption errors are to be held against; or None."""
        return error_of(self.outcomes.correct[self.outcomes.corruption_index]) if self.outcomes.corrupted else None

    @cached_property
    def mce(self) -> Estimate | None:
        """Mean corruption error: the plain mean over corruptions and severities; None without corruptions.

        With a corruption missing it is the mean over those measured; :attr:`mce_label` carries the count.
        """
        return None if not self.outcomes.corrupted else bootstrap_means(failures(self.outcomes)[:, None])[0]

    @property
    def mce_label(self) -> str:
        """``mCE (15)``, or with corruptions missing for example ``mean corruption error (12 of 15)``."""
        if self.missing:
            return f"mean corruption error ({len(self.outcomes.corrupted)} of {len(CORRUPTIONS)})"
        return f"mCE ({len(CORRUPTIONS)})"

    @property
    def missing(self) -> list[str]:
        """The corruptions of the benchmark that were not measured; empty if corruptions were not asked for."""
        return [name for name in CORRUPTIONS if name not in self.outcomes.corrupted] if self.outcomes.corrupted else []

    @cached_property
    def mce_alexnet(self) -> float | None:
        """ImageNet's mCE: each corruption's error divided by AlexNet's, then averaged (1.0 is AlexNet).

        None unless all 15 corruptions of the ``imagenet`` preset were measured on a model with 1,000 classes.
        """
        if self.settings.get("preset") != "imagenet" or self.settings.get("num_classes") != 1000 or self.missing:
            return None
        means = self.corruption_means
        return sum(100 * means[name].value / ref for name, ref in zip(CORRUPTIONS, _ALEXNET, strict=True)) / len(
            _ALEXNET
        )

    @cached_property
    def calibration(self) -> dict[str, Estimate]:
        """``rms`` (equal-count bins of 100, all of them), ``rms_ipmix_papers``, ``rms_equal_width`` and ``ece``."""
        confidence, correct = self.outcomes.confidence, self.outcomes.correct

        def estimate(name: str) -> Estimate:
            def statistic(index: Tensor) -> Tensor:
                return torch.tensor(CALIBRATION[name](confidence[index], correct[index]))

            return bootstrap_centred(statistic, len(correct), lower=0.0, resamples=500)

        return {name: estimate(name) for name in CALIBRATION}

    @property
    def rms(self) -> Estimate:
        """Root-mean-square calibration error, equal-count bins of 100, all bins."""
        return self.calibration["rms"]

    @property
    def ece(self) -> Estimate:
        """Expected calibration error, 15 equal-width bins."""
        return self.calibration["ece"]

    @cached_property
    def reliability(self) -> measures.ReliabilityCurve:
        """Confidence and accuracy in 15 equal-width bins."""
        return measures.reliability_curve(self.outcomes.confidence, self.outcomes.correct)

    @cached_property
    def attacks(self) -> dict[str, AttackResult]:
        """Each attack's result by name, such as ``pgd-20``."""
        before = accuracy_of(self.outcomes.correct[self.outcomes.attack_index]) if self.outcomes.attacked else None
        return {
            name: AttackResult(accuracy_of(right), error_of(right), before)
            for name, right in self.outcomes.attacked.items()
            if before is not None
        }

    @cached_property
    def figures(self) -> dict[str, tuple[str, Estimate]]:
        """The headline figures, all errors: key to (label, estimate)."""
        rows: dict[str, tuple[str, Estimate]] = {"clean_error": ("clean error", self.clean_error)}
        if self.mce is not None:
            rows["mce"] = (self.mce_label, self.mce)
        rows["rms"] = ("RMS calibration error", self.rms)
        rows["ece"] = ("ECE", self.ece)
        rows |= {name: (f"{attack_label(name)} error", result.error) for name, result in self.attacks.items()}
        return rows

    def to_table(self) -> str:
        """The report as plain text for the terminal."""
        rows = [
            [label, f"{100 * figure.value:.1f}%", interval_text(figure), str(figure.n)]
            for label, figure in self.figures.values()
        ]
        parts = [f"{self.name}\n", text_table(["figure", "value", "95% interval", "n"], rows)]
        if self.mce_alexnet is not None:
            parts.append(f"mCE relative to AlexNet: {100 * self.mce_alexnet:.1f}%")
        if self.corruption_errors:
            cells = [
                [
                    corruption_label(name),
                    *(f"{100 * cell.value:.1f}" for cell in [*errors, self.corruption_means[name]]),
                ]
                for name, errors in self.corruption_errors.items()
            ]
            cells.append(["mean", *(f"{100 * cell.value:.1f}" for cell in self.severity_means), ""])
            if self.mce is not None:
                cells[-1][-1] = f"{100 * self.mce.value:.1f}"
            header = ["error in %", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
            parts += ["", text_table(header, cells)]
        return "\n".join([*parts, *self.notes])

    @property
    def notes(self) -> list[str]:
        """What a reader must know about the figures, a sentence each."""
        notes = ["All figures are errors: lower is better."]
        if any(name in OURS for name in self.outcomes.corrupted):
            names = ", ".join(name for name in self.outcomes.corrupted if name in OURS)
            notes.append(f"* {names}: our own texture, not the original benchmark's; compare it with our figures only.")
        if self.missing:
            notes.append(f"Not measured: {', '.join(self.missing)}; the mean is over {len(self.outcomes.corrupted)}.")
        if len(self.outcomes.correct) < 1000:
            notes.append(
                f"RMS and ECE on {len(self.outcomes.correct)} images are biased upwards by sampling noise; "
                "compare them on the same images only."
            )
        return notes

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values: figures to read, and all that is needed to load it or to run it again."""
        return {
            "format": FORMAT,
            "name": self.name,
            "figures": {
                "clean_error": vars(self.clean_error),
                "mce": None if self.mce is None else vars(self.mce) | {"label": self.mce_label},
                "mce_relative_to_alexnet": self.mce_alexnet,
                "corruptions_missing": self.missing,
                "corruptions_ours": [name for name in self.outcomes.corrupted if name in OURS],
                "corruption_errors": {name: [vars(c) for c in row] for name, row in self.corruption_errors.items()},
                "corruption_means": {name: vars(mean) for name, mean in self.corruption_means.items()},
                "severity_means": [vars(mean) for mean in self.severity_means],
                "calibration": {name: vars(figure) for name, figure in self.calibration.items()},
                "attacks": {
                    name: {key: vars(figure) for key, figure in vars(result).items()}
                    for name, result in self.attacks.items()
                },
            },
            "settings": self.settings,
            "environment": self.environment,
            "seconds": self.seconds,
            "classes": self.classes,
            "outcomes": self.outcomes.to_json(),
            "examples": self.examples.to_json(),
        }

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
        from mixaug.evaluate.figures import report_figures
        from mixaug.evaluate.page import report_page

        figures = report_figures(self)
        return save_files(
            path, report_page(self, figures), self.to_json(), {key: fig.png for key, fig in figures.items()}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Reads the ``.json`` that :meth:`save` wrote.

        Raises:
            ValueError: the file is not such a report.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a report: it is not JSON ({error})") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{path} is not a report: its format must be {FORMAT!r}, got {found!r}")
        try:
            return cls(
                name=data["name"],
                outcomes=Outcomes.from_json(data["outcomes"]),
                settings=data["settings"],
                environment=data["environment"],
                seconds=data["seconds"],
                classes=data["classes"],
                examples=Examples.from_json(data["examples"]),
            )
        except KeyError as error:
            raise ValueError(f"{path} is not a whole report: {error} is missing") from error

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where names are not known."""
        return self.classes[label] if self.classes is not None and label < len(self.classes) else str(label)


def save_files(path: str | os.PathLike[str], page: str, data: dict[str, Any], pictures: dict[str, bytes]) -> Path:
    """Writes a page, its JSON and its pictures side by side, the page last."""
    target = Path(path)
    if target.suffix != ".html":
        raise ValueError(f"path must end in .html, got {str(path)!r}")
    for name, png in pictures.items():
        with atomic_path(target.with_name(f"{target.stem}-{name}.png")) as temporary:
            temporary.write_bytes(png)
    with atomic_path(target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def error_of(right: Tensor) -> Estimate:
    """Share of False, with Wilson's interval."""
    return wilson(int((~right).sum()), len(right))


def accuracy_of(right: Tensor) -> Estimate:
    """Share of True, with Wilson's interval."""
    return wilson(int(right.sum()), len(right))


def failures(outcomes: Outcomes) -> Tensor:
    """(m,) float64: the share of all corruptions and severities that the model fails, image by image."""
    return torch.stack([(~rows).double().mean(0) for rows in outcomes.corrupted.values()]).mean(0)


def interval_text(figure: Estimate) -> str:
    """The interval in percent, such as ``20.0 to 31.0``."""
    return f"{100 * figure.low:.1f} to {100 * figure.high:.1f}"


def attack_label(name: str) -> str:
    """An attack's name as it is written: ``PGD-20``."""
    return name.upper() if name.startswith(("pgd-", "fgsm", "apgd", "spsa")) else name


def corruption_label(name: str) -> str:
    """A corruption's name as it is written: ``jpeg compression``; a star marks those that are ours."""
    return name.replace("_", " ") + ("*" if name in OURS else "")
