"""Checks of a run's settings, before any work: each error names the setting, its rule and the value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mixaug._checks import (
    ABOVE_ZERO,
    BELOW_ONE,
    MAX_BATCH,
    MAX_BOXES,
    MAX_CHAINS,
    MAX_COUNT,
    MAX_SEED,
    MAX_SIDE,
    MAX_THREADS,
    bytes_hint,
    check_choice,
    check_choices,
    check_count_range,
    check_field,
    check_flag,
    check_int,
    check_number,
)
from mixaug.losses import SHAPES as EPS_SHAPES
from mixaug.models.activation import ACTIVATIONS, GRANULARITIES, NEW_LAYERS, PLACEMENTS
from mixaug.train import learned_mixing
from mixaug.train.adversary import ADVERSARIAL_METHODS, AUGMENTED_METHODS, HYBRID_ATTACKS, OWN_SETTINGS
from mixaug.train.schedules import SCHEDULES
from mixaug.transforms.ipmix import LEVELS, STRUCTURES

if TYPE_CHECKING:
    from mixaug.train.settings import TrainSettings

#: Methods of ``mixaug train``, in the order of its help. Their steps are in ``mixaug.train.methods``.
METHOD_NAMES = ("standard", *AUGMENTED_METHODS, *ADVERSARIAL_METHODS, learned_mixing.METHOD)
#: Methods with an augmented view of each image, for which the Jensen-Shannon loss is defined.
CONSISTENT_METHODS = ("augmix", "ipmix")
#: Precisions of the forward pass.
AMP = ("off", "bf16", "fp16")
OPTIMIZERS = ("sgd", "adam")
#: Default learning rate and weight decay of each: Adam's are those of the D-ReLU paper.
_WEIGHTS = {"sgd": (0.1, 5e-4), "adam": (1e-3, 0.0)}
#: Settings that only runs with D-ReLU have, with their defaults there.
_DRELU = {"drelu_init": 100.0, "drelu_quantile": None, "drelu_lambda": 0.1, "drelu_m_lr": None}
#: Whole numbers of all runs, and those that may be None, with their bounds.
_COUNTS = {
    "epochs": (1, MAX_COUNT), "batch_size": (2, MAX_BATCH), "seed": (0, MAX_SEED), "k": (1, MAX_CHAINS),
    "t": (1, MAX_CHAINS), "workers": (0, MAX_THREADS), "warmup": (0, MAX_COUNT),
}  # fmt: skip
_OPTIONAL_COUNTS = {
    "steps": (1, MAX_COUNT), "limit": (1, MAX_COUNT), "padding": (0, MAX_SIDE), "image_size": (1, MAX_SIDE),
}  # fmt: skip
#: Settings that are on or off in every run.
_FLAGS = ("plateau", "channels_last", "jsd", "all_ops", "adversarial")
_EXTRA_SHARE = 0.7  # of the D-ReLU paper's runs with generated images


def _decide(settings: TrainSettings, name: str, value: Any) -> None:
    object.__setattr__(settings, name, value)


def check_numbers(settings: TrainSettings) -> None:
    """Raises unless what all runs have is right; decides the optimiser's defaults.

    Args:
        settings: while they are made.
    """
    check_field(settings, "method", check_choice, METHOD_NAMES)
    check_field(settings, "amp", check_choice, AMP)
    check_field(settings, "structure", check_choice, STRUCTURES)
    check_field(settings, "schedule", check_choice, SCHEDULES)
    check_field(settings, "levels", check_choices, LEVELS)
    for name, (low, high) in _COUNTS.items():
        check_field(settings, name, check_int, low, high)
    for name, (low, high) in _OPTIONAL_COUNTS.items():
        check_field(settings, name, check_int, low, high, optional=True)
    for name in _FLAGS:
        check_field(settings, name, check_flag)
    check_field(settings, "optimizer", check_choice, OPTIMIZERS)
    lr, decay = _WEIGHTS[settings.optimizer]
    if settings.lr is None:
        _decide(settings, "lr", lr)
    if settings.weight_decay is None:
        _decide(settings, "weight_decay", decay)
    check_field(settings, "lr", check_number, ABOVE_ZERO, math.inf)
    check_field(settings, "momentum", check_number, 0.0, BELOW_ONE)
    check_field(settings, "weight_decay", check_number, 0.0, math.inf)
    check_field(settings, "jsd_weight", check_number, 0.0, math.inf)
    check_field(settings, "alpha", check_number, ABOVE_ZERO, math.inf)
    check_field(settings, "lr_decay", check_number, ABOVE_ZERO, 1.0)
    check_field(settings, "validation", check_number, ABOVE_ZERO, 0.5)
    if settings.plateau and (settings.schedule != "cosine" or settings.warmup):
        raise ValueError("plateau must be used without schedule and warmup: it decides the learning rate")
    if settings.severity is not None:
        check_field(settings, "severity", check_number, 0.1, 10.0)
    if settings.jsd and settings.method not in CONSISTENT_METHODS:
        raise ValueError(f"jsd must be used with one of {', '.join(CONSISTENT_METHODS)}, got {settings.method!r}")


def check_activation(settings: TrainSettings) -> None:
    """Raises unless the settings of the activation and of the extra data fit each other; decides their defaults.

    Args:
        settings: while they are made.
    """
    check_field(settings, "activation", check_choice, ACTIVATIONS)
    drelu = settings.activation == "drelu"
    if settings.placement is None and drelu:
        _decide(settings, "placement", "head")
    if settings.placement is not None:
        check_field(settings, "placement", check_choice, PLACEMENTS if drelu else tuple(NEW_LAYERS))
    for name, default in _DRELU.items():
        if not drelu and getattr(settings, name) is not None:
            raise ValueError(
                f"{name} must be used with the activation drelu, got the activation {settings.activation!r}"
            )
        if drelu and getattr(settings, name) is None:
            _decide(settings, name, default)
    if settings.drelu_init is not None:
        check_field(settings, "drelu_init", check_number, ABOVE_ZERO, math.inf)
    for name, high in (("drelu_quantile", 1.0), ("drelu_lambda", math.inf), ("drelu_m_lr", math.inf)):
        if getattr(settings, name) is not None:
            check_field(settings, name, check_number, 0.0, high)
    new = settings.placement in NEW_LAYERS
    instead = settings.placement is not None and not new
    defaults = {"extra_features": NEW_LAYERS.get(settings.placement or ""), "granularity": "channel"}
    for name, fits in (("extra_features", new), ("granularity", instead)):
        if fits and getattr(settings, name) is None:
            _decide(settings, name, defaults[name])
        elif not fits and getattr(settings, name) is not None:
            places = ", ".join(place for place in PLACEMENTS if (place in NEW_LAYERS) == (name == "extra_features"))
            raise ValueError(f"{name} must be used with one of the placements {places}, got {settings.placement!r}")
    if settings.extra_features is not None:
        check_field(settings, "extra_features", check_int, 1, MAX_COUNT)
    if settings.granularity is not None:
        check_field(settings, "granularity", check_choice, GRANULARITIES)
    if settings.extra_data is None and settings.extra_share is not None:
        raise ValueError(f"extra_share must be used with extra_data, got {settings.extra_share} without")
    if settings.extra_data is not None:
        if settings.extra_share is None:
            _decide(settings, "extra_share", _EXTRA_SHARE)
        check_field(settings, "extra_share", check_number, ABOVE_ZERO, 1.0)


def check_adversary(settings: TrainSettings) -> None:
    """Raises unless the settings of the attack fit the method; decides those that the method alone has.

    Args:
        settings: while they are made.
    """
    for name, (method, default) in OWN_SETTINGS.items():
        if settings.method == method and getattr(settings, name) is None:
            _decide(settings, name, default)
        elif settings.method != method and getattr(settings, name) is not None:
            raise ValueError(f"{name} must be used with the method {method}, got the method {settings.method!r}")
    if settings.hybrid_attack is not None:
        check_field(settings, "hybrid_attack", check_choice, HYBRID_ATTACKS)
    if settings.trades_beta is not None:
        check_field(settings, "trades_beta", check_number, 0.0, math.inf)
    if settings.boxes is not None:
        low, high = check_count_range("boxes", settings.boxes, MAX_BOXES)
        _decide(settings, "boxes", low if low == high else (low, high))
    check_field(settings, "robust_images", check_int, 0, MAX_COUNT)
    for name in ("eps", "step_size"):
        if getattr(settings, name) is not None:
            check_field(settings, name, check_number, ABOVE_ZERO, 1.0, bytes_hint)
    if settings.attack_steps is not None:
        check_field(settings, "attack_steps", check_int, 1, MAX_COUNT)
    if settings.smoothing is not None:
        check_field(settings, "smoothing", check_number, 0.0, 1.0)
    if settings.eps_schedule is not None:
        check_field(settings, "eps_schedule", check_choice, EPS_SHAPES)
    if settings.adversarial and settings.method not in AUGMENTED_METHODS:
        known = ", ".join(AUGMENTED_METHODS)
        raise ValueError(f"adversarial must be used with one of {known}, got the method {settings.method!r}")
    if settings.adversarial and settings.jsd:
        raise ValueError("adversarial must be used without jsd: its three views have no one attack")
    if settings.method == "hybrid" and not settings.robust_images:
        raise ValueError("robust_images must be at least 1 for the method hybrid, whose alpha it decides, got 0")
    if settings.adversary is None:
        for name in ("eps", "step_size", "attack_steps", "targeted", "eps_schedule", "smoothing"):
            if getattr(settings, name) is not None:
                raise ValueError(
                    f"{name} must be used with adversarial or one of {', '.join(ADVERSARIAL_METHODS)}, "
                    f"got the method {settings.method!r}"
                )
