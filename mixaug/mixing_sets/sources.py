"""The synthetic sources by name, and what they have in common: pictures in order from a seed."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from mixaug._checks import (
    MAX_COUNT,
    MAX_PICTURES,
    MAX_SEED,
    MAX_SIDE,
    MAX_THREADS,
    check_choice,
    check_int,
    check_seed,
)
from mixaug.mixing_sets.threads import on_threads

#: Module of each source; it is imported when the source is used.
_MODULES = {
    "fractals": "fractals",
    "ifs": "ifs",
    "contours": "contours",
    "dead-leaves": "dead_leaves",
    "spectrum": "spectrum",
}
SOURCES = tuple(_MODULES)
MIN_SIZE = 8
CHUNK = 16  # pictures made at a time: 3 MB at 256 px


@dataclass(frozen=True)
class Source:
    """A kind of synthetic picture.

    Args:
        name: what users type: ``"dead-leaves"``.
        title: for people: ``"dead leaves"``.
        kinds: names of its variants.
        version: of its pixels; raise it when a seed gives other pictures than before.
        sample: ``sample(count, seed, start, kinds=, threads=)`` draws the record of pictures ``start`` to
            ``start + count - 1`` of a seed.
        render: ``render(record, size, threads=)`` makes uint8 (N, 3, size, size) of it, without randomness.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    version: int
    sample: Callable[..., Any]
    render: Callable[..., torch.Tensor]


def source_of(name: str) -> Source:
    """The source called ``name``.

    Raises:
        TypeError: not a str.
        ValueError: no source of that name.
    """
    name = check_choice("source", name, SOURCES)
    found: Source = importlib.import_module(f"mixaug.mixing_sets.{_MODULES[name]}").SOURCE
    return found


def check_kinds(kinds: str | Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The chosen kinds in the order of ``known``; None: all of them.

    Raises:
        TypeError: not a str or a sequence of them.
        ValueError: an unknown kind, one that is named twice, or none.
    """
    if kinds is None:
        return known
    chosen = (kinds,) if isinstance(kinds, str) else kinds
    if not isinstance(chosen, Sequence) or not all(isinstance(kind, str) for kind in chosen):
        raise TypeError(f"kinds must be a str, a sequence of them or None, got {type(kinds).__name__}: {kinds!r}")
    unknown = [kind for kind in chosen if kind not in known]
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(f"kinds must name some of {', '.join(known)}, each once, got {kinds!r}")
    return tuple(kind for kind in known if kind in chosen)


def check_draw(
    count: Any, seed: Any, start: Any, kinds: Any, known: tuple[str, ...], threads: Any
) -> tuple[int, int, int, tuple[str, ...], int | None]:
    """The arguments of a source's sampler.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range, or a kind unknown.
    """
    count = check_int("count", count, 1, MAX_PICTURES)
    seed, start = check_seed("seed", seed), check_int("start", start, 0, MAX_SEED)
    return count, seed, start, check_kinds(kinds, known), check_threads(threads)


def check_threads(threads: Any) -> int | None:
    """A number of threads; None: torch's."""
    return None if threads is None else check_int("threads", threads, 1, MAX_THREADS)


def empty_pictures(params: Any, kind: type, size: Any, threads: Any) -> tuple[np.ndarray, int | None]:
    """The pictures that a renderer fills, uint8 (N, 3, size, size), and its number of threads.

    Args:
        params: to be rendered.
        kind: that they must be of.
        size, threads: as the user gave them.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range.
    """
    if not isinstance(params, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"params must be {article} {kind.__name__}, got {type(params).__name__}")
    side = check_int("size", size, MIN_SIZE, MAX_SIDE)
    return np.empty((len(cast(Sized, params)), 3, side, side), np.uint8), check_threads(threads)


def iter_pictures(
    source: str,
    count: int | None,
    size: int = 256,
    seed: int = 0,
    *,
    start: int = 0,
    kinds: str | Sequence[str] | None = None,
    chunk: int = CHUNK,
    threads: int | None = None,
) -> Iterator[torch.Tensor]:
    """Makes the pictures of `make_pictures` in chunks of at most ``chunk``, so that memory stays small.

    Args:
        source, count, size, seed, kinds, threads: as in `make_pictures`; a count of None: without an end.
        start: index of the first picture, at least 0. Default 0.
        chunk: pictures at a time, at least 1. Default 16.

    Returns:
        An iterator of uint8 tensors (n, 3, size, size).

    Raises:
        TypeError: an argument is of another kind. At the call, not at the first picture.
        ValueError: an argument is out of range.

    Example:
        >>> [len(pictures) for pictures in iter_pictures("fractals", 3, size=16, chunk=2)]
        [2, 1]
    """
    found = source_of(source)
    if count is not None:
        count = check_int("count", count, 1, MAX_PICTURES)
    size = check_int("size", size, MIN_SIZE, MAX_SIDE)
    seed = check_seed("seed", seed)
    start = check_int("start", start, 0, MAX_SEED)
    chunk = check_int("chunk", chunk, 1, MAX_COUNT)
    chosen, threads = check_kinds(kinds, found.kinds), check_threads(threads)

    def pieces() -> Iterator[torch.Tensor]:
        for first in itertools.count(start, chunk) if count is None else range(start, start + count, chunk):
            rows = chunk if count is None else min(chunk, start + count - first)
            params = found.sample(rows, seed, first, kinds=chosen, threads=threads)
            yield found.render(params, size, threads=threads)

    return pieces()


def make_rows(
    source: str, index: Sequence[int], size: int, seed: int, kinds: Sequence[str] | None = None
) -> torch.Tensor:
    """The pictures of `make_pictures` at some positions, in any order, on torch's number of threads.

    Args:
        source, size, seed, kinds: as in `make_pictures`.
        index: positions, each at least 0.

    Returns:
        uint8 tensor (n, 3, size, size).

    Example:
        >>> torch.equal(make_rows("fractals", [2, 0], 16, 5), make_pictures("fractals", 3, 16, 5)[[2, 0]])
        True
    """
    found = source_of(source)
    out = torch.empty((len(index), 3, size, size), dtype=torch.uint8)

    def make(place: int) -> None:
        params = found.sample(1, seed, index[place], kinds=kinds, threads=1)
        out[place] = found.render(params, size, threads=1)[0]

    if len(index):
        make(0)  # alone: it may compile
        on_threads(make, range(1, len(index)), make, None)
    return out


def make_pictures(
    source: str,
    count: int,
    size: int = 256,
    seed: int = 0,
    *,
    kinds: str | Sequence[str] | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """Draws and renders ``count`` synthetic pictures.

    Convention: picture i of a seed depends on (source, kinds, seed, i) only, never on count, chunks or threads.

    Args:
        source: "fractals", "ifs", "contours", "dead-leaves" or "spectrum".
        count: how many, at least 1.
        size: side in pixels, at least 8. Default 256.
        seed: 0 to 2^63 - 1. Default 0.
        kinds: variants of the source to draw from; None: all.
        threads: default torch's number of threads (1 in loader workers).

    Returns:
        uint8 tensor (count, 3, size, size), RGB in [0, 255].

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range, or names something unknown.

    Example:
        >>> make_pictures("fractals", 2, size=32, seed=1).shape
        torch.Size([2, 3, 32, 32])
    """
    pieces = iter_pictures(source, count, size, seed, kinds=kinds, threads=threads)
    out = torch.empty((count, 3, size, size), dtype=torch.uint8)
    done = 0
    for pictures in pieces:
        out[done : done + len(pictures)] = pictures
        done += len(pictures)
    return out
