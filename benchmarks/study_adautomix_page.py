"""The page and JSON of the AdAutoMix study: its goals, its tables, and how everything was made."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from study_adautomix_plan import METHODS, NUMBERS, OURS, PARTS
from study_adversarial_page import how_it_was_made
from study_adversarial_page import summary as summary_of
from study_adversarial_tables import Study
from study_page import Row, bold_lowest, markdown_table, mean_text, spread, values_of

#: Key of a figure, its heading. All are errors: lower is better.
FIGURES = {
    "clean": "top-1 error",
    "ece": "ECE",
    "rms": "RMS calibration error",
    "fgsm": "FGSM error",
    "mce": "corruption error",
    "occlusion": "occlusion error",
}
#: The goal is to be better than these in these, at equal epochs.
RIVALS, GOALS = ("Mixup", "CutMix"), ("clean", "ece")


def finished(study: Study, names: Sequence[str]) -> dict[str, Mapping[int, Row]]:
    """Those variants of which at least one seed is finished."""
    return {name: study.rows[name] for name in names if name in study.rows}


def figures_table(study: Study, names: Sequence[str]) -> list[str]:
    """Variants by figures: mean and standard deviation over the seeds, the lowest mean of each column in bold.

    Empty where none of them is finished.
    """
    shown = finished(study, names)
    if not shown:
        return []
    first = study.every[0]["figures"]
    columns: dict[str, list[str]] = {}
    for key, heading in FIGURES.items():
        values = [values_of(rows, key) for rows in shown.values()]
        texts = bold_lowest([statistics.mean(each) for each in values], [mean_text(each) for each in values])
        columns[f"{heading} (n = {first[key]['n']:,})"] = texts
    columns["seeds"] = [str(len(rows)) for rows in shown.values()]
    return markdown_table(["", *columns], list(zip(shown, *columns.values(), strict=True)))


def differences(study: Study, name: str, other: str, key: str) -> list[float]:
    """Points that the first variant has more than the other, of the seeds that both have."""
    ours, theirs = study.rows.get(name, {}), study.rows.get(other, {})
    return [
        100 * (ours[seed]["figures"][key]["value"] - theirs[seed]["figures"][key]["value"])
        for seed in ours
        if seed in theirs
    ]


def goals(study: Study) -> list[str]:
    """One line a goal: lower top-1 error and ECE than Mixup and CutMix, and whether it is beyond the spread."""
    lines = []
    for rival in RIVALS:
        for key in GOALS:
            gaps = differences(study, OURS, rival, key)
            if not gaps:
                continue
            mean, deviation = statistics.mean(gaps), spread(gaps) or 0.0
            verdict = "not met" if mean >= 0 else "met" if -mean > deviation else "met, within the spread of the seeds"
            lines.append(f"- {FIGURES[key]} lower than {rival}'s: {mean_text(gaps, '+')} points, {verdict}.")
    return ["", "Goals, with the differences of the same seeds:", "", *lines] if lines else []


def players_table(study: Study) -> list[str]:
    """What the players' losses were in the last epoch: whether the adversary's mixtures are the harder ones."""
    shown = {
        name: rows for name, rows in study.rows.items() if any(row["last_epoch"]["mixed_loss"] for row in rows.values())
    }
    if not shown:
        return []

    def cell(key: str) -> Callable[[Mapping[int, Row]], str]:
        def text(rows: Mapping[int, Row]) -> str:
            values = [row["last_epoch"][key] for row in rows.values() if row["last_epoch"][key] is not None]
            if not values:
                return "-"
            return f"{statistics.mean(values):.3f}" + (f" ± {spread(values):.3f}" if len(values) > 1 else "")

        return text

    heads = {
        "mixed_loss": "classifier's loss on its mixtures",
        "adversarial_loss": "on the generator's",
        "similarity": "similarity to the sources",
    }
    lines = [[name, *(cell(key)(rows) for key in heads)] for name, rows in shown.items()]
    skipped = sum(row["skipped"] for row in study.every)
    return [
        "", "## The players in the last epoch", "",
        f"Means over the steps of the last epoch. Steps skipped for a loss that was not finite, in all runs: "
        f"{skipped:.0f}.", "",
        *markdown_table(["", *heads.values()], lines),
    ]  # fmt: skip


def occlusion_table(study: Study) -> list[str]:
    """Accuracy by the share that is hidden; empty where none of the methods is finished."""
    shown = finished(study, list(METHODS))
    if not shown:
        return []
    ratios = list(study.every[0]["occlusion"])
    lines = [
        [name, *(mean_text([100 * row["occlusion"][ratio]["value"] for row in rows.values()]) for ratio in ratios)]
        for name, rows in shown.items()
    ]
    first = study.every[0]
    return [
        "", "## Accuracy under occlusion, %", "",
        f"Random patches of {first['patch_size']} px hidden (black), the same for all models; n = "
        f"{first['occlusion'][ratios[0]]['n']}.", "",
        *markdown_table(["", *(f"{float(ratio):.0%}" for ratio in ratios)], lines),
    ]  # fmt: skip


def best_table(study: Study) -> list[str]:
    """The best epoch beside the last."""
    lines = [
        [
            name,
            mean_text([100 * row["best"]["last_validation_accuracy"] for row in rows.values()]),
            mean_text([100 * row["best"]["validation_accuracy"] for row in rows.values()]),
            ", ".join(f"{row['best']['epoch']:.0f}" for row in rows.values()),
        ]
        for name, rows in study.rows.items()
    ]  # fmt: skip
    heads = ["", "validation accuracy, last epoch", "best epoch", "best epoch of each seed"]
    return ["", "## Last and best epoch", "", *markdown_table(heads, lines)]


def interval_table(study: Study) -> list[str]:
    """Every run's figures with their intervals."""
    lines = []
    for name, seeds in study.rows.items():
        for seed, row in seeds.items():
            figures = [row["figures"][key] for key in FIGURES]
            cells = [f"{100 * f['value']:.1f} [{100 * f['low']:.1f}, {100 * f['high']:.1f}]" for f in figures]
            lines.append([f"{name}, seed {seed}", *cells])
    return [
        "", "## Every run, with its 95% interval over the images", "",
        *markdown_table(["", *FIGURES.values()], lines),
    ]  # fmt: skip


