"""The mathematics of the fractals as plain vectorised NumPy: oracle of the compiled kernels and their peer in speed.

Written the way one writes this in NumPy: whole arrays of all points that are still alive, shrunk whenever some end.
"""

from __future__ import annotations

import numpy as np

from mixaug.mixing_sets.fractals.draws import FAMILIES, TRAPS, FractalParams

ESCAPE, TOLERANCE, BACK = 1.0e4, 1.0e-6, 2.0**-15
DEEP = 0.002


def f32(value):
    return np.asarray(value).astype(np.float32)


def log2(value):
    """In float32, to 1e-6, from IEEE operations only."""
    mantissa, exponent = np.frexp(f32(value))
    half = np.float32(0.7071067811865476)
    s = (mantissa - half) / (mantissa + half)
    s2 = s * s
    third, fifth, seventh, ninth = (np.float32(1 / k) for k in (3, 5, 7, 9))
    series = s * (1 + s2 * (third + s2 * (fifth + s2 * (seventh + s2 * ninth))))
    return (f32(exponent) - np.float32(0.5)) + np.float32(2.8853900817779268) * series


def times(a, b, c, d):
    return a * c - b * d, a * d + b * c


def table(palette):
    """(1024, 3): the colours in the middle of 1024 steps of a palette."""
    place = (np.arange(1024) + 0.5) * len(palette) / 1024
    low = place.astype(np.int64)
    part = (place - low)[:, None]
    high = (low + 1) % len(palette)
    return f32(palette[low] + part * (palette[high] - palette[low]))


def lookup(colours, position):
    place = position - np.floor(position)
    return colours[np.minimum((place * np.float32(1024)).astype(np.int64), 1023)]


def power(degree, x, y):
    wx, wy = times(x, y, x, y)
    if degree >= 4:
        wx, wy = times(wx, wy, wx, wy)
    return times(wx, wy, x, y) if degree % 2 else (wx, wy)


def newton_step(p, x, y):
    f, g = np.zeros_like(x), np.zeros_like(x)
    df, dg = f, g
    for a, b in p["polynomial"]:
        df, dg = times(df, dg, x, y)
        df, dg = df + f, dg + g
        f, g = times(f, g, x, y)
        f, g = f + a, g + b
    norm = (df * df + dg * dg) + p["dtype"](1e-3)
    return times(*p["memory"], (f * df + g * dg) / norm, (g * df - f * dg) / norm)


def step(p, x, y, cx, cy, old_x, old_y):
    if p["family"] == "newton":
        dx, dy = newton_step(p, x, y)
        return (x - dx) + cx, (y - dy) + cy
    if p["family"] == "phoenix":
        px, py = p["memory"]
        return (x * x - y * y) + (cx + (px * old_x - py * old_y)), 2 * x * y + (cy + (px * old_y + py * old_x))
    if p["fold"]:
        x, y = np.abs(x), np.abs(y)
    if p["conj"]:
        y = -y
    zx, zy = power(p["degree"], x, y)
    if p["family"] == "power":
        return zx + cx, zy + cy
    wx, wy = x, y
    if p["pole"] > 1:
        wx, wy = times(x, y, x, y)
    if p["pole"] == 3:
        wx, wy = times(wx, wy, x, y)
    norm = (wx * wx + wy * wy) + p["dtype"](1e-12)
    wx, wy = times(cx, cy, wx / norm, -wy / norm)
    return zx + wx, zy + wy


def trap_place(p, x, y):
    """Distance from the trap and the place along and across its axis."""
    (tx, ty), (ux, uy), radius = p["trap_centre"], p["trap_axis"], p["trap_radius"]
    a, b = x - tx, y - ty
    along, across = a * ux + b * uy, b * ux - a * uy
    u, v = np.abs(along), np.abs(across)
    if p["trap"] == "point":
        distance = np.sqrt(u * u + v * v)
    elif p["trap"] == "circle":
        distance = np.abs(np.sqrt(u * u + v * v) - radius)
    elif p["trap"] == "line":
        distance = u
    elif p["trap"] == "cross":
        distance = np.minimum(u, v)
    elif p["trap"] == "square":
        distance = np.abs(np.maximum(u, v) - radius)
    elif p["trap"] == "star":
        distance = np.abs((3 * np.minimum(u, v) + np.maximum(u, v)) - radius)
    else:
        distance = np.maximum(u, v)
    return distance, along, across


def stripe_term(axis, harmonic, x, y):
    xx, yy, xy = x * x, y * y, x * y
    c = (axis[0] * (xx - yy) + axis[1] * (xy + xy)) / ((xx + yy) + x.dtype.type(1e-12))
    cc = c * c
    return c + harmonic * (((cc + cc) - 1) - c)


