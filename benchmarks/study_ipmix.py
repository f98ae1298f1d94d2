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
import json
import os
import platform
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from study_figure import draw
from study_page import FIGURES, DataResults, Row, Study, page, summary
from study_runs import Clock, run_all, say

from mixaug._files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
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


@dataclass(frozen=True, eq=False)  # the same object is the same plan: hashable with its dict of variants
class DataPlan:
    """What is done on one data set.

    Args:
        key: its folder's name.
        label: its name on the page.
        data: its name for ``load_data``.
        limit: training images, None: all.
        epochs: passes over them.
        images: test images that are corrupted and attacked.
        variants: settings by name.
    """

    key: str
    label: str
    data: str
    limit: int | None
    epochs: int
    images: int
    variants: dict[str, dict[str, Any]]


class Job(NamedTuple):
    """One run: a variant trained and measured on a data set with a seed."""

    plan: DataPlan
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run below ``--out``: ``embedded/ipmix-jsd-s0``."""
        words = self.variant.lower().replace("+", " ").split()
        return "/".join([self.plan.key, "-".join([*words, f"s{self.seed}"])])

    @property
    def group(self) -> tuple[str, str]:
        """What runs that take the same time have in common."""
        return self.plan.key, self.variant


def plans(options: argparse.Namespace) -> list[DataPlan]:
    """The data sets of this call, with sizes that keep the whole at about 40 minutes on two cores."""
    epochs = options.epochs or (1 if options.quick else 12)
    small = 256 if options.quick else None
    images = 20 if options.quick else 500
    embedded = DataPlan(
        "embedded", "Fashion-MNIST, the subset in the package", "embedded",
        options.limit or small, epochs, images, {**METHODS, **ABLATION},
    )  # fmt: skip
    found = [] if options.cifar_only else [embedded]
    if options.cifar is not None:
        found.append(
            DataPlan(
                "cifar10-jpeg", "CIFAR-10 (JPEG copy)", f"folder:{options.cifar.expanduser().resolve()}",
                options.limit or small or 5_000, epochs, images, METHODS,
            )
        )  # fmt: skip
    return found


def jobs_of(found: list[DataPlan], options: argparse.Namespace) -> list[Job]:
    """All planned runs, the first seed of every variant first: what is finished early can be compared."""
    return [Job(plan, name, seed) for seed in range(options.seeds) for plan in found for name in plan.variants]


def read_result(job: Job, options: argparse.Namespace) -> Row | None:
    """The result of a run; None when it is not finished (or was measured before a figure was added).

    Raises:
        ValueError: the result was made with other settings.
    """
    path = options.out / job.name / "result.json"
    if not path.exists():
        return None
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    kept, plan = row["settings"], job.plan
    if (kept["epochs"], kept["limit"], kept["amp"]) != (plan.epochs, plan.limit, options.amp):
        raise ValueError(f"{path} was made with other sizes; choose another --out or remove it")
    return row if set(FIGURES) <= set(row["figures"]) else None


def run_one(job: Job, options: argparse.Namespace) -> int:
    """Trains and measures one variant with one seed, in this process; 130 when Ctrl-C ended it.

    Raises:
        filelock.Timeout: another process is at this run.
    """
    import torch
    from filelock import FileLock

    torch.set_num_threads(options.threads)
    folder = options.out / job.name
    folder.mkdir(parents=True, exist_ok=True)
    # A run outlives a killed parent: a second one in its folder would spoil both.
    with FileLock(folder / ".study.lock", timeout=0):
        return _train_and_measure(job, folder, options)


def _train_and_measure(job: Job, folder: Path, options: argparse.Namespace) -> int:
    import torch

    from mixaug.attacks import PGD
    from mixaug.evaluate import evaluate_model
    from mixaug.train.checkpoint import load_checkpoint
    from mixaug.train.data import load_data
    from mixaug.train.loop import train
    from mixaug.train.settings import TrainSettings

    plan = job.plan
    settings = TrainSettings(
        data=plan.data,
        limit=plan.limit,
        epochs=plan.epochs,
        amp=options.amp,
        seed=job.seed,
        device="cpu",
        out=str(folder),
        **plan.variants[job.variant],
    )
    started = time.perf_counter()
    data = load_data(plan.data, limit=plan.limit)
    trained = train(settings, data, resume=(folder / "last.pt").exists(), progress=True)
    if trained.interrupted:
        return 130
    measuring = time.perf_counter()
    model, info = load_checkpoint(trained.last)
    # The radii of this package's robustness tables and of the IPMix paper; one seed, so that all models meet one start.
    radii = {"pgd_8": (8 / 255, 2 / 255), "pgd_2": (2 / 255, 0.5 / 255)}
    attacks = {
        name: PGD(eps=eps, step_size=step, steps=20, generator=torch.Generator().manual_seed(0))
        for name, (eps, step) in radii.items()
    }
    report = evaluate_model(
        model,
        data.test,
        attacks=attacks,
        audit=False,
        n_corruption=plan.images,
        n_attack=plan.images,
        name=job.variant,
        classes=data.classes,
    )
    best_model, best = load_checkpoint(trained.best)
    best_report = evaluate_model(best_model, data.test, attacks=None, corruptions=None, audit=False, name=job.variant)
    if report.mce is None:
        raise RuntimeError("the evaluation measured no corruption")
    estimates = {
        "clean": report.clean_error,
        "clean_best": best_report.clean_error,
        "mce": report.mce,
        "rms": report.rms,
        "ece": report.ece,
        **{name: report.attacks[name].error for name in radii},
    }
    seconds = {"training": trained.history[-1]["seconds"], "measuring": time.perf_counter() - measuring}
    result = {
        "variant": job.variant,
        "data": plan.key,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "figures": {name: {"value": e.value, "low": e.low, "high": e.high, "n": e.n} for name, e in estimates.items()},
        "corruptions": {name: estimate.value for name, estimate in report.corruption_means.items()},
        "best_epoch": best["epoch"],
        "steps": info["step"],
        "training_images": json.loads((folder / "settings.json").read_text())["resolved"]["images"]["train"],
        "history": trained.history,
        # A resumed run's clock began anew: what it trained before is in its log.
        "seconds": {**seconds, "all": max(time.perf_counter() - started, sum(seconds.values()))},
        "environment": report.environment,
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return 0


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def run_missing(jobs: list[Job], options: argparse.Namespace) -> None:
    """Runs what is not finished and has ``--only`` in its name."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit stops it as cleanly as Ctrl-C
    done = {job: row for job in jobs if (row := read_result(job, options)) is not None}
    known: dict[tuple[str, str], list[float]] = {}
    for job, row in done.items():
        known.setdefault(job.group, []).append(row["seconds"]["all"])
    todo = [job for job in jobs if job not in done and options.only in job.name]
    say(f"{len(todo)} of {len(jobs)} runs to do, {options.jobs} at a time, in {options.out}")

    def command(job: Job) -> list[str]:
        return [sys.executable, __file__, *options.typed, "--one", job.plan.key, job.variant, str(job.seed)]

    run_all(todo, command, options.out, Clock(todo, known, options.jobs), options.threads)


