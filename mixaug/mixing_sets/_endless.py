"""Pictures without an end: what a stream needs to know of its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from mixaug.mixing_sets._recipes import SyntheticRecipe
from mixaug.mixing_sets._sources import iter_pictures

_ENDLESS = 2**62  # more than 100,000 years of pictures


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
            self.source, _ENDLESS, self.size, self.seed, start=start, kinds=self.kinds, chunk=chunk, threads=threads
        )
