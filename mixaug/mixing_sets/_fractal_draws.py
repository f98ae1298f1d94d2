"""One draw of a fractal: which map, where to look at it, its trap and its colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixaug.mixing_sets._palettes import draw_palettes
from mixaug.mixing_sets._params import FAMILIES, IMAGE, N_FLOATS, TRAPS, Packed, numbers
from mixaug.mixing_sets._stream import Stream
from mixaug.mixing_sets._trap_images import BITMAP_SIZE, draw_bitmap

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
    from mixaug.mixing_sets import _fractal_kernels as _kernels

    def boundary(ints: np.ndarray, reach: float, wanted: int) -> tuple[float, float]:
        points = s.disc(24, reach)
        point: tuple[float, float] = _kernels.find_boundary(
            ints, numbers(ints, floats, np.float64), points, wanted, limit
        )
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
