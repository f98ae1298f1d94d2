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
RANGE = 3.25  # fields are shaped by a table over [-RANGE, RANGE] standard deviations

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_QUARTER_TURN = np.float32(math.pi / 2**31)  # of a whole number of 30 bits, in radians
_EIGHTH_TURN = np.float32(math.pi / 4)
_S1, _S2, _S3 = np.float32(-1 / 6), np.float32(1 / 120), np.float32(-1 / 5040)
_C1, _C2, _C3, _C4 = np.float32(-1 / 2), np.float32(1 / 24), np.float32(-1 / 720), np.float32(1 / 40320)
_BYTES_MEAN, _BYTES_SCALE = np.float32(510.0), np.float32(math.sqrt(12.0 / (4.0 * 65535.0)))
_STEP = np.float32(TABLE_STEP)
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
        pixel: (S // 2 + 1,) complex64: what a pixel's area and centre do to a frequency.
        out: (3, S, S // 2 + 1) complex64, of the fields' real transform.
    """
    size, half = out.shape[1], out.shape[2]
    most = (size - 1) // 2
    words = np.empty(half, np.uint32)
    sizes = np.empty(half, np.float32)
    for row in range(size):
        fy = row if row <= size // 2 else row - size
        if abs(fy) > most:
            out[:, row] = 0
            continue
        word = _hash64(key, np.uint64(np.int64(fy)))
        low, high = np.uint32(word & _WORD), np.uint32(word >> np.uint64(32))
        y = pixel[fy] if fy >= 0 else np.conj(pixel[-fy])
        for fx in range(half):
            words[fx] = np.uint32(_hash32(np.uint32(np.uint32(fx) ^ low)) + high)
        for fx in range(half):
            u = abs(np.float32(fx) * axis[0] + np.float32(fy) * axis[1])
            v = abs(np.float32(fy) * axis[0] - np.float32(fx) * axis[1])
            total = _between(first, u * _STEP) + _between(second, v * _STEP)
            sizes[fx] = gain / max(total, np.float32(1e-6))
        for k in range(3):
            step = np.uint32(0x9E3779B9 * (k + 1) & 0xFFFFFFFF)
            for fx in range(half):
                c, s = _direction(_hash32(np.uint32(words[fx] + step)))
                a, b = pixel[fx].real * y.real - pixel[fx].imag * y.imag, pixel[fx].real * y.imag + pixel[fx].imag * y.real
                m = sizes[fx]
                out[k, row, fx] = complex(m * (c * a - s * b), m * (c * b + s * a))
            if half > most + 1:
                out[k, row, half - 1] = 0
    for k in range(3):
        out[k, 0, 0] = 0
        for row in range(1, most + 1):  # a real picture: the other half of the column fx = 0
            out[k, size - row, 0] = np.conj(out[k, row, 0])


@_jit
def draw_sites(
    key: np.uint64,
    octave: int,
    parent: np.ndarray,
    kept: np.float32,
    fresh: np.float32,
    tail: np.float32,
    axis: np.ndarray,
    strain: np.float32,
    logs: np.ndarray,
    out: np.ndarray,
) -> None:
    """One octave's wavelet coefficients: heavy-tailed sizes with a direction and a sign in each channel.

    The logarithm of a size is ``kept`` times that of the octave above plus ``fresh`` times a new one, so that strong
    coefficients lie together, as along the outlines of things (M. Wainwright and E. Simoncelli, Scale mixtures of
    Gaussians and the statistics of natural images, 2000).

    Args:
        key, octave: of the picture and of these sites.
        parent: (n/2, n/2) float32, ``logs`` of the octave above.
        kept, fresh, tail: weights of the logarithm's parts and of the whole.
        axis, strain: (cos, sin) of twice the angle that is favoured, and by how much.
        logs: (n, n) float32 receives the logarithms.
        out: (4, n, n) complex64 receives luminance times e^it and e^3it and the two other channels times e^it.
    """
    n = logs.shape[0]
    m = n // 2
    base = _hash64(key, np.uint64(0x5B1CE5 + octave))
    words = np.empty(n, np.uint32)
    sixteenth = tail * np.float32(1.0 / 16.0)
    calm = -np.float32(np.float32(tail) * tail) * np.float32(1.0 / 16.0)
    for row in range(n):
        word = _hash64(base, np.uint64(row))
        low, high = np.uint32(word & _WORD), np.uint32(word >> np.uint64(32))
        for i in range(n):
            words[i] = np.uint32(_hash32(np.uint32(np.uint32(i) ^ low)) + high)
        top, bottom = row // 2, (row // 2 + row % 2) % m
        for i in range(m):
            j = (i + 1) % m
            left, right = parent[top, i] + parent[bottom, i], parent[top, j] + parent[bottom, j]
            logs[row, 2 * i] = _HALF * left
            logs[row, 2 * i + 1] = np.float32(0.25) * (left + right)
        for i in range(n):
            logs[row, i] = kept * logs[row, i] + fresh * _normal(_hash32(words[i]))
        for i in range(n):
            h = words[i]
            c, s = _direction(_hash32(np.uint32(h + np.uint32(0x9E3779B9))))
            c2, s2 = c * c - s * s, np.float32(2.0) * c * s
            size = _ONE + (calm + sixteenth * logs[row, i])
            size = max(size, _ZERO)
            size = size * size
            size = size * size
            size = size * size
            size = size * size  # nearly the exponential function
            size = size * (_ONE + strain * (c2 * axis[0] + s2 * axis[1]))
            a = size * _normal(_hash32(np.uint32(h + np.uint32(0x3C6EF372))))
            out[0, row, i] = complex(a * c, a * s)
            out[1, row, i] = complex(a * (c * c2 - s * s2), a * (c * s2 + s * c2))
            a = size * _normal(_hash32(np.uint32(h + np.uint32(0xDAA66D2B))))
            out[2, row, i] = complex(a * c, a * s)
            a = size * _normal(_hash32(np.uint32(h + np.uint32(0x78DDE6E4))))
            out[3, row, i] = complex(a * c, a * s)


@_jit
def add_octave(sites: np.ndarray, band: np.ndarray, least: int, most: int, pixel: np.ndarray, out: np.ndarray) -> None:
    """Adds an octave to the fields' spectra: the sites' own, repeated over the plane, through the wavelets' response.

    Args:
        sites: (4, n, n) complex64, transforms of the sites.
        band: float32, the response by radius for multiples of 1/4 cycle; it is zero outside [least, most].
        least, most: radii.
        pixel: as for `fill_spectrum`.
        out: (3, S, S // 2 + 1) complex64.
    """
    size, half = out.shape[1], out.shape[2]
    n = sites.shape[1]
    mask = n - 1  # n is a power of two
    limit = (size - 1) // 2
    for row in range(size):
        fy = row if row <= size // 2 else row - size
        if abs(fy) > min(limit, most):
            continue
        y = pixel[fy] if fy >= 0 else np.conj(pixel[-fy])
        up, down = fy & mask, -fy & mask
        begin = 0
        while begin * begin + fy * fy < least * least:
            begin += 1
        for fx in range(begin, min(limit, most) + 1):
            if fx * fx + fy * fy > most * most:
                break
            radius = math.sqrt(np.float32(fx * fx + fy * fy))
            weight = _between(band, radius * _STEP)
            c, s = np.float32(fx) / radius, np.float32(-fy) / radius
            one = complex(c, s)
            three = one * one * one
            factor = pixel[fx] * y * complex(_ZERO, weight)
            i, j = fx & mask, -fx & mask
            a = np.float32(3.0) * (one * sites[0, up, i] + np.conj(one * sites[0, down, j]))
            a += three * sites[1, up, i] + np.conj(three * sites[1, down, j])
            out[0, row, fx] += factor * a * np.float32(0.25)
            out[1, row, fx] += factor * (one * sites[2, up, i] + np.conj(one * sites[2, down, j]))
            out[2, row, fx] += factor * (one * sites[3, up, i] + np.conj(one * sites[3, down, j]))


@_jit
def colour(fields: np.ndarray, shaped: bool, tables: np.ndarray, mixing: np.ndarray, mean: np.ndarray, out: np.ndarray) -> None:
    """Pixels of three fields: each shaped by its table (if ``shaped``), then mixed to RGB, rounded and clipped.

    Args:
        fields: (3, S, S) float32 of variance about 1.
        tables: (3, T) float32 over [-RANGE, RANGE].
        mixing, mean: (3, 3) and (3,) float32 in grey levels.
        out: (3, S, S) uint8.
    """
    size = fields.shape[1]
    values = np.empty((3, size), np.float32)
    scale = np.float32((tables.shape[1] - 1) / (2.0 * RANGE))
    edge = np.float32(RANGE * 0.99999)
    for row in range(size):
        for k in range(3):
            for i in range(size):
                values[k, i] = fields[k, row, i]
            if shaped:
                for i in range(size):
                    x = min(max(values[k, i], -edge), edge)
                    values[k, i] = _between(tables[k], (x + np.float32(RANGE)) * scale)
        for c in range(3):
            a, b, d, e = mixing[c, 0], mixing[c, 1], mixing[c, 2], mean[c] + _HALF
            for i in range(size):
                x = (a * values[0, i] + b * values[1, i]) + (d * values[2, i] + e)
                out[c, row, i] = np.uint8(min(max(x, _ZERO), np.float32(255.0)))
