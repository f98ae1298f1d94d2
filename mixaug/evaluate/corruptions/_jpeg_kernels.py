"""The lossy part of baseline JPEG in integers: what is written and read again, without the lossless coding in between.

The steps are those of the reference library (libjpeg and libjpeg-turbo) with its default settings: colours in 16 bits,
chroma halved in both directions for RGB, the accurate integer DCT and its inverse in 13 bits, chroma brought back by a
triangle filter. So the pixels are the ones that PIL reads from its own JPEG files (tested, all qualities, any size).
"""

from __future__ import annotations

import numpy as np

from mixaug.evaluate.corruptions._kernels import _jit

_CONST, _PASS1 = 13, 2  # bits of the DCT's constants, and that the first pass keeps


@_jit
def _forward_pass(d: np.ndarray, out: np.ndarray, even_shift: int, odd_shift: int) -> None:
    """DCT of the 8 columns of an 8x8 block side by side. A negative even shift goes left."""
    for i in range(8):
        t0, t7, t1, t6 = d[0, i] + d[7, i], d[0, i] - d[7, i], d[1, i] + d[6, i], d[1, i] - d[6, i]
        t2, t5, t3, t4 = d[2, i] + d[5, i], d[2, i] - d[5, i], d[3, i] + d[4, i], d[3, i] - d[4, i]
        t10, t13, t11, t12 = t0 + t3, t0 - t3, t1 + t2, t1 - t2
        if even_shift < 0:
            out[0, i], out[4, i] = (t10 + t11) << -even_shift, (t10 - t11) << -even_shift
        else:
            half = 1 << (even_shift - 1)
            out[0, i], out[4, i] = (t10 + t11 + half) >> even_shift, (t10 - t11 + half) >> even_shift
        half = 1 << (odd_shift - 1)
        z1 = (t12 + t13) * 4433
        out[2, i], out[6, i] = (z1 + t13 * 6270 + half) >> odd_shift, (z1 - t12 * 15137 + half) >> odd_shift
        z1, z2, z3, z4 = t4 + t7, t5 + t6, t4 + t6, t5 + t7
        z5 = (z3 + z4) * 9633
        z1, z2, z3, z4 = -z1 * 7373, -z2 * 20995, z5 - z3 * 16069, z5 - z4 * 3196
        out[7, i] = (t4 * 2446 + z1 + z3 + half) >> odd_shift
        out[5, i] = (t5 * 16819 + z2 + z4 + half) >> odd_shift
        out[3, i] = (t6 * 25172 + z2 + z3 + half) >> odd_shift
        out[1, i] = (t7 * 12299 + z1 + z4 + half) >> odd_shift


@_jit
def _inverse_pass(c: np.ndarray, out: np.ndarray, shift: int) -> None:
    """Inverse DCT of the 8 columns of an 8x8 block side by side."""
    half = 1 << (shift - 1)
    for i in range(8):
        z1 = (c[2, i] + c[6, i]) * 4433
        t2, t3 = z1 - c[6, i] * 15137, z1 + c[2, i] * 6270
        t0, t1 = (c[0, i] + c[4, i]) << _CONST, (c[0, i] - c[4, i]) << _CONST
        t10, t13, t11, t12 = t0 + t3 + half, t0 - t3 + half, t1 + t2 + half, t1 - t2 + half
        t0, t1, t2, t3 = c[7, i], c[5, i], c[3, i], c[1, i]
        z1, z2, z3, z4 = t0 + t3, t1 + t2, t0 + t2, t1 + t3
        z5 = (z3 + z4) * 9633
        z1, z2, z3, z4 = -z1 * 7373, -z2 * 20995, z5 - z3 * 16069, z5 - z4 * 3196
        t0, t1 = t0 * 2446 + z1 + z3, t1 * 16819 + z2 + z4
        t2, t3 = t2 * 25172 + z2 + z3, t3 * 12299 + z1 + z4
        out[0, i], out[7, i] = (t10 + t3) >> shift, (t10 - t3) >> shift
        out[1, i], out[6, i] = (t11 + t2) >> shift, (t11 - t2) >> shift
        out[2, i], out[5, i] = (t12 + t1) >> shift, (t12 - t1) >> shift
        out[3, i], out[4, i] = (t13 + t0) >> shift, (t13 - t0) >> shift


@_jit
def _turn(block: np.ndarray, out: np.ndarray) -> None:
    for i in range(8):
        for j in range(8):
            out[i, j] = block[j, i]


