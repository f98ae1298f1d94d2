"""The page and JSON of the study of mixing sets: is IPMix as insensitive to its source as its paper says?"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from study_mixing_sets_analysis import Contrast, Spread, contrast, holm, spread_of
from study_mixing_sets_plan import CONTROLS, FIGURES, IMAGE_LEVEL, MIXTURE, PAPER, PLAIN, REFERENCE, SOURCES, TESTED
from study_page import (
    DataResults,
    Row,
    Study,
    bold_lowest,
    corruption_table,
    cost_table,
    markdown_table,
    mean_text,
    spread,
    values_of,
)

#: p values below this, adjusted for the number of comparisons, tell sources apart.
LEVEL = 0.05


class Comparison(NamedTuple):
    """The sources on one data set in one figure."""

    data: DataResults
    key: str
    spread: Spread
    adjusted: float

    @property
    def differ(self) -> bool:
        """Whether the sources are further apart than the seeds explain."""
        return self.adjusted < LEVEL

    @property
    def label(self) -> str:
        """``clean error on CIFAR-10``."""
        return f"{FIGURES[self.key]} on {short(self.data)}"

    @property
    def ends(self) -> str:
        """``spectrum 43.9, fractals 42.1: 1.8 ± 0.9 points``, the interval of the largest of all differences."""
        found = self.spread
        low, high = found.lowest, found.highest
        ends = f"{high} {found.means[high]:.1f}, {low} {found.means[low]:.1f}"
        return f"{ends}: {found.range:.1f} ± {found.half:.1f} points"


def short(data: DataResults) -> str:
    """``CIFAR-10`` of ``CIFAR-10 (JPEG copy)``."""
    return re.split(", | \\(", data.label)[0]


def points_of(data: DataResults, key: str) -> dict[str, dict[int, float]]:
    """A figure in points by variant and seed."""
    return {
        name: {seed: 100 * row["figures"][key]["value"] for seed, row in rows.items()}
        for name, rows in data.rows.items()
    }


def comparisons(study: Study) -> list[Comparison]:
    """Every data set and tested figure in which all five sources have two common seeds."""
    found: list[tuple[DataResults, str, Spread]] = []
    for data in study.data.values():
        for key in TESTED:
            values = points_of(data, key)
            if all(source in values for source in SOURCES):
                one = spread_of({source: values[source] for source in SOURCES})
                if one is not None:
                    found.append((data, key, one))
    adjusted = holm([one.p for _, _, one in found])
    return [Comparison(data, key, one, p) for (data, key, one), p in zip(found, adjusted, strict=True)]


def paper_range(key: str) -> float:
    """Points between the best and the worst of the five sources in the paper."""
    values = [figures[key] for figures in PAPER.values()]
    return max(values) - min(values)


def answer(study: Study) -> list[str]:
    """Whether the sources differ, in how much, and what that is beside what IPMix changes."""
    found = comparisons(study)
    if not found:
        return ["Too few runs are finished to compare the sources: all five with two seeds are needed."]
    differ = [one for one in found if one.differ]
    alike = [one for one in found if not one.differ]
    smallest, seeds = min(one.adjusted for one in found), min(one.spread.seeds for one in found)
    counted = f"{len(found)} comparison{'s' * (len(found) > 1)}"
    if not differ:
        lines = [
            f"**Yes, as far as {seeds} seeds can tell:** in none of {counted} are the five sources further "
            f"apart than the seeds explain (smallest adjusted p {smallest:.2g}). What differs by less than the "
            "intervals below cannot be excluded."
        ]
    else:
        head = "No" if not alike else "Not in everything"
        lines = [
            f"**{head}:** in {len(differ)} of {counted} the five sources are further apart than the seeds explain.", "",
            *(f"- {one.label}: {one.ends} (adjusted p {one.adjusted:.2g})." for one in differ),
        ]  # fmt: skip
        if alike:
            lines += ["", f"Not told apart: {'; '.join(one.label for one in alike)}."]
    wider = [one for one in found if one.spread.range > paper_range(one.key)]
    lines += [
        "", f"Further apart than in the paper: {len(wider)} of {len(found)} ranges"
        f"{' (' + '; '.join(one.label for one in wider) + ')' if wider else ''}. The paper's are of single runs, so "
        "a seed's luck is in them.",
    ]  # fmt: skip
    for one in found:
        if one.key == "mce" and (gain := contrast(points_of(one.data, "mce"), REFERENCE, list(SOURCES))):
            lines += ["", worth(one, gain)]
    return lines


def worth(one: Comparison, gain: Contrast) -> str:
    """What the choice of the source is beside what IPMix changes in the corruption error."""
    text = f"{short(one.data)}: IPMix changes the corruption error by {-gain.value:+.1f} ± {gain.half:.1f} points"
    if not gain.clear:
        return f"{text}, which the seeds do not tell from nothing; the sources are {one.spread.range:.1f} apart."
    share = one.spread.range / abs(gain.value)
    return f"{text} (mean of the five sources); from the best to the worst source it is {one.spread.range:.1f}, " + (
        f"{share:.0%} of that."
    )


def spread_table(found: Sequence[Comparison]) -> list[str]:
    """Spread between sources against spread over seeds, and the paper's range."""
    lines = []
    for one in found:
        each = one.spread
        best, worst = (f"{name} {each.means[name]:.1f}" for name in (each.lowest, each.highest))
        lines.append([
            one.label, best, worst, f"{each.range:.1f} ± {each.half:.1f}", f"{each.by_chance:.1f}",
            f"{each.between:.2f}", f"{each.within:.2f}", f"{each.p:.2g}",
            f"**{one.adjusted:.2g}**" if one.differ else f"{one.adjusted:.2g}", f"{paper_range(one.key):.1f}",
        ])  # fmt: skip
    heads = [
        "", "best", "worst", "range", "range by chance", "between sources, sd", "over seeds, sd", "p", "adjusted p",
        "range in the paper",
    ]  # fmt: skip
    return markdown_table(heads, lines)


