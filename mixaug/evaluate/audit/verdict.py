"""The verdict of an audit in one sentence, with the figure that decides it."""

from __future__ import annotations

from collections.abc import Sequence

from mixaug.evaluate.audit.attacks import LABELS
from mixaug.evaluate.audit.evidence import Evidence
from mixaug.evaluate.audit.result import FAIL, NOT_RUN, Check
from mixaug.evaluate.intervals import Estimate

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
