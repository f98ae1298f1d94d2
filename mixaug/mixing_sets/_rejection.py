"""Drawing again until a picture is worth having."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

D = TypeVar("D")


def draw_accepted(
    count: int,
    draw: Callable[[int, int], D],
    accepted: Callable[[list[D]], list[bool]],
    most: int = 64,
) -> tuple[list[D], list[int]]:
    """Draws ``count`` pictures, each again until it is accepted.

    Convention: ``draw(row, attempt)`` depends on its arguments only, so picture ``row`` does too.

    Args:
        count: how many.
        draw: makes one unchecked draw.
        accepted: judges a list of draws, all rows that are still open at once.
        most: attempts a picture; the last one is kept then.

    Returns:
        The draws and, for each, how many were refused before it.
    """
    draws: list[D] = []
    attempts = [0] * count
    pending = list(range(count))
    for attempt in range(most):
        fresh = [draw(row, attempt) for row in pending]
        if attempt == 0:
            draws = list(fresh)
        for row, value in zip(pending, fresh, strict=True):
            draws[row], attempts[row] = value, attempt
        verdicts = accepted(fresh)
        pending = [row for row, good in zip(pending, verdicts, strict=True) if not good]
        if not pending:
            break
    return draws, attempts
