"""The mathematics of the IFS pictures as plain vectorised NumPy: oracle of the kernels and their peer in speed.

Written the way one writes this in NumPy: a step of all orbits is one expression, the pixels are counted by `bincount`,
neighbours are shifted arrays. Only the patches, which cover each other in order, are a loop.
"""

from __future__ import annotations

import numpy as np

from mixaug.mixing_sets.ifs.render import IFS, KINDS, IFSParams

LANES, WARM_UP, POINTS, STAMPS = 2048, 32, 8, 4096
GRID, COLOURS = 64, 2048
F = np.float32


def hashes(key, count):
    state = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def orbits(p: IFS, steps):
    """Yields x, y and colour coordinate of all lanes, step by step, after the warm-up; and, first, the lanes' order."""
    words = hashes(int(p.key), LANES + WARM_UP + steps)
    order = np.argsort(words[:LANES])
    maps = p.systems[: p.maps].astype(F)
    owner = np.repeat(np.arange(p.maps), np.diff(p.lanes[: p.maps + 1]))
    (a, b, e), (d, f, g) = maps[owner].transpose(1, 2, 0)
    memory, shade = F(p.memory), ((1.0 - p.memory) * p.shades).astype(F)[owner]
    x, y, c = np.zeros((3, LANES), F)
    lane = np.arange(LANES)
    yield order, owner
    for step, word in enumerate(words[LANES:].tolist()):
        source = order[lane ^ (word & LANES - 1)] ^ (word >> 32 & LANES - 1)
        x, y, c = x[source], y[source], c[source]
        x, y, c = (a * x + b * y) + e, (d * x + f * y) + g, memory * c + shade
        if step >= WARM_UP:
            yield x, y, c


