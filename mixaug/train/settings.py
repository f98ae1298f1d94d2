"""The settings of a training run: one frozen record, checked when it is made, kept in the run's folder."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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
from mixaug.mixing_sets.named import folder_text
from mixaug.models.activation import ACTIVATIONS, GRANULARITIES, NEW_LAYERS, PLACEMENTS, Activation
from mixaug.train.schedules import SCHEDULES
from mixaug.transforms.ipmix import LEVELS, STRUCTURES

__all__ = [
    "ADVERSARIAL_METHODS",
    "AMP",
    "AUGMENTED_METHODS",
    "CONSISTENT_METHODS",
    "LEARNED",
    "METHOD_NAMES",
    "TERMS",
    "Adversary",
    "TrainSettings",
    "check_learned_mixing",
    "resolve",
]


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


METHOD = "adautomix"
#: Terms of the losses that ``without`` leaves out: two of the classifier's, two of the generator's.
TERMS = ("clean", "plain", "teacher", "similarity")
#: Setting to its default; for every other method it is None.
LEARNED: dict[str, Any] = {
    "n_mix": 3, "feature_layer": None, "mix_alpha": 0.5, "mix_beta": 0.3, "share_weight": 0.0, "cooperative": False,
    "without": (), "per_image": False, "generator_lr": 0.1, "generator_every": 1, "generator_share": 1.0,
    "terms_share": 1.0, "shared_draws": False, "teacher_momentum": 0.999, "picture_every": 500,
}  # fmt: skip


def check_learned_mixing(settings: TrainSettings) -> None:
    """Raises unless the settings of the generator fit the method; decides their defaults.

    Args:
        settings: while they are made.
    """
    own = settings.method == METHOD
    for name, default in LEARNED.items():
        value = getattr(settings, name)
        if not own and value is not None:
            raise ValueError(f"{name} must be used with the method {METHOD}, got the method {settings.method!r}")
        if own and value is None:
            object.__setattr__(settings, name, default)
    if not own:
        return
    values = vars(settings)
    if isinstance(values["without"], list):
        object.__setattr__(settings, "without", tuple(values["without"]))
    for term in values["without"]:
        check_choice("without", term, TERMS)
    check_field(settings, "n_mix", check_int, 2)
    if values["n_mix"] > settings.batch_size:
        raise ValueError(f"n_mix must be at most batch_size, {settings.batch_size}, got {values['n_mix']}")
    check_field(settings, "generator_every", check_int, 1, MAX_COUNT)
    check_field(settings, "picture_every", check_int, 0, MAX_COUNT)
    for name in ("mix_alpha", "mix_beta", "teacher_momentum"):
        check_field(settings, name, check_number, 0.0, 1.0)
    for name in ("generator_share", "terms_share"):
        check_field(settings, name, check_number, ABOVE_ZERO, 1.0)
    check_field(settings, "share_weight", check_number, 0.0, 1e6)
    check_field(settings, "generator_lr", check_number, 0.0)
    for name in ("cooperative", "per_image", "shared_draws"):
        check_field(settings, name, check_flag)
    if values["shared_draws"] and values["generator_share"] < 1:
        raise ValueError(
            f"generator_share must be 1 with shared_draws, whose one pass both players have, got "
            f"{values['generator_share']}"
        )


#: Methods of ``mixaug train``, in the order of its help. Their steps are in ``mixaug.train.methods``.
METHOD_NAMES = ("standard", *AUGMENTED_METHODS, *ADVERSARIAL_METHODS, METHOD)
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


#: Data sets of digits: the mirror image of a digit is no digit.
_NO_FLIP = ("mnist", "svhn", "digits")


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the result of a run, with the defaults of the IPMix paper's 32-px recipe.

    The optimiser and its rates are those of :class:`mixaug.train.descent.Descent`.

    Args:
        data: name of a data set, see :func:`mixaug.train.data.load_data`. Default ``"embedded"``.
        model: name of a classifier, see :func:`mixaug.models.build_model`. Default ``"resnet-small"``.
        method: one of ``METHOD_NAMES``. Default ``"ipmix"``.
        epochs: passes over the training part, at least 1. Default 10.
        steps: optimiser steps instead of epochs; None: ``epochs`` decides.
        batch_size: images a step, at least 2, of all processes together. Default 128. The last, smaller batch of an
            epoch is left out.
        optimizer: ``"sgd"`` with Nesterov momentum (default) or ``"adam"``.
        lr: highest learning rate, above 0; None: 0.1, of Adam 1e-3.
        schedule: ``"cosine"`` per step to 0 (default) or ``"exponential"``, times ``lr_decay`` (0.985) an epoch.
        warmup: first epochs, in which the rate rises linearly to ``lr``. Default 0.
        plateau: in place of a schedule: halve the rate after 5 epochs without a lower validation loss (with the caps'
            penalty), end the run after 10; ``epochs`` is the most it may take. Default False.
        momentum: of SGD, in ``[0, 1)``. Default 0.9; Nesterov's form when above 0.
        weight_decay: 0 or more, never of D-ReLU's caps; None: 5e-4, of Adam 0.
        amp: ``"off"`` (default), ``"bf16"`` or ``"fp16"`` forward passes; weights and losses stay float32.
        channels_last: memory format of model and images. Default True: on GPUs with amp, and measured 1.3 to 1.5 times
            faster for ``resnet-small`` on CPUs.
        seed: of weights, order and augmentation. Default 0.
        jsd: add ``jsd_weight`` times the Jensen-Shannon loss over the image and two augmented views (augmix, ipmix).
        jsd_weight: 12 in AugMix, PixMix and IPMix.
        levels, structure, k, t, severity, all_ops: of :class:`mixaug.IPMix`.
        mixing_set: pictures for IPMix: ``"fractals"``, ``"ifs"``, ``"contours"``, ``"dead-leaves"``, ``"spectrum"``, a
            folder (``"./ifs"`` for one that is called like a source), or several of them joined by commas, in equal
            parts; None: the fractals. Checked when the run starts.
        alpha: Beta parameter of mixup, cutmix and the ratios of adautomix. Default 1.
        adversarial: train mixup, cutmix, augmix or ipmix on PGD's images of the augmented batch, with its labels.
        eps, step_size, attack_steps, targeted: of the adversary; None: as in the method's paper, see
            :func:`mixaug.train.settings.resolve`.
        eps_schedule: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"step"``, the radius over the epochs, from a tenth
            of ``eps``; None: linear for hybrid, constant for the others.
        hybrid_attack: of the hybrid method, ``"fgsm"`` (its default) or ``"pgd"``; None for all others.
        trades_beta: weight of TRADES' divergence, by default 6; None for all others.
        boxes: of dynamic-mixcut, for each image: a number, by default 2, or a range ``(low, high)``; None for all
            others.
        smoothing: of the labels of pgd, feature-scatter and dynamic-mixcut; None: 0, 0.5 and 0.1.
        n_mix, feature_layer, mix_alpha, mix_beta, share_weight, per_image: of :class:`mixaug.AdAutoMix` (alpha and beta
            with ``mix_``), by default as there; None for all methods but adautomix, as the next five.
        generator_every, generator_share, terms_share, shared_draws, teacher_momentum: likewise.
        cooperative: the generator goes down the classifier's loss, as in AutoMix. Default False.
        without: terms that are left out, of ``"clean"``, ``"plain"``, ``"teacher"``, ``"similarity"``. Default none.
        generator_lr: highest learning rate of the generator's SGD, which follows the model's rate. Default 0.1.
        picture_every: steps between two pictures of mixtures in the run's folder, 0: none. Default 500.
        robust_images: validation images that adversarial methods attack after each epoch to choose the best one and to
            warn of catastrophic overfitting; default 500. 0: none, the best epoch is that of the clean images.
        activation: ``"relu"`` (default) or ``"drelu"``.
        placement: where the activation goes, with a new layer: ``"head"``, a dense layer before the output layer, or
            ``"stem"``, a convolution before the first one; or for drelu ``"all"`` ReLUs of the model or those of its
            ``"last-block"``. None: head for drelu, nowhere for relu. A ReLU in the same new layer is the baseline.
        extra_features: of the new layer; None: 256, of a stem 16.
        granularity: of drelu in place of ReLUs, ``"channel"`` (its default), ``"layer"`` or ``"neuron"``; else None.
        drelu_init: first value of every cap, above 0; None: 100 for drelu.
        drelu_quantile: start each cap at this quantile of its positive pre-activations on the first training images
            instead, in [0, 1]; None: at ``drelu_init``.
        drelu_lambda: weight of the sum of the squared caps, 0 or more; None: 0.1 for drelu.
        drelu_m_lr: learning rate of the caps at the start, 0 or more; None: ``lr``.
        extra_data: folder of pictures in folders of the same class names, such as generated ones, that training is
            mixed with, none of them of the validation or test part; None: none.
        extra_share: of each epoch's images that come from ``extra_data``, in (0, 1]; None: 0.7 (with ``extra_data``).
        flip: horizontal flips; None: for all data but digits.
        padding: pixels of the random crop; None: an eighth of the side. 0: no crop.
        limit: use this many training images (class-balanced); None: all.
        validation: share of the training part, in (0, 0.5], that chooses the best epoch where the data bring none.
        image_size: side in pixels that the images are resized to; None: as they are.
        root: folder of data sets; None: the default.
        workers: processes that load pictures of folders too large for memory.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None: a GPU where there is one.
        out: the run's folder; None: ``runs/DATA-MODEL-METHOD-SEED``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a value out of range or an unknown name (the message lists the right ones).

    Example:
        >>> TrainSettings(method="ipmix", jsd=True).folder.name
        'embedded-resnet-small-ipmix-jsd-s0'
    """

    data: str = "embedded"
    model: str = "resnet-small"
    method: str = "ipmix"
    epochs: int = 10
    steps: int | None = None
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float | None = None
    schedule: str = "cosine"
    lr_decay: float = 0.985
    warmup: int = 0
    plateau: bool = False
    momentum: float = 0.9
    weight_decay: float | None = None
    amp: str = "off"
    channels_last: bool = True
    seed: int = 0
    jsd: bool = False
    jsd_weight: float = 12.0
    levels: tuple[str, ...] = LEVELS
    structure: str = "chain"
    k: int = 3
    t: int = 3
    severity: float | None = None
    all_ops: bool = False
    mixing_set: str | None = None
    alpha: float = 1.0
    adversarial: bool = False
    eps: float | None = None
    step_size: float | None = None
    attack_steps: int | None = None
    targeted: bool | None = None
    eps_schedule: str | None = None
    hybrid_attack: str | None = None
    trades_beta: float | None = None
    boxes: int | tuple[int, int] | None = None
    smoothing: float | None = None
    n_mix: int | None = None
    feature_layer: str | None = None
    mix_alpha: float | None = None
    mix_beta: float | None = None
    share_weight: float | None = None
    cooperative: bool | None = None
    without: tuple[str, ...] | None = None
    per_image: bool | None = None
    generator_lr: float | None = None
    generator_every: int | None = None
    generator_share: float | None = None
    terms_share: float | None = None
    shared_draws: bool | None = None
    teacher_momentum: float | None = None
    picture_every: int | None = None
    robust_images: int = 500
    activation: str = "relu"
    placement: str | None = None
    extra_features: int | None = None
    granularity: str | None = None
    drelu_init: float | None = None
    drelu_quantile: float | None = None
    drelu_lambda: float | None = None
    drelu_m_lr: float | None = None
    extra_data: str | None = None
    extra_share: float | None = None
    flip: bool | None = None
    padding: int | None = None
    limit: int | None = None
    validation: float = 0.1
    image_size: int | None = None
    root: str | None = None
    workers: int = 0
    device: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        for name in ("mixing_set", "root", "out", "extra_data"):
            value = getattr(self, name)
            if isinstance(value, Path):
                object.__setattr__(self, name, folder_text(value) if name == "mixing_set" else str(value))
        for name in ("levels", "boxes"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        check_numbers(self)
        check_activation(self)
        check_adversary(self)
        check_learned_mixing(self)

    @property
    def adversary(self) -> Adversary | None:
        """The run's adversary with every setting decided; None for a run without one."""
        if not self.adversarial and self.method not in ADVERSARIAL_METHODS:
            return None
        return resolve(
            self.method,
            self.hybrid_attack,
            eps=self.eps,
            step_size=self.step_size,
            steps=self.attack_steps,
            targeted=self.targeted,
            eps_schedule=self.eps_schedule,
            smoothing=self.smoothing,
        )

    @property
    def changed_activation(self) -> Activation | None:
        """What is changed in the model; None for a model as it is."""
        if self.placement is None:
            return None
        granularity = self.granularity if self.placement not in NEW_LAYERS else None
        init = 100.0 if self.drelu_init is None else float(self.drelu_init)
        return Activation(self.activation, self.placement, self.extra_features, granularity, init)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        if self.out is not None:
            return Path(self.out)
        data = self.data.removeprefix("folder:").rstrip(os.sep).replace(os.sep, "_").lstrip("_.") or "folder"
        more = ("-jsd" if self.jsd else "") + ("-adversarial" if self.adversarial else "")
        if self.placement is not None:
            more += f"-{self.activation}" + (f"-{self.placement}" if self.placement != "head" else "")
        return Path("runs") / f"{data}-{self.model.replace(':', '_')}-{self.method}{more}-s{self.seed}"

    @property
    def flips(self) -> bool:
        """Whether images are flipped."""
        return self.data not in _NO_FLIP if self.flip is None else self.flip

    def differences(self, other: TrainSettings) -> list[str]:
        """Names of the settings that decide the result and differ: place, device, workers and root are left out."""
        free = {"out", "device", "workers", "root"}
        names = [field.name for field in fields(self) if field.name not in free]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON and checkpoints.

        Example:
            >>> TrainSettings.from_dict(TrainSettings(k=2).to_dict()).k
            2
        """
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainSettings:
        """Reads :meth:`to_dict`.

        Earlier versions wrote the defaults of one method's settings for every method: these are left out.

        Raises:
            ValueError: a name that this version does not know.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"settings must be those of this version of mixaug, got the unknown {', '.join(unknown)}")
        values = dict(values)
        for name, (method, default) in OWN_SETTINGS.items():
            if values.get("method", cls.method) != method and values.get(name) == default:
                values[name] = None
        return cls(**values)
