"""Compiled kernels that play the chaos game of an iterated function system. Imported on first use only.

The game (M. Barnsley, Fractals Everywhere, 1988) is played by 2,048 orbits at once. In each step a pseudo-random
permutation shuffles the orbits, then map k moves the orbits of its own block: every map is used as often as its share
says, a block needs one set of coefficients, and no loop branches or draws. Maps that contract also contract rounding
errors, so float32 places a point to a thousandth of a pixel.

Every operation is an IEEE plus, minus or times in a fixed order without fast-math, and pixels are summed in whole
numbers, so a picture is the same on every machine. The kernels are serial and release the GIL. All that play are in one
file: numba's disk cache notices a change of a function's own file only.
"""

from __future__ import annotations

import numpy as np

from mixaug._numba import jit

_COUNT = np.int64(1 << 40)  # a pixel's sum holds its count from bit 40 on and its colour coordinates, in 4095ths, below
_COLOURS = np.float32(4095.0)
_ZERO = np.float32(0.0)

_jit = jit()


@_jit
def _step(maps: np.ndarray, lanes: np.ndarray, order: np.ndarray, word: int, old: np.ndarray, new: np.ndarray) -> None:
    """Moves the points ``old`` (3, lanes), x, y and colour coordinate, to ``new``.

    Convention: ``order``, a permutation, between two exclusive-ors with fresh bits is another permutation in each step.
    """
    last = order.shape[0] - 1
    first, second = word & last, (word >> 32) & last
    x, y, c = old[0], old[1], old[2]
    u, v, w = new[0], new[1], new[2]
    for k in range(maps.shape[0]):
        a, b, e, d, f, g = maps[k, 0], maps[k, 1], maps[k, 2], maps[k, 3], maps[k, 4], maps[k, 5]
        memory, shade = maps[k, 6], maps[k, 7]
        for j in range(lanes[k], lanes[k + 1]):
            i = order[j ^ first] ^ second
            u[j] = (a * x[i] + b * y[i]) + e
            v[j] = (d * x[i] + f * y[i]) + g
            w[j] = memory * c[i] + shade


@_jit
def follow(
    maps: np.ndarray, lanes: np.ndarray, order: np.ndarray, words: np.ndarray, first: int, points: np.ndarray
) -> None:
    """Plays ``points`` (steps, 3, lanes) on from step ``first``, each from the one before, the first from the last."""
    for step in range(points.shape[0]):
        _step(maps, lanes, order, words[first + step], points[step - 1], points[step])


@_jit
def accumulate(
    maps: np.ndarray,
    lanes: np.ndarray,
    order: np.ndarray,
    words: np.ndarray,
    first: int,
    points: np.ndarray,
    view: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Plays on from ``points`` (2, 3, lanes) and adds each new point to its pixel of ``sums`` (size + 2, size + 2).

    ``view`` holds scale and offset of x, then of y, to pixels. Points outside fall on the rim of ``sums``.
    """
    su, ou, sv, ov = view[0], view[1], view[2], view[3]
    side, count = sums.shape[0], order.shape[0]
    top = np.float32(side - 1)
    place, colour = np.empty(count, np.int32), np.empty(count, np.int32)
    flat = sums.reshape(-1)
    for step in range(first, words.shape[0]):
        now = points[(step - first) & 1]
        _step(maps, lanes, order, words[step], points[(step - first + 1) & 1], now)
        x, y, c = now[0], now[1], now[2]
        for j in range(count):
            u = min(max(x[j] * su + ou, _ZERO), top)
            v = min(max(y[j] * sv + ov, _ZERO), top)
            place[j] = np.int32(v) * side + np.int32(u)
        for j in range(count):
            colour[j] = np.int32(c[j] * _COLOURS)
        for j in range(count):
            flat[place[j]] += _COUNT + colour[j]
