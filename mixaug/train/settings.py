"""The settings of a training run: one frozen record, checked when it is made, kept in the run's folder."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mixaug.mixing_sets.named import folder_text
from mixaug.models.activation import NEW_LAYERS, Activation
from mixaug.train._settings_checks import (
    AMP,
    CONSISTENT_METHODS,
    METHOD_NAMES,
    check_activation,
    check_adversary,
    check_numbers,
)
from mixaug.train.adversary import ADVERSARIAL_METHODS, OWN_SETTINGS, Adversary, resolve
from mixaug.train.learned_mixing import check_learned_mixing
from mixaug.transforms.ipmix import LEVELS

__all__ = ["AMP", "CONSISTENT_METHODS", "METHOD_NAMES", "TrainSettings"]

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
            :func:`mixaug.train.adversary.resolve`.
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
