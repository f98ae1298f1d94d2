"""Adversarial training: what Dynamic MixCut and the hybrid method are worth beside the methods they are compared with.

    python benchmarks/study_adversarial.py

trains standard, PGD, TRADES, Feature Scatter, Dynamic MixCut and hybrid with every seed, measures each, and writes
``docs/results/study_adversarial.md``, ``.json`` and ``.png``. Each run is a process of its own with one thread, as many
at a time as there are cores, in its own folder; finished ones are skipped and stopped ones resumed, so the same command
goes on after an interruption. ``--report-only`` writes the page from what is finished and says what is missing.

    --ablation boxes       one to six boxes of Dynamic MixCut
    --ablation targets     targeted or not, with the cut or without
    --cifar FOLDER --gpu   ResNet-18 on CIFAR-10 in bf16; with --ablation too
    --quick                a handful of images, to see that it works

Each of these has a page of its own. Needs the extra ``attacks`` (Square and AutoAttack).

Equal for all variants: first weights (per seed), optimiser, schedule, number of optimiser steps, crops and flips,
images, the radius of training and evaluation, and the random starts of the evaluation's attacks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from study import command, measured, tables
from study.figure import plain, save, seed_panels
from study.measured import Row
from study.page import batch_of, how_it_was_made, means_of, over_seeds, results_of, summary, title_lines
from study.plan import Job, Plan, Sizes, data_of, job_of, jobs_of
from study.tables import Rows, Study

from mixaug.attacks import FGSM, PGD, SPSA, AutoAttack, CWLinf, Square
from mixaug.evaluate import Report, evaluate_model
from mixaug.evaluate.intervals import bootstrap_means, share
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.record import RunResult

# --- what is trained and measured ------------------------------------------------------------------------------------

REFERENCE = "PGD AT"  # what gains are counted against
METHODS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    REFERENCE: {"method": "pgd"},
    "TRADES": {"method": "trades"},
    "Feature Scatter": {"method": "feature-scatter"},
    "Dynamic MixCut": {"method": "dynamic-mixcut"},
    "hybrid": {"method": "hybrid"},
}
BOXES: dict[str, dict[str, Any]] = {
    f"{count} box" + "es" * (count > 1): {"method": "dynamic-mixcut", "boxes": count} for count in range(1, 7)
}
# Without the cut the whole image is the attack's: adversarial training, with the same smoothing of the labels.
TARGETS: dict[str, dict[str, Any]] = {
    "whole image, untargeted": {"method": "pgd", "targeted": False, "smoothing": 0.1},
    "whole image, targeted": {"method": "pgd", "targeted": True, "smoothing": 0.1},
    "boxes, untargeted": {"method": "dynamic-mixcut", "targeted": False},
    "boxes, targeted": {"method": "dynamic-mixcut", "targeted": True},
}
ABLATIONS = {"boxes": BOXES, "targets": TARGETS}
#: What gains are counted against, by ablation.
REFERENCES = {None: REFERENCE, "boxes": "2 boxes", "targets": "whole image, untargeted"}
#: Methods whose attack has steps: FGSM and Feature Scatter's single one have none to choose.
_MANY_STEPS = ("pgd", "trades", "dynamic-mixcut")


@dataclass(frozen=True)
class AttackSizes(Sizes):
    """How much is measured of each model.

    Args:
        n: test images by attack (and for the Lipschitz constant).
        directions: SPSA's, in each of its 20 steps.
        queries: Square's most forwards an image.
    """

    directions: int = 128
    queries: int = 1_000


FULL = AttackSizes(
    {"fgsm": 500, "pgd-20": 500, "cw-20": 500, "spsa": 100, "square": 100, "autoattack": 100, "lipschitz": 500},
    directions=64,
)
GPU = AttackSizes(
    {"fgsm": 1000, "pgd-20": 1000, "cw-20": 1000, "spsa": 500, "square": 500, "autoattack": 500, "lipschitz": 1000},
    queries=5_000,
)
QUICK = AttackSizes(
    {"fgsm": 8, "pgd-20": 8, "cw-20": 8, "spsa": 4, "square": 4, "autoattack": 4, "lipschitz": 4},
    directions=2,
    queries=20,
)


@dataclass(frozen=True, eq=False)
class AdversarialPlan(Plan):
    """One page of the study.

    Args:
        sizes: of the evaluation.
        adversary: further settings of attacks with steps.
    """

    sizes: AttackSizes
    adversary: dict[str, Any] = field(default_factory=dict)

    def settings(self, variant: str) -> dict[str, Any]:
        """Training settings of a variant, but for seed, device and folder."""
        chosen = super().settings(variant)
        if chosen["method"] != "standard":
            chosen["eps"] = self.eps
        return {**chosen, **(self.adversary if chosen["method"] in _MANY_STEPS else {})}

    def evaluation(self) -> dict[str, Any]:
        """Everything that decides what is measured, for the record."""
        return {**super().evaluation(), "directions": self.sizes.directions, "queries": self.sizes.queries}


def plan_of(options: argparse.Namespace) -> AdversarialPlan:
    """The page that the options ask for.

    10 epochs on 3,000 training images of the package, which keeps the whole page below an hour on two cores; 30 on the
    45,000 of CIFAR-10. The radius is the one that is usual for the data: 0.1 for Fashion-MNIST, 8/255 for CIFAR-10.
    """
    key, title, variants = "study_adversarial", "Adversarial training", METHODS
    if options.ablation is not None:
        key, variants = f"{key}_{options.ablation}", ABLATIONS[options.ablation]
        title = {"boxes": "Dynamic MixCut: number of boxes", "targets": "Dynamic MixCut: targets and the cut"}[
            options.ablation
        ]
    label, data = data_of(options.cifar)
    shared: dict[str, Any] = {"data": data, "amp": options.amp, "limit": options.limit, "steps": options.steps}
    if options.cifar is None:
        shared |= {"model": "resnet-small", "epochs": options.epochs or 10, "limit": options.limit or 3_000}
    else:
        key = f"{key}_cifar10"
        shared |= {"model": "resnet18-cifar", "epochs": options.epochs or 30, "warmup": 1}
    sizes, adversary = GPU if options.gpu else FULL, {}
    if options.quick:
        shared |= {"epochs": options.epochs or 2, "limit": options.limit or 256, "robust_images": 20}
        sizes, adversary = QUICK, {"attack_steps": 2}
    if shared["steps"] is not None:
        shared.pop("warmup", None)  # a run of a few steps may be shorter than an epoch
    return AdversarialPlan(
        key,
        label,
        shared,
        variants,
        sizes,
        adversary,
        title=f"{title} {'on a GPU' if options.gpu else 'at CPU scale'}",
        reference=REFERENCES[options.ablation],
        eps=options.eps or (0.1 if options.cifar is None else 8 / 255),
    )


# --- one run ---------------------------------------------------------------------------------------------------------

#: The attacks of the hybrid paper: the worst of them makes its robustness gap.
GRADIENT_ATTACKS = ("fgsm", "pgd-20", "cw-20")
BEST_ATTACK = "pgd-20"  # what the best epoch is measured with


def attacks_of(plan: AdversarialPlan) -> list[Any]:
    """The attacks of the evaluation, each step a quarter of the radius.

    SPSA leaves an image alone once it is fooled: the accuracy is that of the strongest step, for fewer queries.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed.
    """
    eps, sizes = plan.eps, plan.sizes
    return [
        FGSM(eps=eps),
        PGD(eps=eps, step_size=eps / 4, steps=20),
        CWLinf(eps=eps, step_size=eps / 4, steps=20),
        SPSA(eps=eps, samples=sizes.directions, early_stop=True),
        Square(eps=eps, queries=sizes.queries, rescale=True),
        AutoAttack(eps=eps),
    ]


def run_one(job: Job, folder: Path, device: str) -> int:
    """Trains and measures; a run that was stopped goes on, a trained one is only measured. 130: Ctrl-C ended it."""
    plan = job.plan
    started = time.perf_counter()
    data, settings = measured.images_of(plan), measured.settings_of(job, device, folder)
    before = measured.memory_at_start(folder)
    trained = measured.trained_in(folder, settings, data)
    if trained is None:
        return 130
    measuring = time.perf_counter()
    attacks = attacks_of(plan)
    report = evaluate_model(
        measured.in_channels_last(trained.model),
        data.test,
        attacks=attacks,
        corruptions=None,
        audit=False,
        eps=plan.eps,
        n_attack={attack.name: plan.sizes.n[attack.name] for attack in attacks},
        n_lipschitz=plan.sizes.n["lipschitz"],
        device=device,
        name=job.variant,
        classes=data.classes,
    )
    best_model, best = load_checkpoint(trained.run.best)
    best_report = evaluate_model(
        measured.in_channels_last(best_model),
        data.test,
        attacks=[attack for attack in attacks if attack.name == BEST_ATTACK],
        corruptions=None,
        audit=False,
        n_attack=plan.sizes.n[BEST_ATTACK],
        device=device,
    )
    measured.write_result(folder, {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "adversary": trained.resolved["adversary"],
        "evaluation": plan.evaluation(),
        "attacks": report.settings["attacks"],
        **accuracies_of(report),
        "best": {"epoch": best["epoch"], **best_accuracies(best_report)},
        "cost": cost(trained.run, before),
        "parameters": trained.resolved["parameters"],
        "validation_images": trained.resolved["images"]["validation"],
        **measured.of_the_run(trained, report, started, measuring, report.seconds),
    })  # fmt: skip
    return 0


def accuracies_of(report: Report) -> dict[str, Any]:
    """Accuracies, gap, confidence, Lipschitz constant; and all attacks on the images that every one was given."""
    if report.lipschitz is None:
        raise RuntimeError("the evaluation measured no Lipschitz constant")
    outcomes, attacks = report.outcomes, report.attacks
    found = {"clean": share(outcomes.correct)}
    found |= {name: result.accuracy for name, result in attacks.items()}
    found["lipschitz"] = report.lipschitz
    gaps = {name: attacks[name].gap for name in GRADIENT_ATTACKS}
    worst = max(gaps, key=lambda name: gaps[name].value)
    index = min(outcomes.attack_index.values(), key=len)
    held = {"clean": outcomes.correct[index]}
    held |= {
        name: measured.on_images(outcomes.attack_index[name], right, index) for name, right in outcomes.attacked.items()
    }
    held["all"] = torch.stack(list(held.values())).all(0)
    (lost,) = bootstrap_means((held["pgd-20"].double() - held["autoattack"].double())[:, None])
    return {
        "figures": {name: measured.with_interval(estimate) for name, estimate in found.items()},
        "gap": {**measured.with_interval(gaps[worst]), "attack": worst},
        "confidence": measured.with_interval(attacks[BEST_ATTACK].confidence),
        "same_images": {name: measured.with_interval(share(right)) for name, right in held.items()},
        "pgd_less_autoattack": measured.with_interval(lost),
    }


def best_accuracies(report: Report) -> dict[str, Any]:
    """Accuracies of the best epoch's model."""
    return {
        "clean": measured.with_interval(share(report.outcomes.correct)),
        BEST_ATTACK: measured.with_interval(report.attacks[BEST_ATTACK].accuracy),
    }


