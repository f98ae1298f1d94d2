"""The call into the C++ form of IPMix's replay: pointers, sizes and strides, nothing else."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from mixaug_ext import library

_POINTERS = (
    "images", "out", "pictures", "depth", "op", "source", "level", "sign", "box", "a", "b", "keep", "seed",
    "picture", "top", "left", "skip", "coef",
)  # fmt: skip
_SIZES = ("rows", "batch", "channels", "height", "width", "k", "t", "side", "bank")


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
