"""The record of what determines a picture of radial contours, and its layout for the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from mixaug.mixing_sets.drawing import Stream, direction, draw_accepted, draw_palette, mix
from mixaug.mixing_sets.richness import PREVIEW_SIZE, Richness, richness
from mixaug.mixing_sets.sources import Source, check_draw, empty_pictures
from mixaug.mixing_sets.threads import on_threads

MAX_FIGURES = 14

# Columns of the packed arrays that the compiled kernels read, in their order (see `kernels.py`).
_INTS = ("key", "vertices", "contours", "lobes", "line", "palette", "loose")
_FLOATS = (
    ("centre", 2), ("axis", 2), ("aspect", 0), ("inner", 0), ("growth", 0), ("halo", 0), ("star", 0), ("jitter", 0),
    ("bend", 0), ("pace", 0), ("rough", 0), ("place", 3), ("ink", 3), ("fill", 0), ("shade", 0), ("grey", 0),
    ("shadow", 0), ("relief", 0), ("light", 2),
)  # fmt: skip
N_INTS = len(_INTS)
N_FLOATS = sum(max(width, 1) for _, width in _FLOATS)
N_GROUND = 8


@dataclass(frozen=True)
class ContourParams:
    """Everything that determines N pictures of radial contours: a record that can be saved, replayed and shown.

    Convention: lengths are in sides of the picture, places on a palette in turns of its cycle. F is 14, the most
    figures of a picture; figure 0 lies in front, rows from ``figures`` on are zeros.

    Args:
        kind: (N,) int64, index into ``contours.KINDS``.
        figures: (N,) int64, number of figures, 1 to 14.
        key: (N, F) int64, seed of the figure's noise.
        vertices, contours: (N, F) int64, corners of a contour (3 to 200) and nested contours (1 to 200).
        lobes: (N, F) int64, lattice points of the Perlin noise around the figure (3 to 24).
        line: (N, F) int64, half the width of a line in 16ths of the distance of two contours, 0 (no lines) to 8.
        palette: (N, F) int64, which of the two palettes.
        loose: (N, F) int64, 1 when nothing is painted inside the first contour.
        centre, axis, aspect: (N, F, 2), (N, F, 2) unit, (N, F) float64: the figure is stretched by ``aspect`` along
            ``axis`` and shrunk by it across.
        inner, growth, halo: (N, F) float64, radius of the first contour, mean distance of two, width of the shadow.
        star, jitter: (N, F) float64, how much even corners reach out and odd ones in; disorder of the corners' angles.
        bend, pace, rough: (N, F) float64, strength of the Perlin noise in the growth and its lattice points a contour;
            strength of the white noise.
        place, ink: (N, F, 3) float64, (first, step a contour, disorder) of the places of bands and lines.
        fill, shade, grey: (N, F) float64, opacity of bands, their shading from inside to outside, loss of colour.
        shadow, relief: (N, F) float64, darkness of the shadow around the figure; strength of the facets' shading.
        light: (N, F, 2) float64 unit, where light comes from.
        ground: (N, 8) float64, two RGB colours in [0, 255] and the direction from one to the other.
        palettes: (N, 2, 256, 3) float64 in [0, 255], cyclic colour tables.
        attempt: (N,) int64, how many draws were refused before this one.
    """

    kind: torch.Tensor
    figures: torch.Tensor
    key: torch.Tensor
    vertices: torch.Tensor
    contours: torch.Tensor
    lobes: torch.Tensor
    line: torch.Tensor
    palette: torch.Tensor
    loose: torch.Tensor
    centre: torch.Tensor
    axis: torch.Tensor
    aspect: torch.Tensor
    inner: torch.Tensor
    growth: torch.Tensor
    halo: torch.Tensor
    star: torch.Tensor
    jitter: torch.Tensor
    bend: torch.Tensor
    pace: torch.Tensor
    rough: torch.Tensor
    place: torch.Tensor
    ink: torch.Tensor
    fill: torch.Tensor
    shade: torch.Tensor
    grey: torch.Tensor
    shadow: torch.Tensor
    relief: torch.Tensor
    light: torch.Tensor
    ground: torch.Tensor
    palettes: torch.Tensor
    attempt: torch.Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice | torch.Tensor | list[int]) -> ContourParams:
        """The record of some pictures (a slice, a mask or a list of rows)."""
        return ContourParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def packed(self) -> list[Drawing]:
        """The kernels' arrays, picture by picture."""
        ints = torch.stack([getattr(self, name) for name in _INTS], 2).numpy()
        shape = (len(self), MAX_FIGURES, -1)
        floats = torch.cat([getattr(self, name).reshape(shape) for name, _ in _FLOATS], 2).numpy()
        palettes, ground = self.palettes.contiguous().numpy(), self.ground.contiguous().numpy()
        return [
            Drawing(int(self.kind[i]), ints[i, :count].copy(), floats[i, :count].copy(), palettes[i], ground[i])
            for i, count in enumerate(self.figures.tolist())
        ]