def accumulate(p: IFS, size):
    """Counts and sums of the colour coordinate in 4095ths, (size, size) int64 each."""
    scale = 0.5 * size / p.half
    (su, sv), (ou, ov) = scale.astype(F), (0.5 * size + 1.0 - p.centre * scale).astype(F)
    steps = -(-POINTS * size * size // LANES)
    side, counts, colours = size + 2, np.zeros((size + 2) ** 2, np.int64), np.zeros((size + 2) ** 2)
    game = orbits(p, steps)
    next(game)
    points = np.array(list(game)).transpose(1, 0, 2).reshape(3, -1)
    for first in range(0, points.shape[1], 1 << 17):  # pieces that stay in the cache
        x, y, c = points[:, first : first + (1 << 17)]
        u, v = np.clip(x * su + ou, F(0), F(side - 1)), np.clip(y * sv + ov, F(0), F(side - 1))
        place = v.astype(np.int32) * side + u.astype(np.int32)
        counts += np.bincount(place, minlength=side * side)
        colours += np.bincount(place, (c * F(4095)).astype(np.int32), side * side)
    return [sums.reshape(side, side)[1:-1, 1:-1].astype(np.int64) for sums in (counts, colours)]


def around(values):
    """Sum over 3 x 3 with the weights 1 2 1; nothing outside."""
    padded = np.pad(values, 1)
    rows = (padded[:, :-2] + padded[:, 2:]) + 2 * padded[:, 1:-1]
    return (rows[:-2] + rows[2:]) + 2 * rows[1:-1]


def tables(palettes):
    place = np.arange(COLOURS) / 8
    low = place.astype(np.int64)
    high = (low + 1) % 256
    part = (place - low)[:, None]
    return [(table[low] + part * (table[high] - table[low])).astype(F) for table in palettes]


def background(p: IFS, size):
    """Numbers of colours."""
    noise = hashes(~int(p.key) & (1 << 63) - 1, GRID * GRID).reshape(GRID, GRID) / 2**63
    height, step, amplitude = noise.copy(), GRID // 2, 1.0
    while step > 1:
        half = step // 2
        amplitude *= p.roughness
        corners = height[::step, ::step]
        right, below = np.roll(corners, -1, 1), np.roll(corners, -1, 0)
        middles = (corners + right) + (below + np.roll(below, -1, 1))
        height[half::step, half::step] = middles * 0.25 + amplitude * (noise[half::step, half::step] - 0.5)
        known = height[::half, ::half]
        upright, sideways = np.roll(known, 1, 0) + np.roll(known, -1, 0), np.roll(known, 1, 1) + np.roll(known, -1, 1)
        sides = (upright + sideways) * 0.25 + amplitude * (noise[::half, ::half] - 0.5)
        height[::step, half::step] = sides[::2, 1::2]
        height[half::step, ::step] = sides[1::2, ::2]
        step = half
    height = (height - height.min()) / (height.max() - height.min())
    at = (np.arange(size) + 0.5) / size * GRID
    low = at.astype(np.int64)
    high, part = (low + 1) % GRID, at - low
    rows = height[low] + part[:, None] * (height[high] - height[low])
    value = p.ground[0] + p.ground[1] * (rows[:, low] + part * (rows[:, high] - rows[:, low]))
    return np.minimum((value - np.floor(value)) * COLOURS, COLOURS - 1).astype(np.int64)


def points(p: IFS, size, over, under):
    counts, colours = accumulate(p, size)
    near = around(counts).astype(F)
    count, smooth = counts.astype(F), near * F(1 / 16)
    d = (smooth + count / (count + F(6)) * (count - smooth)) * F(size * size / max(counts.sum(), 1))
    hue = around(colours).astype(F) / (np.maximum(near, F(1)) * F(4095))
    tone = ((d / (d + F(0.15)) + d / (d + F(1.2))) + d / (d + F(10))) * F(1 / 3)
    rim = np.pad(tone, 1, mode="edge")
    lx, ly = (p.light * np.sqrt(size / 64)).astype(F)
    slope = (rim[1:-1, 2:] - rim[1:-1, :-2]) * lx + (rim[2:, 1:-1] - rim[:-2, 1:-1]) * ly
    shade = F(1) + F(p.relief) * slope / np.sqrt(F(1) + slope * slope)
    base, by_colour, by_tone = p.base.astype(F)
    place = base + (by_colour * hue + by_tone * tone)
    index = np.minimum(((place - np.floor(place)) * F(COLOURS)).astype(np.int64), COLOURS - 1)
    over = np.clip(over[index] * shade[:, :, None], F(0), F(255))
    return under + (d / (d + F(p.veil)))[:, :, None] * (over - under)


def patches(p: IFS, size, over, under):
    side, steps = 2 * size, STAMPS // LANES
    game = orbits(p, steps)
    order, owner = next(game)
    x, y, c = (np.array(values)[:, order].ravel().astype(np.float64) for values in zip(*game, strict=True))
    n = np.arange(STAMPS)
    cell = p.stamp / (3.0 * np.sqrt(1.0 + n / 16))
    edges = []
    for values, centre, half in zip((x, y), p.centre, p.half, strict=True):
        at = ((values - centre) * (0.5 / half) + 0.5)[:, None] + (np.arange(4) - 1.5) * cell[:, None]
        edges.append(np.clip(np.floor(at * side + 0.5), 0, side).astype(np.int64).tolist())
    place = p.base[0] + (p.base[1] * c + p.base[2] * (n % 128 / 128))
    colours = np.minimum((place - np.floor(place)) * COLOURS, COLOURS - 1).astype(np.int64).tolist()
    masks = p.patches[np.tile(owner[order], steps)].tolist()
    marks = np.full((side, side), -1)
    for xs, ys, bits, colour in zip(*edges, masks, colours, strict=True):
        for k in range(9):
            if bits >> k & 1:
                marks[ys[k // 3] : ys[k // 3 + 1], xs[k % 3] : xs[k % 3 + 1]] = colour
    fine = np.where(marks[:, :, None] >= 0, over[marks], under.repeat(2, 0).repeat(2, 1))
    return ((fine[::2, ::2] + fine[::2, 1::2]) + (fine[1::2, ::2] + fine[1::2, 1::2])) * F(0.25)


def render(params: IFSParams, i: int, size: int) -> np.ndarray:
    """Picture ``i`` as uint8 (3, size, size)."""
    p = params.rows()[i]
    over, under = tables(p.palettes)
    paint = points if KINDS[p.kind] == "points" else patches
    picture = paint(p, size, over, under[background(p, size)] * F(p.dim))
    return (picture + F(0.5)).astype(np.uint8).transpose(2, 0, 1)
