"""Random cyclic colour tables."""

from __future__ import annotations

import numpy as np

from mixaug.mixing_sets._stream import Stream

TABLE_SIZE = 256
# Hue offsets, in turns, from a random first hue: harmonies of the colour wheel.
_HARMONIES = (
    (0.0, 0.09, 0.17, 0.90),
    (0.0, 0.5, 0.07, 0.57),
    (0.0, 0.33, 0.67, 0.05),
    (0.0, 0.42, 0.58, 0.0),
    (0.0, 0.25, 0.5, 0.75),
)


def hsv_to_rgb(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """The usual piecewise linear conversion; hue in turns, all in [0, 1]."""

    def channel(offset: float) -> float:
        k = (offset + hue * 6.0) % 6.0
        return value - value * saturation * max(0.0, min(k, 4.0 - k, 1.0))

    return channel(5.0), channel(3.0), channel(1.0)


def draw_palette(s: Stream) -> np.ndarray:
    """(256, 3) float64 in [0, 255]: 3 to 7 stops of one harmony, light and dark in turn, joined smoothly in a cycle."""
    stops = 3 + s.integer(5)
    first, harmony = s.uniform(0.0, 1.0), _HARMONIES[s.integer(len(_HARMONIES))]
    colours, gaps = [], []
    for k in range(stops):
        hue = first + harmony[s.integer(4)] + s.uniform(-0.05, 0.05)
        if k % 2:
            saturation, value = s.uniform(0.15, 0.9), s.uniform(0.8, 1.0)
        else:
            saturation, value = s.uniform(0.6, 1.0), s.uniform(0.1, 0.75)
        colours.append(hsv_to_rgb(hue, saturation, value))
        gaps.append(s.uniform(0.4, 1.0))
    edges = np.cumsum([0.0, *gaps]) / sum(gaps)
    rgb = 255.0 * np.array([*colours, colours[0]])
    place = np.arange(TABLE_SIZE) / TABLE_SIZE
    stop = np.minimum(np.searchsorted(edges, place, side="right") - 1, stops - 1)
    part = (place - edges[stop]) / (edges[stop + 1] - edges[stop])
    part = (part * part * (3.0 - 2.0 * part))[:, None]  # smoothstep: no kinks at the stops
    return rgb[stop] + part * (rgb[stop + 1] - rgb[stop])