def control_table(data: DataResults) -> list[str]:
    """Each control less the mean of the sources, bold where zero is outside of the interval; empty without one."""
    lines = []
    for name in CONTROLS:
        found = [contrast(points_of(data, key), name, list(SOURCES)) for key in FIGURES]
        if all(one is not None for one in found):
            texts = [f"{one.value:+z.1f} ± {one.half:.1f}" for one in found if one is not None]
            marks = [one is not None and one.clear for one in found]
            cells = [f"**{text}**" if mark else text for text, mark in zip(texts, marks, strict=True)]
            lines.append([name, *cells])
    return markdown_table(["less the mean of the five sources, points", *FIGURES.values()], lines) if lines else []


def control_lines(data: DataResults) -> list[str]:
    """One sentence a control without a picture worth looking at: in what it is better, worse, or not told apart."""
    titles = {
        "noise": "Noise in place of pictures",
        "flat colours": "Flat colours in place of pictures",
        IMAGE_LEVEL: "No pictures (the image level alone)",
        MIXTURE: "All five together",
    }
    lines = []
    for name, title in titles.items():
        found = {key: contrast(points_of(data, key), name, list(SOURCES)) for key in TESTED}
        if any(one is None for one in found.values()):
            continue
        sides: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": []}
        for key, one in found.items():
            if one is not None:
                side = "not told apart" if not one.clear else "better" if one.value < 0 else "worse"
                sides[side].append(FIGURES[key])
        parts = [f"{side} in {', '.join(keys)}" for side, keys in sides.items() if keys]
        lines.append(f"- {title}, against the mean of the five sources: {'; '.join(parts)}.")
    return lines


def figures_table(data: DataResults) -> list[str]:
    """Variants by figures: mean and standard deviation over the seeds, the lowest mean of each column in bold."""
    columns = []
    for key in FIGURES:
        values = [values_of(rows, key) for rows in data.rows.values()]
        columns.append(bold_lowest([statistics.mean(each) for each in values], [mean_text(each) for each in values]))
    paper = []
    for name in data.rows:
        reported = PAPER.get(name)
        paper.append("-" if reported is None else " / ".join(f"{reported[key]:.1f}" for key in TESTED))
    counts = [str(len(rows)) for rows in data.rows.values()]
    heads = ["", *FIGURES.values(), "seeds", "paper: clean / corruption / RMS"]
    return markdown_table(heads, list(zip(data.rows, *columns, counts, paper, strict=True)))


def interval_sentence(data: DataResults) -> str:
    """How far one run's figure is uncertain because of the number of images."""
    rows = [row for rows in data.rows.values() for row in rows.values()]
    parts = []
    for key, heading in FIGURES.items():
        figures = [row["figures"][key] for row in rows]
        half = 100 * statistics.mean((figure["high"] - figure["low"]) / 2 for figure in figures)
        parts.append(f"{heading} ± {half:.1f} (n = {figures[0]['n']:,})")
    return (
        f"Half width of the 95% interval of a single run over its images, in points: {'; '.join(parts)}. The variants "
        "are measured on the same images, so that differences between them are surer than that."
    )


def section(data: DataResults) -> list[str]:
    """The part of the page on one data set."""
    row = data.any_row
    lines = [
        "", f"## {data.label}", "",
        f"{row['training_images']:,} training images, {data.epochs} epochs, {row['steps']} optimiser steps each.", "",
        *figures_table(data), "", interval_sentence(data),
    ]  # fmt: skip
    table = control_table(data)
    if table:
        lines += ["", f"### Does the picture matter? ({data.label})", "", *table, "", *control_lines(data)]
    lines += ["", f"### Error of each corruption ({data.label})", "", *corruption_table(data, list(data.rows)), ""]
    lines += ["A star marks a corruption whose pictures are ours, not the original benchmark's."]
    return [*lines, "", f"### Cost and best epochs ({data.label})", "", *cost_table(data, list(data.rows))]


