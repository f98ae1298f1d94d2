"""ReLU with a cap, one element at a time: what every form must equal; and what the tests of these forms share."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor


def capped_relu(x: Tensor, m: Tensor, dim: int, grad: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """The output, the gradient of ``x``, and the gradient of each cap as an exact sum."""
    out, of_x = torch.empty_like(x), torch.empty_like(x)
    parts: dict[tuple[int, ...], list[float]] = {key: [] for key in product(*map(range, m.shape))}
    for at in product(*map(range, x.shape)):
        key = (0,) * m.ndim if m.numel() == 1 else at[dim : dim + m.ndim]
        value, learnt = x[at].item(), m[key].item()
        cap = m[key].clone() if math.isnan(learnt) else torch.tensor(max(learnt, 0.0), dtype=m.dtype)
        cap = cap.to(x.dtype).item()
        if math.isnan(value) or math.isnan(cap):
            out[at], of_x[at] = math.nan, grad[at]
        elif value >= cap:
            out[at], of_x[at] = cap, 0
            if cap > 0:
                parts[key].append(grad[at].item())
        elif value > 0:
            out[at], of_x[at] = value, grad[at]
        else:
            out[at], of_x[at] = (value if value == 0 else 0.0), 0  # a zero keeps its sign
    return out, of_x, [math.fsum(part) for part in parts.values()]


def values_of(shape, dtype, seed=0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def caps_of(shape, seed=0, dtype=torch.float32):
    """Below and above 0, so that some units are dead, some capped and some not."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed + 50)) + 1).to(dtype)


def same_bits(a, b):
    """Equal values, NaN included, and equal signs of zeros."""
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    number = ~a.isnan()
    return torch.equal(a.signbit() & number, b.signbit() & number)


def formats(tensor):
    """Whether it is contiguous, and channels_last: strides of dimensions of size 1 say nothing."""
    return tensor.is_contiguous(), tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def same_values(a, b):
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def both_ways(function, x, m, dim, grad, **more):
    x, m = x.detach().requires_grad_(), m.detach().requires_grad_()
    out = function(x, m, dim, **more)
    of_x, of_m = torch.autograd.grad(out, (x, m), grad)
    return out.detach(), of_x, of_m


def close_sums(of_m, sums, grad, dtype):
    """Within the rounding of a float32 sum, and of the dtype of the caps."""
    room = 1e-6 * max(1.0, float(grad.double().abs().nan_to_num(0, 0, 0).sum()))
    rounding = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 0)
    wanted = torch.tensor(sums, dtype=torch.float64).reshape(of_m.shape)
    return bool(((of_m.double() - wanted).abs() <= room + rounding * wanted.abs()).all())
