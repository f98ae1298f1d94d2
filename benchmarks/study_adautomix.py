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
import signal
import sys

from study_adautomix_figure import draw
from study_adautomix_page import page, summary
from study_adautomix_plan import MixPlan, jobs_of, plan_of
from study_adautomix_run import run_one
from study_adversarial import read_result
from study_adversarial_tables import Study
from study_command import add_shared_options, changed_arguments, locked, parsed, runs_to_do, save_page, study_of
from study_runs import Clock, run_all, say


def run_missing(plan: MixPlan, options: argparse.Namespace) -> None:
    """Runs what is not finished and has ``--only`` in its name.

    Raises:
        ValueError: ``--gpu`` without a GPU.
    """
    todo, known = runs_to_do(jobs_of(plan, options.seeds), read_result, options)
    run_all(
        todo,
        lambda job: [sys.executable, __file__, *options.typed, "--one", job.variant, str(job.seed)],
        options.out,
        Clock(todo, known, options.jobs),
        options.threads,
    )


def collect(plan: MixPlan, options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study."""
    jobs = jobs_of(plan, options.seeds)
    found = [(job, read_result(job, options)) for job in jobs]
    return study_of(plan, found, options, ["python", "benchmarks/study_adautomix.py", *shown_arguments(options)])


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    arguments = [] if options.cifar is None else ["--cifar", "CIFAR10_FOLDER"]
    arguments += ["--gpu"] * options.gpu
    defaults = {"eps": None, "epochs": None, "limit": None, "momentum": None, "generator_lr": 0.1}
    return arguments + changed_arguments(options, defaults)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--momentum", type=float, help="of the teacher at the start (default 0.99; GPU 0.999)")
    parser.add_argument("--generator-lr", type=float, default=0.1, help="of the generator (default 0.1)")
    add_shared_options(
        parser,
        eps="FGSM in the evaluation (default 8/255)",
        epochs="default 15; CIFAR-10 10, on a GPU 30",
        only="adautomix-s",
    )
    options = parsed(parser, arguments, ("epochs", "limit", "seeds", "threads", "jobs"))
    if options.momentum is not None and not 0 <= options.momentum <= 1:
        parser.error(f"--momentum must be from 0 to 1, got {options.momentum}")
    if not 0 <= options.generator_lr < math.inf:
        parser.error(f"--generator-lr must be at least 0, got {options.generator_lr}")
    return options


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    plan = plan_of(options)
    if options.one:
        (job,) = (job for job in jobs_of(plan, options.seeds) if [job.variant, str(job.seed)] == options.one)
        # Of a study in the background, where the shell has it ignored, and Ctrl-C is how this process is stopped.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with locked(job, options) as folder:
            return run_one(plan, job, folder, "cuda" if options.gpu else "cpu")
    if not options.report_only:
        try:
            run_missing(plan, options)
        except KeyboardInterrupt:
            say("Stopped; the same command goes on.")
            return 130
    study = collect(plan, options)
    say(save_page(options.results, plan.key, page(study), summary(study), lambda path: draw(study, path)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
