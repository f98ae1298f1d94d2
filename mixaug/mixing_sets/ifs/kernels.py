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


_MASK = (1 << 40) - 1  # see `accumulate`
_BITS = 40
_SIXTEENTH, _THIRD, _HALF, _QUARTER = np.float32(1 / 16), np.float32(1 / 3), np.float32(0.5), np.float32(0.25)
_ONE, _TOP = np.float32(1.0), np.float32(255.0)
_TRUST = np.float32(6.0)
# The tone of a density: three saturating terms, close to a logarithm from a tenth to thirty times the mean.
_FAINT, _MIDDLE, _STRONG = np.float32(0.15), np.float32(1.2), np.float32(10.0)


@_jit
def plasma(noise: np.ndarray, roughness: float) -> None:
    """Diamond-square (A. Fournier, D. Fussell, L. Carpenter, 1982) on a torus, in place.

    Args:
        noise: (n, n) numbers in [0, 1), n a power of two; becomes the height, scaled to [0, 1].
        roughness: ratio of the amplitudes of one octave and the one before.
    """
    n = noise.shape[0]
    amplitude, step = 1.0, n // 2
    while step > 1:
        half = step // 2
        amplitude *= roughness
        for y in range(half, n, step):
            for x in range(half, n, step):
                below, right = (y + half) % n, (x + half) % n
                corners = (noise[y - half, x - half] + noise[y - half, right]) + (
                    noise[below, x - half] + noise[below, right]
                )
                noise[y, x] = corners * 0.25 + amplitude * (noise[y, x] - 0.5)
        for y in range(0, n, half):
            for x in range((y + half) % step, n, step):
                sides = (noise[y - half, x] + noise[(y + half) % n, x]) + (
                    noise[y, x - half] + noise[y, (x + half) % n]
                )
                noise[y, x] = sides * 0.25 + amplitude * (noise[y, x] - 0.5)
        step = half
    low, high = noise.min(), noise.max()
    for y in range(n):
        for x in range(n):
            noise[y, x] = (noise[y, x] - low) / (high - low)


@_jit
def spread(grid: np.ndarray, place: float, span: float, colours: int, ground: np.ndarray) -> None:
    """Fills ``ground`` (size, size) with numbers of colours: ``grid`` (n, n), a torus, interpolated bilinearly."""
    n, size = grid.shape[0], ground.shape[0]
    line = np.empty(n + 1)
    left, part = np.empty(size, np.int32), np.empty(size)
    for i in range(size):
        at = (i + 0.5) / size * n
        left[i] = int(at)
        part[i] = at - left[i]
    for row in range(size):
        y, down = left[row], part[row]
        below = (y + 1) % n
        for x in range(n):
            line[x] = grid[y, x] + down * (grid[below, x] - grid[y, x])
        line[n] = line[0]
        for i in range(size):
            x = left[i]
            value = place + span * (line[x] + part[i] * (line[x + 1] - line[x]))
            ground[row, i] = min(np.int32((value - np.floor(value)) * colours), np.int32(colours - 1))


