"""The one loop that follows a gradient; every gradient attack is a loss and a step handed to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CUT_OFF = "model's logits must depend on the images by autograd; they are cut off from them"


class Point(NamedTuple):
    """Where the loop stands, one row per image; to be read without gradients, and detached before it is kept."""

    step: int
    variable: Tensor
    losses: Tensor
    logits: Tensor
    gradient: Tensor


class Health:
    """Whether each step's numbers were finite, kept on the device: reading them at each step would wait for a GPU."""

    def __init__(self, what: str = "step") -> None:
        self._what = what
        self._totals: list[Tensor] = []

    def note(self, *tensors: Tensor) -> None:
        """Notes one step. A sum is finite if its terms are, and is read once; in float32 it cannot overflow."""
        with torch.no_grad():
            total = tensors[0].sum(dtype=torch.float32)
            for tensor in tensors[1:]:
                total += tensor.sum(dtype=torch.float32)
        self._totals.append(total)

    def report(self) -> None:
        """Raises FloatingPointError with the first step that was not finite."""
        steps = torch.stack(self._totals).isfinite().tolist() if self._totals else []
        if not all(steps):
            raise FloatingPointError(
                f"the model's logits or gradient were not finite at {self._what} {steps.index(False) + 1} "
                f"of {len(steps)}"
            )


def follow_gradient(
    variable: Tensor,
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    move: Callable[[Point], Tensor | None],
    steps: int,
    health: Health,
) -> Tensor:
    """Repeats: losses at the variable, their gradient, the next variable. One forward and one backward a step.

    Only the variable's gradient is asked for, so no parameter's gradient is computed or touched. Losses are summed over
    the batch: an image's gradient does not depend on the batch it is in.

    Args:
        variable: the start, any shape.
        evaluate: the variable to losses (B,) and logits (B, K), in the graph.
        move: a :class:`Point` to the next variable, or None to end here.
        steps: how often.
        health: where each step's finiteness is noted.

    Returns:
        The last variable, detached.

    Raises:
        ValueError: the losses do not depend on the variable.
    """
    variable = variable.detach()
    for step in range(steps):
        variable.requires_grad_()
        losses, logits = evaluate(variable)
        (gradient,) = (
            torch.autograd.grad(losses.sum(), variable, allow_unused=True) if losses.requires_grad else (None,)
        )
        if gradient is None:
            raise ValueError(CUT_OFF)
        with torch.no_grad():
            health.note(logits, gradient)
            following = move(Point(step, variable, losses, logits, gradient))
        if following is None:
            break
        variable = following
    return variable.detach()
