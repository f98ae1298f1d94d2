"""What several attacks together leave of a model, and its accuracy against the radius."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixaug.evaluate.intervals import Estimate, bootstrap_means, share
from mixaug.evaluate.outcomes import Outcomes

# An attack's last projection may miss the radius by a rounding.
_SLACK = 1e-5


@dataclass(frozen=True)
class WorstCase:
    """A model under all attacks together: an image counts as right if none of them fooled the model.

    Args:
        accuracy: share of the images that every attack left right.
        error: the rest of them.
        clean_accuracy: accuracy on the same images without an attack.
        gap: the robustness gap, accuracy before less accuracy after, image by image.
        attacks: names of the attacks that are counted, those that kept to the radius.
    """

    accuracy: Estimate
    error: Estimate
    clean_accuracy: Estimate
    gap: Estimate
    attacks: tuple[str, ...]


def within(outcomes: Outcomes, eps: float) -> list[str]:
    """The attacks that moved no pixel by more than ``eps``: one without a bound, such as CW-L2, fools any model.

    Example:
        >>> right, index = torch.tensor([True]), torch.tensor([0])
        >>> outcomes = Outcomes(right, torch.ones(1), index, {}, {"a": index, "b": index}, {"a": right, "b": right},
        ...                     {"a": 0.1, "b": 0.3})
        >>> within(outcomes, 0.1)
        ['a']
    """
    return [name for name, change in outcomes.attack_change.items() if change <= eps + _SLACK]


def all_right(outcomes: Outcomes, names: list[str]) -> tuple[Tensor, Tensor]:
    """(a,) int64 images that all the attacks were given, and (a,) bool whether each is right under all of them."""
    index = outcomes.attack_index[names[0]]
    for name in names[1:]:
        index = index[torch.isin(index, outcomes.attack_index[name])]
    right = torch.ones(len(index), dtype=torch.bool)
    for name in names:
        # Indices ascend, and the smaller set is part of the larger one.
        right &= outcomes.attacked[name][torch.isin(outcomes.attack_index[name], index)]
    return index, right


def worst_case(outcomes: Outcomes, eps: float) -> WorstCase | None:
    """The worst case per image over the attacks within ``eps``, on the images that all of them were given.

    Returns:
        None without such attacks.

    Example:
        >>> index, right = torch.arange(2), torch.tensor([True, True])
        >>> attacked = {"a": torch.tensor([True, False]), "b": torch.tensor([False, True])}
        >>> outcomes = Outcomes(right, torch.ones(2), index, {}, dict.fromkeys("ab", index), attacked, {"a": 0, "b": 0})
        >>> worst_case(outcomes, 0.1).accuracy.value
        0.0
    """
    names = within(outcomes, eps)
    if not names:
        return None
    index, right = all_right(outcomes, names)
    if len(index) == 0:
        return None
    before = outcomes.correct[index]
    (gap,) = bootstrap_means((before.double() - right.double())[:, None])
    return WorstCase(share(right), share(~right), share(before), gap, tuple(names))


def accuracy_curve(outcomes: Outcomes) -> dict[float, Estimate]:
    """Accuracy by radius in [0, 1], from 0 (no attack) on; empty without a curve.

    Example:
        >>> outcomes = Outcomes(torch.tensor([True, True]), torch.ones(2), torch.empty(0), {}, {}, {}, {},
        ...                     curve_index=torch.arange(2), curve={0.1: torch.tensor([True, False])})
        >>> {eps: accuracy.value for eps, accuracy in accuracy_curve(outcomes).items()}
        {0.0: 1.0, 0.1: 0.5}
    """
    if not outcomes.curve:
        return {}
    clean = share(outcomes.correct[outcomes.curve_index])
    return {0.0: clean} | {eps: share(right) for eps, right in sorted(outcomes.curve.items())}
