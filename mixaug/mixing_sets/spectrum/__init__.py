"""The record of what determines a statistical picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from mixaug.mixing_sets.drawing import Stream, draw_accepted, mix
from mixaug.mixing_sets.sources import Source, check_draw, empty_pictures
from mixaug.mixing_sets.threads import on_threads

KINDS = ("spectrum", "spectrum-colours", "wavelet", "wavelet-colours")
STEPS = 6


@dataclass(frozen=True)
class SpectrumParams:
    """Everything that determines N statistical pictures: a record that can be saved, replayed and shown.

    Args:
        kind: (N,) int64, index into ``KINDS``: random phases or wavelets; with ``colours``, in areas of few colours.
        key: (N,) int64, what phases or wavelets are expanded from by a hash.
        slopes: (N, 2) float64, the exponents a and b of ``1 / (|fx|^a + |fy|^b)`` (spectrum), or twice the
            exponent a of 1 / f^a (wavelet).
        axis: (N, 2) float64 unit, the direction of fx in the picture, or the one that wavelets favour.
        tail: (N,) float64, spread of the logarithm of the wavelets' sizes: 0 gives Gaussian sub-bands.
        strain: (N,) float64, 0 to 1: how much the wavelets favour the axis.
        mean: (N, 3) float64, RGB in [0, 255].
        mixing: (N, 3, 3) float64, grey levels that a standard deviation of each field adds to R, G and B.
        ramp: (N, 3) float64, steps: (N, 3, 6, 3) float64: the curve through which each field is seen, in the kinds
            with ``colours``: slope, and middle, width and height of its soft steps.
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
    ramp: torch.Tensor
    steps: torch.Tensor
    attempt: torch.Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice | torch.Tensor | list[int]) -> SpectrumParams:
        """The record of some pictures (a slice, a mask or a list of rows)."""
        return SpectrumParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


#: Rows: luminance, red against blue, green against both; orthonormal.
OPPONENT = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]]) / np.sqrt([[3.0], [2.0], [6.0]])

# Of a picture's 9 numbers: means of the opponent channels (grey levels); logarithms of the diagonal of the Cholesky
# factor L of their covariance; L10 / L00, L20 / L00, L21 / L11. Mean and Cholesky factor over the pictures.
COLOUR_MEAN = np.array([208.5147, 8.1659, 2.7836, 4.4008, 2.4655, 1.5028, 0.0026, 0.0059, 0.0274])
_FACTOR = (
    (54.7872,),
    (-4.5691, 21.3922),
    (-0.9525, 1.4952, 9.3924),
    (0.0651, -0.0165, -0.0676, 0.3252),
    (-0.0415, -0.0117, -0.0647, 0.0472, 0.6243),
    (-0.1288, 0.1328, 0.1415, 0.0325, 0.2998, 0.4612),
    (-0.0318, 0.0252, 0.0112, -0.0034, -0.0087, -0.0026, 0.1021),
    (-0.0015, 0.0072, 0.0013, 0.0014, 0.0042, 0.0010, 0.0045, 0.0465),
    (0.0006, 0.0081, 0.1167, 0.0060, -0.0330, -0.0392, -0.0047, 0.0085, 0.3488),
)
COLOUR_FACTOR = np.array([[*row, *[0.0] * (9 - len(row))] for row in _FACTOR])

#: The exponent a of the amplitude spectrum 1/f^a of the luminance: mean and standard deviation over the squares.
SLOPE_MEAN, SLOPE_SPREAD = 1.3758, 0.2813

#: Generalised-Gaussian exponents of the luminance's oriented sub-bands around 8, 16 and 32 cycles (medians).
BAND_EXPONENTS = (1.0740, 0.7801, 0.6620)


_TAG = 0x5BEC7
_SHARES = dict(zip(KINDS, (0.25, 0.25, 0.25, 0.25), strict=True))
# The paper draws a and b from 0.5 to 3.5. Below 0.9 a picture is grain at every size, above 2 a smooth blot unless
# steps give it outlines; photographs have 1.4 with a spread of 0.3.
_SLOPES = {"spectrum": (0.9, 2.0), "spectrum-colours": (0.9, 2.3), "wavelet": (1.0, 1.7), "wavelet-colours": (1.0, 1.8)}
_TAILS = (1.1, 1.8)  # their middle gives the generalised-Gaussian exponents of the sub-bands of photographs
_VIVID = 0.3  # added to the logarithms of the spread of colours where wavelets leave it to few places
_KEPT, _FRESH = 0.8, 0.6  # weights of the octave before and of a new number in the logarithm of a wavelet's size
_BETWEEN = 0.75  # variance that a field of sites keeps when it is interpolated to the next octave, about
REFERENCE = 6  # octave up to which the variance of a field is 1: 64 cycles
_ENERGY = 2.0 * math.pi * (15.0 / 16.0 - 0.75 / math.pi**2)  # of a wavelet over the plane, in units of f^2
TABLE_SIZE = 512
# Three draws in ten are accepted: all of these fail once in 10^9 pictures (the last one is kept then).
_MAX_ATTEMPTS = 64

