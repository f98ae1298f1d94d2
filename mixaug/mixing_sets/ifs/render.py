"""The record of what determines a picture of an iterated function system."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch

KINDS = ("points", "patches")
MOST_MAPS = 7
LANES = 2048  # orbits in flight


@dataclass
class IFS:
    """One row of `IFSParams`, without ``attempt``: numbers and NumPy arrays under the same names."""

    kind: int
    maps: int
    key: int
    systems: np.ndarray
    lanes: np.ndarray
    shades: np.ndarray
    patches: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    memory: float
    base: np.ndarray
    veil: float
    light: np.ndarray
    relief: float
    stamp: float
    ground: np.ndarray
    roughness: float
    dim: float
    palettes: np.ndarray


@dataclass(frozen=True)
class IFSParams:
    """Everything that determines N pictures of iterated function systems: a record to save, replay and show.

    Args:
        kind: (N,) int64, index into ``KINDS``.
        maps: (N,) int64, how many affine maps the system has, 2 to 7.
        key: (N,) int64, of the hashes that the choice of maps and the background are expanded from.
        systems: (N, 7, 2, 3) float64, the maps ``x -> A x + b`` as ``[A | b]``; zero beyond ``maps``.
        lanes: (N, 8) int64, map k moves orbits ``lanes[k]`` to ``lanes[k + 1] - 1`` of 2,048 in each step.
        shades: (N, 7) float64 in [0, 1], colour coordinate of each map.
        patches: (N, 7) int64, 9 bits: the 3 x 3 patch of each map.
        centre, half: (N, 2) float64, middle and half width and height of the part of the plane that is shown.
        memory: (N,) float64, how much of its colour coordinate a point keeps in a step.
        base: (N, 3) float64, place on the first palette: constant, weight of the colour coordinate, of the density
            (points) or of the order (patches).
        veil: (N,) float64, density, over the mean of the picture, at which a pixel covers half of the background.
        light, relief: (N, 2) unit, (N,) float64: direction and strength of the light on the density as a height.
        stamp: (N,) float64, side of the largest patch over the side of the picture.
        ground, roughness, dim: (N, 2), (N,), (N,) float64: the background's place and span on the second palette, the
            ratio of its octaves' amplitudes, its brightness.
        palettes: (N, 2, 256, 3) float64 in [0, 255], cyclic colour tables.
        attempt: (N,) int64, how many draws were refused before this one.
    """

    kind: torch.Tensor
    maps: torch.Tensor
    key: torch.Tensor
    systems: torch.Tensor
    lanes: torch.Tensor
    shades: torch.Tensor
    patches: torch.Tensor
    centre: torch.Tensor
    half: torch.Tensor
    memory: torch.Tensor
    base: torch.Tensor
    veil: torch.Tensor
    light: torch.Tensor
    relief: torch.Tensor
    stamp: torch.Tensor
    ground: torch.Tensor
    roughness: torch.Tensor
    dim: torch.Tensor
    palettes: torch.Tensor
    attempt: torch.Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice | torch.Tensor | list[int]) -> IFSParams:
        """The record of some pictures (a slice, a mask or a list of rows)."""
        return IFSParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def rows(self) -> list[IFS]:
        """The pictures one by one."""
        columns = {f.name: getattr(self, f.name).numpy() for f in fields(IFS)}
        return [IFS(**{name: column[i] for name, column in columns.items()}) for i in range(len(self))]


def stack(rows: list[IFS], attempts: list[int]) -> IFSParams:
    """The inverse of `IFSParams.rows`."""
    columns = {f.name: torch.from_numpy(np.stack([getattr(row, f.name) for row in rows])) for f in fields(IFS)}
    return IFSParams(**columns, attempt=torch.tensor(attempts))


POINTS = 8  # a pixel: 4 look grainy, 16 look the same
_WARM_UP = 32  # steps until an orbit has forgotten where it began
_STAMPS = 2 * LANES
_SHRINK = 16  # the area of patch n is that of the first over 1 + n / 16: 3 x 3 pixels of 256 for the last ones
_CYCLE = 128  # patches until the colours by order come back, as in FractalDB
_GRID = 64  # cells of the background's side
_COLOURS = 2048  # of a palette after interpolation


def hashes(key: int, count: int) -> np.ndarray:
    """(count,) int64, 63 pseudo-random bits each: SplitMix64 from the state ``key``."""
    x = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).view(np.int64)


@dataclass(frozen=True)
class Game:
    """The state of a game after its warm-up, and the hashes of all steps that were asked for."""

    maps: np.ndarray
    lanes: np.ndarray
    order: np.ndarray
    words: np.ndarray
    points: np.ndarray

    def follow(self, steps: int) -> np.ndarray:
        """The points (steps, 3, lanes) of the next steps: x, y and colour coordinate, float32."""
        from mixaug.mixing_sets.ifs import kernels as _kernels

        out = np.empty((steps, *self.points.shape), np.float32)
        out[-1] = self.points
        _kernels.follow(self.maps, self.lanes, self.order, self.words, _WARM_UP, out)
        return out

    def accumulate(self, centre: np.ndarray, half: np.ndarray, size: int) -> np.ndarray:
        """(size + 2, size + 2) int64: sums of all steps, a rim of zeros around them."""
        from mixaug.mixing_sets.ifs import kernels as _kernels

        scale = 0.5 * size / half
        view = np.stack([scale, 0.5 * size + 1.0 - centre * scale], 1).astype(np.float32).ravel()
        sums = np.zeros((size + 2, size + 2), np.int64)
        points = np.stack([self.points, self.points])
        _kernels.accumulate(self.maps, self.lanes, self.order, self.words, _WARM_UP, points, view, sums)
        sums[0], sums[-1], sums[:, 0], sums[:, -1] = 0, 0, 0, 0
        return sums


def settle(ifs: IFS, steps: int) -> Game:
    """Plays the warm-up of a game of ``steps`` further steps."""
    from mixaug.mixing_sets.ifs import kernels as _kernels

    count = int(ifs.maps)
    maps = np.empty((count, 8), np.float32)
    maps[:, :6] = ifs.systems[:count].reshape(count, 6)
    maps[:, 6], maps[:, 7] = ifs.memory, (1.0 - ifs.memory) * ifs.shades[:count]
    words = hashes(int(ifs.key), LANES + _WARM_UP + steps)
    order, words = np.argsort(words[:LANES]).astype(np.int32), words[LANES:]
    points = np.zeros((2, 3, LANES), np.float32)
    for step in range(0, _WARM_UP, 2):
        _kernels.follow(maps, ifs.lanes, order, words, step, points)
    return Game(maps, ifs.lanes, order, words, points[1])


def tables(palettes: np.ndarray) -> np.ndarray:
    """(2, 3, 2048) float32: palettes (2, 256, 3), cyclic, interpolated."""
    entries = palettes.shape[1]
    part = np.arange(_COLOURS // entries)[:, None] * (entries / _COLOURS)
    low, high = palettes[:, :, None], np.roll(palettes, -1, 1)[:, :, None]
    fine = (low + part * (high - low)).reshape(2, _COLOURS, 3)
    return np.ascontiguousarray(fine.transpose(0, 2, 1), np.float32)


def _ground(ifs: IFS, size: int) -> np.ndarray:
    """(size, size) int32, number of the background's colour: diamond-square heights on the second palette."""
    from mixaug.mixing_sets.ifs import kernels as _painting

    noise = hashes(~int(ifs.key) & 0x7FFFFFFFFFFFFFFF, _GRID * _GRID).reshape(_GRID, _GRID) * 2.0**-63
    _painting.plasma(noise, ifs.roughness)
    out = np.empty((size, size), np.int32)
    _painting.spread(noise, ifs.ground[0], ifs.ground[1], _COLOURS, out)
    return out