def cost(trained: RunResult, before: float | None) -> dict[str, Any]:
    """Seconds of an epoch of training, without validation, and the most memory in MiB, from the run's log.

    The median over the epochs, since other work on the machine only ever adds time.
    """
    peaks = [row["peak_memory"] for row in trained.history if "peak_memory" in row]
    return {
        "epoch_seconds": statistics.median(row["epoch_seconds"] for row in trained.history),
        "peak_memory": max(peaks, default=None),
        "process_before_training": before,  # of the process, on a GPU too: the peak there is of the device
        "overfitted_epochs": [
            int(row["epoch"]) for row in trained.history if row.get("catastrophic_overfitting")
        ],
    }  # fmt: skip


# --- what the papers report ------------------------------------------------------------------------------------------

_REPORTED = ("clean", "fgsm", "pgd-20", "spsa", "cw-20", "lipschitz")
#: By variant, then by metric.
REPORTED: dict[str, dict[str, float]] = {
    "standard": dict(zip(_REPORTED, (96.4, 20.6, 0.0, 0.0, 0.0, 566.7), strict=True)),
    "PGD AT": dict(zip(_REPORTED, (81.4, 52.4, 44.6, 54.0, 44.5, 7.1), strict=True)),
    "TRADES": dict(zip(_REPORTED, (82.0, 57.9, 52.2, 58.7, 50.0, 23.5), strict=True)),
    "Feature Scatter": dict(zip(_REPORTED, (91.4, 73.7, 57.5, 52.5, 49.8, 8.4), strict=True)),
    "Dynamic MixCut": dict(zip(_REPORTED, (89.5, 74.8, 70.4, 76.5, 82.8, 1.27), strict=True)),
    "1 box": {"clean": 95.3, "pgd-20": 69.1, "best": 84.2},
    "2 boxes": {"clean": 96.0, "pgd-20": 79.3, "best": 86.9},
    "3 boxes": {"clean": 95.9, "pgd-20": 71.1, "best": 85.3},
    "4 boxes": {"clean": 96.0, "pgd-20": 73.4, "best": 86.9},
    "5 boxes": {"clean": 96.0, "pgd-20": 74.3, "best": 86.4},
    "6 boxes": {"clean": 96.1, "pgd-20": 77.9, "best": 88.7},
    "whole image, untargeted": {"clean": 81.5, "pgd-20": 44.3, "lipschitz": 71.4},
    "whole image, targeted": {"clean": 86.4, "pgd-20": 40.1, "lipschitz": 133.9},
    "boxes, untargeted": {"clean": 86.3, "pgd-20": 59.1, "lipschitz": 1.63},
    "boxes, targeted": {"clean": 89.8, "pgd-20": 67.7, "lipschitz": 1.35},
}
#: Where the numbers of a variant come from.
_MIXCUT = "the Dynamic MixCut paper, ResNet-18, CIFAR-10, 400 epochs, 8/255"
SOURCES = {"PGD AT": _MIXCUT, "2 boxes": "its Table 2, SVHN, 400 epochs", "whole image, untargeted": _MIXCUT}
#: Of the hybrid paper's Tables 1 and 3, ResNet-18 on CIFAR-10: 5.3 to 6.9 hours, 8.5 to 9.7 GB.
HYBRID_TIME, HYBRID_MEMORY = 30, 14
HYBRID_GAPS = (62.7, 33.2)