@dataclass(frozen=True)
class Drawing:
    """One picture in the kernels' layout: int64 (n, 7), float64 (n, 26), (2, 256, 3) and (8,) of n figures."""

    kind: int
    ints: np.ndarray
    floats: np.ndarray
    palettes: np.ndarray
    ground: np.ndarray


def pack_figure(values: dict[str, object]) -> tuple[list[int], list[float]]:
    """One figure's row of ints and of floats, from its numbers by name."""
    ints = [int(values[name]) for name in _INTS]  # type: ignore[call-overload]
    floats: list[float] = []
    for name, width in _FLOATS:
        value = values[name]
        floats.extend(value if width else [value])  # type: ignore[arg-type, list-item]
    return ints, floats


def unpack(drawings: list[Drawing], attempts: list[int]) -> ContourParams:
    """The inverse of `ContourParams.packed`."""
    ints = np.zeros((len(drawings), MAX_FIGURES, N_INTS), np.int64)
    floats = np.zeros((len(drawings), MAX_FIGURES, N_FLOATS))
    for i, drawing in enumerate(drawings):
        ints[i, : len(drawing.ints)], floats[i, : len(drawing.ints)] = drawing.ints, drawing.floats
    values = {name: torch.from_numpy(ints[:, :, k].copy()) for k, name in enumerate(_INTS)}
    start = 0
    for name, width in _FLOATS:
        stop = start + max(width, 1)
        values[name] = torch.from_numpy((floats[:, :, start:stop] if width else floats[:, :, start]).copy())
        start = stop
    return ContourParams(
        kind=torch.tensor([drawing.kind for drawing in drawings]),
        figures=torch.tensor([len(drawing.ints) for drawing in drawings]),
        ground=torch.from_numpy(np.stack([drawing.ground for drawing in drawings])),
        palettes=torch.from_numpy(np.stack([drawing.palettes for drawing in drawings])),
        attempt=torch.tensor(attempts),
        **values,
    )


_TAG = 0x52434442  # "RCDB"
# About one draw in twenty is refused: all of these fail once in 10^40 pictures (the last one is kept then).
_MAX_ATTEMPTS = 32
# Shares chosen by eye on contact sheets.
_SHARES = {"single": 0.12, "polygons": 0.24, "rough": 0.18, "smooth": 0.24, "bands": 0.22}
KINDS = tuple(_SHARES)
# Set on contact sheets of the ten lowest of 500 draws in each number: faint or single lines on a plain ground lie
# outside. Grain may be larger than in fractals: lines are what these pictures are about.
_MIN_ENTROPY, _MIN_EDGES, _MAX_GRAIN = 3.2, 0.25, 0.85
_MIN_COLOURS, _MAX_FLAT = 18.0, 0.22
_MIN_BRIGHTNESS, _MAX_BRIGHTNESS = 55.0, 205.0
_BAND = 64  # rows a thread renders at a time

# --- the sampler -------------------------------------------------------------------------------------------------


