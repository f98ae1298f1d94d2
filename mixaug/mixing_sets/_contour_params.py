"""The record of what determines a picture of radial contours, and its layout for the compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

MAX_FIGURES = 14

# Columns of the packed arrays that the compiled kernels read, in their order (see `_contour_kernels.py`).
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
