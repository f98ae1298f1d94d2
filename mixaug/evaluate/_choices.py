"""What an evaluation was asked for: corruptions, attacks with their numbers of images, subsets and seeds."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixaug._checks import check_choices, check_int, did_you_mean
from mixaug.attacks.attack import Attack as OwnAttack
from mixaug.evaluate.attack_presets import ATTACK_PRESETS, preset_attacks
from mixaug.evaluate.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, PRESETS

if TYPE_CHECKING:
    from mixaug.evaluate.corrupted_sets import CorruptedSet

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


def subset(argument: str, count: int | None, total: int, seed: int) -> Tensor:
    """``count`` of ``total`` positions drawn from the seed, ascending; all of them for None.

    Raises:
        TypeError: a count that is no int.
        ValueError: a count below 1 or above the total.
    """
    if count is None:
        return torch.arange(total)
    count = check_int(argument, count, 1)
    if count > total:
        raise ValueError(f"{argument} must be at most the {total} images of the data set, got {count}")
    # One permutation for all: the smaller subset is part of the larger one.
    return torch.randperm(total, generator=_generator(seed, "subset"))[:count].sort().values


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


def seed_of(*parts: object) -> int:
    """A seed that depends on all its parts, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


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
    return dataclasses.replace(attack, generator=_generator(*parts))


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


def _generator(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*parts))
