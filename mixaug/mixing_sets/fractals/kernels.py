"""Compiled escape-time kernels. Imported on first use only, because importing numba takes a large part of a second.

Every operation on an orbit is an IEEE plus, minus, times, divide or square root, in a fixed order and without fast-math
(numba does not contract a multiply and an add into one rounding unless it is told to), so a picture is the same on
every machine. The logarithms of the colouring are computed from the same operations (`_log2`), not by the C library.

The kernels are serial and release the GIL; `fractals.render_fractals` runs them on plain threads. No OpenMP or TBB pool
is ever started, so they work in forked, spawned and forkserver loader workers after the parent has used them.

The samples in flight are lanes of one flat array: value k of lane i is at ``k * _LANES + i``. With one array and
constant distances LLVM proves that nothing overlaps, and vectorises loops that read and write sixteen values a lane; a
sample that ends hands its lane to a fresh one. All of this is compiled for float32, and for float64 where a view is so
deep that float32 does not tell its points apart (the type of ``numbers`` says which). Colours are always float32.

All kernels are in one file on purpose: numba's disk cache notices a change of a function's own file only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mixaug._numba import jit

_jit = jit()

# Families of `draws.FAMILIES`, in its order.
_POWER, _PHOENIX, _POLE, _NEWTON = 0, 1, 2, 3

# Columns of ``numbers``: the 42 of `draws`, then what `draws.numbers` adds.
_SHAPE, _REACH = 42, 47  # side, low, high, round of the trap, its radius in the distance; its reach as an image
_ONE, _TWO, _TINY, _ESCAPE, _TOLERANCE, _RETURN, _REGULAR, _EIGHT, _FAR = range(48, 57)

_LANES = 256  # samples in flight; their 17 values (17 kB in float32) stay in the first level cache
# Steps between looks at the lanes. LLVM does not vectorise four of the longer maps (pole, newton) in a row: 10x slower.
_BLOCK, _SHORT_BLOCK = 4, 2
(
    _X, _Y, _CX, _CY, _OX, _OY, _NEAR, _WHEN, _TOTAL, _COUNT, _HU, _HV, _SX, _SY, _SAVED, _NEXT, _MARK,
) = (k * _LANES for k in range(17))  # fmt: skip

# Rows of a band's summaries.
_N_SUMMARIES = 10
_TABLE = 1024  # colours of a palette in the table that a picture is painted from
_F0, _F1, _HALF, _F255 = np.float32(0.0), np.float32(1.0), np.float32(0.5), np.float32(255.0)
_FADE = np.float32(1.0e-3)  # orbits much longer than 30 steps are chaotic: their angles would only be grain
_DEPTH = np.float32(1.0e-4)
_FLAT = np.float32(1.0e-12)
_ESCAPE32, _LOG2_ESCAPE = np.float32(1.0e4), np.float32(13.287712379549449)
_TOLERANCE32, _LOG2_TOLERANCE = np.float32(1.0e-6), np.float32(-19.931568569324174)
_SQRT_HALF, _TWO_OVER_LN2 = np.float32(0.7071067811865476), np.float32(2.8853900817779268)
_THIRD, _FIFTH, _SEVENTH, _NINTH = np.float32(1 / 3), np.float32(0.2), np.float32(1 / 7), np.float32(1 / 9)
_MANTISSA, _HALF_BITS = np.int32((1 << 23) - 1), np.int32(126 << 23)  # fields of an IEEE float

# --- maps -----------------------------------------------------------------------------------------------------------


@_jit
def _times(a: float, b: float, p: float, q: float) -> tuple[float, float]:
    """(a + i b) (p + i q)."""
    return a * p - b * q, a * q + b * p


@_jit
def _power(degree: int, a: float, b: float) -> tuple[float, float]:
    """z^degree, degree 2 to 5. Selects instead of branches: LLVM vectorises those."""
    p, q = _times(a, b, a, b)
    four, odd = degree >= 4, (degree & 1) == 1
    r, s = _times(p, q, p, q)
    r, s = r if four else p, s if four else q
    t, u = _times(r, s, a, b)
    return t if odd else r, u if odd else s


@_jit
def _pole(m: int, a: float, b: float, cx: float, cy: float, tiny: float) -> tuple[float, float]:
    """c / z^m, m 1 to 3."""
    two, three = m >= 2, m == 3
    p, q = _times(a, b, a, b)
    r, s = _times(p, q, a, b)
    p, q = p if two else a, q if two else b
    p, q = r if three else p, s if three else q
    norm = (p * p + q * q) + tiny
    return _times(cx, cy, p / norm, -q / norm)


@_jit
def _horner(p: float, q: float, dp: float, dq: float, a: float, b: float, c: float, d: float) -> Any:
    """One more coefficient of a polynomial, (p, q), and of its derivative at z."""
    r, s = _times(dp, dq, a, b)
    t, u = _times(p, q, a, b)
    return t + c, u + d, r + p, s + q


@_jit
def _newton_step(c: Any, rx: float, ry: float, a: float, b: float, zero: float, regular: float) -> tuple[float, float]:
    """r p(z) conj(p'(z)) / (|p'(z)|^2 + regular): Newton's step, finite where the derivative is zero."""
    p, q, dp, dq = _horner(c[0], c[1], zero, zero, a, b, c[2], c[3])
    p, q, dp, dq = _horner(p, q, dp, dq, a, b, c[4], c[5])
    p, q, dp, dq = _horner(p, q, dp, dq, a, b, c[6], c[7])
    p, q, dp, dq = _horner(p, q, dp, dq, a, b, c[8], c[9])
    p, q, dp, dq = _horner(p, q, dp, dq, a, b, c[10], c[11])
    norm = (dp * dp + dq * dq) + regular
    return _times(rx, ry, (p * dp + q * dq) / norm, (q * dp - p * dq) / norm)


