"""The adversary of a training run: what each method attacks with when the settings leave it open."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ADVERSARIAL_METHODS", "AUGMENTED_METHODS", "Adversary", "resolve"]

#: Methods that attack the model in each step.
ADVERSARIAL_METHODS = ("dynamic-mixcut", "pgd", "trades", "feature-scatter", "hybrid")
#: Methods whose augmented batch can be attacked on top (``adversarial``).
AUGMENTED_METHODS = ("mixup", "cutmix", "augmix", "ipmix")
#: Attacks of the hybrid method.
HYBRID_ATTACKS = ("fgsm", "pgd")
#: Settings that one method alone has: their method and default.
OWN_SETTINGS = {"hybrid_attack": ("hybrid", "fgsm"), "trades_beta": ("trades", 6.0), "boxes": ("dynamic-mixcut", 2)}
#: Methods that take hard labels of their own images, so that a smoothing of them can be chosen.
_SMOOTHED = {"pgd": 0.0, "feature-scatter": 0.5, "dynamic-mixcut": 0.1}


@dataclass(frozen=True)
class Adversary:
    """An adversary with every setting decided.

    Args:
        eps: full radius, in pixels of [0, 1].
        step_size: of an attack of several steps at the full radius.
        steps: of the attack; 1 for the methods of one step.
        targeted: towards a random other class.
        eps_schedule: shape of the radius over the epochs, see :class:`mixaug.losses.EpsSchedule`.
        smoothing: of the labels that the model is trained on.

    Example:
        >>> Adversary(8 / 255, 2 / 255, 10, False, "constant", 0.0).steps
        10
    """

    eps: float
    step_size: float
    steps: int
    targeted: bool
    eps_schedule: str
    smoothing: float


def resolve(
    method: str,
    hybrid_attack: str | None,
    *,
    eps: float | None,
    step_size: float | None,
    steps: int | None,
    targeted: bool | None,
    eps_schedule: str | None,
    smoothing: float | None,
) -> Adversary:
    """The adversary of a method: its paper's values where an argument is None.

    PGD-10 with eps 8/255 and a quarter of it as step; targeted at a random other class for ``dynamic-mixcut``. The
    hybrid method's eps is 0.03 and rises linearly over the run; the others' is constant. Labels are smoothed by 0.1 for
    ``dynamic-mixcut``, by 0.5 for ``feature-scatter``.

    Args:
        method: of the run, one with an adversary.
        hybrid_attack: ``"fgsm"`` or ``"pgd"`` for the method hybrid, else None.
        eps, step_size, steps, targeted, eps_schedule, smoothing: as in :class:`Adversary`; None: the method's own.

    Returns:
        the adversary.

    Raises:
        ValueError: an argument that the method has no use for.

    Example:
        >>> open_ = dict(eps=None, step_size=None, steps=None, targeted=None, eps_schedule=None, smoothing=None)
        >>> resolve("dynamic-mixcut", None, **open_).targeted, resolve("hybrid", "fgsm", **open_).eps
        (True, 0.03)
    """
    one_step = method == "feature-scatter" or (method == "hybrid" and hybrid_attack == "fgsm")
    # TRADES goes up a divergence that knows no class; mixed labels have no "other" class.
    no_target = one_step or method in ("trades", "mixup", "cutmix")
    refused = {
        "step_size": one_step and step_size is not None,
        "attack_steps": one_step and steps is not None,
        "targeted": no_target and bool(targeted),
        "smoothing": method not in _SMOOTHED and smoothing is not None,
    }
    for name, wrong in refused.items():
        if wrong:
            how = f"{method} with hybrid_attack fgsm" if method == "hybrid" and name != "smoothing" else method
            raise ValueError(f"{name} must be left out for the method {how}: it has none")
    radius = eps if eps is not None else (0.03 if method == "hybrid" else 8 / 255)
    return Adversary(
        eps=radius,
        step_size=radius if one_step else (step_size if step_size is not None else radius / 4),
        steps=1 if one_step else (steps if steps is not None else 10),
        targeted=method == "dynamic-mixcut" if targeted is None else targeted,
        eps_schedule=eps_schedule or ("linear" if method == "hybrid" else "constant"),
        smoothing=_SMOOTHED.get(method, 0.0) if smoothing is None else smoothing,
    )
