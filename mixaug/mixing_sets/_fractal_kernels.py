"""Compiled escape-time kernels. Imported on first use only, because importing numba takes a large part of a second.

Every operation on an orbit is an IEEE plus, minus, times, divide or square root, in a fixed order and without fast-math
(numba does not contract a multiply and an add into one rounding unless it is told to), so a picture is the same on
every machine. The logarithms of the colouring are computed from the same operations (`_log2`), not by the C library.

The kernels are serial and release the GIL; `fractals.render_fractals` runs them on plain threads. No OpenMP or TBB pool
is ever started, so they work in forked, spawned and forkserver loader workers after the parent has used them.

The inner loops run over some hundred samples in flight, a structure of arrays that stays close to the first level
cache. Each loop touches few arrays and loads before it selects, because LLVM gives up vectorising a loop that needs
more than a handful of alias checks or a conditional load. A sample that ends hands its lane to a fresh one.

All kernels are in one file on purpose: numba's disk cache notices a change of a function's own file only.
"""

from __future__ import annotations

import math

import numpy as np

from mixaug._numba import jit

# Families of `fractals.FAMILIES`, traps of `fractals.TRAPS`; same order.
_POWER, _PHOENIX, _POLE = 0, 1, 2
_POINT, _LINE, _CROSS, _CIRCLE, _SQUARE = 0, 1, 2, 3, 4

ESCAPE = 1.0e4  # |z|^2 at which an orbit counts as escaped: far out, so that the smooth count is smooth
_LOG2_ESCAPE = 13.287712379549449  # log2(ESCAPE)
_FADE = 1.0e-3  # orbits that take much longer than 30 steps to escape are chaotic: their angles would only be grain
_TINY = 1.0e-12  # keeps divisions finite when an orbit hits zero exactly
_STATE_ROWS = 13
_LANES = 512  # samples in flight: their 13 arrays (53 kB) sit between the first and second level cache
_TWO_OVER_LN2 = 2.8853900817779268
_SQRT_HALF = 0.7071067811865476
_MANTISSA, _HALF_BITS = (1 << 52) - 1, 1022 << 52  # fields of an IEEE double


_jit = jit()


@_jit
def _log2(values: np.ndarray, out: np.ndarray) -> None:
    """Base-2 logarithms of positive normal numbers from IEEE operations only, to 1e-9; ``out`` is another array."""
    bits, result = values.view(np.int64), out.view(np.int64)
    n = values.shape[0]
    for i in range(n):
        result[i] = (bits[i] & _MANTISSA) | _HALF_BITS  # the mantissa, in [0.5, 1)
    for i in range(n):
        s = (out[i] - _SQRT_HALF) / (out[i] + _SQRT_HALF)
        s2 = s * s
        series = s * (1.0 + s2 * (1.0 / 3.0 + s2 * (0.2 + s2 * (1.0 / 7.0 + s2 * (1.0 / 9.0)))))
        out[i] = ((bits[i] >> 52) - 1022) - 0.5 + _TWO_OVER_LN2 * series


@_jit
def _advance(
    ints: np.ndarray,
    floats: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    cx: np.ndarray,
    cy: np.ndarray,
    ox: np.ndarray,
    oy: np.ndarray,
    wx: np.ndarray,
    wy: np.ndarray,
    n: int,
) -> None:
    """One step of the map for n samples, in place. ox, oy hold the point before (Phoenix); wx, wy are scratch."""
    family, degree, pole, fold, conj = ints[0], ints[1], ints[2], ints[4], ints[5]
    if fold == 1:  # Burning Ship: both parts made positive first
        for i in range(n):
            x[i] = abs(x[i])
            y[i] = abs(y[i])
    if conj == 1:  # Tricorn
        for i in range(n):
            y[i] = -y[i]
    if family == _PHOENIX:
        px, py = floats[7], floats[8]
        for i in range(n):
            a, b = x[i], y[i]
            ox[i], oy[i] = (
                (a * a - b * b) + (cx[i] + (px * ox[i] - py * oy[i])),
                2.0 * a * b + (cy[i] + (px * oy[i] + py * ox[i])),
            )
        for i in range(n):
            x[i], ox[i] = ox[i], x[i]
        for i in range(n):
            y[i], oy[i] = oy[i], y[i]
        return
    if family == _POWER and degree == 2:
        for i in range(n):
            a, b = x[i], y[i]
            x[i] = (a * a - b * b) + cx[i]
            y[i] = 2.0 * a * b + cy[i]
        return
    for i in range(n):
        ox[i] = x[i]
    for i in range(n):
        oy[i] = y[i]
    for _ in range(degree - 1):
        for i in range(n):
            a, b = x[i], y[i]
            x[i] = a * ox[i] - b * oy[i]
            y[i] = a * oy[i] + b * ox[i]
    if family == _POWER:
        for i in range(n):
            x[i] = x[i] + cx[i]
        for i in range(n):
            y[i] = y[i] + cy[i]
        return
    # z^degree + c / z^pole; w becomes conj(z^pole) / |z^pole|^2
    for i in range(n):
        wx[i] = ox[i]
    for i in range(n):
        wy[i] = oy[i]
    for _ in range(pole - 1):
        for i in range(n):
            a, b = wx[i], wy[i]
            wx[i] = a * ox[i] - b * oy[i]
            wy[i] = a * oy[i] + b * ox[i]
    for i in range(n):
        a, b = wx[i], wy[i]
        norm = (a * a + b * b) + _TINY
        wx[i] = a / norm
        wy[i] = -b / norm
    for i in range(n):
        x[i] = x[i] + (cx[i] * wx[i] - cy[i] * wy[i])
    for i in range(n):
        y[i] = y[i] + (cy[i] * wx[i] + cx[i] * wy[i])


