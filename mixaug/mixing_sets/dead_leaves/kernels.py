"""Compiled kernels of the dead leaves. Imported on first use only, because importing numba takes a while.

Leaves are laid from the front to the back. A pixel keeps how much of it still shows through; once that is nothing the
pixel is finished, and each row knows the next unfinished pixel to the right (union-find with path halving), so later
leaves jump over what lies under the earlier ones. Tiles count their unfinished pixels: most of the last leaves fall on
finished ground and are left after one look. All this changes how long a picture takes, never a pixel of it.

Every number of a leaf comes from a hash of (key of the picture, number of the leaf), and only plus, minus, times,
divide and square root follow, without fast-math, so that a picture is the same on every machine.

All kernels are in one file on purpose: numba's disk cache notices a change of a function's own file only.
"""

from __future__ import annotations

import math

import numpy as np

from mixaug._numba import jit

# Shapes and textures of `dead_leaves.SHAPES` and `dead_leaves.TEXTURES`; same order.
_SQUARE, _RECTANGLE, _CIRCLE, _ELLIPSE, _TRIANGLE, _POLYGON = 0, 1, 2, 3, 4, 5
_PLAIN, _GRADIENT, _STRIPES, _CHECKER, _DOTS, _RINGS, _NOISE, _MARBLE = 0, 1, 2, 3, 4, 5, 6, 7
# Places in the row of numbers of a picture (see `dead_leaves._FLOATS`).
_RADIUS, _FLATTEST, _TURN, _SHAPES, _TEXTURES, _DRIFT, _SPREAD = 0, 2, 3, 5, 11, 19, 21
_ANY_COLOUR, _LIGHT, _SHADE, _SHADOW, _GRAIN = 22, 23, 25, 26, 27

MOST_LEAVES = 1 << 19  # a picture takes 2,000 to 60,000; what still shows through after these takes the next colour
REACH = 1.4143  # no shape reaches further from its centre, in units of its radius: the corner of a square
SHADOW_SHIFT, SHADOW_SOFT = 0.22, 0.5  # of a shadow, in units of the radius
_DARKEST = 0.4  # light that is left under any number of shadows
_DONE = 1.0 / 1024.0  # a pixel that shows less than this is finished: a quarter of a grey level at most
_WORDS = 16  # hashes kept apart for each leaf
_TILE_BITS = 3  # tiles of 8 x 8 pixels
_OCTAVES = 8
_CORNERS = 7

_GOLDEN, _MIX1, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
_LOW32 = np.uint64(0xFFFFFFFF)
_UNIT = 2.0**-32


_jit = jit()


@_jit
def _hash(key: np.uint64, word: int) -> np.uint64:
    """The SplitMix64 generator at place ``word`` of its sequence."""
    z = key + np.uint64(np.int64(word)) * _GOLDEN  # through int64: a place on a lattice may be negative
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@_jit
def _draws(key: np.uint64, word: int) -> tuple[float, float]:
    """Two numbers in [0, 1)."""
    h = _hash(key, word)
    return np.int64(h >> _S32) * _UNIT, np.int64(h & _LOW32) * _UNIT


@_jit
def _sine(turns: float) -> float:
    """sin(2 pi turns) to 2e-4, from products only."""
    quarter = 4.0 * (turns - math.floor(turns))
    x = quarter if quarter <= 1.0 else (2.0 - quarter if quarter <= 3.0 else quarter - 4.0)
    x2 = x * x
    return x * (1.5707963267948966 - x2 * (0.6459640975 - x2 * (0.0796926262 - x2 * 0.0046817541)))


@_jit
def _direction(turns: float) -> tuple[float, float]:
    c, s = _sine(turns + 0.25), _sine(turns)
    norm = math.sqrt(c * c + s * s)
    return c / norm, s / norm


@_jit
def _clamp(value: float) -> float:
    return min(max(value, 0.0), 1.0)


@_jit
def _pick(shares: np.ndarray, first: int, count: int, value: float) -> int:
    """An index with the probabilities that start at ``first``."""
    for k in range(count - 1):
        value -= shares[first + k]
        if value < 0.0:
            return k
    return count - 1


