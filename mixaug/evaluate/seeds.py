"""The random choices of an evaluation: a seed for each piece of work, subsets of the images."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from mixaug._checks import check_int

__all__ = [
    "seed_of",
    "subset",
]


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
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed_of(seed, "subset")))[:count].sort().values


def seed_of(*parts: object) -> int:
    """A seed that depends on all its parts, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")
