"""IPMix on the CPU: what it changes against standard training and AugMix, and what each of its three levels is worth.

    python benchmarks/study_ipmix.py --cifar FOLDER

trains every variant with every seed, measures each, and writes ``docs/results/study_ipmix.md``, ``.json`` and ``.png``.
Without ``--cifar`` just the images in the package are used, with ``--cifar-only`` just the others. Each run is a
process of its own with one thread, as many at a time as there are cores, in its own folder; finished ones are skipped
and stopped ones resumed, so the same command goes on after an interruption. ``--report-only`` writes the page from
what is finished and says what is missing. ``--quick`` runs everything on a handful of images, to see that it works.

Equal for all variants of a data set: first weights (per seed), optimiser, schedule, number of optimiser steps, crops
and flips, training images, evaluated images, corruptions and random starts of the attack. The Jensen-Shannon loss makes
three forward passes a step where the others make one; its column of seconds says what that costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from study import command, measured, tables
from study.figure import corruption_panel, data_parts, save, seed_panels
from study.measured import Row
from study.page import how_it_was_made, mean_of, results_of, summary, title_lines
from study.plan import DataPlan, Job, Sizes, data_of, job_of, jobs_of
from study.tables import DataResults, Rows, Study

from mixaug.attacks import PGD
from mixaug.evaluate import evaluate_model
from mixaug.evaluate.corruptions.tables import corruption_label
from mixaug.train.checkpoint import load_checkpoint

# --- what is trained and measured --------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    "AugMix": {"method": "augmix"},
    "IPMix": {"method": "ipmix"},
    "IPMix + JSD": {"method": "ipmix", "jsd": True},
}
ABLATION: dict[str, dict[str, Any]] = {
    "IPMix without image level": {"method": "ipmix", "levels": ("patch", "pixel")},
    "IPMix without patch level": {"method": "ipmix", "levels": ("image", "pixel")},
    "IPMix without pixel level": {"method": "ipmix", "levels": ("image", "patch")},
}
#: Heading of each metric by its key. All are errors (or calibration errors): lower is better.
METRICS = {
    "clean": "clean error",
    "clean_best": "clean error, best epoch",
    "mce": "corruption error",
    "rms": "RMS calibration error",
    "ece": "ECE",
    "pgd_2": "error under PGD-20, 2/255",
    "pgd_8": "error under PGD-20, 8/255",
}
#: Radius and step of the attacks: of this package's robustness tables, and of the IPMix paper.
RADII = {"pgd_8": (8 / 255, 2 / 255), "pgd_2": (2 / 255, 0.5 / 255)}


def plans(options: argparse.Namespace) -> list[DataPlan]:
    """The data sets of this call, with sizes that keep the whole at about 40 minutes on two cores."""
    small = 256 if options.quick else None
    sizes = Sizes(dict.fromkeys(("corruptions", "attacks"), 20 if options.quick else 500))

    def plan(key: str, cifar: Path | None, limit: int | None, variants: dict[str, dict[str, Any]]) -> DataPlan:
        label, data = data_of(cifar)
        epochs = options.epochs or (1 if options.quick else 12)
        shared = {"data": data, "limit": options.limit or small or limit, "epochs": epochs, "amp": options.amp}
        return DataPlan(key, label, shared, variants, sizes)

    found = [] if options.cifar_only else [plan("embedded", None, None, {**METHODS, **ABLATION})]
    if options.cifar is not None:
        found.append(plan("cifar10-jpeg", options.cifar, 5_000, METHODS))
    return found


# --- one run -----------------------------------------------------------------------------------------------------


def run_one(job: Job, options: argparse.Namespace) -> int:
    """Trains and measures one variant with one seed, in this process; 130 when Ctrl-C ended it.

    Raises:
        filelock.Timeout: another process is at this run.
    """
    with command.locked(job, options) as folder:
        return train_and_measure(job, folder)


def train_and_measure(job: Job, folder: Path) -> int:
    """A run that was stopped goes on, a trained one is only measured."""
    started = time.perf_counter()
    data, settings, n = measured.images_of(job.plan), measured.settings_of(job, "cpu", folder), job.plan.sizes.n
    trained = measured.trained_in(folder, settings, data)
    if trained is None:
        return 130
    measuring = time.perf_counter()
    # One seed, so that all models meet one start.
    attacks = {
        name: PGD(eps=eps, step_size=step, steps=20, generator=torch.Generator().manual_seed(0))
        for name, (eps, step) in RADII.items()
    }
    report = evaluate_model(
        trained.model,
        data.test,
        attacks=attacks,
        audit=False,
        n_corruption=n["corruptions"],
        n_attack=n["attacks"],
        name=job.variant,
        classes=data.classes,
    )
    best_model, best = load_checkpoint(trained.run.best)
    best_report = evaluate_model(best_model, data.test, attacks=None, corruptions=None, audit=False, name=job.variant)
    if report.mce is None:
        raise RuntimeError("the evaluation measured no corruption")
    estimates = {
        "clean": report.clean_error,
        "clean_best": best_report.clean_error,
        "mce": report.mce,
        "rms": report.rms,
        "ece": report.ece,
        **{name: report.attacks[name].error for name in RADII},
    }
    measured.write_result(folder, {
        "variant": job.variant,
        "data": job.plan.key,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "figures": {name: measured.with_interval(estimate) for name, estimate in estimates.items()},
        "corruptions": {name: estimate.value for name, estimate in report.corruption_means.items()},
        "best_epoch": best["epoch"],
        **measured.of_the_run(trained, report, started, measuring),
    })  # fmt: skip
    return 0


def read_result(job: Job, options: argparse.Namespace) -> Row | None:
    """The result of a run; None when it is not finished (or was measured before a metric was added).

    Raises:
        ValueError: the result was made with other settings.
    """
    row = measured.read_sized_result(job, options)
    return row if row is not None and set(METRICS) <= set(row["figures"]) else None


# --- tables and goals --------------------------------------------------------------------------------------------


def metrics_table(rows: dict[str, Rows]) -> list[str]:
    """Variants by metrics: mean and standard deviation over the seeds, the lowest mean of each column in bold."""
    columns = {heading: tables.bold_lowest(rows, key) for key, heading in METRICS.items()}
    return tables.table(rows, {**columns, "seeds": tables.seed_counts(rows)})


def paired(data: DataResults, variant: str, reference: str) -> tuple[Rows, Rows]:
    """The rows of both variants for the seeds that both have finished."""
    first, second = data.rows.get(reference, {}), data.rows.get(variant, {})
    seeds = [seed for seed in first if seed in second]
    return {seed: first[seed] for seed in seeds}, {seed: second[seed] for seed in seeds}


def goals(data: DataResults, variant: str, reference: str) -> list[str]:
    """One sentence a goal of the study, with the numbers and whether it is met; nothing without common seeds.

    Against standard training: corruption error cut by a third, clean error at most 0.5 points up, RMS lower. Against
    AugMix: corruption error and RMS lower, clean error at most 0.5 points up.
    """
    before, after = paired(data, variant, reference)
    if not before:
        return []
    changes = {
        key: [b - a for a, b in zip(tables.values_of(before, key), tables.values_of(after, key), strict=True)]
        for key in METRICS
    }
    means = {key: statistics.mean(values) for key, values in changes.items()}
    was, is_now = (statistics.mean(tables.values_of(rows, "mce")) for rows in (before, after))
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
        text = text or f"{tables.mean_text(changes[key], '+')} points"
        deviation = tables.spread(changes[key])
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
        for name in data.every[0]["corruptions"]
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


# --- the figure --------------------------------------------------------------------------------------------------

#: Metrics that have a panel.
SHOWN = ("clean", "mce", "rms", "pgd_2", "pgd_8")
#: Colour and marker by variant; the rest are ablations.
STYLE = {
    "standard": ("#555555", "s"),
    "AugMix": ("#b06a00", "^"),
    "IPMix": ("#1f5fa8", "o"),
    "IPMix + JSD": ("#2a8a4a", "D"),
}


def style_of(name: str) -> tuple[str, str]:
    """Colour and marker of a variant."""
    return STYLE.get(name, ("#7aa3d4", "o"))


def draw(study: Study, path: Path) -> None:
    """For each data set a row of panels, each seed a dot and the mean a line, above the error of each corruption."""
    figure, parts = data_parts(study, 0.3, 0.7, 3.0)
    for data, top, bottom in parts:
        seed_panels(top, data.rows, {key: METRICS[key] for key in SHOWN}, style_of)
        rows = data.finished(METHODS) or data.rows
        axis = corruption_panel(bottom, rows, style_of, step=0.16, width=1.2, size=6)
        axis.legend(ncols=len(rows), fontsize=9, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    save(figure, path, dpi=110)


# --- the page ----------------------------------------------------------------------------------------------------


def page(study: Study) -> str:
    """The study's page in Markdown."""
    first = study.every[0]
    corrupted, attacked = (first["figures"][key]["n"] for key in ("mce", "pgd_8"))
    lines = title_lines(study, "IPMix at CPU scale")
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
    lines += how_it_was_made(
        study,
        "study_ipmix",
        "Training and measuring took {:.0f} minutes of processes.",
        "intervals, its log and the error of each corruption",
    )
    return "\n".join(lines)


