"""Compiled kernels of the radial contours. Imported on first use only, because importing numba takes a while.

The nested contours of a figure share their rays: the corners of all of them lie on V rays from the centre. Between two
rays a point has coordinates (a, b), linear in the pixel, and lies inside contour n when a / r[v, n] + b / r[v+1, n] <
1. So one look-up of the ray and a short walk from the neighbour's contour say between which two contours a pixel lies,
whatever their number; no line is ever drawn. The place t between them is a quotient of linear functions: its gradient
is exact, its level lines are straight, and the colour of a pixel is the mean of the figure's profile over the t that
the pixel covers, a difference of two entries of the profile's running sum. So lines closer than a pixel blend into
their mean, at the cost of one point a pixel.

Every operation is an IEEE plus, minus, times, divide or square root in a fixed order, and the picture is a continuous
function of each of them: it is the same on every machine.

All kernels are in one file on purpose: numba's disk cache notices a change of a function's own file only. No slice of
an array is assigned to: the message of a failure alone, with its numbers as text, takes three seconds to compile.
"""

from __future__ import annotations

import math

import numpy as np

from mixaug._numba import jit

_jit = jit()

BINS = 16  # of the profile between two contours
RAY = 14  # columns of a ray: diamond angle, a's gradient, b's gradient, shade, widths a unit of b and of a is,
# differences of the shade to both neighbours', x over y, inverse radii of the halo and the length of their gradient
GRID = 64  # entries of the table that finds the ray of a diamond angle
BOX = 6  # columns of a box: left, top, right, bottom, contours a halo, contours from the centre to the first

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_UNIT = 2.0**-53
# Where each use of the hash starts to count; 256 corners or lattice points a contour.
_ANGLES, _LATTICE, _WHITE, _BANDS, _LINES = 1 << 20, 2 << 20, 4 << 20, 5 << 20, 6 << 20
_LEAST_GROWTH, _LEAST_START = 0.12, 0.25  # of the mean: contours never touch
_MITRE = 2  # pixels around the box of a figure into which its soft edge reaches at sharp corners
_CLOSED = 0.0005  # of a pixel left open: what lies behind changes no more than a seventh of a grey level


