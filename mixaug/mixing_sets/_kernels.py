"""Compiled escape-time kernels. Imported on first use only, because importing numba takes a large part of a second.

Every operation on an orbit is an IEEE plus, minus, times, divide or square root, in a fixed order and without fast-math
(numba does not contract a multiply and an add into one rounding unless it is told to), so a picture is the same on every
machine. The logarithms of the colouring are computed from the same operations (`_log2`), not by the C library.

The kernels are serial and release the GIL; `fractals.render_fractals` runs them on plain threads. No OpenMP or TBB pool is
ever started, so they work in forked, spawned and forkserver loader workers after the parent has used them.

The inner loops run over the samples of one image row that are still alive, a structure of arrays that stays in the first
level cache. Each loop touches few arrays, because LLVM gives up vectorising a loop that needs more than a handful of
alias checks; samples that escape are written out and squeezed away, so finished ones cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

# Families of `fractals.FAMILIES`, traps of `fractals.TRAPS`; same order.
_POWER, _PHOENIX, _POLE = 0, 1, 2
_POINT, _LINE, _CROSS, _CIRCLE, _SQUARE = 0, 1, 2, 3, 4

ESCAPE = 1.0e4  # |z|^2 at which an orbit counts as escaped: far out, so that the smooth count is smooth
_LOG2_ESCAPE = 13.287712379549449  # log2(ESCAPE)
_FADE = 1.0e-3  # orbits that take much longer than 30 steps to escape are chaotic: their angles would only be grain
_TINY = 1.0e-12  # keeps divisions finite when an orbit hits zero exactly
_TWO_OVER_LN2 = 2.8853900817779268
_SQRT_HALF = 0.7071067811865476


def _jit(function: F) -> F:
    """numba.njit with the settings of this file; without the disk cache where no folder for it can be written."""
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
    try:
        return numba.njit(cache=True, **settings)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # "no locator available": neither beside this file nor in the user's cache
        return numba.njit(**settings)(function)  # type: ignore[no-any-return]


@_jit
def _log2(value: float) -> float:
    """Base-2 logarithm of a positive number from IEEE operations only (error below 1e-9)."""
    mantissa, exponent = math.frexp(value)  # exact: mantissa in [0.5, 1)
    s = (mantissa - _SQRT_HALF) / (mantissa + _SQRT_HALF)
    s2 = s * s
    series = s * (1.0 + s2 * (1.0 / 3.0 + s2 * (0.2 + s2 * (1.0 / 7.0 + s2 * (1.0 / 9.0)))))
    return exponent - 0.5 + _TWO_OVER_LN2 * series


@_jit
def _advance(
    ints: np.ndarray, floats: np.ndarray, x: np.ndarray, y: np.ndarray, cx: np.ndarray, cy: np.ndarray,
    ox: np.ndarray, oy: np.ndarray, n: int,
) -> None:
    """One step of the map for samples 0..n-1, in place. ox, oy hold the previous point (Phoenix) or are scratch."""
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
            ox[i], oy[i] = (a * a - b * b) + (cx[i] + (px * ox[i] - py * oy[i])), 2.0 * a * b + (
                cy[i] + (px * oy[i] + py * ox[i])
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
    # z^degree + c / z^pole
    for i in range(n):
        a, b = ox[i], oy[i]
        p, q = a, b
        for _ in range(pole - 1):
            p, q = p * a - q * b, p * b + q * a
        norm = (p * p + q * q) + _TINY
        x[i] = x[i] + (cx[i] * p + cy[i] * q) / norm
        y[i] = y[i] + (cy[i] * p - cx[i] * q) / norm


@_jit
def _trap(
    ints: np.ndarray, floats: np.ndarray, x: np.ndarray, y: np.ndarray, near: np.ndarray, when: np.ndarray, n: int,
    step: float,
) -> None:
    """Keeps for each sample the nearest approach to the trap and the step at which it happened."""
    tx, ty, ux, uy, radius = floats[9], floats[10], floats[11], floats[12], floats[13]
    kind = ints[6]
    if kind == _POINT:
        for i in range(n):
            a, b = x[i] - tx, y[i] - ty
            d = math.sqrt(a * a + b * b)
            when[i] = step if d < near[i] else when[i]
            near[i] = d if d < near[i] else near[i]
    elif kind == _LINE:
        for i in range(n):
            d = abs((x[i] - tx) * ux + (y[i] - ty) * uy)
            when[i] = step if d < near[i] else when[i]
            near[i] = d if d < near[i] else near[i]
    elif kind == _CROSS:
        for i in range(n):
            a, b = x[i] - tx, y[i] - ty
            u, v = abs(a * ux + b * uy), abs(b * ux - a * uy)
            d = u if u < v else v
            when[i] = step if d < near[i] else when[i]
            near[i] = d if d < near[i] else near[i]
    elif kind == _CIRCLE:
        for i in range(n):
            a, b = x[i] - tx, y[i] - ty
            d = abs(math.sqrt(a * a + b * b) - radius)
            when[i] = step if d < near[i] else when[i]
            near[i] = d if d < near[i] else near[i]
    else:
        for i in range(n):
            a, b = x[i] - tx, y[i] - ty
            u, v = abs(a * ux + b * uy), abs(b * ux - a * uy)
            d = abs((v if u < v else u) - radius)
            when[i] = step if d < near[i] else when[i]
            near[i] = d if d < near[i] else near[i]


@_jit
def _stripe(
    floats: np.ndarray, x: np.ndarray, y: np.ndarray, total: np.ndarray, last: np.ndarray, n: int,
) -> int:
    """Adds the stripe term of this step, a cosine of a multiple of the angle of z; returns how many samples escaped."""
    ux, uy, harmonic = floats[14], floats[15], floats[16]
    escaped = 0
    for i in range(n):
        a, b = x[i], y[i]
        aa, bb = a * a, b * b
        norm = aa + bb
        c = (ux * (aa - bb) + uy * (2.0 * a * b)) / (norm + _TINY)
        c = c + harmonic * ((2.0 * c * c - 1.0) - c)
        last[i] = c
        total[i] = total[i] + c
        escaped += 0 if norm <= ESCAPE else 1
    return escaped


@_jit
def _lookup(table: np.ndarray, position: float, weight: float, colour: np.ndarray) -> None:
    """Adds ``weight`` times the cyclic colour table at ``position`` (one unit is one turn) to ``colour``."""
    size = table.shape[0]
    place = (position - math.floor(position)) * size
    low = int(place)
    part = place - low
    low = low if low < size else 0
    high = low + 1 if low + 1 < size else 0
    for k in range(3):
        colour[k] += weight * (table[low, k] + part * (table[high, k] - table[low, k]))


@_jit
def _shade(
    floats: np.ndarray, palette: np.ndarray, outside: bool, count: float, norm: float, log2_degree: float,
    near: float, when: float, total: float, last: float, colour: np.ndarray,
) -> None:
    """Colour of one sample from its orbit's summary."""
    smooth = 0.0
    stripe = total / count
    fade = 1.0
    if outside:
        part = 1.0 - _log2(_log2(norm) / _LOG2_ESCAPE) / log2_degree
        part = min(max(part, 0.0), 1.0)
        smooth = math.sqrt(count + part)
        before = (total - last) / (count - 1.0) if count > 1.5 else stripe
        stripe = before + part * (stripe - before)
        fade = 1.0 / (1.0 + (count * count) * _FADE)
    depth = -_log2(near + 1.0e-4)
    base = floats[17] + (floats[18] * smooth + fade * (floats[19] * depth + (floats[20] * stripe + floats[21] * when)))
    glow = floats[22] + (floats[23] * depth + fade * (floats[24] * stripe + floats[25] * when))
    ratio = near / floats[26]
    weight = 1.0 / (1.0 + ratio * ratio)
    for k in range(3):
        colour[k] = 0.0
    _lookup(palette[0], base, 1.0 - weight, colour)
    _lookup(palette[1], glow, weight, colour)
    shade = 1.0 - (fade * floats[28]) * (0.5 - 0.5 * stripe)
    w2 = weight * weight
    shine = floats[27] * (w2 * w2)
    for k in range(3):
        value = colour[k] * shade
        colour[k] = value + shine * (255.0 - value)


