"""The calls into the compiled forms of IPMix's sampler (C++) and replay (C++, CUDA): pointers, sizes and strides."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

import mixaug_ext
from mixaug_ext import library
from mixaug_ext._records import address

#: The record's tensors in the struct's order: by name the dtype and the sizes of which they have an element each.
_RECORD = {
    "depth": (torch.int64, "rk"), "op": (torch.int64, "rkt"), "source": (torch.int64, "rkt"),
    "level": (torch.float32, "rkt"), "sign": (torch.int64, "rkt"), "box": (torch.int64, "rkt4"),
    "a": (torch.float32, "rkt"), "b": (torch.float32, "rkt"), "keep": (torch.float32, "rkt"),
    "seed": (torch.int64, "rkt"), "picture": (torch.int64, "r"), "top": (torch.int64, "r"),
    "left": (torch.int64, "r"), "skip": (torch.float32, "r"), "coef": (torch.float32, "rk"),
}  # fmt: skip
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
    """Field by field the struct of the same name in csrc/ipmix.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("images", "out", "pictures", *_RECORD)]
        + [(name, ctypes.c_int64) for name in _SIZES]
        + [("in_strides", ctypes.c_int64 * 4), ("out_strides", ctypes.c_int64 * 4)]
        + [(name, ctypes.c_int64) for name in ("is_float", "mixed_input", "threads", "n_pictures")]
    )


class IPMixCudaArgs(ctypes.Structure):
    """Field by field the struct of the same name in csrc/ipmix.h."""

    _fields_ = [
        ("common", IPMixArgs),
        ("dtype", ctypes.c_int64),
        ("scratch", ctypes.c_void_p),
        ("blocks", ctypes.c_int64),
        ("stream", ctypes.c_void_p),
    ]


