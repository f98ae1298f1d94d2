"""Statistical pictures: noise with the spectrum, the colours and the sub-band statistics of photographs.

Two layers: `sample_spectrum` draws the parameters of pictures (the only place with randomness), `render_spectrum`
turns parameters into pixels without randomness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from mixaug.mixing_sets import _spectrum_statistics as _statistics
from mixaug.mixing_sets._checks import check_int
from mixaug.mixing_sets._parallel import on_threads
from mixaug.mixing_sets._rejection import draw_accepted
from mixaug.mixing_sets._sources import Source, check_kinds
from mixaug.mixing_sets._stream import Stream, mix

TAG = 0x5BEC7
KINDS = ("spectrum", "spectrum-colours", "wavelet", "wavelet-colours")
_SHARES = dict(zip(KINDS, (0.3, 0.2, 0.25, 0.25), strict=True))
TABLE_SIZE = 512
RANGE = 3.25
TABLE_STEP = 4
REFERENCE = 64  # cycles up to which the variance of a field is 1
_MAX_ATTEMPTS = 64


@dataclass(frozen=True)
class SpectrumParams:
    """Everything that determines N statistical pictures.

    Args:
        kind: (N,) int64, index into ``KINDS``.
        key: (N,) int64, from which phases or wavelet coefficients are expanded by a hash.
        slopes: (N, 2) float64, the exponents a and b.
        axis: (N, 2) float64 unit, the direction of a.
        tail: (N,) float64, the spread of the logarithm of the coefficients' sizes (wavelet kinds).
        strain: (N,) float64, how much the wavelets favour the axis, 0 to 1.
        mean: (N, 3) float64, RGB in [0, 255].
        mixing: (N, 3, 3) float64, grey levels a standard deviation of each field adds to RGB.
        tables: (N, 3, 512) float64, what is made of each field between -3.25 and 3.25 standard deviations (kinds with
            ``colours``; the identity in the others).
        attempt: (N,) int64, how many draws were refused before this one.
    """

    kind: torch.Tensor
    key: torch.Tensor
    slopes: torch.Tensor
    axis: torch.Tensor
    tail: torch.Tensor
    strain: torch.Tensor
    mean: torch.Tensor
    mixing: torch.Tensor
    tables: torch.Tensor
    attempt: torch.Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice | torch.Tensor | list[int]) -> SpectrumParams:
        """The record of some pictures (a slice, a mask or a list of rows)."""
        return SpectrumParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


# --- the sampler -------------------------------------------------------------------------------------------------


def _normal(s: Stream) -> float:
    """Sum of four uniform numbers, scaled to variance 1: nearly normal, within 3.5, from exact arithmetic."""
    return 1.7320508075688772 * (sum(s.uniform(0.0, 1.0) for _ in range(4)) - 2.0)


def _draw_colours(s: Stream) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean RGB, mixing matrix and the logarithm that says how colourful it is."""
    vector = _statistics.COLOUR_MEAN + _statistics.COLOUR_FACTOR @ np.array([_normal(s) for _ in range(9)])
    low = np.diag(np.exp(vector[3:6]))
    low[1, 0], low[2, 0], low[2, 1] = vector[6] * low[0, 0], vector[7] * low[0, 0], vector[8] * low[1, 1]
    return vector[:3] @ _statistics.OPPONENT, _statistics.OPPONENT.T @ low, vector[4]


def _draw_table(s: Stream, most: int) -> np.ndarray:
    """A rising curve of a few soft steps, with mean 0 and variance 1 of a normal field: areas of few colours."""
    x = np.linspace(-RANGE, RANGE, TABLE_SIZE)
    table = s.uniform(0.05, 0.3) * x
    for _ in range(1 + s.integer(most)):
        middle, width = s.uniform(-1.7, 1.7), s.uniform(0.05, 0.3)
        part = np.clip((x - middle) / width, -0.5, 0.5) + 0.5
        table = table + s.uniform(0.3, 1.0) * part * part * (3.0 - 2.0 * part)
    weight = np.exp(-0.5 * x * x)
    weight = weight / weight.sum()
    table = table - weight @ table
    return table / np.sqrt(weight @ (table * table))