def _draw_shape(s: Stream, shape: str, radius: float) -> dict[str, object]:
    """Corners, noise and stretch of a figure."""
    values: dict[str, object] = {
        "star": 0.0, "jitter": 0.0, "bend": 0.0, "pace": s.octaves(0.24, 4), "rough": 0.0, "lobes": 3 + s.integer(10),
    }  # fmt: skip
    if shape == "polygons":
        values["vertices"] = 3 + s.integer(8)
        values["jitter"] = s.uniform(0.0, 0.38) if s.chance(0.6) else 0.0
        values["rough"] = s.uniform(0.0, 0.75) if s.chance(0.6) else 0.0
        if s.chance(0.3):
            values["vertices"], values["star"] = 2 * (4 + s.integer(8)), s.uniform(0.1, 0.35)
    elif shape == "rough":
        values["vertices"] = 12 + int(s.octaves(188.0, 4))
        values["rough"] = s.uniform(0.35, 1.0)
        values["bend"] = s.uniform(0.3, 1.2) if s.chance(0.5) else 0.0
    else:
        # Enough for a round look at 512 px; a ray costs as much as three pixels of a row.
        values["vertices"] = 72 + min(int(200.0 * radius), 96) + s.integer(33)
        values["bend"] = s.uniform(0.5, 2.2)
    ax, ay = direction(s.uniform(0.0, 1.0))
    values["axis"] = (ax, ay)
    values["aspect"] = s.uniform(1.0, 1.42)  # axes up to 2 to 1, as in the database
    return values


def _draw_paint(s: Stream, banded: bool) -> dict[str, object]:
    """Colours of a figure."""
    step = s.uniform(-0.06, 0.06)
    band = s.uniform(0.0, 1.0)
    filled = banded or s.chance(0.7)
    light = direction(s.uniform(0.0, 1.0))
    return {
        "palette": s.integer(2),
        "place": (band, step, s.uniform(0.0, 1.0) if s.chance(0.4) else 0.06),
        "ink": (band + s.uniform(0.3, 0.7), s.uniform(-0.05, 0.05), 1.0 if s.chance(0.4) else 0.1),
        "line": 0 if banded and s.chance(0.7) else 1 + s.integer(5),
        "fill": (1.0 if s.chance(0.75) else s.uniform(0.4, 0.9)) if filled else 0.0,
        "loose": int(s.chance(0.2)),
        "shade": s.uniform(-0.7, 0.7) if banded or s.chance(0.4) else 0.0,
        "grey": s.uniform(0.5, 1.0) if s.chance(0.15) else 0.0,
        "shadow": s.uniform(0.2, 0.6) if filled and s.chance(0.7) else 0.0,
        "relief": s.uniform(0.1, 0.45) if s.chance(0.65) else 0.0,
        "light": light,
    }


def _draw_figure(s: Stream, kind: str, k: int, count: int) -> dict[str, object]:
    """Figure ``k`` of ``count``: 0 lies in front and is small, the last is large."""
    back = (k + 1.0) / count
    if kind == "single":
        radius, contours = s.uniform(0.5, 0.95), 20 + int(s.octaves(180.0, 3))
    else:
        radius = (0.1 + 0.24 * s.uniform(0.0, 1.0)) + 0.6 * (back * back)
        contours = 3 + int(s.octaves(80.0, 4) * min(1.0, 1.6 * radius + 0.2))
    inner = radius * (s.uniform(0.02, 0.2) if s.chance(0.8) else s.uniform(0.2, 0.4))
    spacing = max((radius - inner) / contours, 1.0 / 400.0)
    if kind in ("polygons", "rough", "smooth"):
        shape = kind
    else:
        shape = ("polygons", "rough", "smooth")[s.pick((0.4, 0.2, 0.4))]
    values = _draw_shape(s, shape, radius) | _draw_paint(s, kind == "bands")
    if k == count - 1 and kind != "single":  # the last one covers most of the ground
        values["fill"], values["loose"] = 1.0, 0
        reach = 0.3
    else:
        reach = 0.15 if kind == "single" else 0.6
    values["centre"] = (0.5 + s.uniform(-reach, reach), 0.5 + s.uniform(-reach, reach))
    values["contours"], values["inner"], values["growth"] = contours, inner, spacing
    values["halo"] = s.uniform(0.01, 0.05) if values["shadow"] else 0.004
    return values


