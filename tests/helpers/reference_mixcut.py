"""Dynamic MixCut pixel by pixel from its record, and the exact law of its boxes: slow, plain, from the definitions.

Nothing here is taken from the package but the record's fields.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import torch
from torch import Tensor

Box = tuple[int, int, int, int]


# ---------------------------------------------------------------- what a record makes of a batch


def mixed_images(images: Tensor, params: object, views: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """``(B, C, H, W)`` or clips: each pixel from the image itself, or blended from its two views or partners."""
    if images.ndim == 5:  # frames share the draw
        frames = range(images.shape[1])
        return torch.stack(
            [mixed_images(images[:, t], params, views and (views[0][:, t], views[1][:, t])) for t in frames], 1
        )
    out = images.clone(memory_format=torch.contiguous_format)
    height, width = images.shape[-2:]
    for i in range(len(images)):
        if views is not None:
            first, second = views[0][i], views[1][i]
        elif len(images) == 1:  # no partner
            continue
        else:
            first, second = (images[int(row)] for row in params.index[i])
        beta = params.beta[i]
        for y, x in itertools.product(range(height), range(width)):
            if covered(params.boxes[i], x, y):
                value = beta * first[:, y, x].float() + (1 - beta) * second[:, y, x].float()
                out[i, :, y, x] = (value.round() if images.dtype == torch.uint8 else value).to(images.dtype)
    return out


def mixed_labels(labels: Tensor, classes: int, params: object, smoothing: float, views: bool = False) -> list:
    """``ybar`` of every image, in Python's floats, with ``lam`` from a count of the pixels."""
    rows = labels.tolist() if labels.ndim == 2 else [[float(c == y) for c in range(classes)] for y in labels.tolist()]
    height, width = params.size
    out = []
    for i, own in enumerate(rows):
        share = count_union(params.boxes[i], height, width) / (height * width)
        a, b = (rows[int(row)] for row in params.index[i])
        beta = float(params.beta[i])
        if views or len(rows) == 1:
            share = 0.0
        mixed = [(1 - share) * own[c] + share * (beta * a[c] + (1 - beta) * b[c]) for c in range(classes)]
        out.append([(1 - smoothing) * y + smoothing / classes for y in mixed])
    return out


def covered(boxes: Tensor, x: int, y: int) -> bool:
    """Whether a pixel is in one of the half-open boxes ``(N, 4)``."""
    return any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes.tolist())


def count_union(boxes: Tensor, height: int, width: int) -> int:
    """Pixels in the union, one by one."""
    return sum(covered(boxes, x, y) for y in range(height) for x in range(width))


# ---------------------------------------------------------------- the law of a box


def box_law(size: tuple[int, int], area: tuple[float, float] | None = None) -> dict[Box, float]:
    """The exact probability of every box of equal shares of height and width.

    The share of the image is uniform on (0, 1) or on ``area``; its root ``r`` decides both sides, ``round(H r)`` and
    ``round(W r)``; the place is uniform. Between two values of ``r`` at which a side changes, nothing depends on it.
    """
    height, width = size
    low, high = (0.0, 1.0) if area is None else area

    def below(r: float) -> float:
        """P(root of the share < r)."""
        return min(1.0, max(0.0, (r * r - low) / (high - low)))

    law: dict[Box, float] = defaultdict(float)
    pieces = _pieces(size, below, 0.0, 1.0, [lambda r: r, lambda r: r]) if low < high else [(1.0, math.sqrt(low))]
    for weight, r in pieces:
        _add(law, weight, round(r * height), round(r * width), size, area is not None)
    return dict(law)


def free_box_law(size: tuple[int, int], share: float, inside: bool) -> dict[Box, float]:
    """The same for a free aspect, at one share of the image.

    The logarithm of the aspect, relative to the image's own, is uniform between -limit and limit: log 3, or as much
    less as keeps both sides within the image.
    """
    height, width = size
    limit = min(math.log(3.0), -math.log(share))
    root = math.sqrt(share)

    def below(v: float) -> float:
        """P(log aspect < v)."""
        return min(1.0, max(0.0, (v + limit) / (2 * limit)))

    sides = [lambda v: root * math.exp(v / 2), lambda v: root * math.exp(-v / 2)]
    law: dict[Box, float] = defaultdict(float)
    for weight, v in _pieces(size, below, -limit, limit, sides):
        _add(law, weight, round(sides[0](v) * height), round(sides[1](v) * width), size, inside)
    return dict(law)


def _pieces(size: tuple[int, int], below, low: float, high: float, sides: list) -> list[tuple[float, float]]:
    """Probability and middle of each piece of (low, high) on which both rounded sides are constant."""
    edges = {low, high}
    for length, side in zip(size, sides, strict=True):
        rising = side(high) > side(low)
        for k in range(length):  # where the side passes k + 1/2 pixels, by bisection
            left, right = low, high
            for _ in range(60):
                middle = (left + right) / 2
                if (side(middle) * length < k + 0.5) == rising:
                    left = middle
                else:
                    right = middle
            edges.add(left)
    ordered = sorted(edges)
    return [(below(b) - below(a), (a + b) / 2) for a, b in itertools.pairwise(ordered)]


def _add(law: dict[Box, float], weight: float, tall: int, wide: int, size: tuple[int, int], inside: bool) -> None:
    if weight <= 0:
        return
    rows, columns = (_places(side, length, inside) for side, length in zip((tall, wide), size, strict=True))
    for (y, p), (x, q) in itertools.product(rows.items(), columns.items()):
        law[(x[0], y[0], x[1], y[1])] += weight * p * q


def _places(side: int, length: int, inside: bool) -> dict[tuple[int, int], float]:
    """First and last-but-one pixel of a side, with their probabilities."""
    places: dict[tuple[int, int], float] = defaultdict(float)
    if inside:  # at least a pixel; every place inside the image is as likely
        side = max(1, side)
        for start in range(length - side + 1):
            places[start, start + side] += 1 / (length - side + 1)
        return places
    # The centre is uniform on [0, length); the box begins at the whole number nearest to centre - side / 2.
    for start in range(-side - 1, length + 1):
        least, most = start + side / 2 - 0.5, start + side / 2 + 0.5
        share = (min(most, length) - max(least, 0)) / length
        if share > 0:
            places[max(start, 0), min(start + side, length)] += share
    return places