# --- tables ----------------------------------------------------------------------------------------------------------

#: Heading of each accuracy by its key: higher is better.
ACCURACIES = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd-20": "PGD-20",
    "cw-20": "CW-20",
    "spsa": "SPSA",
    "square": "Square",
    "autoattack": "AutoAttack",
}
METRICS = {**ACCURACIES, "lipschitz": "Lipschitz"}


def main_table(study: Study) -> list[str]:
    """Accuracies, Lipschitz constant and cost: mean and standard deviation over the seeds."""
    n = {key: metric["n"] for key, metric in study.every[0]["figures"].items()}
    columns = {f"{ACCURACIES[key]} (n = {n[key]:,})": tables.bold_highest(study.rows, key) for key in ACCURACIES}
    columns[f"Lipschitz (n = {n['lipschitz']})"] = tables.column(
        study.rows, lambda rows: tables.mean_text(tables.values_of(rows, "lipschitz"))
    )
    columns["s/epoch"] = tables.column(study.rows, lambda rows: tables.mean_text(costs(rows, "epoch_seconds")))
    columns["peak memory, MiB"] = tables.column(study.rows, lambda rows: whole(costs(rows, "peak_memory")))
    return tables.table(study.rows, {**columns, "seeds": tables.seed_counts(study.rows)})


