"""The mathematics of the dead leaves as plain vectorised NumPy: oracle of the compiled kernels and their peer in speed.

Written the way one writes this in NumPy: numbers of some thousand leaves drawn at once, then for each leaf, front to
back, its box of pixels as whole arrays, composited under what is there.
"""

from __future__ import annotations

import numpy as np

from mixaug.mixing_sets.dead_leaves import DeadLeavesParams

BATCH = 1024
DONE = 1.0 / 1024.0
REACH, SHIFT, SOFT, DARKEST = 1.4143, 0.22, 0.5, 0.4


def hashed(key, words):
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.asarray(words).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def draws(key, words):
    h = hashed(key, words)
    return (h >> np.uint64(32)).astype(float) * 2.0**-32, (h & np.uint64(0xFFFFFFFF)).astype(float) * 2.0**-32


def sine(turns):
    quarter = 4.0 * (turns - np.floor(turns))
    x = np.where(quarter <= 1.0, quarter, np.where(quarter <= 3.0, 2.0 - quarter, quarter - 4.0))
    x2 = x * x
    return x * (1.5707963267948966 - x2 * (0.6459640975 - x2 * (0.0796926262 - x2 * 0.0046817541)))


def direction(turns):
    c, s = sine(turns + 0.25), sine(turns)
    norm = np.sqrt(c * c + s * s)
    return c / norm, s / norm


def pick(shares, values):
    values = values.copy()
    chosen = np.full(len(values), len(shares) - 1)
    open_ = np.ones(len(values), bool)
    for k, share in enumerate(shares[:-1]):
        values = values - share
        hit = open_ & (values < 0.0)
        chosen[hit] = k
        open_ &= ~hit
    return chosen


def colours(p, places, words):
    table = p["palettes"]
    spots = (places - np.floor(places)) * len(table)
    low = spots.astype(int)
    part = (spots - low)[:, None]
    low[low >= len(table)] = 0
    high = np.where(low + 1 < len(table), low + 1, 0)
    own = table[low] + part * (table[high] - table[low])
    a, b = draws(p["key"], words)
    c, _ = draws(p["key"], words + 1)
    return own + p["any_colour"] * (255.0 * np.stack([a, b, c], 1) - own)


def octaves(p, stretch):
    low, high = p["radius"]
    rows = []
    while low < high and len(rows) < 8:
        top = high if len(rows) == 7 else min(2.0 * low, high)
        a, b = 1.0 / (top * top), 1.0 / (low * low)
        width = 1.0 + 2.0 * (stretch * top)
        rows.append(((b - a) * (width * width), a, b, stretch * top))
        low = top
    table = np.array(rows)
    total = 0.0
    for row in rows:
        total += row[0]
    table[:, 0] = table[:, 0] / total
    return table


def leaves(p, size, first, stretch):
    """Numbers of the leaves ``first`` to ``first + BATCH - 1``, each an array."""
    word = 16 * np.arange(first, first + BATCH)
    key = p["key"]
    table = octaves(p, stretch)
    px, py = draws(key, word)
    of_size, of_class = draws(key, word + 1)
    octave = pick(table[:, 0], of_class)
    _, largest, finest, outside = table[octave].T
    px, py = (1.0 + 2.0 * outside) * px - outside, (1.0 + 2.0 * outside) * py - outside
    r = size / np.sqrt(largest + of_size * (finest - largest))
    angle, more = draws(key, word + 2)
    of_shape, flat = draws(key, word + 14)
    shape = pick(p["shapes"], of_shape)
    ax, ay = direction(p["turn"][0] + p["turn"][1] * (angle - 0.5))
    thin = np.where((shape == 0) | (shape == 2), 1.0, p["flattest"] + (1.0 - p["flattest"]) * flat)
    tall = np.where(shape == 5, 1.2, np.where(shape == 4, 1.4, 1.0))
    corners = np.where(shape == 5, 4 + (4.0 * more).astype(int), np.where(shape == 4, 3, 0))
    along, phase = draws(key, word + 3)
    place = p["drift"][0] * px + (p["drift"][1] * py + p["spread"] * along)
    phase2, of_texture = draws(key, word + 5)
    period, filled = draws(key, word + 6)
    apart, turn = draws(key, word + 7)
    tx, ty = direction(turn)
    lx, ly = p["light"]
    lu, lv = lx * ax + ly * ay, ly * ax - lx * ay
    slope = p["shade"] / r
    return {
        "cx": px * size, "cy": py * size, "r": r, "ax": ax, "ay": ay, "hx": tall * r, "hy": tall * r * thin,
        "shape": shape, "corners": corners, "word": word, "texture": pick(p["textures"], of_texture),
        "first": colours(p, place, word + 4), "second": colours(p, place + (0.15 + 0.7 * apart), word + 12),
        "tx": tx, "ty": ty, "period": p["grain"] * (0.25 + 0.75 * period) * np.sqrt(r * (0.1 * size)),
        "phase": phase, "phase2": phase2, "filled": 0.3 + 0.4 * filled, "soft": np.maximum(SOFT * r, 1.0),
        "shift_u": SHIFT * r * lu, "shift_v": SHIFT * r * lv, "shade_u": -slope * lu, "shade_v": -slope * lv,
        "leaf_key": hashed(key, word + 15),
    }  # fmt: skip


