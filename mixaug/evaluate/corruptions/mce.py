"""The mean corruption error, both ways: plain (CIFAR-C) and relative to AlexNet's errors (ImageNet-C)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mixaug._checks import check_number, kind_of
from mixaug.evaluate.corruptions.tables import ALEXNET_ERRORS, CORRUPTIONS

#: An error share, or one for each severity.
Errors = Mapping[str, float | Sequence[float]]


def mean_corruption_error(errors: Errors) -> float:
    """The mean over severities and corruptions, as CIFAR-C is reported.

    ``mean_c mean_s E(c, s)``; Hendrycks and Dietterich, ICLR 2019.

    Convention:
        Every corruption counts the same. Those of ``errors`` are averaged, whichever they are: give the 15.

    Args:
        errors: name to the share of wrong predictions, a number or one for each severity.

    Returns:
        the mean, a share.

    Raises:
        ValueError: no errors, or one outside of [0, 1].

    Example:
        >>> mean_corruption_error({"fog": [0.2, 0.4], "snow": 0.5})
        0.4
    """
    shares = _shares(errors)
    return math.fsum(shares.values()) / len(shares)


def mce(errors: Errors, reference: Mapping[str, float] = ALEXNET_ERRORS) -> float:
    """The mean over corruptions of the error relative to a reference's, as ImageNet-C is reported.

    ``100 mean_c (sum_s E(c, s) / sum_s E_ref(c, s))``; Hendrycks and Dietterich, ICLR 2019.

    Convention:
        In percent: the reference itself has 100. Severities are averaged before the division.

    Args:
        errors: name to the share of wrong predictions, a number or one for each severity; the reference's names.
        reference: name to the reference's share; default AlexNet on ImageNet-C, whose values are published.

    Returns:
        the mCE in percent, possibly above 100.

    Raises:
        ValueError: other names than the reference's, an error outside of [0, 1], or a reference of 0 or less.

    Example:
        >>> round(mce({"fog": 0.3, "snow": [0.2, 0.4]}, reference={"fog": 0.6, "snow": 0.3}), 6)
        75.0
    """
    shares = _shares(errors)
    if set(shares) != set(reference):
        missing = [name for name in reference if name not in shares]
        extra = [name for name in shares if name not in reference]
        raise ValueError(
            f"errors must have the corruptions of the reference; missing: {', '.join(missing) or 'none'}, "
            f"too many: {', '.join(extra) or 'none'}"
        )
    for name, value in reference.items():
        if not value > 0:
            raise ValueError(f"reference[{name!r}] must be above 0, got {value!r}")
    return 100 * math.fsum(share / reference[name] for name, share in shares.items()) / len(shares)


def corruption_errors(errors: Errors, reference: Mapping[str, float] = ALEXNET_ERRORS) -> dict[str, float]:
    """Each corruption's error relative to the reference's, in percent: the columns of the papers' tables.

    Args:
        errors: name to the share of wrong predictions, a number or one for each severity.
        reference: name to the reference's share.

    Returns:
        name to percent, in the reference's order.

    Raises:
        ValueError: as :func:`mce`.

    Example:
        >>> corruption_errors({"fog": 0.3}, reference={"fog": 0.6})
        {'fog': 50.0}
    """
    _check_mapping("errors", errors)
    return {name: mce({name: errors[name]}, {name: reference[name]}) for name in reference if name in errors}


def _check_mapping(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must map corruptions to shares, got {kind_of(value)}")


def _percent(share: float) -> str:
    """What to say of an error that is no share."""
    return " (shares, not percent)" if share > 1 else ""


def _shares(errors: Errors) -> dict[str, float]:
    _check_mapping("errors", errors)
    if not errors:
        raise ValueError(f"errors must hold one corruption or more, such as the {len(CORRUPTIONS)} of the benchmark")
    shares = {}
    for name, value in errors.items():
        given = list(value) if isinstance(value, Sequence) else [value]
        values = [check_number(f"errors[{name!r}]", share, 0.0, 1.0, _percent) for share in given]
        if not values:
            raise ValueError(f"errors[{name!r}] must hold one severity or more, got none")
        shares[name] = math.fsum(values) / len(values)
    return shares