@_jit
def render_rows(
    ints: np.ndarray, floats: np.ndarray, palette: np.ndarray, size: int, samples: int, limit: int, first: int,
    stop: int, out: np.ndarray,
) -> None:
    """Renders rows ``first`` to ``stop - 1`` of one picture into ``out`` (3, size, size) uint8."""
    per_row = size * samples
    x, y = np.empty(per_row), np.empty(per_row)
    cx, cy = np.empty(per_row), np.empty(per_row)
    ox, oy = np.empty(per_row), np.empty(per_row)
    near, when = np.empty(per_row), np.empty(per_row)
    total, last = np.empty(per_row), np.empty(per_row)
    place = np.empty(per_row, np.int64)
    colour = np.empty(3)
    sums = np.empty((size, 3))
    log2_degree = _log2(float(ints[1]))
    ux, uy, width = floats[2], floats[3], floats[4]
    share = 1.0 / (samples * samples)
    for row in range(first, stop):
        sums[:] = 0.0
        for sub in range(samples):
            v = ((row * samples + sub + 0.5) / per_row - 0.5) * width
            for i in range(per_row):
                u = ((i + 0.5) / per_row - 0.5) * width
                a = floats[0] + (u * ux - v * uy)
                b = floats[1] + (u * uy + v * ux)
                if ints[3] == 1:  # the plane is the parameter: Mandelbrot
                    x[i], y[i], cx[i], cy[i] = floats[5], floats[6], a, b
                else:
                    x[i], y[i], cx[i], cy[i] = a, b, floats[5], floats[6]
                ox[i], oy[i] = 0.0, 0.0
                near[i], when[i], total[i], last[i] = 1.0e3, 0.0, 0.0, 0.0
                place[i] = i // samples
            n = per_row
            for step in range(1, limit + 1):
                _advance(ints, floats, x, y, cx, cy, ox, oy, n)
                _trap(ints, floats, x, y, near, when, n, float(step))
                if _stripe(floats, x, y, total, last, n) == 0:
                    continue
                kept = 0
                for i in range(n):
                    norm = x[i] * x[i] + y[i] * y[i]
                    if norm <= ESCAPE:
                        x[kept], y[kept], cx[kept], cy[kept], ox[kept], oy[kept] = x[i], y[i], cx[i], cy[i], ox[i], oy[i]
                        near[kept], when[kept], total[kept], place[kept] = near[i], when[i], total[i], place[i]
                        kept += 1
                    else:
                        _shade(floats, palette, True, float(step), norm, log2_degree, near[i], when[i], total[i],
                               last[i], colour)
                        for k in range(3):
                            sums[place[i], k] += colour[k]
                n = kept
                if n == 0:
                    break
            for i in range(n):
                _shade(floats, palette, False, float(limit), 0.0, log2_degree, near[i], when[i], total[i], last[i],
                       colour)
                for k in range(3):
                    sums[place[i], k] += colour[k]
        for i in range(size):
            for k in range(3):
                out[k, row, i] = np.uint8(min(max(sums[i, k] * share + 0.5, 0.0), 255.0))


@_jit
def escape_count(ints: np.ndarray, floats: np.ndarray, px: float, py: float, limit: int) -> int:
    """Steps until the orbit of the plane's point (px, py) escapes; ``limit`` when it does not."""
    x, y, cx, cy = np.empty(1), np.empty(1), np.empty(1), np.empty(1)
    ox, oy = np.zeros(1), np.zeros(1)
    if ints[3] == 1:
        x[0], y[0], cx[0], cy[0] = floats[5], floats[6], px, py
    else:
        x[0], y[0], cx[0], cy[0] = px, py, floats[5], floats[6]
    for step in range(1, limit + 1):
        _advance(ints, floats, x, y, cx, cy, ox, oy, 1)
        if not x[0] * x[0] + y[0] * y[0] <= ESCAPE:
            return step
    return limit


@_jit
def find_boundary(
    ints: np.ndarray, floats: np.ndarray, candidates: np.ndarray, wanted: int, limit: int,
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
