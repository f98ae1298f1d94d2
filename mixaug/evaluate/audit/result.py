"""What an audit found: its checks, the verdict, and every image's outcome under every attack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mixaug.evaluate.audit.attacks import LABELS, REPORTED, WHITE_BOX
from mixaug.evaluate.audit.thresholds import Thresholds
from mixaug.evaluate.intervals import Estimate, Quantity, share
from mixaug.evaluate.outcomes import _pack, _pack_bits, _unpack, _unpack_bits

PASS, WARN, FAIL, NOT_RUN = "pass", "warn", "fail", "not run"


@dataclass(frozen=True)
class Check:
    """One rule of the audit, applied.

    Args:
        name: of the check, such as ``black-box``.
        label: what it asks, in words.
        status: ``"pass"``, ``"warn"``, ``"fail"`` or ``"not run"``.
        reason: one sentence with the figures that decided the status.
        figures: accuracies, shares and differences by name, each with n and its 95% interval.
        threshold: the limit that was used; of :class:`Thresholds`.
        source: the publications that the rule comes from.
        decides: this check's failure shows that robustness is overstated, and makes the audit say so.
    """

    name: str
    label: str
    status: str
    reason: str
    figures: dict[str, Estimate]
    threshold: float
    source: str
    decides: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        figures = {
            name: {"kind": "quantity" if isinstance(figure, Quantity) else "share", **vars(figure)}
            for name, figure in self.figures.items()
        }
        return {**vars(self), "figures": figures}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Check:
        """The inverse of :meth:`to_json`, exactly."""
        figures = {}
        for name, values in data["figures"].items():
            values = dict(values)
            figures[name] = (Quantity if values.pop("kind") == "quantity" else Estimate)(**values)
        return cls(**{**data, "figures": figures})


@dataclass(frozen=True, eq=False)
class Audit:
    """Whether a model's robustness is real or masked, with all that was seen.

    Masked means: the accuracy that a gradient attack reports is too high by at least the margin, because an attack of
    another kind, or with another loss, leaves less of the same images. It is about what was measured, not about how the
    model is made: no layer is looked for.

    Args:
        checks: one for each rule, in a fixed order.
        verdict: one sentence with the figure that decides it.
        eps: radius of the attacks, in [0, 1].
        right: attack's name (``"clean"`` for none) to (n,) bool: whether each image was still right. An image that was
            wrong before is wrong under every attack.
        confidence: the same names to (n,) float32, the probability of the predicted class on the attacked images; 0 for
            an image that was not attacked.
        measures: what else was noted image by image: ``zero-ce`` and ``zero-margin`` (n,) bool, no gradient in any
            pixel; ``changed`` and ``turned`` (n,) bool, equal calls gave other logits or predictions; ``cosine`` (n,)
            float32, of the gradients at two near points, NaN without any; ``gap`` (n,) float32, between the two largest
            logits.
        left_out: attack's name to the reason why it was not run.
        thresholds: limits that were used.
        settings: queries, draws, seed and the number of classes.

    Example:
        >>> from mixaug.evaluate.audit import audit_images
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> audit = audit_images(model, torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1]), eps=0.1)
        >>> audit.masked, Audit.from_json(audit.to_json()).verdict == audit.verdict
        (False, True)
    """

    checks: tuple[Check, ...]
    verdict: str
    eps: float
    right: dict[str, Tensor]
    confidence: dict[str, Tensor]
    measures: dict[str, Tensor]
    left_out: dict[str, str]
    thresholds: Thresholds = field(default_factory=Thresholds)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def masked(self) -> bool:
        """Whether a check that decides has failed."""
        return any(check.status == FAIL and check.decides for check in self.checks)

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.right["clean"])

    @property
    def accuracies(self) -> dict[str, Estimate]:
        """Accuracy over all n images, clean and under each attack, with Wilson's 95% interval."""
        return {name: share(right) for name, right in self.right.items()}

    @property
    def reported(self) -> Estimate | None:
        """Accuracy under PGD-20 with the cross-entropy, the figure that papers report; None if it was not run."""
        return share(self.right[REPORTED]) if REPORTED in self.right else None

    @property
    def strongest(self) -> str | None:
        """Name of the gradient attack that leaves the least; None if none was run."""
        return strongest_of(self.right, WHITE_BOX)

    @property
    def left(self) -> Estimate:
        """Accuracy against an attacker who may choose, image by image, among all attacks of the radius."""
        return share(together(self.right))

    def to_json(self) -> dict[str, Any]:
        """As JSON values; bits are packed."""
        return {
            "checks": [check.to_json() for check in self.checks],
            "verdict": self.verdict,
            "masked": self.masked,
            "eps": self.eps,
            "right": {name: _pack_bits(bits) for name, bits in self.right.items()},
            "confidence": {name: _pack(values) for name, values in self.confidence.items()},
            "measures": {
                name: _pack_bits(values) if values.dtype == torch.bool else _pack(values)
                for name, values in self.measures.items()
            },
            "left_out": dict(self.left_out),
            "thresholds": self.thresholds.to_json(),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Audit:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            checks=tuple(Check.from_json(check) for check in data["checks"]),
            verdict=data["verdict"],
            eps=data["eps"],
            right={name: _unpack_bits(bits) for name, bits in data["right"].items()},
            confidence={name: _unpack(text, torch.float32) for name, text in data["confidence"].items()},
            measures={
                name: _unpack(packed, torch.float32) if isinstance(packed, str) else _unpack_bits(packed)
                for name, packed in data["measures"].items()
            },
            left_out=dict(data["left_out"]),
            thresholds=Thresholds(**data["thresholds"]),
            settings=dict(data["settings"]),
        )


def strongest_of(right: dict[str, Tensor], names: tuple[str, ...]) -> str | None:
    """The one of the attacks that leaves the fewest images right, the first of equals; None if none was run.

    Example:
        >>> strongest_of({"fgsm": torch.tensor([True]), "pgd-ce": torch.tensor([False])}, ("fgsm", "pgd-ce"))
        'pgd-ce'
    """
    run = [name for name in names if name in right]
    return min(run, key=lambda name: int(right[name].sum())) if run else None


def together(right: dict[str, Tensor]) -> Tensor:
    """(n,) bool: whether an image is right clean and under every attack of the radius.

    Example:
        >>> together({"clean": torch.tensor([True, True]), "spsa": torch.tensor([True, False])}).tolist()
        [True, False]
    """
    names = [name for name in right if name in LABELS and not name.startswith("radius") and name != "grey"]
    return torch.stack([right["clean"], *(right[name] for name in names)]).all(0)
