"""AdAutoMix against standard training, Mixup, CutMix and its co-operative form; its cheaper settings and its terms.

    python benchmarks/study_adautomix.py

trains every variant with every seed, measures each (top-1, ECE, FGSM, corruptions, occlusion), and writes
``docs/results/study_adautomix.md``, ``.json`` and ``.png``. Each run is a process of its own with one thread, as many
at a time as there are cores, in its own folder; finished ones are skipped and stopped ones resumed, so the same command
goes on after an interruption. ``--report-only`` writes the page from what is finished and says what is missing.

    --cifar FOLDER          CIFAR-10, methods and the cheapest setting alone; --gpu a ResNet-18 in bf16
    --momentum 0.999        of the teacher at the start (default 0.99 on a CPU, whose runs are short)
    --quick                 a handful of images, to see that it works

Equal for all variants: first weights (per seed), optimiser, schedule, number of optimiser steps, crops and flips,
images, corruptions, hidden patches. What they cost is not equal: see benchmarks/bench_adautomix.py.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from study import command, measured, tables
from study.figure import plain, save, seed_panels
from study.page import batch_of, how_it_was_made, means_of, over_seeds, results_of, summary, title_lines
from study.plan import Job, Plan, Sizes, data_of, job_of
from study.tables import Rows, Study

from mixaug.attacks import FGSM
from mixaug.evaluate import evaluate_model, occlusion_curve

# --- what is trained and measured ------------------------------------------------------------------------------------

OURS = "AdAutoMix"
_OURS: dict[str, Any] = {"method": "adautomix", "picture_every": 0}
#: The cheaper settings: what each costs is counted in docs/methods/adautomix.md.
CHEAP: dict[str, dict[str, Any]] = {
    "shared draws": {"shared_draws": True},
    "generator every 4 steps, on half": {"generator_every": 4, "generator_share": 0.5},
    "the same, terms on a quarter": {"generator_every": 4, "generator_share": 0.5, "terms_share": 0.25},
}
#: Not the paper's: see "Does a mask have its ratio's share?" in docs/methods/adautomix.md.
TIED: dict[str, dict[str, Any]] = {"shares tied to the ratios": {"share_weight": 10.0}}
#: Table 8 of the paper, from below: terms that are left out.
ABLATION: dict[str, dict[str, Any]] = {
    "without the clean term": {"without": ("clean",)},
    "without the plain term": {"without": ("plain",)},
    "without the teacher term": {"without": ("teacher",)},
    "without the similarity": {"without": ("similarity",)},
    "none of the four": {"without": ("clean", "plain", "teacher", "similarity")},
}
NUMBERS: dict[str, dict[str, Any]] = {f"N = {n}": {"n_mix": n} for n in (2, 4, 5)}
METHODS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    "Mixup": {"method": "mixup"},
    "CutMix": {"method": "cutmix"},
    "co-operative": {**_OURS, "cooperative": True},
    OURS: _OURS,
}
#: Heading of each part of the page, and its variants.
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "Shares of the masks tied to the ratios": TIED,
    "Cheaper settings": CHEAP,
    "Ablation": ABLATION,
    "Number of images in a mixture": NUMBERS,
}
FULL = Sizes({"fgsm": 500, "corruptions": 200, "occlusion": 300})
GPU = Sizes({"fgsm": 5000, "corruptions": 1000, "occlusion": 5000})
QUICK = Sizes({"fgsm": 8, "corruptions": 4, "occlusion": 8})


def jobs_of(plan: Plan, seeds: int) -> list[Job]:
    """All planned runs: the methods with every seed, then the rest, the first seed of each first."""
    rest = [name for name in plan.variants if name not in METHODS]
    return [Job(plan, name, seed) for names in (METHODS, rest) for seed in range(seeds) for name in names]


def plan_of(options: argparse.Namespace) -> Plan:
    """The page that the options ask for.

    15 epochs on 2,000 images of the package, 10 on 3,000 of CIFAR-10: a step costs five plain ones, and both pages
    together stay below an hour and a half on two free cores. On CIFAR-10 the methods, the tied shares
    and the cheapest setting alone.

    The teacher's momentum starts at 0.99 on a CPU: the 0.999 of the paper averages over a thousand steps, and a run of
    a few hundred would keep the teacher, whose features make the masks, near its random start.
    """
    short = not options.gpu
    momentum = (0.99 if short else 0.999) if options.momentum is None else options.momentum
    ours = {"teacher_momentum": momentum, "generator_lr": options.generator_lr}
    variants = dict(METHODS)
    cheapest = dict(list(CHEAP.items())[-1:])
    parts = [TIED, cheapest] if options.cifar is not None else list(PARTS.values())
    for part in parts:
        variants |= {name: {**_OURS, **more} for name, more in part.items()}
    variants = {name: {**v, **ours} if v["method"] == "adautomix" else v for name, v in variants.items()}
    label, data = data_of(options.cifar)
    shared: dict[str, Any] = {"data": data, "amp": options.amp, "batch_size": 100, "weight_decay": 1e-4}
    if options.cifar is None:
        key, model, limit, epochs = "study_adautomix", "resnet-small", 2_000, 15
    else:
        key, model = "study_adautomix_cifar10", "resnet-small" if short else "resnet18-cifar"
        limit, epochs = (3_000, 10) if short else (None, 30)
    shared |= {"model": model, "limit": options.limit or limit, "epochs": options.epochs or epochs}
    sizes = FULL if short else GPU
    if options.quick:
        shared |= {"epochs": options.epochs or 1, "limit": options.limit or 250}
        sizes = QUICK
    title = f"AdAutoMix {'at CPU scale' if short else 'on a GPU'}"
    eps = options.eps or 8 / 255
    return Plan(key, label, shared, variants, sizes, title=title, reference="standard", eps=eps)


# --- one run ---------------------------------------------------------------------------------------------------------


def run_one(plan: Plan, job: Job, folder: Path, device: str) -> int:
    """Trains and measures; a run that was stopped goes on, a trained one is only measured. 130: Ctrl-C ended it."""
    started = time.perf_counter()
    data, settings = measured.images_of(plan), measured.settings_of(job, device, folder)
    trained = measured.trained_in(folder, settings, data)
    if trained is None:
        return 130
    measuring = time.perf_counter()
    model, n = measured.in_channels_last(trained.model), plan.sizes.n
    report = evaluate_model(
        model,
        data.test,
        attacks=[FGSM(eps=plan.eps)],
        corruptions="cifar",
        audit=False,
        n_corruption=n["corruptions"],
        n_attack=n["fgsm"],
        device=device,
        name=job.variant,
        classes=data.classes,
    )
    if report.mce is None:
        raise RuntimeError("the evaluation measured no corruption")
    curve = occlusion_curve(model, data.test, n=n["occlusion"], device=device)
    (attacked,) = report.attacks.values()
    estimates = {
        "clean": report.clean_error,
        "mce": report.mce,
        "ece": report.ece,
        "rms": report.rms,
        "fgsm": attacked.error,
    }
    errors = {name: measured.with_interval(estimate) for name, estimate in estimates.items()}
    hidden = measured.with_interval(curve.area)
    # An error like the others.
    errors["occlusion"] = {
        **hidden,
        "value": 1 - hidden["value"],
        "low": 1 - hidden["high"],
        "high": 1 - hidden["low"],
    }
    hidden_shares = zip(curve.ratios, curve.accuracy, strict=True)
    last = trained.run.history[-1]
    measured.write_result(folder, {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "evaluation": plan.evaluation(),
        "figures": errors,
        "occlusion": {f"{ratio:g}": measured.with_interval(accuracy) for ratio, accuracy in hidden_shares},
        "patch_size": curve.patch_size,
        "last_epoch": {key: last.get(key) for key in ("mixed_loss", "adversarial_loss", "similarity")},
        "skipped": last.get("skipped_steps", 0.0),
        "best": best_epoch(trained.run.history),
        "parameters": trained.resolved["parameters"],
        "validation_images": trained.resolved["images"]["validation"],
        **measured.of_the_run(trained, report, started, measuring),
    })  # fmt: skip
    return 0


def best_epoch(history: list[dict[str, float]]) -> dict[str, float]:
    """The epoch with the highest accuracy on the validation part, and the last one's there."""
    best = max(history, key=lambda row: row["validation_accuracy"])
    return {
        "epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "last_validation_accuracy": history[-1]["validation_accuracy"],
    }


