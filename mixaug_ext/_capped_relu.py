"""The calls into the compiled capped ReLU, on the CPU and on a GPU; PyTorch operations where it cannot be used."""

from __future__ import annotations

import contextlib
import functools
import math
import struct
from typing import NoReturn

import torch
from torch import Tensor

import mixaug_ext

_DTYPES = {torch.float16: 1, torch.bfloat16: 2, torch.float32: 3}
#: Below this many bytes of the output a second thread costs more than it saves: 20 us to start one, and up to 8 ms
#: where torch's own threads still wait busily for their next task on all cores.
_BYTES_PER_THREAD = 1 << 21
#: Instruction sets that the CPU's kernel may use: 0 none, 1 up to AVX2, 2 up to AVX-512. The results are the same.
_VECTORS = 2
_NO_MEMORY, _CUDA_ERROR = 1, 1000

#: The struct CappedReLUArgs of csrc/capped_relu.h: 64-bit words in its order.
_pack = struct.Struct("13q").pack


#: (outer, caps, inner) of a tensor's memory and the code of its dtype.
Sizes = tuple[int, int, int, int]


@functools.lru_cache(maxsize=1024)  # a small call is half Python: this saves it 1.5 us
def plan(
    shape: torch.Size, caps: torch.Size, dim: int, dtype: torch.dtype, cap_dtype: torch.dtype
) -> tuple[int, Sizes | None] | None:
    """How the caps lie in a contiguous tensor.

    Args:
        shape: of the tensor.
        caps: shape of the caps.
        dim: dimension at which they begin; negative ones count from the end.
        dtype: of the tensor.
        cap_dtype: of the caps.

    Returns:
        ``dim`` from the front, and the sizes for the compiled code, None where that does not know the dtypes; None
        instead of both where the caps do not fit.

    Example:
        >>> plan(torch.Size([2, 3, 4, 5]), torch.Size([3]), -3, torch.float32, torch.float32)
        (1, (2, 3, 20, 3))
    """
    if not (dtype.is_floating_point and cap_dtype.is_floating_point):
        return None
    code = _DTYPES.get(dtype) if cap_dtype != torch.float64 else None
    if math.prod(caps) == 1:
        return 0, None if code is None else (1, 1, math.prod(shape), code)
    if not -len(shape) <= dim < len(shape):
        return None
    start = dim % len(shape)
    end = start + len(caps)
    if shape[start:end] != caps:
        return None
    return start, None if code is None else (math.prod(shape[:start]), math.prod(caps), math.prod(shape[end:]), code)


def forward(x: Tensor, max_value: Tensor, dim: int, sizes: Sizes | None, inplace: bool) -> tuple[Tensor, Sizes | None]:
    """``max(0, min(max_value, x))``, see :func:`mixaug.ops.capped_relu.capped_relu`.

    Args:
        x: the pre-activations.
        max_value: the caps, checked to fit.
        dim: dimension of ``x`` at which they begin, from the front.
        sizes: of :func:`plan`.
        inplace: write into ``x``.

    Returns:
        the activations, and what :func:`backward` is told of their memory.

    Raises:
        MemoryError: no memory for the caps in the dtype of ``x`` (CPU).
        RuntimeError: the kernel could not be launched (GPU).
    """
    sizes = _usable(x, max_value, dim, sizes)
    if sizes is None:
        return forward_torch(x, max_value, dim, inplace), None
    out = x if inplace else torch.empty_like(x)
    caps = max_value if max_value.dtype == torch.float32 and max_value.is_contiguous() else _readable(max_value)
    pointers = (x.data_ptr(), 0, caps.data_ptr(), out.data_ptr(), 0)
    if x.is_cpu:
        lib = mixaug_ext.library()
        code = lib.mixaug_capped_relu(_pack(*pointers, 0, *sizes, _threads(x), _VECTORS, 0))  # type: ignore[union-attr]
    else:
        code = _on_gpu("mixaug_capped_relu_cuda", x, pointers, None, sizes)
    if code:
        _raise(code, x)
    if inplace and not x.is_inference():
        torch.autograd.graph.increment_version(x)
    return out, sizes