def section(data: DataResults) -> list[str]:
    """The part of the page on one data set."""
    label, row = data.plan.label, data.every[0]
    methods, ablation = data.finished(METHODS), data.finished(ABLATION)
    epochs = data.plan.shared["epochs"]
    lines = [
        "", f"## {label}", "",
        f"{row['training_images']:,} training images, {epochs} epochs, {row['steps']} optimiser steps each.", "",
    ]  # fmt: skip
    if methods:
        lines += [*metrics_table(methods), ""]
    widths = tables.half_widths(data.every, METRICS)
    lines += [f"Half width of the 95% interval of a single run, in points: {widths}."]
    compared = [
        line for reference in ("standard", "AugMix") for name in ("IPMix", "IPMix + JSD")
        for line in goals(data, name, reference)
    ]  # fmt: skip
    compared += [line for name in ("IPMix", "IPMix + JSD") if (line := concentration(data, name, "standard"))]
    if compared:
        lines += ["", f"### Goals ({label})", "", *compared]
    if ablation:
        kept = data.finished(("standard", "IPMix", *ablation))
        lines += ["", f"### What each level is worth ({label})", "", *metrics_table(kept)]
    if methods:
        lines += [
            "", f"### Error of each corruption ({label})", "", *tables.corruption_table(methods), "",
            "A star marks a corruption whose pictures are ours, not the original benchmark's.",
        ]  # fmt: skip
    return [*lines, "", f"### Cost and best epochs ({label})", "", *tables.cost_table({**methods, **ablation})]


