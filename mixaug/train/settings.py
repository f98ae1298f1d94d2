"""The settings of a training run: one frozen record, checked when it is made, kept in the run's folder."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mixaug.transforms.ipmix_params import LEVELS, STRUCTURES

__all__ = ["AMP", "METHOD_NAMES", "TrainSettings"]

#: Methods of ``mixaug train``, in the order of its help. Their steps are in ``mixaug.train.methods``.
METHOD_NAMES = ("standard", "mixup", "cutmix", "augmix", "ipmix")
#: Methods with an augmented view of each image, for which the Jensen-Shannon loss is defined.
CONSISTENT_METHODS = ("augmix", "ipmix")
#: Precisions of the forward pass.
AMP = ("off", "bf16", "fp16")
#: Data sets of digits: the mirror image of a digit is no digit.
_NO_FLIP = ("mnist", "svhn", "digits")


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the result of a run, with the defaults of the IPMix paper's 32-px recipe.

    SGD with Nesterov momentum, the rate falling to 0 on a cosine per step (Loshchilov and Hutter, 2017):
    ``lr_s = lr (1 + cos(pi s / S)) / 2``.

    Args:
        data: name of a data set, see :func:`mixaug.train.data.load_data`. Default ``"embedded"``.
        model: name of a classifier, see :func:`mixaug.train.models.build_model`. Default ``"resnet-small"``.
        method: one of ``standard``, ``mixup``, ``cutmix``, ``augmix``, ``ipmix``. Default ``"ipmix"``.
        epochs: passes over the training part, at least 1. Default 10.
        steps: optimiser steps instead of epochs; None: ``epochs`` decides.
        batch_size: images a step, at least 2. Default 128. The last, smaller batch of an epoch is left out.
        lr: highest learning rate, above 0. Default 0.1.
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
        if isinstance(self.levels, list):
            object.__setattr__(self, "levels", tuple(self.levels))
        _one_of("method", self.method, METHOD_NAMES)
        _one_of("amp", self.amp, AMP)
        _one_of("structure", self.structure, STRUCTURES)
        for level in self.levels:
            _one_of("levels", level, LEVELS)
        if not self.levels:
            raise ValueError(f"levels must name at least one of {', '.join(LEVELS)}, got none")
        for name, low in (("epochs", 1), ("batch_size", 2), ("seed", 0), ("k", 1), ("t", 1), ("workers", 0)):
            _whole(name, getattr(self, name), low)
        for name, low in (("steps", 1), ("limit", 1), ("padding", 0), ("image_size", 1)):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), low)
        _real("lr", self.lr, math.ulp(0.0), math.inf)
        _real("momentum", self.momentum, 0.0, math.nextafter(1.0, 0.0))
        _real("weight_decay", self.weight_decay, 0.0, math.inf)
        _real("jsd_weight", self.jsd_weight, 0.0, math.inf)
        _real("alpha", self.alpha, math.ulp(0.0), math.inf)
        _real("validation", self.validation, math.ulp(0.0), 0.5)
        if self.severity is not None:
            _real("severity", self.severity, 0.1, 10.0)
        if self.jsd and self.method not in CONSISTENT_METHODS:
            raise ValueError(f"jsd must be used with one of {', '.join(CONSISTENT_METHODS)}, got {self.method!r}")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        if self.out is not None:
            return Path(self.out)
        data = self.data.removeprefix("folder:").rstrip(os.sep).replace(os.sep, "_").lstrip("_.") or "folder"
        jsd = "-jsd" if self.jsd else ""
        return Path("runs") / f"{data}-{self.model.replace(':', '_')}-{self.method}{jsd}-s{self.seed}"

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
        return {**dataclasses.asdict(self), "levels": list(self.levels)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainSettings:
        """Reads :meth:`to_dict`.

        Raises:
            ValueError: a name that this version does not know.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"settings must be those of this version of mixaug, got the unknown {', '.join(unknown)}")
        return cls(**values)


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _whole(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def _real(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not low <= value <= high or math.isinf(value):
        bounds = "above 0" if low == math.ulp(0.0) else f"at least {low:g}"
        if not math.isinf(high):
            bounds += " and below 1" if high == math.nextafter(1.0, 0.0) else f" and at most {high:g}"
        raise ValueError(f"{name} must be {bounds}, got {value}")
