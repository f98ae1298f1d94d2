"""One audit at work: its attacks run one after the other, and what came of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mixaug._model_state import check_class_range
from mixaug.attacks import cross_entropy, margin
from mixaug.attacks.attack import signs_like
from mixaug.evaluate.audit.attacks import BLACK_BOX, FOREIGN, LARGE, WHITE_BOX, Plan, attacked
from mixaug.evaluate.audit.checks import all_checks
from mixaug.evaluate.audit.evidence import Evidence
from mixaug.evaluate.audit.result import Audit
from mixaug.evaluate.audit.subject import REPEATS, Subject
from mixaug.evaluate.audit.thresholds import Thresholds
from mixaug.evaluate.audit.verdict import verdict_of

#: Computes tensors under a name, or gives what was computed under it before.
Keep = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]

# Below this median gap between the two largest logits the softmax is flat; trained models have 1 to 2 here. The
# cross-entropy of logits / 1000 pushes all other classes alike, and leaves 4 to 9 points more than the margin does.
_FLAT = 0.5
#: The further radii.
CURVE = ("radius-half", "radius-double", "radius-large")


class AuditRun:
    """One audit: which pieces are run depends on what the ones before left."""

    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        thresholds: Thresholds,
        keep: Keep | None,
        advance: Callable[[str], None] | None,
    ) -> None:
        self._subject = subject
        self._plan = plan
        self._thresholds = thresholds
        self._keep = keep
        self._advance = advance
        self._right: dict[str, Tensor] = {}
        self._confidence: dict[str, Tensor] = {}
        self._measures: dict[str, Tensor] = {}
        self._left_out: dict[str, str] = {}
        self._classes = 0

    def audit(self) -> Audit:
        """Runs what is to be run, and applies the rules."""
        self._look()
        evidence = Evidence(
            self._right, self._measures, self._left_out, self._plan.eps, self._thresholds, self._subject.seed
        )
        self._attack(WHITE_BOX, evidence.too_few)
        why = evidence.nothing_left
        self._attack((*BLACK_BOX, "noise"), why)
        if self._plan.surrogate is None:
            self._left_out["transfer"] = "No surrogate was given."
        else:
            self._attack(("transfer",), why)
        steady = None if self._subject.repeats > 1 else "Equal calls give equal logits: there is nothing to average."
        self._attack(("averaged",), why or steady)
        self._attack(("radius-half",), why)
        large = f"The radius is {LARGE} or more by itself." if self._plan.eps >= LARGE else None
        above = f"Twice the radius is {LARGE} or more." if 2 * self._plan.eps >= LARGE else None
        self._attack(("radius-double",), why or above)
        self._attack(("radius-large", "grey"), why or large)
        checks = all_checks(evidence)
        return Audit(
            checks=checks,
            verdict=verdict_of(checks, evidence),
            eps=self._plan.eps,
            right=self._right,
            confidence=self._confidence,
            measures=self._measures,
            left_out=self._left_out,
            thresholds=self._thresholds,
            settings={
                "seed": self._subject.seed,
                "square_queries": self._plan.square_queries,
                "draws": self._plan.draws,
                "classes": self._classes,
                "repeats": self._subject.repeats,
                "gradient": not self._subject.model.cut_off,
            },
        )

    def _look(self) -> None:
        """Clean images, equal calls, gradients."""
        subject = self._subject
        self._classes = subject.logits(subject.images[:1]).shape[1]
        check_class_range("labels", subject.labels, self._classes)
        if self._classes < 2:
            raise ValueError(f"model must have 2 classes or more to be attacked, got logits of {self._classes}")
        subject.find_cut()
        clean = self._piece("clean", self._clean)
        if bool(clean["changed"].any()):
            subject.repeats = REPEATS
        self._right["clean"], self._confidence["clean"] = clean["right"], clean["confidence"]
        self._measures |= {name: clean[name] for name in ("changed", "turned", "gap")}
        gap = float(clean["gap"].median())
        if 0 < gap < _FLAT:
            self._plan = dataclasses.replace(self._plan, stretch=1 / gap)
        self._measures |= self._piece("gradients", self._gradients)

    def _attack(self, names: tuple[str, ...], why: str | None) -> None:
        """Runs attacks, or notes why not."""
        for name in names:
            reason = why or self._unable(name)
            if reason:
                self._left_out[name] = reason
                self._done(name)
                continue
            found = self._piece(
                name,
                lambda name=name: attacked(self._subject, name, self._plan, self._right["clean"]),  # type: ignore[misc]
            )
            self._right[name], self._confidence[name] = found["right"], found["confidence"]

    def _unable(self, name: str) -> str | None:
        if name in FOREIGN and not self._plan.installed:
            return f"{name} needs pyautoattack: pip install 'mixaug[attacks]'."
        if name == "pgd-stretched" and self._plan.stretch == 1:
            return "The logits are not flat: there is nothing to stretch."
        if name == "apgd-dlr" and self._classes < 3:
            return f"APGD-DLR needs 3 classes or more, and there are {self._classes}."
        return None

    def _piece(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        found = compute() if self._keep is None else self._keep(f"audit {name}", compute)
        self._done(name)
        return found

    def _done(self, name: str) -> None:
        if self._advance is not None:
            self._advance(name)

    def _clean(self) -> dict[str, Tensor]:
        subject = self._subject
        with subject.drawing("clean"):
            changed, turned = subject.differences()
            subject.repeats = REPEATS if bool(changed.any()) else 1
            right, confidence = subject.judged(subject.images, subject.labels)
            two = subject.logits(subject.images).topk(2, 1).values
        gap = (two[:, 0] - two[:, 1]).cpu()
        return {"right": right, "confidence": confidence, "changed": changed, "turned": turned, "gap": gap}

    def _gradients(self) -> dict[str, Tensor]:
        """Where there is no gradient, and how far it turns a quarter of the radius away."""
        subject = self._subject
        images, labels = subject.images, subject.labels
        with subject.drawing("gradients") as generator:
            here = subject.gradients(images, labels, margin)
            near = (images + self._plan.eps / 4 * signs_like(images, generator)).clamp(0, 1)
            there = subject.gradients(near, labels, margin)
            entropy = subject.gradients(images, labels, cross_entropy)
        nothing = [(each == 0).flatten(1).all(1) for each in (here, there, entropy)]
        cosine = nn.functional.cosine_similarity(_unit(here), _unit(there), dim=1)
        cosine[nothing[0] | nothing[1]] = torch.nan
        return {"zero-ce": nothing[2].cpu(), "zero-margin": nothing[0].cpu(), "cosine": cosine.float().cpu()}


def _unit(gradient: Tensor) -> Tensor:
    """Scaled to a largest value of 1: the squares of small gradients would underflow."""
    flat = gradient.flatten(1).double()
    return flat / flat.abs().amax(1, keepdim=True).clamp_min(1e-300)
