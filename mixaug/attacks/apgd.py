"""Auto-PGD, with the cross entropy or the difference of logits ratio."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from mixaug._checks import MAX_COUNT, check_choice, check_field, check_generator, check_int, check_number
from mixaug.attacks.adapter import LOG, NORM_NAMES, Logits, require_pyautoattack
from mixaug.attacks.adapter import AdaptedAttack as ForeignAttack
from mixaug.attacks.attack import check_radius


@dataclass(frozen=True)
class APGD(ForeignAttack):
    """Auto-PGD: PGD with momentum that halves each image's step when it stops paying off.

    ``z = project(x_t + a_t sign(grad L(x_t)))``, ``x_{t+1} = project(x_t + 0.75 (z - x_t) + 0.25 (x_t - x_{t-1}))``,
    with ``a_0 = 2 eps``, halved at checkpoints where too few steps raised the loss. Croce, Hein, "Reliable evaluation
    of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020 (arXiv:2003.01690). Run by
    the package ``pyautoattack``.

    Convention: only correctly classified images are attacked; one that is not fooled comes back unchanged, a fooled one
    as the last fooling iterate. No step size to choose.

    Args:
        eps: radius in pixel units of images in [0, 1]; 0 or more, default 8/255.
        steps: number of steps, default 100.
        loss: ``"ce"`` (cross entropy, default) or ``"dlr"`` (difference of logits ratio, 3 classes or more).
        restarts: number of random starts for images that were not fooled, default 1.
        generator: source of the seed; default: a seed from torch's global state, which is not moved, so that a second
            call in a row repeats the first.
        norm: ``"linf"`` (default) or ``"l2"``.
        rho: share of steps that must raise the loss between checkpoints; in (0, 1], default 0.75.
        batch_size: most images in one pass of the model; default all.

    Shape:
        images: (B, C, H, W) floating point in [0, 1]; labels: (B,) int64; result: as images.

    Returns:
        Adversarial images, detached; the model and every global random state are left as they were.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed (``pip install 'mixaug[attacks]'``).
        TypeError: an argument of the wrong kind.
        ValueError: a setting, shape or value out of range.
        FloatingPointError: logits were not finite; raised after the attack with the forward pass.

    Note:
        pyautoattack warns of images with an all-zero gradient through the logger ``auto-attack``. It computes in
        float32; images in half precision are rounded to their own grid at the end.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10)).eval()
        >>> APGD(eps=8 / 255, steps=5)(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1])).shape
        torch.Size([2, 3, 8, 8])
    """

    eps: float = 8 / 255
    steps: int = 100
    loss: str = "ce"
    restarts: int = 1
    generator: torch.Generator | None = None
    _: KW_ONLY
    norm: str = "linf"
    rho: float = 0.75
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_radius(self)
        check_field(self, "steps", check_int, 1, MAX_COUNT)
        check_field(self, "loss", check_choice, ("ce", "dlr"))
        check_field(self, "restarts", check_int, 1, MAX_COUNT)
        check_generator(self.generator)
        check_field(self, "rho", check_number, 1e-9, 1.0)
        check_field(self, "batch_size", check_int, 1, MAX_COUNT, optional=True)
        require_pyautoattack("APGD")

    @property
    def name(self) -> str:
        """The attack's name in reports, ``apgd-ce`` or ``apgd-dlr``."""
        return f"apgd-{self.loss}" + ("" if self.norm == "linf" else f"-{self.norm}")

    @property
    def _least_classes(self) -> int:
        return 3 if self.loss == "dlr" else 2

    def _run(self, logits: Logits, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        from pyautoattack.autopgd_base import APGDAttack

        attack = APGDAttack(
            logits,
            n_iter=self.steps,
            norm=NORM_NAMES[self.norm],
            n_restarts=self.restarts,
            eps=self.eps,
            seed=seed,
            loss=self.loss,
            rho=self.rho,
            device=images.device,
            logger=LOG,
        )
        return attack.perturb(images, labels)
