"""Escape-time orbit-trap fractals in colour: the default mixing set of IPMix.

Two layers: `sample_fractals` draws the parameters of pictures (the only place with randomness), `render_fractals`
turns parameters into pixels without randomness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mixaug.mixing_sets._checks import check_int
from mixaug.mixing_sets._palettes import draw_palette
from mixaug.mixing_sets._parallel import on_threads
from mixaug.mixing_sets._params import FAMILIES, N_FLOATS, TRAPS, FractalParams, unpack
from mixaug.mixing_sets._rejection import draw_accepted
from mixaug.mixing_sets._richness import PREVIEW_SIZE, richness
from mixaug.mixing_sets._sources import Source, check_kinds
from mixaug.mixing_sets._stream import Stream

ITERATIONS = 200
SAMPLES = 2
# About three draws in five are accepted: all of these fail once in 10^25 pictures (the last one is kept then).
_MAX_ATTEMPTS = 64
# Shares chosen by eye on contact sheets; the classic sets make up the larger half.
_SHARES = {
    "julia": 0.24, "julia-powers": 0.20, "mandelbrot": 0.18, "mandelbrot-powers": 0.12, "burning-ship": 0.10,
    "phoenix": 0.07, "pole": 0.09,
}  # fmt: skip
KINDS = tuple(_SHARES)
# A preview stands for the picture reduced to 64 px, so it has nearly as many points; the margin covers the rest.
_PREVIEW_SAMPLES = 3
_MARGIN = 0.12
_BAND = 64  # rows a thread renders at a time: small enough to balance, large enough to hide Python

# --- the sampler -------------------------------------------------------------------------------------------------


def _draw_map(s: Stream, kinds: Sequence[str]) -> dict[str, int]:
    """Which map is iterated."""
    ints = {"family": 0, "degree": 2, "pole": 1, "parameter_plane": 0, "fold": 0, "conj": 0}
    total = sum(_SHARES[kind] for kind in kinds)
    kind = kinds[s.pick([_SHARES[kind] / total for kind in kinds])]
    if kind == "julia-powers":
        ints["degree"] = 3 + s.integer(3)
    elif kind in ("mandelbrot", "mandelbrot-powers"):
        ints["parameter_plane"] = 1
        ints["degree"] = 2 if kind == "mandelbrot" else 3 + s.integer(2)
    elif kind == "burning-ship":  # and Tricorn
        ints["fold" if s.chance(0.5) else "conj"] = 1
        ints["parameter_plane"] = int(s.chance(0.6))
    elif kind == "phoenix":
        ints["family"] = 1
    elif kind == "pole":
        ints["family"], ints["degree"], ints["pole"] = 2, 2 + s.integer(3), 1 + s.integer(3)
    return ints


def _draw_view(s: Stream, ints: np.ndarray, floats: np.ndarray) -> None:
    """Constant, centre and width: near the boundary, where the structure is. Writes into ``floats``."""
    from mixaug.mixing_sets import _fractal_kernels as _kernels

    family, degree = FAMILIES[ints[0]], int(ints[1])
    if family == "phoenix":
        floats[5:9] = s.uniform(0.2, 0.62), s.uniform(-0.08, 0.08), s.uniform(-0.75, 0.2), s.uniform(-0.1, 0.1)
    elif family == "pole":
        ux, uy = s.unit()
        size = s.octaves(0.35, 5)
        floats[5:7] = size * ux, size * uy
    elif ints[3] == 0:  # c of a Julia set, on the boundary of its Mandelbrot set
        plane = ints.copy()
        plane[3] = 1
        floats[5:7] = _kernels.find_boundary(plane, floats, s.disc(24, 1.4), 12 + s.integer(150), ITERATIONS)
    reach = 1.9 if ints[3] == 1 and degree == 2 else 1.4
    wanted = 6 + s.integer(40)
    if ints[3] == 1:
        floats[4] = s.octaves(1.2, 9)
        wanted = 12 + s.integer(90)
    elif s.chance(0.35):  # the whole Julia set
        floats[4] = s.uniform(1.8, 3.4)
        floats[0:2] = s.uniform(-0.3, 0.3), s.uniform(-0.3, 0.3)
        return
    else:
        floats[4] = s.octaves(2.0, 5)
    floats[0:2] = _kernels.find_boundary(ints, floats, s.disc(24, reach), wanted, ITERATIONS)


def _draw_trap(s: Stream, floats: np.ndarray) -> None:
    floats[9:11] = s.uniform(-0.9, 0.9), s.uniform(-0.9, 0.9)
    if s.chance(0.25):
        floats[9:11] = 0.0
    floats[11:13] = s.unit()
    floats[13] = s.uniform(0.15, 1.1)


def _draw_colouring(s: Stream, floats: np.ndarray) -> None:
    floats[14:16] = s.unit()
    floats[16] = float(s.chance(0.4))
    sign = 1.0 if s.chance(0.5) else -1.0
    floats[17] = s.uniform(0.0, 1.0)
    floats[18] = sign * s.uniform(0.12, 0.5)
    floats[19] = s.uniform(-0.16, 0.16)
    floats[20] = s.uniform(-0.45, 0.45)
    floats[21] = s.uniform(-0.06, 0.06) if s.chance(0.5) else 0.0
    floats[22] = s.uniform(0.0, 1.0)
    floats[23] = s.uniform(0.05, 0.3)
    floats[24] = s.uniform(-0.3, 0.3)
    floats[25] = s.uniform(-0.15, 0.15) if s.chance(0.6) else 0.0
    floats[26] = s.octaves(0.5, 5)
    floats[27] = s.uniform(0.0, 0.7) if s.chance(0.6) else 0.0
    floats[28] = s.uniform(0.0, 0.7)


def _draw(seed: int, index: int, attempt: int, kinds: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One unchecked draw in the kernels' layout."""
    s = Stream(seed, index, attempt)
    chosen = _draw_map(s, kinds)
    ints = np.array([*chosen.values(), s.integer(len(TRAPS))], np.int64)
    floats = np.zeros(N_FLOATS)
    floats[2:4] = s.unit()
    _draw_view(s, ints, floats)
    _draw_trap(s, floats)
    _draw_colouring(s, floats)
    return ints, floats, np.stack([draw_palette(s), draw_palette(s)])