# --- the sampler -------------------------------------------------------------------------------------------------


def _normal(s: Stream) -> float:
    """Sum of four uniform numbers, scaled to variance 1: nearly normal, within 3.5, from exact arithmetic."""
    return 1.7320508075688772 * (
        s.uniform(-0.5, 0.5) + s.uniform(-0.5, 0.5) + s.uniform(-0.5, 0.5) + s.uniform(-0.5, 0.5)
    )


def _draw_colours(s: Stream) -> list[float]:
    """The 9 numbers of a picture's colours (see `COLOUR_MEAN` and `COLOUR_FACTOR`)."""
    normal = [_normal(s) for _ in range(9)]
    vector = []
    for mean, row in zip(COLOUR_MEAN, COLOUR_FACTOR, strict=True):
        for value, weight in zip(normal, row, strict=False):
            mean = mean + weight * value  # in a fixed order: `_colourful` compares the sum with limits
        vector.append(mean)
    return vector


def _colourful(draw: dict[str, Any]) -> bool:
    """Neither dark nor bright nor grey: what the measure of richness would refuse, told from the numbers alone.

    The comparisons read sums and products of the stream's numbers, which are the same on every machine.
    """
    luminance, contrast, first, second = (draw["colours"][k] for k in (0, 3, 4, 5))
    return 121.0 <= luminance <= 329.0 and contrast >= 4.0 and first + 0.3 * second >= 3.2


def _draw_curve(s: Stream, most: int, reach: float) -> tuple[float, list[list[float]]]:
    """Slope and soft steps of a rising curve, the first one near the middle of the field's values."""
    ramp = s.uniform(0.1, 0.35)
    count = 1 + s.integer(most)
    steps = []
    for k in range(STEPS):
        place = s.uniform(-0.5, 0.5) if k == 0 else s.uniform(-reach, reach)
        width, height = s.uniform(0.05, 0.3), s.uniform(0.3, 1.0)
        steps.append([place, width, height if k < count else 0.0])
    return ramp, steps


def _draw(seed: int, index: int, attempt: int, kinds: Sequence[str]) -> tuple[Stream, dict[str, Any]]:
    """One unchecked draw: the stream, and the columns of the record that it has been used for."""
    s = Stream(seed, _TAG, index, attempt)
    total = sum(_SHARES[kind] for kind in kinds)
    kind = kinds[s.pick([_SHARES[kind] / total for kind in kinds])]
    key = mix(seed, _TAG, index, attempt, 1) - 2**63
    return s, {"kind": KINDS.index(kind), "key": key, "colours": _draw_colours(s)}


def _draw_rest(s: Stream, draw: dict[str, Any]) -> dict[str, Any]:
    """All columns of the record, but the colours in their 9 numbers."""
    kind = KINDS[draw["kind"]]
    wavelet = kind.startswith("wavelet")
    slope = s.uniform(*_SLOPES[kind])
    apart = 0.0 if wavelet else 0.3 * _normal(s)
    curves = [_draw_curve(s, most, 1.0 if wavelet else 1.7) for most in (6, 4, 4)]
    return draw | {
        "slopes": (slope - apart, slope + apart),
        "axis": s.unit(),
        "tail": s.uniform(*_TAILS),
        "strain": s.uniform(0.0, 0.9),
        "ramp": [ramp for ramp, _ in curves],
        "steps": [steps for _, steps in curves],
    }


