"""The mathematics of the radial contours as plain vectorised NumPy: oracle of the compiled kernels and peer in speed.

Written the way one writes this in NumPy: tables of all contours and corners at once, then all pixels of a figure's box
that nothing covers yet.
"""

from __future__ import annotations

import numpy as np

from mixaug.mixing_sets.contours import MAX_FIGURES, ContourParams

BINS = 16
CLOSED = 0.0005
MITRE = 2
ANGLES, LATTICE, WHITE, BANDS, LINES = 1 << 20, 2 << 20, 4 << 20, 5 << 20, 6 << 20


def uniform(key, counts):
    z = np.uint64(key) + (np.asarray(counts).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sine(turns):
    quarter = 4.0 * (turns - np.floor(turns))
    x = np.where(quarter <= 1.0, quarter, np.where(quarter <= 3.0, 2.0 - quarter, quarter - 4.0))
    x2 = x * x
    return x * (1.5707963267948966 - x2 * (0.6459640975 - x2 * (0.0796926262 - x2 * 0.0046817541)))


def diamond(x, y):
    total = np.abs(x) + np.abs(y)
    part = np.where(total > 0, y / np.where(total > 0, total, 1.0), 0.0)
    return np.where(x < 0.0, 2.0 - part, np.where(part >= 0.0, part, 4.0 + part))


def smoothstep(part):
    return part * part * (3.0 - 2.0 * part)


def corners(p):
    """Numbers of the corners in the order of their rays, and the ends of the unit rays."""
    number = np.arange(p["vertices"])
    turns = (number + p["jitter"] * (uniform(p["key"], ANGLES + number) - 0.5)) / p["vertices"]
    along, across = sine(turns + 0.25) * p["aspect"], sine(turns) / p["aspect"]
    (ax, ay) = p["axis"]
    x, y = along * ax - across * ay, along * ay + across * ax
    order = np.roll(number, -int(diamond(x, y).argmin()))
    return order, x[order], y[order]


def perlin(p, order):
    """Gradient noise, contours x corners, on a lattice that is periodic around the figure."""
    row = np.arange(p["contours"]) * p["pace"] + 0.5
    low = np.floor(row).astype(np.int64)[:, None]
    part = row[:, None] - low
    place = order * p["lobes"] / p["vertices"]
    cell = place.astype(np.int64)
    dx = place - cell
    columns = np.arange(p["lobes"])

    def gradient(rows):
        counts = LATTICE + (rows * 32 + columns) * 2
        return 2.0 * uniform(p["key"], counts) - 1.0, 2.0 * uniform(p["key"], counts + 1) - 1.0

    (x0, y0), (x1, y1) = gradient(low), gradient(low + 1)
    slope = x0 + smoothstep(part) * (x1 - x0)
    offset = y0 * part + smoothstep(part) * (y1 * (part - 1.0) - y0 * part)
    following = (cell + 1) % p["lobes"]
    left = offset[:, cell] + slope[:, cell] * dx
    right = offset[:, following] + slope[:, following] * (dx - 1.0)
    return left + smoothstep(dx) * (right - left)


def inverse_radii(p, order):
    weight = np.where(order % 2 == 0, 1.0 + p["star"], 1.0 - p["star"])
    change = np.zeros((p["contours"], p["vertices"]))
    if p["bend"] > 0:
        change = p["bend"] * perlin(p, order)
    steps = np.empty((p["contours"] + 1, p["vertices"]))
    steps[0] = p["inner"] * (weight * np.maximum(0.25, 1.0 + change[0]))
    if p["rough"] > 0:
        counts = WHITE + np.arange(p["contours"])[:, None] * 256 + order
        change = change + p["rough"] * (2.0 * uniform(p["key"], counts) - 1.0)
    steps[1:-1] = p["growth"] * (weight * np.maximum(0.12, 1.0 + change[1:]))
    steps[-1] = p["growth"] * weight
    inverse = 1.0 / np.cumsum(steps, 0)
    return np.concatenate([inverse, inverse[:, :1]], 1)


def colours(p, places):
    spot = (places - np.floor(places)) * 256.0
    low = np.minimum(spot.astype(np.int64), 255)
    part = (spot - low)[:, None]
    table = p["colours"]
    colour = table[low] + part * (table[(low + 1) % 256] - table[low])
    luma = (0.299 * colour[:, 0] + 0.587 * colour[:, 1]) + 0.114 * colour[:, 2]
    return colour + p["grey"] * (luma[:, None] - colour)


def profile(p, halo):
    """Running sums over t of colour times opacity and of opacity, in 16ths of a contour."""
    count, half = p["contours"], p["line"]
    n = np.arange(count + 1)
    (band, band_step, band_loose), (ink, ink_step, ink_loose) = p["place"], p["ink"]
    bands = colours(p, band + band_step * (n - 1) + band_loose * (uniform(p["key"], BANDS + n) - 0.5))
    lines = colours(p, ink + ink_step * n[:-1] + ink_loose * (uniform(p["key"], LINES + n[:-1]) - 0.5))
    place = (np.arange(BINS) + 0.5) / BINS
    values = np.empty((count + 1, BINS, 4))
    alpha = np.full((count + 1, 1), p["fill"])
    if p["loose"]:
        alpha[0] = 0.0
    values[:, :, :3] = (alpha * (1.0 + p["shade"] * (place - 0.5)))[:, :, None] * bands[:, None]
    values[:, :, 3] = alpha
    if half:
        values[:-1, BINS - half :, :3], values[1:, :half, :3] = lines[:, None], lines[:, None]
        values[:-1, BINS - half :, 3] = values[1:, :half, 3] = 1.0
    values[-1, :, :3] = 0.0
    values[-1, :, 3] = (p["shadow"] * halo) * ((1.0 - place) * (1.0 - place))
    return np.concatenate([np.zeros((1, 4)), np.cumsum(values.reshape(-1, 4) / BINS, 0)])


def sum_at(total, t, halo):
    contours = len(total) // BINS - 1
    t = np.where(t > contours, contours + np.minimum(1.0, (t - contours) / halo), t)
    low = np.clip((BINS * t).astype(np.int64), 0, len(total) - 2)
    return total[low] + (BINS * t - low)[:, None] * (total[low + 1] - total[low])


def add_figure(p, size, canvas):
    """Puts a figure behind what the canvas (size, size, 4) holds."""
    count = p["contours"]
    order, ex, ey = corners(p)
    inverse = inverse_radii(p, order)
    fx, fy = np.roll(ex, -1), np.roll(ey, -1)
    det = ex * fy - ey * fx
    ax, ay, bx, by = fy / det, -fx / det, -ey / det, ex / det
    last = inverse[count - 1]
    nx, ny = last[:-1] * ax + last[1:] * bx, last[:-1] * ay + last[1:] * by
    facet = p["relief"] * ((nx * p["light"][0] + ny * p["light"][1]) / np.sqrt(nx * nx + ny * ny))
    halo = min(p["halo"], 0.5 / last.max()) / p["growth"]
    core = max(1.0, p["inner"] / p["growth"])
    total = profile(p, halo)

    edge = (last - halo * (last - inverse[count]))[:-1]
    cx, cy = p["centre"]
    x, y = cx + ex / edge, cy + ey / edge
    left, right = max(0, int(np.floor(x.min() * size)) - MITRE), min(size, int(np.floor(x.max() * size)) + MITRE + 1)
    top, bottom = max(0, int(np.floor(y.min() * size)) - MITRE), min(size, int(np.floor(y.max() * size)) + MITRE + 1)
    if left >= right or top >= bottom:
        return
    box = canvas[top:bottom, left:right]
    rows, columns = np.nonzero(1.0 - box[:, :, 3] >= CLOSED)
    dx, dy = (left + columns + 0.5) / size - cx, (top + rows + 0.5) / size - cy

    v = np.searchsorted(diamond(ex, ey), diamond(dx, dy), side="right") - 1
    v[v < 0] = len(order) - 1
    a, b = ax[v] * dx + ay[v] * dy, bx[v] * dx + by[v] * dy
    n, step = np.zeros(len(v), np.int64), 1 << int(count).bit_length()
    while step:  # the largest n whose contour n - 1 does not hold the point
        tried = np.minimum(n + step, count)
        n = np.where(a * inverse[tried - 1, v] + b * inverse[tried - 1, v + 1] >= 1.0, tried, n)
        step //= 2
    inner = np.maximum(n - 1, 0)
    p0, q0, p1, q1 = inverse[inner, v], inverse[inner, v + 1], inverse[n, v], inverse[n, v + 1]
    before = a * p0 + b * q0
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1.0 / (before - (a * p1 + b * q1))
        part = (before - 1.0) * scale
        t = np.where(n > 0, n + part, 1.0 + (before - 1.0) * core)
        gp = np.where(n > 0, (p0 - part * (p0 - p1)) * scale, p0 * core)
        gq = np.where(n > 0, (q0 - part * (q0 - q1)) * scale, q0 * core)
    gx, gy = gp * ax[v] + gq * bx[v], gp * ay[v] + gq * by[v]
    reach = 0.5 * (np.sqrt(gx * gx + gy * gy) / size)
    mean = (sum_at(total, t + reach, halo) - sum_at(total, t - reach, halo)) / (2.0 * reach)[:, None]

    near = b * (det / np.sqrt(ex * ex + ey * ey))[v] * size
    far = a * (det / np.sqrt(fx * fx + fy * fy))[v] * size
    light = facet[v]
    light = light + np.maximum(0.5 - near, 0.0) * (np.roll(facet, 1)[v] - facet[v])
    light = light + np.maximum(0.5 - far, 0.0) * (np.roll(facet, -1)[v] - facet[v])
    mean[:, :3] *= (1.0 + light * np.minimum(1.0, 4.0 * (near + far)))[:, None]
    box[rows, columns] += (1.0 - box[rows, columns, 3:]) * mean


def figure(params: ContourParams, i: int, k: int) -> dict:
    p = {}
    for name in ("key", "vertices", "contours", "lobes", "line", "loose", "aspect", "inner", "growth", "halo", "star",
                 "jitter", "bend", "pace", "rough", "fill", "shade", "grey", "shadow", "relief"):  # fmt: skip
        p[name] = getattr(params, name)[i, k].item()
    for name in ("centre", "axis", "place", "ink", "light"):
        p[name] = getattr(params, name)[i, k].tolist()
    p["colours"] = params.palettes[i, params.palette[i, k]].numpy()
    return p


def render(params: ContourParams, i: int, size: int) -> np.ndarray:
    """Picture ``i`` as uint8 (3, size, size)."""
    canvas = np.zeros((size, size, 4))
    assert params.figures[i] <= MAX_FIGURES
    for k in range(int(params.figures[i])):
        add_figure(figure(params, i, k), size, canvas)
    ground = params.ground[i].numpy()
    line = (np.arange(size) + 0.5) / size - 0.5
    along = np.clip((line * ground[6] + (line * ground[7])[:, None]) + 0.5, 0.0, 1.0)[:, :, None]
    colour = ground[:3] + along * (ground[3:6] - ground[:3])
    value = canvas[:, :, :3] + (1.0 - canvas[:, :, 3:]) * colour
    return np.clip(value + 0.5, 0.0, 255.0).astype(np.uint8).transpose(2, 0, 1)