def costs(rows: Rows, key: str) -> list[float]:
    """A part of the cost of each seed that has it."""
    return [row["cost"][key] for row in rows.values() if row["cost"][key] is not None]


def whole(values: Sequence[float]) -> str:
    """``812``, or a dash where nothing is known."""
    return f"{statistics.mean(values):,.0f}" if values else "-"


def gain_table(study: Study) -> list[str]:
    """Paired differences to the reference in points, each followed by what its paper reports; empty without pairs."""
    reference, lines = study.plan.reference, []
    for name in study.rows:
        gains = {key: tables.differences(study.rows, name, reference, key) for key in ACCURACIES}
        if name == reference or not gains["clean"]:
            continue
        lines.append([name, *(tables.mean_text(values, "+") for values in gains.values())])
        reported = REPORTED.get(name)
        if reported:
            cells = [
                f"{reported[key] - REPORTED[reference][key]:+.1f}" if key in reported else "-" for key in ACCURACIES
            ]
            lines.append([f"{name}, reported", *cells])
    if not lines:
        return []
    return [
        "", f"## Points more than {reference}", "",
        f"Differences of the same seeds, mean ± standard deviation. Reported: {SOURCES[reference]}.", "",
        *tables.markdown_table(["", *ACCURACIES.values()], lines),
    ]  # fmt: skip


