"""The rules by which an evaluation tells robustness from masked gradients, their evidence and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mixaug.evaluate.audit.attacks import (
    ADAPTED,
    BLACK_BOX,
    ENTROPIES,
    LABELS,
    LARGE,
    MANY_STEPS,
    ONE_STEP,
    REPORTED,
    WHITE_BOX,
)
from mixaug.evaluate.audit.result import FAIL, NOT_RUN, PASS, WARN, Check, Thresholds, right_under_all, strongest_of
from mixaug.evaluate.intervals import Estimate, Quantity, bootstrap_means, share


@dataclass(frozen=True)
class Evidence:
    """What the attacks left, for the rules.

    Args:
        right: attack's name (``"clean"`` for none) to (n,) bool.
        measures: as :class:`~mixaug.evaluate.audit.Audit` keeps them.
        left_out: attack's name to the reason why it was not run.
        eps: radius.
        thresholds: limits.
        seed: of the bootstrap's draws.
    """

    right: dict[str, Tensor]
    measures: dict[str, Tensor]
    left_out: dict[str, str]
    eps: float
    thresholds: Thresholds
    seed: int = 0

    def accuracy(self, name: str) -> Estimate:
        """Accuracy over all images."""
        return share(self.right[name])

    def difference(self, first: Tensor, second: Tensor) -> Estimate:
        """Accuracy in ``first`` less that in ``second``, on the same images, with its paired bootstrap interval."""
        columns = (first.double() - second.double())[:, None]
        return bootstrap_means(columns, seed=self.seed, method="paired bootstrap")[0]

    @property
    def strongest(self) -> str:
        """The gradient attack that leaves the least."""
        name = strongest_of(self.right, WHITE_BOX)
        if name is None:
            raise ValueError("right must hold a gradient attack, got none")
        return name

    @property
    def too_few(self) -> str | None:
        """Why nothing can be compared, if so."""
        least, found = self.thresholds.least_images, int(self.right["clean"].sum())
        if found >= least:
            return None
        return f"The model gets {found} of the {len(self.right['clean'])} images right, and {least} are needed."

    @property
    def nothing_left(self) -> str | None:
        """Why no robustness can be lost, if so."""
        if self.too_few:
            return self.too_few
        left = self.accuracy(self.strongest)
        if left.value > self.thresholds.least_accuracy:
            return None
        return f"{LABELS[self.strongest]} leaves {left.text} of the images: there is no robustness to lose."


_ATHALYE = "Athalye, Carlini, Wagner, ICML 2018 (arXiv:1802.00420)"
_CARLINI = "Carlini et al., On evaluating adversarial robustness, 2019 (arXiv:1902.06705)"
_CROCE = "Croce, Hein, ICML 2020 (arXiv:2003.01690)"
_PAPERNOT = "Papernot et al., AsiaCCS 2017 (arXiv:1602.02697)"
_TRAMER_2018 = "Tramèr et al., Ensemble adversarial training, ICLR 2018 (arXiv:1705.07204)"
_TRAMER = "Tramèr, Carlini, Brendel, Madry, On adaptive attacks, NeurIPS 2020 (arXiv:2002.08347)"
_UESATO = "Uesato et al., ICML 2018 (arXiv:1802.05666)"
_MOSBACH = "Mosbach et al., 2018 (arXiv:1810.12042)"
_QIN = "Qin et al., Local linearization, NeurIPS 2019 (arXiv:1907.02610)"

#: Name of a check, what it asks, and where the rule comes from.
RULES = {
    "black-box": ("Black box stronger than gradients", f"{_ATHALYE}; {_CARLINI}; {_UESATO}"),
    "transfer": ("Transfer stronger than gradients", f"{_PAPERNOT}; {_CARLINI}"),
    "noise": ("Random noise as strong as the attack", _CARLINI),
    "averaged": ("Averaged gradients stronger", _ATHALYE),
    "cross-entropy": ("Another gradient attack far stronger than PGD-20", f"{_CROCE}; {_MOSBACH}"),
    "one-step": ("One step stronger than many", f"{_ATHALYE}; {_TRAMER_2018}"),
    "together": ("All attacks together far stronger than the strongest", f"{_TRAMER}; {_CROCE}"),
    "large-radius": ("Accuracy left at a radius of 0.5", f"{_ATHALYE}; {_CARLINI}"),
    "growing-radius": ("Accuracy that does not fall as the radius grows", _CARLINI),
    "zero-gradients": ("Images without any gradient", _ATHALYE),
    "repeated-calls": ("Equal calls that differ", _ATHALYE),
    "rough-surface": ("Rough loss surface", f"{_TRAMER_2018}; {_QIN}"),
}


def all_checks(evidence: Evidence) -> tuple[Check, ...]:
    """Every rule, in the order of :data:`RULES`.

    Example:
        >>> import torch
        >>> from mixaug.evaluate.audit.result import Thresholds
        >>> right = {"clean": torch.tensor([True, False])}
        >>> zero = {name: torch.tensor([False, False]) for name in ("zero-ce", "zero-margin", "changed", "turned")}
        >>> found = all_checks(Evidence(right, {**zero, "cosine": torch.ones(2)}, {}, 0.1, Thresholds()))
        >>> [check.status for check in found if check.name in ("black-box", "zero-gradients")]
        ['not run', 'pass']
    """
    return (
        _black_box(evidence),
        _transfer(evidence),
        _noise(evidence),
        _averaged(evidence),
        _cross_entropy(evidence),
        _one_step(evidence),
        _together(evidence),
        _large_radius(evidence),
        _growing_radius(evidence),
        _zero_gradients(evidence),
        _repeated_calls(evidence),
        _rough_surface(evidence),
    )


def _black_box(evidence: Evidence) -> Check:
    other = strongest_of(evidence.right, BLACK_BOX)
    missing = " ".join(evidence.left_out[name] for name in BLACK_BOX if name in evidence.left_out)
    found = _against_strongest("black-box", evidence, other, missing)
    if other is None or not missing:
        return found
    return _with_reason(found, f"{found.reason} {missing}")


def _transfer(evidence: Evidence) -> Check:
    other = "transfer" if "transfer" in evidence.right else None
    return _against_strongest("transfer", evidence, other, evidence.left_out.get("transfer", ""))


def _averaged(evidence: Evidence) -> Check:
    other = "averaged" if "averaged" in evidence.right else None
    return _against_strongest("averaged", evidence, other, evidence.left_out.get("averaged", ""))


def _noise(evidence: Evidence) -> Check:
    """Noise that hurts is a yardstick: an attack that does no more than it has found no direction."""
    margin = evidence.thresholds.margin
    if evidence.nothing_left or "noise" not in evidence.right:
        return _check("noise", NOT_RUN, evidence.nothing_left or evidence.left_out["noise"], {}, margin)
    name, right = evidence.strongest, evidence.right
    cost = evidence.difference(right["clean"], right["noise"])
    lead = evidence.difference(right[name], right["noise"])
    figures = {
        LABELS[name]: evidence.accuracy(name),
        LABELS["noise"]: evidence.accuracy("noise"),
        "cost of noise": cost,
        "difference": lead,
    }
    words = (
        f"Random noise takes {cost.text[:-1]} points of the clean accuracy, {LABELS[name]} "
        f"{100 * (cost.value - lead.value):.1f}."
    )
    if not _beyond(cost, margin) or lead.value <= -margin:
        return _check("noise", PASS, words, figures, margin)
    status = FAIL if lead.value >= 0 else WARN
    return _check("noise", status, words, figures, margin, decides=_beyond(lead, margin))


def _cross_entropy(evidence: Evidence) -> Check:
    """PGD with the cross-entropy is what papers report: a saturated softmax stops it. A flat one hides no gradient."""
    limits = evidence.thresholds
    entropy = strongest_of(evidence.right, ENTROPIES)
    other = strongest_of(evidence.right, tuple(name for name in WHITE_BOX if name not in ENTROPIES))
    if evidence.too_few or entropy is None or other is None:
        return _check("cross-entropy", NOT_RUN, evidence.too_few or "Not run.", {}, limits.far)
    if evidence.accuracy(entropy).value <= limits.least_accuracy:
        reason = f"{LABELS[entropy]} leaves {evidence.accuracy(entropy).text}: there is no robustness to lose."
        return _check("cross-entropy", NOT_RUN, reason, {}, limits.far)
    check = _compare("cross-entropy", evidence, entropy, other, "with the cross-entropy, leaves", far=True)
    missing = " ".join(evidence.left_out[name] for name in ADAPTED[:2] if name in evidence.left_out)
    return _with_reason(check, f"{check.reason} {missing}".strip())


def _one_step(evidence: Evidence) -> Check:
    many = strongest_of(evidence.right, MANY_STEPS)
    if evidence.too_few or many is None:
        return _check("one-step", NOT_RUN, evidence.too_few or "Not run.", {}, evidence.thresholds.margin)
    if evidence.accuracy(many).value <= evidence.thresholds.least_accuracy:
        reason = f"{LABELS[many]} leaves {evidence.accuracy(many).text}: there is no robustness to lose."
        return _check("one-step", NOT_RUN, reason, {}, evidence.thresholds.margin)
    return _compare("one-step", evidence, many, ONE_STEP, "the strongest with many steps, leaves")


def _together(evidence: Evidence) -> Check:
    """Attacks that all find the way fool the same images; if each fools others, none of them found it."""
    limits = evidence.thresholds
    random = bool(evidence.measures["changed"].any())
    why = evidence.nothing_left or (
        "Equal calls differ, so that every further attack fools some images by chance." if random else None
    )
    if why:
        return _check("together", NOT_RUN, why, {}, limits.far)
    name = evidence.strongest
    left = right_under_all(evidence.right)
    lead = evidence.difference(evidence.right[name], left)
    figures = {LABELS[name]: evidence.accuracy(name), "all together": share(left), "difference": lead}
    words = (
        f"All attacks together leave {share(left).text} of the images, {LABELS[name]}, the strongest gradient attack, "
        f"{evidence.accuracy(name).text}: {_points(lead)}."
    )
    status = _status(lead, limits.far, limits.margin)
    return _check("together", status, words, figures, limits.far, decides=True)


def _large_radius(evidence: Evidence) -> Check:
    """At 0.5 every image can be made the same grey picture, which is an attack that needs no gradient."""
    limits = evidence.thresholds
    if evidence.nothing_left or "grey" not in evidence.right:
        reason = evidence.nothing_left or evidence.left_out.get("grey", "Not run.")
        return _check("large-radius", NOT_RUN, reason, {}, limits.near_zero)
    name = "radius-large"
    left, grey = evidence.accuracy(name), evidence.accuracy("grey")
    lead = evidence.difference(evidence.right[name], evidence.right["grey"])
    figures = {"accuracy at 0.5": left, LABELS["grey"]: grey, "difference": lead}
    words = f"At a radius of {LARGE} gradient attacks leave {left.text} of the images, {LABELS['grey']} {grey.text}."
    if _beyond(lead, limits.margin):
        return _check("large-radius", FAIL, words, figures, limits.near_zero, decides=True)
    status = WARN if left.value > limits.near_zero else PASS
    return _check("large-radius", status, words, figures, limits.near_zero)


def _growing_radius(evidence: Evidence) -> Check:
    """A larger ball holds the smaller one: an attack that leaves more in it has failed there."""
    margin = evidence.thresholds.margin
    ladder = curve(evidence.right, evidence.eps)
    if evidence.nothing_left or len(ladder) < 2:
        return _check("growing-radius", NOT_RUN, evidence.nothing_left or "Not run.", {}, margin)
    figures = {f"at {radius:.3g}": share(right) for radius, right in ladder.items()}
    rises = [
        (evidence.difference(ladder[large], ladder[small]), small, large)
        for small in ladder
        for large in ladder
        if small < large
    ]
    rise, small, large = max(rises, key=lambda entry: entry[0].value)
    words = ", ".join(f"{figure.text} at {radius:.3g}" for radius, figure in zip(ladder, figures.values(), strict=True))
    if _beyond(rise, margin):
        reason = f"Accuracy rises by {_points(rise)} from a radius of {small:.3g} to {large:.3g}: {words}."
        return _check("growing-radius", FAIL, reason, {**figures, "rise": rise}, margin, decides=True)
    last = list(ladder)[-1]
    fall = evidence.difference(evidence.right["clean"], ladder[last])
    flat = share(ladder[last]).value > evidence.thresholds.near_zero and not _beyond(fall, margin)
    reason = f"Accuracy {'stays' if flat else 'falls'}: {words}."
    return _check("growing-radius", WARN if flat else PASS, reason, {**figures, "rise": rise}, margin)


def _zero_gradients(evidence: Evidence) -> Check:
    limit = evidence.thresholds.zero_gradients
    ce, margin = share(evidence.measures["zero-ce"]), share(evidence.measures["zero-margin"])
    figures = {"no gradient": margin, "no gradient of the cross-entropy": ce}
    words = f"{margin.text} of the images have no gradient in any pixel, {ce.text} none of the cross-entropy."
    status = FAIL if margin.low > limit else WARN if max(ce.value, margin.value) > limit else PASS
    return _check("zero-gradients", status, words, figures, limit)


def _repeated_calls(evidence: Evidence) -> Check:
    changed, turned = share(evidence.measures["changed"]), share(evidence.measures["turned"])
    if changed.value == 0:
        return _check("repeated-calls", PASS, "Equal calls give equal logits.", {"logits differ": changed}, 0.0)
    words = (
        f"Equal calls give other logits on {changed.text} of the images, another prediction on {turned.text}: the "
        "model draws random numbers, and is right where it is right every time."
    )
    figures = {"logits differ": changed, "predictions differ": turned}
    return _check("repeated-calls", WARN, words, figures, 0.0)


def _rough_surface(evidence: Evidence) -> Check:
    limit = evidence.thresholds.roughness
    cosine = evidence.measures["cosine"]
    cosine = cosine[~cosine.isnan()]
    if len(cosine) == 0:
        return _check("rough-surface", NOT_RUN, "No image has a gradient.", {}, limit)
    mean = Quantity(**vars(bootstrap_means(cosine[:, None], seed=evidence.seed)[0]))
    words = (
        f"The gradients at near points (a quarter of the radius apart) have a mean cosine of {mean.value:.2f} on "
        f"{mean.n} images."
    )
    status = WARN if mean.high < limit else PASS
    return _check("rough-surface", status, words, {"cosine": mean}, limit)


def curve(right: dict[str, Tensor], eps: float) -> dict[float, Tensor]:
    """Radius, ascending, to (n,) bool: right under PGD-20 with both losses there; empty if that was not run.

    Example:
        >>> import torch
        >>> bits = {"pgd-ce": torch.tensor([True]), "pgd-margin": torch.tensor([False])}
        >>> curve({**bits, "radius-half": torch.tensor([True])}, 0.1)
        {0.05: tensor([True]), 0.1: tensor([False])}
    """
    found = {}
    if "radius-half" in right:
        found[eps / 2] = right["radius-half"]
    if REPORTED in right and "pgd-margin" in right:
        found[eps] = right[REPORTED] & right["pgd-margin"]
    if "radius-double" in right:
        found[2 * eps] = right["radius-double"]
    if "radius-large" in right:
        found[LARGE] = right["radius-large"]
    return found


def _against_strongest(name: str, evidence: Evidence, other: str | None, missing: str) -> Check:
    if evidence.nothing_left or other is None:
        return _check(name, NOT_RUN, evidence.nothing_left or missing, {}, evidence.thresholds.margin)
    return _compare(name, evidence, evidence.strongest, other, "the strongest gradient attack, leaves")


def _compare(name: str, evidence: Evidence, weak: str, strong: str, words: str, far: bool = False) -> Check:
    """Fails where ``strong``, which should not be, is stronger than ``weak``."""
    limits = evidence.thresholds
    lead = evidence.difference(evidence.right[weak], evidence.right[strong])
    first, second = evidence.accuracy(weak), evidence.accuracy(strong)
    limit = limits.far if far else limits.margin
    status = _status(lead, limit, limits.margin if far else 0.0)
    figures = {LABELS[weak]: first, LABELS[strong]: second, "difference": lead}
    reason = (
        f"{_capital(LABELS[strong])} leaves {second.text} of the images where {LABELS[weak]}, {words} {first.text}: "
        f"{_points(lead)}."
    )
    return _check(name, status, reason, figures, limit, decides=True)


def _status(lead: Estimate, limit: float, above: float) -> str:
    """Fail beyond the limit with an interval above ``above``; warn beyond the limit with one that reaches lower."""
    if lead.value <= limit:
        return PASS
    return FAIL if lead.low > above else WARN


def _beyond(lead: Estimate, margin: float) -> bool:
    return _status(lead, margin, 0.0) == FAIL


def _points(lead: Estimate) -> str:
    low, high = lead.ends
    return f"{lead.change} points [{low}, {high}]"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _check(
    name: str, status: str, reason: str, figures: dict[str, Estimate], threshold: float, decides: bool = False
) -> Check:
    label, source = RULES[name]
    return Check(name, label, status, reason, figures, threshold, source, decides)


def _with_reason(check: Check, reason: str) -> Check:
    return Check(**{**vars(check), "reason": reason})


#: Checks that compare an attack with the strongest gradient attack.
_COMPARED = ("black-box", "transfer", "averaged", "together", "cross-entropy", "one-step")


def verdict_of(checks: Sequence[Check], evidence: Evidence) -> str:
    """The sentence.

    Args:
        checks: of the audit.
        evidence: that they were made from.

    Returns:
        ``Masked: ...`` with the decisive check of the largest difference, ``Not masked: ...``, or ``No verdict: ...``
        with too few images.
    """
    failed = [check for check in checks if check.status == FAIL and check.decides]
    if failed:
        return f"Masked: {max(failed, key=_size).reason}"
    if evidence.too_few:
        return f"No verdict: {_small(evidence.too_few)}"
    if evidence.nothing_left:
        return f"Not masked: {evidence.nothing_left}"
    name = evidence.strongest
    words = (
        f"Not masked: no other attack leaves less than {LABELS[name]}, the strongest gradient attack with "
        f"{evidence.accuracy(name)}, by more than the margin"
    )
    compared = [check for check in checks if check.name in _COMPARED[:3] and check.status != NOT_RUN]
    if compared:
        check = max(compared, key=_size)
        other = list(check.figures)[1]
        words += f"; the closest, {other}, leaves {check.figures[other].text}"
    words += "."
    doubts = [check for check in checks if check.status == FAIL]
    return " ".join([words, *(f"But: {_small(check.reason)}" for check in doubts)])


def _size(check: Check) -> float:
    """How much the check saw too much, as a share of the images."""
    found: Estimate | None = check.figures.get("difference", check.figures.get("rise"))
    return -1.0 if found is None else found.value


def _small(text: str) -> str:
    return text[0].lower() + text[1:]
