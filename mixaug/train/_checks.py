"""Checks of the settings of a run: message = setting, rule, value received."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def whole(name: str, value: Any, low: int) -> None:
    """Raises unless ``value`` is an int of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def real(name: str, value: Any, low: float, high: float, hint: Callable[[float], str] | None = None) -> None:
    """Raises unless ``value`` is a number in ``[low, high]``; ``math.ulp(0.0)`` as ``low`` means above 0.

    Args:
        name: of the setting, for messages.
        value: what was given.
        low: smallest value allowed.
        high: largest value allowed; ``math.nextafter(1.0, 0.0)`` means below 1.
        hint: of a value out of range, what to say of it at the end of the message.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not low <= value <= high or math.isinf(value):
        bounds = "above 0" if low == math.ulp(0.0) else f"at least {low:g}"
        if not math.isinf(high):
            bounds += " and below 1" if high == math.nextafter(1.0, 0.0) else f" and at most {high:g}"
        raise ValueError(f"{name} must be {bounds}, got {value}{hint(value) if hint else ''}")
