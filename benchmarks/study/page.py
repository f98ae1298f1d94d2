"""What every page of a study says of its runs, and the content of its JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from study.measured import Row
from study.tables import Rows, Study, spread


def title_lines(study: Study, title: str) -> list[str]:
    """The heading, and what is missing if something is."""
    lines = [f"# {title}", ""]
    if study.missing:
        done = study.planned - len(study.missing)
        lines += [f"**Partial: {done} of {study.planned} runs are finished.** Missing: {', '.join(study.missing)}.", ""]
    return lines


def over_seeds(study: Study) -> str:
    """What the numbers of the tables are."""
    return f"mean ± standard deviation over {study.seeds} seeds" if study.seeds > 1 else "of one seed"


def batch_of(row: Row) -> int:
    """Images of a step of training."""
    return min(row["settings"]["batch_size"], row["training_images"])


def how_it_was_made(
    study: Study,
    stem: str,
    took: str = "Training and measuring: {:.0f} process minutes, on a machine with other work on it.",
    kept: str = "intervals, log and settings",
) -> list[str]:
    """Command, machine, versions and time.

    Args:
        study: of the page.
        stem: name of the page's files.
        took: sentence on the minutes that all runs took.
        kept: what is in the JSON beside the metrics of every run.
    """
    every = study.every
    left_out = ("time", "threads") if study.gpu else ("time", "threads", "device")
    named = {name: value for name, value in every[0]["environment"].items() if name not in left_out}
    environment = ", ".join(f"{name} {value}" for name, value in named.items())
    minutes = sum(row["seconds"]["all"] for row in every) / 60
    machines = ", ".join(sorted({row.get("processor", "unknown processor") for row in every}))
    return [
        "", "## How it was made", "", f"    {study.command}", "",
        f"{study.date}; {machines}; {environment}. {study.conditions} {took.format(minutes)} The figures of every run, "
        f"its {kept} are in [{stem}.json]({stem}.json).", "",
    ]  # fmt: skip


def summary(study: Study, **content: Any) -> dict[str, Any]:
    """The content of the JSON: how the runs were made, then what the page has besides, in its order."""
    return {
        "command": study.command,
        "date": study.date,
        "conditions": study.conditions,
        "planned": study.planned,
        "missing": list(study.missing),
        **content,
    }


def mean_of(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds, as plain numbers."""
    return {"mean": statistics.mean(values), "sd": spread(values), "seeds": len(values)}


def means_of(rows: Mapping[str, Rows], metrics: Iterable[str]) -> dict[str, Any]:
    """Mean and standard deviation by variant and metric."""
    return {
        name: {key: mean_of([row["figures"][key]["value"] for row in seeds.values()]) for key in metrics}
        for name, seeds in rows.items()
    }


def results_of(rows: Mapping[str, Rows]) -> dict[str, list[Row]]:
    """The whole result of each run, by variant."""
    return {name: [without_places(row) for row in seeds.values()] for name, seeds in rows.items()}


def without_places(row: Row) -> Row:
    """The result without the folders of the machine that made it."""
    settings = {name: value for name, value in row["settings"].items() if name not in ("out", "root", "data")}
    return {**row, "settings": settings}
