"""Compiled kernels of the spectrum pictures. Imported on first use only, because importing numba takes a while.

Random numbers are 32-bit hashes of (key, frequency) or (key, octave, site), so a larger picture adds finer frequencies
to those of a smaller one. Sines and cosines are polynomials: they vectorise, and are the same on every machine.

Single precision: the fields have a variance of one and errors of some 1e-6, a grey level is about 0.02.
All kernels are in one file on purpose: numba's disk cache notices a change of a function's own file only.
"""

from __future__ import annotations

import math

import numpy as np

from mixaug._numba import jit

TABLE_STEP = 4  # entries a cycle of the tables over frequencies
RANGE = 3.25  # fields are shaped by tables over [-RANGE, RANGE] standard deviations

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_QUARTER_TURN = np.float32(math.pi / 2**31)  # of a whole number of 30 bits, in radians
_EIGHTH_TURN = np.float32(math.pi / 4)
_S1, _S2, _S3 = np.float32(-1 / 6), np.float32(1 / 120), np.float32(-1 / 5040)
_C1, _C2, _C3, _C4 = np.float32(-1 / 2), np.float32(1 / 24), np.float32(-1 / 720), np.float32(1 / 40320)
_BYTES_MEAN, _BYTES_SCALE = np.float32(510.0), np.float32(math.sqrt(12.0 / (4.0 * 65535.0)))
_STEP = np.float32(TABLE_STEP)
_CALMEST = np.float32(0.02)  # standard deviations that a pixel covers at least; keeps a difference over it exact enough
_CUBE, _COSINE = np.float32(0.25 / math.sqrt(1.25)), np.float32(math.sqrt(0.5))  # give cos^3 and cos a variance of 1
_WORD = np.uint64(0xFFFFFFFF)

_jit = jit()


