"""Kinds of command-line arguments that several commands have."""

from __future__ import annotations

import argparse


def fraction(text: str) -> float:
    """``8/255`` or ``0.03``.

    Args:
        text: the argument.

    Raises:
        argparse.ArgumentTypeError: neither.

    Example:
        >>> fraction("51/255")
        0.2
    """
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"must be a number or a fraction such as 8/255, got {text!r}") from error


def number_or_range(text: str) -> int | tuple[int, ...]:
    """``2`` or ``1,3``.

    Args:
        text: the argument.

    Raises:
        argparse.ArgumentTypeError: neither.

    Example:
        >>> number_or_range("2"), number_or_range("1,3")
        (2, (1, 3))
    """
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number or two with a comma such as 1,3, got {text!r}") from error
    return numbers[0] if len(numbers) == 1 else numbers


def names(text: str) -> tuple[str, ...]:
    """``image,patch``.

    Args:
        text: the argument.

    Example:
        >>> names("image, patch,")
        ('image', 'patch')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())
