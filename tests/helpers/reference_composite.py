"""Box compositing pixel by pixel: slow, plain, and what every form must equal."""

from __future__ import annotations

import torch
from torch import Tensor


def composite(
    base: Tensor,
    a: Tensor,
    boxes: Tensor,
    *,
    b: Tensor | None = None,
    beta: Tensor | None = None,
    index_a: Tensor | None = None,
    index_b: Tensor | None = None,
) -> tuple[Tensor, list[int]]:
    """Result and area by a loop over images, rows and columns."""
    out = base.clone()
    areas = []
    _, _, height, width = base.shape
    for i in range(len(base)):
        one = a[i if index_a is None else int(index_a[i])]
        other = None if b is None else b[i if index_b is None else int(index_b[i])]
        area = 0
        for y in range(height):
            for x in range(width):
                if not any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes[i].tolist()):
                    continue
                area += 1
                value = one[:, y, x]
                if other is not None:
                    blend = beta[i] * value.float() + (1 - beta[i]) * other[:, y, x].float()
                    value = (blend.round() if base.dtype == torch.uint8 else blend).to(base.dtype)
                out[i, :, y, x] = value
        areas.append(area)
    return out, areas