# --- tables and goals ------------------------------------------------------------------------------------------------

#: Heading of each metric by its key. All are errors: lower is better.
METRICS = {
    "clean": "top-1 error",
    "ece": "ECE",
    "rms": "RMS calibration error",
    "fgsm": "FGSM error",
    "mce": "corruption error",
    "occlusion": "occlusion error",
}
#: The goal is to be better than these in these, at equal epochs.
RIVALS, GOALS = ("Mixup", "CutMix"), ("clean", "ece")


def metrics_table(study: Study, names: Iterable[str]) -> list[str]:
    """Variants by metrics: mean and standard deviation over the seeds, the lowest mean of each column in bold.

    Empty where none of them is finished.
    """
    shown = study.one.finished(names)
    if not shown:
        return []
    first = study.every[0]["figures"]
    columns = {
        f"{heading} (n = {first[key]['n']:,})": tables.bold_lowest(shown, key) for key, heading in METRICS.items()
    }
    return tables.table(shown, {**columns, "seeds": tables.seed_counts(shown)})


def goals(study: Study) -> list[str]:
    """One line a goal: lower top-1 error and ECE than Mixup and CutMix, and whether it is beyond the spread."""
    lines = []
    for rival in RIVALS:
        for key in GOALS:
            gaps = tables.differences(study.rows, OURS, rival, key)
            if not gaps:
                continue
            mean, deviation = statistics.mean(gaps), tables.spread(gaps) or 0.0
            verdict = "not met" if mean >= 0 else "met" if -mean > deviation else "met, within the spread of the seeds"
            lines.append(f"- {METRICS[key]} lower than {rival}'s: {tables.mean_text(gaps, '+')} points, {verdict}.")
    return ["", "Goals, with the differences of the same seeds:", "", *lines] if lines else []