def save(study: Study, folder: Path) -> str:
    """Writes ``study_ipmix.json``, ``.png`` and ``.md``, each whole or not at all; returns the page."""
    text = page(study)
    write_text(folder / "study_ipmix.json", json.dumps(summary(study), indent=1) + "\n")
    draw(study, folder / "study_ipmix.png")
    write_text(folder / "study_ipmix.md", text)
    return text


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def collect(found: list[DataPlan], options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study.

    Raises:
        ValueError: a result in the folder was made with other settings, or runs of one data set differ in their steps.
    """
    jobs = jobs_of(found, options)
    done = {job: row for job in jobs if (row := read_result(job, options)) is not None}
    data = {}
    for plan in found:
        rows: dict[str, dict[int, Row]] = {}
        for name in plan.variants:
            seeds = {job.seed: row for job, row in done.items() if job.plan is plan and job.variant == name}
            if seeds:
                rows[name] = seeds
        steps = {row["steps"] for seeds in rows.values() for row in seeds.values()}
        if len(steps) > 1:
            raise ValueError(f"the runs on {plan.label} must have equal optimiser steps, got {sorted(steps)}")
        if rows:
            methods = tuple(name for name in plan.variants if name in METHODS)
            ablation = tuple(name for name in plan.variants if name in ABLATION)
            data[plan.key] = DataResults(plan.label, plan.epochs, methods, ablation, rows)
    return Study(
        data=data,
        command=shlex.join(["python", "benchmarks/study_ipmix.py", *shown_arguments(options)]),
        planned=len(jobs),
        missing=[job.name for job in jobs if job not in done],
        conditions=f"{options.jobs} processes at a time, threads of each: {options.threads}; precision of the forward "
        f"pass in training: {options.amp}.",
        seeds=options.seeds,
    )


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    arguments = [] if options.cifar is None else ["--cifar", "CIFAR10_FOLDER"]
    arguments += ["--cifar-only"] if options.cifar_only else []
    for name, default in (("epochs", None), ("limit", None), ("seeds", 3), ("threads", 1), ("amp", "bf16")):
        if getattr(options, name) != default:
            arguments += [f"--{name}", str(getattr(options, name))]
    return [*arguments, "--quick"] if options.quick else arguments


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as a tree of pictures: train/CLASS and test/CLASS")
    parser.add_argument("--cifar-only", action="store_true", help="leave the images in the package out")
    parser.add_argument("--out", type=Path, help="folder of the runs (default runs/study_ipmix)")
    parser.add_argument("--results", type=Path, help="folder of the page (default docs/results)")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default 12)")
    parser.add_argument("--limit", type=int, help="training images (default all 5,000, a tenth of them for validation)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run (default 1)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: the cores over --threads)")
    parser.add_argument("--amp", default="bf16", choices=("off", "bf16"), help="precision in training (default bf16)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="just runs with this in their name: embedded/ipmix-s"
    )
    parser.add_argument("--report-only", action="store_true", help="write the page from the finished runs, run nothing")
    parser.add_argument("--quick", action="store_true", help="a handful of images, into runs/study_ipmix_quick")
    parser.add_argument("--one", nargs=3, metavar=("DATA", "VARIANT", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("epochs", "limit", "seeds", "threads", "jobs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if options.cifar_only and options.cifar is None:
        parser.error("--cifar-only must be used with --cifar")
    options.typed = arguments
    options.jobs = options.jobs or max((os.cpu_count() or 1) // options.threads, 1)
    name = "study_ipmix_quick" if options.quick else "study_ipmix"
    options.out = (options.out or ROOT / "runs" / name).absolute()
    # A quick run says nothing about the methods: its page stays with its runs.
    options.results = options.results or (options.out if options.quick else ROOT / "docs" / "results")
    return options


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    found = plans(options)
    jobs = jobs_of(found, options)
    if options.one:
        (job,) = (job for job in jobs if [job.plan.key, job.variant, str(job.seed)] == options.one)
        return run_one(job, options)
    if not options.report_only:
        try:
            run_missing(jobs, options)
        except KeyboardInterrupt:
            say("Stopped; the same command goes on.")
            return 130
    say(save(collect(found, options), options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
