"""TRADES' inner step: PGD on the divergence from the clean prediction."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixaug._checks import MAX_COUNT, check_choice, check_field, check_generator, check_int, check_number
from mixaug._model_state import gradients_off
from mixaug.attacks.attack import BATCH_NORMS, Attack, Goal, check_radius, check_step_size, normal_like, parts
from mixaug.attacks.objectives import kl
from mixaug.attacks.steps import climb


@dataclass(frozen=True)
class KLPGD(Attack):
    """PGD up the divergence from the clean prediction, the inner maximisation of TRADES.

    ``x_0 = clip(x + start * N(0, 1))``, then PGD steps up ``KL(softmax f(x) || softmax f(x_t))``. Zhang, Yu, Jiao,
    Xing, El Ghaoui, Jordan, "Theoretically principled trade-off between robustness and accuracy", ICML 2019
    (arXiv:1901.08573), Algorithm 1.

    Convention: labels are not used (only checked). The start is small and Gaussian since the divergence's gradient is
    exactly 0 at the image itself. One forward for the clean prediction, then one forward and one backward a step.

    Args:
        eps: radius in pixel units of images in [0, 1]; 0 or more, default 8/255.
        step_size: length of a step; above 0, default 2/255.
        steps: number of steps, default 10.
        generator: source of the start; default torch's own.
        start: standard deviation of the start's noise; 0 or more, default 0.001.
        norm: ``"linf"`` (default) or ``"l2"``.
        batch_size: most images in one pass of the model; default all.
        batch_norm: ``"still"`` (default) or ``"moves"``, as for :class:`PGD`.

    Shape:
        As :class:`PGD`; labels (B,) int64 or (B, K) probabilities.

    Returns:
        As :class:`PGD`.

    Raises:
        TypeError, ValueError, FloatingPointError: as :class:`PGD`.

    Note:
        The authors' code takes the first gradient at a start that may lie outside [0, 1]; here it is clipped.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> attack = KLPGD(eps=8 / 255, step_size=2 / 255, steps=10)
        >>> attack.name, attack(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1])).shape
        ('kl-pgd-10', torch.Size([2, 3, 8, 8]))
    """

    _for_training: ClassVar[bool] = True

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10
    generator: torch.Generator | None = None
    _: KW_ONLY
    start: float = 0.001
    norm: str = "linf"
    batch_size: int | None = None
    batch_norm: str = "still"

    def __post_init__(self) -> None:
        check_radius(self)
        check_step_size(self)
        check_field(self, "steps", check_int, 0, MAX_COUNT)
        check_generator(self.generator)
        check_field(self, "batch_size", check_int, 1, MAX_COUNT, optional=True)
        check_field(self, "batch_norm", check_choice, BATCH_NORMS)
        check_field(self, "start", check_number, 0.0)

    @property
    def name(self) -> str:
        """The attack's name in reports, such as ``kl-pgd-10``."""
        return f"kl-pgd-{self.steps}" + ("" if self.norm == "linf" else f"-{self.norm}")

    def _attack(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        with gradients_off(images.device):
            clean = [
                goal.logits(model(images[part]), part.stop - part.start).softmax(1)
                for part in parts(len(images), self.batch_size)
            ]
        prediction = Goal(torch.cat(clean), None, targeted=False, generator=None, first=False)
        return climb(
            model,
            images,
            images + self.start * normal_like(images, self.generator),
            prediction,
            eps=self.eps,
            norm=self.norm,
            step_size=self.step_size,
            steps=self.steps,
            objective=kl,
            early_stop=False,
            batch_size=self.batch_size,
        )