def _draw(seed: int, index: int, attempt: int, kinds: Sequence[str]) -> dict[str, np.ndarray | float | int]:
    """One unchecked draw."""
    s = Stream(seed, TAG, index, attempt)
    total = sum(_SHARES[kind] for kind in kinds)
    kind = kinds[s.pick([_SHARES[kind] / total for kind in kinds])]
    wavelet, shaped = kind.startswith("wavelet"), kind.endswith("colours")
    slope = s.uniform(0.9, 2.6) if not wavelet else s.uniform(0.9, 1.7)
    apart = 0.25 * _normal(s)
    axis = s.unit()
    mean, mixing, colourful = _draw_colours(s)
    return {
        "kind": KINDS.index(kind),
        "key": mix(seed, TAG, index, attempt, 1) - 2**63,
        "slopes": np.array([slope - apart, slope + apart]),
        "axis": np.array(axis),
        "tail": s.uniform(0.5, 1.1),
        "strain": s.uniform(0.0, 0.9),
        "mean": mean,
        "mixing": mixing,
        "tables": np.stack([_draw_table(s, most) for most in (6, 4, 4)])
        if shaped
        else np.tile(np.linspace(-RANGE, RANGE, TABLE_SIZE), (3, 1)),
        "colourful": colourful,
    }


def sample_spectrum(
    count: int,
    seed: int = 0,
    start: int = 0,
    *,
    kinds: str | Sequence[str] | None = None,
    threads: int | None = None,
) -> SpectrumParams:
    check_int("count", count, 1)
    check_int("seed", seed, 0)
    check_int("start", start, 0)
    if threads is not None:
        check_int("threads", threads, 1)
    chosen = check_kinds(kinds, KINDS)
    draws, attempts = draw_accepted(
        count,
        lambda row, attempt: _draw(seed, start + row, attempt, chosen),
        lambda fresh: [draw["colourful"] >= 2.8 for draw in fresh],
        _MAX_ATTEMPTS,
    )
    columns = {f.name: [d[f.name] for d in draws] for f in fields(SpectrumParams) if f.name != "attempt"}
    return SpectrumParams(
        **{name: torch.from_numpy(np.array(values)) for name, values in columns.items()},
        attempt=torch.tensor(attempts, dtype=torch.int64),
    )


# --- rendering ---------------------------------------------------------------------------------------------------


