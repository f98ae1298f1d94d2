"""What an evaluation found, image by image, and the figures that are computed from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mixaug.evaluate.encoding import decode_pictures, encode_pictures, pack, pack_bits, unpack, unpack_bits
from mixaug.evaluate.intervals import Estimate, bootstrap_means, share


@dataclass(frozen=True)
class Outcomes:
    """Right or wrong, image by image: every figure of a report is computed from these.

    Args:
        correct: (n,) bool, clean images.
        confidence: (n,) float32, probability of the predicted class, clean images.
        corruption_index: (m,) int64, which of the n images were corrupted.
        corrupted: corruption name to (5, m) bool, whether each was right at severity 1 to 5.
        attack_index: attack name to (a,) int64, which of the n images it was given.
        attacked: attack name to (a,) bool, whether each was still right.
            An image that is wrong without an attack is not attacked, and wrong.
        attack_change: attack name to the largest change of a pixel that it made, in [0, 1].
        attack_confidence: attack name to (a,) float32, probability of the predicted class under the attack; without one
            for an image that was not attacked.
    """

    correct: Tensor
    confidence: Tensor
    corruption_index: Tensor
    corrupted: dict[str, Tensor]
    attack_index: dict[str, Tensor]
    attacked: dict[str, Tensor]
    attack_change: dict[str, float]
    attack_confidence: dict[str, Tensor] = field(default_factory=dict)

    def failures(self) -> Tensor:
        """(m,) float64: the share of all corruptions and severities that the model fails, image by image."""
        return torch.stack([(~rows).double().mean(0) for rows in self.corrupted.values()]).mean(0)

    def to_json(self) -> dict[str, Any]:
        """Bits packed eight to a byte, numbers little-endian, in base64: some 10 bytes an image and 15 corruptions."""
        return {
            "correct": pack_bits(self.correct),
            "confidence": pack(self.confidence.float()),
            "corruption_index": pack(self.corruption_index.int()),
            "corrupted": {name: pack_bits(bits) for name, bits in self.corrupted.items()},
            "attack_index": {name: pack(index.int()) for name, index in self.attack_index.items()},
            "attacked": {name: pack_bits(bits) for name, bits in self.attacked.items()},
            "attack_change": self.attack_change,
            "attack_confidence": {name: pack(values.float()) for name, values in self.attack_confidence.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcomes:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            correct=unpack_bits(data["correct"]),
            confidence=unpack(data["confidence"], torch.float32),
            corruption_index=unpack(data["corruption_index"], torch.int32).long(),
            corrupted={name: unpack_bits(bits) for name, bits in data["corrupted"].items()},
            attack_index={name: unpack(text, torch.int32).long() for name, text in data["attack_index"].items()},
            attacked={name: unpack_bits(bits) for name, bits in data["attacked"].items()},
            attack_change=data["attack_change"],
            attack_confidence={name: unpack(text, torch.float32) for name, text in data["attack_confidence"].items()},
        )


@dataclass(frozen=True)
class CorruptedExample:
    """One corrupted image and what the model made of it: uint8 (C, H, W), label, prediction and its confidence."""

    corruption: str
    severity: int
    image: Tensor
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class AdversarialExample:
    """One attacked image before and after: uint8 (C, H, W) each, with the two predictions and their confidences."""

    attack: str
    clean: Tensor
    adversarial: Tensor
    label: int
    predicted_clean: int
    confidence_clean: float
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Examples:
    """What a report shows of single images that were corrupted or attacked."""

    corrupted: list[CorruptedExample] = field(default_factory=list)
    adversarial: list[AdversarialExample] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Pictures as lossless PNG in base64."""
        return {
            "corrupted": [encode_pictures(vars(example)) for example in self.corrupted],
            "adversarial": [encode_pictures(vars(example)) for example in self.adversarial],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Examples:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            corrupted=[CorruptedExample(**decode_pictures(example)) for example in data["corrupted"]],
            adversarial=[AdversarialExample(**decode_pictures(example)) for example in data["adversarial"]],
        )


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


def attack_result(outcomes: Outcomes, name: str) -> AttackResult:
    """The figures of the attack ``name``, from right and wrong image by image."""
    right = outcomes.attacked[name]
    before = outcomes.correct[outcomes.attack_index[name]]
    sure = outcomes.attack_confidence[name].double()
    (gap,) = bootstrap_means((before.double() - right.double())[:, None])
    (confidence,) = bootstrap_means((sure[before] if bool(before.any()) else sure)[:, None])
    return AttackResult(share(right), share(~right), share(before), gap, confidence)
