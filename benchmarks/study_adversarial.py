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
import json
import signal
import sys
from pathlib import Path

from study_adversarial_figure import draw
from study_adversarial_page import page, summary
from study_adversarial_plan import ABLATIONS, Job, Plan, jobs_of, plan_of
from study_adversarial_run import attacks_of, run_one, settings_of
from study_adversarial_tables import Study
from study_command import add_shared_options, changed_arguments, locked, parsed, runs_to_do, save_page, study_of
from study_page import Row
from study_runs import Clock, run_all, say

from mixaug.train.settings import TrainSettings


def read_result(job: Job, options: argparse.Namespace) -> Row | None:
    """The result of a run; None when it is not finished.

    Raises:
        ValueError: the result was made with other settings.
    """
    path = options.out / job.name / "result.json"
    if not path.exists():
        return None
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    wanted = settings_of(job, "cpu", path.parent)
    different = wanted.differences(TrainSettings.from_dict(row["settings"]))
    evaluation = job.plan.evaluation()
    different += [name for name, value in evaluation.items() if row["evaluation"].get(name) != value]
    if different:
        raise ValueError(
            f"{path} was made with other settings ({', '.join(different)}); choose another --out or remove it"
        )
    return row


def run_locked(job: Job, options: argparse.Namespace) -> int:
    """One run, in this process.

    Raises:
        filelock.Timeout: another process is at this run.
    """
    with locked(job, options) as folder:
        return run_one(job, folder, "cuda" if options.gpu else "cpu")


def run_missing(jobs: list[Job], options: argparse.Namespace) -> None:
    """Runs what is not finished and has ``--only`` in its name.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed.
        ValueError: ``--gpu`` without a GPU.
    """
    attacks_of(jobs[0].plan)  # what is missing is said now, not after the first training
    todo, known = runs_to_do(jobs, read_result, options)

    def command(job: Job) -> list[str]:
        return [sys.executable, __file__, *options.typed, "--one", job.variant, str(job.seed)]

    run_all(todo, command, options.out, Clock(todo, known, options.jobs), options.threads)


def collect(plan: Plan, options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study.

    Raises:
        ValueError: a result in the folder was made with other settings, or the runs differ in their steps.
    """
    found = [(job, read_result(job, options)) for job in jobs_of(plan, options.seeds)]
    return study_of(plan, found, options, ["python", "benchmarks/study_adversarial.py", *shown_arguments(options)])


def save(study: Study, folder: Path) -> str:
    """Writes the page's ``.json``, ``.png`` and ``.md``, each whole or not at all; returns the page."""
    return save_page(folder, study.plan.key, page(study), summary(study), lambda path: draw(study, path))


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    arguments = [] if options.cifar is None else ["--cifar", "CIFAR10_FOLDER"]
    arguments += ["--gpu"] * options.gpu
    defaults = {"ablation": None, "eps": None, "epochs": None, "steps": None, "limit": None}
    return arguments + changed_arguments(options, defaults)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablation", choices=tuple(ABLATIONS), help="instead of the methods: parts of Dynamic MixCut")
    add_shared_options(
        parser,
        eps="training and evaluation (default 0.1; CIFAR-10 8/255)",
        epochs="default 10; CIFAR-10 30",
        only="dynamic-mixcut",
    )
    parser.add_argument("--steps", type=int, help="optimiser steps in place of epochs")
    return parsed(parser, arguments, ("epochs", "steps", "limit", "seeds", "threads", "jobs"))


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    plan = plan_of(options)
    jobs = jobs_of(plan, options.seeds)
    if options.one:
        (job,) = (job for job in jobs if [job.variant, str(job.seed)] == options.one)
        # Of a study in the background, where the shell has it ignored, and Ctrl-C is how this process is stopped.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return run_locked(job, options)
    if not options.report_only:
        try:
            run_missing(jobs, options)
        except KeyboardInterrupt:
            say("Stopped; the same command goes on.")
            return 130
    say(save(collect(plan, options), options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
