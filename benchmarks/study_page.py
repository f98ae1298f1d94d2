"""The page and JSON of a study: means over seeds, goals met or not, from the results of its runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from mixaug.evaluate.labels import corruption_label

#: What a run left in its ``result.json``.
Row: TypeAlias = dict[str, Any]
#: Key of a figure, its heading. All are errors (or calibration errors): lower is better.
FIGURES = {
    "clean": "clean error",
    "clean_best": "clean error, best epoch",
    "mce": "corruption error",
    "rms": "RMS calibration error",
    "ece": "ECE",
    "pgd_2": "error under PGD-20, 2/255",
    "pgd_8": "error under PGD-20, 8/255",
}


@dataclass(frozen=True)
class DataResults:
    """What is known of one data set.

    Args:
        label: its name on the page.
        epochs: passes over the training images.
        methods: variants of the main table, the first is the reference.
        ablation: further variants, compared with the reference and ``IPMix``.
        rows: by variant and seed; variants and seeds that are not finished are absent.
    """

    label: str
    epochs: int
    methods: Sequence[str]
    ablation: Sequence[str]
    rows: Mapping[str, Mapping[int, Row]]

    @property
    def any_row(self) -> Row:
        """One of the rows, for what all have in common."""
        return next(iter(next(iter(self.rows.values())).values()))

    def finished(self, names: Sequence[str]) -> list[str]:
        """Those variants of which at least one seed is finished."""
        return [name for name in names if self.rows.get(name)]


@dataclass(frozen=True)
class Study:
    """The finished runs of a study and how they were made.

    Args:
        data: results by the data set's key; data sets without a finished run are absent.
        command: what was typed.
        missing: runs that are planned and not finished.
        planned: number of runs that are planned.
        conditions: sentences on processes, threads and precision.
        seeds: number of seeds that are planned.
    """

    data: Mapping[str, DataResults]
    command: str
    planned: int
    missing: Sequence[str] = ()
    conditions: str = ""
    seeds: int = 3
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))


def values_of(rows: Mapping[int, Row], figure: str) -> list[float]:
    """A figure of each seed, in percent."""
    return [100 * row["figures"][figure]["value"] for row in rows.values()]


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


def bold_lowest(means: Sequence[float], texts: Sequence[str]) -> list[str]:
    """The texts, those of the lowest mean in bold, unless all are equal."""
    lowest = min(means)
    marked = lowest < max(means)
    return [
        f"**{text}**" if marked and math.isclose(mean, lowest) else text
        for mean, text in zip(means, texts, strict=True)
    ]


def figures_table(data: DataResults, names: Sequence[str]) -> list[str]:
    """Variants by figures: mean and standard deviation over the seeds, the lowest mean of each column in bold."""
    columns = []
    for key in FIGURES:
        values = [values_of(data.rows[name], key) for name in names]
        columns.append(bold_lowest([statistics.mean(each) for each in values], [mean_text(each) for each in values]))
    heads = ["", *FIGURES.values(), "seeds"]
    counts = [str(len(data.rows[name])) for name in names]
    return markdown_table(heads, list(zip(names, *columns, counts, strict=True)))


def corruption_table(data: DataResults, names: Sequence[str]) -> list[str]:
    """Corruptions by variants: mean over severities and seeds."""
    lines = []
    for corruption in data.any_row["corruptions"]:
        values = [
            [100 * row["corruptions"][corruption] for row in data.rows[name].values()] for name in names
        ]  # fmt: skip
        texts = bold_lowest([statistics.mean(each) for each in values], [mean_text(each) for each in values])
        lines.append([corruption_label(corruption), *texts])
    return markdown_table(["corruption", *names], lines)


def cost_table(data: DataResults, names: Sequence[str]) -> list[str]:
    """Seconds of training and measuring, images a second in training, the best epoch of each seed."""
    lines = []
    for name in names:
        rows = list(data.rows[name].values())
        seconds = {part: statistics.mean(row["seconds"][part] for row in rows) for part in ("training", "measuring")}
        images = statistics.mean(row["steps"] * row["settings"]["batch_size"] for row in rows)
        speed = f"{images / seconds['training']:,.0f}" if seconds["training"] else "-"
        best = ", ".join(str(row["best_epoch"]) for row in rows)
        lines.append([name, f"{seconds['training']:.0f}", speed, f"{seconds['measuring']:.0f}", best])
    return markdown_table(["", "training, s", "images/s in training", "measuring, s", "best epoch of each seed"], lines)


def interval_sentence(data: DataResults) -> str:
    """How far one run's figure is uncertain because of the number of images, and these numbers."""
    rows = [row for rows in data.rows.values() for row in rows.values()]
    parts = []
    for key, heading in FIGURES.items():
        figures = [row["figures"][key] for row in rows]
        half = 100 * statistics.mean((figure["high"] - figure["low"]) / 2 for figure in figures)
        parts.append(f"{heading} ± {half:.1f} (n = {figures[0]['n']:,})")
    return f"Half width of the 95% interval of a single run, in points: {'; '.join(parts)}."


