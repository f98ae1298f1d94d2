"""The calls into the compiled capped ReLU, on the CPU and on a GPU; PyTorch operations where it cannot be used."""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, max_value: Tensor, dim: int, inplace: bool) -> Tensor:
    """``max(0, min(max_value, x))``, see :func:`mixaug.ops.capped_relu.capped_relu`.

    Args:
        x: the pre-activations.
        max_value: the caps, checked to fit.
        dim: dimension of ``x`` at which they begin, from the front.
        inplace: write into ``x``.
    """
    return forward_torch(x, max_value, dim, inplace)


def backward(
    grad: Tensor, out: Tensor, max_value: Tensor, dim: int, wants_x: bool, wants_cap: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the pre-activations and of the caps, from the output and the caps alone.

    Args:
        grad: of the output.
        out: the output.
        max_value: the caps.
        dim: dimension of ``out`` at which they begin, from the front.
        wants_x: whether the first one is asked for.
        wants_cap: whether the second one is.
    """
    return backward_torch(grad, out, max_value, dim)


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
