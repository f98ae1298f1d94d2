"""What an evaluation is asked for: its choices checked, attacks by preset, images, the work counted beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixaug._checks import check_choices, check_int, did_you_mean
from mixaug.attacks import APGD, CWL2, FGSM, PGD, SPSA, AutoAttack, CWLinf, Square
from mixaug.attacks.attack import Attack as OwnAttack
from mixaug.evaluate.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, PRESETS
from mixaug.evaluate.corruptions.tables import SEVERITIES
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.measure import Measure
from mixaug.evaluate.measures import all_measures
from mixaug.evaluate.seeds import seed_of, subset

if TYPE_CHECKING:
    from mixaug.evaluate.corruptions.sets import CorruptedSet

__all__ = [
    "ATTACK_PRESETS",
    "USUAL_COUNTS",
    "black_box",
    "least_classes",
    "of_this_package",
    "preset_attacks",
]


CLEAN = 1.0
#: Made and classified, measured as a mean over the corruptions with a small model at 32 px.
CORRUPTED = 2.0
_STEP = 3.0
_AUDIT = {
    "clean": 4.0, "gradients": 9.0, "fgsm": 3.0, "square": 1000.0, "spsa": 320.0, "noise": 8.0, "grey": 1.0,
    "apgd-ce": 90.0, "apgd-dlr": 90.0,
}  # fmt: skip


def of_attack(attack: Attack) -> float:
    """Of one image under an attack, if it holds out to the end.

    Example:
        >>> from mixaug.attacks import FGSM, PGD
        >>> of_attack(FGSM()), of_attack(PGD(steps=20))
        (3.0, 60.0)
    """
    if isinstance(attack, AutoAttack):
        return 1900 * _STEP + 6000
    if isinstance(attack, Square):
        return float(attack.queries * attack.restarts)
    if isinstance(attack, SPSA):
        return 2.0 * attack.samples * attack.steps
    if isinstance(attack, CWL2):
        return _STEP * attack.steps * attack.search_steps
    steps = getattr(attack, "steps", 1)
    return _STEP * (steps if isinstance(steps, int) else 1) * (attack.restarts if isinstance(attack, APGD) else 1)


def of_audit(piece: str) -> float:
    """Of one image in a piece of the audit; one that is left out takes none, which is not known before."""
    return _AUDIT.get(piece, 20 * _STEP)


ATTACK_PRESETS = ("pgd", "quick", "standard", "autoattack")
#: Images that a preset is run on if no number is given; all if there are fewer. None: all.
USUAL_COUNTS: dict[str, int | None] = {"pgd": None, "quick": 1000, "standard": 500, "autoattack": 500}
_QUICK_QUERIES = 200


def preset_attacks(preset: str, eps: float) -> list[Attack]:
    """The attacks of a preset.

    ``pgd``: PGD-20. ``quick``: FGSM, PGD-20 with cross-entropy and with the margin (CW-20), Square of 200 queries.
    ``standard``, those of the papers: FGSM, PGD-20, PGD-100, CW-20, CW-L2, SPSA, APGD-CE, APGD-DLR and Square of 5,000
    queries. ``autoattack``: AutoAttack, the cascade of Croce and Hein, ICML 2020.

    Convention: steps of PGD and CW are a quarter of ``eps``. Each attack is run on all images that are right without
    one, so that the attacks can be compared; only AutoAttack, inside, hands what is left to its next attack.

    Args:
        preset: one of ``ATTACK_PRESETS``.
        eps: radius in [0, 1].

    Raises:
        ModuleNotFoundError: APGD, Square and AutoAttack need ``pyautoattack``; the message says what to install.

    Example:
        >>> [attack.name for attack in preset_attacks("quick", 8 / 255)]
        ['fgsm', 'pgd-20', 'cw-20', 'square']
    """
    pgd = PGD(eps=eps, step_size=eps / 4, steps=20)
    cw = CWLinf(eps=eps, step_size=eps / 4, steps=20)
    if preset == "pgd":
        return [pgd]
    if preset == "quick":
        return [FGSM(eps=eps), pgd, cw, Square(eps=eps, queries=_QUICK_QUERIES, rescale=True)]
    if preset == "standard":
        return [
            FGSM(eps=eps),
            pgd,
            PGD(eps=eps, step_size=eps / 4, steps=100),
            cw,
            CWL2(steps=50),
            SPSA(eps=eps, steps=20, early_stop=True),
            APGD(eps=eps, loss="ce"),
            APGD(eps=eps, loss="dlr"),
            Square(eps=eps, queries=5000),
        ]
    return [AutoAttack(eps=eps)]


def black_box(attack: object) -> bool:
    """Whether an attack needs no gradient, as far as is known.

    Example:
        >>> black_box(SPSA()), black_box(PGD())
        (True, False)
    """
    return isinstance(attack, SPSA | Square)


def of_this_package(attack: object) -> bool:
    """Whether an attack is of :mod:`mixaug.attacks`.

    Example:
        >>> of_this_package(PGD()), of_this_package(lambda model, images, labels: images)
        (True, False)
    """
    return isinstance(attack, OwnAttack)


def least_classes(attack: object) -> int:
    """How many classes an attack needs.

    Example:
        >>> least_classes(PGD()), least_classes(APGD(loss="dlr")), least_classes(AutoAttack())
        (2, 3, 4)
    """
    return int(getattr(attack, "_least_classes", 2)) if of_this_package(attack) else 2


#: Model, images and labels to adversarial images.
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
#: What is attacked with: names to attacks, attacks that know their names, a preset, or nothing.
Attacks = str | Mapping[str, Attack] | Sequence[Attack] | None
#: How many images: one number for all attacks, or one for each name.
AttackCounts = int | Mapping[str, int | None] | None


def chosen_corruptions(
    corruptions: str | CorruptedSet | None, names: Sequence[str] | None, channels: int
) -> tuple[str, ...]:
    """The corruptions to measure; none without a preset or a saved set.

    Raises:
        TypeError: neither of these.
        ValueError: an unknown preset or corruption, none at all, one twice, or saturate for grey images.
    """
    if corruptions is None:
        if names is not None:
            raise ValueError(f"corruption_names must be None where corruptions is None, got {list(names)}")
        return ()
    if isinstance(corruptions, str):
        if corruptions not in PRESETS:
            folder = "; a folder is read by CorruptedSet(folder)" if "/" in corruptions else ""
            raise ValueError(
                f"corruptions must be 'cifar', 'imagenet', a CorruptedSet or None, got {corruptions!r}"
                + (folder or did_you_mean(corruptions, PRESETS))
            )
        if channels not in (1, 3):
            raise ValueError(
                f"corruptions must be None or a CorruptedSet for images of {channels} channels: they are of pictures"
            )
        known: tuple[str, ...] = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
        usual: tuple[str, ...] = CORRUPTIONS
    elif hasattr(corruptions, "take") and hasattr(corruptions, "names"):
        known = corruptions.names
        usual = tuple(name for name in CORRUPTIONS if name in known) or known
    else:
        raise TypeError(
            f"corruptions must be 'cifar', 'imagenet', a CorruptedSet or None, got {type(corruptions).__name__}"
        )
    names = usual if names is None else check_choices("corruption_names", names, known)
    if "saturate" in names and channels == 1 and isinstance(corruptions, str):
        raise ValueError("corruption_names must not hold 'saturate' for grey images, which have no saturation")
    return tuple(names)


def chosen_attacks(attacks: Attacks, eps: float) -> dict[str, Attack]:
    """The attacks by name.

    Raises:
        TypeError: something that is no attack.
        ValueError: an unknown preset, or one name twice.
    """
    if attacks is None:
        return {}
    wanted = f"{', '.join(map(repr, ATTACK_PRESETS))}, None, attacks or names to attacks"
    if isinstance(attacks, str):
        if attacks not in ATTACK_PRESETS:
            raise ValueError(f"attacks must be {wanted}, got {attacks!r}{did_you_mean(attacks, ATTACK_PRESETS)}")
        if eps == 0:
            raise ValueError(f"eps must be above 0 for the attacks {attacks!r}, got 0; attacks=None attacks nothing")
        attacks = preset_attacks(attacks, eps)
    if isinstance(attacks, Mapping):
        found = list(attacks.items())
    elif isinstance(attacks, Iterable):
        found = [(_name_of(attack), attack) for attack in attacks]
    else:
        raise TypeError(f"attacks must be {wanted}, got {type(attacks).__name__}")
    names = [name for name, _ in found]
    if len(set(names)) != len(names):
        raise ValueError(f"attacks must have different names, got {', '.join(names)}; give names to attacks")
    for name, attack in found:
        if not callable(attack):
            raise TypeError(f"attacks[{name!r}] must be callable, got {type(attack).__name__}")
    return dict(found)


def attack_indices(
    counts: AttackCounts, attacks: Iterable[str], total: int, seed: int, argument: str = "n_attack"
) -> dict[str, Tensor]:
    """Which images each attack gets. A smaller subset is part of a larger one, so that attacks can be compared.

    Raises:
        TypeError: a count of the wrong kind.
        ValueError: a count out of range, or one for an attack that there is not.
    """
    attacks = list(attacks)
    if not isinstance(counts, Mapping):
        index = subset(argument, counts, total, seed) if attacks else torch.empty(0, dtype=torch.int64)
        return dict.fromkeys(attacks, index)
    unknown = [name for name in counts if name not in attacks]
    if unknown:
        meant = did_you_mean(str(unknown[0]), attacks)
        raise ValueError(f"{argument} must name attacks of {', '.join(attacks) or 'none'}; got {unknown[0]!r}{meant}")
    return {name: subset(f"{argument}[{name!r}]", counts.get(name), total, seed) for name in attacks}


def describe(attack: Attack) -> dict[str, Any]:
    """An attack's kind and plain settings, for the record."""
    fields = {"kind": getattr(attack, "__name__", type(attack).__name__)}
    if dataclasses.is_dataclass(attack):
        for field in dataclasses.fields(attack):
            value = getattr(attack, field.name)
            if isinstance(value, bool | int | float | str):
                fields[field.name] = value
            elif callable(value):  # an objective
                fields[field.name] = getattr(value, "__name__", type(value).__name__)
    return fields