# --- what is kept of an orbit ---------------------------------------------------------------------------------------


@_jit
def _stripe_term(stripe: Any, a: float, b: float) -> float:
    """Cosine of twice (or, with ``harmonic`` 1, four times) the angle between z and the stripe axis."""
    ux, uy, harmonic, one, tiny = stripe
    aa, bb, ab = a * a, b * b, a * b
    c = (ux * (aa - bb) + uy * (ab + ab)) / ((aa + bb) + tiny)
    cc = c * c
    return c + harmonic * (((cc + cc) - one) - c)


@_jit
def _note(
    alive: bool, a: float, b: float, new_a: float, new_b: float, kept: Any, trap: Any, stripe: Any
) -> tuple[float, float, Any]:
    """The point after a step and what is kept of its orbit; a lane that has ended stays as it is."""
    near, when, total, count, hu, hv = kept
    tx, ty, ux, uy, side, low_weight, high_weight, round_weight, radius, reach, far = trap
    a = new_a if alive else a
    b = new_b if alive else b
    count = count + stripe[3] if alive else count
    p, q = a - tx, b - ty
    along, across = p * ux + q * uy, q * ux - p * uy
    u, v = abs(along), side * abs(across)
    low, high = u if u < v else v, v if u < v else u
    d = abs(((low_weight * low + high_weight * high) + round_weight * math.sqrt(u * u + v * v)) - radius)
    when = count if d < near else when
    near = d if d < near else near
    hit = (d < reach) & (hu >= far)  # an image: the first time that the orbit falls on it
    hu = along if hit else hu
    hv = across if hit else hv
    more = total + _stripe_term(stripe, a, b)
    total = more if alive else total
    return a, b, (near, when, total, count, hu, hv)


@_jit
def _kept(s: np.ndarray, i: int) -> tuple[float, float, float, float, float, float]:
    return s[i + _NEAR], s[i + _WHEN], s[i + _TOTAL], s[i + _COUNT], s[i + _HU], s[i + _HV]


