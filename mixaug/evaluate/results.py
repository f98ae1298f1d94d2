"""What an evaluation found, image by image, and the figures that are computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixaug.evaluate.encoding import decode_png, encode_png, pack, pack_bits, unpack, unpack_bits
from mixaug.evaluate.intervals import Estimate, Quantity, bootstrap_means, share
from mixaug.evaluate.measures.surface import LossSurface

if TYPE_CHECKING:
    from mixaug.evaluate.measures.consistency import FlipRates
    from mixaug.evaluate.measures.features import FeatureMap
    from mixaug.evaluate.measures.occlusion import OcclusionCurve


def _no_index() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


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
        lipschitz_index: (l,) int64, the images around which the Lipschitz constant was measured.
        lipschitz: (l,) float32, the constant at each of them.
        curve_index: (c,) int64, the images of the accuracy against the radius.
        curve: radius to (c,) bool, whether each was still right under the strongest of the curve's attacks.
        flip_index: (f,) int64, the images of the perturbation sequences.
        flips: the changes of the prediction in them; None: not measured.
        occlusion_index: (o,) int64, the images of the occlusion curve.
        occlusion: that curve; None: not measured.
        ood_confidence: (d,) float32, probability of the predicted class on images of another data set.
    """

    correct: Tensor
    confidence: Tensor
    corruption_index: Tensor
    corrupted: dict[str, Tensor]
    attack_index: dict[str, Tensor]
    attacked: dict[str, Tensor]
    attack_change: dict[str, float]
    attack_confidence: dict[str, Tensor] = field(default_factory=dict)
    lipschitz_index: Tensor = field(default_factory=_no_index)
    lipschitz: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float32))
    curve_index: Tensor = field(default_factory=_no_index)
    curve: dict[float, Tensor] = field(default_factory=dict)
    flip_index: Tensor = field(default_factory=_no_index)
    flips: FlipRates | None = None
    occlusion_index: Tensor = field(default_factory=_no_index)
    occlusion: OcclusionCurve | None = None
    ood_confidence: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float32))

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
            "lipschitz_index": pack(self.lipschitz_index.int()),
            "lipschitz": pack(self.lipschitz.float()),
            "curve_index": pack(self.curve_index.int()),
            "curve": [{"eps": eps, "right": pack_bits(bits)} for eps, bits in self.curve.items()],
            "flip_index": pack(self.flip_index.int()),
            "flips": None if self.flips is None else self.flips.to_json(),
            "occlusion_index": pack(self.occlusion_index.int()),
            "occlusion": None if self.occlusion is None else _occlusion_to_json(self.occlusion),
            "ood_confidence": pack(self.ood_confidence.float()),
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
            lipschitz_index=unpack(data["lipschitz_index"], torch.int32).long(),
            lipschitz=unpack(data["lipschitz"], torch.float32),
            curve_index=unpack(data["curve_index"], torch.int32).long(),
            curve={row["eps"]: unpack_bits(row["right"]) for row in data["curve"]},
            flip_index=unpack(data["flip_index"], torch.int32).long(),
            flips=None if data["flips"] is None else _flips_from_json(data["flips"]),
            occlusion_index=unpack(data["occlusion_index"], torch.int32).long(),
            occlusion=None if data["occlusion"] is None else _occlusion_from_json(data["occlusion"]),
            ood_confidence=unpack(data["ood_confidence"], torch.float32),
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
class MapExample:
    """An image with the class activation maps of its label and of the prediction: uint8 (C, H, W) and (H, W) each."""

    image: Tensor
    label_map: Tensor
    predicted_map: Tensor
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Examples:
    """What a report shows of single images: pictures, loss surfaces, and a map of the features."""

    corrupted: list[CorruptedExample] = field(default_factory=list)
    adversarial: list[AdversarialExample] = field(default_factory=list)
    surfaces: list[LossSurface] = field(default_factory=list)
    maps: list[MapExample] = field(default_factory=list)
    features: FeatureMap | None = None

    def to_json(self) -> dict[str, Any]:
        """Pictures as lossless PNG in base64, surfaces as rows of numbers."""
        return {
            "corrupted": [_with_pictures(vars(example)) for example in self.corrupted],
            "adversarial": [_with_pictures(vars(example)) for example in self.adversarial],
            "surfaces": [
                vars(surface) | {"losses": surface.losses.tolist(), "offsets": surface.offsets.tolist()}
                for surface in self.surfaces
            ],
            "maps": [_with_pictures(vars(example)) for example in self.maps],
            "features": None if self.features is None else self.features.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Examples:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            corrupted=[CorruptedExample(**_without_pictures(example)) for example in data["corrupted"]],
            adversarial=[AdversarialExample(**_without_pictures(example)) for example in data["adversarial"]],
            surfaces=[
                LossSurface(
                    **surface
                    | {name: torch.tensor(surface[name], dtype=torch.float32) for name in ("losses", "offsets")}
                )
                for surface in data["surfaces"]
            ],
            maps=[MapExample(**_flat_maps(_without_pictures(example))) for example in data["maps"]],
            features=None if data["features"] is None else _features_from_json(data["features"]),
        )


def _occlusion_to_json(curve: OcclusionCurve) -> dict[str, Any]:
    fill = list(curve.fill) if isinstance(curve.fill, tuple) else curve.fill
    return {
        "ratios": list(curve.ratios), "correct": pack_bits(curve.correct), "patch_size": curve.patch_size, "fill": fill
    }  # fmt: skip


def _occlusion_from_json(data: dict[str, Any]) -> OcclusionCurve:
    from mixaug.evaluate.measures.occlusion import OcclusionCurve

    fill = tuple(data["fill"]) if isinstance(data["fill"], list) else data["fill"]
    return OcclusionCurve(tuple(data["ratios"]), unpack_bits(data["correct"]), data["patch_size"], fill)


def _flips_from_json(data: dict[str, Any]) -> FlipRates:
    from mixaug.evaluate.measures.consistency import FlipRates

    return FlipRates.from_json(data)


def _features_from_json(data: dict[str, Any]) -> FeatureMap:
    from mixaug.evaluate.measures.features import FeatureMap

    return FeatureMap.from_json(data)


def _flat_maps(fields: dict[str, Any]) -> dict[str, Any]:
    """A grey PNG comes back with a channel, which maps do not have."""
    return fields | {name: fields[name][0] for name in ("label_map", "predicted_map")}


def _with_pictures(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: {"png": encode_png(value)} if isinstance(value, Tensor) else value for name, value in fields.items()}


def _without_pictures(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: decode_png(value["png"]) if isinstance(value, dict) else value for name, value in fields.items()}


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