def polygon(p, leaf):
    """Unit normals and offsets of the edges."""
    n = leaf["corners"]
    jitter = np.stack(draws(p["key"], leaf["word"] + 8 + np.arange(4)), 1).ravel()[:n]
    c, s = direction((np.arange(n) + 0.6 * (jitter - 0.5)) / n)
    x, y = leaf["hx"] * c, leaf["hy"] * s
    nx, ny = np.roll(y, -1) - y, x - np.roll(x, -1)
    norm = np.sqrt(nx * nx + ny * ny)
    nx, ny = nx / norm, ny / norm
    return list(zip(nx, ny, nx * x + ny * y, strict=True))


def cover(leaf, edges, u, v, soft):
    hx, hy, sharp = leaf["hx"], leaf["hy"], 1.0 / soft
    if leaf["shape"] <= 1:
        a = np.minimum(0.5 + (hx - np.abs(u)) * sharp, 2.0 * hx * sharp)
        b = np.minimum(0.5 + (hy - np.abs(v)) * sharp, 2.0 * hy * sharp)
        return np.clip(a, 0.0, 1.0) * np.clip(b, 0.0, 1.0)
    if leaf["shape"] <= 3:
        a, b = u / hx, v / hy
        level = np.sqrt(a * a + b * b)
        a, b = a / hx, b / hy
        distance = level * (level - 1.0) / (np.sqrt(a * a + b * b) + 1.0e-9)
        return np.clip(0.5 - distance * sharp, 0.0, 1.0) * min(1.0, 2.0 * hy * sharp)
    distance = np.sqrt(u * u + v * v) - hx
    for nx, ny, offset in edges:
        distance = np.maximum(distance, (nx * u + ny * v) - offset)
    return np.clip(0.5 - distance * sharp, 0.0, 1.0) * min(1.0, hy * sharp)


def lattice(key, i, j):
    return (hashed(key ^ hashed(key, i), j) >> np.uint64(32)).astype(float) * 2.0**-32


def noise(key, x, y):
    i, j = np.floor(x), np.floor(y)
    fx, fy = x - i, y - j
    fx, fy = fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy)
    i, j = i.astype(np.int64), j.astype(np.int64)
    a, b = lattice(key, i, j), lattice(key, i + 1, j)
    c, d = lattice(key, i, j + 1), lattice(key, i + 1, j + 1)
    top, bottom = a + fx * (b - a), c + fx * (d - c)
    return top + fy * (bottom - top)


def wave(place, filled, period):
    f = place - np.floor(place)
    return np.clip(0.5 + (0.5 * filled - np.abs(f - 0.5)) * period, 0.0, 1.0)


