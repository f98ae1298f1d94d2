"""What an evaluation is to measure, checked before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixaug.attacks._checks import check_int
from mixaug.evaluate._choices import Attack, AttackCounts, Attacks, attack_indices, chosen_attacks, subset
from mixaug.evaluate._subject import Subject
from mixaug.evaluate.attack_presets import ATTACK_PRESETS, USUAL_COUNTS, black_box
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.outcomes import SEVERITIES

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
#: Images of the accuracy against the radius, where attacks are a preset.
USUAL_CURVE = 100
USUAL_AUDIT = 200
#: Radii of the curve, in units of ``eps``.
CURVE_RADII = (0.25, 0.5, 1.0, 2.0, 4.0)
_GRADIENT_PARTS = ("n_lipschitz", "n_surface", "n_maps", "n_curve")


@dataclass(frozen=True, eq=False)
class Plan:
    """The images of each part, by position, ascending; empty: the part is not measured.

    Args:
        corruptions: names of the corruptions.
        corruption_index: their images.
        attacks: by name.
        attack_index: images of each attack.
        index: images of the other parts, by the name of the argument that counts them.
        left_out: part to why it cannot be measured.
    """

    corruptions: tuple[str, ...]
    corruption_index: Tensor
    attacks: dict[str, Attack]
    attack_index: dict[str, Tensor]
    index: dict[str, Tensor]
    left_out: dict[str, str]

    def pieces(self, images: int, batch_size: int, ood: int) -> int:
        """How many steps the progress has, but for those of the audit and the flips."""

        def batches(count: int) -> int:
            return math.ceil(count / batch_size)

        steps = batches(images) + batches(ood) + len(self.corruptions) * len(SEVERITIES)
        steps += sum(batches(len(index)) for index in self.attack_index.values())
        steps += batches(len(self.index["n_lipschitz"])) + len(self.index["n_surface"])
        steps += len(CURVE_RADII) * batches(len(self.index["n_curve"])) + batches(len(self.index["n_occlusion"]))
        return steps + sum(len(self.index[name]) > 0 for name in ("n_features", "n_maps"))


def planned(
    subject: Subject,
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
    """What can be measured of what was asked for.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range; more images asked for than there are.
        ModuleNotFoundError: an attack needs an optional library.
    """
    total = len(data)
    preset = attacks if isinstance(attacks, str) else None
    chosen = chosen_attacks(attacks, eps)
    left_out: dict[str, str] = {}
    if subject.no_gradient is not None and preset is not None:
        blind = {name: attack for name, attack in chosen.items() if black_box(attack)}
        left_out |= {name: subject.no_gradient for name in chosen if name not in blind}
        chosen = blind
    if n_attack is None and preset in ATTACK_PRESETS:
        usual = USUAL_COUNTS[preset]
        n_attack = None if usual is None else min(usual, total)
    nothing = torch.empty(0, dtype=torch.int64)
    sizes = dict(counts)
    if preset in ("quick", "standard", "autoattack") and sizes["n_curve"] is None:
        sizes["n_curve"] = min(USUAL_CURVE, total)
    if everything:
        sizes |= {name: min(usual, total) for name, usual in USUAL_SIZES.items() if sizes[name] is None}
    if audit:
        sizes["n_audit"] = min(USUAL_AUDIT, total) if sizes["n_audit"] is None else sizes["n_audit"]
    else:
        sizes["n_audit"] = None
    for name, size in sizes.items():
        if size is not None:
            check_int(name, size, low=0)
    if eps == 0:
        wanted = {"n_lipschitz": "the Lipschitz constant", "n_curve": "the accuracy against it", "n_audit": "the audit"}
        for name, what in wanted.items():
            if sizes[name]:
                raise ValueError(f"eps must be above 0 to measure {what}, got 0")
    if subject.no_gradient is not None:
        for name in (*_GRADIENT_PARTS, "n_features", "n_audit"):
            if sizes[name]:
                left_out[name.removeprefix("n_")] = subject.no_gradient
                sizes[name] = 0
    return Plan(
        corruptions,
        subset("n_corruption", n_corruption, total, seed) if corruptions else nothing,
        chosen,
        attack_indices(n_attack, chosen, total, seed),
        {name: subset(name, size, total, seed) if size else nothing for name, size in sizes.items()},
        left_out,
    )


def check_set(corrupted: CorruptedSet, data: LabelledImages) -> None:
    """Raises unless a saved corrupted set is of the data set's images, as far as their labels tell.

    Raises:
        ValueError: another number of images, or other labels.
    """
    if len(corrupted) != len(data):
        raise ValueError(
            f"corruptions must be of the data set's {len(data)} images in their order, got a set of {len(corrupted)}"
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
