"""Compiled loops of the corruptions for images on the CPU; imported at the first use, because numba takes a while.

Each has a form in torch beside its caller, for other devices, that gives the same up to rounding. The kernels take the
range of images they work on, are serial and release the GIL: :func:`over_images` runs them on as many plain threads as
torch has, so nothing outlives a call and forked loader workers are safe.

Inner loops run along a row (or along 16 planes side by side, for the zooms), without gathers, so that LLVM vectorises
them; rows are cut to begin at the shift, because an index that might be negative stops it. Those that several
corruptions share are in one file on purpose: numba's disk cache notices a change of a function's own file only.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mixaug._numba import jit

LANES = 16  # planes side by side in a zoom: the floats of one AVX-512 register, or of two AVX ones
_NEAREST, _REFLECT, _REFLECT101 = 0, 1, 2
MODES = {"nearest": _NEAREST, "reflect": _REFLECT, "reflect101": _REFLECT101}
_PRECISION = 22  # bits of PIL's weights


_jit = jit(contract=True)


def over_images(kernel: Callable[..., None], count: int, *arrays: Any) -> None:
    """Calls ``kernel(start, stop, *arrays)`` for the parts of ``range(count)``, one for each of torch's threads."""
    parts = min(torch.get_num_threads(), count)
    if parts <= 1 or not kernel.signatures:  # type: ignore[attr-defined]
        kernel(0, count, *arrays)  # the first call compiles, or loads: not in several threads at once
        return
    edges = [count * part // parts for part in range(parts + 1)]
    threads = [
        threading.Thread(target=kernel, args=(start, stop, *arrays)) for start, stop in itertools.pairwise(edges[1:])
    ]
    for thread in threads:
        thread.start()
    kernel(edges[0], edges[1], *arrays)
    for thread in threads:
        thread.join()


@_jit
def _inside(index: int, size: int, mode: int) -> int:
    """A position brought inside as by ``filters.border``."""
    if 0 <= index < size:
        return index
    if mode == _NEAREST or size == 1:
        return min(max(index, 0), size - 1)
    period = 2 * size if mode == _REFLECT else 2 * size - 2
    index %= period
    if index < 0:
        index += period
    return min(index, (period - 1 if mode == _REFLECT else period) - index)


@_jit
def blur_planes(
    start: int,
    stop: int,
    planes: np.ndarray,
    out: np.ndarray,
    row_weights: np.ndarray,
    row_index: np.ndarray,
    column_weights: np.ndarray,
    column_index: np.ndarray,
) -> None:
    """A separable filter: along the columns first. ``*_index`` are the padded positions along each axis."""
    _, h, w = planes.shape
    padded_w = column_index.shape[0]
    line = np.empty(w, np.float32)
    padded = np.empty(padded_w, np.float32)
    for p in range(start, stop):
        for y in range(h):
            line[:] = 0
            for t in range(row_weights.shape[0]):
                weight, row = row_weights[t], planes[p, row_index[y + t]]
                for x in range(w):
                    line[x] += weight * row[x]
            for x in range(padded_w):
                padded[x] = line[column_index[x]]
            target = out[p, y]
            target[:] = 0
            for t in range(column_weights.shape[0]):
                weight, row = column_weights[t], padded[t : t + w]
                for x in range(w):
                    target[x] += weight * row[x]


@_jit
def convolve_planes(
    start: int,
    stop: int,
    planes: np.ndarray,
    out: np.ndarray,
    row_index: np.ndarray,
    column_index: np.ndarray,
    dy: np.ndarray,
    dx: np.ndarray,
    jump: np.ndarray,
) -> None:
    """Correlation with a kernel given by the jumps along its rows: each jump weighs the sum of a row up to there."""
    _, h, w = planes.shape
    padded_h, padded_w = row_index.shape[0], column_index.shape[0]
    sums = np.empty((padded_h, padded_w + 1), np.float32)
    for p in range(start, stop):
        for y in range(padded_h):
            total = 0.0
            sums[y, 0] = 0
            for x in range(padded_w):
                total += planes[p, row_index[y], column_index[x]]
                sums[y, x + 1] = total
        for y in range(h):
            target = out[p, y]
            target[:] = 0
            for j in range(jump.shape[0]):
                weight, row = jump[j], sums[y + dy[j], dx[j] : dx[j] + w]
                for x in range(w):
                    target[x] -= weight * row[x]


@_jit
def directional_images(
    start: int,
    stop: int,
    images: np.ndarray,
    out: np.ndarray,
    dy: np.ndarray,
    dx: np.ndarray,
    weights: np.ndarray,
    reach: int,
) -> None:
    """Weighted sum of shifted copies, edge pixels repeated; ``dy``, ``dx`` are ``(N, taps)``."""
    _, channels, h, w = images.shape
    padded = np.empty((h, w + 2 * reach), np.float32)
    for n in range(start, stop):
        for c in range(channels):
            for y in range(h):
                padded[y, :reach] = images[n, c, y, 0]
                padded[y, reach : reach + w] = images[n, c, y]
                padded[y, reach + w :] = images[n, c, y, w - 1]
            for y in range(h):
                target = out[n, c, y]
                target[:] = 0
                for t in range(weights.shape[0]):
                    left = reach + dx[n, t]
                    weight, row = weights[t], padded[min(max(y + dy[n, t], 0), h - 1), left : left + w]
                    for x in range(w):
                        target[x] += weight * row[x]


@_jit
def warp_images(
    start: int,
    stop: int,
    images: np.ndarray,
    out: np.ndarray,
    affine: np.ndarray,
    offsets: np.ndarray,
    mode: int,
) -> None:
    """Bilinear values at ``affine (N, 2, 3)`` times ``(x, y, 1)`` plus ``offsets (2, N, H, W)``, both as (x, y).

    No offsets: an array of N = 0.
    """
    _, channels, h, w = images.shape
    moved = offsets.shape[1] > 0
    for n in range(start, stop):
        a = affine[n]
        for y in range(h):
            for x in range(w):
                u = a[0, 0] * x + a[0, 1] * y + a[0, 2]
                v = a[1, 0] * x + a[1, 1] * y + a[1, 2]
                if moved:
                    u += offsets[0, n, y, x]
                    v += offsets[1, n, y, x]
                u0, v0 = np.floor(u), np.floor(v)
                fu, fv = np.float32(u - u0), np.float32(v - v0)
                left, top = int(u0), int(v0)
                right, bottom = left + 1, top + 1
                if left < 0 or top < 0 or right >= w or bottom >= h:
                    left, right = _inside(left, w, mode), _inside(right, w, mode)
                    top, bottom = _inside(top, h, mode), _inside(bottom, h, mode)
                for c in range(channels):
                    image = images[n, c]
                    upper = image[top, left] * (1 - fu) + image[top, right] * fu
                    lower = image[bottom, left] * (1 - fu) + image[bottom, right] * fu
                    out[n, c, y, x] = upper * (1 - fv) + lower * fv


@_jit
def zoom_planes(
    start: int,
    stop: int,
    planes: np.ndarray,
    out: np.ndarray,
    rows: np.ndarray,
    row_shares: np.ndarray,
    columns: np.ndarray,
    column_shares: np.ndarray,
) -> None:
    """The mean of the plane and of its zooms, for groups of 16 planes.

    Args:
        start: of the groups.
        stop: of the groups.
        planes: (P, H, W).
        out: (P, H, W).
        rows: (F, H) the upper of two rows that a row of the result lies between, for each factor; the last is H - 2.
        row_shares: (F, H) the share of the lower one.
        columns: (F, W) as rows.
        column_shares: (F, W).
    """
    count, h, w = planes.shape
    factors = rows.shape[0]
    beside = np.zeros((h, w, LANES), np.float32)
    line = np.zeros((w, LANES), np.float32)
    total = np.zeros((w, LANES), np.float32)
    scale = np.float32(1) / np.float32(factors + 1)
    for group in range(start, stop):
        first = group * LANES
        some = min(LANES, count - first)
        for y in range(h):
            for lane in range(some):
                for x in range(w):
                    beside[y, x, lane] = planes[first + lane, y, x]
        for y in range(h):
            total[:] = beside[y]
            for f in range(factors):
                upper, lower = beside[rows[f, y]], beside[min(rows[f, y] + 1, h - 1)]
                share = row_shares[f, y]
                low, high = columns[f, 0], min(columns[f, w - 1] + 2, w)
                for x in range(low, high):
                    for lane in range(LANES):
                        line[x, lane] = upper[x, lane] + share * (lower[x, lane] - upper[x, lane])
                for x in range(w):
                    left, part = columns[f, x], column_shares[f, x]
                    right = min(left + 1, w - 1)
                    for lane in range(LANES):
                        total[x, lane] += line[left, lane] + part * (line[right, lane] - line[left, lane])
            for lane in range(some):
                for x in range(w):
                    out[first + lane, y, x] = total[x, lane] * scale


@_jit
def copy_pixels(start: int, stop: int, images: np.ndarray, codes: np.ndarray, reach: int) -> None:
    """The glass blur's copies, in place: each depends on those before it. A code is ``(dy + r) 2 r + dx + r``."""
    _, channels, h, w = images.shape
    for n in range(start, stop):
        for turn in range(codes.shape[1]):
            for i in range(codes.shape[2]):
                y = h - reach - i
                for j in range(codes.shape[3]):
                    x = w - reach - j
                    code = int(codes[n, turn, i, j])
                    y2, x2 = y + code // (2 * reach) - reach, x + code % (2 * reach) - reach
                    for c in range(channels):
                        images[n, c, y, x] = images[n, c, y2, x2]


@_jit
def _resample(
    source: np.ndarray, target: np.ndarray, first: np.ndarray, weights: np.ndarray, h: int, along_rows: bool
) -> None:
    """One pass of PIL's resampling in its integers, over ``h`` rows; along the rows or down the columns."""
    size, taps = weights.shape
    half = 1 << (_PRECISION - 1)
    if along_rows:
        for y in range(h):
            for x in range(size):
                total = half
                for t in range(taps):
                    total += weights[x, t] * source[y, first[x] + t]
                target[y, x] = min(max(total >> _PRECISION, 0), 255)
        return
    w = h
    for y in range(size):
        for x in range(w):
            target[y, x] = half
        for t in range(taps):
            weight, row = weights[y, t], source[first[y] + t]
            for x in range(w):
                target[y, x] += weight * row[x]
        for x in range(w):
            target[y, x] = min(max(target[y, x] >> _PRECISION, 0), 255)


@_jit
def pixelate_planes(
    start: int,
    stop: int,
    planes: np.ndarray,
    out: np.ndarray,
    down_x: np.ndarray,
    down_x_weights: np.ndarray,
    down_y: np.ndarray,
    down_y_weights: np.ndarray,
    up_x: np.ndarray,
    up_x_weights: np.ndarray,
    up_y: np.ndarray,
    up_y_weights: np.ndarray,
) -> None:
    """Down and up again, each along the rows and then down the columns, rounded to bytes after each as PIL does.

    ``*_weights`` are (size, taps) int32 in 22 bits; ``first + taps`` never leaves the line.
    """
    _, h, w = planes.shape
    small_h, small_w = down_y.shape[0], down_x.shape[0]
    levels = np.empty((h, w), np.int32)
    narrow = np.empty((h, small_w), np.int32)
    small = np.empty((small_h, small_w), np.int32)
    wide = np.empty((small_h, w), np.int32)
    for p in range(start, stop):
        for y in range(h):
            for x in range(w):
                levels[y, x] = int(planes[p, y, x] * np.float32(255) + np.float32(0.5))
        _resample(levels, narrow, down_x, down_x_weights, h, True)
        _resample(narrow, small, down_y, down_y_weights, small_w, False)
        _resample(small, wide, up_x, up_x_weights, small_h, True)
        _resample(wide, levels, up_y, up_y_weights, w, False)
        for y in range(h):
            for x in range(w):
                out[p, y, x] = levels[y, x] / np.float32(255)


@_jit
def poisson_levels(
    start: int,
    stop: int,
    images: np.ndarray,
    uniforms: np.ndarray,
    out: np.ndarray,
    cumulative: np.ndarray,
    guide: np.ndarray,
    scale: float,
) -> None:
    """``scale`` times the count whose cumulative probability first exceeds the uniform, by level of 0 to 255."""
    per = np.float32(scale)
    buckets = guide.shape[1]
    for n in range(start, stop):
        for i in range(images.shape[1]):
            level = int(images[n, i] * np.float32(255) + np.float32(0.5))
            u = uniforms[n, i]
            count = guide[level, int(u * buckets)]
            while u >= cumulative[level, count]:
                count += 1
            out[n, i] = count * per