@_jit
def _code_plane(plane: np.ndarray, table: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Each 8x8 block to quantised frequencies and back, in place; ``a`` and ``b`` are (8, 8) int32 to work in."""
    inverse = np.float32(0.125) / table.astype(np.float32)
    for top in range(0, plane.shape[0], 8):
        for left in range(0, plane.shape[1], 8):
            for i in range(8):
                for j in range(8):
                    b[j, i] = plane[top + i, left + j] - 128
            _forward_pass(b, a, -_PASS1, _CONST - _PASS1)  # the rows
            _turn(a, b)
            _forward_pass(b, a, _PASS1, _CONST + _PASS1)
            for i in range(8):
                for j in range(8):
                    # |a| / (8 step) to the nearest, halves up. An integer division would take most of the time; plus
                    # 1/2, the product in 24 bits is never across an integer.
                    size = np.float32(abs(a[i, j]) + 4 * table[i, j]) + np.float32(0.5)
                    whole = np.int32(size * inverse[i, j])
                    a[i, j] = (whole if a[i, j] >= 0 else -whole) * table[i, j]
            _inverse_pass(a, b, _CONST - _PASS1)
            _turn(b, a)
            _inverse_pass(a, b, _CONST + _PASS1 + 3)
            for i in range(8):
                for j in range(8):
                    plane[top + i, left + j] = min(max(b[j, i] + 128, 0), 255)


@_jit
def _extend(plane: np.ndarray, h: int, w: int) -> None:
    """Repeats the last column and row to the end."""
    for y in range(h):
        for x in range(w, plane.shape[1]):
            plane[y, x] = plane[y, w - 1]
    for y in range(h, plane.shape[0]):
        for x in range(plane.shape[1]):
            plane[y, x] = plane[h - 1, x]


@_jit
def _halve(full: np.ndarray, half: np.ndarray, rows: int) -> None:
    """Means of 2x2, rounded down and up in turns; ``rows`` of them are of the image, the last one is repeated."""
    for y in range(rows):
        for x in range(half.shape[1]):
            four = full[2 * y, 2 * x] + full[2 * y, 2 * x + 1] + full[2 * y + 1, 2 * x] + full[2 * y + 1, 2 * x + 1]
            half[y, x] = (four + 1 + (x & 1)) >> 2
    for y in range(rows, half.shape[0]):
        for x in range(half.shape[1]):
            half[y, x] = half[rows - 1, x]


@_jit
def _double(half: np.ndarray, full: np.ndarray, rows: int, columns: int, h: int, w: int, sums: np.ndarray) -> None:
    """Twice the size by a triangle filter of 3/4 and 1/4; lines of one or two samples are repeated."""
    for y in range(h):
        near = y >> 1
        far = max(near - 1, 0) if y & 1 == 0 else min(near + 1, rows - 1)
        if columns <= 2:
            for x in range(w):
                full[y, x] = half[near, x >> 1]
            continue
        for x in range(columns):
            sums[x] = 3 * half[near, x] + half[far, x]
        for x in range(w):
            i = x >> 1
            if x & 1 == 0:
                full[y, x] = (3 * sums[i] + sums[max(i - 1, 0)] + 8) >> 4
            else:
                full[y, x] = (3 * sums[i] + sums[min(i + 1, columns - 1)] + 7) >> 4


@_jit
def jpeg_images(
    start: int, stop: int, images: np.ndarray, out: np.ndarray, luma_table: np.ndarray, chroma_table: np.ndarray
) -> None:
    """Float images (N, C, H, W) in [0, 1] through JPEG; tables (8, 8) int32 in rows of ascending frequency."""
    _, channels, h, w = images.shape
    luma = np.empty((-(-h // 8) * 8, -(-w // 8) * 8), np.int32)
    rows, columns = (h + 1) // 2, (w + 1) // 2
    half_h, half_w = -(-rows // 8) * 8, -(-columns // 8) * 8
    blue, red = np.empty((2 * half_h, 2 * half_w), np.int32), np.empty((2 * half_h, 2 * half_w), np.int32)
    small = np.empty((half_h, half_w), np.int32)
    sums = np.empty(columns, np.int32)
    a, b = np.empty((8, 8), np.int32), np.empty((8, 8), np.int32)
    top, rounding = np.float32(255), np.float32(0.5)
    for n in range(start, stop):
        if channels == 1:
            for y in range(h):
                for x in range(w):
                    luma[y, x] = np.int32(images[n, 0, y, x] * top + rounding)
            _extend(luma, h, w)
            _code_plane(luma, luma_table, a, b)
            for y in range(h):
                for x in range(w):
                    out[n, 0, y, x] = np.float32(luma[y, x]) / top
            continue
        for y in range(h):
            for x in range(w):
                r = np.int32(images[n, 0, y, x] * top + rounding)
                g = np.int32(images[n, 1, y, x] * top + rounding)
                bl = np.int32(images[n, 2, y, x] * top + rounding)
                luma[y, x] = (19595 * r + 38470 * g + 7471 * bl + 32768) >> 16
                blue[y, x] = (-11059 * r - 21709 * g + 32768 * bl + (128 << 16) + 32767) >> 16
                red[y, x] = (32768 * r - 27439 * g - 5329 * bl + (128 << 16) + 32767) >> 16
        _extend(luma, h, w)
        _code_plane(luma, luma_table, a, b)
        for chroma in (blue, red):
            _extend(chroma, h, w)
            _halve(chroma, small, rows)
            _code_plane(small, chroma_table, a, b)
            _double(small, chroma, rows, columns, h, w, sums)
        for y in range(h):
            for x in range(w):
                light, u, v = luma[y, x], blue[y, x] - 128, red[y, x] - 128
                r = light + ((91881 * v + 32768) >> 16)
                g = light + ((-22554 * u - 46802 * v + 32768) >> 16)
                bl = light + ((116130 * u + 32768) >> 16)
                out[n, 0, y, x] = np.float32(min(max(r, 0), 255)) / top
                out[n, 1, y, x] = np.float32(min(max(g, 0), 255)) / top
                out[n, 2, y, x] = np.float32(min(max(bl, 0), 255)) / top
