"""The mathematics of the fractals as plain vectorised NumPy: oracle of the compiled kernels and their peer in speed.

Written the way one writes this in NumPy: whole arrays of all points that are still alive, shrunk whenever some escape.
"""

from __future__ import annotations

import numpy as np

from mixaug.mixing_sets.fractals import FAMILIES, TRAPS, FractalParams

ESCAPE = 1.0e4


def log2(value):
    mantissa, exponent = np.frexp(value)
    half = 0.7071067811865476
    s = (mantissa - half) / (mantissa + half)
    s2 = s * s
    series = s * (1.0 + s2 * (1.0 / 3.0 + s2 * (0.2 + s2 * (1.0 / 7.0 + s2 * (1.0 / 9.0)))))
    return exponent - 0.5 + 2.8853900817779268 * series


def lookup(table, position):
    place = (position - np.floor(position)) * len(table)
    low = place.astype(np.int64)
    part = (place - low)[:, None]
    low[low >= len(table)] = 0
    high = np.where(low + 1 < len(table), low + 1, 0)
    return table[low] + part * (table[high] - table[low])


def step(p, x, y, cx, cy, old_x, old_y):
    if p["fold"]:
        x, y = np.abs(x), np.abs(y)
    if p["conj"]:
        y = -y
    if p["family"] == "phoenix":
        px, py = p["memory"]
        new_x = (x * x - y * y) + (cx + (px * old_x - py * old_y))
        new_y = 2.0 * x * y + (cy + (px * old_y + py * old_x))
        return new_x, new_y, x, y
    if p["degree"] == 2 and p["family"] == "power":
        return (x * x - y * y) + cx, 2.0 * x * y + cy, x, y
    zx, zy = x, y
    for _ in range(p["degree"] - 1):
        zx, zy = zx * x - zy * y, zx * y + zy * x
    if p["family"] == "power":
        return zx + cx, zy + cy, x, y
    wx, wy = x, y
    for _ in range(p["pole"] - 1):
        wx, wy = wx * x - wy * y, wx * y + wy * x
    norm = (wx * wx + wy * wy) + 1e-12
    wx, wy = wx / norm, -wy / norm
    return zx + (cx * wx - cy * wy), zy + (cy * wx + cx * wy), x, y


def trap_distance(p, x, y):
    (tx, ty), (ux, uy) = p["trap_centre"], p["trap_axis"]
    a, b = x - tx, y - ty
    if p["trap"] == "point":
        return np.sqrt(a * a + b * b)
    if p["trap"] == "circle":
        return np.abs(np.sqrt(a * a + b * b) - p["trap_radius"])
    if p["trap"] == "line":
        return np.abs(a * ux + b * uy)
    u, v = np.abs(a * ux + b * uy), np.abs(b * ux - a * uy)
    if p["trap"] == "cross":
        return np.minimum(u, v)
    return np.abs(np.maximum(u, v) - p["trap_radius"])


def colours(p, outside, count, norm, near, when, total, last):
    stripe = total / count
    smooth, fade = 0.0, 1.0
    if outside:
        part = 1.0 - log2(log2(norm) / 13.287712379549449) / log2(np.float64(p["degree"]))
        part = np.clip(part, 0.0, 1.0)
        smooth = np.sqrt(count + part)
        before = (total - last) / (count - 1.0) if count > 1.5 else stripe
        stripe = before + part * (stripe - before)
        fade = 1.0 / (1.0 + (count * count) * 1.0e-3)
    depth = -log2(near + 1.0e-4)
    b, g = p["base"], p["glow"]
    base = b[0] + (b[1] * smooth + fade * (b[2] * depth + (b[3] * stripe + b[4] * when)))
    glow = g[0] + (g[1] * depth + fade * (g[2] * stripe + g[3] * when))
    ratio = near / p["glow_width"]
    weight = (1.0 / (1.0 + ratio * ratio))[:, None]
    colour = (1.0 - weight) * lookup(p["palettes"][0], base) + weight * lookup(p["palettes"][1], glow)
    colour = colour * (1.0 - (fade * p["shade"]) * (0.5 - 0.5 * stripe))[:, None]
    shine = p["shine"] * ((weight * weight) * (weight * weight))
    return colour + shine * (255.0 - colour)


def record(params: FractalParams, i: int) -> dict:
    p = {
        name: getattr(params, name)[i].numpy()
        for name in ("centre", "view_axis", "constant", "memory", "trap_centre", "trap_axis", "stripe_axis", "base",
                     "glow", "palettes")
    }  # fmt: skip
    for name in ("width", "trap_radius", "stripe_harmonic", "glow_width", "shine", "shade", "degree", "pole", "fold",
                 "conj", "parameter_plane"):  # fmt: skip
        p[name] = getattr(params, name)[i].item()
    return p | {"family": FAMILIES[params.family[i]], "trap": TRAPS[params.trap[i]]}


def render(params: FractalParams, i: int, size: int, iterations: int = 200, samples: int = 2) -> np.ndarray:
    """Picture ``i`` as uint8 (3, size, size)."""
    p = record(params, i)
    side = size * samples
    line = ((np.arange(side) + 0.5) / side - 0.5) * p["width"]
    u, v = np.meshgrid(line, line)
    (ux, uy), (centre_x, centre_y) = p["view_axis"], p["centre"]
    plane_x, plane_y = (centre_x + (u * ux - v * uy)).ravel(), (centre_y + (u * uy + v * ux)).ravel()
    constant_x, constant_y = np.full_like(plane_x, p["constant"][0]), np.full_like(plane_y, p["constant"][1])
    if p["parameter_plane"]:
        x, y, cx, cy = constant_x, constant_y, plane_x, plane_y
    else:
        x, y, cx, cy = plane_x, plane_y, constant_x, constant_y
    old_x, old_y = np.zeros_like(x), np.zeros_like(x)
    near, when, total = np.full_like(x, 1e3), np.zeros_like(x), np.zeros_like(x)
    where = np.arange(len(x))
    result = np.empty((len(x), 3))
    axis_x, axis_y = p["stripe_axis"]
    for n in range(1, iterations + 1):
        x, y, old_x, old_y = step(p, x, y, cx, cy, old_x, old_y)
        distance = trap_distance(p, x, y)
        closer = distance < near
        when = np.where(closer, float(n), when)
        near = np.where(closer, distance, near)
        xx, yy = x * x, y * y
        norm = xx + yy
        c = (axis_x * (xx - yy) + axis_y * (2.0 * x * y)) / (norm + 1e-12)
        last = c + p["stripe_harmonic"] * ((2.0 * c * c - 1.0) - c)
        total = total + last
        alive = norm <= ESCAPE
        if not alive.all():
            gone = ~alive
            ended = norm[gone], near[gone], when[gone], total[gone], last[gone]
            result[where[gone]] = colours(p, True, float(n), *ended)
            x, y, cx, cy, old_x, old_y = x[alive], y[alive], cx[alive], cy[alive], old_x[alive], old_y[alive]
            near, when, total, where = near[alive], when[alive], total[alive], where[alive]
            last = last[alive]
            if not len(x):
                break
    if len(x):
        result[where] = colours(p, False, float(iterations), None, near, when, total, last)
    picture = result.reshape(size, samples, size, samples, 3).transpose(1, 3, 0, 2, 4).reshape(-1, size, size, 3)
    sums = np.zeros((size, size, 3))
    for part in picture:
        sums = sums + part
    return np.clip(sums * (1.0 / samples**2) + 0.5, 0.0, 255.0).astype(np.uint8).transpose(2, 0, 1)
