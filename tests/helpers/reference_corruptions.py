"""Slow, plain forms of all corruptions for one image, in NumPy: from the constants and given random numbers to bytes.

An image is (H, W, 3) or (H, W, 1) uint8; each function returns floats in the scale of 0 to 255, not yet clipped.
Borders are padded with numpy.pad, sums are loops over taps, and no code of the package is used.
"""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
from PIL import Image


def finished(values):
    """Clipped and rounded to bytes."""
    return np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)


# ---------------------------------------------------------------- noise


def gaussian_noise(image, sd, normals):
    return 255 * (image / 255 + sd * normals)


def speckle_noise(image, sd, normals):
    return 255 * (image / 255 + sd * image / 255 * normals)


def shot_noise(image, rate, uniforms):
    """The count at which the cumulative Poisson probability exceeds the uniform."""
    out = np.zeros(image.shape)
    for place in np.ndindex(*image.shape):
        mean = rate * float(image[place]) / 255
        count, term = 0, math.exp(-mean)
        total = term
        while uniforms[place] >= total and count < 5 * rate + 50:
            count += 1
            term *= mean / count
            total += term
        out[place] = 255 * count / rate
    return out


def impulse_noise(image, share, uniforms):
    out = image.astype(float)
    out[uniforms < share] = 255
    out[uniforms < share / 2] = 0
    return out


# ---------------------------------------------------------------- blur


def blur(values, sigma, truncate=4.0, mode="edge"):
    """A Gaussian along both axes of (H, W, ...); the radius is int(truncate sigma + 1/2)."""
    radius = int(truncate * sigma + 0.5)
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / max(sigma, 1e-12)) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * values.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(values, pad, mode=mode)
        size = values.shape[axis]
        values = sum(w * np.take(padded, np.arange(size) + i, axis) for i, w in enumerate(weights))
    return values


def gaussian_blur(image, sigma):
    return 255 * blur(image / 255, sigma)


def defocus_blur(image, radius, alias):
    reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis[None] ** 2 <= radius**2).astype(float)
    disk /= disk.sum()
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / alias) ** 2)
    weights /= weights.sum()
    padded = np.pad(disk, half, mode="reflect")
    side = len(axis)
    kernel = np.zeros((side, side))
    for i, a in enumerate(weights):
        for j, b in enumerate(weights):
            kernel += a * b * padded[i : i + side, j : j + side]
    h, w = image.shape[:2]
    padded = np.pad(image / 255, [(reach, reach), (reach, reach), (0, 0)], mode="reflect" if min(h, w) > 1 else "edge")
    out = np.zeros(image.shape)
    for i in range(side):
        for j in range(side):
            out += kernel[i, j] * padded[i : i + h, j : j + w]
    return 255 * out


def glass_blur(image, sigma, reach, rounds, uniforms):
    """``uniforms`` (rounds, ys, xs), the first for the last pixels: of the pairs (dy, dx) in reading order."""
    x = np.floor(255 * blur(image / 255, sigma) + 1e-4)
    h, w = image.shape[:2]
    for turn in range(rounds):
        for i, row in enumerate(range(h - reach, reach, -1)):
            for j, column in enumerate(range(w - reach, reach, -1)):
                dy, dx = divmod(int(uniforms[turn, i, j] * (2 * reach) ** 2), 2 * reach)
                x[row, column] = x[row + dy - reach, column + dx - reach]
    return 255 * blur(x / 255, sigma)