@_jit
def _close(s: np.ndarray, i: int, a: float, b: float, kept: Any, out: bool, limit: float, numbers: Any) -> None:
    """Writes a lane back after a block and marks it when its orbit ended: 1 out, -1 at the limit, -2 in a cycle.

    An orbit is in a cycle when it comes back to where it was at step 8, 16, 32, 64 or 128 (R. Brent, 1980).
    """
    one, near_enough = numbers
    near, when, total, count, hu, hv = kept
    s[i + _X] = a
    s[i + _Y] = b
    s[i + _NEAR] = near
    s[i + _WHEN] = when
    s[i + _TOTAL] = total
    s[i + _COUNT] = count
    s[i + _HU] = hu
    s[i + _HV] = hv
    sx, sy, saved, following = s[i + _SX], s[i + _SY], s[i + _SAVED], s[i + _NEXT]
    cycle = abs(a - sx) + abs(b - sy) < near_enough
    save = (count >= following) & (not cycle)
    s[i + _SX] = a if save else sx
    s[i + _SY] = b if save else sy
    s[i + _SAVED] = total if save else saved
    s[i + _NEXT] = count + count if save else following
    mark = -one - one if cycle else (-one if count >= limit else one - one)
    s[i + _MARK] = one if out else mark


# --- blocks of steps, a loop over the lanes for each family ---------------------------------------------------------


@_jit
def _square_block(s: np.ndarray, n: int, k: np.ndarray, trap: Any, stripe: Any, limit: float) -> None:
    """z^2 + c."""
    escape, ends = k[_ESCAPE], (k[_ONE], k[_RETURN])
    for i in range(n):
        a, b, cx, cy, kept = s[i + _X], s[i + _Y], s[i + _CX], s[i + _CY], _kept(s, i)
        for _ in range(_BLOCK):
            aa, bb, ab = a * a, b * b, a * b
            alive = (aa + bb <= escape) & (kept[3] < limit)
            a, b, kept = _note(alive, a, b, (aa - bb) + cx, (ab + ab) + cy, kept, trap, stripe)
        _close(s, i, a, b, kept, not a * a + b * b <= escape, limit, ends)


@_jit
def _folded_block(
    s: np.ndarray, n: int, k: np.ndarray, trap: Any, stripe: Any, limit: float, fold: bool, conj: bool
) -> None:
    """(|x| + i |y|)^2 + c, the Burning Ship, or conj(z)^2 + c, the Tricorn."""
    escape, ends = k[_ESCAPE], (k[_ONE], k[_RETURN])
    for i in range(n):
        a, b, cx, cy, kept = s[i + _X], s[i + _Y], s[i + _CX], s[i + _CY], _kept(s, i)
        for _ in range(_BLOCK):
            aa, bb, ab = a * a, b * b, a * b
            ab = abs(ab) if fold else ab
            ab = -ab if conj else ab
            alive = (aa + bb <= escape) & (kept[3] < limit)
            a, b, kept = _note(alive, a, b, (aa - bb) + cx, (ab + ab) + cy, kept, trap, stripe)
        _close(s, i, a, b, kept, not a * a + b * b <= escape, limit, ends)


@_jit
def _power_block(s: np.ndarray, n: int, k: np.ndarray, trap: Any, stripe: Any, limit: float, degree: int) -> None:
    """z^degree + c."""
    escape, ends = k[_ESCAPE], (k[_ONE], k[_RETURN])
    for i in range(n):
        a, b, cx, cy, kept = s[i + _X], s[i + _Y], s[i + _CX], s[i + _CY], _kept(s, i)
        for _ in range(_BLOCK):
            alive = (a * a + b * b <= escape) & (kept[3] < limit)
            p, q = _power(degree, a, b)
            a, b, kept = _note(alive, a, b, p + cx, q + cy, kept, trap, stripe)
        _close(s, i, a, b, kept, not a * a + b * b <= escape, limit, ends)


@_jit
def _phoenix_block(s: np.ndarray, n: int, k: np.ndarray, trap: Any, stripe: Any, limit: float) -> None:
    """z^2 + c + p z_before."""
    escape, ends, px, py = k[_ESCAPE], (k[_ONE], k[_RETURN]), k[7], k[8]
    for i in range(n):
        a, b, cx, cy, kept = s[i + _X], s[i + _Y], s[i + _CX], s[i + _CY], _kept(s, i)
        oa, ob = s[i + _OX], s[i + _OY]
        for _ in range(_BLOCK):
            aa, bb, ab = a * a, b * b, a * b
            alive = (aa + bb <= escape) & (kept[3] < limit)
            p = (aa - bb) + (cx + (px * oa - py * ob))
            q = (ab + ab) + (cy + (px * ob + py * oa))
            oa, ob = a if alive else oa, b if alive else ob
            a, b, kept = _note(alive, a, b, p, q, kept, trap, stripe)
        s[i + _OX] = oa
        s[i + _OY] = ob
        _close(s, i, a, b, kept, not a * a + b * b <= escape, limit, ends)


