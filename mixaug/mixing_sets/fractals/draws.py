"""The record of what determines a fractal, and its layout for the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod

import numpy as np
import torch

import mixaug_ext
from mixaug.mixing_sets.drawing import Stream, direction, draw_palettes
from mixaug_ext import _fractals

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

# Columns of the packed arrays that the compiled kernels read, in their order (see `kernels.py`).
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


BITMAP_SIZE = 64
_EDGE = 0.05  # width of a soft edge, half the side being 1


def _rise(values: np.ndarray) -> np.ndarray:
    """Smoothstep of values, 0 below 0 and 1 above 1."""
    t = np.clip(values, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def _petals(x: np.ndarray, y: np.ndarray, count: int) -> np.ndarray:
    """Cosine of ``count`` times the angle, as Re(z^count) / |z|^count."""
    a, b = x, y
    for _ in range(count - 1):
        a, b = a * x - b * y, a * y + b * x
    norm = np.sqrt(x * x + y * y) + 1.0e-6
    scale = norm
    for _ in range(count - 1):
        scale = scale * norm
    return np.asarray(a / scale)


def _body(s: Stream, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A field that is 0 in the middle of a shape and 1 on its edge, and a second one that crosses it."""
    r = np.sqrt(x * x + y * y)
    kind = s.integer(5)
    petals, depth = 2 + s.integer(6), s.uniform(0.12, 0.45)
    cosine = _petals(x, y, petals)
    if kind == 0:  # a flower
        return r / (0.92 * (1.0 - depth + depth * cosine)), cosine
    if kind == 1:  # a frame or a lens: |x|^4 + |y|^4
        return np.sqrt(np.sqrt(x * x * (x * x) + y * y * (y * y))) / 0.9, cosine
    if kind == 2:  # a crescent
        away = s.uniform(0.25, 0.5)
        inner = np.sqrt((x - away) * (x - away) + y * y) / 0.75
        return np.maximum(r / 0.92, 2.0 - inner), inner
    if kind == 3:  # a cloud of overlapping discs
        nearest = np.full_like(r, 2.0)
        for _ in range(5):
            ox, oy, size = s.uniform(-0.5, 0.5), s.uniform(-0.5, 0.5), s.uniform(0.2, 0.42)
            nearest = np.minimum(nearest, np.sqrt((x - ox) * (x - ox) + (y - oy) * (y - oy)) / size)
        return nearest, cosine
    # a leaf: where two discs overlap
    away = s.uniform(0.35, 0.75)
    radius = np.sqrt(0.81 + away * away)
    left, right = np.sqrt((x - away) * (x - away) + y * y), np.sqrt((x + away) * (x + away) + y * y)
    return np.maximum(left, right) / radius * 1.4 - 0.4, (left - right) / away


def draw_bitmap(s: Stream, palette: np.ndarray) -> np.ndarray:
    """(64, 64, 4) uint8 RGBA: one shape with rings, veins or a texture, transparent around it."""
    line = (np.arange(BITMAP_SIZE) + 0.5) * (2.0 / BITMAP_SIZE) - 1.0
    y, x = np.meshgrid(line, line, indexing="ij")
    ux, uy = direction(s.uniform(0.0, 1.0))
    x, y = x * ux - y * uy, x * uy + y * ux
    field, across = _body(s, x, y)
    rings, veins = s.uniform(0.15, 1.3), s.uniform(-0.25, 0.25)
    place = s.uniform(0.0, 1.0) + rings * field + veins * across
    colours = palette[((place - np.floor(place)) * len(palette)).astype(np.int64) % len(palette)]
    rim = _rise((field - s.uniform(0.72, 0.9)) / 0.08)[..., None]  # a dark or bright outline
    colours = colours + 0.75 * rim * ((255.0 if s.chance(0.5) else 20.0) - colours)
    hollow = s.uniform(0.2, 0.5) if s.chance(0.3) else -1.0
    alpha = _rise((1.0 - field) / _EDGE) * _rise((field - hollow) / _EDGE) * s.uniform(0.75, 1.0)
    # Nothing sticks out of the square, whose border would cut it off.
    alpha = alpha * _rise((1.0 - np.sqrt(x * x + y * y)) / _EDGE)
    return np.asarray(np.concatenate([colours, 255.0 * alpha[..., None]], -1) + 0.5).astype(np.uint8)


