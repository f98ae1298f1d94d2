"""The numbers of a report: figures with their intervals, its JSON and its notes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from mixaug.evaluate.audit.result import outcome
from mixaug.evaluate.corruptions import CORRUPTIONS, OURS, mce
from mixaug.evaluate.intervals import Estimate, Quantity, bootstrap_means, share
from mixaug.evaluate.labels import attack_label, class_name
from mixaug.evaluate.measure import Measure, ModelInfo
from mixaug.evaluate.measures import all_measures
from mixaug.evaluate.measures.lipschitz import mean_constant
from mixaug.evaluate.measures.surface import LossRise, loss_rises
from mixaug.evaluate.results import AttackResult, Examples, Outcomes, WorstCase, attack_result, worst_case

if TYPE_CHECKING:
    from mixaug.evaluate.audit import Audit
    from mixaug.evaluate.measures.anomaly import AnomalyScores
    from mixaug.evaluate.measures.calibration import ReliabilityCurve


def headline_to_json(report: ReportData) -> dict[str, Any]:
    """All figures with their intervals; None for what was not measured."""
    gap, outcomes = report.robustness_gap, report.outcomes
    figures: dict[str, Any] = {
        "clean_error": vars(report.clean_error),
        "mce": None if report.mce is None else vars(report.mce) | {"label": report.mce_label},
        "mce_relative_to_alexnet": report.mce_alexnet,
        "corruptions_missing": report.missing,
        "corruptions_ours": [name for name in outcomes.corrupted if name in OURS],
        "corruption_errors": {name: [vars(cell) for cell in row] for name, row in report.corruption_errors.items()},
        "corruption_means": {name: vars(mean) for name, mean in report.corruption_means.items()},
        "severity_means": [vars(mean) for mean in report.severity_means],
        "attacks": {
            name: {key: vars(figure) for key, figure in vars(result).items()} for name, result in report.attacks.items()
        },
        "robustness_gap": None if gap is None else vars(gap[1]) | {"attack": gap[0]},
        "worst_case": None if report.worst_case is None else _worst_case(report.worst_case),
    }
    for measure in all_measures():
        figures |= measure.summary(report.results.get(measure.name))
    return figures


def _worst_case(worst: WorstCase) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else vars(value) for name, value in vars(worst).items()}


def more_is_better() -> dict[str, str]:
    """The headline figures of which a larger one is better, key to a short word; all others are errors or constants."""
    return {key: word for measure in all_measures() for key, word in measure.higher.items()}


def headline(report: ReportData) -> dict[str, tuple[str, Estimate]]:
    """All headline figures, key to label and estimate: ``report.figures``, and those of which more is better."""
    higher = more_is_better()
    return report.figures | {key: row for key, row in _rows(report, of_clean=False).items() if key in higher}


def _rows(report: ReportData, *, of_clean: bool) -> dict[str, tuple[str, Estimate]]:
    """The headline figures of the measures."""
    rows: dict[str, tuple[str, Estimate]] = {}
    for measure, result in report.measures:
        if measure.of_clean == of_clean:
            rows |= measure.rows(result)
    return rows


def summary(report: ReportData) -> dict[str, tuple[str, Estimate]]:
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


FORMAT = "mixaug-report-3"


@dataclass(frozen=True)
class ReportData:
    """The numbers of a :class:`~mixaug.evaluate.Report`, which knows how they are written."""

    name: str
    outcomes: Outcomes
    settings: dict[str, Any]
    environment: dict[str, str]
    seconds: dict[str, float]
    classes: list[str] | None
    examples: Examples
    audit: Audit | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def results(self) -> dict[str, Any]:
        """What each measure found, by its name, in their order; those of the clean images are always there."""
        found = {}
        for measure in all_measures():
            if measure.of_clean:
                found[measure.name] = measure.of_outcomes(self.outcomes.correct, self.outcomes.confidence)
            elif self.measured.get(measure.name) is not None:
                found[measure.name] = self.measured[measure.name]
        return found

    @property
    def measures(self) -> list[tuple[Measure[Any], Any]]:
        """The measures with what they found; those that were not measured are left out."""
        return [(each, self.results[each.name]) for each in all_measures() if each.name in self.results]

    @cached_property
    def clean_error(self) -> Estimate:
        """Share of the clean images that the model gets wrong."""
        return share(~self.outcomes.correct)

    @cached_property
    def corruption_errors(self) -> dict[str, list[Estimate]]:
        """Error of each corruption at severity 1 to 5."""
        return {name: [share(~row) for row in rows] for name, rows in self.outcomes.corrupted.items()}

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
        return share(~self.outcomes.correct[self.outcomes.corruption_index]) if self.outcomes.corrupted else None

    @cached_property
    def mce(self) -> Estimate | None:
        """Mean corruption error: the plain mean over corruptions and severities; None without corruptions.

        With a corruption missing it is the mean over those measured; :attr:`mce_label` carries the count.
        """
        return None if not self.outcomes.corrupted else bootstrap_means(self.outcomes.failures()[:, None])[0]

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
        return mce({name: self.corruption_means[name].value for name in CORRUPTIONS}) / 100

    @cached_property
    def attacks(self) -> dict[str, AttackResult]:
        """Each attack's result by name, such as ``pgd-20``."""
        return {name: attack_result(self.outcomes, name) for name in self.outcomes.attacked}

    @property
    def robustness_gap(self) -> tuple[str, Estimate] | None:
        """The attack that takes most of the accuracy and how much that is; None without attacks.

        Convention: each attack against the clean accuracy on its own images.
        """
        gaps = {name: result.gap for name, result in self.attacks.items()}
        return max(gaps.items(), key=lambda item: item[1].value) if gaps else None

    @cached_property
    def worst_case(self) -> WorstCase | None:
        """All attacks within the radius together, the worst case of each image; None without such attacks."""
        return worst_case(self.outcomes, self.settings.get("eps", 0.0))

    @cached_property
    def figures(self) -> dict[str, tuple[str, Estimate]]:
        """The headline figures, all errors or a Lipschitz constant, lower is better: key to (label, estimate)."""
        rows: dict[str, tuple[str, Estimate]] = {"clean_error": ("clean error", self.clean_error)}
        if self.mce is not None:
            rows["mce"] = (self.mce_label, self.mce)
        rows |= _rows(self, of_clean=True)
        rows |= {name: (f"{attack_label(name)} error", result.error) for name, result in self.attacks.items()}
        if self.worst_case is not None and len(self.worst_case.attacks) > 1:
            rows["worst_case"] = (f"worst case of {len(self.worst_case.attacks)} attacks", self.worst_case.error)
        higher = more_is_better()
        rows |= {key: row for key, row in _rows(self, of_clean=False).items() if key not in higher}
        return rows

    @property
    def notes(self) -> list[str]:
        """What a reader must know about the figures, a sentence each."""
        return report_notes(self)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values: figures to read, and all that is needed to load it or to run it again."""
        return {
            "format": FORMAT,
            "name": self.name,
            "figures": headline_to_json(self),
            "settings": self.settings,
            "environment": self.environment,
            "seconds": self.seconds,
            "classes": self.classes,
            "outcomes": self.outcomes.to_json() | self._kept("outcomes"),
            "examples": self.examples.to_json() | self._kept("examples"),
            "audit": None if self.audit is None else self.audit.to_json(),
            "left_out": self.left_out,
            "notices": self.notices,
        }

    def _kept(self, section: str) -> dict[str, Any]:
        """What the measures keep in a section of the JSON."""
        found: dict[str, Any] = {}
        for measure in all_measures():
            if measure.section == section and not measure.of_clean:
                found |= measure.to_json(self.results.get(measure.name))
        return found

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
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
            outcomes = Outcomes.from_json(data["outcomes"])
            clean = outcomes.correct, outcomes.confidence
            measured = {
                measure.name: measure.from_json(data[measure.section], clean)
                for measure in all_measures()
                if not measure.of_clean
            }
            return cls(
                name=data["name"],
                outcomes=outcomes,
                settings=data["settings"],
                environment=data["environment"],
                seconds=data["seconds"],
                classes=data["classes"],
                examples=Examples.from_json(data["examples"]),
                audit=None if data["audit"] is None else _audit_from_json(data["audit"]),
                left_out=data["left_out"],
                notices=data["notices"],
                measured={name: result for name, result in measured.items() if result is not None},
            )
        except KeyError as error:
            raise ValueError(f"{path} is not a whole report: {error} is missing") from error

    @property
    def info(self) -> ModelInfo:
        """What a measure's tables and figures say of the model."""
        inside = () if self.worst_case is None else self.worst_case.attacks
        attacks = {attack_label(name): self.attacks[name].accuracy for name in inside}
        return ModelInfo(self.name, self.classes, self.settings, attacks, bool(outcome(self.audit)))

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where names are not known."""
        return class_name(label, self.classes)

    # The figures under the names that users of the report know them by.

    @property
    def calibration(self) -> dict[str, Estimate]:
        """``rms`` (equal-count bins of 100, all of them), ``rms_ipmix_papers``, ``rms_equal_width`` and ``ece``."""
        errors: dict[str, Estimate] = self.results["calibration"].errors
        return errors

    @property
    def rms(self) -> Estimate:
        """Root-mean-square calibration error, equal-count bins of 100, all bins."""
        return self.calibration["rms"]

    @property
    def ece(self) -> Estimate:
        """Expected calibration error, 15 equal-width bins."""
        return self.calibration["ece"]

    @property
    def reliability(self) -> ReliabilityCurve:
        """Confidence and accuracy in 15 equal-width bins."""
        curve: ReliabilityCurve = self.results["calibration"].curve
        return curve

    @property
    def accuracy_curve(self) -> dict[float, Estimate]:
        """Accuracy against the radius of the attack, from 0 on; empty if it was not measured."""
        return self.results["curve"].accuracy if "curve" in self.results else {}

    @property
    def flip_rate(self) -> Estimate | None:
        """Mean flip rate over the perturbation sequences; None if it was not measured."""
        return self.results["flips"].value.mean if "flips" in self.results else None

    @property
    def occlusion(self) -> Estimate | None:
        """Mean accuracy while 0 to 90% of each image are hidden; None if it was not measured."""
        return self.results["occlusion"].value.area if "occlusion" in self.results else None

    @property
    def anomaly(self) -> AnomalyScores | None:
        """How well the confidence tells images of another data set apart; None if there was none."""
        return self.results.get("ood")

    @cached_property
    def lipschitz(self) -> Quantity | None:
        """The local Lipschitz constant of :func:`mixaug.evaluate.local_lipschitz`; None if it was not measured."""
        return mean_constant(self.results["lipschitz"].value) if "lipschitz" in self.results else None

    @cached_property
    def loss_rises(self) -> dict[float, LossRise]:
        """How far the loss rises around the images of the loss surfaces, by radius; empty without surfaces."""
        return loss_rises(self.results.get("surface", []))


def _audit_from_json(data: dict[str, Any]) -> Audit:
    from mixaug.evaluate.audit import Audit

    return Audit.from_json(data)


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them.

    Example:
        >>> listed(["AUROC", "AUPR"])
        'AUROC and AUPR'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def report_notes(report: ReportData) -> list[str]:
    """What a reader must know about the figures, a sentence each."""
    rows = headline(report)
    higher = [word for key, word in more_is_better().items() if key in rows]
    shares = bool(higher) or any(isinstance(figure, Quantity) for _, figure in rows.values())
    notes = [f"All figures{' in %' if shares else ''} are errors: lower is better."]
    if higher:
        which = "that one" if len(higher) == 1 else "those two" if len(higher) == 2 else "those"
        notes[0] = f"All figures in % but {listed(higher)} are errors: lower is better. Of {which} higher is better."
    notes += [note for measure, result in report.measures if not measure.of_clean for note in measure.notes(result)]
    if len({result.error.n for result in report.attacks.values()}) > 1:
        notes.append(
            "The attacks were measured on different numbers of images; the smaller sets are part of the larger."
        )
    if any(name in OURS for name in report.outcomes.corrupted):
        names = ", ".join(name for name in report.outcomes.corrupted if name in OURS)
        notes.append(f"* {names}: our own texture, not the original benchmark's; compare it with our figures only.")
    if report.missing:
        notes.append(f"Not measured: {', '.join(report.missing)}; the mean is over {len(report.outcomes.corrupted)}.")
    return notes + [note for measure, result in report.measures if measure.of_clean for note in measure.notes(result)]