_DTYPES = {torch.uint8: 0, torch.float16: 1, torch.bfloat16: 2, torch.float32: 3}
#: Elements of an image that the CUDA kernel can count, and bytes of scratch memory that it takes at most.
_CUDA_ELEMENTS, _CUDA_SCRATCH = 0x7FFF0000, 1 << 29
#: What the entry points return, see csrc/composite.h.
_NO_MEMORY, _BAD_RECORD, _CUDA_ERROR = 1, 4, 1000


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
        TypeError: a tensor of another dtype.
        ValueError: a tensor of another size, or a record with a value out of range.
        MemoryError: no memory for the scratch buffers.
    """
    lib = library()
    if lib is None:
        raise RuntimeError("mixaug_ext._ipmix.ipmix needs the compiled library; see mixaug_ext.why_not()")
    args = _arguments(images, out, pictures, record, side, mixed_input, threads)
    code = lib.mixaug_ipmix(ctypes.byref(args))
    if code == _NO_MEMORY:
        height, width = images.shape[2:]
        raise MemoryError(f"IPMix: no memory for the scratch buffers of {threads} threads at {height}x{width}")
    if code == _BAD_RECORD:
        raise ValueError("params must be a record for these images and pictures, got one with a value out of range")
    if code:
        raise ValueError(f"IPMix refused images of shape {tuple(images.shape)} with side={side} (code {code})")


def _arguments(
    images: Tensor,
    out: Tensor,
    pictures: Tensor,
    record: dict[str, Tensor],
    side: int,
    mixed_input: bool,
    threads: int,
) -> IPMixArgs:
    if images.dtype not in _DTYPES or out.dtype != images.dtype:
        raise TypeError(f"images and out must be of one dtype that the kernels know, got {images.dtype}, {out.dtype}")
    args = IPMixArgs(images=images.data_ptr(), out=out.data_ptr())
    batch, channels, height, width = images.shape
    rows, k, t = record["op"].shape
    counts = {"r": rows, "rk": rows * k, "rkt": rows * k * t, "rkt4": rows * k * t * 4}
    for name, (dtype, count) in _RECORD.items():
        setattr(args, name, address(name, record[name], dtype, counts[count]))
    n_pictures, bank = pictures.shape[0], pictures.shape[-1]
    args.pictures = address("pictures", pictures, torch.uint8, n_pictures * 3 * bank * bank)
    args.n_pictures = n_pictures
    sizes = (rows, batch, channels, height, width, k, t, side, bank)
    for name, value in zip(_SIZES, sizes, strict=True):
        setattr(args, name, value)
    args.in_strides[:] = images.stride()
    args.out_strides[:] = out.stride()
    args.is_float = images.dtype == torch.float32
    args.mixed_input = mixed_input
    args.threads = threads
    return args


def usable_on_gpu(images: Tensor) -> bool:
    """Whether the CUDA form serves these images; says so once where the library that would is missing.

    Args:
        images: the batch.
    """
    if images.device.type != "cuda" or images.dtype not in _DTYPES:
        return False
    if mixaug_ext.cuda_library() is None:
        mixaug_ext.warn_without(cuda=True)
        return False
    return images[:1].numel() <= _CUDA_ELEMENTS


def ipmix_cuda(
    images: Tensor, out: Tensor, pictures: Tensor, record: dict[str, Tensor], *, side: int, mixed_input: bool
) -> None:
    """:func:`ipmix` on a GPU, in one launch on the current stream; nothing waits for it.

    Args:
        images: ``(B, C, H, W)`` uint8, float16, bfloat16 or float32 on a GPU, any strides. Only read.
        out: as in :func:`ipmix`.
        pictures: as there, on the same GPU as all tensors.
        side: as there.
        record: as there.
        mixed_input: as there.

    Raises:
        RuntimeError: the library is not loaded, or the kernel could not be launched.
    """
    lib = mixaug_ext.cuda_library()
    if lib is None:
        raise RuntimeError("mixaug_ext._ipmix.ipmix_cuda needs the CUDA library; see mixaug_ext.why_no_cuda()")
    here = images.device.index == torch.cuda.current_device()
    with contextlib.nullcontext() if here else torch.cuda.device(images.device):
        # Two blocks a multiprocessor are in work at a time where they use scratch memory.
        blocks = 2 * torch.cuda.get_device_properties(images.device).multi_processor_count
        stream = torch.cuda.current_stream().cuda_stream
        code = launch(lib, images, out, pictures, record, side, mixed_input, blocks, stream)
    if code >= _CUDA_ERROR:
        raise RuntimeError(f"IPMix on {images.device}: {lib.mixaug_cuda_error(code - _CUDA_ERROR).decode()}")
    if code:
        raise RuntimeError(f"IPMix on {images.device} refused its arguments (code {code})")


def launch(
    lib: ctypes.CDLL,
    images: Tensor,
    out: Tensor,
    pictures: Tensor,
    record: dict[str, Tensor],
    side: int,
    mixed_input: bool,
    blocks: int,
    stream: int,
) -> int:
    """Calls the kernel of ``lib`` and returns its code; the tests call it with the kernel built for a CPU.

    Args:
        lib: the library that holds ``mixaug_ipmix_cuda``.
        images: as in :func:`ipmix_cuda`.
        out: as there.
        pictures: as there.
        record: as there.
        side: as there.
        mixed_input: as there.
        blocks: most blocks for images that do not fit into shared memory.
        stream: CUDA's handle of a stream.
    """
    args = IPMixCudaArgs()
    args.common = _arguments(images, out, pictures, record, side, mixed_input, 1)
    args.dtype, args.stream = _DTYPES[images.dtype], stream
    rows, k, _ = record["op"].shape
    block = (k + 2) * images[0].numel()
    args.blocks = rows
    scratch = None
    if block > lib.mixaug_ipmix_cuda_shared():
        args.blocks = max(1, min(rows, blocks, _CUDA_SCRATCH // block))
        # Freed when this returns: torch gives it to nobody else before the kernel, on the same stream, is done.
        scratch = torch.empty(args.blocks * block, dtype=torch.uint8, device=images.device)
        args.scratch = scratch.data_ptr()
    code: int = lib.mixaug_ipmix_cuda(ctypes.byref(args))
    return code


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
    args.uniforms = address("uniforms", uniforms, torch.float32, rows * (k * (16 * t + 3) + 4))
    for name, tensor in out.items():  # made here, so they are what the kernel writes
        setattr(args, name, tensor.data_ptr())
    lib.mixaug_ipmix_sample(ctypes.byref(args))
    return out