# Shares chosen by eye on contact sheets; the classic sets make up more than half.
KIND_SHARES = {
    "julia": 0.22, "julia-powers": 0.17, "mandelbrot": 0.15, "mandelbrot-powers": 0.10, "burning-ship": 0.06,
    "tricorn": 0.05, "phoenix": 0.07, "pole": 0.08, "newton": 0.06, "nova": 0.04,
}  # fmt: skip
_TRAP_SHARES = {
    "point": 0.16, "line": 0.15, "cross": 0.16, "circle": 0.17, "square": 0.12, "star": 0.12, "image": 0.12,
}  # fmt: skip
_NO_BITMAP = np.zeros((BITMAP_SIZE, BITMAP_SIZE, 4), np.uint8)


def _draw_map(s: Stream, kinds: Sequence[str]) -> tuple[str, list[int]]:
    """Which map is iterated: family, degree, pole, parameter plane, fold, conjugate."""
    total = sum(KIND_SHARES[kind] for kind in kinds)
    kind = kinds[s.pick([KIND_SHARES[kind] / total for kind in kinds])]
    family, degree, pole, plane = "power", 2, 1, 0
    if kind == "julia-powers":
        degree = 3 + s.integer(3)
    elif kind in ("mandelbrot", "mandelbrot-powers"):
        plane = 1
        degree = 2 if kind == "mandelbrot" else 3 + s.integer(2)
    elif kind in ("burning-ship", "tricorn"):
        plane = int(s.chance(0.6))
    elif kind == "phoenix":
        family = "phoenix"
    elif kind == "pole":
        family, degree, pole = "pole", 2 + s.integer(3), 1 + s.integer(3)
    elif kind in ("newton", "nova"):
        family, degree = "newton", 3 + s.integer(3)
        plane = int(kind == "nova" and s.chance(0.5))
    return kind, [FAMILIES.index(family), degree, pole, plane, int(kind == "burning-ship"), int(kind == "tricorn")]


def _expand(roots: list[tuple[float, float]]) -> np.ndarray:
    """(6, 2) coefficients, that of z^5 first, of the product of z - root."""
    coefficients = [(1.0, 0.0)]
    for x, y in roots:
        shifted = [*coefficients, (0.0, 0.0)]
        for k, (a, b) in enumerate(coefficients):
            c, d = shifted[k + 1]
            shifted[k + 1] = (c - (x * a - y * b), d - (x * b + y * a))
        coefficients = shifted
    return np.array([(0.0, 0.0)] * (6 - len(coefficients)) + coefficients)


def _draw_newton(s: Stream, kind: str, degree: int, plane: bool, floats: np.ndarray) -> None:
    """Polynomial, relaxation and c."""
    if plane or s.chance(0.35):  # z^degree - 1
        coefficients = np.zeros((6, 2))
        coefficients[5 - degree, 0], coefficients[5, 0] = 1.0, -1.0
    else:
        coefficients = _expand([tuple(point) for point in s.disc(degree, 1.1).tolist()])
    floats[30:42] = coefficients.reshape(-1)
    floats[7:9] = 1.0, 0.0
    if s.chance(0.7):
        floats[7:9] = s.uniform(0.55, 1.45), s.uniform(-0.45, 0.45)
    if kind == "nova":
        # Start of the orbits in the parameter plane: the root 1, where the step is zero.
        floats[5:7] = (1.0, 0.0) if plane else (s.uniform(-0.5, 0.5), s.uniform(-0.4, 0.4))


