"""The calls around the records that the kernels read: their ranges in one pass, and pointers behind a check."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import mixaug_ext

INTS, FLOATS, SIGNS, BOXES = range(4)

#: The struct RecordField of csrc/records.cpp, as 64-bit words in its order.
_pack = struct.Struct("4q2d").pack


def address(name: str, value: Tensor, dtype: torch.dtype, count: int) -> int:
    """The address of a tensor that a kernel reads or writes as ``count`` contiguous elements of ``dtype``.

    This is the last check before a pointer is taken: a kernel cannot tell int32 from int64.

    Args:
        name: of the tensor, for messages.
        value: the tensor.
        dtype: in which the kernel sees it.
        count: elements that the kernel may touch.

    Raises:
        TypeError: another dtype.
        ValueError: not contiguous, or of another size.

    Example:
        >>> address("depth", torch.zeros(3, dtype=torch.int64), torch.int64, 3) > 0
        True
    """
    if value.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {value.dtype}")
    if not value.is_contiguous() or value.is_neg() or value.numel() != count:
        raise ValueError(f"{name} must be {count} contiguous elements, got shape {tuple(value.shape)}")
    return value.data_ptr()


#: Of a field: its elements, kind, lowest and highest whole number (of BOXES the height and width of the image), those
#: of FLOATS.
Words = tuple[int, int, int, int, float, float]


def table(fields: Sequence[Words]) -> bytes:
    """What :func:`first_out_of_range` is told of a record's fields.

    Example:
        >>> len(table([(4, INTS, 0, 1, 0.0, 0.0)]))
        48
    """
    return b"".join(_pack(*words) for words in fields)


def first_out_of_range(tensors: Sequence[Tensor], told: bytes) -> int:
    """The first field of a record with a value out of range, or -1; the C++ library must be there.

    Args:
        tensors: contiguous CPU tensors, int64 or of FLOATS float32, of as many elements as the table says: the caller
            has checked that.
        told: the table of these fields.

    Example:
        >>> ones = torch.ones(4, dtype=torch.int64)
        >>> if mixaug_ext.library() is not None:
        ...     told = table([(4, INTS, 0, 1, 0.0, 0.0), (4, INTS, 2, 9, 0.0, 0.0)])
        ...     assert first_out_of_range([ones, ones], told) == 1
    """
    pointers = _pointers(len(tensors))(*[value.data_ptr() for value in tensors])
    return int(_check()(pointers, told, len(tensors)))


@functools.cache
def _pointers(count: int) -> Any:
    return struct.Struct(f"{count}Q").pack


@functools.cache
def _check() -> Any:
    function = mixaug_ext.library().mixaug_check_record  # type: ignore[union-attr]
    function.restype, function.argtypes = ctypes.c_int64, (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int64)
    return function
