"""The compiled loops of the water of ``spatter``: OpenCV's Canny, distance transform, histogram and small filters.

Written from their definitions in integers, so that a liquid layer gives the same picture as OpenCV's functions.
"""

from __future__ import annotations

import numpy as np

from mixaug.evaluate.corruptions._kernels import _jit

_LOW, _HIGH = 50, 150  # thresholds of the edges
_TAN_22 = 13573  # tan(22.5 degrees) in 15 bits
_STRAIGHT, _DIAGONAL, _KNIGHT = 65536, 91750, 143976  # steps 1, 1.4 and 2.1969 in 16 bits
_FAR = 20  # distances are cut there


@_jit
def _edges(layer: np.ndarray, found: np.ndarray) -> None:
    """Canny's edges: 1 where the gradient has a peak above the high threshold, or above the low one and tied to such.

    Sobel gradients with repeated border, their absolute sum; ``found`` is (H + 2, W + 2) with an empty border.
    """
    h, w = layer.shape
    size = np.zeros((h + 2, w + 2), np.int32)
    along = np.empty((h, w), np.int32)
    down = np.empty((h, w), np.int32)
    for y in range(h):
        above, below = max(y - 1, 0), min(y + 1, h - 1)
        for x in range(w):
            left, right = max(x - 1, 0), min(x + 1, w - 1)
            nw, n, ne = int(layer[above, left]), int(layer[above, x]), int(layer[above, right])
            sw, s, se = int(layer[below, left]), int(layer[below, x]), int(layer[below, right])
            along[y, x] = (ne - nw) + 2 * (int(layer[y, right]) - int(layer[y, left])) + (se - sw)
            down[y, x] = (sw - nw) + 2 * (s - n) + (se - ne)
            size[y + 1, x + 1] = abs(along[y, x]) + abs(down[y, x])
    found[:] = 0
    stack = np.empty(h * w, np.int64)
    top = 0
    for y in range(h):
        for x in range(w):
            m = size[y + 1, x + 1]
            if m <= _LOW:
                continue
            dx, dy = along[y, x], down[y, x]
            flat = abs(dx) * _TAN_22
            steep = abs(dy) << 15
            if steep < flat:
                peak = m > size[y + 1, x] and m >= size[y + 1, x + 2]
            elif steep > flat + (abs(dx) << 16):
                peak = m > size[y, x + 1] and m >= size[y + 2, x + 1]
            else:
                slant = -1 if (dx ^ dy) < 0 else 1
                peak = m > size[y, x + 1 - slant] and m > size[y + 2, x + 1 + slant]
            if peak:
                found[y + 1, x + 1] = 2  # perhaps
                if m > _HIGH:
                    found[y + 1, x + 1] = 1
                    stack[top] = y * w + x
                    top += 1
    while top:
        top -= 1
        y, x = stack[top] // w, stack[top] % w
        for i in range(3):
            for j in range(3):
                if found[y + i, x + j] == 2:
                    found[y + i, x + j] = 1
                    stack[top] = (y + i - 1) * w + x + j - 1
                    top += 1


@_jit
def _distances(found: np.ndarray, distance: np.ndarray) -> None:
    """The 5x5 chamfer distance to the next edge, cut at 20; ``distance`` is (H + 4, W + 4)."""
    h, w = found.shape[0] - 2, found.shape[1] - 2
    distance[:] = 1 << 29
    for y in range(2, h + 2):
        for x in range(2, w + 2):
            if found[y - 1, x - 1] == 1:
                distance[y, x] = 0
                continue
            d = distance[y - 2, x - 1] + _KNIGHT
            d = min(d, distance[y - 2, x + 1] + _KNIGHT, distance[y - 1, x - 2] + _KNIGHT)
            d = min(d, distance[y - 1, x - 1] + _DIAGONAL, distance[y - 1, x] + _STRAIGHT)
            d = min(d, distance[y - 1, x + 1] + _DIAGONAL, distance[y - 1, x + 2] + _KNIGHT)
            distance[y, x] = min(d, distance[y, x - 1] + _STRAIGHT)
    for y in range(h + 1, 1, -1):
        for x in range(w + 1, 1, -1):
            d = distance[y, x]
            if d > _STRAIGHT:
                d = min(d, distance[y + 2, x + 1] + _KNIGHT, distance[y + 2, x - 1] + _KNIGHT)
                d = min(d, distance[y + 1, x + 2] + _KNIGHT, distance[y + 1, x + 1] + _DIAGONAL)
                d = min(d, distance[y + 1, x] + _STRAIGHT, distance[y + 1, x - 1] + _DIAGONAL)
                d = min(d, distance[y + 1, x - 2] + _KNIGHT, distance[y, x + 1] + _STRAIGHT)
                distance[y, x] = d