# --- a leaf -------------------------------------------------------------------------------------------------------
# leaf: 0-1 half sizes along its axes, 2-3 axis, 4-6 first colour, 7-9 second, 10-11 axis of the texture,
# 12 period, 13-14 phases, 15 filled share, 16 shadow softness, 17-18 shadow shift along the axes, 19-20 light along the
# axes per pixel. Lengths are in pixels.


@_jit
def _colour(
    floats: np.ndarray, palette: np.ndarray, place: float, key: np.uint64, word: int, leaf: np.ndarray, where: int
) -> None:
    """Writes to ``leaf`` a colour of the palette, blended with one that is uniform in the RGB cube."""
    entries = palette.shape[0]
    spot = (place - math.floor(place)) * entries
    low = int(spot)
    part = spot - low
    low = low if low < entries else 0  # the fraction of a tiny negative number rounds to 1
    high = low + 1 if low + 1 < entries else 0
    a, b = _draws(key, word)
    c, _ = _draws(key, word + 1)
    share = floats[_ANY_COLOUR]
    for k in range(3):
        value = a if k == 0 else (b if k == 1 else c)
        own = palette[low, k] + part * (palette[high, k] - palette[low, k])
        leaf[where + k] = own + share * (255.0 * value - own)


@_jit
def _make_leaf(
    floats: np.ndarray,
    palette: np.ndarray,
    key: np.uint64,
    word: int,
    place_x: float,
    place_y: float,
    r: float,
    size: int,
    leaf: np.ndarray,
    edges: np.ndarray,
) -> tuple[int, int, int]:
    """Fills ``leaf`` and ``edges``; returns the shape, its corners (0 for round ones and squares) and the texture."""
    of_shape, flat = _draws(key, word + 14)
    shape = _pick(floats, _SHAPES, 6, of_shape)
    angle, more = _draws(key, word + 2)
    ax, ay = _direction(floats[_TURN] + floats[_TURN + 1] * (angle - 0.5))
    leaf[2], leaf[3] = ax, ay
    leaf[22], leaf[23] = place_x * size, place_y * size
    thin = 1.0
    if shape != _SQUARE and shape != _CIRCLE:
        thin = floats[_FLATTEST] + (1.0 - floats[_FLATTEST]) * flat
    leaf[0], leaf[1] = r, r * thin
    corners = 0
    if shape >= _TRIANGLE:
        corners = 3
        tall = 1.4
        if shape == _POLYGON:
            corners = 4 + int(4.0 * more)
            tall = 1.2
        leaf[0], leaf[1] = tall * r, tall * r * thin
        _make_edges(key, word + 8, corners, leaf, edges)
    along, phase = _draws(key, word + 3)
    spread = floats[_SPREAD]
    first = floats[_DRIFT] * place_x + (floats[_DRIFT + 1] * place_y + spread * along)
    _colour(floats, palette, first, key, word + 4, leaf, 4)
    b_draw, chosen = _draws(key, word + 5)
    texture = _pick(floats, _TEXTURES, 8, chosen)
    leaf[16] = max(SHADOW_SOFT * r, 1.0)
    leaf[21] = 1.0 / leaf[16]
    lx, ly = floats[_LIGHT], floats[_LIGHT + 1]
    lu, lv = lx * ax + ly * ay, ly * ax - lx * ay
    leaf[17], leaf[18] = SHADOW_SHIFT * r * lu, SHADOW_SHIFT * r * lv
    slope = floats[_SHADE] / r
    leaf[19], leaf[20] = -slope * lu, -slope * lv
    if texture == _PLAIN:
        leaf[7], leaf[8], leaf[9] = leaf[4], leaf[5], leaf[6]
        return shape, corners, texture
    period, filled = _draws(key, word + 6)
    apart, turn = _draws(key, word + 7)
    _colour(floats, palette, first + (0.15 + 0.7 * apart), key, word + 12, leaf, 7)
    leaf[10], leaf[11] = _direction(turn)
    # The geometric mean of the radius and a tenth of the side: large leaves show more periods than small ones.
    leaf[12] = floats[_GRAIN] * (0.25 + 0.75 * period) * math.sqrt(r * (0.1 * size))
    leaf[13], leaf[14] = phase, b_draw
    leaf[15] = 0.3 + 0.4 * filled
    return shape, corners, texture


