"""Attractors of random iterated function systems in colour, as points or patches: the improved FractalDB.

Two layers: `sample_ifs` draws the parameters of pictures (the only place with randomness), `render_ifs` turns
parameters into pixels without randomness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mixaug.mixing_sets.drawing import Stream, draw_accepted, draw_palettes, mix
from mixaug.mixing_sets.ifs.render import IFS, KINDS, LANES, MOST_MAPS, IFSParams, paint, settle, stack
from mixaug.mixing_sets.richness import PREVIEW_SIZE, richness
from mixaug.mixing_sets.sources import Source, check_draw, empty_pictures
from mixaug.mixing_sets.threads import on_threads

_TAG = 0x1F5
_SHARES = {"points": 0.6, "patches": 0.4}  # by eye: points look richer
MIN_FILLING = 0.25
# About four draws in five are accepted: all of these fail once in 10^45 pictures (the last one is kept then).
_MAX_ATTEMPTS = 64
_MARGIN = 0.1  # larger pictures measure a little less rich than the preview
_FILLING_STEPS = 8 * PREVIEW_SIZE**2 // LANES
_LOOKS = 2  # steps of 2,048 points that the view is chosen by
_LEAST_SHARE = 0.02  # of the orbits, for maps that flatten the plane: their lines are drawn too

# --- the sampler -------------------------------------------------------------------------------------------------


def _singular_values(s: Stream, maps: int) -> list[tuple[float, float]]:
    """Pairs (s1, s2), 1 >= s1 >= s2 >= 0, whose sum of s1 + 2 s2 is drawn between (5 + n) / 2 and (6 + n) / 2."""
    left = s.uniform((5 + maps) / 2, (6 + maps) / 2)
    pairs = []
    for later in range(maps - 1, 0, -1):
        must = left - 3.0 * later  # what the later maps, all ones at most, cannot take
        first = s.uniform(max(0.0, must / 3), min(1.0, left))
        second = s.uniform(max(0.0, (must - first) / 2), min(first, (left - first) / 2))
        pairs.append((first, second))
        left -= first + 2.0 * second
    second = s.uniform(max(0.0, (left - 1.0) / 2), left / 3)
    pairs.append((left - 2.0 * second, second))
    return pairs


def _affine(s: Stream, first: float, second: float) -> list[list[float]]:
    """[A | b] of a map with the given singular values: two random rotations, signs and a translation."""
    (cu, su), (cv, sv) = s.unit(), s.unit()
    first = first if s.chance(0.5) else -first
    second = second if s.chance(0.5) else -second
    return [
        [cu * first * cv - su * second * sv, -(cu * first * sv) - su * second * cv, s.uniform(-1.0, 1.0)],
        [su * first * cv + cu * second * sv, cu * second * cv - su * first * sv, s.uniform(-1.0, 1.0)],
    ]


def _lanes(system: np.ndarray) -> np.ndarray:
    """Edges of the maps' blocks of orbits (8,): sizes in proportion to |det|."""
    areas = np.abs(system[:, 0, 0] * system[:, 1, 1] - system[:, 0, 1] * system[:, 1, 0]).tolist()
    least = _LEAST_SHARE * sum(areas)
    edges = np.cumsum([0.0, *(max(area, least) for area in areas)])
    lanes = np.full(MOST_MAPS + 1, LANES)
    lanes[: len(edges)] = edges / edges[-1] * LANES + 0.5
    return lanes