def _name_of(attack: object) -> str:
    if not callable(attack):
        raise TypeError(f"attacks must be callable, got {type(attack).__name__}")
    return str(getattr(attack, "name", None) or getattr(attack, "__name__", type(attack).__name__.lower()))


def seeded(attack: Attack, *parts: object) -> Attack:
    """An attack of this package that has no generator with one from a seed; any other as it is."""
    if not isinstance(attack, OwnAttack) or not dataclasses.is_dataclass(attack) or attack.generator is not None:
        return attack
    if "generator" not in {field.name for field in dataclasses.fields(attack)}:
        return attack  # it draws nothing
    return dataclasses.replace(attack, generator=torch.Generator().manual_seed(seed_of(*parts)))


def repeats(attack: Attack) -> bool:
    """Whether what :func:`describe` says of an attack tells all that it does.

    So it is for those of this package without a generator of their own, and with an objective of this package if any.

    Example:
        >>> from mixaug.attacks import PGD
        >>> repeats(PGD()), repeats(PGD(objective=lambda logits, labels: logits[:, 0]))
        (True, False)
    """
    if not isinstance(attack, OwnAttack) or not dataclasses.is_dataclass(attack) or not _ours(type(attack)):
        return False
    values = [getattr(attack, field.name) for field in dataclasses.fields(attack)]
    return all(value is None or isinstance(value, bool | int | float | str) or _ours(value) for value in values)