def players_table(study: Study) -> list[str]:
    """What the players' losses were in the last epoch: whether the adversary's mixtures are the harder ones."""
    shown = {
        name: rows for name, rows in study.rows.items() if any(row["last_epoch"]["mixed_loss"] for row in rows.values())
    }
    if not shown:
        return []

    def cell(key: str) -> Callable[[Rows], str]:
        def text(rows: Rows) -> str:
            values = [row["last_epoch"][key] for row in rows.values() if row["last_epoch"][key] is not None]
            if not values:
                return "-"
            return f"{statistics.mean(values):.3f}" + (f" ± {tables.spread(values):.3f}" if len(values) > 1 else "")

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
        *tables.markdown_table(["", *heads.values()], lines),
    ]  # fmt: skip


def occlusion_table(study: Study) -> list[str]:
    """Accuracy by the share that is hidden; empty where none of the methods is finished."""
    shown = study.one.finished(METHODS)
    if not shown:
        return []
    ratios = list(study.every[0]["occlusion"])
    lines = [
        [name, *(tables.mean_text(tables.percent(rows, "occlusion", ratio)) for ratio in ratios)]
        for name, rows in shown.items()
    ]
    first = study.every[0]
    return [
        "", "## Accuracy under occlusion, %", "",
        f"Random patches of {first['patch_size']} px hidden (black), the same for all models; n = "
        f"{first['occlusion'][ratios[0]]['n']}.", "",
        *tables.markdown_table(["", *(f"{float(ratio):.0%}" for ratio in ratios)], lines),
    ]  # fmt: skip


def best_table(study: Study) -> list[str]:
    """The best epoch beside the last."""
    lines = [
        [
            name,
            tables.mean_text(tables.percent(rows, "best", "last_validation_accuracy")),
            tables.mean_text(tables.percent(rows, "best", "validation_accuracy")),
            ", ".join(f"{row['best']['epoch']:.0f}" for row in rows.values()),
        ]
        for name, rows in study.rows.items()
    ]  # fmt: skip
    heads = ["", "validation accuracy, last epoch", "best epoch", "best epoch of each seed"]
    return ["", "## Last and best epoch", "", *tables.markdown_table(heads, lines)]


def interval_table(study: Study) -> list[str]:
    """Every run's metrics with their intervals."""
    lines = tables.interval_lines(
        study.rows, lambda row: [tables.interval_text(row["figures"][key]) for key in METRICS]
    )
    return [
        "", "## Every run, with its 95% interval over the images", "",
        *tables.markdown_table(["", *METRICS.values()], lines),
    ]  # fmt: skip


# --- the figure ------------------------------------------------------------------------------------------------------

#: Of the methods; everything else is a form of the last one.
COLOURS = ("#555555", "#b06a00", "#2a8a4a", "#7a4fa3", "#1f5fa8")
OTHER = "#7aa3d4"


def draw(study: Study, path: Path) -> None:
    """A row of panels, one for each metric; below, the curves of the methods under occlusion."""
    from matplotlib.figure import Figure

    height = 0.3 * len(study.rows) + 0.8
    figure = Figure(figsize=(15, height + 3.6), layout="constrained", facecolor="white")
    top, bottom = figure.subfigures(2, 1, height_ratios=[height, 3.6])
    styles = dict(zip(METHODS, COLOURS, strict=True))
    seed_panels(top, study.rows, METRICS, lambda name: (styles.get(name, OTHER), "o"))
    _occlusion(bottom, study, styles)
    save(figure, path, dpi=110)


