"""The record of what determines a picture of an iterated function system."""

from __future__ import annotations

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
