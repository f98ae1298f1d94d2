"""Steps of the gradient attacks: the gradient and its health, projections onto balls, ascent, Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mixaug.attacks.attack import Goal, parts

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


Objective = Callable[[Tensor, Tensor], Tensor]


class Ball(Protocol):
    """The images within ``eps`` of each image and within [0, 1]."""

    def project(self, images: Tensor) -> Tensor:
        """The nearest images in the ball."""

    def move(self, images: Tensor, gradient: Tensor, length: float) -> Tensor:
        """One step of ``length`` along the steepest direction of the norm, then back into the ball."""

    def keep(self, index: Tensor) -> Ball:
        """The ball around some of the images."""


class LinfBall:
    """The ball of the largest change of a pixel; the steepest direction is the gradient's sign."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self._low = low
        self._high = high

    def project(self, images: Tensor) -> Tensor:
        """Pixel by pixel."""
        return torch.clamp(images, self._low, self._high)

    def move(self, images: Tensor, gradient: Tensor, length: float) -> Tensor:
        """A step of ``length`` in every pixel."""
        return torch.add(images, gradient.sign(), alpha=length).clamp_(self._low, self._high)

    def keep(self, index: Tensor) -> LinfBall:
        """The ball around some of the images."""
        return LinfBall(self._low[index], self._high[index])


class L2Ball:
    """The ball of the Euclidean norm of an image's change; the steepest direction is the gradient itself."""

    def __init__(self, centre: Tensor, eps: float) -> None:
        self._centre = centre
        self._eps = eps

    def project(self, images: Tensor) -> Tensor:
        """Onto the ball, then onto [0, 1], which brings no image further from its centre."""
        change = images - self._centre
        factor = (self._eps / _norm(change).clamp_min(1e-12)).clamp_max(1)
        return (self._centre + change * factor.to(change.dtype)).clamp(0, 1)

    def move(self, images: Tensor, gradient: Tensor, length: float) -> Tensor:
        """A step of ``length`` along the gradient; none where it is 0."""
        return self.project(images + length * (gradient / _norm(gradient).clamp_min(1e-12)).to(images.dtype))

    def keep(self, index: Tensor) -> L2Ball:
        """The ball around some of the images."""
        return L2Ball(self._centre[index], self._eps)


def ball_around(images: Tensor, eps: float, norm: str) -> Ball:
    """The ball of radius ``eps`` in the given norm around each image."""
    if norm == "linf":
        return LinfBall((images - eps).clamp(0, 1), (images + eps).clamp(0, 1))
    return L2Ball(images, eps)


def climb(
    model: nn.Module,
    images: Tensor,
    start: Tensor,
    goal: Goal,
    *,
    eps: float,
    norm: str,
    step_size: float,
    steps: int,
    objective: Objective,
    early_stop: bool,
    batch_size: int | None,
) -> Tensor:
    """Climbs ``objective`` (goes down it for targets) from ``start`` within the ball around ``images``.

    Start and targets belong to the whole batch, so chunks of ``batch_size`` change nothing but rounding.

    Raises:
        FloatingPointError: logits or gradient were not finite; it names the step.
    """
    pieces = list(parts(len(images), batch_size))
    starts = [start[part] for part in pieces]
    del start  # nothing holds a start once it has been left, so that the peak is that of a loop written by hand
    results = []
    for part in pieces:
        ball = ball_around(images[part], eps, norm)
        chunk = _Climb(model, images[part], ball, part, goal, goal.direction * step_size, objective, early_stop)
        health = Health()
        last = follow_gradient(ball.project(starts.pop(0)), chunk.evaluate, chunk.move, steps, health)
        health.report()
        results.append(chunk.finish(last))
    return results[0] if len(results) == 1 else torch.cat(results)


class _Climb:
    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        ball: Ball,
        part: slice,
        goal: Goal,
        length: float,
        objective: Objective,
        early_stop: bool,
    ) -> None:
        self._model = model
        self._ball = ball
        self._part = part
        self._goal = goal
        self._length = length
        self._objective = objective
        self._wanted: Tensor | None = None  # labels or targets of the images still attacked
        # With early stop: the images that are done, and the places of those that are not.
        self._result = torch.empty_like(images) if early_stop else None
        self._places = torch.arange(len(images) if early_stop else 0, device=images.device)

    def evaluate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and logits, as :func:`follow_gradient` wants them."""
        logits = self._goal.logits(self._model(images), len(images))
        if self._wanted is None:
            self._wanted = self._goal.classes()[self._part]
        losses = self._objective(logits, self._wanted)
        if losses.shape != logits.shape[:1]:
            raise ValueError(f"objective must return one loss per image, ({len(images)},), got {tuple(losses.shape)}")
        return losses, logits

    def move(self, point: Point) -> Tensor | None:
        """The next images, or None when all are done."""
        images, gradient = point.variable, point.gradient
        if self._result is not None and self._wanted is not None:
            reached = self._goal.reached(point.logits, self._wanted)
            self._result[self._places[reached]] = images[reached]
            left = (~reached).nonzero().squeeze(1)
            self._places = self._places[left]
            if len(left) == 0:
                return None
            if len(left) < len(images):  # those that are done cost nothing from here on
                images, gradient = images[left], gradient[left]
                self._ball, self._wanted = self._ball.keep(left), self._wanted[left]
        return self._ball.move(images, gradient, self._length)

    def finish(self, last: Tensor) -> Tensor:
        """The result, of which ``last`` are the images that were attacked to the end."""
        if self._result is None:
            return last
        if len(self._places):
            self._result[self._places] = last
        return self._result


def _norm(images: Tensor) -> Tensor:
    return torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True, dtype=_wide(images.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


class Adam:
    """The step ``rate * m / (sqrt(v) + 1e-8)`` of Kingma, Ba (arXiv:1412.6980), with bias-corrected averages m, v.

    torch's optimiser is not used since it wants leaf tensors that it writes to, and cannot drop finished images.
    """

    def __init__(self, like: Tensor, rate: float) -> None:
        self._rate = rate
        self._mean = torch.zeros_like(like)
        self._square = torch.zeros_like(like)
        self._count = 0

    def step(self, gradient: Tensor) -> Tensor:
        """What to subtract from the variable."""
        self._count += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        mean = self._mean / (1 - 0.9**self._count)
        square = self._square / (1 - 0.999**self._count)
        return self._rate * mean / (square.sqrt() + 1e-8)

    def keep(self, index: Tensor) -> None:
        """Goes on with some of the rows."""
        self._mean, self._square = self._mean[index], self._square[index]
