"""Steps inside a ball around each image, and the climb made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from mixaug.attacks._attack import Goal, parts
from mixaug.attacks._engine import Health, Point, follow_gradient

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