def sample_fractals(
    count: int,
    seed: int = 0,
    start: int = 0,
    *,
    kinds: str | Sequence[str] | None = None,
    threads: int | None = None,
) -> FractalParams:
    """Draws the parameters of ``count`` fractals, each of which passes the richness measure.

    Convention: picture i of a seed depends on (kinds, seed, i) only, never on ``count``, ``start``, size or threads. A
    draw whose 64 px preview is dull (see `richness`) is replaced by the next draw of the same picture.

    Args:
        count: how many pictures, at least 1.
        seed: 0 to 2^63 - 1. Default 0.
        start: index of the first picture, at least 0. Default 0.
        kinds: which of ``KINDS`` to draw from; None: all of them.
        threads: threads for the previews. Default: torch's number of threads (1 in loader workers).

    Returns:
        A `FractalParams` of ``count`` rows.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range, or a kind unknown.

    Example:
        >>> params = sample_fractals(2, seed=7)
        >>> len(params)
        2
    """
    check_int("count", count, 1)
    check_int("seed", seed, 0)
    check_int("start", start, 0)
    chosen = check_kinds(kinds, KINDS)

    def accepted(draws: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[bool]:
        previews = np.empty((len(draws), 3, PREVIEW_SIZE, PREVIEW_SIZE), np.uint8)
        ints, floats, palettes = (np.stack(parts) for parts in zip(*draws, strict=True))
        _render(ints, floats, palettes, previews, ITERATIONS, _PREVIEW_SAMPLES, threads)
        verdicts: list[bool] = richness(torch.from_numpy(previews)).within(_MARGIN).tolist()
        return verdicts

    draws, attempts = draw_accepted(
        count, lambda row, attempt: _draw(seed, start + row, attempt, chosen), accepted, _MAX_ATTEMPTS
    )
    ints, floats, palettes = (np.stack(parts) for parts in zip(*draws, strict=True))
    return unpack(ints, floats, palettes, np.array(attempts, np.int64))


# --- rendering ---------------------------------------------------------------------------------------------------


def _render(
    ints: np.ndarray,
    floats: np.ndarray,
    palettes: np.ndarray,
    out: np.ndarray,
    iterations: int,
    samples: int,
    threads: int | None,
) -> None:
    """Fills ``out`` (N, 3, S, S)."""
    from mixaug.mixing_sets import _fractal_kernels as _kernels

    size = out.shape[-1]

    def band(task: tuple[int, int]) -> None:
        i, first = task
        stop = min(first + _BAND, size)
        _kernels.render_rows(ints[i], floats[i], palettes[i], size, samples, iterations, first, stop, out[i])

    tasks = [(i, first) for i in range(len(out)) for first in range(0, size, _BAND)]
    on_threads(band, tasks, _kernels.render_rows, threads)


def render_fractals(
    params: FractalParams,
    size: int = 256,
    iterations: int = ITERATIONS,
    samples: int = SAMPLES,
    threads: int | None = None,
) -> torch.Tensor:
    """Renders fractals from their parameters; no randomness.

    The orbit of each sample is followed for at most ``iterations`` steps or until |z| > 100; its colour comes from the
    smooth escape count, the depth and step of its nearest approach to the trap (C. Pickover's orbit traps), and the
    mean over the orbit of the cosine of a multiple of its angle (stripe average), through two cyclic palettes.

    Convention: only IEEE plus, minus, times, divide and square root, so that every machine makes the same picture;
    a pixel is the mean of ``samples`` x ``samples`` points.

    Args:
        params: N pictures, from `sample_fractals`.
        size: side in pixels, at least 8. Default 256.
        iterations: longest orbit, at least 1. Default 200.
        samples: points a pixel and axis, 1 to 8; 1 is without anti-aliasing. Default 2.
        threads: default torch's number of threads (1 in loader workers).

    Returns:
        uint8 tensor (N, 3, size, size), RGB.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range.

    Example:
        >>> render_fractals(sample_fractals(1), size=32).shape
        torch.Size([1, 3, 32, 32])
    """
    if not isinstance(params, FractalParams):
        raise TypeError(f"params must be a FractalParams, got {type(params).__name__}")
    check_int("size", size, 8)
    check_int("iterations", iterations, 1)
    check_int("samples", samples, 1, 8)
    if threads is not None:
        check_int("threads", threads, 1)
    out = np.empty((len(params), 3, size, size), np.uint8)
    _render(*params.packed(), out, iterations, samples, threads)
    return torch.from_numpy(out)


SOURCE = Source("fractals", "fractals", KINDS, 2, sample_fractals, render_fractals)
