"""AutoAttack: the ensemble that robust accuracies are compared by."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from mixaug._checks import MAX_COUNT, check_choice, check_field, check_generator, check_int
from mixaug.attacks.adapter import NORM_NAMES, Logits, require_pyautoattack
from mixaug.attacks.adapter import AdaptedAttack as ForeignAttack
from mixaug.attacks.attack import check_radius
from mixaug.attacks.square import check_tiles


@dataclass(frozen=True)
class AutoAttack(ForeignAttack):
    """AutoAttack, the usual measure of robustness: APGD-CE, targeted APGD-DLR, targeted FAB and Square in turn.

    Each attack gets the images that the ones before did not fool. Croce, Hein, "Reliable evaluation of adversarial
    robustness with an ensemble of diverse parameter-free attacks", ICML 2020 (arXiv:2003.01690). Run by the package
    ``pyautoattack``.

    Convention: only correctly classified images are attacked; one that is not fooled comes back unchanged, so the
    accuracy on the result is the robust accuracy. Standard is 100 steps of APGD-CE, 100 for each of 9 targets of
    APGD-DLR and of FAB, and 5,000 queries: for an image that holds about 1,900 forwards and backwards and 6,000 more
    forwards.

    Args:
        eps: radius in pixel units of images in [0, 1]; 0 or more, default 8/255.
        version: ``"standard"`` (default), ``"plus"`` (5 restarts and the untargeted forms too) or ``"rand"`` (APGD
            alone with averaged gradients, for models that draw random numbers).
        generator: source of the seed; default: a seed from torch's global state, which is not moved, so that a second
            call in a row repeats the first.
        norm: ``"linf"`` (default) or ``"l2"``, which contains :class:`Square` and its condition on the images' side.
        batch_size: most images in one pass of the model, default 250.

    Shape:
        images: (B, C, H, W) floating point in [0, 1]; labels: (B,) int64; result: as images.

    Returns:
        Adversarial images, detached; the model and every global random state are left as they were.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed (``pip install 'mixaug[attacks]'``).
        TypeError: an argument of the wrong kind.
        ValueError: a setting, shape or value out of range; a model of fewer than 4 classes, for which the targeted DLR
            loss is not defined.
        FloatingPointError: logits were not finite; raised after the attack with the forward pass.

    Note:
        With fewer than 10 classes all other classes are targets, where pyautoattack by itself would stop with an index
        error. Its checks (randomised or dynamic models, probabilities in place of logits, Square beating the gradient
        attacks) speak through the logger ``auto-attack``.

    Example:
        >>> attack = AutoAttack(eps=8 / 255, generator=torch.Generator().manual_seed(0))
        >>> attack.name
        'autoattack'
    """

    eps: float = 8 / 255
    version: str = "standard"
    generator: torch.Generator | None = None
    _: KW_ONLY
    norm: str = "linf"
    batch_size: int | None = 250

    def __post_init__(self) -> None:
        check_radius(self)
        check_field(self, "version", check_choice, ("standard", "plus", "rand"))
        check_generator(self.generator)
        check_field(self, "batch_size", check_int, 1, MAX_COUNT, optional=True)
        require_pyautoattack("AutoAttack")

    @property
    def name(self) -> str:
        """The attack's name in reports, ``autoattack`` (``autoattack-plus``, ``autoattack-rand``)."""
        version = "" if self.version == "standard" else f"-{self.version}"
        return f"autoattack{version}" + ("" if self.norm == "linf" else f"-{self.norm}")

    @property
    def _least_classes(self) -> int:
        return 3 if self.version == "rand" else 4

    def _run(self, logits: Logits, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        from pyautoattack import AutoAttack as Adversaries

        if self.version != "rand":
            check_tiles(self.norm, images)
        adversaries = Adversaries(
            logits,
            norm=NORM_NAMES[self.norm],
            eps=self.eps,
            seed=seed,
            version=self.version,
            device=images.device,
        )
        logits(images[:1])
        targets = min(9, logits.classes - 1)
        adversaries.apgd_targeted.n_target_classes = adversaries.fab.n_target_classes = targets
        adversarial, _ = adversaries.run_standard_evaluation(images, labels, batch_size=len(images))
        return adversarial
