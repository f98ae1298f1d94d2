"""The learning rate of each step: a linear warm-up, then a cosine per step or an exponential per epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["SCHEDULES", "RateSchedule"]

SCHEDULES = ("cosine", "exponential")


@dataclass(frozen=True)
class RateSchedule:
    r"""The learning rate as a function of the step.

    In the ``W`` steps of the warm-up :math:`lr_s = lr\,(s + 1) / W` (Goyal et al., 2017, arXiv:1706.02677). After it,
    with :math:`s` counted from its end and :math:`S` steps left, :math:`lr\,(1 + \cos(\pi s / S)) / 2` (Loshchilov and
    Hutter, 2017, arXiv:1608.03983), or :math:`lr\,decay^e` in its :math:`e`-th epoch, from 0.

    Convention: the cosine changes with each step and would be 0 one step after the last; the exponential changes with
    the epoch.

    Args:
        lr: highest rate.
        total_steps: of the run, at least 1.
        steps_per_epoch: at least 1.
        warmup: epochs of the warm-up; default 0. Fewer steps than the run has.
        kind: ``"cosine"`` (default) or ``"exponential"``.
        decay: factor an epoch of the exponential; default 0.985.

    Raises:
        ValueError: the warm-up is not shorter than the run.

    Example:
        >>> rate = RateSchedule(1.0, total_steps=8, steps_per_epoch=2, warmup=1, kind="exponential", decay=0.5)
        >>> [rate(step) for step in range(8)]
        [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    lr: float
    total_steps: int
    steps_per_epoch: int
    warmup: int = 0
    kind: str = "cosine"
    decay: float = 0.985

    def __post_init__(self) -> None:
        if self.warmup and self.warmup * self.steps_per_epoch >= self.total_steps:
            epochs = f"{self.warmup} epoch{'s' * (self.warmup > 1)}"
            raise ValueError(
                f"warmup must be shorter than the run of {self.total_steps} steps, got {epochs} of "
                f"{self.steps_per_epoch} steps: lower --warmup, or raise --epochs or --steps"
            )

    def __call__(self, step: int) -> float:
        """The rate of a step, from 0."""
        warm = self.warmup * self.steps_per_epoch
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.kind == "exponential":
            return self.lr * self.decay ** ((step - warm) // self.steps_per_epoch)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.total_steps - warm)))
