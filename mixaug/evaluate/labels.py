"""Names of figures as people write them."""

from __future__ import annotations

from collections.abc import Sequence

from mixaug.evaluate.intervals import Estimate

_ATTACKS = {"autoattack": "AutoAttack", "square": "Square"}
_CAPITALS = ("pgd", "fgsm", "cw-", "apgd", "spsa", "kl-pgd")


def attack_label(name: str) -> str:
    """An attack's name as it is written.

    Example:
        >>> attack_label("pgd-20"), attack_label("pgd-20-targeted"), attack_label("autoattack"), attack_label("mine")
        ('PGD-20', 'PGD-20 targeted', 'AutoAttack', 'mine')
    """
    if name in _ATTACKS:
        return _ATTACKS[name]
    if not name.startswith(_CAPITALS):
        return name
    targeted = name.endswith("-targeted")
    return name.removesuffix("-targeted").upper() + (" targeted" if targeted else "")


def interval_text(estimate: Estimate) -> str:
    """The interval without a sign; one image resampled has none.

    Example:
        >>> interval_text(Estimate(0.25, 0.2, 0.31, 200)), interval_text(Estimate(0.25, 0.25, 0.25, 1, "bootstrap"))
        ('20.0 to 31.0', 'not known')
    """
    if estimate.n == 1 and estimate.method.endswith("bootstrap"):
        return "not known"
    return " to ".join(estimate.ends)


def radius_text(eps: float) -> str:
    """A radius as people write it: as a short decimal if it is one, else in grey levels if it is some.

    Example:
        >>> radius_text(8 / 255), radius_text(0.2), radius_text(0.1 / 3)
        ('8/255', '0.2', '0.0333')
    """
    levels = 255 * eps
    if abs(eps - round(eps, 3)) < 1e-9 or abs(levels - round(levels)) > 1e-4:
        return f"{eps:.3g}"
    return f"{round(levels)}/255"


def class_name(label: int, classes: Sequence[str] | None) -> str:
    """The name of a class, or its number where names are not known.

    Example:
        >>> class_name(1, ["cat", "dog"]), class_name(7, ["cat", "dog"])
        ('dog', '7')
    """
    return classes[label] if classes is not None and label < len(classes) else str(label)


def shortened(text: str, length: int = 24) -> str:
    """A long name without its middle, as it stands below a picture.

    Example:
        >>> shortened("a rather long name of a class")
        'a rather long n… a class'
    """
    return text if len(text) <= length else text[: length - 9] + "…" + text[-8:]