def _draw(seed: int, index: int, attempt: int, kinds: Sequence[str]) -> Drawing:
    """One unchecked draw in the kernels' layout."""
    s = Stream(seed, _TAG, index, attempt)
    total = sum(_SHARES[kind] for kind in kinds)
    kind = kinds[s.pick([_SHARES[kind] / total for kind in kinds])]
    count = 1 if kind == "single" else 5 + s.integer(MAX_FIGURES - 4)
    ground = [0.0] * 6 + list(direction(s.uniform(0.0, 1.0)))
    palettes = np.stack([draw_palette(s), draw_palette(s)])
    first = s.integer(256)
    ground[0:3], ground[3:6] = palettes[0, first].tolist(), palettes[0, (first + s.integer(64)) % 256].tolist()
    rows = []
    for k in range(count):
        if k % 7 == 0:  # a figure takes up to 34 numbers of the 384 that a stream has
            s = Stream(seed, _TAG, index, attempt, 1 + k)
        figure = _draw_figure(s, kind, k, count) | {"key": mix(seed, _TAG, index, attempt, 0, k) >> 1}
        if kind == "single":
            figure["grey"] = 0.0  # it would be refused
        rows.append(pack_figure(figure))
    ints, floats = np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows])
    return Drawing(KINDS.index(kind), ints, floats, palettes, np.array(ground))


def _worth_having(measured: Richness) -> torch.Tensor:
    """(N,) bool: lines, shades and colours enough, and no large plain area."""
    lively = (measured.entropy >= _MIN_ENTROPY) & (measured.edges >= _MIN_EDGES) & (measured.grain <= _MAX_GRAIN)
    coloured = (measured.colours >= _MIN_COLOURS) & (measured.flat <= _MAX_FLAT)
    return lively & coloured & (measured.brightness >= _MIN_BRIGHTNESS) & (measured.brightness <= _MAX_BRIGHTNESS)


def sample_contours(
    count: int,
    seed: int = 0,
    start: int = 0,
    *,
    kinds: str | Sequence[str] | None = None,
    threads: int | None = None,
) -> ContourParams:
    """Draws the parameters of ``count`` pictures of radial contours, each of which passes the richness measure.

    Kinds: ``single`` is one figure that fills the picture, as in the paper; ``polygons`` are figures of 3 to 10 corners
    and stars, ``rough`` of up to 200 corners with white noise, ``smooth`` bent by Perlin noise; ``bands`` are figures
    of all three that are filled between the contours.

    Convention: picture i of a seed depends on (kinds, seed, i) only, never on ``count``, ``start``, size or threads. A
    draw whose 64 px preview is dull is replaced by the next draw of the same picture.

    Args:
        count: how many pictures, at least 1.
        seed: 0 to 2^63 - 1. Default 0.
        start: index of the first picture, at least 0. Default 0.
        kinds: which of ``KINDS`` to draw from; None: all of them.
        threads: threads for the previews. Default: torch's number of threads (1 in loader workers).

    Returns:
        A `ContourParams` of ``count`` rows.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range, or a kind unknown.

    Note:
        The database has one figure of thin grey lines a picture on white. Here lines and bands are coloured, filled or
        open, shaded and shadowed, and up to 14 figures overlap, so that a random crop of a picture has as much to see
        as the whole; contours of one figure never cross.

    Example:
        >>> params = sample_contours(2, seed=7)
        >>> len(params)
        2
    """
    count, seed, start, chosen, threads = check_draw(count, seed, start, kinds, KINDS, threads)

    def accepted(draws: list[Drawing]) -> list[bool]:
        previews = np.empty((len(draws), 3, PREVIEW_SIZE, PREVIEW_SIZE), np.uint8)
        _render(draws, previews, threads)
        verdicts: list[bool] = _worth_having(richness(torch.from_numpy(previews))).tolist()
        return verdicts

    draws, attempts = draw_accepted(
        count, lambda row, attempt: _draw(seed, start + row, attempt, chosen), accepted, _MAX_ATTEMPTS
    )
    return unpack(draws, attempts)