def _occlusion(part: Any, study: Study, styles: dict[str, str]) -> None:
    axis = part.subplots()
    for name, colour in styles.items():
        if name not in study.rows:
            continue
        rows = study.rows[name]
        ratios = list(study.every[0]["occlusion"])
        means = [statistics.mean(tables.percent(rows, "occlusion", ratio)) for ratio in ratios]
        axis.plot([100 * float(ratio) for ratio in ratios], means, "o-", color=colour, markersize=4, label=name)
    axis.set_title("accuracy with a share of the patches hidden, %, mean of the seeds", fontsize=9, loc="left")
    axis.set_xlabel("hidden patches, %", fontsize=8)
    axis.set_ylim(bottom=0)
    if axis.get_lines():  # matplotlib warns of an empty legend
        axis.legend(fontsize=8, frameon=False)
    plain(axis, "y")


# --- the page --------------------------------------------------------------------------------------------------------


def page(study: Study) -> str:
    """The page in Markdown."""
    first, plan = study.every[0], study.plan
    settings, ours = first["settings"], plan.settings(OURS)
    lines = title_lines(study, plan.title)
    lines += [
        f"{plan.label}: {first['training_images']:,} training images, {settings['epochs']} epochs, {first['steps']:,} "
        f"optimiser steps for all; `{settings['model']}` ({first['parameters'] / 1e6:.2f} million parameters), SGD "
        f"with Nesterov momentum {settings['momentum']:g}, batch {batch_of(first)}, "
        f"lr {settings['lr']:g} on a cosine, weight decay {settings['weight_decay']:g}, crops and flips. The "
        f"generator's SGD has lr {ours['generator_lr']:g}; the teacher's momentum starts at "
        f"{ours['teacher_momentum']:g}.", "",
        f"Errors in percent on test images, {over_seeds(study)}; the lowest mean of a column is bold. All figures are "
        "of the last epoch. Corruption error: the mean over 15 corruptions and five severities. Occlusion error: the "
        f"mean over 0 to 90% of the patches hidden. FGSM: eps {plan.eps:.4g}. What a step of each costs was measured "
        "apart, on a quiet machine: docs/benchmarks.md.", "",
        f"![Every seed a dot, means as lines; accuracy under occlusion]({plan.key}.png)", "",
        *metrics_table(study, METHODS), *goals(study),
    ]  # fmt: skip
    for heading, part in PARTS.items():
        if study.one.finished(part):
            lines += ["", f"## {heading}", ""]
            names = [OURS, *part]
            if part is NUMBERS:  # in the order of N
                lines += [f"N = 1 is {plan.reference} training, N = 3 is {OURS} as above.", ""]
                names = [plan.reference, "N = 2", OURS, "N = 4", "N = 5"]
            lines += metrics_table(study, names)
    lines += [
        *players_table(study), *occlusion_table(study), *best_table(study), *interval_table(study),
        *how_it_was_made(study, plan.key),
    ]  # fmt: skip
    return "\n".join(lines)


# --- the command -----------------------------------------------------------------------------------------------------


def collect(plan: Plan, options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study."""
    found = [(job, measured.read_result(job, options)) for job in jobs_of(plan, options.seeds)]
    words = ["python", "benchmarks/study_adautomix.py", *shown_arguments(options)]
    return command.study_of([plan], found, options, words)


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    defaults = {"eps": None, "epochs": None, "limit": None, "momentum": None, "generator_lr": 0.1}
    return command.shown_arguments(options, defaults)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--momentum", type=float, help="of the teacher at the start (default 0.99; GPU 0.999)")
    parser.add_argument("--generator-lr", type=float, default=0.1, help="of the generator (default 0.1)")
    command.add_shared_options(
        parser,
        eps="FGSM in the evaluation (default 8/255)",
        epochs="default 15; CIFAR-10 10, on a GPU 30",
        only="adautomix-s",
    )
    options = command.parsed(parser, arguments)
    if options.momentum is not None and not 0 <= options.momentum <= 1:
        parser.error(f"--momentum must be from 0 to 1, got {options.momentum}")
    if not 0 <= options.generator_lr < math.inf:
        parser.error(f"--generator-lr must be at least 0, got {options.generator_lr}")
    return options


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    plan = plan_of(options)
    jobs = jobs_of(plan, options.seeds)

    def one() -> int:
        job = job_of(jobs, options.one)
        with command.locked(job, options) as folder:
            return run_one(plan, job, folder, "cuda" if options.gpu else "cpu")

    def write() -> str:
        study = collect(plan, options)
        content = summary(study, means=means_of(study.rows, METRICS), results=results_of(study.rows))
        return command.save_page(options.results, plan.key, page(study), content, lambda path: draw(study, path))

    return command.run_command(
        options, one, lambda: command.run_missing(__file__, jobs, measured.read_result, options), write
    )


if __name__ == "__main__":
    sys.exit(main())
