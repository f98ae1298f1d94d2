"""Do sources differ by more than the seeds do? Analysis of variance with sources and seeds.

Every source is trained with the same seeds, which give it the same first weights and the same order of images, so a
metric is ``x[source, seed] = mean + source + seed + rest``, and the standard deviation of the rest is what one run's
luck is worth once the seed's own effect is taken out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """How far sources are apart, in points.

    Args:
        means: of each source over the seeds.
        range: of the means, from the lowest to the highest.
        by_chance: the range that sources without a difference would have on average.
        between: standard deviation between the sources, the seeds' luck taken off; 0 where that is larger.
        within: standard deviation of a run's luck: the rest without source and seed.
        half: half width of the 95% interval of the range: Tukey's, so for the largest difference of all pairs.
        p: how often equal sources would be as far apart.
        seeds: that all sources have.
    """

    means: Mapping[str, float]
    range: float
    by_chance: float
    between: float
    within: float
    half: float
    p: float
    seeds: int

    @property
    def lowest(self) -> str:
        """The source with the lowest mean."""
        return min(self.means, key=lambda name: self.means[name])

    @property
    def highest(self) -> str:
        """The source with the highest mean."""
        return max(self.means, key=lambda name: self.means[name])


@dataclass(frozen=True)
class Contrast:
    """A variant less the mean of the sources, in points, and the half width of its 95% interval."""

    value: float
    half: float

    @property
    def clear(self) -> bool:
        """Whether zero is outside of the interval."""
        return abs(self.value) > self.half


def table_of(values: Mapping[str, Mapping[int, float]]) -> np.ndarray:
    """Variants by seeds, of the seeds that all variants have: float64 (k, n)."""
    seeds = sorted(set.intersection(*(set(row) for row in values.values()))) if values else []
    return np.array([[row[seed] for seed in seeds] for row in values.values()], float).reshape(len(values), len(seeds))


def residual(table: np.ndarray) -> tuple[float, int]:
    """Standard deviation of what is left without the effects of variant and seed, and its degrees of freedom."""
    rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return math.sqrt((rest**2).sum() / freedom), freedom


def spread_of(values: Mapping[str, Mapping[int, float]]) -> Spread | None:
    """Compares sources; None with fewer than two, or fewer than two seeds that all of them have.

    Args:
        values: a metric in points by source and seed.
    """
    from scipy.stats import studentized_range

    table = table_of(values)
    k, n = table.shape
    if k < 2 or n < 2:
        return None
    means = table.mean(1)
    within, freedom = residual(table)
    between = math.sqrt(max(means.var(ddof=1) - within**2 / n, 0.0))
    error = within / math.sqrt(n)
    return Spread(
        means=dict(zip(values, means.tolist(), strict=True)),
        range=float(np.ptp(means)),
        by_chance=expected_range(k) * error,
        between=between,
        within=within,
        half=float(studentized_range.ppf(0.95, k, freedom)) * error,
        p=chance(float(np.ptp(means)), error, k, freedom),
        seeds=n,
    )


def expected_range(k: int) -> float:
    """Mean range of ``k`` draws of the standard normal distribution: 1.128 of two, 2.326 of five."""
    x = np.linspace(-9, 9, 20_001)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    return float((1 - below**k - (1 - below) ** k).sum() * (x[1] - x[0]))


def chance(width: float, error: float, k: int, freedom: int) -> float:
    """How often equal sources have means at least ``width`` apart: J. Tukey's studentized range.

    Not a permutation test: with three seeds and five sources, a single one that is far from the rest cannot get below
    p = 1/25 there, however far it is.

    Args:
        width: range of the means.
        error: standard error of a mean.
        k: number of sources.
        freedom: degrees of freedom of the error.
    """
    from scipy.stats import studentized_range

    if error == 0.0:
        return 1.0 if width == 0.0 else 0.0
    return float(studentized_range.sf(width / error, k, freedom))


def contrast(values: Mapping[str, Mapping[int, float]], name: str, sources: Sequence[str]) -> Contrast | None:
    """A variant less the mean of the sources; None where it, a source, or a second common seed is missing.

    The interval is Student's, from the rest's standard deviation of this variant and the sources together.

    Args:
        values: a metric in points by variant and seed.
        name: of the variant.
        sources: that it is compared with.
    """
    from scipy.stats import t

    if any(key not in values for key in (name, *sources)):
        return None
    table = table_of({key: values[key] for key in (name, *sources)})
    if table.shape[1] < 2:
        return None
    deviation, freedom = residual(table)
    difference = table[0] - table[1:].mean(0)
    error = deviation * math.sqrt((1 + 1 / len(sources)) / table.shape[1])
    return Contrast(float(difference.mean()), float(t.ppf(0.975, freedom)) * error)


def holm(ps: Sequence[float]) -> list[float]:
    """S. Holm's adjustment (1979) of p values for their number: any below 0.05 is so for all of them together."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min((len(ps) - rank) * ps[index], 1.0))
        adjusted[index] = highest
    return adjusted
