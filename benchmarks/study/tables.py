"""The finished runs of a page, and the tables that several pages have: means over seeds, single runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mixaug.evaluate.corruptions.tables import corruption_label
from study.measured import Row
from study.plan import DataPlan

#: The finished runs of a variant by their seeds.
Rows = Mapping[int, Row]


@dataclass(frozen=True)
class DataResults:
    """What is known of one data set.

    Args:
        plan: of the data set.
        rows: by variant and seed; what is not finished is absent.
    """

    plan: DataPlan
    rows: Mapping[str, Rows]

    @property
    def every(self) -> list[Row]:
        """All rows; the first, for what all have in common."""
        return [row for seeds in self.rows.values() for row in seeds.values()]

    def finished(self, names: Iterable[str]) -> dict[str, Rows]:
        """Those variants of which at least one seed is finished."""
        return {name: self.rows[name] for name in names if name in self.rows}


@dataclass(frozen=True)
class Study:
    """The finished runs of a page and how they were made.

    Args:
        data: results by the data set's key, at least one; data sets without a finished run are absent.
        command: what was typed.
        missing: runs that are planned and not finished.
        planned: number of runs that are planned.
        conditions: sentences on processes, threads and precision.
        seeds: number of seeds that are planned.
        gpu: whether memory is that of tensors on a GPU.
    """

    data: Mapping[str, DataResults]
    command: str
    planned: int
    missing: Sequence[str] = ()
    conditions: str = ""
    seeds: int = 3
    gpu: bool = False
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))

    @property
    def one(self) -> DataResults:
        """The results of a page with one data set."""
        (found,) = self.data.values()
        return found

    @property
    def plan(self) -> Any:
        """The plan of a page with one data set."""
        return self.one.plan

    @property
    def rows(self) -> Mapping[str, Rows]:
        """The rows of a page with one data set."""
        return self.one.rows

    @property
    def every(self) -> list[Row]:
        """All rows of all data sets; the first, for what all have in common."""
        return [row for data in self.data.values() for row in data.every]


def values_of(rows: Rows, key: str) -> list[float]:
    """A metric of each seed: errors and accuracies in percent, the Lipschitz constant as it is."""
    factor = 1 if key == "lipschitz" else 100
    return [factor * row["figures"][key]["value"] for row in rows.values()]


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for one value, which has none."""
    return statistics.stdev(values) if len(values) > 1 else None


