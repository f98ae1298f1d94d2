"""What becomes of a model under one attack, and how far its loss rises around images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mixaug.evaluate.intervals import Estimate, Quantity, bootstrap_means, share
from mixaug.evaluate.outcomes import Outcomes
from mixaug.evaluate.surface import LossSurface


@dataclass(frozen=True)
class AttackResult:
    """A model under one attack.

    Args:
        accuracy: share of the attacked images that the model still gets right.
        error: the rest of them.
        clean_accuracy: accuracy on the same images before the attack.
        gap: accuracy before less accuracy under the attack, image by image.
        confidence: mean probability of the predicted class on the images that were attacked, those that the model gets
            right without an attack; on all if there are none.
    """

    accuracy: Estimate
    error: Estimate
    clean_accuracy: Estimate
    gap: Estimate
    confidence: Estimate


@dataclass(frozen=True)
class LossRise:
    """How far the loss rises at one radius around images, means over them.

    Args:
        attack: rise at the attack's end, where its adversarial image is.
        random: rise along a random direction orthogonal to it, mean of both ends.
    """

    attack: Quantity
    random: Quantity


def attack_result(outcomes: Outcomes, name: str) -> AttackResult:
    """The figures of the attack ``name``, from right and wrong image by image."""
    right = outcomes.attacked[name]
    before = outcomes.correct[outcomes.attack_index[name]]
    sure = outcomes.attack_confidence[name].double()
    (gap,) = bootstrap_means((before.double() - right.double())[:, None])
    (confidence,) = bootstrap_means((sure[before] if bool(before.any()) else sure)[:, None])
    return AttackResult(share(right), share(~right), share(before), gap, confidence)


def loss_rises(surfaces: Sequence[LossSurface]) -> dict[float, LossRise]:
    """The mean rises by radius, with 95% bootstrap intervals over the images.

    Example:
        >>> losses = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.25, 2.0], [0.0, 0.5, 1.0]])
        >>> rise = loss_rises([LossSurface(losses, torch.tensor([-0.1, 0.0, 0.1]), 0.1, label=3)])[0.1]
        >>> rise.attack.value, rise.random.value
        (1.75, 0.25)
    """
    rises = {}
    for radius in dict.fromkeys(surface.radius for surface in surfaces):
        rows = [[each.attack_rise, each.random_rise] for each in surfaces if each.radius == radius]
        attack, random = (
            Quantity(**vars(figure)) for figure in bootstrap_means(torch.tensor(rows, dtype=torch.float32))
        )
        rises[radius] = LossRise(attack, random)
    return rises


def rises_to_json(rises: dict[float, LossRise]) -> dict[str, Any]:
    """The rises as JSON values, by radius."""
    return {f"{radius:g}": {key: vars(figure) for key, figure in vars(rise).items()} for radius, rise in rises.items()}
