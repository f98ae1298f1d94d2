"""Checks of the arguments that the transforms share: message = argument, rule, value received."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any


def integer(name: str, value: Any, low: int) -> int:
    """``value`` as an int of at least ``low``; bools are refused.

    Args:
        name: of the argument, for messages.
        value: what was given.
        low: smallest value allowed.

    Raises:
        TypeError: not an integer.
        ValueError: below ``low``.

    Example:
        >>> integer("boxes", 2, 1)
        2
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return int(value)


def count_range(name: str, value: Any) -> tuple[int, int]:
    """A number of at least 1, or a pair of such, as the range ``(low, high)``.

    Args:
        name: of the argument, for messages.
        value: what was given.

    Raises:
        TypeError: not a whole number, or a pair with something else in it.
        ValueError: below 1, not a pair, or a pair that falls.

    Example:
        >>> count_range("boxes", 2), count_range("boxes", [1, 3])
        ((2, 2), (1, 3))
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"{name} must be a number or a pair (low, high), got {value!r}")
        low, high = (integer(name, end, 1) for end in value)
        if low > high:
            raise ValueError(f"{name} must be a range (low, high) with low <= high, got {value!r}")
        return low, high
    number = integer(name, value, 1)
    return number, number


def real(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a finite float in ``[low, high]``; bools are refused.

    Args:
        name: of the argument, for messages.
        value: what was given.
        low: smallest value allowed.
        high: largest value allowed.

    Raises:
        TypeError: not a number.
        ValueError: not finite or out of range.

    Example:
        >>> real("p", 1, 0.0, 1.0)
        1.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {value}")
    return number
