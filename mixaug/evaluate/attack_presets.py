"""The named sets of attacks, and how many images each set is run on."""

from __future__ import annotations

from mixaug.attacks import APGD, CWL2, FGSM, PGD, SPSA, AutoAttack, CWLinf, Square
from mixaug.attacks.attack import Attack

__all__ = ["ATTACK_PRESETS", "USUAL_COUNTS", "black_box", "least_classes", "of_this_package", "preset_attacks"]

ATTACK_PRESETS = ("pgd", "quick", "standard", "autoattack")
#: Images that a preset is run on if no number is given; all if there are fewer. None: all.
USUAL_COUNTS: dict[str, int | None] = {"pgd": None, "quick": 1000, "standard": 500, "autoattack": 500}
_QUICK_QUERIES = 200


def preset_attacks(preset: str, eps: float) -> list[Attack]:
    """The attacks of a preset.

    ``pgd``: PGD-20. ``quick``: FGSM, PGD-20 with cross-entropy and with the margin (CW-20), Square of 200 queries.
    ``standard``, those of the papers: FGSM, PGD-20, PGD-100, CW-20, CW-L2, SPSA, APGD-CE, APGD-DLR and Square of 5,000
    queries. ``autoattack``: AutoAttack, the cascade of Croce and Hein, ICML 2020.

    Convention: steps of PGD and CW are a quarter of ``eps``. Each attack is run on all images that are right without
    one, so that the attacks can be compared; only AutoAttack, inside, hands what is left to its next attack.

    Args:
        preset: one of ``ATTACK_PRESETS``.
        eps: radius in [0, 1].

    Raises:
        ModuleNotFoundError: APGD, Square and AutoAttack need ``pyautoattack``; the message says what to install.

    Example:
        >>> [attack.name for attack in preset_attacks("quick", 8 / 255)]
        ['fgsm', 'pgd-20', 'cw-20', 'square']
    """
    pgd = PGD(eps=eps, step_size=eps / 4, steps=20)
    cw = CWLinf(eps=eps, step_size=eps / 4, steps=20)
    if preset == "pgd":
        return [pgd]
    if preset == "quick":
        return [FGSM(eps=eps), pgd, cw, Square(eps=eps, queries=_QUICK_QUERIES, rescale=True)]
    if preset == "standard":
        return [
            FGSM(eps=eps),
            pgd,
            PGD(eps=eps, step_size=eps / 4, steps=100),
            cw,
            CWL2(steps=50),
            SPSA(eps=eps, steps=20, early_stop=True),
            APGD(eps=eps, loss="ce"),
            APGD(eps=eps, loss="dlr"),
            Square(eps=eps, queries=5000),
        ]
    return [AutoAttack(eps=eps)]


def black_box(attack: object) -> bool:
    """Whether an attack needs no gradient, as far as is known.

    Example:
        >>> black_box(SPSA()), black_box(PGD())
        (True, False)
    """
    return isinstance(attack, SPSA | Square)


def of_this_package(attack: object) -> bool:
    """Whether an attack is of :mod:`mixaug.attacks`.

    Example:
        >>> of_this_package(PGD()), of_this_package(lambda model, images, labels: images)
        (True, False)
    """
    return isinstance(attack, Attack)


def least_classes(attack: object) -> int:
    """How many classes an attack needs.

    Example:
        >>> least_classes(PGD()), least_classes(APGD(loss="dlr")), least_classes(AutoAttack())
        (2, 3, 4)
    """
    return int(getattr(attack, "_least_classes", 2)) if of_this_package(attack) else 2