def means_of(data: DataResults) -> dict[str, Any]:
    """Mean and standard deviation by variant and metric, by way of percent: equal to the page to the last bit."""
    return {
        name: {key: mean_of([value / 100 for value in tables.values_of(rows, key)]) for key in METRICS}
        for name, rows in data.rows.items()
    }


def save_study(study: Study, folder: Path) -> str:
    """Writes ``study_ipmix.json``, ``.png`` and ``.md``, each whole or not at all; returns the page."""
    content = summary(
        study,
        means={key: means_of(data) for key, data in study.data.items()},
        results={key: results_of(data.rows) for key, data in study.data.items()},
    )
    return command.save_page(folder, "study_ipmix", page(study), content, lambda path: draw(study, path))


# --- the command -------------------------------------------------------------------------------------------------


def collect(found: list[DataPlan], options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study.

    Raises:
        ValueError: a result was made with other settings, runs of one data set differ in their steps, or there is none.
    """
    rows = [(job, read_result(job, options)) for job in jobs_of(found, options.seeds)]
    return command.study_of(
        found, rows, options, ["python", "benchmarks/study_ipmix.py", *shown_arguments(options)], precision=""
    )


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    more = ["--cifar-only"] * options.cifar_only
    return command.shown_arguments(options, {"epochs": None, "limit": None}, *more)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as a tree of pictures: train/CLASS and test/CLASS")
    parser.add_argument("--cifar-only", action="store_true", help="leave the images in the package out")
    parser.add_argument("--out", type=Path, help="folder of the runs (default runs/study_ipmix)")
    parser.add_argument("--results", type=Path, help="folder of the page (default docs/results)")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default 12)")
    parser.add_argument("--limit", type=int, help="training images (default all 5,000, a tenth of them for validation)")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run (default 1)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: the cores over --threads)")
    parser.add_argument("--amp", default="bf16", choices=("off", "bf16"), help="precision in training (default bf16)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="just runs with this in their name: embedded/ipmix-s"
    )
    parser.add_argument("--report-only", action="store_true", help="write the page from the finished runs, run nothing")
    parser.add_argument("--quick", action="store_true", help="a handful of images, into runs/study_ipmix_quick")
    parser.add_argument("--one", nargs=3, metavar=("DATA", "VARIANT", "SEED"), help=argparse.SUPPRESS)
    folders = ("study_ipmix", "study_ipmix_quick")
    options = command.parsed(parser, arguments, folders=folders)
    if options.cifar_only and options.cifar is None:
        parser.error("--cifar-only must be used with --cifar")
    return options


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    found = plans(options)
    jobs = jobs_of(found, options.seeds)
    return command.run_command(
        options,
        lambda: run_one(job_of(jobs, options.one), options),
        lambda: command.run_missing(__file__, jobs, read_result, options),
        lambda: save_study(collect(found, options), options.results),
    )


if __name__ == "__main__":
    sys.exit(main())
