"""What the sources draw with: numbers from torch, one stream a picture, refused draws, colour tables in OKLab."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

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


D = TypeVar("D")


def draw_accepted(
    count: int,
    draw: Callable[[int, int], D],
    accepted: Callable[[list[D]], list[bool]],
    most: int = 64,
) -> tuple[list[D], list[int]]:
    """Draws ``count`` pictures, each again until it is accepted.

    Convention: ``draw(row, attempt)`` depends on its arguments only, so picture ``row`` does too.

    Args:
        count: how many.
        draw: makes one unchecked draw.
        accepted: judges a list of draws, all rows that are still open at once.
        most: attempts a picture; the last one is kept then.

    Returns:
        The draws and, for each, how many were refused before it.
    """
    draws: list[D] = []
    attempts = [0] * count
    pending = list(range(count))
    for attempt in range(most):
        fresh = [draw(row, attempt) for row in pending]
        if attempt == 0:
            draws = list(fresh)
        for row, value in zip(pending, fresh, strict=True):
            draws[row], attempts[row] = value, attempt
        verdicts = accepted(fresh)
        pending = [row for row, good in zip(pending, verdicts, strict=True) if not good]
        if not pending:
            break
    return draws, attempts


TABLE_SIZE = 256
# Hue offsets, in turns, from a random first hue: harmonies of the colour wheel.
_HARMONIES = (
    (0.0, 0.09, 0.17, 0.90),
    (0.0, 0.5, 0.07, 0.57),
    (0.0, 0.33, 0.67, 0.05),
    (0.0, 0.42, 0.58, 0.0),
    (0.0, 0.25, 0.5, 0.75),
)
_HALVINGS = 12  # of the chroma, to the last colour that sRGB has: 1/4000 of it
_NEWTON = 10  # steps from the fourth root to the cube root of numbers above 1e-9


def _sine(turns: float) -> float:
    """sin(2 pi turns) to 2e-4, from products only."""
    quarter = 4.0 * (turns - math.floor(turns))  # 0 to 4
    x = quarter if quarter <= 1.0 else (2.0 - quarter if quarter <= 3.0 else quarter - 4.0)
    x2 = x * x
    return x * (1.5707963267948966 - x2 * (0.6459640975 - x2 * (0.0796926262 - x2 * 0.0046817541)))


def direction(turns: float) -> tuple[float, float]:
    """Unit vector (cosine, sine) of an angle in turns, to 2e-4."""
    return _sine(turns + 0.25), _sine(turns)


def _cube_root(values: np.ndarray) -> np.ndarray:
    """Cube roots of numbers in [1e-9, 1] by Newton's method."""
    root = np.sqrt(np.sqrt(values))
    for _ in range(_NEWTON):
        root = (2.0 * root + values / (root * root)) / 3.0
    return root


def _linear_rgb(lab: np.ndarray) -> np.ndarray:
    """Linear sRGB of OKLab colours (..., 3); outside [0, 1] where sRGB has no such colour."""
    light, a, b = lab[..., 0], lab[..., 1], lab[..., 2]
    long = light + (0.3963377774 * a + 0.2158037573 * b)
    medium = light - (0.1055613458 * a + 0.0638541728 * b)
    short = light - (0.0894841775 * a + 1.2914855480 * b)
    long, medium, short = long * long * long, medium * medium * medium, short * short * short
    return np.stack(
        [
            (4.0767416621 * long - 3.3077115913 * medium) + 0.2309699292 * short,
            (2.6097574011 * medium - 1.2684380046 * long) - 0.3413193965 * short,
            (1.7076147010 * short - 0.0041960863 * long) - 0.7034186147 * medium,
        ],
        -1,
    )


def oklab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """sRGB in [0, 255] of OKLab colours (..., 3): lightness 0 to 1, a and b about -0.3 to 0.3. Clipped to the gamut."""
    linear = np.clip(_linear_rgb(lab), 0.0, 1.0)
    root = np.sqrt(np.maximum(linear, 1e-8))
    curve = 1.055 * (np.sqrt(root) * _cube_root(root)) - 0.055  # x^(5/12) = x^(1/4) x^(1/6)
    return 255.0 * np.clip(np.where(linear <= 0.0031308, 12.92 * linear, curve), 0.0, 1.0)


def _in_gamut(light: float, a: float, b: float) -> bool:
    """Whether sRGB has this OKLab colour. `_linear_rgb` in plain numbers: ten times faster for one colour."""
    long = light + (0.3963377774 * a + 0.2158037573 * b)
    medium = light - (0.1055613458 * a + 0.0638541728 * b)
    short = light - (0.0894841775 * a + 1.2914855480 * b)
    long, medium, short = long * long * long, medium * medium * medium, short * short * short
    return (
        0.0 <= (4.0767416621 * long - 3.3077115913 * medium) + 0.2309699292 * short <= 1.0
        and 0.0 <= (2.6097574011 * medium - 1.2684380046 * long) - 0.3413193965 * short <= 1.0
        and 0.0 <= (1.7076147010 * short - 0.0041960863 * long) - 0.7034186147 * medium <= 1.0
    )


def _colour(lightness: float, chroma: float, hue: float) -> list[float]:
    """OKLab of a lightness, chroma and hue (in turns), with as much of the chroma as sRGB has there."""
    cosine, sine = direction(hue)
    if _in_gamut(lightness, chroma * cosine, chroma * sine):
        return [lightness, chroma * cosine, chroma * sine]
    low, high = 0.0, chroma
    for _ in range(_HALVINGS):
        part = 0.5 * (low + high)
        if _in_gamut(lightness, part * cosine, part * sine):
            low = part
        else:
            high = part
    return [lightness, low * cosine, low * sine]


def _draw_stops(s: Stream) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """OKLab colours (256, 3) before and after each of 256 places, and the part of the way between them."""
    stops = 3 + s.integer(5)
    first, harmony = s.uniform(0.0, 1.0), _HARMONIES[s.integer(len(_HARMONIES))]
    colours, gaps = [], []
    for k in range(stops):
        hue = first + harmony[s.integer(4)] + s.uniform(-0.05, 0.05)
        if k % 2:
            lightness, chroma = s.uniform(0.75, 0.97), s.uniform(0.03, 0.2)
        else:
            lightness, chroma = s.uniform(0.2, 0.65), s.uniform(0.1, 0.28)
        colours.append(_colour(lightness, chroma, hue))
        gaps.append(s.uniform(0.4, 1.0))
    edges = np.cumsum([0.0, *gaps]) / sum(gaps)
    lab = np.array([*colours, colours[0]])
    place = np.arange(TABLE_SIZE) / TABLE_SIZE
    stop = np.minimum(np.searchsorted(edges, place, side="right") - 1, stops - 1)
    return lab[stop], lab[stop + 1], (place - edges[stop]) / (edges[stop + 1] - edges[stop])


def draw_palettes(s: Stream, count: int) -> np.ndarray:
    """(count, 256, 3) float64 sRGB in [0, 255]: 3 to 7 stops of one harmony, light and dark in turn, in a cycle."""
    before, after, parts = (np.stack(values) for values in zip(*(_draw_stops(s) for _ in range(count)), strict=True))
    parts = (parts * parts * (3.0 - 2.0 * parts))[..., None]  # smoothstep: no kinks at the stops
    return oklab_to_rgb(before + parts * (after - before))


def draw_palette(s: Stream) -> np.ndarray:
    """(256, 3): one palette of `draw_palettes`."""
    return draw_palettes(s, 1)[0]