def _stamps(ifs: IFS, size: int) -> np.ndarray:
    """(2 size, 2 size) int16: number of the colour of the topmost patch, -1 where there is none."""
    from mixaug.mixing_sets.ifs import kernels as _painting

    steps, side = _STAMPS // LANES, 2 * size
    game = settle(ifs, steps)
    # In the shuffled order of the lanes, or the last map's patches would cover all others.
    points = game.follow(steps)[:, :, game.order].transpose(0, 2, 1).reshape(_STAMPS, 3).astype(np.float64)
    n = np.arange(_STAMPS)
    cell = ifs.stamp / (3.0 * np.sqrt(1.0 + n / _SHRINK))
    at = (points[:, :2] - ifs.centre) * (0.5 / ifs.half) + 0.5
    owner = np.searchsorted(ifs.lanes[1:], game.order, side="right")
    place = ifs.base[0] + (ifs.base[1] * points[:, 2] + ifs.base[2] * (n % _CYCLE / _CYCLE))
    colour = np.minimum((place - np.floor(place)) * _COLOURS, _COLOURS - 1).astype(np.int16)
    marks = np.full((side, side), -1, np.int16)
    _painting.stamp(at, cell, np.tile(ifs.patches[owner], steps), colour, marks)
    return marks


def paint(ifs: IFS, out: np.ndarray) -> None:
    """Renders one picture into ``out`` (3, size, size) uint8."""
    from mixaug.mixing_sets.ifs import kernels as _painting

    size, dim = out.shape[-1], np.float32(ifs.dim)
    ground, colours = _ground(ifs, size), tables(ifs.palettes)
    if KINDS[ifs.kind] == "patches":
        _painting.blend(_stamps(ifs, size), dim, ground, colours, out)
        return
    game = settle(ifs, -(-POINTS * size * size // LANES))
    sums = game.accumulate(ifs.centre, ifs.half, size)
    unit = np.float32(size * size / max(int((sums >> 40).sum()), 1))
    slopes = ifs.light * math.sqrt(size / 64)  # between smooth heights and noise: relief looks alike at all sizes
    look = np.array([*ifs.base, ifs.veil, *slopes, ifs.relief, dim], np.float32)
    _painting.develop(sums, unit, look, ground, colours, out)