def texture(leaf, u, v):
    kind, period, filled, key = leaf["texture"], leaf["period"], leaf["filled"], leaf["leaf_key"]
    along, across = u * leaf["tx"] + v * leaf["ty"], v * leaf["tx"] - u * leaf["ty"]
    if kind == 0:
        return np.zeros_like(u)
    if kind == 1:
        s = np.clip(0.5 + 0.5 * (along / leaf["hx"]), 0.0, 1.0)
        return s * s * (3.0 - 2.0 * s)
    fade = np.clip(0.5 * period - 0.5, 0.0, 1.0)
    s, t = along / period + leaf["phase"], across / period + leaf["phase2"]
    if kind == 2:
        return filled + fade * (wave(s, filled, period) - filled)
    if kind == 3:
        a, b = wave(s, 0.5, period), wave(t, 0.5, period)
        return 0.5 + fade * ((a + b - 2.0 * a * b) - 0.5)
    if kind == 4:
        a, b = (s - np.floor(s)) - 0.5, (t - np.floor(t)) - 0.5
        dot = np.clip(0.5 + (0.6 * filled - np.sqrt(a * a + b * b)) * period, 0.0, 1.0)
        mean = 1.13 * filled * filled
        return mean + fade * (dot - mean)
    if kind == 5:
        ring = np.sqrt(u * u + v * v) / period + leaf["phase"]
        return filled + fade * (wave(ring, filled, period) - filled)
    if kind == 7:
        coarse = 0.5 * noise(key, 0.4 * s, 0.4 * t) + 0.5 * noise(key, 0.9 * s + 17.0, 0.9 * t)
        return filled + fade * (wave(0.7 * s + 3.0 * coarse, filled, 0.7 * period) - filled)
    s = s * (0.25 if filled < 0.42 else 1.0)
    one, two, three = noise(key, 0.5 * s, 0.5 * t), noise(key, s, t + 31.0), noise(key, 2.0 * s, 2.0 * t + 57.0)
    fine = np.clip(0.25 * period - 0.5, 0.0, 1.0)
    n = 0.45 * (one - 0.5) + (0.35 * fade) * (two - 0.5) + (0.2 * fine) * (three - 0.5)
    return np.clip(0.5 + 2.4 * n, 0.0, 1.0)


def lay(p, leaf, stretch, shows, light, sums):
    """Composites one leaf under the picture so far; returns whether it finished a pixel."""
    size = len(shows)
    cx, cy, around = leaf["cx"], leaf["cy"], stretch * leaf["r"] + 1.5
    y0, y1 = max(int(np.floor(cy - around)), 0), min(int(np.floor(cy + around)) + 1, size)
    x0, x1 = max(int(np.floor(cx - around)), 0), min(int(np.floor(cx + around)) + 1, size)
    if y0 >= y1 or x0 >= x1:
        return False
    box = np.s_[y0:y1, x0:x1]
    before = shows[box]
    if not before.any():
        return False
    edges = polygon(p, leaf)
    dx, dy = np.arange(x0, x1) + 0.5 - cx, (np.arange(y0, y1) + 0.5 - cy)[:, None]
    u, v = dx * leaf["ax"] + dy * leaf["ay"], dy * leaf["ax"] - dx * leaf["ay"]
    part = cover(leaf, edges, u, v, 1.0)
    rest = before - before * part
    rest[rest < DONE] = 0.0
    weight = (before - rest) * (1.0 + (u * leaf["shade_u"] + v * leaf["shade_v"])) * light[box]
    place = texture(leaf, u, v)[..., None]
    sums[box] += weight[..., None] * (leaf["first"] + place * (leaf["second"] - leaf["first"]))
    shows[box] = rest
    if p["shadow"] > 0.0:
        dark = cover(leaf, edges, u - leaf["shift_u"], v - leaf["shift_v"], leaf["soft"])
        light[box] = np.maximum(light[box] * (1.0 - p["shadow"] * dark), DARKEST)
    return bool((rest == 0.0).any())


def render(params: DeadLeavesParams, i: int, size: int) -> np.ndarray:
    """Picture ``i`` as uint8 (3, size, size)."""
    p = {
        name: getattr(params, name)[i].numpy()
        for name in ("radius", "turn", "shapes", "textures", "drift", "light", "palettes")
    }
    for name in ("key", "flattest", "spread", "any_colour", "shade", "shadow", "grain"):
        p[name] = getattr(params, name)[i].item()
    stretch = REACH * (1.0 + 0.5 * SOFT) + SHIFT if p["shadow"] > 0.0 else REACH
    shows, light, sums = np.ones((size, size)), np.ones((size, size)), np.zeros((size, size, 3))
    first = 0
    while shows.any():
        batch = leaves(p, size, first, stretch)
        for k in range(BATCH):
            finished = lay(p, {name: values[k] for name, values in batch.items()}, stretch, shows, light, sums)
            if finished and not shows.any():
                break
        first += BATCH
    return np.clip(sums + 0.5, 0.0, 255.0).astype(np.uint8).transpose(2, 0, 1)
