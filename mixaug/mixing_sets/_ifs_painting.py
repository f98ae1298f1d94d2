"""Compiled kernels that paint the points of an iterated function system. Imported on first use only.

Float32, in IEEE operations and a fixed order without fast-math. The kernels are serial and release the GIL.
"""

from __future__ import annotations

import numpy as np

from mixaug._numba import jit

_MASK = (1 << 40) - 1  # see `_ifs_kernels.accumulate`
_BITS = 40
_SIXTEENTH, _THIRD, _HALF, _QUARTER = np.float32(1 / 16), np.float32(1 / 3), np.float32(0.5), np.float32(0.25)
_ZERO, _ONE, _TOP = np.float32(0.0), np.float32(1.0), np.float32(255.0)
_COLOURS, _TRUST = np.float32(4095.0), np.float32(6.0)
# The tone of a density: three saturating terms, close to a logarithm from a tenth to thirty times the mean.
_FAINT, _MIDDLE, _STRONG = np.float32(0.15), np.float32(1.2), np.float32(10.0)

_jit = jit()


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
        sums: (size + 2, size + 2) int64 of `_ifs_kernels.accumulate`, its rim zero.
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
