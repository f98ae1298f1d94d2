"""The record of what determines a fractal, and its layout for the compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

FAMILIES = ("power", "phoenix", "pole")
TRAPS = ("point", "line", "cross", "circle", "square")

# Columns of the packed arrays that the compiled kernels read, in their order (see `_fractal_kernels.py`).
_INTS = ("family", "degree", "pole", "parameter_plane", "fold", "conj", "trap")
_FLOATS = (
    ("centre", 2), ("view_axis", 2), ("width", 0), ("constant", 2), ("memory", 2),
    ("trap_centre", 2), ("trap_axis", 2), ("trap_radius", 0), ("stripe_axis", 2), ("stripe_harmonic", 0),
    ("base", 5), ("glow", 4), ("glow_width", 0), ("shine", 0), ("shade", 0),
)  # fmt: skip
N_INTS = len(_INTS)
N_FLOATS = sum(max(width, 1) for _, width in _FLOATS)


@dataclass(frozen=True)
class FractalParams:
    """Everything that determines N fractals: a record that can be saved, replayed and shown.

    Args:
        family: (N,) int64, index into ``FAMILIES``: ``power`` z^d + c, ``phoenix`` z^2 + c + p z_before,
            ``pole`` z^d + c / z^m.
        degree, pole: (N,) int64, the powers d (2 to 5) and m (1 to 3).
        parameter_plane: (N,) int64, 1 when the pixel is c (Mandelbrot), 0 when it is the start of the orbit (Julia).
        fold, conj: (N,) int64, 1 takes absolute values of both parts (Burning Ship) / the conjugate (Tricorn) first.
        trap: (N,) int64, index into ``TRAPS``.
        centre, view_axis, width: (N, 2), (N, 2) unit, (N,) float64: the square of the plane that is shown.
        constant, memory: (N, 2) float64: c of a Julia set or the start of a Mandelbrot orbit; p of ``phoenix``.
        trap_centre, trap_axis, trap_radius: (N, 2), (N, 2) unit, (N,) float64.
        stripe_axis, stripe_harmonic: (N, 2) unit, (N,) float64: the angle average of the orbit.
        base: (N, 5) float64, weights of (1, root of smooth count, trap depth, stripe, step of nearest approach) in the
            place on the first palette; glow: (N, 4) the same without the count on the second.
        glow_width, shine, shade: (N,) float64: how far the trap glows, its highlight, the darkening by the stripes.
        palettes: (N, 2, 256, 3) float64 in [0, 255], cyclic colour tables.
        attempt: (N,) int64, how many draws were refused before this one.
    """

    family: torch.Tensor
    degree: torch.Tensor
    pole: torch.Tensor
    parameter_plane: torch.Tensor
    fold: torch.Tensor
    conj: torch.Tensor
    trap: torch.Tensor
    centre: torch.Tensor
    view_axis: torch.Tensor
    width: torch.Tensor
    constant: torch.Tensor
    memory: torch.Tensor
    trap_centre: torch.Tensor
    trap_axis: torch.Tensor
    trap_radius: torch.Tensor
    stripe_axis: torch.Tensor
    stripe_harmonic: torch.Tensor
    base: torch.Tensor
    glow: torch.Tensor
    glow_width: torch.Tensor
    shine: torch.Tensor
    shade: torch.Tensor
    palettes: torch.Tensor
    attempt: torch.Tensor

    def __len__(self) -> int:
        return len(self.family)

    def __getitem__(self, rows: slice | torch.Tensor | list[int]) -> FractalParams:
        """The record of some pictures (a slice, a mask or a list of rows)."""
        return FractalParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def packed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The kernels' arrays: (N, 7) int64, (N, 29) float64, (N, 2, 256, 3) float64."""
        ints = torch.stack([getattr(self, name) for name in _INTS], 1)
        floats = torch.cat([getattr(self, name).reshape(len(self), -1) for name, _ in _FLOATS], 1)
        return ints.numpy(), floats.numpy(), self.palettes.contiguous().numpy()


def unpack(ints: np.ndarray, floats: np.ndarray, palettes: np.ndarray, attempt: np.ndarray) -> FractalParams:
    """The inverse of `FractalParams.packed`."""
    values: dict[str, torch.Tensor] = {name: torch.from_numpy(ints[:, k].copy()) for k, name in enumerate(_INTS)}
    start = 0
    for name, width in _FLOATS:
        stop = start + max(width, 1)
        column = floats[:, start:stop] if width else floats[:, start]
        values[name] = torch.from_numpy(column.copy())
        start = stop
    return FractalParams(**values, palettes=torch.from_numpy(palettes), attempt=torch.from_numpy(attempt))
