"""Mixing sets as users name them in one word: a source, several with commas, or a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mixaug._checks import did_you_mean
from mixaug.mixing_sets.bank import MixingSet
from mixaug.mixing_sets.sources import SOURCES

_MAKERS: dict[str, Callable[[], MixingSet]] = {
    "fractals": MixingSet.fractals,
    "ifs": MixingSet.ifs,
    "contours": MixingSet.contours,
    "dead-leaves": MixingSet.dead_leaves,
    "spectrum": MixingSet.spectrum,
}


def mixing_set_of(text: str) -> MixingSet:
    """The mixing set that ``text`` names.

    Convention: the name of a source means the source, also where a folder is called so: write ``./ifs`` for the folder.
    A source has its default 512 pictures of 256 px, seed 0. A mixture holds equally many pictures of each part: as many
    as the smallest has.

    Args:
        text: ``"fractals"``, ``"ifs"``, ``"contours"``, ``"dead-leaves"``, ``"spectrum"``, a folder, or several of them
            joined by commas.

    Returns:
        A `MixingSet`. Pictures of a source are made at the first use, those of a folder are read now.

    Raises:
        TypeError: not a str.
        ValueError: neither a source nor a folder with readable pictures, or a part that is named twice.

    Example:
        >>> mixing_set_of("fractals")
        MixingSet(512 fractals of 256 px, seed 0; not made yet)
    """
    parts = named_parts(text)
    sets = [_MAKERS[part]() if part in _MAKERS else MixingSet.from_folder(part) for part in parts]
    return sets[0] if len(sets) == 1 else MixingSet.mixture(sets, [1 / len(sets)] * len(sets))


def named_parts(text: str) -> list[str]:
    """The sources and folders that ``text`` names; a check without work.

    Args:
        text: as in `mixing_set_of`.

    Raises:
        TypeError: not a str.
        ValueError: a part is neither a source nor a folder, or named twice.

    Example:
        >>> named_parts("fractals, ifs")
        ['fractals', 'ifs']
    """
    if not isinstance(text, str):
        raise TypeError(f"mixing_set must be a str, got {type(text).__name__}: {text!r}")
    whole = text in SOURCES or _is_folder(text)  # a folder's name may hold commas
    parts = [text] if whole else [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in SOURCES and not _is_folder(part):
            raise ValueError(
                f"mixing_set must be one of {', '.join(SOURCES)}, a folder, or several of them joined by commas, got "
                f"{part!r}{f' in {text!r}' if len(parts) > 1 else ''}{did_you_mean(part, SOURCES)}"
            )
    if len(set(parts)) < len(parts):
        raise ValueError(f"mixing_set must name each of its parts once, got {text!r}")
    return parts


def folder_text(path: str | os.PathLike[str]) -> str:
    """What names a folder in `mixing_set_of`, whatever it is called.

    Args:
        path: the folder.

    Example:
        >>> folder_text(Path("ifs")) == os.path.join(".", "ifs")
        True
    """
    text = os.fspath(path)
    return os.path.join(os.curdir, text) if text in SOURCES else text


def _is_folder(text: str) -> bool:
    return bool(text) and Path(text).expanduser().is_dir()