@_jit
def _hash64(a: np.uint64, b: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 over two words."""
    x = a + b * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@_jit
def _hash32(x: np.uint32) -> np.uint32:
    """A bijection of 32-bit words with little bias (the constants are by E. Jones and C. Wellons)."""
    x = np.uint32(x ^ np.uint32(x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x21F0AAAD))
    x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0xD35A2D97))
    return np.uint32(x ^ np.uint32(x >> np.uint32(15)))


@_jit
def _direction(h: np.uint32) -> tuple[np.float32, np.float32]:
    """Cosine and sine of ``h`` / 2^32 turns (less an eighth), to 1e-6."""
    x = np.float32(np.int32(h & np.uint32(0x3FFFFFFF))) * _QUARTER_TURN - _EIGHTH_TURN
    xx = x * x
    s = x * (_ONE + xx * (_S1 + xx * (_S2 + xx * _S3)))
    c = _ONE + xx * (_C1 + xx * (_C2 + xx * (_C3 + xx * _C4)))
    swap = (h & np.uint32(0x40000000)) != 0
    a = -s if swap else c
    b = c if swap else s
    flip = (h & np.uint32(0x80000000)) != 0
    return (-a if flip else a), (-b if flip else b)


@_jit
def _normal(h: np.uint32) -> np.float32:
    """Sum of the four bytes, scaled to variance 1: nearly normal, within 3.5."""
    total = (h & np.uint32(255)) + ((h >> np.uint32(8)) & np.uint32(255))
    total += ((h >> np.uint32(16)) & np.uint32(255)) + (h >> np.uint32(24))
    return (np.float32(np.int32(total)) - _BYTES_MEAN) * _BYTES_SCALE


@_jit
def _between(table: np.ndarray, place: np.float32) -> np.float32:
    """The table at a place between its entries."""
    low = np.int32(place)
    part = place - np.float32(low)
    return table[low] + part * (table[low + 1] - table[low])


@_jit
def spectrum_power(axis: np.ndarray, first: np.ndarray, second: np.ndarray, reach: int) -> float:
    """Variance of the field of `fill_spectrum` with gain 1, of the frequencies up to ``reach`` cycles."""
    total = 0.0
    for fy in range(-reach, reach + 1):
        for fx in range(0 if fy > 0 else 1, reach + 1):
            if fx * fx + fy * fy <= reach * reach:
                u = abs(np.float32(fx) * axis[0] + np.float32(fy) * axis[1])
                v = abs(np.float32(fy) * axis[0] - np.float32(fx) * axis[1])
                size = _ONE / max(_between(first, u * _STEP) + _between(second, v * _STEP), np.float32(1e-6))
                total += float(size * size)
    return 2.0 * total


@_jit
def fill_spectrum(
    key: np.uint64,
    axis: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    gain: np.float32,
    pixel: np.ndarray,
    out: np.ndarray,
) -> None:
    """Random phases under the magnitude gain / (|u|^a + |v|^b), u and v being the frequency turned by ``axis``.

    Args:
        key: of the picture.
        axis: (2,) float32 unit.
        first, second: float32, |u|^a and |v|^b for multiples of 1/4 cycle.
        gain: factor.
        pixel: (2, S // 2 + 1) float32: what a pixel's area and place do to a wave, real and imaginary.
        out: (3, S, S // 2 + 1, 2) float32, the transforms of three real fields.
    """
    size, half = out.shape[1], out.shape[2]
    most = (size - 1) // 2
    words = np.empty(half, np.uint32)
    real, imag = np.empty(half, np.float32), np.empty(half, np.float32)
    cosines, sines = np.empty(half, np.float32), np.empty(half, np.float32)
    for row in range(size):
        fy = row if row <= most else row - size
        if -fy > most:  # an even size has a frequency without a partner
            out[:, row] = _ZERO
            continue
        word = _hash64(key, np.uint64(np.int64(fy)))
        low, high = np.uint32(word & _WORD), np.uint32(word >> np.uint64(32))
        yr = pixel[0, abs(fy)]
        yi = pixel[1, fy] if fy >= 0 else -pixel[1, -fy]
        for fx in range(half):
            words[fx] = np.uint32(_hash32(np.uint32(np.uint32(fx) ^ low)) + high)
        for fx in range(half):
            u = abs(np.float32(fx) * axis[0] + np.float32(fy) * axis[1])
            v = abs(np.float32(fy) * axis[0] - np.float32(fx) * axis[1])
            total = _between(first, u * _STEP) + _between(second, v * _STEP)
            real[fx] = gain / max(total, np.float32(1e-6))
        for fx in range(half):
            m = real[fx]
            real[fx] = m * (pixel[0, fx] * yr - pixel[1, fx] * yi)
            imag[fx] = m * (pixel[0, fx] * yi + pixel[1, fx] * yr)
        for k in range(3):
            step = np.uint32(0x9E3779B9 * (k + 1) & 0xFFFFFFFF)
            line = out[k, row]
            for fx in range(half):
                cosines[fx], sines[fx] = _direction(_hash32(np.uint32(words[fx] + step)))
            for fx in range(half):
                c, s, a, b = cosines[fx], sines[fx], real[fx], imag[fx]
                line[fx, 0] = c * a - s * b
                line[fx, 1] = c * b + s * a
            if half > most + 1:
                line[half - 1] = _ZERO
    for k in range(3):
        out[k, 0, 0] = _ZERO
        for row in range(1, most + 1):  # a real picture: one half of the column fx = 0 is that of the other
            out[k, size - row, 0, 0] = out[k, row, 0, 0]
            out[k, size - row, 0, 1] = -out[k, row, 0, 1]


@_jit
def draw_sites(
    key: np.uint64,
    octave: int,
    parent: np.ndarray,
    weights: np.ndarray,
    axis: np.ndarray,
    logs: np.ndarray,
    out: np.ndarray,
) -> None:
    """One octave's wavelet coefficients: heavy-tailed sizes with a direction, and a sign in each channel.

    Args:
        key, octave: of the picture and of these sites.
        parent: (n/2, n/2) float32, ``logs`` of the octave before.
        weights: (4,) float32: of the octave before in the logarithm of a size, of a new normal number in it, the
            number that is added to it, and how much the favoured direction adds to a size.
        axis: (2,) float32, cosine and sine of twice the favoured direction.
        logs: (n, n) float32 receives the logarithms, before the addition.
        out: (4, n, n, 2) float32 receives the channels times e^it and the first, luminance, times e^3it.
    """
    n = logs.shape[0]
    m = n // 2
    base = _hash64(key, np.uint64(0x5B1CE5 + octave))
    words = np.empty(n, np.uint32)
    sizes, amounts = np.empty(n, np.float32), np.empty(n, np.float32)
    cosines, sines = np.empty(n, np.float32), np.empty(n, np.float32)
    kept, fresh, shift, strain = weights[0], weights[1], weights[2], weights[3]
    for row in range(n):
        word = _hash64(base, np.uint64(row))
        low, high = np.uint32(word & _WORD), np.uint32(word >> np.uint64(32))
        for i in range(n):
            words[i] = np.uint32(_hash32(np.uint32(np.uint32(i) ^ low)) + high)
        top, bottom = row // 2, (row // 2 + row % 2) % m
        for i in range(m):  # between the sites of the octave before
            j = i + 1 if i + 1 < m else 0
            left, right = parent[top, i] + parent[bottom, i], parent[top, j] + parent[bottom, j]
            sizes[2 * i] = _HALF * left
            sizes[2 * i + 1] = np.float32(0.25) * (left + right)
        for i in range(n):
            logs[row, i] = kept * sizes[i] + fresh * _normal(_hash32(words[i]))
        for i in range(n):
            cosines[i], sines[i] = _direction(_hash32(np.uint32(words[i] + np.uint32(0x9E3779B9))))
        for i in range(n):
            # (1 + x / 16)^16, nearly the exponential function
            size = max(_ONE + np.float32(1.0 / 16.0) * (shift + logs[row, i]), _ZERO)
            size = size * size
            size = size * size
            size = size * size
            size = size * size
            c, s = cosines[i], sines[i]
            sizes[i] = size * (_ONE + strain * ((c * c - s * s) * axis[0] + np.float32(2.0) * c * s * axis[1]))
        for k in range(3):
            step = np.uint32(0x3C6EF372 if k == 0 else (0x78DDE6E4 if k == 1 else 0xDAA66D2B))
            for i in range(n):
                amounts[i] = sizes[i] * _normal(_hash32(np.uint32(words[i] + step)))
            line = out[k, row]
            for i in range(n):
                a, c, s = amounts[i], cosines[i], sines[i]
                line[i, 0] = a * c
                line[i, 1] = a * s
            if k == 0:
                line = out[3, row]
                for i in range(n):
                    a, c, s = amounts[i], cosines[i], sines[i]
                    c2, s2 = c * c - s * s, np.float32(2.0) * c * s
                    line[i, 0] = a * (c * c2 - s * s2)
                    line[i, 1] = a * (c * s2 + s * c2)


@_jit
def add_octave(sites: np.ndarray, octave: int, gain: np.float32, pixel: np.ndarray, out: np.ndarray) -> None:
    """Adds an octave to the fields' transforms: that of its sites, repeated over the plane, times that of the wavelets.

    A wavelet of direction t is i cos(t - phi)^3 in the angle phi (luminance) or i cos(t - phi), and in the radius a
    sine that rises from f/2 to f and falls until 2f, where f = 2^octave: the squares of all octaves add up to 1.

    Args:
        sites: (4, n, n, 2) float32, transforms of the arrays of `draw_sites`; n = 2f.
        octave: which.
        gain: factor.
        pixel: as for `fill_spectrum`.
        out: (3, S, S // 2 + 1, 2) float32.
    """
    size = out.shape[1]
    n = sites.shape[1]
    limit = min((size - 1) // 2, n - 1)
    inverse = np.float32(1.0 / 2**octave)
    real, imag = np.empty(limit + 1, np.float32), np.empty(limit + 1, np.float32)
    cosines, sines = np.empty(limit + 1, np.float32), np.empty(limit + 1, np.float32)
    sums = np.empty((4, limit + 1), np.float32)
    for fy in range(-limit, limit + 1):
        row = fy if fy >= 0 else fy + size
        inner = 2**octave // 2
        begin = 0
        while begin * begin + fy * fy <= inner * inner and begin <= limit:
            begin += 1
        stop = limit + 1
        while stop > begin and (stop - 1) * (stop - 1) + fy * fy >= n * n:
            stop -= 1
        if stop <= begin:
            continue
        up, down = fy % n, -fy % n
        yr = pixel[0, abs(fy)]
        yi = pixel[1, fy] if fy >= 0 else -pixel[1, -fy]
        for fx in range(begin, stop):
            x, y = np.float32(fx), np.float32(-fy)
            radius = np.float32(math.sqrt(x * x + y * y))
            share = _ONE / radius
            cosines[fx], sines[fx] = x * share, y * share
            place = radius * inverse
            place = np.float32(2.0) * place - _ONE if place < _ONE else np.float32(2.0) - place
            t = min(max(place, _ZERO), _ONE) - _HALF  # the sine of a quarter turn, about its middle
            t = t * np.float32(math.pi / 2)
            tt = t * t
            weight = (_ONE + tt * (_C1 + tt * (_C2 + tt * (_C3 + tt * _C4)))) + t * (
                _ONE + tt * (_S1 + tt * (_S2 + tt * _S3))
            )
            weight = weight * (gain * _COSINE)
            real[fx] = -weight * (pixel[0, fx] * yi + pixel[1, fx] * yr)  # times i
            imag[fx] = weight * (pixel[0, fx] * yr - pixel[1, fx] * yi)
        for part in range(4):
            forward, back = sites[part, up], sites[part, down]
            first, second, third, fourth = sums[0], sums[1], sums[2], sums[3]
            if begin == 0:
                first[0], second[0] = forward[0, 0] + back[0, 0], forward[0, 1] + back[0, 1]
                third[0], fourth[0] = forward[0, 0] - back[0, 0], forward[0, 1] - back[0, 1]
            for fx in range(max(begin, 1), stop):
                a, b, c, d = forward[fx, 0], forward[fx, 1], back[n - fx, 0], back[n - fx, 1]
                first[fx] = a + c
                second[fx] = b + d
                third[fx] = a - c
                fourth[fx] = b - d
            if part == 3:
                for fx in range(begin, stop):
                    c, s = cosines[fx], sines[fx]
                    c2, s2 = c * c - s * s, np.float32(2.0) * c * s
                    cosines[fx] = c * c2 - s * s2
                    sines[fx] = c * s2 + s * c2
            scale = np.float32(3.0) * _CUBE if part == 0 else (_CUBE if part == 3 else _COSINE)
            for fx in range(begin, stop):
                c, s = cosines[fx], sines[fx]
                a = scale * (c * first[fx] - s * second[fx])
                b = scale * (c * fourth[fx] + s * third[fx])
                first[fx] = real[fx] * a - imag[fx] * b
                second[fx] = real[fx] * b + imag[fx] * a
            line = out[part % 3, row]
            for fx in range(begin, stop):
                line[fx, 0] += first[fx]
                line[fx, 1] += second[fx]


@_jit
def shape(field: np.ndarray, table: np.ndarray, row: int, out: np.ndarray) -> None:
    """One row of a field seen through a curve: its mean over the values that a pixel covers, so that steps are smooth.

    Args:
        field: (S, S) float32, periodic.
        table: (T,) float32, the integral of the curve over [-RANGE, RANGE].
        row: which.
        out: (S,) float32.
    """
    size = field.shape[0]
    above, below, here = field[row - 1], field[row + 1 if row + 1 < size else 0], field[row]
    scale = np.float32((table.shape[0] - 1) / (2.0 * RANGE))
    top = np.float32(table.shape[0] - 1.01)
    middle = np.float32(RANGE) * scale
    quarter = np.float32(0.25)
    for i in range(1, size - 1):
        out[i] = abs(here[i + 1] - here[i - 1])
    out[0], out[size - 1] = abs(here[1] - here[size - 1]), abs(here[0] - here[size - 2])
    low, high = np.empty(size, np.float32), np.empty(size, np.float32)
    for i in range(size):
        reach = max(quarter * (out[i] + abs(below[i] - above[i])), _CALMEST) * scale
        place = here[i] * scale + middle
        low[i] = min(max(place - reach, _ZERO), top - _ONE)
        high[i] = min(max(place + reach, _ONE), top)
    for i in range(size):
        out[i] = _between(table, high[i])
    for i in range(size):
        out[i] = out[i] - _between(table, low[i])
    for i in range(size):
        out[i] = out[i] / (high[i] - low[i])


@_jit
def colour(
    fields: np.ndarray, shaped: bool, tables: np.ndarray, mixing: np.ndarray, mean: np.ndarray, out: np.ndarray
) -> None:
    """Pixels of three fields: each seen through its curve (if ``shaped``), then mixed to RGB, clipped and rounded.

    Args:
        fields: (3, S, S) float32 of variance about 1.
        shaped: whether there are curves.
        tables: (3, T) float32, their integrals in steps of the table.
        mixing, mean: (3, 3) and (3,) float32 in grey levels.
        out: (3, S, S) uint8.
    """
    size = fields.shape[1]
    values = np.empty((3, size), np.float32)
    for row in range(size):
        for k in range(3):
            if shaped:
                shape(fields[k], tables[k], row, values[k])
            else:
                for i in range(size):
                    values[k, i] = fields[k, row, i]
        for c in range(3):
            a, b, d, e = mixing[c, 0], mixing[c, 1], mixing[c, 2], mean[c] + _HALF
            line = out[c, row]
            for i in range(size):
                x = (a * values[0, i] + b * values[1, i]) + (d * values[2, i] + e)
                line[i] = np.uint8(np.int32(min(max(x, _ZERO), np.float32(255.0))))