def same_images_table(study: Study) -> list[str]:
    """All attacks on the images of the most expensive one: how much of the accuracy under PGD holds."""
    n = study.every[0]["same_images"]["clean"]["n"]
    keys = {**ACCURACIES, "all": "all attacks"}
    columns = {head: tables.means(study.rows, "same_images", key) for key, head in keys.items()}
    columns["PGD-20 less AutoAttack"] = tables.means(study.rows, "pgd_less_autoattack", sign="+")
    return [
        "", "## How much of it is real", "",
        f'The same {n} images under every attack. An image counts under "all attacks" if none of them fooled the '
        "model. Where AutoAttack, or Square (which sees no gradient), takes much more than PGD-20, gradients are "
        "masked and the accuracy under PGD-20 says little.", "",
        *tables.table(study.rows, columns),
    ]  # fmt: skip


def gap_table(study: Study) -> list[str]:
    """Robustness gap, confidence on adversarial images, and the best epoch beside the last."""
    columns = {
        "gap": tables.means(study.rows, "gap"),
        "confidence under PGD-20": tables.means(study.rows, "confidence"),
        "PGD-20, last epoch": tables.means(study.rows, "figures", "pgd-20"),
        "PGD-20, best epoch": tables.means(study.rows, "best", "pgd-20"),
        "best epoch of each seed": tables.column(
            study.rows, lambda rows: ", ".join(str(row["best"]["epoch"]) for row in rows.values())
        ),
        "epochs of catastrophic overfitting": tables.column(
            study.rows, lambda rows: "; ".join(numbers(row["cost"]["overfitted_epochs"]) for row in rows.values())
        ),
    }
    return [
        "", "## Gap, confidence, best epoch", "",
        "Gap: clean accuracy less that under the worst of FGSM, PGD-20 and CW-20. Confidence: mean probability of the "
        "predicted class, right or wrong. The best epoch is the one with the highest accuracy under PGD-10 on the "
        "validation part (`standard`: without an attack), never on the test part. Catastrophic overfitting: in the "
        "log, FGSM leaves half of the clean accuracy and PGD less than a quarter of that.", "",
        *tables.table(study.rows, columns),
    ]  # fmt: skip


def numbers(values: Sequence[int]) -> str:
    """``3, 4``, or ``none``."""
    return ", ".join(map(str, values)) or "none"


def interval_table(study: Study) -> list[str]:
    """Every run's metrics with their intervals."""
    heads = [f"{head} (n = {study.every[0]['figures'][key]['n']:,})" for key, head in METRICS.items()]

    def cells(row: Row) -> list[str]:
        return [tables.interval_text(row["figures"][key], 1 if key == "lipschitz" else 100) for key in METRICS]

    return [
        "", "## Every run, with its 95% interval over the images", "",
        *tables.markdown_table(["", *heads], tables.interval_lines(study.rows, cells)),
    ]  # fmt: skip


