"""Feature Scatter's adversary: one step up the optimal transport cost between clean and perturbed predictions."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixaug._checks import (
    ABOVE_ZERO,
    MAX_COUNT,
    check_choice,
    check_field,
    check_generator,
    check_int,
    check_number,
    check_tensor,
    kind_of,
)
from mixaug._model_state import gradients_off
from mixaug.attacks.attack import BATCH_NORMS, Attack, Goal, check_radius, check_step_size, start_in_ball
from mixaug.attacks.steps import Health, Point, ball_around, follow_gradient


@dataclass(frozen=True)
class FeatureScatter(Attack):
    """One step up the optimal transport cost between the clean and the perturbed batch's logits.

    ``x' = clip(project(x_0 + step sign(grad <T, C>)))`` with ``C_ij = 1 - cos(f(x)_i, f(x_0)_j)``, T the plan that
    moves the clean batch's mass (1/B each) onto the perturbed one's at the least cost with entropy, found by Sinkhorn's
    rounds, and ``x_0`` uniform in the ball. Zhang, Wang, "Defense against adversarial attacks using feature
    scattering-based adversarial training", NeurIPS 2019 (arXiv:1907.10764).

    Convention: labels are not used (only checked). The cost couples the images of the batch, so an image's result
    depends on the others and the batch is never split. The plan is held fixed in the gradient, which by the envelope
    theorem is the gradient of the entropic cost itself. Two forwards (clean, perturbed) and one backward a step.

    Args:
        eps: radius in pixel units of images in [0, 1]; 0 or more, default 8/255.
        step_size: length of the step; default None: eps.
        steps: number of steps, default 1.
        generator: source of the start; default torch's own.
        regularisation: weight of the plan's entropy; above 0, default 0.01.
        rounds: Sinkhorn's rounds, default 50.
        norm: ``"linf"`` (default) or ``"l2"``.
        batch_norm: ``"still"`` (default) or ``"moves"``, as for :class:`PGD`.

    Shape:
        As :class:`PGD`; labels (B,) int64 or (B, K) probabilities.

    Returns:
        As :class:`PGD`.

    Raises:
        TypeError, ValueError, FloatingPointError: as :class:`PGD`.

    Note:
        Sinkhorn runs on logarithms in float32, also under autocast: ``exp(-C / 0.01)`` underflows otherwise. The
        authors' code differentiates through the rounds too, stops them early, and takes the gradient at a start that
        is not clipped to the pixels' range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> bool((FeatureScatter(eps=8 / 255)(model, images, labels) - images).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    _for_training: ClassVar[bool] = True

    eps: float = 8 / 255
    step_size: float | None = None
    steps: int = 1
    generator: torch.Generator | None = None
    _: KW_ONLY
    regularisation: float = 0.01
    rounds: int = 50
    norm: str = "linf"
    batch_norm: str = "still"

    def __post_init__(self) -> None:
        check_radius(self)
        check_step_size(self)
        check_field(self, "steps", check_int, 0, MAX_COUNT)
        check_generator(self.generator)
        check_field(self, "regularisation", check_number, ABOVE_ZERO)
        check_field(self, "rounds", check_int, 1, MAX_COUNT)
        check_field(self, "batch_norm", check_choice, BATCH_NORMS)

    @property
    def name(self) -> str:
        """The attack's name in reports, ``feature-scatter``."""
        return "feature-scatter" + ("" if self.norm == "linf" else f"-{self.norm}")

    def _attack(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        with gradients_off(images.device):
            clean = goal.logits(model(images), len(images))
        ball = ball_around(images, self.eps, self.norm)
        length = self.eps if self.step_size is None else self.step_size

        def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
            logits = goal.logits(model(x), len(x))
            return transport_cost(clean, logits, self.regularisation, self.rounds), logits

        def move(point: Point) -> Tensor:
            return ball.move(point.variable, point.gradient, length)

        health = Health()
        start = start_in_ball(images, self.eps, self.norm, self.generator)
        adversarial = follow_gradient(ball.project(start), evaluate, move, self.steps, health)
        health.report()
        return adversarial


def transport_cost(one: Tensor, two: Tensor, regularisation: float = 0.01, rounds: int = 50) -> Tensor:
    """Cost of moving one batch of feature vectors onto another: ``<T, C>``, as one share per vector of the second.

    ``C_ij = 1 - cos(one_i, two_j)``; T is the plan with row sums 1/B and column sums 1/B that minimises
    ``<T, C> - regularisation * H(T)``, by Sinkhorn's rounds on logarithms. Cuturi, "Sinkhorn distances", NeurIPS 2013
    (arXiv:1306.0895).

    Convention: the plan carries no gradient, the cost matrix does.

    Args:
        one: (B, K).
        two: (B, K).
        regularisation: weight of the entropy H; above 0.
        rounds: updates of both scalings, 1 or more.

    Shape:
        Result (B,): column sums of ``T * C``; their sum is the cost.

    Returns:
        The shares, in float32 (float64 for float64 vectors).

    Example:
        >>> vectors = torch.eye(3)
        >>> transport_cost(vectors, vectors.roll(1, 0)).sum().abs() < 1e-6  # the same vectors in another order
        tensor(True)
    """
    for name, vectors in (("one", one), ("two", two)):
        check_tensor(name, vectors, 2, floating=True)
    if two.shape != one.shape or two.dtype != one.dtype:
        raise ValueError(f"two must be like one, {kind_of(one)}, got {kind_of(two)}")
    regularisation = check_number("regularisation", regularisation, ABOVE_ZERO)
    rounds = check_int("rounds", rounds, 1, MAX_COUNT)
    with torch.autocast(one.device.type, enabled=False):  # a product in bfloat16 would blur the cosines
        one, two = (nn.functional.normalize(vectors, dim=1) for vectors in (one, two))
        cost = 1 - one @ two.T
        with torch.no_grad():
            score = -cost.detach() / regularisation
            uniform = -math.log(len(one))  # mass of each vector, as a logarithm
            rows = torch.zeros_like(score[:, :1])
            columns = torch.zeros_like(score[:1])
            for _ in range(rounds):
                rows = uniform - torch.logsumexp(score + columns, dim=1, keepdim=True)
                columns = uniform - torch.logsumexp(score + rows, dim=0, keepdim=True)
            plan = (score + rows + columns).exp()
        return (plan * cost).sum(0)
