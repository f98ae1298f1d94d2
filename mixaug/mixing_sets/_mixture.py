"""Several sets as one: how many pictures of each, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mixaug._checks import MAX_PICTURES, check_int

_TOLERANCE = 1e-6  # of the weights' sum: 0.7 + 0.2 + 0.1 is not 1 in binary


def check_weights(weights: Sequence[float] | None, sets: int) -> list[float] | None:
    """The weights as floats that sum to 1.

    Raises:
        TypeError: not numbers.
        ValueError: not one for each set, a negative or non-finite one, or another sum than 1.
    """
    if weights is None:
        return None
    if isinstance(weights, str) or not hasattr(weights, "__len__"):
        raise TypeError(f"weights must be a sequence of numbers or None, got {type(weights).__name__}: {weights!r}")
    if len(weights) != sets:
        raise ValueError(f"weights must hold one number for each of the {sets} sets, got {len(weights)}")
    try:
        values = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise TypeError(f"weights must be numbers, got {weights!r}") from error
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"weights must be finite and at least 0, got {weights!r}")
    if abs(sum(values) - 1.0) > _TOLERANCE:
        raise ValueError(f"weights must sum to 1, got {weights!r} with sum {sum(values):g}")
    return values


def _shares(weights: Sequence[float], count: int) -> list[int]:
    """Whole numbers that sum to ``count``, nearest to ``count * weights`` (largest remainders)."""
    exact = [weight * count for weight in weights]
    whole = [math.floor(value + 1e-9) for value in exact]
    order = sorted(range(len(exact)), key=lambda k: (whole[k] - exact[k], k))
    for k in order[: count - sum(whole)]:
        whole[k] += 1
    return whole


def mixture_counts(lengths: Sequence[int], weights: Sequence[float] | None, count: int | None) -> list[int]:
    """How many pictures of each set make up a mixture, none taken twice.

    Args:
        lengths: of the sets.
        weights: shares that sum to 1; None: in proportion to the lengths.
        count: pictures in all; None: as many as there are without taking one twice.

    Raises:
        ValueError: ``count`` is more than the sets have for these weights, or so small that a set gets no picture.
    """
    total = sum(lengths)
    shares = [length / total for length in lengths] if weights is None else list(weights)
    most = min(math.floor(n / w + 1e-9) for n, w in zip(lengths, shares, strict=True) if w > 0)
    while any(k > n for k, n in zip(_shares(shares, most), lengths, strict=True)):  # a share that was rounded up
        most -= 1
    if count is None:
        count = most
    else:
        count = check_int("count", count, 1, MAX_PICTURES)
        if count > most:
            raise ValueError(f"count must be at most {most} for these sets and weights (no picture twice), got {count}")
    counts = _shares(shares, count)
    if any(w > 0 and k == 0 for w, k in zip(shares, counts, strict=True)):
        raise ValueError(f"count must be large enough for a picture of each set, got {count} for weights {shares}")
    return counts


def interleaved(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (set, index), each set spread evenly, so that every stretch of a mixture holds its shares."""
    places = [((j + 0.5) / n, k, j) for k, n in enumerate(counts) for j in range(n)]
    return [(k, j) for _, k, j in sorted(places)]
