"""What an evaluation is to measure, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixaug._checks import check_int
from mixaug.evaluate import _costs
from mixaug.evaluate._choices import Attack, AttackCounts, Attacks, attack_indices, chosen_attacks, subset
from mixaug.evaluate.attack_presets import USUAL_COUNTS, black_box, least_classes, of_this_package
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.outcomes import SEVERITIES
from mixaug.evaluate.perturbations import PERTURBATIONS

if TYPE_CHECKING:
    from mixaug.evaluate.corrupted_sets import CorruptedSet

#: Images of each part with ``everything=True``; all if there are fewer.
USUAL_SIZES = {
    "n_lipschitz": 100,
    "n_surface": 2,
    "n_flips": 100,
    "n_occlusion": 200,
    "n_features": 500,
    "n_maps": 6,
}
#: Images of the accuracy against the radius, where attacks are one of these presets.
USUAL_CURVE = 100
_WITH_CURVE = ("quick", "standard", "autoattack")
USUAL_AUDIT = 200
_GRADIENT_PARTS = ("n_lipschitz", "n_surface", "n_maps", "n_curve")
_LAYER_PARTS = ("n_maps", "n_features")
_PICTURE_PARTS = ("n_flips", "n_maps")
#: Radii of the curve, in units of ``eps``.
_CURVE_RADII = (0.25, 0.5, 1.0, 2.0, 4.0)


def curve_radii(eps: float) -> list[float]:
    """The radii of the accuracy against the radius: multiples of ``eps``, at most 1.

    Example:
        >>> curve_radii(0.4)
        [0.1, 0.2, 0.4, 0.8, 1.0]
    """
    return list(dict.fromkeys(min(1.0, factor * eps) for factor in _CURVE_RADII))


@dataclass(frozen=True, eq=False)
class Plan:
    """The images of each part, by position, ascending; empty: the part is not measured.

    Args:
        corruptions: names of the corruptions.
        corruption_index: their images.
        attacks: by name.
        attack_index: images of each attack.
        index: images of the other parts, by the name of the argument that counts them.
        left_out: part to why it cannot be measured; more are added on the way.
    """

    corruptions: tuple[str, ...]
    corruption_index: Tensor
    attacks: dict[str, Attack]
    attack_index: dict[str, Tensor]
    index: dict[str, Tensor]
    left_out: dict[str, str]

    def work(self, images: int, other: int, eps: float, audit_pieces: list[str]) -> float:
        """All the work, in the unit of :mod:`mixaug.evaluate._costs`.

        Args:
            images: number of clean images.
            other: number of out-of-distribution images.
            eps: radius.
            audit_pieces: names of the audit's pieces.
        """
        count = {name: len(index) for name, index in self.index.items()}
        work = _costs.CLEAN * (images + other)
        work += _costs.CORRUPTED * len(self.corruptions) * len(SEVERITIES) * len(self.corruption_index)
        work += sum(_costs.of_attack(self.attacks[name]) * len(index) for name, index in self.attack_index.items())
        work += _costs.RADIUS * len(curve_radii(eps)) * count["n_curve"]
        work += _costs.LIPSCHITZ * count["n_lipschitz"] + _costs.SURFACE * count["n_surface"]
        work += _costs.SEQUENCE * count["n_flips"] * len(PERTURBATIONS) + _costs.OCCLUDED * count["n_occlusion"]
        work += _costs.FEATURES * count["n_features"] + _costs.MAPS * count["n_maps"]
        return work + sum(_costs.of_audit(piece) for piece in audit_pieces) * count["n_audit"]

    @property
    def needs_gradient(self) -> bool:
        """Whether something of it follows gradients, as far as is known."""
        attacks = any(of_this_package(attack) and not black_box(attack) for attack in self.attacks.values())
        return attacks or any(len(self.index[name]) for name in _GRADIENT_PARTS)

    def possible(self, classes: int, no_gradient: str | None, no_audit: str | None, no_layers: str | None) -> Plan:
        """What of this can be measured on a model.

        Args:
            classes: number of its classes.
            no_gradient: why there are no gradients through it; None where there are.
            no_audit: why it cannot be audited.
            no_layers: why its layers cannot be looked into.
        """
        reasons: dict[str, str] = {}
        for name, attack in self.attacks.items():
            if classes < least_classes(attack):
                reasons[name] = f"it needs {least_classes(attack)} classes or more, and the model has {classes}"
            elif no_gradient is not None and of_this_package(attack) and not black_box(attack):
                reasons[name] = no_gradient
        wanted = {name for name, index in self.index.items() if len(index)}
        parts = {
            **dict.fromkeys(_GRADIENT_PARTS, no_gradient),
            "n_audit": no_audit,
            **({} if no_layers is None else dict.fromkeys(_LAYER_PARTS, no_layers)),
        }
        without = {name: why for name, why in parts.items() if why is not None and name in wanted}
        nothing = torch.empty(0, dtype=torch.int64)
        return replace(
            self,
            attacks={name: attack for name, attack in self.attacks.items() if name not in reasons},
            attack_index={name: index for name, index in self.attack_index.items() if name not in reasons},
            index={name: nothing if name in without else index for name, index in self.index.items()},
            left_out=self.left_out | reasons | {name.removeprefix("n_"): why for name, why in without.items()},
        )


def planned(
    data: LabelledImages,
    corruptions: tuple[str, ...],
    attacks: Attacks,
    eps: float,
    audit: bool,
    counts: dict[str, int | None],
    n_corruption: int | None,
    n_attack: AttackCounts,
    everything: bool,
    seed: int,
) -> Plan:
    """What was asked for.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range; more images asked for than there are.
        ModuleNotFoundError: an attack needs an optional library.
    """
    total = len(data)
    preset = attacks if isinstance(attacks, str) else None
    chosen = chosen_attacks(attacks, eps)
    if n_attack is None and preset is not None:
        usual = USUAL_COUNTS[preset]
        n_attack = None if usual is None else min(usual, total)
    sizes = dict(counts)
    if preset in _WITH_CURVE and sizes["n_curve"] is None:
        sizes["n_curve"] = min(USUAL_CURVE, total)
    if everything:
        sizes |= {name: min(usual, total) for name, usual in USUAL_SIZES.items() if sizes[name] is None}
    if not audit:
        if sizes["n_audit"]:
            raise ValueError(f"n_audit must be None where audit is False, got {sizes['n_audit']}")
        sizes["n_audit"] = None
    elif sizes["n_audit"] is None:
        sizes["n_audit"] = min(USUAL_AUDIT, total)
    for name, size in sizes.items():
        if size is not None:
            sizes[name] = check_int(name, size, 0)
    if eps == 0:
        _check_radius(sizes)
    left_out = {}
    if data.channels not in (1, 3):
        for name in _PICTURE_PARTS:
            if sizes[name]:
                left_out[name.removeprefix("n_")] = f"images of {data.channels} channels are no pictures"
                sizes[name] = 0
    nothing = torch.empty(0, dtype=torch.int64)
    return Plan(
        corruptions,
        subset("n_corruption", n_corruption, total, seed) if corruptions else nothing,
        chosen,
        attack_indices(n_attack, chosen, total, seed),
        {name: subset(name, size, total, seed) if size else nothing for name, size in sizes.items()},
        left_out,
    )


def _check_radius(sizes: dict[str, int | None]) -> None:
    """Raises for the parts that need a radius above 0."""
    wanted = {
        "n_lipschitz": "the Lipschitz constant",
        "n_curve": "the accuracy against the radius",
        "n_audit": "what the audit measures",
    }
    for name, what in wanted.items():
        if sizes[name]:
            without = "audit=False" if name == "n_audit" else f"{name}=0"
            raise ValueError(f"eps must be above 0 to measure {what}, got 0; {without} leaves it out")


def check_set(corrupted: CorruptedSet, data: LabelledImages) -> None:
    """Raises unless a saved corrupted set is of the data set's images, as far as their labels and their size tell.

    Raises:
        ValueError: another number or size of images, other labels, or a severity that is missing.
    """
    if len(corrupted) != len(data):
        raise ValueError(
            f"corruptions must be of the data set's {len(data)} images in their order, got a set of {len(corrupted)}"
        )
    missing = [severity for severity in SEVERITIES if severity not in corrupted.severities]
    if missing:
        raise ValueError(f"corruptions must have the severities 1 to 5, got a set without {missing}")
    shape = tuple(data.take(torch.tensor([0]))[0].shape[1:])
    if tuple(corrupted.image_shape) != shape:
        raise ValueError(
            f"corruptions must be of the data set's images {shape}, got a set of {tuple(corrupted.image_shape)}"
        )
    labels = data.take(torch.arange(len(data)))[1]
    different = (corrupted.labels() != labels).nonzero()
    if len(different):
        raise ValueError(
            f"corruptions must have the data set's labels in their order, got another one at index {int(different[0])}"
        )


def expected_names(classes: Any, count: int) -> list[str] | None:
    """Class names, one for each class of the model.

    Raises:
        ValueError: another number of them.
    """
    if classes is None:
        return None
    names = [str(label) for label in classes]
    if len(names) != count:
        raise ValueError(f"classes must be names of the model's {count} classes, got {len(names)} names")
    return names
