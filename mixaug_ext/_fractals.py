"""The calls into the compiled fractal kernels: pointers and numbers, nothing else."""

from __future__ import annotations

import ctypes
import struct

import numpy as np

import mixaug_ext

#: The struct RenderArgs of csrc/fractals.cpp, as 64-bit words in its order.
_pack = struct.Struct("7q8q").pack


def _address(name: str, value: np.ndarray, dtype: type, shape: tuple[int, ...]) -> int:
    """Where an array begins that a kernel reads; the last check before a pointer is taken."""
    if value.dtype != dtype or value.shape != shape or not value.flags.c_contiguous:
        raise ValueError(f"{name} must be contiguous {np.dtype(dtype)} {shape}, got {value.dtype} {value.shape}")
    return value.ctypes.data


def render_rows(
    ints: np.ndarray,
    floats: np.ndarray,
    numbers: np.ndarray,
    colouring: np.ndarray,
    palettes: np.ndarray,
    bitmap: np.ndarray,
    image: bool,
    samples: int,
    limit: int,
    first: int,
    out: np.ndarray,
) -> None:
    """Renders the rows ``out`` (3, rows, size) uint8 of a picture, as ``kernels.render_rows`` does, with the same bits.

    Args:
        ints, floats: (7,) int64 and (42,) float64 of the record.
        numbers: (57,) float32, or float64 in deep views.
        colouring: (42,) float32.
        palettes: (2, 256, 3) float64.
        bitmap: (64, 64, 4) uint8.
        image: whether the trap is the bitmap.
        samples: points a pixel and axis.
        limit: longest orbit.
        first: row of the picture that ``out`` begins with.
        out: written; its rows lie side by side.

    Raises:
        ValueError: an array of another kind.
        MemoryError: no memory for the orbits of a band.
    """
    _, rows, size = out.shape
    if out.dtype != np.uint8 or out.shape[0] != 3 or out.strides[1:] != (size, 1):
        raise ValueError(f"out must be uint8 (3, rows, size) with whole rows, got {out.dtype} {out.shape}")
    deep = numbers.dtype == np.float64
    words = _pack(
        _address("ints", ints, np.int64, (7,)),
        _address("floats", floats, np.float64, (42,)),
        _address("numbers", numbers, np.float64 if deep else np.float32, (57,)),
        _address("colouring", colouring, np.float32, (42,)),
        _address("palettes", palettes, np.float64, (2, 256, 3)),
        _address("bitmap", bitmap, np.uint8, (64, 64, 4)),
        *(out.ctypes.data, out.strides[0], size, rows, first, samples, limit, image, deep),
    )
    failed = mixaug_ext.library().mixaug_fractal_rows(words)  # type: ignore[union-attr]
    if failed == 1:
        raise MemoryError(f"fractals: no memory for the orbits of {rows} rows of {size} pixels")
    if failed:
        raise ValueError(f"size, samples and limit must be at least 1, got {size}, {samples} and {limit}")


def find_boundary(
    ints: np.ndarray, numbers: np.ndarray, candidates: np.ndarray, wanted: int, limit: int
) -> tuple[float, float]:
    """A point of the plane where the escape count crosses ``wanted``, as ``kernels.find_boundary`` finds it.

    Args:
        ints: (7,) int64 of the record.
        numbers: (57,) float64.
        candidates: (n, 2) float64, at least one.
        wanted: an escape count.
        limit: the longest orbit.
    """
    point = np.empty(2)
    mixaug_ext.library().mixaug_fractal_boundary(  # type: ignore[union-attr]
        ctypes.c_void_p(_address("ints", ints, np.int64, (7,))),
        ctypes.c_void_p(_address("numbers", numbers, np.float64, (57,))),
        ctypes.c_void_p(_address("candidates", candidates, np.float64, (len(candidates), 2))),
        *(ctypes.c_int64(value) for value in (len(candidates), wanted, limit)),
        ctypes.c_void_p(point.ctypes.data),
    )
    return float(point[0]), float(point[1])