def _pixel(size: int) -> np.ndarray:
    """(size // 2 + 1,) complex64: the mean over a pixel of a wave of f cycles, seen from the pixel's corner."""
    f = np.arange(size // 2 + 1)
    return (np.sinc(f / size) * np.exp(1j * np.pi * f / size)).astype(np.complex64)


def _powers(exponent: float, size: int) -> np.ndarray:
    """f^exponent at multiples of 1/4 cycle, as far as a picture of ``size`` px goes."""
    reach = int(0.75 * max(size, 2 * REFERENCE)) + 2
    return (np.arange(TABLE_STEP * reach) / TABLE_STEP) ** exponent


def _gain(slopes: np.ndarray, axis: np.ndarray) -> float:
    """What makes the variance of the frequencies up to ``REFERENCE`` 1."""
    fx, fy = np.meshgrid(np.arange(REFERENCE + 1), np.arange(-REFERENCE, REFERENCE + 1))
    inside = (fx * fx + fy * fy <= REFERENCE**2) & ((fx > 0) | (fy > 0))
    fx, fy = fx[inside], fy[inside]
    u, v = np.abs(fx * axis[0] + fy * axis[1]), np.abs(fy * axis[0] - fx * axis[1])
    size = 1.0 / (u ** slopes[0] + v ** slopes[1])
    return float(1.0 / np.sqrt(2.0 * (size * size).sum()))


def _fields_spectrum(params: SpectrumParams, i: int, size: int) -> np.ndarray:
    from mixaug.mixing_sets import _spectrum_kernels as _kernels

    slopes, axis = params.slopes[i].numpy(), params.axis[i].numpy()
    out = np.empty((3, size, size // 2 + 1), np.complex64)
    first, second = (_powers(a, size).astype(np.float32) for a in slopes)
    _kernels.fill_spectrum(
        np.uint64(int(params.key[i]) + 2**63), axis.astype(np.float32), first, second,
        np.float32(_gain(slopes, axis)), _pixel(size), out,
    )  # fmt: skip
    return out


def _bands(slope: float, size: int) -> list[tuple[float, np.ndarray]]:
    octaves = [2**k for k in range(0, 16) if 2**k < size]
    reference = [2**k for k in range(0, 7)]
    total = sum(float(f) ** (2 - 2 * slope) for f in reference)
    radius = np.arange(TABLE_STEP * (int(0.75 * size) + 3)) / TABLE_STEP
    x = np.linspace(0.5, 2.0, 4001)
    energy = 2 * np.pi * float(np.sum(x * np.cos(0.5 * np.pi * np.log2(x)) ** 2) * (x[1] - x[0]))
    out = []
    for f in octaves:
        place = np.log2(np.maximum(radius, 1e-9) / f)
        response = np.where(np.abs(place) < 1, np.cos(0.5 * np.pi * np.clip(place, -1, 1)), 0.0)
        n = 2 * f
        sd = float(f) ** (1 - slope) / np.sqrt(total)
        # amplitude of a unit-variance site field: transform has |Z|^2 = n^2 a site
        scale = sd / (np.sqrt(energy) * f) / n
        out.append((f, (response * scale).astype(np.float32)))
    return out


def _fields_wavelet(params: SpectrumParams, i: int, size: int) -> np.ndarray:
    from mixaug.mixing_sets import _spectrum_kernels as _kernels

    slope = float(params.slopes[i].mean())
    axis = params.axis[i].numpy()
    double = np.array([axis[0] ** 2 - axis[1] ** 2, 2 * axis[0] * axis[1]], np.float32)
    key = np.uint64(int(params.key[i]) + 2**63)
    out = np.zeros((3, size, size // 2 + 1), np.complex64)
    pixel = _pixel(size)
    parent = np.zeros((1, 1), np.float32)
    tail, strain = np.float32(params.tail[i]), np.float32(params.strain[i])
    kept, fresh = np.float32(0.8), np.float32(0.6)
    for k, (f, response) in enumerate(_bands(slope, size)):
        n = 2 * f
        logs = np.empty((n, n), np.float32)
        sites = np.empty((4, n, n), np.complex64)
        _kernels.draw_sites(key, k, parent, kept, fresh, tail, double, strain, logs, sites)
        transformed = np.fft.fft2(sites).astype(np.complex64)
        _kernels.add_octave(transformed, response, (f + 1) // 2, 2 * f, pixel, out)
        parent = logs
    return out


def render_spectrum(params: SpectrumParams, size: int = 256, *, threads: int | None = None) -> torch.Tensor:
    if not isinstance(params, SpectrumParams):
        raise TypeError(f"params must be a SpectrumParams, got {type(params).__name__}")
    check_int("size", size, 8)
    if threads is not None:
        check_int("threads", threads, 1)
    from mixaug.mixing_sets import _spectrum_kernels as _kernels

    out = np.empty((len(params), 3, size, size), np.uint8)

    def picture(i: int) -> None:
        kind = KINDS[params.kind[i]]
        spectrum = (_fields_wavelet if kind.startswith("wavelet") else _fields_spectrum)(params, i, size)
        planes = np.fft.irfft2(spectrum, (size, size), norm="forward").astype(np.float32, copy=False)
        _kernels.colour(
            planes, kind.endswith("colours"), params.tables[i].numpy().astype(np.float32),
            params.mixing[i].numpy().astype(np.float32), params.mean[i].numpy().astype(np.float32), out[i],
        )  # fmt: skip

    on_threads(picture, range(len(params)), _kernels.colour, threads)
    return torch.from_numpy(out)


SOURCE = Source("spectrum", "spectrum", KINDS, 1, sample_spectrum, render_spectrum)
