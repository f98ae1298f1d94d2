"""ReLU with a cap: the function of S-ReLU and D-ReLU, its plain form and its form with the least memory.

Two forms with the same values and gradients: :func:`capped_relu_torch`, plain PyTorch operations, is what a compiler
fuses and an exporter writes down; in eager mode :func:`capped_relu` keeps the output and the cap alone for the backward
pass, as ``nn.ReLU`` keeps its output, and runs one pass of compiled code each way where ``mixaug_ext`` has it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.nn.parameter import UninitializedParameter

from mixaug._checks import check_dense, check_flag, check_int, check_tensor
from mixaug_ext import _capped_relu

__all__ = ["broadcast_cap", "capped_relu", "capped_relu_torch"]


def capped_relu(x: Tensor, max_value: Tensor, dim: int = 1, *, inplace: bool = False) -> Tensor:
    r"""``max(0, min(m, x))`` with ``m`` for each feature, channel or layer, differentiable in both.

    .. math:: y = \min(\max(x, 0), \max(m, 0)), \quad \frac{\partial y}{\partial x} = [0 < x < m], \quad
        \frac{\partial y}{\partial m} = [x \ge m][m > 0]

    S-ReLU and D-ReLU of Sooksatra and Rivas, "Dynamic-Max-Value ReLU Functions for Adversarially Robust Machine
    Learning Models", Mathematics 12 (2024) 3551.

    Convention:
        A negative ``m`` counts as 0: the output is 0 and no gradient flows; ``max_value`` itself is never written to.
        At ``x = m`` the gradient goes to ``m``. The cap is rounded to the dtype of ``x``, in which it is compared and
        which the output has; the gradient of ``m`` is summed in float32 (float64 for float64 ``m``). NaN stays NaN.

    Args:
        x: pre-activations, any strides.
        max_value: one value for all, or of shape ``x.shape[dim:dim + max_value.ndim]``.
        dim: dimension of ``x`` that the first one of ``max_value`` belongs to, default 1; negative ones count from the
            end. Ignored for a single value.
        inplace: write the result into ``x``, as ``nn.ReLU(inplace=True)`` does; default False.

    Shape:
        x: ``(...)`` floating point; max_value: ``()``, ``(1,)``, ``(C,)`` or more dimensions, floating point, on the
        same device; result: as ``x``, in its memory format.

    Returns:
        the capped activations; ``x`` itself if ``inplace``.

    Raises:
        TypeError: ``x`` or ``max_value`` is no floating point tensor.
        IndexError: ``dim`` is out of range.
        ValueError: ``max_value`` does not fit ``x``.

    Note:
        The backward pass is computed from the output and ``m`` alone. In graphs of ``torch.compile``, ``torch.export``,
        ``torch.func`` and tracers it is :func:`capped_relu_torch`.

    Example:
        >>> capped_relu(torch.tensor([[-1.0, 0.5, 3.0]]), torch.tensor([2.0, 2.0, 2.0]))
        tensor([[0.0000, 0.5000, 2.0000]])
    """
    check_tensor("x", x)
    check_tensor("max_value", max_value)
    return cap_checked(x, max_value, check_int("dim", dim), check_flag("inplace", inplace))


@fx.wrap  # one operation in graphs of torch.fx, whose proxies have no shapes to check
def cap_checked(x: Tensor, max_value: Tensor, dim: int, inplace: bool, name: str = "") -> Tensor:
    """:func:`capped_relu` for a layer.

    Args:
        x: as there.
        max_value: as there.
        dim: as there.
        inplace: as there.
        name: of the layer, for the messages.

    Example:
        >>> cap_checked(torch.tensor([3.0]), torch.tensor(2.0), 0, False)
        tensor([2.])
    """
    plan = None
    plain = not _special(x) and x.layout is torch.strided and x.device == max_value.device
    if plain and type(max_value) in (Tensor, Parameter):
        plan = _capped_relu.plan(x.shape, max_value.shape, dim, x.dtype, max_value.dtype)
    if plan is None:  # also where the caps do not fit: check_cap says what it is
        out = capped_relu_torch(x, max_value, check_cap(x, max_value, dim, name))
        return x.copy_(out) if inplace else out
    if torch.is_grad_enabled() and (x.requires_grad or max_value.requires_grad):
        if inplace and x.requires_grad and (x if x._base is None else x._base).is_leaf:  # before anything is written
            raise RuntimeError(
                "a leaf Variable that requires grad is being used in an in-place operation (inplace=True)"
            )
        return _apply(x, max_value, *plan, inplace)  # type: ignore[no-any-return]
    return _capped_relu.forward(x, max_value, *plan, inplace)[0]


def capped_relu_torch(x: Tensor, max_value: Tensor, dim: int = 1) -> Tensor:
    """The plain PyTorch form of :func:`capped_relu`: the same values and gradients. ``torch.jit.script`` takes it.

    Args:
        x: as in :func:`capped_relu`.
        max_value: as there.
        dim: as there.

    Returns:
        a new tensor.

    Example:
        >>> m = torch.tensor([1.0, -1.0], requires_grad=True)
        >>> capped_relu_torch(torch.tensor([[2.0, 2.0], [0.5, 2.0]]), m).sum().backward()
        >>> m.grad
        tensor([1., 0.])
    """
    cap = broadcast_cap(max_value, x.ndim, dim)
    if cap.requires_grad and cap.dtype != x.dtype:
        cap = cap.expand_as(x)  # the gradient is summed before it is converted: float16 would not hold the sum
    cap = cap.to(x.dtype).relu()  # in this order: a cap that rounds to 0 passes no gradient
    # torch.minimum alone would halve the gradient of a tie, where this gives it to m. It is there for a NaN in m.
    return torch.where(x >= cap, cap, torch.minimum(x.relu(), cap.detach()))


def broadcast_cap(max_value: Tensor, ndim: int, dim: int) -> Tensor:
    """A view of the caps that broadcasts against a tensor of ``ndim`` dimensions.

    Args:
        max_value: of the shape of a run of dimensions, or a single value.
        ndim: of the tensor.
        dim: where the run starts.

    Example:
        >>> broadcast_cap(torch.ones(3), 4, 1).shape
        torch.Size([3, 1, 1])
    """
    if max_value.numel() == 1:
        return max_value.reshape([])
    return max_value.reshape(list(max_value.shape) + [1] * (ndim - dim % ndim - max_value.ndim))


def check_cap(x: Any, max_value: Any, dim: int, name: str = "") -> int:
    """Raises unless the caps fit the pre-activations; gives ``dim`` counted from the front.

    Args:
        x: the pre-activations.
        max_value: the caps.
        dim: as in :func:`capped_relu`.
        name: of the layer, for the messages.

    Example:
        >>> check_cap(torch.zeros(2, 3, 5, 5), torch.ones(5), -1)
        3
    """
    where = f" of {name}" if name else ""
    check_dense(f"x{where}", x, "a floating point tensor")
    if not x.is_floating_point():
        raise TypeError(f"x{where} must be a floating point tensor, got {x.dtype}")
    if isinstance(max_value, UninitializedParameter):  # a layer in a graph, which cannot make it
        raise RuntimeError(f"max_value{where} has no size yet: call the model once before tracing it")
    check_dense(f"max_value{where}", max_value, "a floating point tensor")
    if not max_value.is_floating_point():
        raise TypeError(f"max_value{where} must be a floating point tensor, got {max_value.dtype}")
    if max_value.device != x.device and max_value.ndim:  # torch takes a number's tensor from everywhere
        raise ValueError(f"max_value{where} must be on the device of x, {x.device}, got {max_value.device}")
    if max_value.numel() == 1:
        return 0
    if not -x.ndim <= dim < x.ndim:
        raise IndexError(f"dim{where} must lie in [{-x.ndim}, {x.ndim}) for x of shape {tuple(x.shape)}, got {dim}")
    start = dim % x.ndim
    wanted = x.shape[start : start + max_value.ndim]
    if wanted != max_value.shape:
        raise ValueError(
            f"max_value{where} must have the shape {tuple(wanted)} of dimension {dim} on, of x of shape "
            f"{tuple(x.shape)}, got {tuple(max_value.shape)}"
        )
    return start


def _special(x: Tensor) -> bool:
    """Whether something other than plain eager code runs: what sees the operations must see all of them."""
    return (
        type(x) is not Tensor
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


class _CappedReLU(torch.autograd.Function):
    """Keeps the output and the caps: the output is what the next layer keeps too, so it costs nothing more."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, max_value: Tensor, dim: int, sizes: _capped_relu.Sizes | None, inplace: bool
    ) -> Tensor:
        out, sizes = _capped_relu.forward(x, max_value, dim, sizes, inplace)
        if inplace:
            ctx.mark_dirty(x)
        ctx.fixed = dim, sizes
        ctx.save_for_backward(out, max_value)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,), (out, max_value), (dim, sizes) = grads, ctx.saved_tensors, ctx.fixed
        wants_x, wants_cap, *_ = ctx.needs_input_grad
        of_x: Tensor | None
        of_cap: Tensor | None
        # A gradient of the gradient is linear in `grad`: torch's operations give it.
        if torch.is_grad_enabled() or _special(grad):
            of_x, of_cap = _capped_relu.backward_torch(grad, out.detach(), max_value.detach(), dim)
        else:
            of_x, of_cap = _capped_relu.backward(grad, out, max_value, dim, sizes, wants_x, wants_cap)
        return of_x if wants_x else None, of_cap if wants_cap else None, None, None, None


#: ``_CappedReLU.apply`` without its check for the transforms of ``torch.func``, which :func:`_special` has made.
_apply = super(torch.autograd.Function, _CappedReLU).apply
