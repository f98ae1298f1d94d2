"""Pictures without an end: what a stream needs to know of its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from mixaug.mixing_sets._mixture import interleaved
from mixaug.mixing_sets._recipes import MixtureRecipe, PicturesRecipe, SyntheticRecipe, resize
from mixaug.mixing_sets._sources import iter_pictures


class EndlessRecipe(Protocol):
    """How to make a set of pictures and all that follow; small, and importable where it is unpickled."""

    @property
    def shape(self) -> tuple[int, int, int, int]: ...

    @property
    def stem(self) -> str: ...

    @property
    def title(self) -> str: ...

    def chunks(self) -> Iterator[torch.Tensor]:
        """The first pictures, as uint8 (n, 3, S, S) pieces."""

    def pictures_from(self, start: int, chunk: int, threads: int | None) -> Iterator[torch.Tensor]:
        """Pictures ``start``, ``start + 1``, ... without an end, in pieces of at most ``chunk``."""


@dataclass(frozen=True)
class EndlessSynthetic(SyntheticRecipe):
    """A synthetic source; its first pictures are those of the finite set, in the same cache file."""

    def pictures_from(self, start: int, chunk: int, threads: int | None) -> Iterator[torch.Tensor]:
        return iter_pictures(
            self.source, None, self.size, self.seed, start=start, kinds=self.kinds, chunk=chunk, threads=threads
        )


@dataclass(frozen=True)
class EndlessMixture(MixtureRecipe):
    """A mixture of endless recipes: after the first pictures of each come the next ones, in the same pattern."""

    def pictures_from(self, start: int, chunk: int, threads: int | None) -> Iterator[torch.Tensor]:
        order = interleaved(self.counts)
        block, place = divmod(start, len(order))
        taken = [block * count + sum(k == part for k, _ in order[:place]) for part, count in enumerate(self.counts)]
        streams = [
            self._singles(endless(part), first, chunk, threads) for part, first in zip(self.parts, taken, strict=True)
        ]
        while True:
            pieces = []
            for _ in range(chunk):
                pieces.append(next(streams[order[place][0]]))
                place = (place + 1) % len(order)
            yield torch.stack(pieces)

    def _singles(self, part: EndlessRecipe, start: int, chunk: int, threads: int | None) -> Iterator[torch.Tensor]:
        for pictures in part.pictures_from(start, chunk, threads):
            yield from resize(pictures, self.size)


def endless(recipe: PicturesRecipe | None) -> EndlessRecipe:
    """The recipe whose first pictures are those of ``recipe``, and which then goes on.

    Raises:
        TypeError: pictures of a folder or a tensor, which have no next one, take part.
    """
    if isinstance(recipe, SyntheticRecipe):
        return EndlessSynthetic(recipe.source, recipe.count, recipe.size, recipe.seed, recipe.kinds)
    if isinstance(recipe, MixtureRecipe):
        for part in recipe.parts:
            endless(part)
        return EndlessMixture(recipe.parts, recipe.counts, recipe.size)
    what = "pictures in memory" if recipe is None else recipe.title
    raise TypeError(f"a stream needs synthetic sources (fractals, ifs, ...) or a mixture of them, got {what}")