@_jit
def _trap(
    ints: np.ndarray,
    floats: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    near: np.ndarray,
    when: np.ndarray,
    born: np.ndarray,
    n: int,
    tick: float,
) -> None:
    """Keeps for each sample the nearest approach to the trap and the step at which it happened."""
    tx, ty, ux, uy, radius = floats[9], floats[10], floats[11], floats[12], floats[13]
    kind = ints[6]
    if kind == _POINT:
        for i in range(n):
            a, b = x[i] - tx, y[i] - ty
            d = math.sqrt(a * a + b * b)
            m, w, c = near[i], when[i], tick - born[i]
            when[i] = c if d < m else w
            near[i] = d if d < m else m
    elif kind == _LINE:
        for i in range(n):
            d = abs((x[i] - tx) * ux + (y[i] - ty) * uy)
            m, w, c = near[i], when[i], tick - born[i]
            when[i] = c if d < m else w
            near[i] = d if d < m else m
    elif kind == _CROSS:
        for i in range(n):
            a, b = x[i] - tx, y[i] - ty
            u, v = abs(a * ux + b * uy), abs(b * ux - a * uy)
            d = u if u < v else v
            m, w, c = near[i], when[i], tick - born[i]
            when[i] = c if d < m else w
            near[i] = d if d < m else m
    elif kind == _CIRCLE:
        for i in range(n):
            a, b = x[i] - tx, y[i] - ty
            d = abs(math.sqrt(a * a + b * b) - radius)
            m, w, c = near[i], when[i], tick - born[i]
            when[i] = c if d < m else w
            near[i] = d if d < m else m
    else:
        for i in range(n):
            a, b = x[i] - tx, y[i] - ty
            u, v = abs(a * ux + b * uy), abs(b * ux - a * uy)
            d = abs((v if u < v else u) - radius)
            m, w, c = near[i], when[i], tick - born[i]
            when[i] = c if d < m else w
            near[i] = d if d < m else m


@_jit
def _stripe_term(ux: float, uy: float, harmonic: float, x: float, y: float) -> float:
    """Cosine of twice (or, with ``harmonic`` 1, four times) the angle between z and the stripe axis."""
    aa, bb = x * x, y * y
    c = (ux * (aa - bb) + uy * (2.0 * x * y)) / ((aa + bb) + _TINY)
    return c + harmonic * ((2.0 * c * c - 1.0) - c)


@_jit
def _finish_step(
    floats: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    born: np.ndarray,
    total: np.ndarray,
    norms: np.ndarray,
    n: int,
    tick: float,
    limit: float,
) -> int:
    """Adds the stripe term and counts the samples that end: |z|^2 is kept of one that escaped, 0 of one that is old.

    All others are marked by -1.
    """
    ux, uy, harmonic = floats[14], floats[15], floats[16]
    finished = 0
    for i in range(n):
        a, b, age = x[i], y[i], tick - born[i]
        total[i] = total[i] + _stripe_term(ux, uy, harmonic, a, b)
        norm = a * a + b * b
        mark = norm if norm > ESCAPE else (0.0 if age >= limit else -1.0)
        norms[i] = mark
        finished += 1 if mark >= 0.0 else 0
    return finished