def _draw_view(s: Stream, kind: str, ints: np.ndarray, floats: np.ndarray, limit: int) -> None:
    """Constant, centre and width: near the boundary, where the structure is. Writes into ``floats``."""

    def boundary(ints: np.ndarray, reach: float, wanted: int) -> tuple[float, float]:
        points, typed = s.disc(24, reach), numbers(ints, floats, np.float64)
        if mixaug_ext.library() is not None:
            return _fractals.find_boundary(ints, typed, points, wanted, limit)
        from mixaug.mixing_sets.fractals import kernels

        point: tuple[float, float] = kernels.find_boundary(ints, typed, points, wanted, limit)
        return point

    degree, plane = int(ints[1]), ints[3] == 1
    wanted = 6 + s.integer(40)
    reach = 1.9 if plane and degree == 2 else 1.4
    if kind in ("newton", "nova"):
        _draw_newton(s, kind, degree, plane, floats)
        wanted = 12 + s.integer(60)
    elif kind == "phoenix":
        floats[5:9] = s.uniform(0.2, 0.62), s.uniform(-0.08, 0.08), s.uniform(-0.75, 0.2), s.uniform(-0.1, 0.1)
    elif kind == "pole":
        ux, uy = s.unit()
        size = s.octaves(0.35, 5)
        floats[5:7] = size * ux, size * uy
    elif not plane:  # c of a Julia set, on the boundary of its Mandelbrot set
        parameters = ints.copy()
        parameters[3] = 1
        floats[5:7] = boundary(parameters, 1.4, 12 + s.integer(150))
    if plane:
        # Deep in the plane of Nova lie smooth edges of slow convergence only.
        floats[4] = s.octaves(2.4, 3) if kind == "nova" else s.octaves(1.2, 9)
        wanted = 12 + s.integer(90) if kind != "nova" else wanted
    elif s.chance(0.35):  # the whole Julia set
        floats[4] = s.uniform(1.8, 3.4)
        floats[0:2] = s.uniform(-0.3, 0.3), s.uniform(-0.3, 0.3)
        return
    else:
        floats[4] = s.octaves(2.0, 3 if kind in ("newton", "nova") else 5)
    floats[0:2] = boundary(ints, reach, wanted)


def _draw_trap(s: Stream, trap: int, floats: np.ndarray) -> None:
    floats[9:11] = s.uniform(-0.9, 0.9), s.uniform(-0.9, 0.9)
    if s.chance(0.25):
        floats[9:11] = 0.0
    floats[11:13] = s.unit()
    floats[13] = s.uniform(0.15, 1.1)
    if trap == IMAGE:
        floats[13] = s.uniform(0.2, 0.7)


def _draw_colouring(s: Stream, family: str, floats: np.ndarray) -> None:
    floats[14:16] = s.unit()
    floats[16] = float(s.chance(0.4))
    sign = 1.0 if s.chance(0.5) else -1.0
    floats[17] = s.uniform(0.0, 1.0)
    floats[18] = sign * s.uniform(0.12, 0.5)
    floats[19] = s.uniform(-0.16, 0.16)
    floats[20] = s.uniform(-0.45, 0.45)
    floats[21] = s.uniform(-0.06, 0.06) if s.chance(0.5) else 0.0
    floats[22] = s.uniform(-0.3, 0.3) if family == "newton" else 0.0
    floats[23] = s.uniform(0.0, 1.0)
    floats[24] = s.uniform(0.05, 0.3)
    floats[25] = s.uniform(-0.3, 0.3)
    floats[26] = s.uniform(-0.15, 0.15) if s.chance(0.6) else 0.0
    floats[27] = s.octaves(0.5, 5)
    floats[28] = s.uniform(0.0, 0.7) if s.chance(0.6) else 0.0
    floats[29] = s.uniform(0.0, 0.7)


def draw(seed: int, index: int, attempt: int, kinds: Sequence[str], limit: int) -> Packed:
    """One unchecked draw in the kernels' layout."""
    s = Stream(seed, index, attempt)
    kind, columns = _draw_map(s, kinds)
    trap = s.pick(tuple(_TRAP_SHARES[name] for name in TRAPS))
    ints = np.array([*columns, trap], np.int64)
    floats = np.zeros(N_FLOATS)
    floats[2:4] = s.unit()
    _draw_view(s, kind, ints, floats, limit)
    _draw_trap(s, trap, floats)
    _draw_colouring(s, FAMILIES[columns[0]], floats)
    palettes = draw_palettes(s, 2)
    bitmap = draw_bitmap(s, palettes[1]) if trap == IMAGE else _NO_BITMAP
    return Packed(ints, floats, palettes, bitmap)