@_jit
def _uniform(key: int, count: int) -> float:
    """A number in [0, 1) of a key and a count: the finaliser of SplitMix64."""
    z = np.uint64(key) + (np.uint64(count) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    z = z ^ (z >> np.uint64(31))
    return float(np.int64(z >> np.uint64(11)) * _UNIT)


@_jit
def _sine(turns: float) -> float:
    """As in `drawing`: sin(2 pi turns) to 2e-4."""
    quarter = 4.0 * (turns - math.floor(turns))
    x = quarter if quarter <= 1.0 else (2.0 - quarter if quarter <= 3.0 else quarter - 4.0)
    x2 = x * x
    return x * (1.5707963267948966 - x2 * (0.6459640975 - x2 * (0.0796926262 - x2 * 0.0046817541)))


@_jit
def _diamond(x: float, y: float) -> float:
    """A number in [0, 4] that grows with the angle: the place on the square |x| + |y| = 1."""
    total = abs(x) + abs(y)
    if total == 0.0:
        return 0.0
    part = y / total
    if x < 0.0:
        return 2.0 - part
    return part if part >= 0.0 else 4.0 + part


@_jit
def _place_rays(ints: np.ndarray, floats: np.ndarray, rays: np.ndarray, ends: np.ndarray, number: np.ndarray) -> None:
    """Ends of the unit rays in the picture, in the order of their diamond angles, and the corner that each carries."""
    vertices = ints[1]
    stretch, ax, ay, jitter = floats[4], floats[2], floats[3], floats[9]
    first, least = 0, 5.0
    for v in range(vertices):
        turns = (v + jitter * (_uniform(ints[0], _ANGLES + v) - 0.5)) / vertices
        along, across = _sine(turns + 0.25) * stretch, _sine(turns) / stretch
        x, y = along * ax - across * ay, along * ay + across * ax
        ends[v, 0], ends[v, 1] = x, y
        angle = _diamond(x, y)
        if angle < least:
            first, least = v, angle
    turned = ends[:vertices].copy()
    for v in range(vertices + 1):
        number[v] = (v + first) % vertices
        ends[v, 0], ends[v, 1] = turned[number[v], 0], turned[number[v], 1]
    for v in range(vertices):
        px, py, qx, qy = ends[v, 0], ends[v, 1], ends[v + 1, 0], ends[v + 1, 1]
        det = px * qy - py * qx
        rays[v, 0] = _diamond(px, py)
        rays[v, 1], rays[v, 2] = qy / det, -qx / det
        rays[v, 3], rays[v, 4] = -py / det, px / det
        rays[v, 6] = det / math.sqrt(px * px + py * py)
        rays[v, 7] = det / math.sqrt(qx * qx + qy * qy)
        rays[v, 10] = px / py if py != 0.0 else 0.0


@_jit
def _lattice(key: int, lobes: int, row: float, offset: np.ndarray, slope: np.ndarray) -> None:
    """Perlin noise on one row of a lattice that is periodic along it: near point i it is offset[i] + slope[i] dx."""
    low = math.floor(row)
    part = row - low
    weight = part * part * (3.0 - 2.0 * part)
    for i in range(lobes):
        below, above = _LATTICE + (low * 32 + i) * 2, _LATTICE + (low * 32 + 32 + i) * 2
        x0, y0 = 2.0 * _uniform(key, below) - 1.0, 2.0 * _uniform(key, below + 1) - 1.0
        x1, y1 = 2.0 * _uniform(key, above) - 1.0, 2.0 * _uniform(key, above + 1) - 1.0
        slope[i] = x0 + weight * (x1 - x0)
        start, end = y0 * part, y1 * (part - 1.0)
        offset[i] = start + weight * (end - start)
    slope[lobes], offset[lobes] = slope[0], offset[0]


@_jit
def _grow(ints: np.ndarray, floats: np.ndarray, number: np.ndarray, inverse: np.ndarray) -> None:
    """Fills ``inverse`` (vertices + 1, contours + 1): one over the radii of the corners. The last row
    is one regular step beyond the last contour, by which the halo is measured.
    """
    key, vertices, contours, lobes = ints[0], ints[1], ints[2], ints[3]
    inner, growth, star = floats[5], floats[6], floats[8]
    bend, pace, rough = floats[10], floats[11], floats[12]
    radius, weight, part, fade = np.empty(vertices), np.empty(vertices), np.empty(vertices), np.empty(vertices)
    cell = np.empty(vertices, np.int64)
    offset, slope = np.empty(lobes + 1), np.empty(lobes + 1)
    for v in range(vertices):
        corner = number[v]
        weight[v] = 1.0 + star if corner % 2 == 0 else 1.0 - star
        place = corner * lobes / vertices
        cell[v] = int(place)
        part[v] = place - cell[v]
        fade[v] = part[v] * part[v] * (3.0 - 2.0 * part[v])
    for n in range(contours + 1):
        if bend > 0.0 and n < contours:
            _lattice(key, lobes, n * pace + 0.5, offset, slope)
        for v in range(vertices):
            change = 0.0
            if bend > 0.0 and n < contours:
                i = cell[v]
                left = offset[i] + slope[i] * part[v]
                right = offset[i + 1] + slope[i + 1] * (part[v] - 1.0)
                change = bend * (left + fade[v] * (right - left))
            if n == 0:
                radius[v] = inner * (weight[v] * max(_LEAST_START, 1.0 + change))
            elif n == contours:
                radius[v] = radius[v] + growth * weight[v]
            else:
                if rough > 0.0:
                    change = change + rough * (2.0 * _uniform(key, _WHITE + n * 256 + number[v]) - 1.0)
                radius[v] = radius[v] + growth * (weight[v] * max(_LEAST_GROWTH, 1.0 + change))
            inverse[v, n] = 1.0 / radius[v]
    for n in range(contours + 1):
        inverse[vertices, n] = inverse[0, n]


@_jit
def _shade_facets(floats: np.ndarray, last: np.ndarray, rays: np.ndarray) -> None:
    """How much each facet faces the light: normals of the outermost contour, whose inverse radii are ``last``."""
    light_x, light_y, relief = floats[24], floats[25], floats[23]
    count = rays.shape[0]
    for v in range(count):
        nx = last[v] * rays[v, 1] + last[v + 1] * rays[v, 3]
        ny = last[v] * rays[v, 2] + last[v + 1] * rays[v, 4]
        rays[v, 5] = relief * ((nx * light_x + ny * light_y) / math.sqrt(nx * nx + ny * ny))
    for v in range(count):
        rays[v, 8] = rays[v - 1 if v > 0 else count - 1, 5] - rays[v, 5]
        rays[v, 9] = rays[v + 1 if v + 1 < count else 0, 5] - rays[v, 5]


@_jit
def _colour(palette: np.ndarray, place: float, grey: float, out: np.ndarray) -> None:
    """The palette's colour at a place, partly drained."""
    spot = (place - math.floor(place)) * 256.0
    low = min(int(spot), 255)
    part, high = spot - low, (low + 1) % 256
    for c in range(3):
        out[c] = palette[low, c] + part * (palette[high, c] - palette[low, c])
    luma = (0.299 * out[0] + 0.587 * out[1]) + 0.114 * out[2]
    for c in range(3):
        out[c] = out[c] + grey * (luma - out[c])


@_jit
def _profile(ints: np.ndarray, floats: np.ndarray, palettes: np.ndarray, halo: float, total: np.ndarray) -> None:
    """Fills ``total`` ((contours + 1) 16 + 1, 4): running sums over t of colour times opacity and of opacity."""
    key, contours, half = ints[0], ints[2], ints[4]
    fill, shade, grey, shadow = floats[19], floats[20], floats[21], floats[22]
    palette = palettes[ints[5]]
    band, line, ahead = np.empty(3), np.empty(3), np.empty(3)
    for c in range(4):
        total[0, c] = 0.0
    _colour(palette, floats[16] + floats[18] * (_uniform(key, _LINES) - 0.5), grey, ahead)
    for n in range(-1, contours):
        for c in range(3):
            line[c] = ahead[c]
        _colour(palette, floats[13] + floats[14] * n + floats[15] * (_uniform(key, _BANDS + n + 1) - 0.5), grey, band)
        if n + 1 < contours:
            where = floats[16] + floats[17] * (n + 1) + floats[18] * (_uniform(key, _LINES + n + 1) - 0.5)
            _colour(palette, where, grey, ahead)
        for k in range(BINS):
            row = (n + 1) * BINS + k
            place = (k + 0.5) / BINS
            if n == contours - 1:  # beyond the last contour: its shadow
                alpha = (shadow * halo) * ((1.0 - place) * (1.0 - place))
                for c in range(3):
                    total[row + 1, c] = total[row, c]
            elif k < half and n >= 0:
                alpha = 1.0
                for c in range(3):
                    total[row + 1, c] = total[row, c] + line[c] / BINS
            elif k >= BINS - half:
                alpha = 1.0
                for c in range(3):
                    total[row + 1, c] = total[row, c] + ahead[c] / BINS
            else:
                alpha = 0.0 if n < 0 and ints[6] else fill
                bright = 1.0 + shade * (place - 0.5)
                for c in range(3):
                    total[row + 1, c] = total[row, c] + (alpha * bright) * band[c] / BINS
            total[row + 1, 3] = total[row, 3] + alpha / BINS


@_jit
def build(
    ints: np.ndarray,
    floats: np.ndarray,
    palettes: np.ndarray,
    starts: np.ndarray,
    rays: np.ndarray,
    inverse: np.ndarray,
    total: np.ndarray,
    finder: np.ndarray,
    boxes: np.ndarray,
) -> None:
    """Tables of the figures of one picture, each after ``starts`` (n, 3) in the flat ``rays``, ``inverse``, ``total``.

    ``finder`` (n, 64) is the last ray at or before each 64th of the turn; ``boxes`` (n, 4) bounds the halo.
    """
    ends, number = np.empty((257, 2)), np.empty(257, np.int64)
    for f in range(ints.shape[0]):
        vertices, contours = ints[f, 1], ints[f, 2]
        own = rays[starts[f, 0] : starts[f, 0] + vertices]
        size = (contours + 1) * (vertices + 1)
        radii = inverse[starts[f, 1] : starts[f, 1] + size].reshape(vertices + 1, contours + 1)
        _place_rays(ints[f], floats[f], own, ends, number)
        _grow(ints[f], floats[f], number, radii)
        _shade_facets(floats[f], radii[:, contours - 1], own)
        # The halo ends at half the way out from the centre at most: the shadow of a hollow would never end.
        most = radii[0, contours - 1]
        for v in range(1, vertices):
            most = max(most, radii[v, contours - 1])
        halo = min(floats[f, 7], 0.5 / most) / floats[f, 6]
        boxes[f, 4], boxes[f, 5] = halo, max(1.0, floats[f, 5] / floats[f, 6])
        _profile(ints[f], floats[f], palettes, halo, total[starts[f, 2] : starts[f, 2] + (contours + 1) * BINS + 1])
        v = -1
        for k in range(GRID):
            while v + 1 < vertices and own[v + 1, 0] <= k * (4.0 / GRID):
                v += 1
            finder[f, k] = v
        boxes[f, 0] = boxes[f, 1] = 1e9
        boxes[f, 2] = boxes[f, 3] = -1e9
        for v in range(vertices):
            p = radii[v, contours - 1] - halo * (radii[v, contours - 1] - radii[v, contours])
            q = radii[v + 1, contours - 1] - halo * (radii[v + 1, contours - 1] - radii[v + 1, contours])
            gx, gy = p * own[v, 1] + q * own[v, 3], p * own[v, 2] + q * own[v, 4]
            own[v, 11], own[v, 12], own[v, 13] = p, q, math.sqrt(gx * gx + gy * gy)
            x, y = floats[f, 0] + ends[v, 0] / p, floats[f, 1] + ends[v, 1] / p
            boxes[f, 0], boxes[f, 2] = min(boxes[f, 0], x), max(boxes[f, 2], x)
            boxes[f, 1], boxes[f, 3] = min(boxes[f, 1], y), max(boxes[f, 3], y)


@_jit
def _bin_of(t: float, contours: int, halo: float) -> tuple[int, float]:
    """Bin of the profile and place in it: straight on before 0, the last interval stretched to the halo's width."""
    if t > contours:
        t = contours + min(1.0, (t - contours) / halo)
    t = BINS * t
    low = min(max(int(t), 0), (contours + 1) * BINS - 1)
    return low, t - low


@_jit
def _add_row(
    rays: np.ndarray,
    radii: np.ndarray,
    total: np.ndarray,
    finder: np.ndarray,
    box: np.ndarray,
    cx: float,
    dy: float,
    x0: int,
    x1: int,
    row: np.ndarray,
) -> None:
    """Puts one figure behind what ``row`` (size, 4) holds already, from column x0 to x1, from ray to ray.

    One function on purpose: a call for each run between two rays takes a fifth of the time of a picture.
    """
    vertices, contours, size = rays.shape[0], radii.shape[1] - 1, float(row.shape[0])
    pixel = 1.0 / size
    angle = _diamond((x0 + 0.5) * pixel - cx, dy)
    v = finder[min(int(angle * (GRID / 4.0)), GRID - 1)]
    while v + 1 < vertices and rays[v + 1, 0] <= angle:
        v += 1
    first, n, limit = x0, 0, float(x1)
    while first < x1:
        # The next ray that crosses the row: angles fall from left to right for dy > 0, and grow for dy < 0.
        k = v if dy >= 0.0 else v + 1
        stop = x1
        if 0 <= k < vertices:
            behind = rays[k, 0] >= 2.0 if dy >= 0.0 else rays[k, 0] <= 2.0
            if behind:
                stop = first
            elif dy < 0.0 or rays[k, 0] > 0.0:
                stop = int(min(max((cx + dy * rays[k, 10]) * size + 0.5, float(first)), limit))
        own = v if v >= 0 else vertices - 1
        ray, left, right = rays[own], radii[own], radii[own + 1]
        ax, ay, bx, by = ray[1], ray[2] * dy, ray[3], ray[4] * dy
        end = 1.0 + ray[13] * pixel
        near_scale, far_scale = ray[6] * size, ray[7] * size
        for x in range(first, stop):
            open_ = 1.0 - row[x, 3]
            if open_ < _CLOSED:
                continue
            dx = (x + 0.5) * pixel - cx
            a, b = ax * dx + ay, bx * dx + by
            if a * ray[11] + b * ray[12] > end:
                continue
            # n: contours that do not hold the point. The search starts at the neighbour's.
            after = a * left[n] + b * right[n]
            while n < contours and after >= 1.0:
                n += 1
                after = a * left[n] + b * right[n]
            before = a * left[n - 1] + b * right[n - 1] if n > 0 else 2.0
            while n > 0 and before < 1.0:
                n -= 1
                after = before
                before = a * left[n - 1] + b * right[n - 1] if n > 0 else 2.0
            if n == 0:
                p, q = left[0] * box[5], right[0] * box[5]
                t = 1.0 + (after - 1.0) * box[5]
            else:
                p, q = left[n - 1], right[n - 1]
                scale = 1.0 / (before - after)
                part = (before - 1.0) * scale
                t = n + part
                p, q = (p - part * (p - left[n])) * scale, (q - part * (q - right[n])) * scale
            gx, gy = p * ray[1] + q * ray[3], p * ray[2] + q * ray[4]
            steep = math.sqrt(gx * gx + gy * gy) * pixel
            low, low_part = _bin_of(t - 0.5 * steep, contours, box[4])
            high, high_part = _bin_of(t + 0.5 * steep, contours, box[4])
            near, far = b * near_scale, a * far_scale  # pixels from both rays
            shade = ray[5]
            if near < 0.5:
                shade += (0.5 - near) * ray[8]
            if far < 0.5:
                shade += (0.5 - far) * ray[9]
            mean = open_ / steep
            # Facets fade out near the centre, where they are narrower than a quarter of a pixel.
            bright = mean * (1.0 + shade * min(1.0, 4.0 * (near + far)))
            for c in range(4):
                lower = total[low, c] + low_part * (total[low + 1, c] - total[low, c])
                upper = total[high, c] + high_part * (total[high + 1, c] - total[high, c])
                row[x, c] += (bright if c < 3 else mean) * (upper - lower)
        first = max(first, stop)
        v = v - 1 if dy >= 0.0 else v + 1


@_jit
def render_rows(
    ints: np.ndarray,
    floats: np.ndarray,
    ground: np.ndarray,
    starts: np.ndarray,
    rays: np.ndarray,
    inverse: np.ndarray,
    total: np.ndarray,
    finder: np.ndarray,
    boxes: np.ndarray,
    first: int,
    stop: int,
    out: np.ndarray,
) -> None:
    """Rows ``first`` to ``stop - 1`` of ``out`` (3, size, size), figures front to back, then the ground."""
    size = out.shape[2]
    row = np.empty((size, 4))
    pixel = 1.0 / size
    for y in range(first, stop):
        for x in range(size):
            for c in range(4):
                row[x, c] = 0.0
        py = (y + 0.5) / size
        for f in range(ints.shape[0]):
            if y < math.floor(boxes[f, 1] * size) - _MITRE or y > math.floor(boxes[f, 3] * size) + _MITRE:
                continue
            x0 = max(0, math.floor(boxes[f, 0] * size) - _MITRE)
            x1 = min(size, math.floor(boxes[f, 2] * size) + _MITRE + 1)
            vertices, contours = ints[f, 1], ints[f, 2]
            corners = (contours + 1) * (vertices + 1)
            _add_row(
                rays[starts[f, 0] : starts[f, 0] + vertices],
                inverse[starts[f, 1] : starts[f, 1] + corners].reshape(vertices + 1, contours + 1),
                total[starts[f, 2] : starts[f, 2] + (contours + 1) * BINS + 1],
                finder[f],
                boxes[f],
                floats[f, 0],
                py - floats[f, 1],
                x0,
                x1,
                row,
            )
        for x in range(size):
            along = (((x + 0.5) * pixel - 0.5) * ground[6] + (py - 0.5) * ground[7]) + 0.5
            along = min(max(along, 0.0), 1.0)
            left = 1.0 - row[x, 3]
            for c in range(3):
                value = row[x, c] + left * (ground[c] + along * (ground[3 + c] - ground[c]))
                out[c, y, x] = np.uint8(min(max(value + 0.5, 0.0), 255.0))
