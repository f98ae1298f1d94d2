"""Figures with their sample size and a 95% interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mixaug._checks import check_int

_Z95 = 1.959963984540054  # the normal distribution's 97.5% point
_CHUNK = 50  # bootstrap draws made at once: 20 MB at 50,000 images


@dataclass(frozen=True)
class Estimate:
    """A measured figure, its 95% interval and the number of images behind it.

    Args:
        value: the figure; a fraction in [0, 1], or a difference of two in [-1, 1].
        low: lower end of the 95% interval.
        high: upper end of it.
        n: number of images.
        method: how the interval was made, ``"wilson"`` or ``"bootstrap"`` (or ``"paired bootstrap"``).

    Example:
        >>> str(Estimate(0.25, 0.2, 0.31, 200))
        '25.0% [20.0, 31.0]'
    """

    value: float
    low: float
    high: float
    n: int
    method: str = "wilson"

    def __str__(self) -> str:
        return f"{self.text} [{', '.join(self.ends)}]"

    @property
    def text(self) -> str:
        """The figure as it is written, ``25.0%``."""
        return f"{100 * self.value:.1f}%"

    @property
    def change(self) -> str:
        """A difference as it is written, in points with its sign: ``+2.5``."""
        return f"{100 * self.value:+.1f}"

    @property
    def ends(self) -> tuple[str, str]:
        """The interval's ends as they are written, ``20.0`` and ``31.0``."""
        return f"{100 * self.low:.1f}", f"{100 * self.high:.1f}"

    def __float__(self) -> float:
        return self.value

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside of the interval (for a difference)."""
        return self.low > 0 or self.high < 0


class Quantity(Estimate):
    """An estimate that is no share of one: a number of its own size, such as a Lipschitz constant.

    Example:
        >>> str(Quantity(7.125, 6.5, 7.8, 200, "bootstrap")), Quantity(1234.5, 1000, 1500, 9).text
        ('7.12 [6.50, 7.80]', '1230')
    """

    @property
    def text(self) -> str:
        """The figure with three digits, ``7.12``."""
        return _three_digits(self.value)

    @property
    def change(self) -> str:
        """A difference with its sign."""
        return ("-" if self.value < 0 else "+") + _three_digits(abs(self.value))

    @property
    def ends(self) -> tuple[str, str]:
        """The interval's ends with three digits."""
        return _three_digits(self.low), _three_digits(self.high)


def wilson(successes: int, n: int) -> Estimate:
    """A share with Wilson's 95% score interval.

    ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``; E. B. Wilson, JASA 22 (1927). Unlike the normal
    interval it is of use at 0 and at 1 and for small n.

    Args:
        successes: number of images counted, 0 to ``n``.
        n: number of images, 1 or more.

    Returns:
        The share as an :class:`Estimate`.

    Raises:
        ValueError: ``n`` below 1 or above 2^53, or ``successes`` outside of 0 to ``n``.

    Example:
        >>> round(wilson(0, 10).high, 3)
        0.278
    """
    n = check_int("n", n, 1, 2**53)
    successes = check_int("successes", successes, 0, n)
    share = successes / n
    scale = 1 + _Z95**2 / n
    centre = (share + _Z95**2 / (2 * n)) / scale
    half = _Z95 / scale * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2))
    # In exact arithmetic the ends meet 0 and 1 and always hold the share; rounding may miss by one unit.
    return Estimate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), n)


def share(marked: Tensor) -> Estimate:
    """The share of True in (n,) bool, with Wilson's interval.

    Example:
        >>> share(torch.tensor([True, False, False, False])).value
        0.25
    """
    return wilson(int(marked.sum()), len(marked))


def complement(estimate: Estimate) -> Estimate:
    """One less a share, with its interval: the error of an accuracy.

    Example:
        >>> str(complement(Estimate(0.75, 0.7, 0.9, 10)))
        '25.0% [10.0, 30.0]'
    """
    return Estimate(1 - estimate.value, 1 - estimate.high, 1 - estimate.low, estimate.n, estimate.method)


def bootstrap_means(
    columns: Tensor, *, resamples: int = 2000, seed: int = 0, method: str = "bootstrap"
) -> list[Estimate]:
    """The mean of each column with its 95% percentile bootstrap interval over the images (the rows).

    For a mean of fractions (such as the share of the corruptions that an image fails) or of paired differences, where a
    binomial interval does not hold.

    Args:
        columns: (n, k) any real dtype; k numbers per image.
        resamples: number of bootstrap draws; default 2000. All columns share them.
        seed: seed of the draws; default 0.
        method: name kept in the result.

    Returns:
        The k means as :class:`Estimate`.

    Example:
        >>> bootstrap_means(torch.tensor([[1.0], [1.0], [1.0]]))[0].low
        1.0
    """
    columns = columns.to(torch.float64)
    n = len(columns)
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        index = torch.randint(n, (rows, n), generator=generator)
        # How often each image was drawn, so that all columns cost one matrix product.
        counts = torch.zeros(rows, n, dtype=torch.float64).scatter_add_(
            1, index, torch.ones((), dtype=torch.float64).expand(rows, n)
        )
        draws.append(counts @ columns / n)
    low, high = torch.quantile(torch.cat(draws), torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return [
        Estimate(value, min(bottom, value), max(top, value), n, method)
        for value, bottom, top in zip(columns.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def centred(value: float, draws: Tensor, n: int, *, lower: float, method: str = "bootstrap") -> Estimate:
    """A figure of n images with a 95% bootstrap interval whose centre is moved to the measured value.

    A calibration error is biased upwards by sampling noise, and resampling adds that noise a second time: the plain
    percentile interval may lie wholly above the figure. Here the draws are moved by ``value - mean(draws)`` first.

    Args:
        value: of all images.
        draws: the same figure of each resample, (resamples,) float64.
        n: number of images.
        lower: smallest possible value of the figure; the interval is cut there.
        method: name kept in the result.

    Example:
        >>> centred(1.5, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), 4, lower=0.0).low
        0.55
    """
    draws = draws - draws.mean() + value
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(value, max(lower, min(low, value)), max(lower, high, value), n, method)


def resample(n: int, resamples: int, seed: int = 0) -> Iterator[Tensor]:
    """Draws of n images with replacement, a few at a time: (rows, n) int64, ``resamples`` rows in all.

    Example:
        >>> [tuple(index.shape) for index in resample(10, 60)]
        [(50, 10), (10, 10)]
    """
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        yield torch.stack([torch.randint(n, (n,), generator=generator) for _ in range(rows)])


def _three_digits(value: float) -> str:
    """``0.0123``, ``7.12``, ``45.6``, ``1230``: never an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{rounded:.{digits}f}"