@_jit
def develop(
    sums: np.ndarray, unit: np.float32, look: np.ndarray, ground: np.ndarray, tables: np.ndarray, out: np.ndarray
) -> None:
    """Paints the density of the points over the background into ``out`` (3, size, size) uint8.

    Args:
        sums: (size + 2, size + 2) int64 of `accumulate`, its rim zero.
        unit: density of one point, so that the mean over the picture is 1.
        look: (8,) float32: base, weight of the colour coordinate, weight of the tone; veil; light x and y, already in
            tones a pixel; relief; brightness of the background.
        ground: (size, size) int32, colour of the background in ``tables[1]``.
        tables: (2, 3, colours) float32.
        out: written to.
    """
    size, colours = ground.shape[0], tables.shape[2]
    base, by_colour, by_tone, veil, lx, ly, relief, dim = (
        look[0], look[1], look[2], look[3], look[4], look[5], look[6], look[7],
    )  # fmt: skip
    rows = np.empty((size + 2, size), np.int64)
    tone = np.empty((size + 2, size + 2), np.float32)  # with a rim that repeats the edge
    hue, cover = np.empty((size, size), np.float32), np.empty((size, size), np.float32)
    for y in range(size + 2):
        for x in range(size):
            rows[y, x] = (sums[y, x] + sums[y, x + 2]) + 2 * sums[y, x + 1]
    for y in range(size):
        for x in range(size):
            near = (rows[y, x] + rows[y + 2, x]) + 2 * rows[y + 1, x]  # 16 times the mean of 3 x 3 pixels
            count = np.float32(np.int32(sums[y + 1, x + 1] >> _BITS))
            around = np.float32(np.int32(near >> _BITS))
            smooth = around * _SIXTEENTH
            d = (smooth + count / (count + _TRUST) * (count - smooth)) * unit  # few points: trust the neighbours
            hue[y, x] = np.float32(near & _MASK) / (max(around, _ONE) * _COLOURS)
            tone[y + 1, x + 1] = ((d / (d + _FAINT) + d / (d + _MIDDLE)) + d / (d + _STRONG)) * _THIRD
            cover[y, x] = d / (d + veil)
        tone[y + 1, 0], tone[y + 1, size + 1] = tone[y + 1, 1], tone[y + 1, size]
    tone[0], tone[size + 1] = tone[1], tone[size]
    index, shade = np.empty(size, np.int32), np.empty(size, np.float32)
    for y in range(size):
        above, middle, below = tone[y], tone[y + 1], tone[y + 2]
        for x in range(size):
            slope = (middle[x + 2] - middle[x]) * lx + (below[x + 1] - above[x + 1]) * ly
            shade[x] = _ONE + relief * slope / np.sqrt(_ONE + slope * slope)
        for x in range(size):
            place = base + (by_colour * hue[y, x] + by_tone * middle[x + 1])
            index[x] = min(np.int32((place - np.floor(place)) * np.float32(colours)), np.int32(colours - 1))
        for k in range(3):
            for x in range(size):
                under = tables[1, k, ground[y, x]] * dim
                over = min(max(tables[0, k, index[x]] * shade[x], _ZERO), _TOP)
                out[k, y, x] = np.uint8(np.int32((under + cover[y, x] * (over - under)) + _HALF))


@_jit
def stamp(at: np.ndarray, cell: np.ndarray, bits: np.ndarray, colour: np.ndarray, marks: np.ndarray) -> None:
    """Paints 3 x 3 patches, each over the ones before, on ``marks`` (side, side) int16.

    Args:
        at: (n, 2) middles of the patches, x and y, in sides of the picture.
        cell: (n,) sides of their cells, in the same unit.
        bits: (n,) int64, which of the nine cells are painted.
        colour: (n,) int16, what they are painted with.
        marks: written to.
    """
    side = marks.shape[0]
    edges = np.empty((2, 4), np.int64)
    for n in range(at.shape[0]):
        for axis in range(2):
            for k in range(4):
                edge = np.floor((at[n, axis] + (k - 1.5) * cell[n]) * side + 0.5)
                edges[axis, k] = int(min(max(edge, 0.0), float(side)))
        for r in range(3):
            for s in range(3):
                if bits[n] >> (3 * r + s) & 1:
                    for y in range(edges[1, r], edges[1, r + 1]):
                        for x in range(edges[0, s], edges[0, s + 1]):
                            marks[y, x] = colour[n]


@_jit
def blend(marks: np.ndarray, dim: np.float32, ground: np.ndarray, tables: np.ndarray, out: np.ndarray) -> None:
    """Averages 2 x 2 marks a pixel over the background into ``out`` (3, size, size) uint8; a mark of -1 is open."""
    size = ground.shape[0]
    for k in range(3):
        first, second = tables[0, k], tables[1, k]
        for y in range(size):
            for x in range(size):
                under = second[ground[y, x]] * dim
                a, b, c, d = (
                    marks[2 * y, 2 * x],
                    marks[2 * y, 2 * x + 1],
                    marks[2 * y + 1, 2 * x],
                    marks[2 * y + 1, 2 * x + 1],
                )
                total = ((first[a] if a >= 0 else under) + (first[b] if b >= 0 else under)) + (
                    (first[c] if c >= 0 else under) + (first[d] if d >= 0 else under)
                )
                out[k, y, x] = np.uint8(np.int32(total * _QUARTER + _HALF))
