"""The page and JSON of the adversarial study: its tables, what hybrid costs, and how everything was made."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from study_adversarial_papers import HYBRID_GAPS, HYBRID_MEMORY, HYBRID_TIME
from study_adversarial_tables import (
    FIGURES,
    Study,
    gain_table,
    gap_table,
    interval_table,
    main_table,
    same_images_table,
)
from study_page import Row, markdown_table, spread, without_places


def overhead(study: Study) -> list[str]:
    """Hybrid's time, memory and gap against plain training, beside its paper's; empty without common seeds."""
    plain, ours = study.rows.get("standard", {}), study.rows.get("hybrid", {})
    seeds = [seed for seed in plain if seed in ours]
    if not seeds:
        return []

    def more(key: str, less: str | None = None) -> str:
        """The change of a cost in percent, of what is above another one if ``less`` names it."""
        known = []
        for seed in seeds:
            before, after = (each[key] and each[key] - (each[less] or 0 if less else 0) for each in costs_of(seed))
            if before and after:
                known.append(100 * (after / before - 1))
        text = f"{statistics.mean(known):+.0f}" if known else "-"
        return text + (f" ± {statistics.stdev(known):.0f}" if len(known) > 1 else "") + "%"

    def costs_of(seed: int) -> list[dict[str, Any]]:
        return [rows[seed]["cost"] for rows in (plain, ours)]

    gaps = [f"{statistics.mean(100 * rows[seed]['gap']['value'] for seed in seeds):.1f}" for rows in (plain, ours)]
    memory = [[f"peak memory, {'tensors on the GPU' if study.gpu else 'the whole process'}", more("peak_memory")]]
    if not study.gpu:
        growth = more("peak_memory", "process_before_training")
        memory.append(["peak memory, what training added to the process", growth])
    return [
        "", "## Hybrid against plain training", "",
        *markdown_table(
            ["", "here", "its paper"],
            [
                ["seconds per epoch", more("epoch_seconds"), f"+{HYBRID_TIME}%"],
                *([*cells, f"+{HYBRID_MEMORY}%"] for cells in memory),
                ["robustness gap, plain to hybrid", " to ".join(gaps), " to ".join(map(str, HYBRID_GAPS))],
            ],
        ),
        "",
        "A hybrid step with FGSM passes the model forward and back once for the attack and once for twice the images: "
        "about three times a plain step. The paper does not say how its 30% came about.",
    ]  # fmt: skip


def hybrid_log(study: Study) -> list[str]:
    """Radius and alpha of each epoch beside their formulas; empty without a hybrid run."""
    rows = study.rows.get("hybrid")
    if not rows:
        return []
    worst = max(max(map(abs, errors)) for row in rows.values() for errors in formula_errors(row))
    difference = "below 1e-12" if worst < 1e-12 else f"{worst:.2g}"
    seed, row = next(iter(rows.items()))
    lines = [
        [
            f"{entry['epoch']:.0f}", f"{entry['radius']:.4f}", f"{entry['alpha']:.4f}",
            f"{100 * clean_beside_pgd(entry):.1f}", f"{100 * entry['validation_pgd_accuracy']:.1f}",
        ]
        for entry in row["history"]
    ]  # fmt: skip
    return [
        "", "## Hybrid: radius and alpha of each epoch", "",
        "The radius rises linearly from a tenth of it; alpha weighs the clean loss and is `adversarial / (adversarial "
        "+ clean)` accuracy on the validation part after the epoch before, 0.5 in the first. Largest "
        f"difference between the log and these formulas, over all epochs of all runs ({len(rows)}): {difference}. Seed "
        f"{seed}:", "",
        *markdown_table(["epoch", "radius", "alpha", "clean on validation, %", "PGD-10 on validation, %"], lines),
    ]  # fmt: skip


def formula_errors(row: Row) -> tuple[list[float], list[float]]:
    """Logged radius and alpha of a hybrid run less what the formulas give, epoch by epoch."""
    history, eps = row["history"], row["settings"]["eps"]
    last = max(len(history) - 1, 1)
    radii = [eps if len(history) == 1 else eps * (0.1 + 0.9 * epoch / last) for epoch in range(len(history))]
    alphas = [0.5]
    for entry in history[:-1]:
        clean, attacked = clean_beside_pgd(entry), entry["validation_pgd_accuracy"]
        alphas.append(attacked / (attacked + clean) if attacked + clean else 0.5)
    return (
        [entry["radius"] - radius for entry, radius in zip(history, radii, strict=True)],
        [entry["alpha"] - alpha for entry, alpha in zip(history, alphas, strict=True)],
    )


def clean_beside_pgd(entry: dict[str, float]) -> float:
    """Clean accuracy of the validation images that PGD was given; of all where the log has no column of its own."""
    return entry.get("validation_clean_accuracy", entry["validation_accuracy"])


def training_table(study: Study) -> list[str]:
    """What each variant is trained against."""
    lines = []
    for name, seeds in study.rows.items():
        row = next(iter(seeds.values()))
        adversary = row["adversary"]
        if adversary is None:
            lines.append([name, "none", "-", "-", "-", "-"])
            continue
        several = adversary["steps"] > 1
        lines.append([
            name,
            f"{adversary['steps']} step" + (f"s of {adversary['step_size']:.4g}" if several else ""),
            "a random other class" if adversary["targeted"] else "-",
            adversary["eps_schedule"],
            f"{adversary['smoothing']:g}",
            str(row["settings"]["boxes"]) if row["settings"]["method"] == "dynamic-mixcut" else "-",
        ])  # fmt: skip
    heads = ["", "attack", "target", "radius over the epochs", "label smoothing", "boxes"]
    return ["", "## Training", "", *markdown_table(heads, lines)]


def attack_list(study: Study) -> list[str]:
    """The evaluation's attacks with all their settings, as they were recorded."""
    lines = []
    for name, settings in study.every[0]["attacks"].items():
        shown = {key: value for key, value in settings.items() if key not in ("kind", "targeted", "batch_size")}
        parts = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()]
        lines.append(f"- {FIGURES.get(name, name)}: {', '.join(parts)}")
    return [
        "", "## Attacks of the evaluation", "",
        "Untargeted, every image attacked from the same random start for all models. SPSA stops at the first step that "
        "fools the model. Lipschitz: 20 steps up the change of the logits (l1) over that of the pixels (l-infinity).",
        "", *lines,
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
    seeds = f"mean ± standard deviation over {study.seeds} seeds" if study.seeds > 1 else "of one seed"
    settings, epochs = first["settings"], first["history"][-1]["epoch"]
    batch = min(settings["batch_size"], first["training_images"])
    lines += [
        f"{plan.label}: {first['training_images']:,} training images, {epochs:.0f} epochs, {first['steps']:,} "
        f"optimiser steps for all; `{settings['model']}` ({first['parameters'] / 1e6:.2f} million parameters), SGD "
        f"with Nesterov momentum {settings['momentum']:g}, batch {batch}, lr {settings['lr']:g} on a "
        "cosine"
        + (f" after {settings['warmup']} epoch of warm-up" if settings["warmup"] else "")
        + f", weight decay {settings['weight_decay']:g}, crops and flips. Radius {plan.eps:.4g} (l-infinity, images in "
        "[0, 1]) in training and evaluation.",
        "",
        f"Accuracy in percent on test images, {seeds}; the error is 100 less it; the highest mean of a column is "
        "bold. All figures are of the last epoch. Seconds are of training alone, the "
        "median over the epochs of a run; memory is the highest of "
        + ("tensors on the GPU." if study.gpu else "the training process, Python and torch included."),
        "", f"![Every seed a dot, means as lines; below, validation accuracy and the schedules]({plan.key}.png)", "",
        *main_table(study), *gain_table(study), *same_images_table(study), *gap_table(study), *overhead(study),
        *hybrid_log(study), *training_table(study), *attack_list(study), *interval_table(study),
        *how_it_was_made(study),
    ]  # fmt: skip
    return "\n".join(lines)


def how_it_was_made(study: Study) -> list[str]:
    """Command, machine, versions and time."""
    row = study.every[0]
    left_out = ("time", "threads") if study.gpu else ("time", "threads", "device")
    named = {name: value for name, value in row["environment"].items() if name not in left_out}
    environment = ", ".join(f"{name} {value}" for name, value in named.items())
    minutes = sum(each["seconds"]["all"] for each in study.every) / 60
    machines = ", ".join(sorted({each["processor"] for each in study.every}))
    return [
        "", "## How it was made", "", f"    {study.command}", "",
        f"{study.date}; {machines}; {environment}. {study.conditions} Training and measuring: {minutes:.0f} "
        "process minutes, on a machine with other work on it. The figures of every run, its intervals, log and "
        f"settings are in [{study.plan.key}.json]({study.plan.key}.json).", "",
    ]  # fmt: skip


def summary(study: Study, figures: Iterable[str] = tuple(FIGURES)) -> dict[str, Any]:
    """The content of the JSON: how it was made, means of the figures, and the whole result of each run."""
    means = {
        name: {
            key: {"mean": statistics.mean(values), "sd": spread(values), "seeds": len(values)}
            for key in figures
            if (values := [row["figures"][key]["value"] for row in rows.values()])
        }
        for name, rows in study.rows.items()
    }
    return {
        "command": study.command,
        "date": study.date,
        "conditions": study.conditions,
        "planned": study.planned,
        "missing": list(study.missing),
        "means": means,
        "results": {name: [without_places(row) for row in rows.values()] for name, rows in study.rows.items()},
    }