def sample_spectrum(
    count: int,
    seed: int = 0,
    start: int = 0,
    *,
    kinds: str | Sequence[str] | None = None,
    threads: int | None = None,
) -> SpectrumParams:
    """Draws the parameters of ``count`` statistical pictures.

    Mean and covariance of the colours are drawn from a normal distribution of 9 numbers that was measured on
    photographs (`benchmarks/measure_picture_statistics.py`); draws that are nearly grey, dark or bright are replaced.

    Convention: picture i of a seed depends on (kinds, seed, i) only, never on ``count`` or ``start``. No picture is
    looked at: what is refused follows from the numbers of the stream alone, which are the same on every machine.

    Args:
        count: how many pictures, at least 1.
        seed: 0 to 2^63 - 1. Default 0.
        start: index of the first picture, at least 0. Default 0.
        kinds: which of ``KINDS`` to draw from; None: all of them.
        threads: nothing to do here; for the same call as the other sources.

    Returns:
        A `SpectrumParams` of ``count`` rows.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range, or a kind unknown.

    Example:
        >>> len(sample_spectrum(2, seed=7))
        2
    """
    count, seed, start, chosen, threads = check_draw(count, seed, start, kinds, KINDS, threads)
    accepted, attempts = draw_accepted(
        count,
        lambda row, attempt: _draw(seed, start + row, attempt, chosen),
        lambda fresh: [_colourful(draw) for _, draw in fresh],
        _MAX_ATTEMPTS,
    )
    draws = [_draw_rest(s, draw) for s, draw in accepted]
    columns = {name: torch.from_numpy(np.array([draw[name] for draw in draws])) for name in draws[0]}
    colours = columns.pop("colours")
    colours[:, 4:6] += _VIVID * (columns["kind"] >= KINDS.index("wavelet")).to(torch.float64)[:, None]
    axes = torch.from_numpy(OPPONENT)
    low = torch.diag_embed(colours[:, 3:6].exp())  # the Cholesky factor; smooth, so no bit of it matters
    low[:, 1, 0], low[:, 2, 0] = colours[:, 6] * low[:, 0, 0], colours[:, 7] * low[:, 0, 0]
    low[:, 2, 1] = colours[:, 8] * low[:, 1, 1]
    return SpectrumParams(**columns, mean=colours[:, :3] @ axes, mixing=axes.T @ low, attempt=torch.tensor(attempts))


# --- rendering ---------------------------------------------------------------------------------------------------
# The Fourier transforms are NumPy's, which release the GIL and are of single precision since NumPy 2.0: a field is
# within 1e-6 of the exact one, 1e-4 grey levels. All are inverse: forward ones take NumPy 2.4 eight times as long.