@_jit
def _pole_block(
    s: np.ndarray, n: int, k: np.ndarray, trap: Any, stripe: Any, limit: float, degree: int, pole: int
) -> None:
    """z^degree + c / z^pole."""
    escape, ends, tiny = k[_ESCAPE], (k[_ONE], k[_RETURN]), k[_TINY]
    for i in range(n):
        a, b, cx, cy, kept = s[i + _X], s[i + _Y], s[i + _CX], s[i + _CY], _kept(s, i)
        for _ in range(_SHORT_BLOCK):
            alive = (a * a + b * b <= escape) & (kept[3] < limit)
            p, q = _power(degree, a, b)
            r, t = _pole(pole, a, b, cx, cy, tiny)
            a, b, kept = _note(alive, a, b, p + r, q + t, kept, trap, stripe)
        _close(s, i, a, b, kept, not a * a + b * b <= escape, limit, ends)


@_jit
def _newton_block(s: np.ndarray, n: int, k: np.ndarray, trap: Any, stripe: Any, limit: float) -> None:
    """z - r p(z) / p'(z) + c. ox and oy hold the squared length of the last step and of the one before."""
    tolerance, ends, rx, ry, regular = k[_TOLERANCE], (k[_ONE], k[_RETURN]), k[7], k[8], k[_REGULAR]
    zero = k[_ONE] - k[_ONE]
    c = (k[30], k[31], k[32], k[33], k[34], k[35], k[36], k[37], k[38], k[39], k[40], k[41])
    for i in range(n):
        a, b, cx, cy, kept = s[i + _X], s[i + _Y], s[i + _CX], s[i + _CY], _kept(s, i)
        length, before = s[i + _OX], s[i + _OY]
        for _ in range(_SHORT_BLOCK):
            alive = (length > tolerance) & (kept[3] < limit)
            p, q = _newton_step(c, rx, ry, a, b, zero, regular)
            p, q = (a - p) + cx, (b - q) + cy
            da, db = p - a, q - b
            before = length if alive else before
            length = da * da + db * db if alive else length
            a, b, kept = _note(alive, a, b, p, q, kept, trap, stripe)
        s[i + _OX] = length
        s[i + _OY] = before
        _close(s, i, a, b, kept, not length > tolerance, limit, ends)


# --- following the orbits of a band ---------------------------------------------------------------------------------


@_jit
def _start(ints: np.ndarray, floats: np.ndarray, k: np.ndarray, s: np.ndarray, i: int, u: float, v: float) -> None:
    """Puts the sample at (u, v) of the view, each -1/2 to 1/2, into lane ``i``."""
    u, v = u * floats[4], v * floats[4]
    a = floats[0] + (u * floats[2] - v * floats[3])
    b = floats[1] + (u * floats[3] + v * floats[2])
    plane = ints[3] == 1  # the plane is the parameter: Mandelbrot
    s[i + _X] = floats[5] if plane else a
    s[i + _Y] = floats[6] if plane else b
    s[i + _CX] = a if plane else floats[5]
    s[i + _CY] = b if plane else floats[6]
    far, zero = k[_FAR], k[_ONE] - k[_ONE]
    old = far if ints[0] == _NEWTON else zero
    s[i + _OX], s[i + _OY] = old, old
    s[i + _NEAR], s[i + _WHEN], s[i + _TOTAL], s[i + _COUNT] = far, zero, zero, zero
    s[i + _HU], s[i + _HV], s[i + _SX], s[i + _SY], s[i + _SAVED] = far, far, far, far, zero
    s[i + _NEXT], s[i + _MARK] = k[_EIGHT], zero


