"""ReLU with a cap, one element at a time: what every form must equal."""

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