def backward(
    grad: Tensor, out: Tensor, max_value: Tensor, dim: int, sizes: Sizes | None, wants_x: bool, wants_cap: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the pre-activations and of the caps, from the output and the caps alone.

    Args:
        grad: of the output.
        out: the output.
        max_value: the caps.
        dim: dimension of ``out`` at which they begin, from the front.
        sizes: as :func:`forward` gave them.
        wants_x: whether the first one is asked for.
        wants_cap: whether the second one is.

    Raises:
        MemoryError: no memory for the partial sums (CPU).
        RuntimeError: the kernel could not be launched (GPU).
    """
    if sizes is None or grad.dtype != out.dtype:
        return backward_torch(grad, out, max_value, dim)
    try:
        grad.data_ptr()
    except RuntimeError:  # of a batch of gradients (is_grads_batched=True), which has no other mark
        return backward_torch(grad, out, max_value, dim)
    of_x = torch.empty_like(out) if wants_x else None
    if grad.stride() != out.stride():
        grad = torch.empty_like(out).copy_(grad)
    caps = max_value if max_value.dtype == torch.float32 and max_value.is_contiguous() else _readable(max_value)
    of_cap = torch.empty_like(caps) if wants_cap else None
    pointers = (
        grad.data_ptr(),
        out.data_ptr(),
        caps.data_ptr(),
        0 if of_x is None else of_x.data_ptr(),
        0 if of_cap is None else of_cap.data_ptr(),
    )
    if out.is_cpu:
        words = _pack(*pointers, 0, *sizes, _threads(out), _VECTORS, 0)
        code = mixaug_ext.library().mixaug_capped_relu_backward(words)  # type: ignore[union-attr]
    else:
        code = _on_gpu("mixaug_capped_relu_backward_cuda", out, pointers, of_cap, sizes)
    if code:
        _raise(code, out)
    return of_x, of_cap if of_cap is None or of_cap.dtype == max_value.dtype else of_cap.to(max_value.dtype)


def _usable(x: Tensor, max_value: Tensor, dim: int, sizes: Sizes | None) -> Sizes | None:
    """The sizes, in the order of the memory of ``x``; None where no compiled form serves this tensor."""
    if sizes is None or max_value.device != x.device:
        return None
    if x.is_cpu:
        if mixaug_ext.library() is None:
            mixaug_ext.warn_without()
            return None
    elif not x.is_cuda:
        return None
    elif mixaug_ext.cuda_library() is None:
        mixaug_ext.warn_without(cuda=True)
        return None
    if x.is_contiguous():
        return sizes
    if x.ndim not in (4, 5):
        return None
    if not x.is_contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d):
        return None
    outer, caps, inner, code = sizes
    if caps == 1:
        return sizes
    return (outer * inner, caps, 1, code) if dim == 1 and max_value.ndim == 1 else None


def _threads(x: Tensor) -> int:
    return min(torch.get_num_threads(), x.nbytes // _BYTES_PER_THREAD)


def _readable(max_value: Tensor) -> Tensor:
    return max_value.detach().to(torch.float32).contiguous()


def _on_gpu(name: str, values: Tensor, pointers: tuple[int, ...], of_cap: Tensor | None, sizes: Sizes) -> int:
    lib = mixaug_ext.cuda_library()
    room = 0
    if of_cap is not None:
        count = lib.mixaug_capped_relu_partials(_pack(*(0,) * 6, *sizes, 0, 0, 0))  # type: ignore[union-attr]
        partials = values.new_empty(count, dtype=torch.float32)
        room = partials.data_ptr()
    # Every other call of torch on this thread stays on its own device.
    here = values.device.index == torch.cuda.current_device()
    with contextlib.nullcontext() if here else torch.cuda.device(values.device):
        stream = torch.cuda.current_stream().cuda_stream
        return int(getattr(lib, name)(_pack(*pointers, room, *sizes, 0, 0, stream)))


def _raise(code: int, values: Tensor) -> NoReturn:
    if code == _NO_MEMORY:
        raise MemoryError("capped ReLU: no memory for the caps and their partial sums")
    if code >= _CUDA_ERROR:
        message = mixaug_ext.cuda_library().mixaug_cuda_error(code - _CUDA_ERROR).decode()  # type: ignore[union-attr]
        raise RuntimeError(f"capped ReLU on {values.device}: {message}")
    raise RuntimeError(f"capped ReLU refused its arguments (code {code})")


def forward_torch(x: Tensor, max_value: Tensor, dim: int, inplace: bool) -> Tensor:
    """:func:`forward` in PyTorch operations, without gradients.

    Args:
        x: as there.
        max_value: as there.
        dim: as there.
        inplace: as there.
    """
    with torch.no_grad():
        cap = _cap(x, max_value, dim)
        out = x.relu_() if inplace else x.relu()
        return torch.minimum(out, cap, out=out)


def backward_torch(grad: Tensor, out: Tensor, max_value: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """:func:`backward` in PyTorch operations, themselves differentiable in ``grad``.

    Args:
        grad: as there.
        out: as there.
        max_value: as there.
        dim: as there.
    """
    cap = _cap(out, max_value, dim)
    capped = (out >= cap) & (cap > 0)
    of_x = torch.where((out <= 0) | (out >= cap), 0, grad)  # a NaN passes its gradient on, as nn.ReLU's does
    wide = torch.float64 if max_value.dtype == torch.float64 else torch.float32
    of_cap = torch.where(capped, grad, 0).to(wide)
    others = [i for i in range(out.ndim) if max_value.numel() == 1 or not dim <= i < dim + max_value.ndim]
    of_cap = of_cap.sum(others) if others else of_cap
    return of_x, of_cap.reshape(max_value.shape).to(max_value.dtype)


def _cap(x: Tensor, max_value: Tensor, dim: int) -> Tensor:
    cap = max_value.detach().relu().to(x.dtype)
    if cap.numel() == 1:
        return cap.reshape(())
    return cap.reshape(*cap.shape, *([1] * (x.ndim - dim - cap.ndim)))