@_jit
def _make_edges(key: np.uint64, word: int, corners: int, leaf: np.ndarray, edges: np.ndarray) -> None:
    """Unit normals and offsets of a convex polygon whose corners lie on the ellipse of the half sizes."""
    x0, y0, x1, y1, fx, fy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    even, odd = 0.0, 0.0
    for i in range(corners + 1):
        x0, y0 = x1, y1
        if i < corners:
            if i % 2 == 0:
                even, odd = _draws(key, word + i // 2)
            jitter = even if i % 2 == 0 else odd
            c, s = _direction((i + 0.6 * (jitter - 0.5)) / corners)
            x1, y1 = leaf[0] * c, leaf[1] * s
        else:
            x1, y1 = fx, fy
        if i == 0:
            fx, fy = x1, y1
            continue
        nx, ny = y1 - y0, x0 - x1
        norm = math.sqrt(nx * nx + ny * ny)
        nx, ny = nx / norm, ny / norm
        edges[i - 1, 0], edges[i - 1, 1], edges[i - 1, 2] = nx, ny, nx * x0 + ny * y0


@_jit
def _cover(shape: int, corners: int, leaf: np.ndarray, edges: np.ndarray, u: float, v: float, sharp: float) -> float:
    """Share of the leaf in a window of width 1 / ``sharp`` at (u, v) along its axes: 1 inside, 0 outside."""
    hx, hy = leaf[0], leaf[1]
    if shape <= _RECTANGLE:  # the overlap of two intervals in each direction
        a = min(0.5 + (hx - abs(u)) * sharp, 2.0 * hx * sharp)
        b = min(0.5 + (hy - abs(v)) * sharp, 2.0 * hy * sharp)
        return _clamp(a) * _clamp(b)
    if shape <= _ELLIPSE:  # distance to first order, exact for a circle
        p, q = u / hx, v / hy
        level = math.sqrt(p * p + q * q)
        p, q = p / hx, q / hy
        distance = level * (level - 1.0) / (math.sqrt(p * p + q * q) + 1.0e-9)
        return _clamp(0.5 - distance * sharp) * min(1.0, 2.0 * hy * sharp)
    distance = math.sqrt(u * u + v * v) - hx  # sharp corners get no spikes
    for i in range(corners):
        distance = max(distance, (edges[i, 0] * u + edges[i, 1] * v) - edges[i, 2])
    return _clamp(0.5 - distance * sharp) * min(1.0, hy * sharp)


@_jit
def _lattice(key: np.uint64, i: int, j: int) -> float:
    """A number in [0, 1) for each point of a lattice."""
    return np.int64(_hash(key ^ _hash(key, i), j) >> _S32) * _UNIT


@_jit
def _noise(key: np.uint64, x: float, y: float) -> float:
    """Smooth noise in [0, 1): lattice values, blended by smoothstep."""
    i, j = math.floor(x), math.floor(y)
    fx, fy = x - i, y - j
    fx, fy = fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy)
    a, b = _lattice(key, int(i), int(j)), _lattice(key, int(i) + 1, int(j))
    c, d = _lattice(key, int(i), int(j) + 1), _lattice(key, int(i) + 1, int(j) + 1)
    top, bottom = a + fx * (b - a), c + fx * (d - c)
    return top + fy * (bottom - top)


@_jit
def _wave(place: float, filled: float, period: float) -> float:
    """1 on the filled share of each period, 0 elsewhere; an edge is one pixel wide."""
    f = place - math.floor(place)
    return _clamp(0.5 + (0.5 * filled - abs(f - 0.5)) * period)