# --- hybrid against its paper ----------------------------------------------------------------------------------------


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
        *tables.markdown_table(
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
    heads = ["epoch", "radius", "alpha", "clean on validation, %", "PGD-10 on validation, %"]
    return [
        "", "## Hybrid: radius and alpha of each epoch", "",
        "The radius rises linearly from a tenth of it; alpha weighs the clean loss and is `adversarial / (adversarial "
        "+ clean)` accuracy on the validation part after the epoch before, 0.5 in the first. Largest "
        f"difference between the log and these formulas, over all epochs of all runs ({len(rows)}): {difference}. Seed "
        f"{seed}:", "",
        *tables.markdown_table(heads, lines),
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


# --- the figure ------------------------------------------------------------------------------------------------------

#: Of the variants in their order.
COLOURS = ("#555555", "#1f5fa8", "#2a8a4a", "#b06a00", "#b3282d", "#7a4fa3")
MARKERS = ("s", "o", "^", "v", "D", "P")


def draw(study: Study, path: Path) -> None:
    """A row of panels, one for each accuracy; below, the accuracies on the validation part while training."""
    from matplotlib.figure import Figure

    height = 0.32 * len(study.rows) + 0.8
    figure = Figure(figsize=(15, height + 3.3), layout="constrained", facecolor="white")
    top, bottom = figure.subfigures(2, 1, height_ratios=[height, 3.2])
    styles = dict(zip(study.plan.variants, zip(COLOURS, MARKERS, strict=True), strict=False))
    for axis in seed_panels(top, study.rows, ACCURACIES, styles.__getitem__):
        axis.set_xlim(-4, 116)  # room for the number beside a model that is always right
        _whole_numbers(axis)
    _epochs(bottom, study, styles)
    save(figure, path, dpi=110)


def _epochs(part: Any, study: Study, styles: dict[str, tuple[str, str]]) -> None:
    hybrid = study.rows.get("hybrid")
    panels = {"validation_accuracy": "clean", "validation_pgd_accuracy": "under PGD-10"}
    axes = part.subplots(1, len(panels) + bool(hybrid), squeeze=False)[0]
    for axis, (key, heading) in zip(axes, panels.items(), strict=False):
        for name, rows in study.rows.items():
            seeds = [row["history"] for row in rows.values() if key in row["history"][0]]
            if not seeds:
                continue
            epochs = [entry["epoch"] for entry in seeds[0]]
            means = [100 * statistics.mean(entry[key] for entry in entries) for entries in zip(*seeds, strict=True)]
            colour, marker = styles[name]
            axis.plot(epochs, means, marker=marker, markersize=4, color=colour, linewidth=1.2, label=name)
        axis.set_title(f"accuracy on the validation part, {heading}, %, mean of the seeds", fontsize=9, loc="left")
        axis.set_xlabel("epoch", fontsize=8)
        _whole_numbers(axis)
        plain(axis, "y")
    axes[0].legend(fontsize=8, frameon=False)
    if hybrid:
        _schedules(axes[-1], next(iter(hybrid.values()))["history"])


def _schedules(axis: Any, history: list[dict[str, float]]) -> None:
    epochs, full = [entry["epoch"] for entry in history], history[-1]["radius"]
    axis.plot(epochs, [entry["radius"] / full for entry in history], "o-", color="#1f5fa8", label="radius / eps")
    axis.plot(epochs, [entry["alpha"] for entry in history], "s-", color="#b3282d", label="alpha, the clean weight")
    axis.set_title("hybrid's schedules, one seed", fontsize=9, loc="left")
    axis.set_xlabel("epoch", fontsize=8)
    axis.set_ylim(0, 1.05)
    axis.legend(fontsize=8, frameon=False)
    _whole_numbers(axis)
    plain(axis, "y")


def _whole_numbers(axis: Any) -> None:
    axis.xaxis.get_major_locator().set_params(integer=True)


# --- the page --------------------------------------------------------------------------------------------------------


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
    return ["", "## Training", "", *tables.markdown_table(heads, lines)]


def attack_list(study: Study) -> list[str]:
    """The evaluation's attacks with all their settings, as they were recorded."""
    return [
        "", "## Attacks of the evaluation", "",
        "Untargeted, every image attacked from the same random start for all models. SPSA stops at the first step that "
        "fools the model. Lipschitz: 20 steps up the change of the logits (l1) over that of the pixels (l-infinity).",
        "", *tables.attack_lines(study.every[0]["attacks"], METRICS),
    ]  # fmt: skip


def page(study: Study) -> str:
    """The page in Markdown."""
    first, plan = study.every[0], study.plan
    settings, epochs = first["settings"], first["history"][-1]["epoch"]
    lines = title_lines(study, plan.title)
    lines += [
        f"{plan.label}: {first['training_images']:,} training images, {epochs:.0f} epochs, {first['steps']:,} "
        f"optimiser steps for all; `{settings['model']}` ({first['parameters'] / 1e6:.2f} million parameters), SGD "
        f"with Nesterov momentum {settings['momentum']:g}, batch {batch_of(first)}, lr {settings['lr']:g} on a "
        "cosine"
        + (f" after {settings['warmup']} epoch of warm-up" if settings["warmup"] else "")
        + f", weight decay {settings['weight_decay']:g}, crops and flips. Radius {plan.eps:.4g} (l-infinity, images in "
        "[0, 1]) in training and evaluation.",
        "",
        f"Accuracy in percent on test images, {over_seeds(study)}; the error is 100 less it; the highest mean of a "
        "column is bold. All figures are of the last epoch. Seconds are of training alone, the median over the epochs "
        "of a run; memory is the highest of "
        + ("tensors on the GPU." if study.gpu else "the training process, Python and torch included."),
        "", f"![Every seed a dot, means as lines; below, validation accuracy and the schedules]({plan.key}.png)", "",
        *main_table(study), *gain_table(study), *same_images_table(study), *gap_table(study), *overhead(study),
        *hybrid_log(study), *training_table(study), *attack_list(study), *interval_table(study),
        *how_it_was_made(study, plan.key),
    ]  # fmt: skip
    return "\n".join(lines)


# --- the command -----------------------------------------------------------------------------------------------------


def run_locked(job: Job, options: argparse.Namespace) -> int:
    """One run, in this process.

    Raises:
        filelock.Timeout: another process is at this run.
    """
    with command.locked(job, options) as folder:
        return run_one(job, folder, "cuda" if options.gpu else "cpu")


def run_missing(jobs: list[Job], options: argparse.Namespace) -> None:
    """Runs what is not finished and has ``--only`` in its name.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed.
        ValueError: ``--gpu`` without a GPU.
    """
    attacks_of(jobs[0].plan)  # what is missing is said now, not after the first training
    command.run_missing(__file__, jobs, measured.read_result, options)


def collect(plan: AdversarialPlan, options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study.

    Raises:
        ValueError: a result was made with other settings, the runs differ in their steps, or there is none.
    """
    found = [(job, measured.read_result(job, options)) for job in jobs_of([plan], options.seeds)]
    return command.study_of(
        [plan], found, options, ["python", "benchmarks/study_adversarial.py", *shown_arguments(options)]
    )


def save_study(study: Study, folder: Path) -> str:
    """Writes the page's ``.json``, ``.png`` and ``.md``, each whole or not at all; returns the page."""
    content = summary(study, means=means_of(study.rows, METRICS), results=results_of(study.rows))
    return command.save_page(folder, study.plan.key, page(study), content, lambda path: draw(study, path))


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    return command.shown_arguments(options, dict.fromkeys(("ablation", "eps", "epochs", "steps", "limit")))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablation", choices=tuple(ABLATIONS), help="instead of the methods: parts of Dynamic MixCut")
    command.add_shared_options(
        parser,
        eps="training and evaluation (default 0.1; CIFAR-10 8/255)",
        epochs="default 10; CIFAR-10 30",
        only="dynamic-mixcut",
    )
    parser.add_argument("--steps", type=int, help="optimiser steps in place of epochs")
    return command.parsed(parser, arguments, "steps")


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    plan = plan_of(options)
    jobs = jobs_of([plan], options.seeds)
    return command.run_command(
        options,
        lambda: run_locked(job_of(jobs, options.one), options),
        lambda: run_missing(jobs, options),
        lambda: save_study(collect(plan, options), options.results),
    )


if __name__ == "__main__":
    sys.exit(main())
