"""Escape-time orbit-trap fractals in colour: the default mixing set of IPMix (Z. Huang et al., 2023, appendix E).

Two layers: `sample_fractals` draws the parameters of pictures (the only place with randomness), `render_fractals`
turns parameters into pixels without randomness. The kinds:

- ``julia``, ``julia-powers``: z^2 + c and z^3 to z^5 + c, with c on the boundary of the Mandelbrot set of that power;
- ``mandelbrot``, ``mandelbrot-powers``: the same maps over the plane of c, around points of the boundary;
- ``burning-ship``: (|x| + i |y|)^2 + c (M. Michelitsch and O. Roessler, The Burning Ship, 1992);
- ``tricorn``: conj(z)^2 + c (W. Crowe et al., On the structure of the Mandelbar set, 1989);
- ``phoenix``: z^2 + c + p z_before (S. Ushiki, Phoenix, 1988);
- ``pole``: z^d + c / z^m (R. Devaney et al., The escape trichotomy for singularly perturbed rational maps, 2005);
- ``newton``: z - r f(z) / f'(z), relaxed Newton iteration for z^d - 1 or a polynomial with random roots;
- ``nova``: the same plus c (P. Derbyshire's Nova), over the plane of z or of c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import mixaug_ext
from mixaug._checks import MAX_COUNT, check_int
from mixaug.mixing_sets.drawing import draw_accepted
from mixaug.mixing_sets.fractals.draws import IMAGE, KIND_SHARES, FractalParams, Packed, draw, numbers, unpack
from mixaug.mixing_sets.richness import PREVIEW_SIZE, richness
from mixaug.mixing_sets.sources import Source, check_draw, empty_pictures
from mixaug.mixing_sets.threads import on_threads
from mixaug_ext import _fractals

ITERATIONS = 200
SAMPLES = 2
KINDS = tuple(KIND_SHARES)
# About three draws in five are accepted: all of these fail once in 10^25 pictures (the last one is kept then).
_MAX_ATTEMPTS = 64
# A preview is the picture at 64 px; the margin covers what larger ones have less of. 3 x 3 samples accept no better.
_PREVIEW_SAMPLES = 2
_MARGIN = 0.12
_BAND = 1 << 13  # samples that a thread renders at a time: enough to hide Python, few enough to stay in its cache

# --- the sampler -------------------------------------------------------------------------------------------------


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
        kinds: which of ``KINDS`` to draw from, such as ``"julia"`` or ``["newton", "nova"]``; None: all of them.
        threads: draw and judge pictures. Default: torch's number of threads (1 in loader workers).

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
    count, seed, start, chosen, threads = check_draw(count, seed, start, kinds, KINDS, threads)

    drawn: list[Packed | None] = [None] * count
    attempts = [0] * count

    def accepted(draws: list[Packed]) -> list[bool]:
        preview = np.empty((1, 3, PREVIEW_SIZE, PREVIEW_SIZE), np.uint8)
        for task in _bands(draws[0], preview[0], ITERATIONS, _PREVIEW_SAMPLES):
            _render_band(task)
        return [bool(richness(torch.from_numpy(preview)).within(_MARGIN))]

    def row(i: int) -> None:
        draws, tried = draw_accepted(
            1, lambda _, attempt: draw(seed, start + i, attempt, chosen, ITERATIONS), accepted, _MAX_ATTEMPTS
        )
        drawn[i], attempts[i] = draws[0], tried[0]

    on_threads(row, range(count), _kernel(), threads)
    return unpack([one for one in drawn if one is not None], attempts)


# --- rendering ---------------------------------------------------------------------------------------------------


def _bands(one: Packed, out: np.ndarray, iterations: int, samples: int) -> list[tuple[Any, ...]]:
    """Arguments of the kernel for the bands of one picture ``out`` (3, S, S)."""
    size = out.shape[-1]
    typed = numbers(one.ints, one.floats, np.float64 if one.is_deep() else np.float32)
    colouring, image = one.floats.astype(np.float32), bool(one.ints[6] == IMAGE)
    rows = max(_BAND // (size * samples * samples), 1)
    return [
        (one.ints, one.floats, typed, colouring, one.palettes, one.bitmap, image, samples, iterations, first,
         out[:, first : first + rows])
        for first in range(0, size, rows)
    ]  # fmt: skip


def _kernel() -> Callable[..., None]:
    """What renders the rows of a band: compiled in advance, else by numba at its first use, half a minute; equal."""
    if mixaug_ext.library() is not None:
        return _fractals.render_rows
    from mixaug.mixing_sets.fractals import kernels

    rows: Callable[..., None] = kernels.render_rows
    return rows


def _render_band(task: tuple[Any, ...]) -> None:
    # Lanes at rest are computed on and not used: where they overflow, NumPy would warn if numba is switched off.
    with np.errstate(over="ignore", invalid="ignore"):
        _kernel()(*task)


def render_fractals(
    params: FractalParams,
    size: int = 256,
    iterations: int = ITERATIONS,
    samples: int = SAMPLES,
    threads: int | None = None,
) -> torch.Tensor:
    """Renders fractals from their parameters; no randomness.

    The orbit of each sample is followed for at most ``iterations`` steps, until ``|z|`` exceeds 100, or Newton's method
    has converged. Its colour comes from the smooth count of steps, the depth and step of its nearest approach to the
    trap (C. Pickover's orbit traps), and the mean over the orbit of the cosine of a multiple of its angle (stripe
    average, J. Harkonen, On smooth fractal coloring techniques, 2007), through two cyclic palettes; with the trap
    ``image`` the first point that falls on a small picture takes its colour.

    Convention: only IEEE plus, minus, times, divide and square root, so that every machine makes the same picture;
    a pixel is the mean of ``samples`` x ``samples`` points. Orbits are float32, float64 in views narrower than 0.002.
    An orbit that comes back to where it was (within 2^-15, looked for every 4 steps, 2 in ``pole`` and ``newton``) is
    stopped, and its mean is what the cycle would make of it: one value in 7,000 differs by more than two levels then.

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
    iterations = check_int("iterations", iterations, 1, MAX_COUNT)
    samples = check_int("samples", samples, 1, 8)
    out, threads = empty_pictures(params, FractalParams, size, threads)
    packed = params.packed()
    tasks = [task for i in range(len(params)) for task in _bands(packed.row(i), out[i], iterations, samples)]
    on_threads(_render_band, tasks, _kernel(), threads)
    return torch.from_numpy(out)


SOURCE = Source("fractals", "fractals", KINDS, 2, sample_fractals, render_fractals)