def streaks(values, radius, sigma, degrees):
    """A one-sided Gaussian along the angle, pixel by pixel."""
    count = 2 * radius + 1
    weights = np.exp(-(np.arange(count) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = math.radians(degrees)
    h, w = values.shape[:2]
    out = np.zeros(values.shape)
    for i in range(count):
        dy, dx = math.ceil(i * math.sin(angle) - 0.5), math.ceil(i * math.cos(angle) - 0.5)
        rows, columns = np.clip(np.arange(h) + dy, 0, h - 1), np.clip(np.arange(w) + dx, 0, w - 1)
        out += weights[i] * values[rows][:, columns]
    return out


def motion_blur(image, radius, sigma, uniform):
    return streaks(image.astype(float), radius, sigma, uniform * 90 - 45)


def zoomed(values, factor):
    """The centre enlarged, both ends of the crop on both ends of the result, bilinear."""
    out = values
    for axis in (0, 1):
        size = values.shape[axis]
        crop = math.ceil(size / factor)
        start, large = (size - crop) // 2, max(size, round(crop * factor))
        place = (np.arange(size) + (large - size) // 2) * (crop - 1) / max(large - 1, 1)
        low = np.minimum(np.floor(place).astype(int), max(crop - 2, 0))
        share = (place - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        first, second = (np.take(out, start + np.minimum(low + i, crop - 1), axis) for i in (0, 1))
        out = first * (1 - share) + second * share
    return out


def zoom_blur(image, until, step):
    factors = np.arange(1, until, step)
    return (image + sum(zoomed(image.astype(float), f) for f in factors)) / (len(factors) + 1)


# ---------------------------------------------------------------- weather


def luma(image):
    return image if image.shape[2] == 1 else image @ np.array([[0.299], [0.587], [0.114]])


def snow(image, mean, sd, zoom, threshold, radius, sigma, weight, normals, uniform):
    x = image / 255
    layer = zoomed(mean + sd * normals, zoom)
    layer[layer < threshold] = 0
    layer = np.floor(np.clip(layer, 0, 1) * 255 + 1e-4) / 255
    layer = streaks(layer, radius, sigma, uniform * 90 - 135)[:, :, None]
    x = weight * x + (1 - weight) * np.maximum(x, luma(x) * 1.5 + 0.5)
    return 255 * (x + layer + np.rot90(layer, 2))


def frost(image, image_weight, frost_weight, texture):
    """``texture`` (H, W, C) in [0, 1]: a crop of a photograph, or one of ours."""
    return image_weight * image + frost_weight * 255 * texture


def plasma(side, decay, draws):
    """Diamond-square by explicit neighbours, wrapped around; ``draws`` are uniforms in [-1, 1], three grids a level."""
    field = np.zeros((side, side))
    step, wibble, number = side, 100.0, 0
    while step >= 2:
        half = step // 2
        count = side // step
        for kind in ("squares", "top", "left"):
            grid = draws[number]
            number += 1
            for i in range(count):
                for j in range(count):
                    y, x = i * step, j * step
                    if kind == "squares":
                        y, x = y + half, x + half
                        near = [(y - half, x - half), (y - half, x + half), (y + half, x - half), (y + half, x + half)]
                    else:
                        y, x = (y, x + half) if kind == "top" else (y + half, x)
                        near = [(y - half, x), (y + half, x), (y, x - half), (y, x + half)]
                    field[y, x] = sum(field[a % side, b % side] for a, b in near) / 4 + wibble * wibble * grid[i, j]
        step, wibble = half, wibble / decay
    return (field - field.min()) / (field.max() - field.min())


def fog(image, amount, decay, draws):
    h, w = image.shape[:2]
    side = max(2, 2 ** math.ceil(math.log2(max(h, w))))
    x = image / 255
    most = x.max()
    return 255 * (x + amount * plasma(side, decay, draws)[:h, :w, None]) * most / (most + amount)


def _hsv(image, change):
    out = np.zeros(image.shape)
    for place in np.ndindex(*image.shape[:2]):
        out[place] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(image[place] / 255))))
    return 255 * out


def brightness(image, amount):
    if image.shape[2] == 1:
        return image + 255 * amount
    return _hsv(image, lambda h, s, v: (h, s, min(1, v + amount)))


def saturate(image, factor, shift):
    return _hsv(image, lambda h, s, v: (h, min(1, max(0, s * factor + shift)), v))


def spatter(image, mean, sd, sigma, threshold, strength, mud, normals):
    """Water by the functions of OpenCV themselves."""
    x = image / 255
    layer = blur(mean + sd * normals, sigma)
    colour = np.array([63, 42, 20] if mud else [175, 238, 238])[None, None] / 255
    if image.shape[2] == 1:
        colour = luma(colour)
    if mud:
        cover = blur((layer > threshold).astype(float), strength)
        cover[cover < 0.8] = 0
        return 255 * (x * (1 - cover[..., None]) + colour * cover[..., None])
    layer[layer < threshold] = 0
    return 255 * (x + strength * water((layer * 255 + 1e-4).astype(np.int64).astype(np.uint8))[..., None] * colour)


def water(layer):
    """A relief of the distance to the edges of a layer of bytes; needs OpenCV."""
    import cv2

    distance = cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5)
    distance = cv2.blur(np.minimum(distance, 20).astype(np.float32), (3, 3)).astype(np.uint8)
    relief = cv2.filter2D(
        cv2.equalizeHist(distance), cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    )
    amount = layer * cv2.blur(relief, (3, 3)).astype(float)
    return amount / amount.max() if amount.max() > 0 else amount


# ---------------------------------------------------------------- digital


def contrast(image, factor):
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * factor + mean


def bilinear(image, rows, columns, mode):
    """Values at float places of (H, W, C), the border by numpy.pad's mode."""
    h, w = image.shape[:2]
    reach = int(max(-rows.min(), rows.max() - h, -columns.min(), columns.max() - w, 0)) + 2
    padded = np.pad(image, [(reach, reach), (reach, reach), (0, 0)], mode=mode)
    y, x = np.floor(rows).astype(int), np.floor(columns).astype(int)
    fy, fx = (rows - y)[..., None], (columns - x)[..., None]
    at = lambda i, j: padded[y + i + reach, x + j + reach]  # noqa: E731
    return (at(0, 0) * (1 - fx) + at(0, 1) * fx) * (1 - fy) + (at(1, 0) * (1 - fx) + at(1, 1) * fx) * fy


def elastic_transform(image, amplitude, sigma, affine, shifts, noise):
    """``shifts`` (3, 2) and ``noise`` (2, H, W) in [-1, 1]; the constants in sides of the image."""
    h, w = image.shape[:2]
    side = min(h, w)
    third = side // 3
    y, x = np.mgrid[:h, :w].astype(float)
    out = image.astype(float)
    if third:
        centre = np.array([h // 2, w // 2])
        points = np.array([centre + third, [centre[0] + third, centre[1] - third], centre - third], float)
        moved = points + affine * side * shifts
        forward = np.linalg.solve(np.hstack([points, np.ones((3, 1))]), moved).T
        back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
        columns, rows, _ = np.tensordot(back, np.stack([x, y, np.ones_like(x)]), 1)
        out = bilinear(out, rows, columns, "reflect" if side > 1 else "edge")
    if amplitude == 0:
        return out
    dx, dy = (blur(layer, sigma * side, 3.0, "symmetric") * amplitude * side for layer in noise)
    return bilinear(out, y + dy, x + dx, "symmetric")


def pixelate(image, scale):
    h, w = image.shape[:2]
    picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
    small = picture.resize((max(1, int(w * scale)), max(1, int(h * scale))), Image.Resampling.BOX)
    return np.asarray(small.resize((w, h), Image.Resampling.BOX)).reshape(image.shape).astype(float)


def jpeg_compression(image, quality):
    file = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape).astype(float)
