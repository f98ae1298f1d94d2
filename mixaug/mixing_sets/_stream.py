"""Numbers for one picture, drawn from torch and shaped by exact arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

_MASK = (1 << 64) - 1
_LENGTH = 384


def mix(*words: int) -> int:
    """A 64-bit hash of whole numbers (the finaliser of SplitMix64 over a running sum)."""
    state = 0
    for word in words:
        state = (state ^ (word & _MASK)) * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


class Stream:
    """A sequence of draws that depends on its key only.

    Convention: no logarithm, power or sine is taken, as those differ between C libraries in the last bit; the shapes
    below are made of IEEE operations, so the same key gives the same numbers on every machine.
    """

    def __init__(self, *key: int) -> None:
        # torch's CPU generator keeps 32 bits of a seed. Adding two of them modulo 1 keeps 64, so that sets of many
        # thousand pictures hold no picture twice.
        word = mix(*key)
        parts = [
            torch.rand(_LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(half))
            for half in (word & 0xFFFFFFFF, word >> 32)
        ]
        total = parts[0] + parts[1]
        self._values: list[float] = torch.where(total >= 1, total - 1, total).tolist()
        self._next = 0

    def _draw(self) -> float:
        value = self._values[self._next]
        self._next += 1
        return value

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._draw()

    def integer(self, count: int) -> int:
        return min(int(self._draw() * count), count - 1)

    def chance(self, p: float) -> bool:
        return self._draw() < p

    def pick(self, shares: Sequence[float]) -> int:
        """An index with the given probabilities, which sum to 1."""
        value = self._draw()
        for index, share in enumerate(shares):
            value -= share
            if value < 0:
                return index
        return len(shares) - 1

    def octaves(self, top: float, count: int) -> float:
        """Between ``top`` and ``top / 2**count``, each factor of two equally likely (nearly log-uniform)."""
        halvings = self.integer(count)
        return top * 0.5**halvings * (1.0 - 0.5 * self._draw())

    def unit(self) -> tuple[float, float]:
        """A direction, uniform on the circle (a point of the disc, scaled)."""
        while True:
            a, b = self.uniform(-1.0, 1.0), self.uniform(-1.0, 1.0)
            norm = a * a + b * b
            if 0.01 < norm <= 1.0:
                root = math.sqrt(norm)
                return a / root, b / root
            if self._next > _LENGTH - 64:  # never in practice: about one pair in five is thrown away
                return 1.0, 0.0

    def disc(self, count: int, radius: float) -> np.ndarray:
        """(count, 2) points of the square of half side ``radius``."""
        return np.array([[self.uniform(-radius, radius), self.uniform(-radius, radius)] for _ in range(count)])
