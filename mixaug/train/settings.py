"""The settings of a training run: one frozen record, checked when it is made, kept in the run's folder."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mixaug._eps_schedule import SHAPES as EPS_SHAPES
from mixaug.attacks._checks import bytes_hint
from mixaug.train._checks import one_of, real, whole
from mixaug.train.adversary import (
    ADVERSARIAL_METHODS,
    AUGMENTED_METHODS,
    HYBRID_ATTACKS,
    OWN_SETTINGS,
    Adversary,
    resolve,
)
from mixaug.train.schedules import SCHEDULES
from mixaug.transforms._arguments import count_range
from mixaug.transforms.ipmix_params import LEVELS, STRUCTURES

__all__ = ["AMP", "METHOD_NAMES", "TrainSettings"]

#: Methods of ``mixaug train``, in the order of its help. Their steps are in ``mixaug.train.methods``.
METHOD_NAMES = ("standard", *AUGMENTED_METHODS, *ADVERSARIAL_METHODS)
#: Methods with an augmented view of each image, for which the Jensen-Shannon loss is defined.
CONSISTENT_METHODS = ("augmix", "ipmix")
#: Precisions of the forward pass.
AMP = ("off", "bf16", "fp16")
#: Data sets of digits: the mirror image of a digit is no digit.
_NO_FLIP = ("mnist", "svhn", "digits")


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the result of a run, with the defaults of the IPMix paper's 32-px recipe.

    SGD with Nesterov momentum; the rate is that of :class:`mixaug.train.schedules.RateSchedule`.

    Args:
        data: name of a data set, see :func:`mixaug.train.data.load_data`. Default ``"embedded"``.
        model: name of a classifier, see :func:`mixaug.train.models.build_model`. Default ``"resnet-small"``.
        method: one of ``METHOD_NAMES``. Default ``"ipmix"``.
        epochs: passes over the training part, at least 1. Default 10.
        steps: optimiser steps instead of epochs; None: ``epochs`` decides.
        batch_size: images a step, at least 2. Default 128. The last, smaller batch of an epoch is left out.
        lr: highest learning rate, above 0. Default 0.1.
        schedule: ``"cosine"`` per step to 0 (default) or ``"exponential"``, times ``lr_decay`` (0.985) an epoch.
        warmup: first epochs, in which the rate rises linearly to ``lr``. Default 0.
        momentum: in ``[0, 1)``. Default 0.9; Nesterov's form when above 0.
        weight_decay: 0 or more. Default 5e-4.
        amp: ``"off"`` (default), ``"bf16"`` or ``"fp16"`` forward passes; weights and losses stay float32.
        channels_last: memory format of model and images. Default True: on GPUs with amp, and measured 1.3 to 1.5 times
            faster for ``resnet-small`` on CPUs.
        seed: of weights, order and augmentation. Default 0.
        jsd: add ``jsd_weight`` times the Jensen-Shannon loss over the image and two augmented views (augmix, ipmix).
        jsd_weight: 12 in AugMix, PixMix and IPMix.
        levels, structure, k, t, severity, all_ops: of :class:`mixaug.IPMix`.
        mixing_set: folder of pictures for IPMix; None: the default fractals.
        alpha: Beta parameter of mixup and cutmix. Default 1.
        adversarial: train mixup, cutmix, augmix or ipmix on PGD's images of the augmented batch, with its labels.
        eps, step_size, attack_steps, targeted: of the adversary; None: as in the method's paper, see
            :func:`mixaug.train.adversary.resolve`.
        eps_schedule: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"step"``, the radius over the epochs, from a tenth
            of ``eps``; None: linear for hybrid, constant for the others.
        hybrid_attack: of the hybrid method, ``"fgsm"`` (its default) or ``"pgd"``; None for all others.
        trades_beta: weight of TRADES' divergence, by default 6; None for all others.
        boxes: of dynamic-mixcut, for each image: a number, by default 2, or a range ``(low, high)``; None for all
            others.
        smoothing: of the labels of pgd, feature-scatter and dynamic-mixcut; None: 0, 0.5 and 0.1.
        robust_images: validation images that adversarial methods attack after each epoch to choose the best one and to
            warn of catastrophic overfitting; default 500. 0: none, the best epoch is that of the clean images.
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
    lr: float = 0.1
    schedule: str = "cosine"
    lr_decay: float = 0.985
    warmup: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
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
    robust_images: int = 500
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
        for name in ("mixing_set", "root", "out"):
            value = getattr(self, name)
            if isinstance(value, Path):
                object.__setattr__(self, name, str(value))
        for name in ("levels", "boxes"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        one_of("method", self.method, METHOD_NAMES)
        one_of("amp", self.amp, AMP)
        one_of("structure", self.structure, STRUCTURES)
        one_of("schedule", self.schedule, SCHEDULES)
        for level in self.levels:
            one_of("levels", level, LEVELS)
        if not self.levels:
            raise ValueError(f"levels must name at least one of {', '.join(LEVELS)}, got none")
        lowest = {"epochs": 1, "batch_size": 2, "seed": 0, "k": 1, "t": 1, "workers": 0, "warmup": 0}
        for name, low in lowest.items():
            whole(name, getattr(self, name), low)
        for name, low in (("steps", 1), ("limit", 1), ("padding", 0), ("image_size", 1)):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), low)
        real("lr", self.lr, math.ulp(0.0), math.inf)
        real("momentum", self.momentum, 0.0, math.nextafter(1.0, 0.0))
        real("weight_decay", self.weight_decay, 0.0, math.inf)
        real("jsd_weight", self.jsd_weight, 0.0, math.inf)
        real("alpha", self.alpha, math.ulp(0.0), math.inf)
        real("lr_decay", self.lr_decay, math.ulp(0.0), 1.0)
        real("validation", self.validation, math.ulp(0.0), 0.5)
        if self.severity is not None:
            real("severity", self.severity, 0.1, 10.0)
        if self.jsd and self.method not in CONSISTENT_METHODS:
            raise ValueError(f"jsd must be used with one of {', '.join(CONSISTENT_METHODS)}, got {self.method!r}")
        self._check_adversary()

    def _check_adversary(self) -> None:
        for name, (method, default) in OWN_SETTINGS.items():
            if self.method == method and getattr(self, name) is None:
                object.__setattr__(self, name, default)
            elif self.method != method and getattr(self, name) is not None:
                raise ValueError(f"{name} must be used with the method {method}, got the method {self.method!r}")
        if self.hybrid_attack is not None:
            one_of("hybrid_attack", self.hybrid_attack, HYBRID_ATTACKS)
        if self.trades_beta is not None:
            real("trades_beta", self.trades_beta, 0.0, math.inf)
        if self.boxes is not None:
            low, high = count_range("boxes", self.boxes)
            object.__setattr__(self, "boxes", low if low == high else (low, high))
        whole("robust_images", self.robust_images, 0)
        for name in ("eps", "step_size"):
            if getattr(self, name) is not None:
                real(name, getattr(self, name), math.ulp(0.0), 1.0, bytes_hint)
        if self.attack_steps is not None:
            whole("attack_steps", self.attack_steps, 1)
        if self.smoothing is not None:
            real("smoothing", self.smoothing, 0.0, 1.0)
        if self.eps_schedule is not None:
            one_of("eps_schedule", self.eps_schedule, EPS_SHAPES)
        if self.adversarial and self.method not in AUGMENTED_METHODS:
            known = ", ".join(AUGMENTED_METHODS)
            raise ValueError(f"adversarial must be used with one of {known}, got the method {self.method!r}")
        if self.adversarial and self.jsd:
            raise ValueError("adversarial must be used without jsd: its three views have no one attack")
        if self.method == "hybrid" and not self.robust_images:
            raise ValueError("robust_images must be at least 1 for the method hybrid, whose alpha it decides, got 0")
        if self.adversary is None:
            for name in ("eps", "step_size", "attack_steps", "targeted", "eps_schedule", "smoothing"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} must be used with adversarial or one of {', '.join(ADVERSARIAL_METHODS)}, "
                        f"got the method {self.method!r}"
                    )

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
    def folder(self) -> Path:
        """The run's folder."""
        if self.out is not None:
            return Path(self.out)
        data = self.data.removeprefix("folder:").rstrip(os.sep).replace(os.sep, "_").lstrip("_.") or "folder"
        more = ("-jsd" if self.jsd else "") + ("-adversarial" if self.adversarial else "")
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