def smooth_part(p, end):
    """The part of a step after which an orbit was out."""
    if p["family"] == "newton":
        after, before = log2(end["length"] + np.float32(1e-12)), log2(end["before"] + np.float32(1e-12))
        target = np.float32(-19.931568569324174)
        return np.clip((before - target) / np.maximum(before - after, np.float32(1e-4)), 0, 1)
    norm = np.maximum(end["x"] * end["x"] + end["y"] * end["y"], np.float32(ESCAPE))
    return np.clip(1 - log2(log2(norm) / np.float32(13.287712379549449)) / log2(np.float32(p["degree"])), 0, 1)


def image_colours(p, u, v):
    """Bilinear RGBA of the image, zeros beside it."""
    bitmap, size = f32(p["bitmap"]), len(p["bitmap"])
    u, v = u / f32(p["trap_radius"]), v / f32(p["trap_radius"])
    beside = ~((np.abs(u) <= 1) & (np.abs(v) <= 1))
    u, v = np.where(beside, np.float32(0), u), np.where(beside, np.float32(0), v)
    half = np.float32((size - 1) / 2)
    x, y = (u + 1) * half, (v + 1) * half
    column, row = x.astype(np.int64), y.astype(np.int64)
    a, b = (x - column.astype(np.float32))[:, None], (y - row.astype(np.float32))[:, None]
    right, below = np.minimum(column + 1, size - 1), np.minimum(row + 1, size - 1)
    top = bitmap[row, column] + a * (bitmap[row, right] - bitmap[row, column])
    low = bitmap[below, column] + a * (bitmap[below, right] - bitmap[below, column])
    return np.where(beside[:, None], np.float32(0), top + b * (low - top))


def colours(p, outside, end):
    """Colours of orbits that ended in the same step, float32 all of it."""
    end = {name: f32(value) for name, value in end.items()}
    count = np.float32(end["count"])
    x, y, near = end["x"], end["y"], end["near"]
    b, g, axis = f32(p["base"]), f32(p["glow"]), f32(p["stripe_axis"])
    stripe = end["total"] / count
    smooth, fade, root = np.float32(0), np.float32(1), np.float32(0)
    if outside:
        part = smooth_part(p, end)
        smooth = np.sqrt((count - np.float32(p["family"] == "newton")) + part)
        if count > 1.5:
            before = (end["total"] - stripe_term(axis, f32(p["stripe_harmonic"]), x, y)) / (count - 1)
            stripe = before + part * (stripe - before)
        fade = 1 / (1 + (count * count) * np.float32(1e-3))
    if p["family"] == "newton":
        root = axis[0] * x + axis[1] * y
    depth = -log2(near + np.float32(1e-4))
    base = b[0] + (b[1] * smooth + fade * (b[2] * depth + (b[3] * stripe + b[4] * end["when"]))) + b[5] * root
    glow = g[0] + (g[1] * depth + fade * (g[2] * stripe + g[3] * end["when"]))
    if p["trap"] == "image":
        rgba = image_colours(p, end["hit_u"], end["hit_v"])
        over, weight, shine = rgba[:, :3], rgba[:, 3:] / np.float32(255), np.float32(0)
    else:
        ratio = near / f32(p["glow_width"])
        over, weight = lookup(p["tables"][1], glow), (1 / (1 + ratio * ratio))[:, None]
        shine = f32(p["shine"]) * ((weight * weight) * (weight * weight))
    colour = (1 - weight) * lookup(p["tables"][0], base) + weight * over
    half = np.float32(0.5)
    colour = colour * (1 - (fade * f32(p["shade"])) * (half - half * stripe))[:, None]
    return colour + shine * (np.float32(255) - colour)


def record(params: FractalParams, i: int) -> dict:
    one = {name: getattr(params, name)[i] for name in params.__dataclass_fields__}
    p = {name: value.numpy() if value.ndim else value.item() for name, value in one.items()}
    p["dtype"] = np.float64 if p["width"] < DEEP else np.float32
    for name in ("memory", "trap_centre", "trap_axis", "trap_radius", "polynomial"):
        p[name] = np.asarray(p[name], p["dtype"])
    p["tables"] = [table(palette) for palette in p["palettes"]]
    return p | {"family": FAMILIES[p["family"]], "trap": TRAPS[p["trap"]]}