@_jit
def _places(
    floats: np.ndarray,
    orbit: np.ndarray,
    log2_degree: float,
    work: np.ndarray,
) -> None:
    """From the summaries of one row's orbits to places on the palettes, trap weight and darkening.

    ``orbit`` has rows (count, norm, near, when, total, last); norm is 0 where the orbit stayed. ``work`` (6, n)
    receives base, glow, weight and shade in its rows 0 to 3.
    """
    count, norm, near, when, total, last = orbit[0], orbit[1], orbit[2], orbit[3], orbit[4], orbit[5]
    base, glow, weights, shade, stripe, smooth = work[0], work[1], work[2], work[3], work[4], work[5]
    n = count.shape[0]
    # Smooth count: 1 - log_degree(log |z| / log R), between 0 and 1, added to the count.
    for i in range(n):
        base[i] = norm[i] if norm[i] > ESCAPE else ESCAPE
    _log2(base, glow)
    for i in range(n):
        glow[i] = glow[i] / _LOG2_ESCAPE
    _log2(glow, smooth)
    for i in range(n):
        part = 1.0 - smooth[i] / log2_degree
        part = 0.0 if part < 0.0 else part
        smooth[i] = 1.0 if part > 1.0 else part
    for i in range(n):
        whole = total[i] / count[i]
        before = (total[i] - last[i]) / (count[i] - 1.0) if count[i] > 1.5 else whole
        stripe[i] = before + smooth[i] * (whole - before) if norm[i] > ESCAPE else whole
    for i in range(n):
        smooth[i] = math.sqrt(count[i] + smooth[i]) if norm[i] > ESCAPE else 0.0
    for i in range(n):
        base[i] = near[i] + 1.0e-4
    _log2(base, shade)
    for i in range(n):  # shade holds log2 of the distance until here
        depth = -shade[i]
        fade = 1.0 / (1.0 + (count[i] * count[i]) * _FADE) if norm[i] > ESCAPE else 1.0
        b = floats[17] + (
            floats[18] * smooth[i] + fade * (floats[19] * depth + (floats[20] * stripe[i] + floats[21] * when[i]))
        )
        g = floats[22] + (floats[23] * depth + fade * (floats[24] * stripe[i] + floats[25] * when[i]))
        shade[i] = 1.0 - (fade * floats[28]) * (0.5 - 0.5 * stripe[i])
        base[i] = b - math.floor(b)
        glow[i] = g - math.floor(g)
    for i in range(n):
        ratio = near[i] / floats[26]
        weights[i] = 1.0 / (1.0 + ratio * ratio)


@_jit
def _colour_row(floats: np.ndarray, palette: np.ndarray, work: np.ndarray, samples: int, sums: np.ndarray) -> None:
    """Adds the colours of one row of samples to ``sums`` (size, 3)."""
    base, glow, weights, shade = work[0], work[1], work[2], work[3]
    entries = palette.shape[1]
    first, second = palette[0], palette[1]
    for i in range(base.shape[0]):
        place = base[i] * entries
        low = int(place)
        part = place - low
        low = low if low < entries else 0  # the fraction of a tiny negative number rounds to 1
        high = low + 1 if low + 1 < entries else 0
        place2 = glow[i] * entries
        low2 = int(place2)
        part2 = place2 - low2
        low2 = low2 if low2 < entries else 0
        high2 = low2 + 1 if low2 + 1 < entries else 0
        weight = weights[i]
        w2 = weight * weight
        shine = floats[27] * (w2 * w2)
        pixel = i // samples
        for k in range(3):
            under = first[low, k] + part * (first[high, k] - first[low, k])
            over = second[low2, k] + part2 * (second[high2, k] - second[low2, k])
            value = ((1.0 - weight) * under + weight * over) * shade[i]
            sums[pixel, k] += value + shine * (255.0 - value)