def _pixel(size: int) -> np.ndarray:
    """(2, size // 2 + 1) float32: the mean over the pixel in the corner of waves of 0, 1, 2, ... cycles a picture."""
    f = np.arange(size // 2 + 1) / size
    area = size * np.sinc(f)  # times the side, twice: NumPy's inverse transforms divide by the number of pixels
    return np.stack([area * np.cos(np.pi * f), area * np.sin(np.pi * f)]).astype(np.float32)


def _phases(key: np.uint64, slopes: np.ndarray, axis: np.ndarray, pixel: np.ndarray, out: np.ndarray) -> None:
    """Transforms of fields of random phases."""
    from mixaug.mixing_sets.spectrum import kernels as _kernels

    reach = max(out.shape[1] // 2, 2**REFERENCE)
    cycles = np.arange(int(_kernels.TABLE_STEP * 1.5 * reach)) / _kernels.TABLE_STEP
    first, second = ((cycles**slope).astype(np.float32) for slope in slopes)
    gain = 1.0 / math.sqrt(_kernels.spectrum_power(axis, first, second, 2**REFERENCE))
    _kernels.fill_spectrum(key, axis, first, second, np.float32(gain), pixel, out)


def _wavelets(
    key: np.uint64, slope: float, tail: float, strain: float, axis: np.ndarray, pixel: np.ndarray, out: np.ndarray
) -> None:
    """Transforms of fields of heavy-tailed wavelets: a variance of f^(2 - 2 slope) in the octave around f cycles.

    The logarithm of a wavelet's size is made of that of the octave before and a new number, so strong wavelets lie
    together, as along the outlines of things (M. Wainwright and E. Simoncelli, Scale mixtures of Gaussians and the
    statistics of natural images, 2000), and the tails grow from octave to octave, as they do in photographs.
    """
    from mixaug.mixing_sets.spectrum import kernels as _kernels

    out[:] = 0
    total = sum(2.0 ** (octave * (2.0 - 2.0 * slope)) for octave in range(REFERENCE + 1))
    double = np.array([axis[0] * axis[0] - axis[1] * axis[1], 2.0 * axis[0] * axis[1]], np.float32)
    logs, variance = np.zeros((1, 1), np.float32), 0.0
    for octave in range((out.shape[1] - 1).bit_length()):
        f = 2.0**octave
        n = 2 * 2**octave
        variance = _KEPT**2 * _BETWEEN * variance + _FRESH**2 * tail**2
        weights = np.array([_KEPT, _FRESH * tail, -0.75 * variance, strain], np.float32)
        parent, logs = logs, np.empty((n, n), np.float32)
        sites = np.empty((4, n, n, 2), np.float32)
        _kernels.draw_sites(key, octave, parent, weights, double, logs, sites)
        moved = np.fft.ifft2(sites.view(np.complex64)[..., 0]).astype(np.complex64, copy=False)
        deviation = f ** (1.0 - slope) / math.sqrt(total)
        gain = np.float32(deviation * n / (math.sqrt(_ENERGY) * f))
        _kernels.add_octave(moved.view(np.float32).reshape(4, n, n, 2), octave, gain, pixel, out)


def _curves(ramp: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(3, 512) float32: integrals of the curves, each with mean 0 and variance 1 of a normal field."""
    from mixaug.mixing_sets.spectrum import kernels as _kernels

    x = np.linspace(-_kernels.RANGE, _kernels.RANGE, TABLE_SIZE)
    place = np.clip((x - steps[..., :1]) / steps[..., 1:2] + 0.5, 0.0, 1.0)
    curve = ramp[:, None] * x + (steps[..., 2:] * place * place * (3.0 - 2.0 * place)).sum(1)
    weight = np.exp(-0.5 * x * x)
    weight /= weight.sum()
    curve -= (curve * weight).sum(1, keepdims=True)
    curve /= np.sqrt((curve * curve * weight).sum(1, keepdims=True))
    integral = np.zeros_like(curve)
    integral[:, 1:] = np.cumsum(0.5 * (curve[:, 1:] + curve[:, :-1]), 1)
    return integral.astype(np.float32)


def _fields(params: SpectrumParams, i: int, pixel: np.ndarray, size: int) -> np.ndarray:
    """(3, size, size) float32 fields of variance about 1."""
    spectrum = np.empty((3, size, size // 2 + 1, 2), np.float32)
    key, axis = np.uint64(int(params.key[i]) + 2**63), params.axis[i].numpy().astype(np.float32)
    slopes = params.slopes[i].numpy()
    if KINDS[params.kind[i]].startswith("wavelet"):
        tail, strain = float(params.tail[i]), float(params.strain[i])
        _wavelets(key, float(slopes.mean()), tail, strain, axis, pixel, spectrum)
    else:
        _phases(key, slopes, axis, pixel, spectrum)
    planes = np.fft.irfft2(spectrum.view(np.complex64)[..., 0], (size, size))
    return planes.astype(np.float32, copy=False)


def render_spectrum(params: SpectrumParams, size: int = 256, *, threads: int | None = None) -> torch.Tensor:
    """Renders statistical pictures from their parameters; no randomness.

    ``spectrum``: three fields of random phases under ``1 / (|fx|^a + |fy|^b)``. ``wavelet``: three fields
    of heavy-tailed oriented wavelets in octaves (the paper's wavelet marginal model, made in one pass instead of by
    iteration). The fields are mixed to RGB with the colour covariance and mean of the record. With ``colours`` each
    field is first seen through a curve of a few steps, which gives areas of few colours (the paper's colour model).

    Convention: frequencies are in cycles a picture and each has its own random numbers, so that a larger picture is
    the same one with finer detail; a pixel is the mean over its area. Pictures are periodic. Contrast comes from the
    record, never from the range of the values. Pixels of two machines may differ by one level where a value is
    within 1e-3 of a tie.

    Args:
        params: N pictures, from `sample_spectrum`.
        size: side in pixels, at least 8. Default 256.
        threads: default torch's number of threads (1 in loader workers).

    Returns:
        uint8 tensor (N, 3, size, size), RGB.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range.

    Note:
        The paper iterates between histogram matching of the sub-bands and of the colours, and stretches each picture
        to the full range; here wavelets with heavy-tailed sizes are added up and contrast is drawn.

    Example:
        >>> render_spectrum(sample_spectrum(1), size=32).shape
        torch.Size([1, 3, 32, 32])
    """
    out, threads = empty_pictures(params, SpectrumParams, size, threads)
    size = out.shape[-1]
    from mixaug.mixing_sets.spectrum import kernels as _kernels

    pixel = _pixel(size)
    mixing, mean = params.mixing.numpy().astype(np.float32), params.mean.numpy().astype(np.float32)

    def picture(i: int) -> None:
        shaped = KINDS[params.kind[i]].endswith("colours")
        tables = _curves(params.ramp[i].numpy(), params.steps[i].numpy()) if shaped else np.zeros((3, 2), np.float32)
        _kernels.colour(_fields(params, i, pixel, size), shaped, tables, mixing[i], mean[i], out[i])

    on_threads(picture, range(len(params)), _kernels.colour, threads)
    return torch.from_numpy(out)


SOURCE = Source("spectrum", "spectrum pictures", KINDS, 1, sample_spectrum, render_spectrum)
