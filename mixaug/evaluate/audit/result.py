"""What an audit found: its checks, the verdict, and every image's outcome under every attack."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from mixaug._checks import check_field, check_int, check_number
from mixaug._drawing import FigureImage, new_figure, png_of
from mixaug.evaluate.audit.attacks import LABELS, REPORTED, WHITE_BOX
from mixaug.evaluate.encoding import pack, pack_bits, unpack, unpack_bits
from mixaug.evaluate.intervals import Estimate, Quantity, share


@dataclass(frozen=True)
class Thresholds:
    """The limits of the audit's rules; shares of the images unless said otherwise.

    Args:
        margin: an attack shows another one to be weak if it leaves less accuracy by more than this, and 0 lies outside
            of the paired bootstrap interval; default 0.02.
        far: the same where honest models differ too: between the cross-entropy and other losses, and between the
            strongest attack and all together; there the interval must lie above ``margin``; default 0.05.
        least_accuracy: at this accuracy or less under the strongest gradient attack there is no robustness to lose, and
            checks that need some are not run; default 0.02.
        near_zero: accuracy at a radius of 0.5 up to which nothing is said; default 0.05.
        zero_gradients: share of images without any gradient up to which nothing is said; default 0.02.
        roughness: mean cosine of the gradients of near points below which the loss surface is called rough, in
            [0, 1]; default 0.25.
        least_images: with fewer images that the model gets right nothing is compared; default 10.

    Raises:
        TypeError: a limit of the wrong kind.
        ValueError: a limit outside of [0, 1]; ``far`` below ``margin``; ``least_images`` below 1.

    Note:
        ``far`` is ours: models trained with PGD or TRADES are 0 to 3.5 points weaker under APGD-DLR than under PGD with
        the cross-entropy, published ones included, and nobody calls that masking.

    Example:
        >>> Thresholds(margin=0.05, far=0.1).margin
        0.05
    """

    margin: float = 0.02
    far: float = 0.05
    least_accuracy: float = 0.02
    near_zero: float = 0.05
    zero_gradients: float = 0.02
    roughness: float = 0.25
    least_images: int = 10

    def __post_init__(self) -> None:
        for limit in fields(self):
            if limit.name != "least_images":
                check_field(self, limit.name, check_number, 0.0, 1.0)
        check_field(self, "least_images", check_int, 1)
        if self.far < self.margin:
            raise ValueError(f"far must be margin={self.margin} or more, got {self.far}")

    def to_json(self) -> dict[str, Any]:
        """The limits by name."""
        return asdict(self)


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
        return share(right_under_all(self.right))

    def to_json(self) -> dict[str, Any]:
        """As JSON values; bits are packed."""
        return {
            "checks": [check.to_json() for check in self.checks],
            "verdict": self.verdict,
            "masked": self.masked,
            "eps": self.eps,
            "right": {name: pack_bits(bits) for name, bits in self.right.items()},
            "confidence": {name: pack(values) for name, values in self.confidence.items()},
            "measures": {
                name: pack_bits(values) if values.dtype == torch.bool else pack(values)
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
            right={name: unpack_bits(bits) for name, bits in data["right"].items()},
            confidence={name: unpack(text, torch.float32) for name, text in data["confidence"].items()},
            measures={
                name: unpack(packed, torch.float32) if isinstance(packed, str) else unpack_bits(packed)
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


def right_under_all(right: dict[str, Tensor]) -> Tensor:
    """(n,) bool: whether an image is right clean and under every attack of the radius.

    Example:
        >>> right_under_all({"clean": torch.tensor([True, True]), "spsa": torch.tensor([True, False])}).tolist()
        [True, False]
    """
    names = [name for name in right if name in LABELS and not name.startswith("radius") and name != "grey"]
    return torch.stack([right["clean"], *(right[name] for name in names)]).all(0)


#: A status' colour and its letter, which tells it without colours.
STYLE = {PASS: ("#cfe8dc", ""), WARN: ("#ffe2a8", "!"), FAIL: ("#e8896a", "x"), NOT_RUN: ("#f1f1f1", "")}
SHORT = {
    "black-box": "black box",
    "transfer": "transfer",
    "noise": "noise",
    "averaged": "averaged",
    "cross-entropy": "other loss",
    "one-step": "one step",
    "together": "together",
    "large-radius": "radius 0.5",
    "growing-radius": "growing radius",
    "zero-gradients": "no gradient",
    "repeated-calls": "equal calls",
    "rough-surface": "roughness",
}
_MASKED, _REAL, _OPEN = "#B3400A", "#00734F", "#777777"


def audit_grid(audits: Mapping[str, Audit]) -> FigureImage:
    """Models by checks: green passed, yellow warned, red failed, grey not run; with the figure that decided.

    Args:
        audits: model's name to its audit.

    Returns:
        The figure. Numbers are points that the check saw too much; shares of the images for gradients and calls; a
        cosine for roughness.

    Raises:
        ValueError: no audits.

    Example:
        >>> import torch
        >>> from mixaug.evaluate.audit import audit_images
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> audit = audit_images(model, torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1]), eps=0.1)
        >>> audit_grid({"model": audit}).png[1:4]
        b'PNG'
    """
    if not audits:
        raise ValueError("audits must hold one or more, got none")
    figure, axes = new_figure(1.5 + 0.27 * len(audits))
    names = [check.name for check in next(iter(audits.values())).checks]
    for row, audit in enumerate(audits.values()):
        for column, check in enumerate(audit.checks):
            colour, _ = STYLE[check.status]
            axes.add_patch(_cell(column, row, colour))
            text = cell_text(check).replace(" ", "\n")
            axes.text(column, row, text, ha="center", va="center", fontsize=5.8, linespacing=0.85)
        word, colour = verdict_word(audit)
        axes.text(len(names) - 0.4, row, word, ha="left", va="center", fontsize=6.5, color=colour, fontweight="bold")
    axes.set_xlim(-0.5, len(names) + 1.6)
    axes.set_ylim(len(audits) - 0.5, -0.5)
    axes.set_xticks(range(len(names)), [SHORT[name] for name in names], rotation=60, ha="left", fontsize=7)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(audits)), [textwrap.fill(name, 22) for name in audits], fontsize=7)
    axes.tick_params(length=0, pad=2)
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    caption = (
        "Each row a model, each column a check of the audit: green passed, yellow (!) warned, red (x) failed, grey not "
        "run. Numbers: points of accuracy that another attack takes beyond the one it is compared with; percent of the "
        "images for gradients and calls; percent left at a radius of 0.5; the cosine of near gradients."
    )
    return FigureImage(png_of(figure), "The masking audit", caption)


def cell_text(check: Check) -> str:
    """What a cell says: the figure, behind a mark where it is no pass.

    Example:
        >>> cell_text(Check("noise", "", "not run", "", {}, 0.02, ""))
        '-'
    """
    if check.status == NOT_RUN:
        return "-"
    for key in ("difference", "rise"):
        if key in check.figures and check.name != "large-radius":
            return f"{STYLE[check.status][1]} {100 * check.figures[key].value:+z.0f}".strip()
    figure = next(iter(check.figures.values()))
    if check.name == "zero-gradients":  # either loss may be the one without
        figure = max(check.figures.values(), key=float)
    text = f"{figure.value:.2f}" if isinstance(figure, Quantity) else f"{100 * figure.value:.0f}%"
    return f"{STYLE[check.status][1]} {text}".strip()


def verdict_word(audit: Audit) -> tuple[str, str]:
    """``masked``, ``not masked`` or ``open``, and its colour."""
    if audit.masked:
        return "masked", _MASKED
    if audit.verdict.startswith("No verdict"):
        return "no verdict", _OPEN
    return "not masked", _REAL


def _cell(column: int, row: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=colour, edgecolor="none")


#: A sign and a word for each outcome: told apart without colour, on grey paper too.
SIGNS = {"pass": "✓", "warn": "!", "fail": "✗", "not run": "–"}
_LOOKS = {
    True: ("masked", "✗", "Masked: this robustness is not real"),
    False: ("clear", "✓", "Not masked"),
    None: ("open", "?", "Not decided"),
}
_NOT_ROBUST = ("open", "–", "Not masked, and not robust")  # a green tick would be read as safe
SHORT_VERDICTS = {_LOOKS[True][2]: "masked", _NOT_ROBUST[2]: "not robust"}
_PREFIXES = ("Masked", "Not masked", "No verdict")


def outcome(audit: Audit | None) -> bool | None:
    """Whether robustness is masked; None where there was no audit, or none of its checks could compare anything."""
    if audit is None or (not audit.masked and audit.verdict.startswith("No verdict")):
        return None
    return audit.masked


def verdict_reason(audit: Audit) -> str:
    """The verdict without the word that stands before it."""
    word, colon, reason = audit.verdict.partition(": ")
    return reason[:1].upper() + reason[1:] if colon and word in _PREFIXES else audit.verdict


def verdict_text(audit: Audit) -> str:
    """The verdict with its sign, a word and the figure that decides it."""
    _, sign, word = verdict_look(audit)
    return f"{sign} {word}. {verdict_reason(audit)}"


def verdict_look(audit: Audit) -> tuple[str, str, str]:
    """The kind, the sign and the word of a verdict, as the page shows it."""
    found = outcome(audit)
    robust = audit.left.value > audit.thresholds.least_accuracy
    return _LOOKS[found] if robust or found is not False else _NOT_ROBUST
