"""The calls into the compiled box compositing, on the CPU and on a GPU: pointers, sizes and strides, nothing else."""

from __future__ import annotations

import contextlib
import struct

import torch
from torch import Tensor

import mixaug_ext

_DTYPES = {torch.uint8: 0, torch.float16: 1, torch.bfloat16: 2, torch.float32: 3}
#: Boxes of an image that the CUDA kernel has room for, and elements of an image that it can count.
_CUDA_BOXES, _CUDA_ELEMENTS = 512, 2**31 - 2**15
#: Below this many bytes a second thread costs more than it saves (20 us to start one, 0.2 us to copy a KB).
_BYTES_PER_THREAD = 1 << 20
_NO_MEMORY, _BAD_INDEX, _BAD_RECORD, _CUDA_ERROR = 1, 2, 4, 1000


#: The struct CompositeArgs of csrc/composite.h: 64-bit words in its order. Filling the fields of a ctypes structure one
#: by one took 12 us, as long as compositing 20 images of 32 px.
_pack = struct.Struct(f"{9 + 8 + 4 * 3 + 3}q").pack


def usable(base: Tensor, n_boxes: int) -> bool:
    """Whether a compiled form serves these images; says so once where a library that would is missing.

    Args:
        base: the images.
        n_boxes: boxes of each image.
    """
    if base.dtype not in _DTYPES:
        return False
    if base.device.type == "cpu":
        if mixaug_ext.library() is not None:
            return True
        mixaug_ext.warn_without()
    elif base.device.type == "cuda":
        if mixaug_ext.cuda_library() is not None:
            return n_boxes <= _CUDA_BOXES and base[:1].numel() <= _CUDA_ELEMENTS
        mixaug_ext.warn_without(cuda=True)
    return False