@_jit
def _mirror(i: int, size: int) -> int:
    """One step outside comes back inside, as OpenCV's default border."""
    if i < 0:
        return min(-i, size - 1)
    return i if i < size else max(2 * size - 2 - i, 0)


@_jit
def _equalised(levels: np.ndarray, out: np.ndarray) -> None:
    """Histogram equalisation of bytes: the darkest level that is there becomes 0, the brightest 255."""
    h, w = levels.shape
    counts = np.zeros(256, np.int64)
    for y in range(h):
        for x in range(w):
            counts[levels[y, x]] += 1
    lowest = 0
    while counts[lowest] == 0:
        lowest += 1
    table = np.zeros(256, np.uint8)
    if counts[lowest] == h * w:
        table[lowest] = lowest
    else:
        scale = np.float32(255) / np.float32(h * w - counts[lowest])
        total = 0
        for level in range(lowest + 1, 256):
            total += counts[level]
            table[level] = np.uint8(min(255, int(np.rint(np.float32(total) * scale))))
    for y in range(h):
        for x in range(w):
            out[y, x] = table[levels[y, x]]


@_jit
def water_layers(start: int, stop: int, layers: np.ndarray, out: np.ndarray) -> None:
    """From liquid layers (N, H, W) bytes to the water's amount in [0, 1]; 0 everywhere where there is no drop."""
    _, h, w = layers.shape
    found = np.zeros((h + 2, w + 2), np.uint8)
    distance = np.zeros((h + 4, w + 4), np.int64)
    levels = np.zeros((h, w), np.uint8)
    even = np.zeros((h, w), np.uint8)
    relief = np.zeros((h, w), np.uint8)
    cut = np.float32(_FAR)
    for n in range(start, stop):
        layer = layers[n]
        _edges(layer, found)
        _distances(found, distance)
        for y in range(h):
            for x in range(w):
                total = 0.0
                for i in range(-1, 2):
                    for j in range(-1, 2):
                        d = np.float32(distance[_mirror(y + i, h) + 2, _mirror(x + j, w) + 2] * (1.0 / 65536))
                        total += float(min(d, cut))
                levels[y, x] = np.uint8(int(np.float32(total * (1 / 9))))
        _equalised(levels, even)
        for y in range(h):
            above, below = _mirror(y - 1, h), _mirror(y + 1, h)
            for x in range(w):
                left, right = _mirror(x - 1, w), _mirror(x + 1, w)
                value = -2 * int(even[above, left]) - int(even[above, x]) - int(even[y, left]) + int(even[y, x])
                value += int(even[y, right]) + int(even[below, x]) + 2 * int(even[below, right])
                relief[y, x] = np.uint8(min(max(value, 0), 255))
        most = np.float32(0)
        for y in range(h):
            for x in range(w):
                total9 = 0
                for i in range(-1, 2):
                    for j in range(-1, 2):
                        total9 += int(relief[_mirror(y + i, h), _mirror(x + j, w)])
                out[n, y, x] = np.float32((2 * total9 + 9) // 18) * np.float32(layer[y, x])
                most = max(most, out[n, y, x])
        if most > 0:
            for y in range(h):
                for x in range(w):
                    out[n, y, x] /= most
