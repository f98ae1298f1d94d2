"""The record of what determines a fractal, and its layout for the compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

import numpy as np
import torch

FAMILIES = ("power", "phoenix", "pole", "newton")

# A trap is where d = |shape - radius| is small; shape = low min(u, v) + high max(u, v) + round sqrt(u^2 + v^2), with u
# and v the distances from the two axes of the trap. Columns: the factor of v, low, high, round, and whether the drawn
# radius counts. On "image" a picture lies, of the half side ``trap_radius``.
_TRAP_SHAPES = {
    "point": (1.0, 0.0, 0.0, 1.0, False),
    "line": (0.0, 0.0, 1.0, 0.0, False),
    "cross": (1.0, 1.0, 0.0, 0.0, False),
    "circle": (1.0, 0.0, 0.0, 1.0, True),
    "square": (1.0, 0.0, 1.0, 0.0, True),
    "star": (1.0, 3.0, 1.0, 0.0, True),
    "image": (1.0, 0.0, 1.0, 0.0, False),
}
TRAPS = tuple(_TRAP_SHAPES)
IMAGE = TRAPS.index("image")

# Columns of the packed arrays that the compiled kernels read, in their order (see `_fractal_kernels.py`).
_INTS = ("family", "degree", "pole", "parameter_plane", "fold", "conj", "trap")
_FLOATS = (
    ("centre", (2,)), ("view_axis", (2,)), ("width", ()), ("constant", (2,)), ("memory", (2,)), ("trap_centre", (2,)),
    ("trap_axis", (2,)), ("trap_radius", ()), ("stripe_axis", (2,)), ("stripe_harmonic", ()), ("base", (6,)),
    ("glow", (4,)), ("glow_width", ()), ("shine", ()), ("shade", ()), ("polynomial", (6, 2)),
)  # fmt: skip
N_FLOATS = sum(prod(shape) for _, shape in _FLOATS)
# Constants that the kernels need in the type of the orbits: 1, 2, a number that keeps divisions by a norm finite,
# |z|^2 at which an orbit counts as escaped (far out, so that the smooth count is smooth), |step|^2 at which Newton's
# method has converged, the distance at which an orbit is back where it was, the regulariser of Newton's step, the first
# step that is remembered, and a number larger than any distance.
_CONSTANTS = (1.0, 2.0, 1.0e-12, 1.0e4, 1.0e-6, 2.0**-15, 1.0e-3, 8.0, 1.0e3)
# Narrower views are followed in float64. None is drawn: at 512 samples a side, those of wider ones are 33 roundings of
# 1 apart.
_DEEP = 0.002


@dataclass(frozen=True)
class FractalParams:
    """Everything that determines N fractals: a record that can be saved, replayed and shown.

    Args:
        family: (N,) int64, index into ``FAMILIES``: ``power`` z^d + c, ``phoenix`` z^2 + c + p z_before, ``pole``
            z^d + c / z^m, ``newton`` z - p f(z) / f'(z) + c with a polynomial f.
        degree, pole: (N,) int64, the powers d (2 to 5) and m (1 to 3).
        parameter_plane: (N,) int64, 1 when the pixel is c (Mandelbrot), 0 when it is the start of the orbit (Julia).
        fold, conj: (N,) int64, 1 takes absolute values of both parts (Burning Ship) / the conjugate (Tricorn) first.
        trap: (N,) int64, index into ``TRAPS``.
        centre, view_axis, width: (N, 2), (N, 2) unit, (N,) float64: the square of the plane that is shown.
        constant, memory: (N, 2) float64: c of a Julia set or the start of a Mandelbrot orbit; p of ``phoenix`` and
            ``newton``.
        trap_centre, trap_axis, trap_radius: (N, 2), (N, 2) unit, (N,) float64.
        stripe_axis, stripe_harmonic: (N, 2) unit, (N,) float64: the angle average of the orbit.
        base: (N, 6) float64, weights of (1, root of smooth count, trap depth, stripe, step of nearest approach, place
            of the root that was reached) in the place on the first palette; glow: (N, 4) those of (1, trap depth,
            stripe, step) on the second.
        glow_width, shine, shade: (N,) float64: how far the trap glows, its highlight, the darkening by the stripes.
        polynomial: (N, 6, 2) float64, f of ``newton``: complex coefficients of z^5, z^4, ..., 1.
        palettes: (N, 2, 256, 3) float64 in [0, 255], cyclic colour tables.
        bitmap: (N, 64, 64, 4) uint8, RGBA, the picture on the trap ``image``; else zeros.
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
    polynomial: torch.Tensor
    palettes: torch.Tensor
    bitmap: torch.Tensor
    attempt: torch.Tensor

    def __len__(self) -> int:
        return len(self.family)

    def __getitem__(self, rows: slice | torch.Tensor | list[int]) -> FractalParams:
        """The record of some pictures (a slice, a mask or a list of rows)."""
        return FractalParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def packed(self) -> Packed:
        """The kernels' arrays."""
        ints = torch.stack([getattr(self, name) for name in _INTS], 1)
        floats = torch.cat([getattr(self, name).reshape(len(self), -1) for name, _ in _FLOATS], 1)
        return Packed(
            ints.numpy(), floats.numpy(), self.palettes.contiguous().numpy(), self.bitmap.contiguous().numpy()
        )


@dataclass(frozen=True)
class Packed:
    """N records, or without the first axis one, as arrays: int64 (N, 7), float64 (N, 42), palettes and bitmaps."""

    ints: np.ndarray
    floats: np.ndarray
    palettes: np.ndarray
    bitmap: np.ndarray

    def row(self, i: int) -> Packed:
        return Packed(self.ints[i], self.floats[i], self.palettes[i], self.bitmap[i])

    def is_deep(self) -> bool:
        """Whether the view is so narrow that float32 would not tell its points apart."""
        return bool(self.floats[4] < _DEEP)


def numbers(ints: np.ndarray, floats: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """The row ``floats`` of one picture with the numbers of its trap and the constants, in the type of the orbits."""
    name = TRAPS[ints[6]]
    *shape, sized = _TRAP_SHAPES[name]
    radius = floats[13]
    trap = (*shape, radius if sized else 0.0, radius if name == "image" else -1.0)
    return np.concatenate([floats, trap, _CONSTANTS]).astype(dtype)


def unpack(rows: list[Packed], attempts: list[int]) -> FractalParams:
    """The record of pictures that were drawn one by one."""
    ints, floats = np.stack([row.ints for row in rows]), np.stack([row.floats for row in rows])
    values: dict[str, torch.Tensor] = {name: torch.from_numpy(ints[:, k].copy()) for k, name in enumerate(_INTS)}
    start = 0
    for name, shape in _FLOATS:
        stop = start + prod(shape)
        values[name] = torch.from_numpy(floats[:, start:stop].reshape(-1, *shape).copy())
        start = stop
    return FractalParams(
        **values,
        palettes=torch.from_numpy(np.stack([row.palettes for row in rows])),
        bitmap=torch.from_numpy(np.stack([row.bitmap for row in rows])),
        attempt=torch.tensor(attempts, dtype=torch.int64),
    )
