"""AdAutoMix image by image and place by place, and its losses row by row: slow, plain, from the equations.

Python's floats throughout; nothing here is taken from the package but the numbers to work on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Grid = list[list[float]]


# ---------------------------------------------------------------- Eq. 5 to 7: the masks


def masks(weight: Tensor, bias: Tensor, features: Tensor, ratios: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, N, H, W)`` float64, from features (B, N, C, h, w) and the 1x1 convolution ``[q; k; v]`` of C + 1 inputs."""
    rows, bias_of = weight.flatten(1).tolist(), bias.tolist()
    d = (len(rows) - 1) // 2
    out = []
    for images, weights in zip(features, ratios.tolist(), strict=True):
        projected = [places(image, ratio, rows, bias_of) for image, ratio in zip(images, weights, strict=True)]
        scores = [attended(projected, i, d) for i in range(len(projected))]
        h, w = images.shape[-2:]
        grids = [upsampled([score[y * w : (y + 1) * w] for y in range(h)], size) for score in scores]
        out.append(softmax_over_images(grids))
    return torch.tensor(out, dtype=torch.float64)


def places(image: Tensor, ratio: float, rows: Grid, bias: list[float]) -> Grid:
    """``W [F; r] + b`` at each place of one image, places in rows."""
    channels = image.flatten(1).tolist()
    found = []
    for place in range(len(channels[0])):
        column = [channel[place] for channel in channels] + [ratio]
        found.append(
            [sum(w * x for w, x in zip(row, column, strict=True)) + b for row, b in zip(rows, bias, strict=True)]
        )
    return found


def attended(projected: list[Grid], i: int, d: int) -> list[float]:
    """``softmax(sum_{j != i} q_i^T k_j / sqrt(d)) v_i``, the sum over the other images written out."""
    out = []
    for here in projected[i]:
        scores = [0.0] * len(projected[i])
        for j, other in enumerate(projected):
            if j == i:
                continue
            for place, there in enumerate(other):
                scores[place] += sum(here[c] * there[d + c] for c in range(d))
        weights = softmax([score / math.sqrt(d) for score in scores])
        out.append(sum(weight * there[2 * d] for weight, there in zip(weights, projected[i], strict=True)))
    return out


def upsampled(grid: Grid, size: tuple[int, int]) -> Grid:
    """Bilinear, pixel centres at halves, borders repeated."""

    def around(place: int, few: int, many: int) -> tuple[int, int, float]:
        at = max((place + 0.5) * few / many - 0.5, 0.0)
        low = min(int(at), few - 1)
        return low, min(low + 1, few - 1), at - low

    out = []
    for y in range(size[0]):
        top, bottom, dy = around(y, len(grid), size[0])
        line = []
        for x in range(size[1]):
            left, right, dx = around(x, len(grid[0]), size[1])
            above = (1 - dx) * grid[top][left] + dx * grid[top][right]
            below = (1 - dx) * grid[bottom][left] + dx * grid[bottom][right]
            line.append((1 - dy) * above + dy * below)
        out.append(line)
    return out


def softmax_over_images(grids: list[Grid]) -> list[Grid]:
    height, width = len(grids[0]), len(grids[0][0])
    out: list[Grid] = [[[0.0] * width for _ in range(height)] for _ in grids]
    for y in range(height):
        for x in range(width):
            for i, value in enumerate(softmax([grid[y][x] for grid in grids])):
                out[i][y][x] = value
    return out


def softmax(values: list[float]) -> list[float]:
    most = max(values)
    powers = [math.exp(value - most) for value in values]
    return [power / sum(powers) for power in powers]


# ---------------------------------------------------------------- the mixtures


def mixture(images: Tensor, index: Tensor, shares: Tensor) -> Tensor:
    """``sum_i share_i x_i`` for shares (n, N, H, W) or ratios (n, N), a row at a time, in double."""
    out = []
    for row, share in zip(index.tolist(), shares, strict=True):
        mixed = torch.zeros(images.shape[1:], dtype=torch.float64)
        for place, image in enumerate(row):
            mixed += images[image].double() * share[place].double()
        out.append(mixed)
    return torch.stack(out)


# ---------------------------------------------------------------- the losses, from logits


def cross_entropy(logits: list[float], label: list[float]) -> float:
    return -sum(y * math.log(p) for y, p in zip(label, softmax(logits), strict=True) if y)


def label_rows(labels: Tensor, classes: int) -> Grid:
    if labels.ndim == 2:
        return labels.tolist()
    return [[float(c == label) for c in range(classes)] for label in labels.tolist()]


def plain_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy of the first rows of the batch, as many as there are logits."""
    rows = label_rows(labels, logits.shape[1])
    return sum(cross_entropy(z, y) for z, y in zip(logits.tolist(), rows, strict=False)) / len(logits)


def amce(logits: Tensor, labels: Tensor, index: Tensor, ratios: Tensor) -> float:
    """``1/n sum_b sum_i r_i CE(z_b, y_i)`` of the first rows of the draw, as many as there are logits."""
    rows, total = label_rows(labels, logits.shape[1]), 0.0
    for z, row, weights in zip(logits.tolist(), index.tolist(), ratios.tolist(), strict=False):
        total += sum(r * cross_entropy(z, rows[image]) for image, r in zip(row, weights, strict=True))
    return total / len(logits)


def similarity(mixed: Tensor, sources: Tensor, index: Tensor, ratios: Tensor) -> float:
    """``1/n sum_b sum_i r_i cos(t(x_mix), t(x_i))``."""
    total, of_sources = 0.0, sources.tolist()
    for z, row, weights in zip(mixed.tolist(), index.tolist(), ratios.tolist(), strict=True):
        for image, ratio in zip(row, weights, strict=True):
            other = of_sources[image]
            dot = sum(a * b for a, b in zip(z, other, strict=True))
            total += ratio * dot / (math.hypot(*z) * math.hypot(*other))
    return total / len(mixed)


# ---------------------------------------------------------------- the teacher


def momentum(step: int, steps: int, start: float) -> float:
    return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * step / steps))


def averaged(teacher: dict[str, Tensor], model: dict[str, Tensor], m: float) -> dict[str, Tensor]:
    """``t <- m t + (1 - m) f`` of two state dicts in double; whole numbers are the model's."""
    return {
        name: m * value.double() + (1 - m) * model[name].double() if value.is_floating_point() else model[name].clone()
        for name, value in teacher.items()
    }