@_jit
def _texture(texture: int, leaf: np.ndarray, key: np.uint64, u: float, v: float) -> float:
    """Place between the two colours at (u, v) along the axes of the leaf."""
    if texture == _GRADIENT:
        s = (u * leaf[10] + v * leaf[11]) / leaf[0]
        s = _clamp(0.5 + 0.5 * s)
        return s * s * (3.0 - 2.0 * s)
    period, filled = leaf[12], leaf[15]
    # What is finer than the pixels becomes its mean.
    fade = _clamp(0.5 * period - 0.5)
    if texture == _RINGS:
        d = math.sqrt(u * u + v * v) / period + leaf[13]
        return filled + fade * (_wave(d, filled, period) - filled)
    s, t = (u * leaf[10] + v * leaf[11]) / period + leaf[13], (v * leaf[10] - u * leaf[11]) / period + leaf[14]
    if texture == _STRIPES:
        return filled + fade * (_wave(s, filled, period) - filled)
    if texture == _CHECKER:
        a, b = _wave(s, 0.5, period), _wave(t, 0.5, period)
        return 0.5 + fade * ((a + b - 2.0 * a * b) - 0.5)
    if texture == _DOTS:
        a, b = (s - math.floor(s)) - 0.5, (t - math.floor(t)) - 0.5
        dot = _clamp(0.5 + (0.6 * filled - math.sqrt(a * a + b * b)) * period)
        mean = 1.13 * filled * filled  # pi 0.6^2
        return mean + fade * (dot - mean)
    coarse = 0.5 * _noise(key, 0.4 * s, 0.4 * t) + 0.5 * _noise(key, 0.9 * s + 17.0, 0.9 * t)
    if texture == _MARBLE:
        return filled + fade * (_wave(0.7 * s + 3.0 * coarse, filled, 0.7 * period) - filled)
    # Noise of three octaves, stretched along its axis for leaves that are filled little.
    long = 0.25 if filled < 0.42 else 1.0
    s = s * long
    one, two, three = _noise(key, 0.5 * s, 0.5 * t), _noise(key, s, t + 31.0), _noise(key, 2.0 * s, 2.0 * t + 57.0)
    fine = _clamp(0.25 * period - 0.5)
    n = 0.45 * (one - 0.5) + (0.35 * fade) * (two - 0.5) + (0.2 * fine) * (three - 0.5)
    return _clamp(0.5 + 2.4 * n)


# --- a picture ----------------------------------------------------------------------------------------------------


@_jit
def _span(
    shape: int, corners: int, leaf: np.ndarray, edges: np.ndarray, dy: float, margin: float
) -> tuple[float, float]:
    """Where row ``dy`` crosses the leaf made larger by ``margin``: from x to x, from the centre; (1, -1) for nowhere.

    It only saves looking at pixels: with a positive margin it may be too long, with a negative one too short.
    """
    ax, ay, hx, hy = leaf[2], leaf[3], leaf[0], leaf[1]
    if shape <= _RECTANGLE:
        low, high = -1.0e9, 1.0e9
        for k in range(2):  # |x a + dy b| <= h
            a, b = (ax, ay) if k == 0 else (-ay, ax)
            h = leaf[k] + margin
            if h <= 0.0:
                return 1.0, -1.0
            if abs(a) > 1.0e-6:
                p, q = (-h - dy * b) / a, (h - dy * b) / a
                low, high = max(low, min(p, q)), min(high, max(p, q))
            elif abs(dy * b) > h + 1.0e-5 * hx:
                return 1.0, -1.0
        return low, high
    if shape <= _ELLIPSE:
        scale = 1.0 + margin / hy  # beyond this level the distance of `_cover` is beyond the margin
        if scale <= 0.0:
            return 1.0, -1.0
        hx, hy = hx * scale, hy * scale
        p, q = 1.0 / (hx * hx), 1.0 / (hy * hy)
        a, b = ax * ax * p + ay * ay * q, dy * ax * ay * (p - q)
        root = b * b - a * (dy * dy * (ay * ay * p + ax * ax * q) - 1.0)
        if root <= 0.0:
            return 1.0, -1.0
        root = math.sqrt(root)
        return (-b - root) / a, (-b + root) / a
    wide = hx + margin
    wide = wide * wide - dy * dy
    if wide <= 0.0 or (margin < 0.0 and hy + 2.0 * margin < 0.0):
        return 1.0, -1.0
    high = math.sqrt(wide)
    low = -high
    for i in range(corners):  # the normal turned into the picture
        a = edges[i, 0] * ax - edges[i, 1] * ay
        b = edges[i, 0] * ay + edges[i, 1] * ax
        h = (edges[i, 2] + margin) - dy * b
        if a > 1.0e-6:
            high = min(high, h / a)
        elif a < -1.0e-6:
            low = max(low, h / a)
        elif h < -1.0e-5 * hx:
            return 1.0, -1.0
    return low, high