def page(study: Study) -> str:
    """The study's page in Markdown.

    Raises:
        ValueError: no run is finished.
    """
    if not study.data:
        raise ValueError("the study must have at least one finished run, got none")
    every = [row for data in study.data.values() for rows in data.rows.values() for row in rows.values()]
    first, found = every[0], comparisons(study)
    sets = [row["pictures"]["count"] for row in every if row["pictures"]]
    batch = min(first["settings"]["batch_size"], first["training_images"])
    corruptions, corrupted = len(first["corruptions"]), f"{first['figures']['mce']['n']:,}"
    lines = ["# Does it matter which pictures IPMix mixes in?", ""]
    if study.missing:
        done = study.planned - len(study.missing)
        lines += [f"**Partial: {done} of {study.planned} runs are finished.** Missing: {', '.join(study.missing)}.", ""]
    lines += ["""\
Table 8 of the IPMix paper (NeurIPS 2023) says that it hardly does (CIFAR-100, WRN-40-4, a run
each). Here IPMix is trained with each of our five sources (its FractalDB is our IFS, its RCDB our contours), with all
of them together, and with controls: pictures of noise, pictures of one colour each, no pictures at all (the image level
alone), and standard training.

## Is IPMix as insensitive to its source as the paper says?
""", *answer(study)]  # fmt: skip
    if found:
        lines += ["", *spread_table(found), "", f"""\
*Range*: points from the best to the worst mean, with Tukey's 95% interval, which holds for the largest difference of
all pairs; *by chance*: what equal sources would show on average. *Between sources*: standard deviation of the sources'
true means, what the seeds' luck adds taken off. *Over seeds*: that of one run's luck, the part that all runs of a seed
share taken off. *p*: how often equal sources would be as far apart (Tukey's studentized range); adjusted by Holm for
{len(found)} comparisons."""]  # fmt: skip
    lines += ["", f"""\
![Every seed a dot, means as lines; below, the error of each corruption](study_mixing_sets.png)

Errors in percent, mean ± standard deviation over {study.seeds} seeds, of the last epoch; lower is better; the lowest
mean of a column is bold. The model is `resnet-small` (0.31 million parameters), SGD with Nesterov momentum, batch
{batch}, lr 0.1 on a cosine, crops and flips for all; the same first weights and the same number of optimiser steps.
Corruption error: the mean over {corruptions} corruptions at 5 severities on {corrupted} test images, the same for all.
Pictures: {pictures_text(sets)}, of 256 px, seed 0. The images of Fashion-MNIST are grey: of the pictures they see the
luma alone."""]  # fmt: skip
    for data in study.data.values():
        lines += section(data)
    named = {name: value for name, value in first["environment"].items() if name not in ("time", "threads", "device")}
    environment = ", ".join(f"{name} {value}" for name, value in named.items())
    minutes = sum(row["seconds"]["all"] for row in every) / 60
    machines = ", ".join(sorted({row["processor"] for row in every}))
    lines += [
        "", "## How it was made", "", f"    {study.command}", "",
        f"{study.date}; {machines}; {environment}. {study.conditions} Training and measuring took {minutes:.0f} "
        "minutes of processes. The figures of every run, its intervals, its log, the error of each corruption and the "
        "SHA-256 of the pictures are in [study_mixing_sets.json](study_mixing_sets.json).", "",
    ]  # fmt: skip
    return "\n".join(lines)


def pictures_text(counts: Sequence[int]) -> str:
    """``512 a set``, or from the smallest to the largest set."""
    if not counts:
        return "none"
    low, high = min(counts), max(counts)
    return f"{low} a set" if low == high else f"{low} to {high} a set"


def without_places(row: Row) -> Row:
    """The result without the folders of the machine that made it."""
    settings = {name: value for name, value in row["settings"].items() if name not in ("out", "root", "data")}
    if row["variant"] in PLAIN:
        settings["mixing_set"] = PLAIN[row["variant"]]
    return {**row, "settings": settings}


def summary(study: Study) -> dict[str, Any]:
    """The content of the JSON: how it was made, means, the comparisons, and the whole result of each run."""
    means = {
        key: {
            name: {
                figure: {"mean": statistics.mean(values), "sd": spread(values), "seeds": len(values)}
                for figure in FIGURES
                if (values := [row["figures"][figure]["value"] for row in rows.values()])
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
        "comparisons": [
            {"data": one.data.label, "figure": one.key, **vars(one.spread), "adjusted_p": one.adjusted}
            for one in comparisons(study)
        ],
        "paper": PAPER,
        "results": {
            key: {name: [without_places(row) for row in rows.values()] for name, rows in data.rows.items()}
            for key, data in study.data.items()
        },
    }
