"""Small pictures for the image trap: shapes with soft edges, drawn from a stream in the colours of a palette."""

from __future__ import annotations

import numpy as np

from mixaug.mixing_sets._palettes import direction
from mixaug.mixing_sets._stream import Stream

BITMAP_SIZE = 64
_EDGE = 0.05  # width of a soft edge, half the side being 1


def _rise(values: np.ndarray) -> np.ndarray:
    """Smoothstep of values, 0 below 0 and 1 above 1."""
    t = np.clip(values, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def _petals(x: np.ndarray, y: np.ndarray, count: int) -> np.ndarray:
    """Cosine of ``count`` times the angle, as Re(z^count) / |z|^count."""
    a, b = x, y
    for _ in range(count - 1):
        a, b = a * x - b * y, a * y + b * x
    norm = np.sqrt(x * x + y * y) + 1.0e-6
    scale = norm
    for _ in range(count - 1):
        scale = scale * norm
    return np.asarray(a / scale)


def _body(s: Stream, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A field that is 0 in the middle of a shape and 1 on its edge, and a second one that crosses it."""
    r = np.sqrt(x * x + y * y)
    kind = s.integer(5)
    petals, depth = 2 + s.integer(6), s.uniform(0.12, 0.45)
    cosine = _petals(x, y, petals)
    if kind == 0:  # a flower
        return r / (0.92 * (1.0 - depth + depth * cosine)), cosine
    if kind == 1:  # a frame or a lens: |x|^4 + |y|^4
        return np.sqrt(np.sqrt(x * x * (x * x) + y * y * (y * y))) / 0.9, cosine
    if kind == 2:  # a crescent
        away = s.uniform(0.25, 0.5)
        inner = np.sqrt((x - away) * (x - away) + y * y) / 0.75
        return np.maximum(r / 0.92, 2.0 - inner), inner
    if kind == 3:  # a cloud of overlapping discs
        nearest = np.full_like(r, 2.0)
        for _ in range(5):
            ox, oy, size = s.uniform(-0.5, 0.5), s.uniform(-0.5, 0.5), s.uniform(0.2, 0.42)
            nearest = np.minimum(nearest, np.sqrt((x - ox) * (x - ox) + (y - oy) * (y - oy)) / size)
        return nearest, cosine
    # a leaf: where two discs overlap
    away = s.uniform(0.35, 0.75)
    radius = np.sqrt(0.81 + away * away)
    left, right = np.sqrt((x - away) * (x - away) + y * y), np.sqrt((x + away) * (x + away) + y * y)
    return np.maximum(left, right) / radius * 1.4 - 0.4, (left - right) / away


def draw_bitmap(s: Stream, palette: np.ndarray) -> np.ndarray:
    """(64, 64, 4) uint8 RGBA: one shape with rings, veins or a texture, transparent around it."""
    line = (np.arange(BITMAP_SIZE) + 0.5) * (2.0 / BITMAP_SIZE) - 1.0
    y, x = np.meshgrid(line, line, indexing="ij")
    ux, uy = direction(s.uniform(0.0, 1.0))
    x, y = x * ux - y * uy, x * uy + y * ux
    field, across = _body(s, x, y)
    rings, veins = s.uniform(0.15, 1.3), s.uniform(-0.25, 0.25)
    place = s.uniform(0.0, 1.0) + rings * field + veins * across
    colours = palette[((place - np.floor(place)) * len(palette)).astype(np.int64) % len(palette)]
    rim = _rise((field - s.uniform(0.72, 0.9)) / 0.08)[..., None]  # a dark or bright outline
    colours = colours + 0.75 * rim * ((255.0 if s.chance(0.5) else 20.0) - colours)
    hollow = s.uniform(0.2, 0.5) if s.chance(0.3) else -1.0
    alpha = _rise((1.0 - field) / _EDGE) * _rise((field - hollow) / _EDGE) * s.uniform(0.75, 1.0)
    # Nothing sticks out of the square, whose border would cut it off.
    alpha = alpha * _rise((1.0 - np.sqrt(x * x + y * y)) / _EDGE)
    return np.asarray(np.concatenate([colours, 255.0 * alpha[..., None]], -1) + 0.5).astype(np.uint8)
