"""SPSA: a gradient attack without gradients, from random finite differences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor, nn

from mixaug._checks import ABOVE_ZERO, MAX_COUNT, check_field, check_flag, check_generator, check_int, check_length
from mixaug._model_state import gradients_off
from mixaug.attacks.attack import (
    Attack,
    Goal,
    check_objective,
    check_radius,
    check_step_size,
    signs_like,
    start_in_ball,
)
from mixaug.attacks.objectives import margin
from mixaug.attacks.steps import Adam, Health, Objective, ball_around


@dataclass(frozen=True)
class SPSA(Attack):
    """Simultaneous perturbation stochastic approximation in the l-infinity ball: black box, it only asks for logits.

    ``g = mean_i (L(x_t + delta v_i) - L(x_t - delta v_i)) / (2 delta) v_i`` with ``v_i`` uniform in {-1, 1}^n, then an
    Adam step of ``step_size`` up g (down it for a target) and back into the ball; L is the margin of the logits.
    Uesato, O'Donoghue, van den Oord, Kohli, "Adversarial risk and the dangers of evaluating against weak attacks",
    ICML 2018 (arXiv:1802.05666); Spall, IEEE Trans. Automatic Control 37 (1992).

    Convention: ``samples`` directions cost ``2 * samples`` forwards of each image a step, 5,120 with the defaults. The
    last iterate is returned, and a misclassified image is attacked like any other (unless ``early_stop``). Directions
    are drawn per image.

    Args:
        eps: radius in pixel units of images in [0, 1]; 0 or more, default 8/255.
        step_size: Adam's rate, the length of the first step in each pixel; above 0, default 0.01.
        steps: number of steps, default 20.
        targeted: towards a random other class of each image, or towards ``targets=`` of the call; default False.
        random_start: begin at a uniform point of the ball; default False.
        generator: source of directions, start and targets; default torch's own. A CPU generator gives the same
            directions on a GPU, but must draw and move all of them there.
        samples: directions a step, default 128.
        delta: distance of the two images that a difference compares from the iterate; above 0, default 0.01. They may
            leave [0, 1] and the ball by that much: clipping them would bias the difference.
        objective: default :func:`~mixaug.attacks.objectives.margin`.
        early_stop: an image that is misclassified (or at its target) stays as it is and costs nothing from then on, for
            one more forward of each image a step; default False.
        batch_size: most images in one pass of the model; default None: 256, or two copies of the batch.

    Shape:
        images: (B, C, H, W) floating point in [0, 1]; labels: (B,) int64; result: as images.

    Returns:
        Adversarial images, detached; the model is left as it was.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a setting, shape or value out of range.
        FloatingPointError: a step's losses were not finite; raised after the attack, naming the step.

    Note:
        In half precision ``delta`` is rounded to the grid of the images: attack float32 images under autocast.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)).eval()
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> adversarial = SPSA(eps=8 / 255, steps=2, samples=16)(model, images, labels)
        >>> bool((adversarial - images).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    eps: float = 8 / 255
    step_size: float = 0.01
    steps: int = 20
    targeted: bool = False
    random_start: bool = False
    generator: torch.Generator | None = None
    _: KW_ONLY
    samples: int = 128
    delta: float = 0.01
    objective: Objective = field(default=margin)
    early_stop: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_radius(self)
        check_step_size(self)
        check_field(self, "steps", check_int, 0, MAX_COUNT)
        check_field(self, "targeted", check_flag)
        check_field(self, "random_start", check_flag)
        check_generator(self.generator)
        check_objective(self.objective)
        check_field(self, "samples", check_int, 1, MAX_COUNT)
        check_field(self, "delta", check_length, ABOVE_ZERO)
        check_field(self, "early_stop", check_flag)
        check_field(self, "batch_size", check_int, 1, MAX_COUNT, optional=True)

    @property
    def name(self) -> str:
        """The attack's name in reports, ``spsa``."""
        return "spsa" + ("-targeted" if self.targeted else "")

    def _attack(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        with gradients_off(images.device):
            return self._search(model, images, goal)

    def _search(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        queries = _Queries(model, goal, self.objective, self.batch_size or max(256, 2 * len(images)))
        ball = ball_around(images, self.eps, "linf")
        start = start_in_ball(images, self.eps, "linf", self.generator) if self.random_start else images
        x = ball.project(start)
        result = x.clone()
        places = torch.arange(len(x), device=x.device)  # of the images still attacked
        adam = Adam(x, self.step_size)
        health = Health()
        for _ in range(self.steps):
            if self.early_stop:
                left = (~queries.reached(x, places)).nonzero().squeeze(1)
                if len(left) < len(places):
                    result[places] = x
                    places, x, ball = places[left], x[left], ball.keep(left)
                    adam.keep(left)
                if len(left) == 0:
                    break
            slope = self._slope(queries, x, places, images)
            health.note(slope)
            x = ball.project(x - adam.step(-goal.direction * slope))
        health.report()
        if len(places) == len(images):
            return x
        result[places] = x
        return result

    def _slope(self, queries: _Queries, x: Tensor, places: Tensor, images: Tensor) -> Tensor:
        """The mean over directions of difference quotient times direction."""
        slope = torch.zeros_like(x)
        group = max(1, queries.batch_size // (2 * len(x)))  # as many directions at once as fit
        for begin in range(0, self.samples, group):
            count = min(group, self.samples - begin)
            # Drawn for the whole batch, so that an image's directions do not depend on when others stop.
            signs = torch.stack([signs_like(images, self.generator)[places] for _ in range(count)])
            points = torch.cat([x + self.delta * signs, x - self.delta * signs]).flatten(0, 1)
            ahead, behind = queries.losses(points, places.repeat(2 * count)).view(2, count, len(x), 1, 1, 1)
            slope += ((ahead - behind).to(x.dtype) * signs).sum(0)
        return slope / (2 * self.delta * self.samples)


class _Queries:
    """The black box: losses and success of images whose places in the batch are given."""

    def __init__(self, model: nn.Module, goal: Goal, objective: Objective, batch_size: int) -> None:
        self.batch_size = batch_size
        self._model = model
        self._goal = goal
        self._objective = objective

    def losses(self, images: Tensor, places: Tensor) -> Tensor:
        return torch.cat([self._objective(logits, wanted) for logits, wanted in self._ask(images, places)])

    def reached(self, images: Tensor, places: Tensor) -> Tensor:
        return torch.cat([self._goal.reached(logits, wanted) for logits, wanted in self._ask(images, places)])

    def _ask(self, images: Tensor, places: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for some, where in zip(images.split(self.batch_size), places.split(self.batch_size), strict=True):
            logits = self._goal.logits(self._model(some), len(some))
            yield logits, self._goal.classes()[where]
