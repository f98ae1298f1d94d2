"""A measure of how much there is to see in a picture, used to refuse dull fractals.

A mixing picture earns its place by the structure that it lends: edges, shades and colours at several scales. Six plain
numbers of the 64 px area average say whether it has them. The thresholds were set on contact sheets of some hundred
draws: what the eye calls flat, dark, blown out, monochrome or noise lies outside, and about two draws in five do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

PREVIEW_SIZE = 64

MIN_ENTROPY = 3.1  # bits of 5
MIN_EDGES = 0.08
MAX_GRAIN = 0.7
MIN_COLOURS = 18.0  # grey levels
MAX_FLAT = 0.30
MIN_BRIGHTNESS, MAX_BRIGHTNESS = 50.0, 210.0

_BINS = 32
_EDGE = 12  # grey levels between neighbours that make an edge at 64 px


@dataclass(frozen=True)
class Richness:
    """The six numbers of N pictures, each a float64 tensor (N,), and the verdict.

    Args:
        entropy: entropy in bits of the luma histogram in 32 bins; 0 to 5. Accepted from 3.1.
        edges: share of pixels whose luma differs by more than 12 levels from the right or lower neighbour; 0 to 1.
            Accepted from 0.08.
        grain: mean luma difference of neighbours over the standard deviation of the luma; about 1.1 for white noise,
            0 for a gradient. Accepted up to 0.7.
        colours: root of var(R - G) + var((R + G) / 2 - B), the spread of the opponent colours (D. Hasler and
            S. Suesstrunk, Measuring colourfulness in natural images, 2003) in grey levels. Accepted from 18.
        flat: share of the commonest colour, colours counted in cubes of 16 levels: the largest flat area.
            Accepted up to 0.30.
        brightness: mean luma in grey levels. Accepted from 50 to 210.
    """

    entropy: torch.Tensor
    edges: torch.Tensor
    grain: torch.Tensor
    colours: torch.Tensor
    flat: torch.Tensor
    brightness: torch.Tensor

    @property
    def accepted(self) -> torch.Tensor:
        """(N,) bool: every number is inside its limits."""
        return self.within(0.0)

    def within(self, margin: float) -> torch.Tensor:
        """(N,) bool: every number is inside its limits by ``margin``, a share of the limit."""
        more, less = 1.0 + margin, 1.0 - margin
        return (
            (self.entropy >= MIN_ENTROPY * more)
            & (self.edges >= MIN_EDGES * more)
            & (self.grain <= MAX_GRAIN * less)
            & (self.colours >= MIN_COLOURS * more)
            & (self.flat <= MAX_FLAT * less)
            & (self.brightness >= MIN_BRIGHTNESS * more)
            & (self.brightness <= MAX_BRIGHTNESS * less)
        )


def richness(pictures: torch.Tensor) -> Richness:
    """Measures pictures, each reduced to 64 px by area averaging first.

    Convention: luma is (77 R + 150 G + 29 B) / 256. Pictures smaller than 64 px are measured as they are.

    Args:
        pictures: uint8 (N, 3, H, W) or one (3, H, W), RGB in [0, 255].

    Returns:
        A `Richness` of N rows (one row for a single picture).

    Raises:
        TypeError: not a uint8 tensor.
        ValueError: another shape, or a side below 2.

    Note:
        Everything is counted per picture; nothing depends on the others of the batch.

    Example:
        >>> bool(richness(torch.zeros(3, 64, 64, dtype=torch.uint8)).accepted)
        False
    """
    sixteenths = _reduced(pictures, 2)
    return Richness(*(torch.from_numpy(np.asarray(v, np.float64)) for v in _measure(sixteenths)))


def spectral_slope(pictures: torch.Tensor) -> torch.Tensor:
    """Slope of the power spectrum of the luma on logarithmic axes: -2 to -3 for most photographs, 0 for white noise.

    ``log P(f) = slope * log f + b``, where P is the mean of ``|FFT(w * (luma - mean))|^2`` over the ring of frequencies
    that round to f, in cycles per picture, and w a Hann window, without which the borders, which do not join, would add
    a slope of -2 of their own (D. J. Field, Relations between the statistics of natural images and the response
    properties of cortical cells, 1987: amplitudes of natural scenes fall as 1/f, so their power as 1/f^2).

    Convention: pictures are reduced to 64 px by area averaging first, as in `richness`. The line is fitted to the rings
    from 3 cycles, below which the window leaks, to a quarter of the shorter side (16 cycles at 64 px), above which area
    averaging takes away more than a fifth of the power. All rings have the same weight.

    Args:
        pictures: uint8 (N, 3, H, W) or one (3, H, W), RGB in [0, 255], sides of 20 or more.

    Returns:
        float64 (N,). A flat picture has no slope: nan.

    Raises:
        TypeError: not a uint8 tensor.
        ValueError: another shape, or a side below 20.

    Example:
        >>> noise = torch.randint(0, 256, (32, 3, 64, 64), dtype=torch.uint8)
        >>> bool(spectral_slope(noise).mean().abs() < 0.3)
        True
    """
    x = _reduced(pictures, 20)
    luma = (77 * x[:, 0] + 150 * x[:, 1] + 29 * x[:, 2]) / 4096  # grey levels
    height, width = luma.shape[1:]
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    centred = luma - ((luma * window).sum((1, 2), keepdims=True) / window.sum())
    power = np.abs(np.fft.fft2(window * centred)) ** 2
    side = min(height, width)
    cycles = side * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    rings = np.rint(cycles).astype(np.int64).ravel()
    frequencies = np.arange(3, side // 4 + 1)
    sums = np.stack([np.bincount(rings, one.ravel())[frequencies] for one in power])
    levels = np.log(np.maximum(sums / np.bincount(rings)[frequencies], 1e-300))
    axis = np.log(frequencies) - np.log(frequencies).mean()
    slopes = (levels * axis).sum(1) / (axis**2).sum()
    flat = (luma == luma[:, :1, :1]).all((1, 2))
    return torch.from_numpy(np.where(flat, np.nan, slopes))


def _reduced(pictures: torch.Tensor, least: int) -> np.ndarray:
    """Checked pictures, at most 64 px, in whole 16ths of a level: int64 (N, 3, H, W).

    Raises:
        TypeError: not a uint8 tensor.
        ValueError: another shape, or a side below ``least``.
    """
    if not isinstance(pictures, torch.Tensor) or pictures.dtype != torch.uint8:
        kind = pictures.dtype if isinstance(pictures, torch.Tensor) else type(pictures).__name__
        raise TypeError(f"pictures must be a uint8 tensor, got {kind}")
    if pictures.ndim == 3:
        pictures = pictures[None]
    if pictures.ndim != 4 or pictures.shape[1] != 3 or min(pictures.shape[2:]) < least:
        raise ValueError(
            f"pictures must have shape (N, 3, H, W) with sides of {least} or more, got {tuple(pictures.shape)}"
        )
    if max(pictures.shape[2:]) > PREVIEW_SIZE:
        reduced = torch.nn.functional.adaptive_avg_pool2d(pictures.to(torch.float64), PREVIEW_SIZE)
        sixteenths: np.ndarray = (16.0 * reduced).round().numpy(force=True).astype(np.int64)
        return sixteenths
    return pictures.numpy(force=True).astype(np.int64) << 4


def _measure(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """The numbers of `Richness` from whole 16ths of a level, int64 (N, 3, H, W).

    Sums of whole numbers do not depend on the order in which a machine adds, so that the verdict on a draw is the same
    everywhere. NumPy, because it is called between renderings on all cores, where a team of OpenMP threads only waits.
    """
    area = x.shape[2] * x.shape[3]
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    luma = (77 * red + 150 * green + 29 * blue) >> 4  # 256ths of a level

    shares = _histogram(luma * _BINS >> 16, _BINS) / area
    entropy = -(shares * np.log2(np.where(shares > 0, shares, 1.0))).sum(1)
    right = np.abs(luma[:, :-1, 1:] - luma[:, :-1, :-1])
    below = np.abs(luma[:, 1:, :-1] - luma[:, :-1, :-1])
    inner = (x.shape[2] - 1) * (x.shape[3] - 1)
    edges = (np.maximum(right, below) > _EDGE * 256).sum((1, 2)) / inner
    spread = np.sqrt(_variance(luma))
    grain = (right + below).sum((1, 2)) / (2 * inner) / np.maximum(spread, 1e-9)
    colours = np.sqrt(_variance(red - green) / 256 + _variance(red + green - 2 * blue) / 1024)
    cubes = x >> 8
    flat = _histogram((cubes[:, 0] * 16 + cubes[:, 1]) * 16 + cubes[:, 2], 4096).max(1, initial=0) / area
    return entropy, edges, grain, colours, flat, luma.sum((1, 2)) / area / 256


def _variance(values: np.ndarray) -> np.ndarray:
    """Variance of whole numbers (N, H, W) below 2^17, exact until the last division."""
    count = values.shape[1] * values.shape[2]
    total = values.sum((1, 2))
    return (count * (values * values).sum((1, 2)) - total * total) / count**2


def _histogram(values: np.ndarray, bins: int) -> np.ndarray:
    """Counts of whole numbers in [0, bins), picture by picture: (N, bins)."""
    n = len(values)
    keys = values.reshape(n, -1) + bins * np.arange(n)[:, None]
    return np.bincount(keys.reshape(-1), minlength=n * bins).reshape(n, bins)