@_jit
def _next_open(following: np.ndarray, y: int, x: int) -> int:
    """The first unfinished pixel of row ``y`` from ``x`` on; the length of the row when there is none."""
    while following[y, x] != x:
        following[y, x] = following[y, following[y, x]]
        x = following[y, x]
    return x


@_jit
def _any_open(counts: np.ndarray, top: int, bottom: int, left: int, right: int) -> bool:
    for i in range(top >> _TILE_BITS, (bottom >> _TILE_BITS) + 1):
        for j in range(left >> _TILE_BITS, (right >> _TILE_BITS) + 1):
            if counts[i, j] > 0:
                return True
    return False


@_jit
def _classes(floats: np.ndarray, outside: float) -> np.ndarray:
    """Octaves of the radius: rows of (share, 1 / largest^2, 1 / smallest^2, how far outside the picture centres lie).

    Small leaves need not fall far outside. A leaf that misses the picture changes nothing, so the places of each octave
    may be drawn from a square of its own when the octave's share grows with that square.
    """
    low, high = floats[_RADIUS], floats[_RADIUS + 1]
    table = np.empty((_OCTAVES, 4))
    count, total = 0, 0.0
    while count == 0 or (low < high and count < _OCTAVES):
        top = min(2.0 * low, high)
        if count == _OCTAVES - 1:
            top = high
        a, b = 1.0 / (top * top), 1.0 / (low * low)
        width = 1.0 + 2.0 * (outside * top)
        table[count, 0], table[count, 1], table[count, 2] = (b - a) * (width * width), a, b
        table[count, 3] = outside * top
        total += table[count, 0]
        low = top
        count += 1
    for k in range(count):
        table[k, 0] = table[k, 0] / total if total > 0.0 else 1.0  # nothing in all when both limits are one
    return table[:count]


@_jit
def _reach(
    shape: int, corners: int, leaf: np.ndarray, edges: np.ndarray, dy: float, shadow: float
) -> tuple[float, float]:
    """Where in row ``dy``, from the centre, the leaf or its shadow can be."""
    low, high = _span(shape, corners, leaf, edges, dy, 0.51)
    if shadow > 0.0:
        shift_x, shift_y = leaf[17] * leaf[2] - leaf[18] * leaf[3], leaf[17] * leaf[3] + leaf[18] * leaf[2]
        low2, high2 = _span(shape, corners, leaf, edges, dy - shift_y, 0.51 * leaf[16])
        if low > high:
            low, high = low2 + shift_x, high2 + shift_x
        elif low2 <= high2:
            low, high = min(low, low2 + shift_x), max(high, high2 + shift_x)
    return low, high