def _ours(what: object) -> bool:
    """Whether a class or function is one of this package, and known by its name."""
    home, name = getattr(what, "__module__", None), getattr(what, "__qualname__", "<")
    return isinstance(home, str) and home.partition(".")[0] == "mixaug" and "<" not in name


USUAL_AUDIT = 200


@dataclass(frozen=True, eq=False)
class Plan:
    """The images of each part, by position, ascending; empty: the part is not measured.

    Args:
        corruptions: names of the corruptions.
        corruption_index: their images.
        attacks: by name.
        attack_index: images of each attack.
        index: images of the measures that are counted, by name, and of the ``audit``.
        left_out: part to why it cannot be measured; more are added on the way.
    """

    corruptions: tuple[str, ...]
    corruption_index: Tensor
    attacks: dict[str, Attack]
    attack_index: dict[str, Tensor]
    index: dict[str, Tensor]
    left_out: dict[str, str]

    def work(self, images: int, other: int, eps: float, audit_pieces: list[str]) -> float:
        """All the work, in the unit of :mod:`mixaug.evaluate.plan`.

        Args:
            images: number of clean images.
            other: number of out-of-distribution images.
            eps: radius.
            audit_pieces: names of the audit's pieces.
        """
        work = CLEAN * (images + other)
        work += CORRUPTED * len(self.corruptions) * len(SEVERITIES) * len(self.corruption_index)
        work += sum(of_attack(self.attacks[name]) * len(index) for name, index in self.attack_index.items())
        work += sum(measure.work(len(self.index[measure.name]), eps) for measure in self.measures)
        return work + sum(of_audit(piece) for piece in audit_pieces) * len(self.index["audit"])

    @property
    def measures(self) -> list[Measure[Any]]:
        """The measures on a number of the images that are asked for."""
        return [each for each in all_measures() if each.counted and len(self.index[each.name])]

    @property
    def needs_gradient(self) -> bool:
        """Whether something of it follows gradients, as far as is known."""
        attacks = any(of_this_package(attack) and not black_box(attack) for attack in self.attacks.values())
        return attacks or any(measure.needs_gradient for measure in self.measures)

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
        without = {"audit": no_audit} if no_audit is not None and len(self.index["audit"]) else {}
        for measure in self.measures:
            why = no_layers if measure.needs_layers and no_layers is not None else None
            if why is None and measure.needs_gradient:
                why = no_gradient
            if why is not None:
                without[measure.name] = why
        nothing = torch.empty(0, dtype=torch.int64)
        return replace(
            self,
            attacks={name: attack for name, attack in self.attacks.items() if name not in reasons},
            attack_index={name: index for name, index in self.attack_index.items() if name not in reasons},
            index={name: nothing if name in without else index for name, index in self.index.items()},
            left_out=self.left_out | reasons | without,
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
    measures = {measure.name: measure for measure in all_measures() if measure.counted}
    unknown = [name for name in counts if name not in (*measures, "audit")]
    if unknown:
        known = ", ".join(measures)
        raise ValueError(f"measures must be of {known}; got {unknown[0]!r}{did_you_mean(unknown[0], measures)}")
    sizes = {**counts, **{name: None for name in (*measures, "audit") if name not in counts}}
    for name, measure in measures.items():
        usual = measure.images(everything, preset)
        if sizes[name] is None and usual is not None:
            sizes[name] = min(usual, total)
    if not audit:
        if sizes["audit"]:
            raise ValueError(f"n_audit must be None where audit is False, got {sizes['audit']}")
        sizes["audit"] = None
    elif sizes["audit"] is None:
        sizes["audit"] = min(USUAL_AUDIT, total)
    for name, size in sizes.items():
        if size is not None:
            sizes[name] = check_int(f"n_{name}", size, 0)
    if eps == 0:
        _check_radius(sizes, {name: measure.of_radius for name, measure in measures.items()})
    left_out = {}
    if data.channels not in (1, 3):
        for name, measure in measures.items():
            if measure.needs_pictures and sizes[name]:
                left_out[name] = f"images of {data.channels} channels are no pictures"
                sizes[name] = 0
    nothing = torch.empty(0, dtype=torch.int64)
    return Plan(
        corruptions,
        subset("n_corruption", n_corruption, total, seed) if corruptions else nothing,
        chosen,
        attack_indices(n_attack, chosen, total, seed),
        {name: subset(f"n_{name}", size, total, seed) if size else nothing for name, size in sizes.items()},
        left_out,
    )


def _check_radius(sizes: dict[str, int | None], of_radius: dict[str, str]) -> None:
    """Raises for the parts that need a radius above 0."""
    for name, what in {**of_radius, "audit": "what the audit measures"}.items():
        if what and sizes[name]:
            without = "audit=False" if name == "audit" else f"n_{name}=0"
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
