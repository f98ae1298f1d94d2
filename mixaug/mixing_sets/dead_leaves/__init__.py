"""Dead leaves: shapes of all sizes that lie on each other, as a model of how things hide things in pictures.

Shapes with a radius of density proportional to 1/r^3 fall at uniform places until nothing shows through (A. B. Lee,
D. Mumford, J. Huang, Occlusion models for natural images, 2001): no size is special, as in photographs. The variants
are those of M. Baradad et al., Learning to see by looking at noise, 2021.

Two layers: `sample_dead_leaves` draws the parameters of pictures (the only place with randomness),
`render_dead_leaves` turns parameters into pixels without randomness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from mixaug.mixing_sets.drawing import TABLE_SIZE, Stream, direction, draw_accepted, draw_palette, mix, oklab_to_rgb
from mixaug.mixing_sets.richness import PREVIEW_SIZE, richness
from mixaug.mixing_sets.sources import Source, check_draw, empty_pictures
from mixaug.mixing_sets.threads import on_threads

KINDS = ("squares", "oriented", "shapes", "textured")
SHAPES = ("square", "rectangle", "circle", "ellipse", "triangle", "polygon")
TEXTURES = ("plain", "gradient", "stripes", "checker", "dots", "rings", "noise", "marble")
_TAG = 0x1EAF
_SMALLEST = 0.048, 3  # top and halvings of the radius of the smallest leaves, in sides: down to 0.006
_LARGEST = 0.16, 0.45
_COLOURS = 0.25, 0.40, 0.35  # shares of uniform RGB, palettes and muted natural colours
# Limits of the richness measure, by eye on contact sheets. All pictures have edges enough; those refused, one in
# twenty, are nearly of one colour, or one leaf hides most. Muted colours are wanted here, so that limit is low.
_MIN_ENTROPY, _MIN_COLOURS, _MAX_FLAT = 3.3, 13.0, 0.26
_MAX_ATTEMPTS = 32
_BAND = 64  # rows a thread renders at a time where a picture is cut
# The kernels' row of numbers: name and width (0: a plain column).
_FLOATS = (
    ("radius", 2), ("flattest", 0), ("turn", 2), ("shapes", 6), ("textures", 8), ("drift", 2), ("spread", 0),
    ("any_colour", 0), ("light", 2), ("shade", 0), ("shadow", 0), ("grain", 0),
)  # fmt: skip


@dataclass(frozen=True)
class DeadLeavesParams:
    """Everything that determines N pictures of dead leaves: a record that can be saved, replayed and shown.

    Args:
        kind: (N,) int64, index into ``KINDS``.
        key: (N,) int64, from which each leaf's place, size, shape and colour follow by a hash.
        radius: (N, 2) float64, smallest and largest radius in units of the side.
        flattest: (N,) float64, the least height of a shape over its width.
        turn: (N, 2) float64, mean orientation and its range, in turns.
        shapes: (N, 6) float64, shares of ``SHAPES``.
        textures: (N, 8) float64, shares of ``TEXTURES``.
        drift: (N, 2), spread: (N,) float64: place on the palette is drift . (x, y) + spread * uniform.
        any_colour: (N,) float64, share of a colour that is uniform in the RGB cube; 1 is the paper's.
        light, shade, shadow: (N, 2) unit, (N,), (N,) float64: where light comes from, its slope over a leaf, and how
            dark the shadows are that leaves throw on those below.
        grain: (N,) float64, size of the textures.
        palettes: (N, 256, 3) float64 in [0, 255], cyclic colour tables.
        attempt: (N,) int64, how many draws were refused before this one.
    """

    kind: torch.Tensor
    key: torch.Tensor
    radius: torch.Tensor
    flattest: torch.Tensor
    turn: torch.Tensor
    shapes: torch.Tensor
    textures: torch.Tensor
    drift: torch.Tensor
    spread: torch.Tensor
    any_colour: torch.Tensor
    light: torch.Tensor
    shade: torch.Tensor
    shadow: torch.Tensor
    grain: torch.Tensor
    palettes: torch.Tensor
    attempt: torch.Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice | torch.Tensor | list[int]) -> DeadLeavesParams:
        """The record of some pictures (a slice, a mask or a list of rows)."""
        return DeadLeavesParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def packed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The kernels' arrays: keys (N,) int64, (N, 28) float64, palettes (N, 256, 3) float64."""
        floats = torch.cat([getattr(self, name).reshape(len(self), max(width, 1)) for name, width in _FLOATS], 1)
        return self.key.numpy(), floats.contiguous().numpy(), self.palettes.contiguous().numpy()


# --- the sampler -------------------------------------------------------------------------------------------------


