"""The calls into the C++ forms of IPMix's sampler and replay: pointers, sizes and strides, nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from mixaug_ext import library

_POINTERS = (
    "images", "out", "pictures", "depth", "op", "source", "level", "sign", "box", "a", "b", "keep", "seed",
    "picture", "top", "left", "skip", "coef",
)  # fmt: skip
_SIZES = ("rows", "batch", "channels", "height", "width", "k", "t", "side", "bank")


_DRAWN_INTS = ("depth", "op", "sign", "box", "source", "picture", "top", "left")
_DRAWN_FLOATS = ("weight", "m", "level", "a", "b", "keep")
_DRAW_SIZES = (
    "rows", "k", "t", "height", "width", "n_sides", "whole", "linear", "image_level", "operations", "pictures", "side",
)  # fmt: skip


class SampleArgs(ctypes.Structure):
    """Field by field the struct of the same name in csrc/ipmix.cpp."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("uniforms", "sides", *_DRAWN_INTS, *_DRAWN_FLOATS)]
        + [(name, ctypes.c_int64) for name in _DRAW_SIZES]
        + [(name, ctypes.c_double) for name in ("severity", "beta", "self_mix")]
    )


class IPMixArgs(ctypes.Structure):
    """Field by field the struct of the same name in csrc/ipmix.cpp."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in _POINTERS]
        + [(name, ctypes.c_int64) for name in _SIZES]
        + [("in_strides", ctypes.c_int64 * 4), ("out_strides", ctypes.c_int64 * 4)]
        + [(name, ctypes.c_int64) for name in ("is_float", "mixed_input", "threads")]
    )


def ipmix(
    images: Tensor,
    out: Tensor,
    pictures: Tensor,
    record: dict[str, Tensor],
    *,
    side: int,
    mixed_input: bool,
    threads: int,
) -> None:
    """Fills ``out`` with the replay of ``record`` on ``images``.

    Args:
        images: ``(B, C, H, W)`` uint8 or float32 on the CPU, any strides. Only read.
        out: ``(rows, C, H, W)`` of the same dtype, any strides without overlap. Row ``r`` comes from image ``r % B``.
        pictures: ``(P, 3, bank, bank)`` uint8, contiguous, ``bank <= side``; only read, by rows that use a picture.
        side: side that the pictures are enlarged to, in pixels.
        record: the tensors named in :class:`IPMixArgs`, contiguous, int64 and float32.
        mixed_input: each chain starts from the result of the one before.
        threads: threads to use, this one included.

    Raises:
        RuntimeError: the library is not loaded.
        MemoryError: no memory for the scratch buffers.
    """
    lib = library()
    if lib is None:
        raise RuntimeError("mixaug_ext._ipmix.ipmix needs the compiled library; see mixaug_ext.why_not()")
    args = IPMixArgs()
    tensors = {"images": images, "out": out, "pictures": pictures} | record
    for name in _POINTERS:
        setattr(args, name, tensors[name].data_ptr())
    batch, channels, height, width = images.shape
    rows, k, t = record["op"].shape
    sizes = (rows, batch, channels, height, width, k, t, side, pictures.shape[-1])
    for name, value in zip(_SIZES, sizes, strict=True):
        setattr(args, name, value)
    args.in_strides[:] = images.stride()
    args.out_strides[:] = out.stride()
    args.is_float = images.dtype == torch.float32
    args.mixed_input = mixed_input
    args.threads = threads
    if lib.mixaug_ipmix(ctypes.byref(args)):
        raise MemoryError(f"IPMix: no memory for the scratch buffers of {threads} threads at {height}x{width}")


def sample(
    uniforms: Tensor, sides: Sequence[int], sizes: dict[str, int], severity: float, beta: float, self_mix: float
) -> dict[str, Tensor]:
    """The tensors of a record (all but ``seed``) from the uniforms of each row.

    Args:
        uniforms: ``(rows, k (16 t + 3) + 4)`` float32 in ``[0, 1)``, contiguous, on the CPU.
        sides: patch sides in pixels, may be empty.
        sizes: ``k, t, height, width, whole, linear, image_level, operations, pictures, side``.
        severity: upper end of the strength.
        beta: parameter of the exponents.
        self_mix: probability of mixing with the image itself.

    Returns:
        the tensors by name, shaped as in ``IPMixParams``.

    Raises:
        RuntimeError: the library is not loaded.
    """
    lib = library()
    if lib is None:
        raise RuntimeError("mixaug_ext._ipmix.sample needs the compiled library; see mixaug_ext.why_not()")
    rows, k, t = uniforms.shape[0], sizes["k"], sizes["t"]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys((*_DRAWN_INTS, *_DRAWN_FLOATS), (rows, k, t))
    shapes |= {"depth": (rows, k), "weight": (rows, k), "box": (rows, k, t, 4)}
    shapes |= dict.fromkeys(("picture", "top", "left", "m"), (rows,))
    out = {name: torch.empty(shapes[name], dtype=torch.int64) for name in _DRAWN_INTS}
    out |= {name: torch.empty(shapes[name], dtype=torch.float32) for name in _DRAWN_FLOATS}
    args = SampleArgs(severity=severity, beta=beta, self_mix=self_mix, rows=rows, n_sides=len(sides), **sizes)
    listed = (ctypes.c_int64 * max(1, len(sides)))(*sides)
    args.sides = ctypes.cast(listed, ctypes.c_void_p)
    args.uniforms = uniforms.data_ptr()
    for name, tensor in out.items():
        setattr(args, name, tensor.data_ptr())
    lib.mixaug_ipmix_sample(ctypes.byref(args))
    return out
