"""Table 8 of the IPMix paper again, at CPU scale: IPMix with each source of pictures, and with pictures of nothing.

    python benchmarks/study_mixing_sets.py --cifar FOLDER

trains every variant with every seed, measures each (clean error, corruptions, calibration), and writes
``docs/results/study_mixing_sets.md``, ``.json`` and ``.png``. Each run is a process of its own with one thread, as many
at a time as there are cores, in its own folder; finished ones are skipped and stopped ones resumed, so the same command
goes on after an interruption. ``--report-only`` writes the page from what is finished and says what is missing.

    --cifar-only            just CIFAR-10, without the images in the package
    --quick                 a handful of images, to see that it works

Equal for all variants of a data set: first weights (per seed), optimiser, schedule, number of optimiser steps, crops
and flips, training images, evaluated images, corruptions. Every set has 512 pictures of 256 px; all five together have
512 of each.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from study_command import changed_arguments, locked, parsed, runs_to_do, save_page
from study_ipmix import DataPlan, Job, jobs_of
from study_mixing_sets_figure import draw
from study_mixing_sets_page import page, summary
from study_mixing_sets_plan import CONTROLS, KEY, SOURCES, plans
from study_mixing_sets_run import read_result, run_one
from study_page import DataResults, Row, Study
from study_runs import Clock, run_all, say


def run_missing(jobs: list[Job], options: argparse.Namespace) -> None:
    """Runs what is not finished and has ``--only`` in its name."""
    todo, known = runs_to_do(jobs, read_result, options)
    run_all(
        todo,
        lambda job: [sys.executable, __file__, *options.typed, "--one", job.plan.key, job.variant, str(job.seed)],
        options.out,
        Clock(todo, known, options.jobs),
        options.threads,
    )


def collect(found: list[DataPlan], options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study.

    Raises:
        ValueError: a result in the folder was made with other settings, or runs differ in their steps or pictures.
    """
    jobs = jobs_of(found, options)
    done = {job: row for job in jobs if (row := read_result(job, options)) is not None}
    data = {}
    for plan in found:
        rows: dict[str, dict[int, Row]] = {}
        for job, row in done.items():
            if job.plan is plan:
                rows.setdefault(job.variant, {})[job.seed] = row
        steps = {row["steps"] for seeds in rows.values() for row in seeds.values()}
        if len(steps) > 1:
            raise ValueError(f"the runs on {plan.label} must have equal optimiser steps, got {sorted(steps)}")
        if rows:
            ordered = {name: rows[name] for name in plan.variants if name in rows}
            data[plan.key] = DataResults(plan.label, plan.epochs, tuple(SOURCES), CONTROLS, ordered)
    for variant in dict.fromkeys(job.variant for job in done):
        pictures = {(row["pictures"] or {}).get("sha256") for job, row in done.items() if job.variant == variant}
        if len(pictures) > 1:
            raise ValueError(f"the runs of {variant} must have mixed in the same pictures, got {len(pictures)} sets")
    return Study(
        data=data,
        command=shlex.join(["python", f"benchmarks/{KEY}.py", *shown_arguments(options)]),
        planned=len(jobs),
        missing=[job.name for job in jobs if job not in done],
        conditions=f"{options.jobs} processes at a time, threads of each: {options.threads}; precision of the forward "
        f"pass in training: {options.amp}, in the evaluation float32.{f' {options.remark}' if options.remark else ''}",
        seeds=options.seeds,
    )


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    arguments = [] if options.cifar is None else ["--cifar", "CIFAR10_FOLDER"]
    arguments += ["--cifar-only"] * options.cifar_only
    return arguments + changed_arguments(options, {"epochs": None, "limit": None, "images": None})


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as a tree of pictures: train/CLASS and test/CLASS")
    parser.add_argument("--cifar-only", action="store_true", help="leave the images in the package out")
    parser.add_argument("--out", type=Path, help="folder of the runs (default runs)")
    parser.add_argument("--results", type=Path, help="folder of the page (default docs/results)")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default 12)")
    parser.add_argument("--limit", type=int, help="training images (default 5,000, a tenth of them for validation)")
    parser.add_argument("--images", type=int, help="test images that are corrupted (default 1,000)")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run (default 1)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: the cores over --threads)")
    parser.add_argument("--amp", default="bf16", choices=("off", "bf16"), help="precision in training (default bf16)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="just runs with this in their name: study_mixing_sets/spectrum-s"
    )
    parser.add_argument("--remark", default="", metavar="TEXT", help="what a reader of the page has to know besides")
    parser.add_argument("--report-only", action="store_true", help="write the page from the finished runs, run nothing")
    parser.add_argument("--quick", action="store_true", help="a handful of images, into runs/quick")
    parser.add_argument("--one", nargs=3, metavar=("DATA", "VARIANT", "SEED"), help=argparse.SUPPRESS)
    parser.set_defaults(gpu=False, eps=None)  # what the other studies have and this one has not
    options = parsed(parser, arguments, ("epochs", "limit", "images", "seeds", "threads", "jobs"))
    if options.cifar_only and options.cifar is None:
        parser.error("--cifar-only must be used with --cifar")
    return options


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    found = plans(options)
    jobs = jobs_of(found, options)
    if options.one:
        (job,) = (job for job in jobs if [job.plan.key, job.variant, str(job.seed)] == options.one)
        # Of a study in the background, where the shell has it ignored, and Ctrl-C is how this process is stopped.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with locked(job, options) as folder:
            return run_one(job, folder, options)
    if not options.report_only:
        try:
            run_missing(jobs, options)
        except KeyboardInterrupt:
            say("Stopped; the same command goes on.")
            return 130
    study = collect(found, options)
    say(save_page(options.results, KEY, page(study), summary(study), lambda path: draw(study, path)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