def composite(
    base: Tensor,
    a: Tensor,
    b: Tensor | None,
    beta: Tensor | None,
    boxes: Tensor,
    index_a: Tensor | None,
    index_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The result and the area of each union, see :func:`mixaug.ops.composite.composite_boxes`.

    Raises:
        IndexError: a partner's index out of range (CPU).
        ValueError: ``beta`` outside of ``[0, 1]`` (CPU).
        MemoryError: no memory for the bands of the boxes (CPU).
        RuntimeError: the kernel could not be launched (GPU).
    """
    on_gpu = base.device.type == "cuda"
    words, out, area, kept = arguments(base, a, b, beta, boxes, index_a, index_b, flat=on_gpu)
    if not on_gpu:
        threads = min(torch.get_num_threads(), out.nbytes // _BYTES_PER_THREAD)
        code = mixaug_ext.library().mixaug_composite(_pack(*words, max(1, threads), 0))  # type: ignore[union-attr]
    else:
        # Every other call of torch on this thread stays on its own device.
        here = base.device.index == torch.cuda.current_device()
        with contextlib.nullcontext() if here else torch.cuda.device(base.device):
            stream = torch.cuda.current_stream().cuda_stream
            code = mixaug_ext.cuda_library().mixaug_composite_cuda(_pack(*words, 1, stream))  # type: ignore[union-attr]
    del kept
    if code == _BAD_INDEX:
        raise bad_index(a, b)
    if code == _BAD_RECORD and beta is not None:
        raise bad_beta(beta)
    if code == _NO_MEMORY:
        raise MemoryError("box compositing: no memory for the bands of the boxes")
    if code >= _CUDA_ERROR:
        message = mixaug_ext.cuda_library().mixaug_cuda_error(code - _CUDA_ERROR).decode()  # type: ignore[union-attr]
        raise RuntimeError(f"box compositing on {base.device}: {message}")
    if code:
        raise RuntimeError(f"box compositing refused its arguments (code {code})")
    return out, area


def bad_index(a: Tensor, b: Tensor | None) -> IndexError:
    """What is raised for a partner's index out of range."""
    return IndexError(f"index_a and index_b must lie in [0, {len(a)}) and [0, {0 if b is None else len(b)})")


def bad_beta(beta: Tensor) -> ValueError:
    """What is raised for weights that are not in ``[0, 1]``."""
    at = int((~((beta >= 0) & (beta <= 1))).int().argmax())
    return ValueError(f"beta must be from 0 to 1, got {beta[at].item()} at [{at}]")


def arguments(
    base: Tensor,
    a: Tensor,
    b: Tensor | None,
    beta: Tensor | None,
    boxes: Tensor,
    index_a: Tensor | None,
    index_b: Tensor | None,
    *,
    flat: bool,
) -> tuple[tuple[int, ...], Tensor, Tensor, list[Tensor | None]]:
    """The struct's words but for the last two, the tensors that the call fills, and those that must live until then.

    Args:
        base: as in :func:`composite`.
        a: as there.
        b: as there.
        beta: as there.
        boxes: as there.
        index_a: as there.
        index_b: as there.
        flat: each image must be one run of memory, as the CUDA kernel wants it; else each row.
    """
    batch, channels, height, width = base.shape
    if base.is_contiguous() and a.is_contiguous() and (b is None or b.is_contiguous()):  # the short way, 3 us less
        last, out = False, torch.empty_like(base)
        strides: tuple[int, ...] = (channels * height * width, height * width, width) * 4
    else:
        last, out = _is_channels_last(base), empty_like(base)
        base, a = _readable(base, last, flat), _readable(a, last, flat)
        b = None if b is None else _readable(b, last, flat)
        strides = (
            *_strides(base, last),
            *_strides(a, last),
            *_strides(a if b is None else b, last),
            *_strides(out, last),
        )
    if boxes.dtype != torch.int64 or (beta is not None and beta.dtype != torch.float32):
        raise TypeError("boxes must be int64 and beta float32: the kernels cannot tell")
    if any(index is not None and index.dtype != torch.int64 for index in (index_a, index_b)):
        raise TypeError("index_a and index_b must be int64: the kernels cannot tell")
    area = boxes.new_empty(batch)
    boxes = boxes.contiguous()
    beta = None if beta is None else beta.contiguous()
    index_a = None if index_a is None else index_a.contiguous()
    index_b = None if index_b is None else index_b.contiguous()
    words = (
        base.data_ptr(),
        a.data_ptr(),
        0 if b is None else b.data_ptr(),
        out.data_ptr(),
        boxes.data_ptr(),
        0 if beta is None else beta.data_ptr(),
        0 if index_a is None else index_a.data_ptr(),
        0 if index_b is None else index_b.data_ptr(),
        area.data_ptr(),
        batch,
        *((1, height, width * channels, channels) if last else (channels, height, width, 1)),
        boxes.shape[1],
        a.shape[0],
        0 if b is None else b.shape[0],
        *strides,
        _DTYPES[base.dtype],
    )
    return words, out, area, [base, a, b, boxes, beta, index_a, index_b]


def empty_like(base: Tensor) -> Tensor:
    """An uninitialised tensor for the result: contiguous, or channels_last where the images are."""
    return torch.empty_like(base, memory_format=_memory_format(base))


def like(base: Tensor, result: Tensor) -> Tensor:
    """``result`` in the memory format that :func:`empty_like` gives, as it is where it has it."""
    return result.contiguous(memory_format=_memory_format(base))


def _memory_format(base: Tensor) -> torch.memory_format:
    return torch.channels_last if _is_channels_last(base) else torch.contiguous_format


def _is_channels_last(images: Tensor) -> bool:
    return not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)


def _readable(images: Tensor, last: bool, flat: bool) -> Tensor:
    """The images as they are where the kernel can read them in place, else a copy in the result's memory format."""
    _, channels, height, width = images.shape
    _, c, h, w = images.stride()
    row = (c == 1 or channels == 1) and (w == channels or width == 1) if last else w == 1 or width == 1
    whole = (
        (h == width * channels or height == 1)
        if last
        else (h == width or height == 1) and (c == height * width or channels == 1)
    )
    if row and (whole or not flat):
        return images
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _strides(images: Tensor, last: bool) -> tuple[int, int, int]:
    n, c, h, _ = images.stride()
    return (n, 0, h) if last else (n, c, h)
