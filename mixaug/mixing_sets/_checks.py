"""Checks of arguments shared by the mixing sets."""

from __future__ import annotations

import numpy as np


def check_int(name: str, value: object, least: int, most: int = 2**63 - 1) -> None:
    """Raises TypeError or ValueError, naming argument, rule and value, unless ``value`` is an int in the range."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}: {value!r}")
    if not least <= value <= most:
        limit = f"at least {least}" if most == 2**63 - 1 else f"from {least} to {most}"
        raise ValueError(f"{name} must be {limit}, got {value}")