def paired(data: DataResults, variant: str, reference: str) -> tuple[Mapping[int, Row], Mapping[int, Row]]:
    """The rows of both variants for the seeds that both have finished."""
    first, second = data.rows.get(reference, {}), data.rows.get(variant, {})
    seeds = [seed for seed in first if seed in second]
    return {seed: first[seed] for seed in seeds}, {seed: second[seed] for seed in seeds}


def goals(data: DataResults, variant: str, reference: str) -> list[str]:
    """One sentence a goal of the study, with the figures and whether it is met; nothing without common seeds.

    Against standard training: corruption error cut by a third, clean error at most 0.5 points up, RMS lower. Against
    AugMix: corruption error and RMS lower, clean error at most 0.5 points up.
    """
    before, after = paired(data, variant, reference)
    if not before:
        return []
    changes = {
        key: [b - a for a, b in zip(values_of(before, key), values_of(after, key), strict=True)] for key in FIGURES
    }
    means = {key: statistics.mean(values) for key, values in changes.items()}
    was, is_now = (statistics.mean(values_of(rows, "mce")) for rows in (before, after))
    cut = 100 * (1 - is_now / was) if was else 0.0
    change = f"{'cut' if cut > 0 else 'raised'} by {abs(cut):.0f}%" if abs(cut) >= 0.5 else "changed by less than 1%"
    third = reference == "standard"
    wanted = {
        "mce": (
            "corruption error cut by at least a third" if third else "corruption error lower",
            cut >= 100 / 3 if third else means["mce"] < 0,
            f"{was:.1f} to {is_now:.1f}, {change}",
        ),
        "clean": ("clean error at most 0.5 points higher", means["clean"] <= 0.5, None),
        "rms": ("RMS calibration error lower", means["rms"] < 0, None),
    }
    lines = []
    for key, (goal, met, text) in wanted.items():
        text = text or f"{mean_text(changes[key], '+')} points"
        deviation = spread(changes[key])
        # One seed's luck is about the standard deviation: a mean within it proves nothing.
        unclear = (
            "" if deviation is None or abs(means[key]) > deviation else ", a change within the spread over the seeds"
        )
        lines.append(f"- {variant} against {reference}, {goal}: **{'met' if met else 'not met'}** ({text}{unclear}).")
    return lines


def concentration(data: DataResults, variant: str, reference: str, top: int = 5) -> str:
    """Which corruptions the change of the corruption error comes from; empty without common seeds or a fall."""
    before, after = paired(data, variant, reference)
    if not before:
        return ""
    falls = {
        name: statistics.mean(before[seed]["corruptions"][name] - after[seed]["corruptions"][name] for seed in before)
        for name in data.any_row["corruptions"]
    }
    most = sorted(falls, key=lambda name: falls[name], reverse=True)[:top]
    total = sum(falls.values())
    if total / len(falls) < 0.005:  # below half a point the shares would be noise over noise
        return ""
    rest = [fall for name, fall in falls.items() if name not in most]
    others = f"; the other {len(rest)} fell by {100 * statistics.mean(rest):z.1f} points on average" if rest else ""
    share = 100 * sum(falls[name] for name in most) / total
    names = ", ".join(corruption_label(name) for name in most)
    return f"- {variant} against {reference}: {share:.0f}% of the fall of the corruption error is on {names}{others}."