def start(p, side):
    """x, y, cx, cy of all samples, row by row."""
    line = ((np.arange(side) + 0.5) / side - 0.5) * p["width"]
    u, v = np.meshgrid(line, line)
    (ux, uy), (centre_x, centre_y) = p["view_axis"], p["centre"]
    plane = (centre_x + (u * ux - v * uy)).ravel(), (centre_y + (u * uy + v * ux)).ravel()
    constant = np.full_like(plane[0], p["constant"][0]), np.full_like(plane[1], p["constant"][1])
    values = (*constant, *plane) if p["parameter_plane"] else (*plane, *constant)
    return [value.astype(p["dtype"]) for value in values]


def render(params: FractalParams, i: int, size: int, iterations: int = 200, samples: int = 2) -> np.ndarray:
    """Picture ``i`` as uint8 (3, size, size)."""
    p = record(params, i)
    side = size * samples
    newton, image = p["family"] == "newton", p["trap"] == "image"
    x, y, cx, cy = start(p, side)
    s = {"x": x, "y": y, "cx": cx, "cy": cy, "near": np.full_like(x, 1e3), "when": np.zeros_like(x)}
    s |= {"total": np.zeros_like(x), "back_x": np.full_like(x, 1e3), "back_y": np.full_like(x, 1e3)}
    s |= {"back_total": np.zeros_like(x), "where": np.arange(len(x))}
    if p["family"] == "phoenix":
        s |= {"old_x": np.zeros_like(x), "old_y": np.zeros_like(x)}
    if newton:
        s |= {"length": np.full_like(x, 1e3), "before": np.full_like(x, 1e3)}
    if image:
        s |= {"hit_u": np.full_like(x, 1e3), "hit_v": np.full_like(x, 1e3)}
    block = 2 if p["family"] in ("pole", "newton") else 4
    axis, harmonic = p["stripe_axis"].astype(p["dtype"]), p["dtype"](p["stripe_harmonic"])
    result = np.empty((len(x), 3), np.float32)
    remembered, back = 0, 8
    for n in range(1, iterations + 1):
        x, y = s["x"], s["y"]
        s["x"], s["y"] = step(p, x, y, s["cx"], s["cy"], s.get("old_x"), s.get("old_y"))
        if p["family"] == "phoenix":
            s["old_x"], s["old_y"] = x, y
        distance, along, across = trap_place(p, s["x"], s["y"])
        if image:
            hit = (distance < p["trap_radius"]) & (s["hit_u"] >= 1e3)
            s["hit_u"], s["hit_v"] = np.where(hit, along, s["hit_u"]), np.where(hit, across, s["hit_v"])
        closer = distance < s["near"]
        s["when"] = np.where(closer, p["dtype"](n), s["when"])
        s["near"] = np.where(closer, distance, s["near"])
        s["total"] = s["total"] + stripe_term(axis, harmonic, s["x"], s["y"])
        if newton:
            dx, dy = s["x"] - x, s["y"] - y
            s["before"], s["length"] = s["length"], dx * dx + dy * dy
            out = ~(s["length"] > p["dtype"](TOLERANCE))
        else:
            out = ~(s["x"] * s["x"] + s["y"] * s["y"] <= ESCAPE)
        cycle = np.zeros_like(out)
        if n % block == 0:
            cycle = ~out & (np.abs(s["x"] - s["back_x"]) + np.abs(s["y"] - s["back_y"]) < BACK)
        for outside, gone in ((True, out), (False, cycle)):
            if gone.any():
                end = {name: value[gone] for name, value in s.items()} | {"count": n}
                if not outside:  # the steps that are left would go round the cycle
                    mean = (end["total"] - end["back_total"]) / p["dtype"](n - remembered)
                    end |= {"total": end["total"] + p["dtype"](iterations - n) * mean, "count": iterations}
                result[end["where"]] = colours(p, outside, end)
        gone = out | cycle
        if gone.any():
            s = {name: value[~gone] for name, value in s.items()}
        if not len(s["x"]):
            break
        if n == back:
            s["back_x"], s["back_y"], s["back_total"] = s["x"], s["y"], s["total"]
            remembered, back = n, 2 * n
    if len(s["x"]):
        result[s["where"]] = colours(p, False, s | {"count": iterations})
    picture = result.reshape(size, samples, size, samples, 3).transpose(1, 3, 0, 2, 4).reshape(-1, size, size, 3)
    sums = np.zeros((size, size, 3), np.float32)
    for part in picture:
        sums = sums + part
    share = np.float32(1) / np.float32(samples * samples)
    return np.clip(sums * share + np.float32(0.5), 0, 255).astype(np.uint8).transpose(2, 0, 1)