def page(study: Study) -> str:
    """The page in Markdown.

    Raises:
        ValueError: no run is finished.
    """
    if not study.rows:
        raise ValueError("the study must have at least one finished run, got none")
    first, plan = study.every[0], study.plan
    lines = [f"# {plan.title}", ""]
    if study.missing:
        done = study.planned - len(study.missing)
        lines += [f"**Partial: {done} of {study.planned} runs are finished.** Missing: {', '.join(study.missing)}.", ""]
    settings = first["settings"]
    ours = plan.settings(OURS)
    batch = min(settings["batch_size"], first["training_images"])
    seeds = f"mean ± standard deviation over {study.seeds} seeds" if study.seeds > 1 else "of one seed"
    lines += [
        f"{plan.label}: {first['training_images']:,} training images, {settings['epochs']} epochs, {first['steps']:,} "
        f"optimiser steps for all; `{settings['model']}` ({first['parameters'] / 1e6:.2f} million parameters), SGD "
        f"with Nesterov momentum {settings['momentum']:g}, batch {batch}"
        f", lr {settings['lr']:g} on a cosine, weight decay {settings['weight_decay']:g}, crops and flips. The "
        f"generator's SGD has lr {ours['generator_lr']:g}; the teacher's momentum starts at "
        f"{ours['teacher_momentum']:g}.", "",
        f"Errors in percent on test images, {seeds}; the lowest mean of a column is bold. All figures are of the last "
        "epoch. Corruption error: the mean over 15 corruptions and five severities. Occlusion error: the mean over 0 "
        f"to 90% of the patches hidden. FGSM: eps {plan.eps:.4g}. What a step of each costs was measured apart, "
        "on a quiet machine: docs/benchmarks.md.", "",
        f"![Every seed a dot, means as lines; accuracy under occlusion]({plan.key}.png)", "",
        *figures_table(study, list(METHODS)), *goals(study),
    ]  # fmt: skip
    for heading, part in PARTS.items():
        if finished(study, list(part)):
            lines += ["", f"## {heading}", ""]
            names = [OURS, *part]
            if part is NUMBERS:  # in the order of N
                lines += [f"N = 1 is {plan.reference} training, N = 3 is {OURS} as above.", ""]
                names = [plan.reference, "N = 2", OURS, "N = 4", "N = 5"]
            lines += figures_table(study, names)
    lines += [
        *players_table(study), *occlusion_table(study), *best_table(study), *interval_table(study),
        *how_it_was_made(study),
    ]  # fmt: skip
    return "\n".join(lines)


def summary(study: Study) -> dict[str, Any]:
    """The content of the JSON: how it was made, means, and the whole result of each run."""
    return summary_of(study, FIGURES)
