"""The mathematics of the statistical pictures as plain vectorised NumPy: oracle of the kernels and their peer in speed.

Written the way one writes this in NumPy: whole planes of double precision, the library's sines and transforms.
"""

from __future__ import annotations

import numpy as np

from mixaug.mixing_sets.spectrum import KINDS, SpectrumParams

RANGE, TABLE = 3.25, 512
REFERENCE = 6  # octave up to which variances add up to 1


def hash64(a, b):
    with np.errstate(over="ignore"):
        x = np.uint64(a) + np.asarray(b).astype(np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash32(x):
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0xD35A2D97)
    return x ^ (x >> np.uint32(15))


def words(key, rows, columns):
    """One 32-bit word for each row and column."""
    keys = hash64(key, rows)
    low, high = keys.astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32)
    return hash32(columns.astype(np.uint32) ^ low[:, None]) + high[:, None]


def angle(word):
    return 2.0 * np.pi * (word.astype(np.float64) / 2**32 - 0.125)


def normal(word):
    total = sum(((word >> np.uint32(8 * k)) & np.uint32(255)).astype(np.float64) for k in range(4))
    return (total - 510.0) * np.sqrt(12.0 / (4.0 * 65535.0))


def plane(size):
    """Signed frequencies (fx, fy) of the half plane, the pixel's response, and where a frequency has a partner."""
    fy = np.rint(np.fft.fftfreq(size, 1.0 / size)).astype(np.int64)
    fx = np.arange(size // 2 + 1)
    pixel_x, pixel_y = (np.sinc(f / size) * np.exp(1j * np.pi * f / size) for f in (fx, fy))
    kept = (np.abs(fy)[:, None] <= (size - 1) // 2) & (fx <= (size - 1) // 2)
    return fx, fy, pixel_y[:, None] * pixel_x, kept


def power(exponents, axis, fx, fy):
    """|u|^a + |v|^b, both read between quarters of a cycle."""
    cycles = np.arange(int(4 * 1.5 * max(fx.max(), 2**REFERENCE)) + 8) / 4.0
    u, v = np.abs(fx * axis[0] + fy * axis[1]), np.abs(fy * axis[0] - fx * axis[1])
    first, second = (np.interp(f, cycles, cycles**a) for f, a in zip((u, v), exponents, strict=True))
    return np.maximum(first + second, 1e-6)


def phases(p, size):
    fx, fy, pixel, kept = plane(size)
    side = np.arange(-(2**REFERENCE), 2**REFERENCE + 1)
    near_x, near_y = np.meshgrid(side, side)
    inside = (near_x**2 + near_y**2 <= 4**REFERENCE) & ((near_x != 0) | (near_y != 0))
    total = (1.0 / power(p["slopes"], p["axis"], near_x[inside], near_y[inside]) ** 2).sum()
    size_of = kept * pixel / (power(p["slopes"], p["axis"], fx[None], fy[:, None]) * np.sqrt(total))
    word = words(p["key"], fy, fx)
    fields = []
    for k in range(3):
        transform = size_of * np.exp(1j * angle(hash32(word + np.uint32(0x9E3779B9 * (k + 1) & 0xFFFFFFFF))))
        transform[0, 0] = 0.0
        most = (size - 1) // 2
        transform[-most:, 0] = np.conj(transform[most:0:-1, 0])
        fields.append(np.fft.irfft2(transform, (size, size)) * size**2)
    return np.stack(fields)


def between_sites(parent):
    """Twice as many sites, the new ones in the middle of the old."""
    both = np.empty((2 * len(parent), len(parent)))
    both[::2], both[1::2] = parent, 0.5 * (parent + np.roll(parent, -1, 0))
    out = np.empty((len(both), len(both)))
    out[:, ::2], out[:, 1::2] = both, 0.5 * (both + np.roll(both, -1, 1))
    return out


def wavelets(p, size):
    fx, fy, pixel, kept = plane(size)
    radius = np.hypot(fx[None], fy[:, None])
    one = np.where(radius > 0, (fx[None] - 1j * fy[:, None]) / np.maximum(radius, 1e-9), 0.0)
    slope, tail = p["slopes"].mean(), p["tail"]
    axis = complex(*p["axis"]) ** 2
    total = sum(2.0 ** (octave * (2.0 - 2.0 * slope)) for octave in range(REFERENCE + 1))
    energy = 2.0 * np.pi * (15.0 / 16.0 - 0.75 / np.pi**2)
    transforms = np.zeros((3, size, size // 2 + 1), complex)
    logs, variance = np.zeros((1, 1)), 0.0
    for octave in range((size - 1).bit_length()):
        f = 2.0**octave
        n = 2 * 2**octave
        sites = np.arange(n)
        word = words(hash64(p["key"], 0x5B1CE5 + octave), sites, sites)
        variance = 0.8**2 * 0.75 * variance + 0.6**2 * tail**2
        logs = 0.8 * between_sites(logs) + 0.6 * tail * normal(hash32(word))
        turn = np.exp(1j * angle(hash32(word + np.uint32(0x9E3779B9))))
        sizes = np.maximum(1.0 + (logs - 0.75 * variance) / 16.0, 0.0) ** 16
        sizes = sizes * (1.0 + p["strain"] * (turn**2 * np.conj(axis)).real)
        place = radius / f
        place = np.clip(np.where(place < 1.0, 2.0 * place - 1.0, 2.0 - place), 0.0, 1.0)
        response = 1j * np.sin(0.5 * np.pi * place) * f ** (1.0 - slope) * n / (np.sqrt(total * energy) * f)
        steps = (0x3C6EF372, 0x78DDE6E4, 0xDAA66D2B)
        for k, step in enumerate(steps):
            amount = sizes * normal(hash32(word + np.uint32(step)))
            sums = 0.0
            for harmonic, share in ((1, 0.75), (3, 0.25)) if k == 0 else ((1, 1.0),):
                spectrum = np.fft.ifft2(amount * turn**harmonic)
                there = spectrum[fy[:, None] % n, fx[None] % n]
                opposite = spectrum[-fy[:, None] % n, -fx[None] % n]
                sums = sums + share * (one**harmonic * there + np.conj(one**harmonic * opposite))
            sums = sums / np.sqrt(1.25 if k == 0 else 2.0)
            transforms[k] += np.where(kept, pixel * response * sums, 0.0)
    return np.fft.irfft2(transforms, (size, size)) * size**2


def seen_through(field, ramp, steps):
    """The mean of a curve of soft steps over the values that each pixel of a periodic field covers."""
    x = np.linspace(-RANGE, RANGE, TABLE)
    curve = ramp * x
    for middle, width, height in steps:
        t = np.clip((x - middle) / width + 0.5, 0.0, 1.0)
        curve = curve + height * t * t * (3.0 - 2.0 * t)
    weight = np.exp(-0.5 * x * x)
    weight = weight / weight.sum()
    curve = curve - (curve * weight).sum()
    curve = curve / np.sqrt((curve**2 * weight).sum())
    integral = np.concatenate([[0.0], np.cumsum(0.5 * (curve[1:] + curve[:-1]))])
    change = sum(np.abs(np.roll(field, -1, k) - np.roll(field, 1, k)) for k in (0, 1))
    scale = (TABLE - 1) / (2.0 * RANGE)
    reach = np.maximum(0.25 * change, 0.02) * scale
    place = (field + RANGE) * scale
    top = TABLE - 1.01
    low, high = np.clip(place - reach, 0.0, top - 1.0), np.clip(place + reach, 1.0, top)
    places = np.arange(TABLE)
    return (np.interp(high, places, integral) - np.interp(low, places, integral)) / (high - low)


def record(params: SpectrumParams, i: int) -> dict:
    p = {name: getattr(params, name)[i].numpy() for name in ("slopes", "axis", "mean", "mixing", "ramp", "steps")}
    p |= {"tail": params.tail[i].item(), "strain": params.strain[i].item()}
    return p | {"kind": KINDS[params.kind[i]], "key": params.key[i].item() + 2**63}


def render(params: SpectrumParams, i: int, size: int) -> np.ndarray:
    """Picture ``i`` as uint8 (3, size, size)."""
    p = record(params, i)
    fields = wavelets(p, size) if p["kind"].startswith("wavelet") else phases(p, size)
    if p["kind"].endswith("colours"):
        fields = np.stack([seen_through(*each) for each in zip(fields, p["ramp"], p["steps"], strict=True)])
    picture = np.tensordot(p["mixing"], fields, 1) + p["mean"][:, None, None]
    return np.clip(picture + 0.5, 0.0, 255.0).astype(np.uint8)