# --- rendering ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tables:
    """What the kernels look up while they render a picture: see `kernels.build`."""

    starts: np.ndarray
    rays: np.ndarray
    inverse: np.ndarray
    total: np.ndarray
    finder: np.ndarray
    boxes: np.ndarray

    @classmethod
    def of(cls, drawing: Drawing) -> _Tables:
        from mixaug.mixing_sets.contours import kernels as _kernels

        vertices, contours = drawing.ints[:, 1], drawing.ints[:, 2]
        sizes = np.stack(
            [vertices, (contours + 1) * (vertices + 1), (contours + 1) * _kernels.BINS + 1], 1, dtype=np.int64
        )
        rows = sizes.sum(0)
        count = len(sizes)
        tables = cls(
            np.cumsum(sizes, 0) - sizes,
            np.empty((rows[0], _kernels.RAY)),
            np.empty(rows[1]),
            np.empty((rows[2], 4)),
            np.empty((count, _kernels.GRID), np.int64),
            np.empty((count, _kernels.BOX)),
        )
        _kernels.build(drawing.ints, drawing.floats, drawing.palettes, *tables.parts())
        return tables

    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.starts, self.rays, self.inverse, self.total, self.finder, self.boxes


def _render(drawings: list[Drawing], out: np.ndarray, threads: int | None) -> None:
    """Fills ``out`` (N, 3, S, S)."""
    from mixaug.mixing_sets.contours import kernels as _kernels

    size = out.shape[-1]
    tables: dict[int, _Tables] = {}

    def prepare(i: int) -> None:
        tables[i] = _Tables.of(drawings[i])

    def band(task: tuple[int, int]) -> None:
        i, first = task
        drawing = drawings[i]
        _kernels.render_rows(
            drawing.ints, drawing.floats, drawing.ground, *tables[i].parts(), first, min(first + _BAND, size), out[i]
        )

    on_threads(prepare, range(len(drawings)), _kernels.build, threads)
    tasks = [(i, first) for i in range(len(out)) for first in range(0, size, _BAND)]
    on_threads(band, tasks, _kernels.render_rows, threads)


def render_contours(params: ContourParams, size: int = 256, *, threads: int | None = None) -> torch.Tensor:
    """Renders radial contours from their parameters; no randomness.

    The corners of contour n of a figure lie at the radii r[n, v] = r[n-1, v] + growth w[v] (1 + bend P(v, n) + rough U)
    on the rays v, with Perlin noise P, white noise U and the weights w of a star. A pixel's place t among the contours
    follows from the two rays around it (between contours, one over the radius is linear in t, so that level lines are
    polygons too), and its colour is the mean of the figure's profile over the t it covers.

    Convention: only IEEE plus, minus, times, divide and square root, so that every machine makes the same picture; the
    same record shows the same picture at every size, and lines closer than a pixel blend into their mean.

    Args:
        params: N pictures, from `sample_contours`.
        size: side in pixels, at least 8. Default 256.
        threads: default torch's number of threads (1 in loader workers).

    Returns:
        uint8 tensor (N, 3, size, size), RGB.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range.

    Example:
        >>> render_contours(sample_contours(1), size=32).shape
        torch.Size([1, 3, 32, 32])
    """
    out, threads = empty_pictures(params, ContourParams, size, threads)
    _render(params.packed(), out, threads)
    return torch.from_numpy(out)


SOURCE = Source("contours", "radial contours", KINDS, 1, sample_contours, render_contours)