def mean_text(values: Sequence[float], sign: str = "") -> str:
    """``12.3 ± 0.4``, or ``12.3`` for one value."""
    deviation = spread(values)
    return f"{statistics.mean(values):{sign}z.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its first column to the left, the others to the right."""
    rule = "|---" + "|---:" * (len(heads) - 1) + "|"
    return ["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(cells) + " |" for cells in lines)]


def table(rows: Mapping[str, Rows], columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Variants by columns."""
    return markdown_table(["", *columns], list(zip(rows, *columns.values(), strict=True)))


def column(rows: Mapping[str, Rows], texts: Callable[[Rows], str]) -> list[str]:
    """A cell for each variant."""
    return [texts(seeds) for seeds in rows.values()]


def value_at(row: Row, keys: Sequence[str]) -> float:
    """What the keys lead to in a result; the value of one with an interval."""
    found: Any = row
    for key in keys:
        found = found[key]
    return float(found["value"] if isinstance(found, dict) else found)


def percent(rows: Rows, *keys: str) -> list[float]:
    """A share of each seed's result in percent, by the keys that lead to it."""
    return [100 * value_at(row, keys) for row in rows.values()]


def means(rows: Mapping[str, Rows], *keys: str, sign: str = "") -> list[str]:
    """A column: mean and standard deviation over the seeds of what the keys lead to, in percent."""
    return column(rows, lambda seeds: mean_text(percent(seeds, *keys), sign))


def seed_counts(rows: Mapping[str, Rows]) -> list[str]:
    """A column: how many seeds of each variant are finished."""
    return column(rows, lambda seeds: str(len(seeds)))


def bold(columns: Sequence[Sequence[float]], best: Callable[[Sequence[float]], float] = min) -> list[str]:
    """Mean and standard deviation of each variant's values; the best mean in bold, unless all are equal.

    Args:
        columns: values of each variant.
        best: of the means.
    """
    means = [statistics.mean(values) for values in columns]
    marked = min(means) < max(means)
    return [
        f"**{mean_text(values)}**" if marked and math.isclose(mean, best(means)) else mean_text(values)
        for mean, values in zip(means, columns, strict=True)
    ]


def bold_lowest(rows: Mapping[str, Rows], key: str) -> list[str]:
    """A column of errors, the lowest mean in bold."""
    return bold([values_of(seeds, key) for seeds in rows.values()])


def bold_highest(rows: Mapping[str, Rows], key: str) -> list[str]:
    """A column of accuracies, the highest mean in bold."""
    return bold([values_of(seeds, key) for seeds in rows.values()], max)


def differences(rows: Mapping[str, Rows], variant: str, other: str, key: str) -> list[float]:
    """What a variant has more than another one of a metric, for the seeds that both have."""
    ours, theirs = rows.get(variant, {}), rows.get(other, {})
    common = [seed for seed in ours if seed in theirs]
    both = (values_of({seed: seeds[seed] for seed in common}, key) for seeds in (ours, theirs))
    return [one - another for one, another in zip(*both, strict=True)]


def corruption_table(rows: Mapping[str, Rows]) -> list[str]:
    """Corruptions by variants: mean over severities and seeds."""
    first = next(iter(next(iter(rows.values())).values()))
    lines = []
    for name in first["corruptions"]:
        columns = [[100 * row["corruptions"][name] for row in seeds.values()] for seeds in rows.values()]
        lines.append([corruption_label(name), *bold(columns)])
    return markdown_table(["corruption", *rows], lines)


def cost_table(rows: Mapping[str, Rows]) -> list[str]:
    """Seconds of training and measuring, images a second in training, the best epoch of each seed."""
    lines = []
    for name, seeds in rows.items():
        every = list(seeds.values())
        training, measuring = (
            statistics.mean(row["seconds"][part] for row in every) for part in ("training", "measuring")
        )
        images = statistics.mean(row["steps"] * row["settings"]["batch_size"] for row in every)
        speed = f"{images / training:,.0f}" if training else "-"
        best = ", ".join(str(row["best_epoch"]) for row in every)
        lines.append([name, f"{training:.0f}", speed, f"{measuring:.0f}", best])
    return markdown_table(["", "training, s", "images/s in training", "measuring, s", "best epoch of each seed"], lines)


def half_widths(every: Sequence[Row], metrics: Mapping[str, str]) -> str:
    """How far one run's metrics are uncertain because of the number of images: ``clean error ± 2.1 (n = 1,000)``.

    Args:
        every: all rows.
        metrics: heading by key.
    """
    parts = []
    for key, heading in metrics.items():
        found = [row["figures"][key] for row in every]
        half = 100 * statistics.mean((each["high"] - each["low"]) / 2 for each in found)
        parts.append(f"{heading} ± {half:.1f} (n = {found[0]['n']:,})")
    return "; ".join(parts)


def interval_text(metric: Mapping[str, float], factor: float = 100) -> str:
    """``34.0 [24.0, 54.0]``: a value with its interval."""
    value, low, high = (factor * metric[part] for part in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def interval_lines(rows: Mapping[str, Rows], cells: Callable[[Row], Sequence[str]]) -> list[list[str]]:
    """A line for every run: its name, and what ``cells`` gives of it."""
    return [[f"{name}, seed {seed}", *cells(row)] for name, seeds in rows.items() for seed, row in seeds.items()]


def attack_lines(attacks: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> list[str]:
    """A line for every attack with all its settings, as they were recorded.

    Args:
        attacks: settings by the attack's key.
        names: on the page, by the attack's key.
    """
    lines = []
    for key, settings in attacks.items():
        shown = {name: value for name, value in settings.items() if name not in ("kind", "targeted", "batch_size")}
        parts = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
        ]
        lines.append(f"- {names.get(key, key)}: {', '.join(parts)}")
    return lines