def _set_view(s: Stream, ifs: IFS) -> None:
    """What part of the plane is shown: most of the attractor, without its stray ends."""
    points = settle(ifs, _LOOKS).follow(_LOOKS)[:, :2].transpose(1, 0, 2).reshape(2, -1).astype(np.float64)
    points.sort()
    outside = points.shape[1] // 64
    for axis, line in enumerate(points):
        low, high, middle = line[outside], line[-1 - outside], line[len(line) // 2]
        half = max(0.5 * (high - low), 1e-6) * s.uniform(0.7, 1.05)
        centre = min(max(middle, low + half), max(high - half, low + half))
        ifs.centre[axis] = centre + s.uniform(-0.15, 0.15) * half
        ifs.half[axis] = half


def _filling(ifs: IFS) -> float:
    """Share of a 64 x 64 grid over the picture with a point, of eight points a cell."""
    sums = settle(ifs, _FILLING_STEPS).accumulate(ifs.centre, ifs.half, PREVIEW_SIZE)
    return float(np.count_nonzero(sums)) / PREVIEW_SIZE**2


def _draw(seed: int, index: int, attempt: int, kinds: Sequence[str]) -> IFS:
    """One unchecked draw."""
    s = Stream(seed, _TAG, index, attempt)
    total = sum(_SHARES[kind] for kind in kinds)
    kind = KINDS.index(kinds[s.pick([_SHARES[kind] / total for kind in kinds])])
    maps = 2 + s.integer(MOST_MAPS - 1)
    systems, shades = np.zeros((MOST_MAPS, 2, 3)), np.zeros(MOST_MAPS)
    systems[:maps] = [_affine(s, *pair) for pair in _singular_values(s, maps)]
    turn, stride = s.integer(maps), 1 + s.integer(maps - 1)
    shades[:maps] = [((turn + k * stride) % maps + s.uniform(0.0, 0.5)) / maps for k in range(maps)]
    third = s.uniform(0.15, 0.7) if s.chance(0.5) else s.uniform(-0.7, -0.15)
    ifs = IFS(
        kind=kind,
        maps=maps,
        key=mix(seed, _TAG, index, attempt, 1) >> 1,
        systems=systems,
        lanes=_lanes(systems[:maps]),
        shades=shades,
        patches=np.array([1 + s.integer(511) for _ in range(MOST_MAPS)]),
        centre=np.zeros(2),
        half=np.ones(2),
        memory=s.uniform(0.3, 0.75),
        base=np.array([s.uniform(0.0, 1.0), s.uniform(0.5, 1.3), third]),
        veil=s.octaves(0.4, 4),
        light=np.array(s.unit()),
        relief=s.uniform(0.2, 0.8),
        stamp=s.uniform(0.1, 0.3),
        ground=np.array([s.uniform(0.0, 1.0), s.uniform(0.3, 0.9)]),
        roughness=s.uniform(0.45, 0.75),
        dim=s.uniform(0.4, 1.0),
        palettes=draw_palettes(s, 2),
    )
    _set_view(s, ifs)
    return ifs


def sample_ifs(
    count: int,
    seed: int = 0,
    start: int = 0,
    *,
    kinds: str | Sequence[str] | None = None,
    threads: int | None = None,
) -> IFSParams:
    """Draws the parameters of ``count`` IFS fractals, each of which fills its frame and passes the richness measure.

    A system has 2 to 7 maps ``x -> U diag(s1, s2) V x + b``: U and V rotations with random signs, b uniform in
    [-1, 1]^2, ``1 > s1 >= s2 >= 0`` with the sum of ``s1 + 2 s2`` over the n maps uniform between ``(5 + n) / 2`` and
    ``(6 + n) / 2``; map k is used in proportion to ``|det A_k|`` (C. Anderson, R. Farrell, Improving Fractal
    Pre-training, 2022). A draw is refused when less than a quarter of the frame holds points (the filling rate of H.
    Kataoka et al., Pre-training without Natural Images, 2020), or when its 64 px preview is dull (see `richness`).

    Convention: picture i of a seed depends on (kinds, seed, i) only, never on ``count``, ``start``, size or threads. A
    refused draw is replaced by the next draw of the same picture.

    Args:
        count: how many pictures, at least 1.
        seed: 0 to 2^63 - 1. Default 0.
        start: index of the first picture, at least 0. Default 0.
        kinds: which of ``KINDS`` to draw from; None: all of them.
        threads: threads for the previews. Default: torch's number of threads (1 in loader workers).

    Returns:
        An `IFSParams` of ``count`` rows.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range, or a kind unknown.

    Note:
        The filling rate is the share of a 64 x 64 grid over the part that is shown with a point, of eight points a
        cell. FractalDB asks for 0.2 of 512 x 512 pixels and 100,000 points (0.4 a pixel) over the whole attractor, and
        draws matrices that need not contract. A map that flattens the plane is used for at least 2% of the points.

    Example:
        >>> params = sample_ifs(2, seed=7)
        >>> len(params)
        2
    """
    count, seed, start, chosen, threads = check_draw(count, seed, start, kinds, KINDS, threads)

    def accepted(draws: list[IFS]) -> list[bool]:
        previews = np.empty((len(draws), 3, PREVIEW_SIZE, PREVIEW_SIZE), np.uint8)
        _render(draws, previews, threads)
        rich: list[bool] = richness(torch.from_numpy(previews)).within(_MARGIN).tolist()
        return [good and _filling(ifs) >= MIN_FILLING for good, ifs in zip(rich, draws, strict=True)]

    draws, attempts = draw_accepted(
        count, lambda row, attempt: _draw(seed, start + row, attempt, chosen), accepted, _MAX_ATTEMPTS
    )
    return stack(draws, attempts)


# --- rendering ---------------------------------------------------------------------------------------------------


def _render(draws: list[IFS], out: np.ndarray, threads: int | None) -> None:
    """Fills ``out`` (N, 3, S, S)."""
    from mixaug.mixing_sets.ifs import kernels as _painting

    def picture(i: int) -> None:
        paint(draws[i], out[i])

    for kind, kernel in enumerate((_painting.develop, _painting.blend)):  # each compiled by its first picture, alone
        on_threads(picture, [i for i, draw in enumerate(draws) if draw.kind == kind], kernel, threads)


def render_ifs(params: IFSParams, size: int = 256, threads: int | None = None) -> torch.Tensor:
    """Renders IFS fractals from their parameters; no randomness.

    ``points``: the density of eight points a pixel, with the neighbours' help where it is low, is tone, cover and, as a
    height, shading; the colour coordinate of a point moves towards that of each map that it goes through (S. Draves,
    The fractal flame algorithm, 2003). ``patches``: 4,096 points are painted as 3 x 3 patches, each with the pattern of
    its last map, large ones first. Behind both lies coloured plasma (diamond-square).

    Convention: only IEEE plus, minus, times, divide and square root, so that every machine makes the same picture.
    Lengths are shares of the side: other sizes show the same picture, in which points of a thin part cover less when
    pixels are small. Pixels of ``points`` are counts; ``patches`` are averaged over 2 x 2 points a pixel.

    Args:
        params: N pictures, from `sample_ifs`.
        size: side in pixels, at least 8. Default 256.
        threads: default torch's number of threads (1 in loader workers).

    Returns:
        uint8 tensor (N, 3, size, size), RGB.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range.

    Note:
        FractalDB paints patches of 3 x 3 pixels at every size. Ours start at a tenth to three tenths of the side and
        shrink to a sixteenth of that, 3 x 3 pixels of a picture of about 256 px.

    Example:
        >>> render_ifs(sample_ifs(1), size=32).shape
        torch.Size([1, 3, 32, 32])
    """
    out, threads = empty_pictures(params, IFSParams, size, threads)
    _render(params.rows(), out, threads)
    return torch.from_numpy(out)


SOURCE = Source("ifs", "IFS fractals", KINDS, 1, sample_ifs, render_ifs)