# Hue in turns of OKLab, its range, most chroma, and how common: wood and soil, sand, plants, sky and water, fruit.
_MATERIALS = (
    (0.19, 0.05, 0.12, 0.3), (0.25, 0.06, 0.07, 0.2), (0.34, 0.07, 0.15, 0.22), (0.69, 0.07, 0.13, 0.18),
    (0.11, 0.05, 0.19, 0.1),
)  # fmt: skip
_STOPS = 16


def _natural_palette(s: Stream) -> np.ndarray:
    """(256, 3) float64 sRGB in [0, 255]: dark and light colours of up to three materials, joined in a cycle."""
    scene = [_MATERIALS[s.pick([material[3] for material in _MATERIALS])] for _ in range(3)]
    stops = np.empty((_STOPS + 1, 3))
    for k in range(_STOPS):
        hue, width, most, _ = scene[s.integer(3)]
        lightness = s.uniform(0.15, 0.6) if k % 2 else s.uniform(0.55, 0.97)
        chroma = most * s.uniform(0.15, 1.0)
        cosine, sine = direction(hue + s.uniform(-width, width))
        stops[k] = lightness, chroma * cosine, chroma * sine
    stops[-1] = stops[0]
    part = (np.arange(TABLE_SIZE // _STOPS) / (TABLE_SIZE // _STOPS))[:, None]
    return oklab_to_rgb((stops[:-1, None] + part * (stops[1:] - stops[:-1])[:, None]).reshape(-1, 3))


def _draw_colours(s: Stream, row: dict[str, object]) -> None:
    """How leaves get their colours: uniform in the RGB cube as in the paper, from a palette, or muted ones."""
    choice = s.pick(_COLOURS)
    if choice == 0:
        row["any_colour"] = 1.0
        row["palettes"] = np.full((TABLE_SIZE, 3), 127.5)
        return
    row["palettes"] = draw_palette(s) if choice == 1 else _natural_palette(s)
    row["any_colour"] = s.uniform(0.0, 0.2)
    if s.chance(0.6):  # the colours change over the picture
        dx, dy = s.unit()
        far = s.uniform(0.2, 0.9)
        row["drift"] = (far * dx, far * dy)
        row["spread"] = s.uniform(0.25, 0.8)


def _shares(s: Stream, count: int, allowed: Sequence[int]) -> np.ndarray:
    """Random shares of ``count`` things that sum to 1; squared, so that some pictures are nearly of one thing."""
    weights = np.zeros(count)
    for k in allowed:
        weights[k] = s.uniform(0.05, 1.0) ** 2
    return weights / weights.sum()


def _draw(seed: int, index: int, attempt: int, kinds: Sequence[str]) -> dict[str, object]:
    """One unchecked draw: a row of the record."""
    s = Stream(seed, _TAG, index, attempt)
    kind = kinds[s.integer(len(kinds))]
    allowed: Sequence[int] = range(len(SHAPES))
    turn = (s.uniform(0.0, 1.0), 1.0 if s.chance(0.6) else s.uniform(0.02, 0.3))
    flattest = s.uniform(0.25, 0.8)
    if kind == "squares":
        allowed, turn = (0,), (0.0, 0.0)
    elif kind == "oriented":
        allowed = (0, 1)
    row: dict[str, object] = {
        "kind": KINDS.index(kind),
        "key": mix(seed, _TAG, index, attempt, 1) >> 1,
        "radius": (s.octaves(*_SMALLEST), s.uniform(*_LARGEST)),
        "flattest": flattest,
        "turn": turn,
        "shapes": _shares(s, len(SHAPES), allowed),
        "textures": np.eye(len(TEXTURES))[0],
        "light": s.unit(),
        "shade": 0.0,
        "shadow": 0.0,
        "grain": s.octaves(1.4, 2),
        "drift": (0.0, 0.0),
        "spread": 1.0,
        "any_colour": 0.0,
        "attempt": attempt,
    }
    if kind == "textured":
        row["textures"] = _shares(s, len(TEXTURES), range(len(TEXTURES)))
        row["shade"] = s.uniform(0.05, 0.3)
        row["shadow"] = s.uniform(0.2, 0.6) if s.chance(0.7) else 0.0
    _draw_colours(s, row)
    return row


def _record(rows: list[dict[str, object]]) -> DeadLeavesParams:
    values = {}
    for f in fields(DeadLeavesParams):
        column = np.array([row[f.name] for row in rows])
        values[f.name] = torch.from_numpy(column if column.dtype == np.int64 else column.astype(np.float64))
    return DeadLeavesParams(**values)


def sample_dead_leaves(
    count: int,
    seed: int = 0,
    start: int = 0,
    *,
    kinds: str | Sequence[str] | None = None,
    threads: int | None = None,
) -> DeadLeavesParams:
    """Draws the parameters of ``count`` pictures of dead leaves, each of which passes a measure of richness.

    Radii have the density 1/r^3 between two limits drawn for each picture, 0.006 to 0.048 and 0.16 to 0.45 of the side;
    u uniform gives r = 1 / sqrt(a + u (b - a)) with a and b the limits' inverse squares. Leaves of ``squares`` are
    parallel to the sides; those of ``oriented`` are turned squares and rectangles; ``shapes`` has circles, ellipses,
    triangles and polygons too; those of ``textured`` carry gradients, stripes, checks, dots, rings, noise or marble,
    are lit from one side and mostly throw shadows.

    Convention: picture i of a seed depends on (kinds, seed, i) only, never on ``count``, ``start``, size or threads. A
    draw whose 64 px preview is nearly of one colour (see `richness`) is replaced by the next draw of the same picture.

    Args:
        count: how many pictures, at least 1.
        seed: 0 to 2^63 - 1. Default 0.
        start: index of the first picture, at least 0. Default 0.
        kinds: which of ``KINDS`` to draw from, equally often; None: all of them.
        threads: threads for the previews. Default: torch's number of threads (1 in loader workers).

    Returns:
        A `DeadLeavesParams` of ``count`` rows.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range, or a kind unknown.

    Note:
        The paper draws colours uniform in the RGB cube; here a quarter of the pictures do, the others take them from a
        palette drawn in OKLab or from muted colours of natural materials. Light and shadows are ours too.

    Example:
        >>> params = sample_dead_leaves(2, seed=7, kinds="oriented")
        >>> len(params)
        2
    """
    count, seed, start, chosen, threads = check_draw(count, seed, start, kinds, KINDS, threads)

    def accepted(rows: list[dict[str, object]]) -> list[bool]:
        previews = np.empty((len(rows), 3, PREVIEW_SIZE, PREVIEW_SIZE), np.uint8)
        _render(_record(rows), previews, threads)
        measured = richness(torch.from_numpy(previews))
        good = (measured.entropy >= _MIN_ENTROPY) & (measured.colours >= _MIN_COLOURS) & (measured.flat <= _MAX_FLAT)
        verdicts: list[bool] = good.tolist()
        return verdicts

    rows, _ = draw_accepted(
        count, lambda row, attempt: _draw(seed, start + row, attempt, chosen), accepted, _MAX_ATTEMPTS
    )
    return _record(rows)


# --- rendering ---------------------------------------------------------------------------------------------------


def _render(params: DeadLeavesParams, out: np.ndarray, threads: int | None) -> None:
    """Fills ``out`` (N, 3, S, S)."""
    from mixaug.mixing_sets.dead_leaves import kernels as _kernels

    keys, floats, palettes = params.packed()
    size = out.shape[-1]
    # Every band goes through the same leaves, so pictures are cut only where they are too few for the threads.
    workers = torch.get_num_threads() if threads is None else threads
    height = size if len(out) >= 4 * workers or workers == 1 else _BAND

    def band(task: tuple[int, int]) -> None:
        i, first = task
        with np.errstate(over="ignore"):  # the hash wraps around; of interest only without compilation
            _kernels.render_rows(keys[i], floats[i], palettes[i], size, first, min(first + height, size), out[i])

    on_threads(
        band, [(i, first) for i in range(len(out)) for first in range(0, size, height)], _kernels.render_rows, threads
    )


def render_dead_leaves(params: DeadLeavesParams, size: int = 256, *, threads: int | None = None) -> torch.Tensor:
    """Renders dead leaves from their parameters; no randomness.

    Leaves are laid from the front to the back until nothing shows through. A leaf covers a pixel by the share that
    their distance says, so outlines are smooth, and all lengths are in units of the side: the same picture at any size.

    Convention: only IEEE plus, minus, times, divide and square root, so that every machine makes the same picture.

    Args:
        params: N pictures, from `sample_dead_leaves`.
        size: side in pixels, at least 8. Default 256.
        threads: default torch's number of threads (1 in loader workers).

    Returns:
        uint8 tensor (N, 3, size, size), RGB.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range.

    Example:
        >>> render_dead_leaves(sample_dead_leaves(1), size=32).shape
        torch.Size([1, 3, 32, 32])
    """
    out, threads = empty_pictures(params, DeadLeavesParams, size, threads)
    _render(params, out, threads)
    return torch.from_numpy(out)


SOURCE = Source("dead-leaves", "dead leaves", KINDS, 1, sample_dead_leaves, render_dead_leaves)