@_jit
def _steps(ints: np.ndarray, k: np.ndarray, s: np.ndarray, n: int, limit: float) -> None:
    trap = (
        k[9], k[10], k[11], k[12], k[_SHAPE], k[_SHAPE + 1], k[_SHAPE + 2], k[_SHAPE + 3], k[_SHAPE + 4],
        k[_REACH], k[_FAR],
    )  # fmt: skip
    stripe = (k[14], k[15], k[16], k[_ONE], k[_TINY])
    family, degree = ints[0], ints[1]
    if family == _PHOENIX:
        _phoenix_block(s, n, k, trap, stripe, limit)
    elif family == _POLE:
        _pole_block(s, n, k, trap, stripe, limit, degree, ints[2])
    elif family == _NEWTON:
        _newton_block(s, n, k, trap, stripe, limit)
    elif degree > 2:
        _power_block(s, n, k, trap, stripe, limit, degree)
    elif ints[4] == 1 or ints[5] == 1:
        _folded_block(s, n, k, trap, stripe, limit, ints[4] == 1, ints[5] == 1)
    else:
        _square_block(s, n, k, trap, stripe, limit)


@_jit
def follow(
    ints: np.ndarray,
    floats: np.ndarray,
    numbers: np.ndarray,
    side: int,
    limit: int,
    first: int,
    orbit: np.ndarray,
) -> None:
    """Iterates the samples of ``orbit`` (10, n), rows of ``side`` from sub-row ``first`` on, and notes their summaries.

    A summary is (steps, x, y, nearest approach, its step, sum of the stripe terms), with the trap ``image`` also the
    place (u, v) on it, and in Newton's method the length of the last step and of the one before. The steps are negative
    where the orbit stayed.
    """
    memory = np.zeros(17 * _LANES, numbers.dtype)
    samples = orbit.shape[1]
    place = np.zeros(_LANES, np.int64)
    n, fresh, row, column = 0, 0, first, 0
    most = numbers[_ONE] * limit
    image, newton = numbers[_REACH] > 0.0, ints[0] == _NEWTON
    for i in range(_LANES):  # lanes without a sample are at rest
        memory[i + _COUNT], memory[i + _MARK] = most, numbers[_ONE]
    while n < _LANES and fresh < samples:
        u, v = (column + 0.5) / side - 0.5, (row + 0.5) / side - 0.5
        _start(ints, floats, numbers, memory, n, u, v)
        place[n] = fresh
        fresh += 1
        column += 1
        if column == side:
            column, row = 0, row + 1
        n += 1
    while n > 0:
        _steps(ints, numbers, memory, (n + 15) // 16 * 16, most)  # whole vectors: no loop over a rest
        i = 0
        while i < n:
            mark = memory[i + _MARK]
            if mark == 0.0:
                i += 1
                continue
            k = place[i]
            total, count = memory[i + _TOTAL], memory[i + _COUNT]
            if mark < -1.5:  # the steps that are left would go round the cycle
                round_steps = count - memory[i + _NEXT] / numbers[_TWO]
                total += (most - count) * ((total - memory[i + _SAVED]) / round_steps)
                count = most
            orbit[0, k] = count if mark > 0.0 else -count
            orbit[1, k], orbit[2, k] = memory[i + _X], memory[i + _Y]
            orbit[3, k], orbit[4, k], orbit[5, k] = memory[i + _NEAR], memory[i + _WHEN], total
            if image:
                orbit[6, k], orbit[7, k] = memory[i + _HU], memory[i + _HV]
            if newton:
                orbit[8, k], orbit[9, k] = memory[i + _OX], memory[i + _OY]
            if fresh < samples:
                u, v = (column + 0.5) / side - 0.5, (row + 0.5) / side - 0.5
                _start(ints, floats, numbers, memory, i, u, v)
                place[i] = fresh
                fresh += 1
                column += 1
                if column == side:
                    column, row = 0, row + 1
                i += 1
                continue
            n -= 1  # the last live lane moves into the free one; it is looked at next
            for value in range(17):
                memory[value * _LANES + i] = memory[value * _LANES + n]
            place[i] = place[n]


# --- colours --------------------------------------------------------------------------------------------------------


@_jit
def _log2(values: np.ndarray, out: np.ndarray) -> None:
    """Base-2 logarithms of positive normal numbers from IEEE operations only, to 1e-6; ``out`` is another array."""
    bits, result = values.view(np.int32), out.view(np.int32)
    n = values.shape[0]
    for i in range(n):
        result[i] = (bits[i] & _MANTISSA) | _HALF_BITS  # the mantissa, in [0.5, 1)
    for i in range(n):
        t = (out[i] - _SQRT_HALF) / (out[i] + _SQRT_HALF)
        t2 = t * t
        series = t * (_F1 + t2 * (_THIRD + t2 * (_FIFTH + t2 * (_SEVENTH + t2 * _NINTH))))
        exponent = np.float32(np.int32(bits[i] >> 23) - np.int32(126))
        out[i] = (exponent - _HALF) + _TWO_OVER_LN2 * series


@_jit
def _smooth_part(family: int, log2_degree: float, orbit: np.ndarray, work: np.ndarray) -> None:
    """Row 5 of ``work``: the part of a step after which the orbit was out, 0 to 1. Rows 0 to 2 are scratch."""
    a, b, c, part = work[0], work[1], work[2], work[5]
    n = a.shape[0]
    if family == _NEWTON:  # where the logarithm of the step length crosses that of the tolerance
        length, before = orbit[8], orbit[9]
        for i in range(n):
            a[i] = length[i] + _FLAT
        _log2(a, b)
        for i in range(n):
            a[i] = before[i] + _FLAT
        _log2(a, c)
        for i in range(n):
            p = (c[i] - _LOG2_TOLERANCE) / (max(c[i] - b[i], _DEPTH))
            p = _F0 if p < _F0 else p
            part[i] = _F1 if p > _F1 else p
        return
    x, y = orbit[1], orbit[2]
    for i in range(n):  # 1 - log_degree(log |z| / log R)
        norm = x[i] * x[i] + y[i] * y[i]
        a[i] = norm if norm > _ESCAPE32 else _ESCAPE32
    _log2(a, b)
    for i in range(n):
        a[i] = b[i] / _LOG2_ESCAPE
    _log2(a, c)
    for i in range(n):
        p = _F1 - c[i] / log2_degree
        p = _F0 if p < _F0 else p
        part[i] = _F1 if p > _F1 else p


@_jit
def _places(ints: np.ndarray, f: np.ndarray, log2_degree: float, orbit: np.ndarray, work: np.ndarray) -> None:
    """From the summaries of one row's orbits to places on the palettes, trap weight and darkening.

    ``work`` (6, n) receives base, glow, weight and shade in its rows 0 to 3.
    """
    count, x, y, near, when, total = orbit[0], orbit[1], orbit[2], orbit[3], orbit[4], orbit[5]
    base, glow, weights, shade, mean, part = work[0], work[1], work[2], work[3], work[4], work[5]
    n = count.shape[0]
    newton = ints[0] == _NEWTON
    _smooth_part(ints[0], log2_degree, orbit, work)
    stripe = (f[14], f[15], f[16], _F1, _FLAT)
    for i in range(n):
        steps = abs(count[i])
        whole = total[i] / steps
        last = _stripe_term(stripe, x[i], y[i])
        before = (total[i] - last) / (steps - _F1) if steps > _F1 + _HALF else whole
        mean[i] = before + part[i] * (whole - before) if count[i] > _F0 else whole
    for i in range(n):
        weights[i] = near[i] + _DEPTH
    _log2(weights, shade)  # shade holds log2 of the distance until its place is filled
    for i in range(n):
        steps = count[i]
        base[i] = math.sqrt((steps - (_F1 if newton else _F0)) + part[i]) if steps > _F0 else _F0
        weights[i] = _F1 / (_F1 + (steps * steps) * _FADE) if steps > _F0 else _F1
    for i in range(n):
        glow[i] = f[14] * x[i] + f[15] * y[i] if newton else _F0
    for i in range(n):
        fade, depth = weights[i], -shade[i]
        p = f[17] + (f[18] * base[i] + fade * (f[19] * depth + (f[20] * mean[i] + (f[21] * when[i]))))
        p = p + f[22] * glow[i]
        g = f[23] + (f[24] * depth + fade * (f[25] * mean[i] + f[26] * when[i]))
        shade[i] = _F1 - (fade * f[29]) * (_HALF - _HALF * mean[i])
        base[i] = p - math.floor(p)
        glow[i] = g - math.floor(g)
    for i in range(n):
        ratio = near[i] / f[27]
        weights[i] = _F1 / (_F1 + ratio * ratio)


@_jit
def tabulate(palette: np.ndarray, table: np.ndarray) -> None:
    """``table`` (3, 1024) of a palette (256, 3): the colours in the middle of 1024 steps."""
    entries = palette.shape[0]
    for k in range(_TABLE):
        place = (k + 0.5) * entries / _TABLE
        low = int(place)
        part = place - low
        high = low + 1 if low + 1 < entries else 0
        for c in range(3):
            table[c, k] = palette[low, c] + part * (palette[high, c] - palette[low, c])


@_jit
def _paint_image(f: np.ndarray, bitmap: np.ndarray, orbit: np.ndarray, work: np.ndarray, over: np.ndarray) -> None:
    """Colours ``over`` (3, n) and weights of the samples that fell on the image (bilinear); weight 0 elsewhere."""
    hu, hv, weights = orbit[6], orbit[7], work[2]
    last = np.float32(bitmap.shape[0] - 1)
    half = last * _HALF
    for i in range(weights.shape[0]):
        u, v = hu[i] / f[13], hv[i] / f[13]
        if not (abs(u) <= _F1 and abs(v) <= _F1):
            weights[i] = _F0
            for c in range(3):
                over[c, i] = _F0
            continue
        p, q = (u + _F1) * half, (v + _F1) * half
        column, row = int(p), int(q)
        a, b = p - np.float32(column), q - np.float32(row)
        right, below = min(column + 1, bitmap.shape[0] - 1), min(row + 1, bitmap.shape[0] - 1)
        for c in range(4):
            one, two = np.float32(bitmap[row, column, c]), np.float32(bitmap[row, right, c])
            three, four = np.float32(bitmap[below, column, c]), np.float32(bitmap[below, right, c])
            top = one + a * (two - one)
            low = three + a * (four - three)
            value = top + b * (low - top)
            if c == 3:
                weights[i] = value / _F255
            else:
                over[c, i] = value


@_jit
def _paint(
    f: np.ndarray, tables: np.ndarray, image: bool, work: np.ndarray, places: np.ndarray, over: np.ndarray
) -> None:
    """Fills ``over`` (3, n) with the colours of one row of samples."""
    base, glow, weights, shade, shine = work[0], work[1], work[2], work[3], work[4]
    under_at, over_at = places[0], places[1]
    n = base.shape[0]
    entries = np.float32(_TABLE)
    for i in range(n):  # a tiny negative number minus its floor rounds to 1; what is not finite is anything
        under_at[i] = max(min(np.int32(base[i] * entries), np.int32(_TABLE - 1)), np.int32(0))
    for i in range(n):
        over_at[i] = max(min(np.int32(glow[i] * entries), np.int32(_TABLE - 1)), np.int32(0))
    for i in range(n):
        w2 = weights[i] * weights[i]
        shine[i] = _F0 if image else f[28] * (w2 * w2)
    for c in range(3):
        first, second, colour = tables[0, c], tables[1, c], over[c]
        if not image:
            for i in range(n):
                colour[i] = second[over_at[i]]
        for i in range(n):
            w = weights[i]
            value = ((_F1 - w) * first[under_at[i]] + w * colour[i]) * shade[i]
            colour[i] = value + shine[i] * (_F255 - value)


@_jit
def paint_rows(
    ints: np.ndarray,
    f: np.ndarray,
    palettes: np.ndarray,
    bitmap: np.ndarray,
    image: bool,
    samples: int,
    orbit: np.ndarray,
    out: np.ndarray,
) -> None:
    """Paints the rows ``out`` (3, rows, size) uint8 from the summaries of their samples. ``f`` is float32."""
    rows, size = out.shape[1], out.shape[2]
    side = size * samples
    work, over = np.empty((6, side), np.float32), np.empty((3, side), np.float32)
    places = np.empty((2, side), np.int32)
    sums = np.empty((3, size), np.float32)
    tables = np.empty((2, 3, _TABLE), np.float32)
    tabulate(palettes[0], tables[0])
    tabulate(palettes[1], tables[1])
    degree, log2_degree = np.empty(1, np.float32), np.empty(1, np.float32)
    degree[0] = ints[1]
    _log2(degree, log2_degree)
    share = _F1 / np.float32(samples * samples)
    start = 0
    for row in range(rows):
        sums[:] = _F0
        for _ in range(samples):
            part = orbit[:, start : start + side]
            _places(ints, f, log2_degree[0], part, work)
            if image:
                _paint_image(f, bitmap, part, work, over)
            _paint(f, tables, image, work, places, over)
            for c in range(3):
                line, colours = sums[c], over[c]
                for k in range(samples):
                    for i in range(size):
                        line[i] += colours[i * samples + k]
            start += side
        for c in range(3):
            for i in range(size):
                out[c, row, i] = np.uint8(min(max(sums[c, i] * share + _HALF, _F0), _F255))


@_jit
def render_rows(
    ints: np.ndarray,
    floats: np.ndarray,
    numbers: np.ndarray,
    colouring: np.ndarray,
    palettes: np.ndarray,
    bitmap: np.ndarray,
    image: bool,
    samples: int,
    limit: int,
    first: int,
    out: np.ndarray,
) -> None:
    """Renders the rows ``out`` (3, rows, size) uint8 of a picture, whose first is row ``first``."""
    side = out.shape[2] * samples
    orbit = np.empty((_N_SUMMARIES, out.shape[1] * samples * side), np.float32)
    follow(ints, floats, numbers, side, limit, first * samples, orbit)
    paint_rows(ints, colouring, palettes, bitmap, image, samples, orbit, out)


# --- where to look --------------------------------------------------------------------------------------------------


@_jit
def escape_count(ints: np.ndarray, k: np.ndarray, px: float, py: float, limit: int) -> int:
    """Steps until the orbit of the plane's point (px, py) is out; ``limit`` when it stays."""
    family, degree, oa, ob = ints[0], ints[1], 0.0, 0.0
    plane = ints[3] == 1
    a, b, cx, cy = (k[5], k[6], px, py) if plane else (px, py, k[5], k[6])
    c = (k[30], k[31], k[32], k[33], k[34], k[35], k[36], k[37], k[38], k[39], k[40], k[41])
    for step in range(1, limit + 1):
        if family == _NEWTON:
            p, q = _newton_step(c, k[7], k[8], a, b, 0.0, k[_REGULAR])
            p, q = (a - p) + cx, (b - q) + cy
            da, db = p - a, q - b
            a, b = p, q
            if not da * da + db * db > k[_TOLERANCE]:
                return step
            continue
        p, q = _power(degree, a, b)
        if family == _POLE:
            r, s = _pole(ints[2], a, b, cx, cy, k[_TINY])
            p, q = p + r, q + s
        else:
            q = abs(q) if ints[4] == 1 else q
            q = -q if ints[5] == 1 else q
            p, q = p + cx, q + cy
        if family == _PHOENIX:
            p, q = p + (k[7] * oa - k[8] * ob), q + (k[7] * ob + k[8] * oa)
        oa, ob, a, b = a, b, p, q
        if not a * a + b * b <= k[_ESCAPE]:
            return step
    return limit


@_jit
def find_boundary(
    ints: np.ndarray, numbers: np.ndarray, candidates: np.ndarray, wanted: int, limit: int
) -> tuple[float, float]:
    """A point of the plane where the escape count crosses ``wanted``, between the slowest and fastest candidates."""
    best, worst, most, least = 0, 0, -1, limit + 1
    for i in range(candidates.shape[0]):
        count = escape_count(ints, numbers, candidates[i, 0], candidates[i, 1], limit)
        if count > most:
            best, most = i, count
        if count < least:
            worst, least = i, count
    level = min(wanted, most)
    ax, ay = candidates[best, 0], candidates[best, 1]
    bx, by = candidates[worst, 0], candidates[worst, 1]
    for _ in range(40):
        mx, my = 0.5 * (ax + bx), 0.5 * (ay + by)
        if escape_count(ints, numbers, mx, my, limit) >= level:
            ax, ay = mx, my
        else:
            bx, by = mx, my
    return ax, ay