@_jit
def _start(ints: np.ndarray, floats: np.ndarray, index: int, row: int, per_row: int, state: np.ndarray, i: int) -> None:
    """Puts sample ``index`` of the rows from ``row`` on into lane ``i``."""
    u = ((index % per_row + 0.5) / per_row - 0.5) * floats[4]
    v = ((row + index // per_row + 0.5) / per_row - 0.5) * floats[4]
    a = floats[0] + (u * floats[2] - v * floats[3])
    b = floats[1] + (u * floats[3] + v * floats[2])
    if ints[3] == 1:  # the plane is the parameter: Mandelbrot
        state[0, i], state[1, i], state[2, i], state[3, i] = floats[5], floats[6], a, b
    else:
        state[0, i], state[1, i], state[2, i], state[3, i] = a, b, floats[5], floats[6]
    state[4, i], state[5, i], state[6, i], state[7, i], state[8, i] = 0.0, 0.0, 1.0e3, 0.0, 0.0


@_jit
def _follow(ints: np.ndarray, floats: np.ndarray, row: int, per_row: int, limit: int, orbit: np.ndarray) -> None:
    """Iterates all samples of ``orbit`` (6, n), rows of ``per_row`` from sub-row ``row`` on, and notes their summaries.

    A sample that ends hands its lane to the next one, so the lanes stay full until the last samples.
    """
    state = np.empty((_STATE_ROWS, _LANES))
    x, y, cx, cy, ox, oy = state[0], state[1], state[2], state[3], state[4], state[5]
    near, when, total, born, norms, wx, wy = state[6], state[7], state[8], state[9], state[10], state[11], state[12]
    ux, uy, harmonic = floats[14], floats[15], floats[16]
    samples = orbit.shape[1]
    n = min(samples, _LANES)
    place = np.empty(n, np.int64)
    for i in range(n):
        _start(ints, floats, i, row, per_row, state, i)
        place[i], born[i] = i, 0.0
    fresh = n
    tick = 0.0
    while n > 0:
        tick += 1.0
        _advance(ints, floats, x, y, cx, cy, ox, oy, wx, wy, n)
        _trap(ints, floats, x, y, near, when, born, n, tick)
        finished = _finish_step(floats, x, y, born, total, norms, n, tick, float(limit))
        i = 0
        while finished > 0:
            if norms[i] < 0.0:
                i += 1
                continue
            k = place[i]
            orbit[0, k], orbit[1, k], orbit[2, k] = tick - born[i], norms[i], near[i]
            orbit[3, k], orbit[4, k] = when[i], total[i]
            orbit[5, k] = _stripe_term(ux, uy, harmonic, x[i], y[i])
            finished -= 1
            if fresh < samples:
                _start(ints, floats, fresh, row, per_row, state, i)
                place[i], born[i] = fresh, tick
                fresh += 1
                i += 1
                continue
            n -= 1  # the last live lane moves into the free one; it is looked at next
            x[i], y[i], cx[i], cy[i], ox[i], oy[i] = x[n], y[n], cx[n], cy[n], ox[n], oy[n]
            near[i], when[i], total[i], born[i] = near[n], when[n], total[n], born[n]
            norms[i], place[i] = norms[n], place[n]


@_jit
def render_rows(
    ints: np.ndarray,
    floats: np.ndarray,
    palette: np.ndarray,
    size: int,
    samples: int,
    limit: int,
    first: int,
    stop: int,
    out: np.ndarray,
) -> None:
    """Renders rows ``first`` to ``stop - 1`` of one picture into ``out`` (3, size, size) uint8."""
    per_row = size * samples
    work = np.empty((6, per_row))
    orbit = np.empty((6, (stop - first) * samples * per_row))
    sums = np.empty((size, 3))
    degree, log2_degree = np.empty(1), np.empty(1)
    degree[0] = ints[1]
    _log2(degree, log2_degree)
    share = 1.0 / (samples * samples)
    _follow(ints, floats, first * samples, per_row, limit, orbit)
    start = 0
    for row in range(first, stop):
        sums[:] = 0.0
        for _ in range(samples):
            _places(floats, orbit[:, start : start + per_row], log2_degree[0], work)
            _colour_row(floats, palette, work, samples, sums)
            start += per_row
        for i in range(size):
            for k in range(3):
                out[k, row, i] = np.uint8(min(max(sums[i, k] * share + 0.5, 0.0), 255.0))


@_jit
def escape_count(ints: np.ndarray, floats: np.ndarray, px: float, py: float, limit: int) -> int:
    """Steps until the orbit of the plane's point (px, py) escapes; ``limit`` when it does not."""
    x, y, cx, cy = np.empty(1), np.empty(1), np.empty(1), np.empty(1)
    ox, oy, wx, wy = np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1)
    if ints[3] == 1:
        x[0], y[0], cx[0], cy[0] = floats[5], floats[6], px, py
    else:
        x[0], y[0], cx[0], cy[0] = px, py, floats[5], floats[6]
    for step in range(1, limit + 1):
        _advance(ints, floats, x, y, cx, cy, ox, oy, wx, wy, 1)
        if not x[0] * x[0] + y[0] * y[0] <= ESCAPE:
            return step
    return limit


@_jit
def find_boundary(
    ints: np.ndarray,
    floats: np.ndarray,
    candidates: np.ndarray,
    wanted: int,
    limit: int,
) -> tuple[float, float]:
    """A point of the plane where the escape count crosses ``wanted``, between the slowest and fastest candidates."""
    best, worst, most, least = 0, 0, -1, limit + 1
    for i in range(candidates.shape[0]):
        count = escape_count(ints, floats, candidates[i, 0], candidates[i, 1], limit)
        if count > most:
            best, most = i, count
        if count < least:
            worst, least = i, count
    level = min(wanted, most)
    ax, ay = candidates[best, 0], candidates[best, 1]
    bx, by = candidates[worst, 0], candidates[worst, 1]
    for _ in range(40):
        mx, my = 0.5 * (ax + bx), 0.5 * (ay + by)
        if escape_count(ints, floats, mx, my, limit) >= level:
            ax, ay = mx, my
        else:
            bx, by = mx, my
    return ax, ay