@_jit
def _lay(
    shape: int,
    corners: int,
    texture: int,
    leaf: np.ndarray,
    edges: np.ndarray,
    key: np.uint64,
    shadow: float,
    first: int,
    box: tuple[int, int, int, int],
    pixels: np.ndarray,
    light: np.ndarray,
    following: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Lays a leaf on the unfinished pixels of its box; returns how many of them it finished."""
    top, bottom, west, east = box
    ax, ay, cx = leaf[2], leaf[3], leaf[22]
    red, green, blue = leaf[4], leaf[5], leaf[6]
    finished = 0
    for y in range(top, bottom + 1):
        x = _next_open(following, y, west)
        if x > east:
            continue
        dy = (first + y) + 0.5 - leaf[23]
        low, high = _reach(shape, corners, leaf, edges, dy, shadow)
        if low > high:
            continue
        start, end = max(math.ceil(cx + low - 0.5), x), min(math.floor(cx + high - 0.5), east)
        if start > end:
            continue
        x = _next_open(following, y, start)
        if x > end:
            continue
        inner, outer = start, start  # pixels that the leaf covers wholly: inner to outer - 1
        low, high = _span(shape, corners, leaf, edges, dy, -0.51)
        if low <= high:
            inner = max(math.ceil(cx + low - 0.5), start)
            outer = max(min(math.floor(cx + high - 0.5), end) + 1, inner)
        while x <= end:
            dx = x + 0.5 - cx
            u, v = dx * ax + dy * ay, dy * ax - dx * ay
            inside = inner <= x < outer
            part = 1.0 if inside else _cover(shape, corners, leaf, edges, u, v, 1.0)
            before = float(pixels[y, x, 3])
            rest = before
            if part > 0.0:
                rest = before - before * part
                if rest < _DONE:
                    rest = 0.0
                weight = (before - rest) * (1.0 + (u * leaf[19] + v * leaf[20]))
                if shadow > 0.0:
                    weight = weight * light[y, x]
                if texture == _PLAIN:
                    r, g, b = red, green, blue
                else:
                    t = _texture(texture, leaf, key, u, v)
                    r, g, b = red + t * (leaf[7] - red), green + t * (leaf[8] - green), blue + t * (leaf[9] - blue)
                pixels[y, x, 0] += weight * r
                pixels[y, x, 1] += weight * g
                pixels[y, x, 2] += weight * b
                pixels[y, x, 3] = rest
            if rest == 0.0:
                following[y, x] = outer if inside else x + 1
                counts[y >> _TILE_BITS, x >> _TILE_BITS] -= 1
                finished += 1
            elif shadow > 0.0:
                dark = _cover(shape, corners, leaf, edges, u - leaf[17], v - leaf[18], leaf[21])
                light[y, x] = max(light[y, x] * (1.0 - shadow * dark), _DARKEST)
            x = _next_open(following, y, x + 1)
    return finished


@_jit
def render_rows(
    key: int,
    floats: np.ndarray,
    palette: np.ndarray,
    size: int,
    first: int,
    stop: int,
    out: np.ndarray,
) -> int:
    """Renders rows ``first`` to ``stop - 1`` of one picture into ``out`` (3, size, size) uint8; returns the leaves."""
    seed = np.uint64(key)
    rows = stop - first
    pixels = np.zeros((rows, size, 4), np.float32)  # red, green, blue so far and what still shows through
    shadow = floats[_SHADOW]
    light = np.ones((rows if shadow > 0.0 else 1, size), np.float32)
    following = np.empty((rows, size + 1), np.int32)
    counts = np.zeros(((rows - 1 >> _TILE_BITS) + 1, (size - 1 >> _TILE_BITS) + 1), np.int32)
    for y in range(rows):
        for x in range(size):
            pixels[y, x, 3] = 1.0
            following[y, x] = x
            counts[y >> _TILE_BITS, x >> _TILE_BITS] += 1
        following[y, size] = size
    leaf, edges = np.zeros(24), np.zeros((_CORNERS, 3))
    left = rows * size
    stretch = REACH * (1.0 + 0.5 * SHADOW_SOFT) + SHADOW_SHIFT if shadow > 0.0 else REACH
    classes = _classes(floats, stretch)
    number = 0
    while left > 0 and number < MOST_LEAVES:
        word = number * _WORDS
        number += 1
        px, py = _draws(seed, word)
        of_size, of_class = _draws(seed, word + 1)
        octave = 0
        while octave < classes.shape[0] - 1 and of_class >= classes[octave, 0]:
            of_class -= classes[octave, 0]
            octave += 1
        largest, finest, outside = classes[octave, 1], classes[octave, 2], classes[octave, 3]
        px, py = (1.0 + 2.0 * outside) * px - outside, (1.0 + 2.0 * outside) * py - outside
        r = size / math.sqrt(largest + of_size * (finest - largest))
        cx, cy = px * size, py * size
        around = stretch * r + 1.5
        top, bottom = max(math.floor(cy - around) - first, 0), min(math.floor(cy + around) - first, rows - 1)
        west, east = max(math.floor(cx - around), 0), min(math.floor(cx + around), size - 1)
        if top > bottom or west > east or not _any_open(counts, top, bottom, west, east):
            continue
        y = top
        while y <= bottom and _next_open(following, y, west) > east:
            y += 1
        if y > bottom:
            continue
        shape, corners, texture = _make_leaf(floats, palette, seed, word, px, py, r, size, leaf, edges)
        left -= _lay(
            shape, corners, texture, leaf, edges, _hash(seed, word + 15), shadow, first, (y, bottom, west, east),
            pixels, light, following, counts,
        )  # fmt: skip
    for y in range(rows):
        for k in range(3):
            for x in range(size):
                value = pixels[y, x, k] + pixels[y, x, 3] * palette[0, k]
                out[k, first + y, x] = np.uint8(min(max(value + 0.5, 0.0), 255.0))
    return number