def page(study: Study) -> str:
    """The study's page in Markdown.

    Raises:
        ValueError: no run is finished.
    """
    if not study.data:
        raise ValueError("the study must have at least one finished run, got none")
    first = next(iter(study.data.values())).any_row
    corrupted, attacked = (first["figures"][key]["n"] for key in ("mce", "pgd_8"))
    lines = ["# IPMix at CPU scale", ""]
    if study.missing:
        done = study.planned - len(study.missing)
        lines += [f"**Partial: {done} of {study.planned} runs are finished.** Missing: {', '.join(study.missing)}.", ""]
    lines.append(f"""\
Mean ± standard deviation over {study.seeds} seeds, in percent; lower is better everywhere (accuracy under attack is
100 less the error); the lowest mean of a column is bold. All figures are of the last epoch, but for the column
"best epoch": the one with the highest accuracy on the validation part, never on the test part. The model is
`resnet-small` (0.31 million parameters), SGD with Nesterov momentum, batch 128, lr 0.1 on a cosine, crops and flips for
all; the same first weights and the same number of optimiser steps.

Corruption error: mean over {len(first["corruptions"])} corruptions at 5 severities on {corrupted} test images.
PGD: 20 steps on {attacked} test images; 8/255 in steps of 2/255, and the paper's 2/255 in steps of 0.5/255. AugMix is
torchvision's, applied image by image, without the operations that overlap with the corruptions (`all_ops=False`);
that it works on one image at a time shows in its seconds. JSD: cross-entropy of the clean image plus 12 times the
Jensen-Shannon divergence over it and two views: three times the forward passes for the same number of steps.

![Every seed a dot, means as lines; below, the error of each corruption](study_ipmix.png)""")
    for data in study.data.values():
        lines += section(data)
    named = {name: value for name, value in first["environment"].items() if name not in ("time", "threads", "device")}
    environment = ", ".join(f"{name} {value}" for name, value in named.items())
    everything = [row for data in study.data.values() for rows in data.rows.values() for row in rows.values()]
    minutes = sum(row["seconds"]["all"] for row in everything) / 60
    machines = ", ".join(sorted({row.get("processor", "unknown processor") for row in everything}))
    lines += [
        "", "## How it was made", "", f"    {study.command}", "",
        f"{study.date}; {machines}; {environment}. {study.conditions} Training and measuring took {minutes:.0f} "
        "minutes of processes. The figures of every run, its intervals, its log and the error of each corruption are "
        "in [study_ipmix.json](study_ipmix.json).", "",
    ]  # fmt: skip
    return "\n".join(lines)


def section(data: DataResults) -> list[str]:
    """The part of the page on one data set."""
    names = data.finished(data.methods)
    shown = names + [name for name in data.finished(data.ablation) if name not in names]
    row = data.any_row
    lines = [
        "", f"## {data.label}", "",
        f"{row['training_images']:,} training images, {data.epochs} epochs, {row['steps']} optimiser steps each.", "",
    ]  # fmt: skip
    if names:
        lines += [*figures_table(data, names), ""]
    lines += [interval_sentence(data)]
    compared = [
        line for reference in ("standard", "AugMix") for name in ("IPMix", "IPMix + JSD")
        for line in goals(data, name, reference)
    ]  # fmt: skip
    compared += [line for name in ("IPMix", "IPMix + JSD") if (line := concentration(data, name, "standard"))]
    if compared:
        lines += ["", f"### Goals ({data.label})", "", *compared]
    if data.finished(data.ablation):
        kept = data.finished(("standard", "IPMix", *data.ablation))
        lines += ["", f"### What each level is worth ({data.label})", "", *figures_table(data, kept)]
    if names:
        lines += [
            "", f"### Error of each corruption ({data.label})", "", *corruption_table(data, names), "",
            "A star marks a corruption whose pictures are ours, not the original benchmark's.",
        ]  # fmt: skip
    return [*lines, "", f"### Cost and best epochs ({data.label})", "", *cost_table(data, shown)]


def without_places(row: Row) -> Row:
    """The result without the folders of the machine that made it."""
    settings = {name: value for name, value in row["settings"].items() if name not in ("out", "root", "data")}
    return {**row, "settings": settings}


def summary(study: Study) -> dict[str, Any]:
    """The content of the JSON: how it was made, means, and the whole result of each run."""
    means = {
        key: {
            name: {
                figure: {"mean": statistics.mean(values), "sd": spread(values), "seeds": len(values)}
                for figure in FIGURES
                if (values := [value / 100 for value in values_of(rows, figure)])
            }
            for name, rows in data.rows.items()
        }
        for key, data in study.data.items()
    }
    return {
        "command": study.command,
        "date": study.date,
        "conditions": study.conditions,
        "planned": study.planned,
        "missing": list(study.missing),
        "means": means,
        "results": {
            key: {name: [without_places(row) for row in rows.values()] for name, rows in data.rows.items()}
            for key, data in study.data.items()
        },
    }
