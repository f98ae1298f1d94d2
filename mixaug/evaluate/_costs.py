"""How much work each part of an evaluation is, so that its progress can say how long the rest takes.

The unit is one image that passes the model forward; with the way back it is three.
"""

from __future__ import annotations

from mixaug.attacks import APGD, CWL2, SPSA, AutoAttack, Square
from mixaug.evaluate._choices import Attack

CLEAN = 1.0
#: Made and judged, measured as a mean over the corruptions with a small model at 32 px.
CORRUPTED = 2.0
#: Both attacks of a radius; about half of their steps are not needed.
RADIUS = 60.0
LIPSCHITZ = 60.0
#: Three radii, each with an attack of 20 steps and a grid of 625 points.
SURFACE = 3 * (60.0 + 625.0)
#: The 31 frames of a sequence, made and judged.
SEQUENCE = 31 * 2.0
OCCLUDED = 10.0
FEATURES = 2.0
MAPS = 6.0

_STEP = 3.0
_AUDIT = {
    "clean": 4.0, "gradients": 9.0, "fgsm": 3.0, "square": 1000.0, "spsa": 320.0, "noise": 8.0, "grey": 1.0,
    "apgd-ce": 90.0, "apgd-dlr": 90.0,
}  # fmt: skip


def of_attack(attack: Attack) -> float:
    """Of one image under an attack, if it holds out to the end.

    Example:
        >>> from mixaug.attacks import FGSM, PGD
        >>> of_attack(FGSM()), of_attack(PGD(steps=20))
        (3.0, 60.0)
    """
    if isinstance(attack, AutoAttack):
        return 1900 * _STEP + 6000
    if isinstance(attack, Square):
        return float(attack.queries * attack.restarts)
    if isinstance(attack, SPSA):
        return 2.0 * attack.samples * attack.steps
    if isinstance(attack, CWL2):
        return _STEP * attack.steps * attack.search_steps
    steps = getattr(attack, "steps", 1)
    return _STEP * (steps if isinstance(steps, int) else 1) * (attack.restarts if isinstance(attack, APGD) else 1)


def of_audit(piece: str) -> float:
    """Of one image in a piece of the audit; one that is left out takes none, which is not known before."""
    return _AUDIT.get(piece, 20 * _STEP)
