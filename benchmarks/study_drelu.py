"""D-ReLU: what a lambda does to the caps and to the accuracy under each attack, and how much of it is real.

    python benchmarks/study_drelu.py

trains the plain model, the same with a new layer and ReLU before its output layer, and that layer with D-ReLU for five
values of lambda, with every seed; measures each; and writes ``docs/results/study_drelu.md``, ``.json`` and ``.png``.
Each run is a process of its own with one thread, as many at a time as there are cores, in its own folder; finished ones
are skipped and stopped ones resumed, so the same command goes on after an interruption. ``--report-only`` writes the
page from what is finished and says what is missing.

    --lambdas 0.1,1,10      other values of lambda
    --placement stem        a new convolution before the first one (the paper's Fig. 13); last-block, all: other ReLUs
    --recipe paper          Adam, halved on a plateau, stopped early, in place of SGD on a cosine
    --method pgd            with any training method
    --cifar FOLDER --gpu    ResNet-18 on CIFAR-10 in bf16
    --quick                 a handful of images, to see that it works

Each of the last five has a page of its own. Needs the extra ``attacks`` (APGD, Square and AutoAttack).

Equal for all variants: first weights (per seed; of the head, for all that have one), optimiser, schedule, number of
optimiser steps (but with a plateau), crops and flips, images, radius, the evaluation's random starts, and the images
that are transferred from a plain model of the next seed.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from pathlib import Path

from study_adversarial import read_result
from study_adversarial_plan import Job, jobs_of
from study_adversarial_tables import Study
from study_command import add_shared_options, changed_arguments, locked, parsed, runs_to_do, save_page, study_of
from study_drelu_figure import draw
from study_drelu_page import page, summary
from study_drelu_plan import PLACES, DreluPlan, plan_of
from study_drelu_run import attacks_of, read_pairs, run_one, run_source
from study_runs import Clock, run_all, say

from mixaug.train.settings import METHOD_NAMES

SOURCE = "source"  # second word of --one for a plain model whose images are transferred


def run_locked(plan: DreluPlan, name: str, seed: int, options: argparse.Namespace) -> int:
    """One run, in this process.

    Raises:
        filelock.Timeout: another process is at this run.
        RuntimeError: the images that are transferred to it are not made yet.
    """
    device = "cuda" if options.gpu else "cpu"
    job = plan.source(seed - 1) if name == SOURCE else Job(plan, name, seed)
    with locked(job, options) as folder:
        if name == SOURCE:
            return run_source(plan, job, folder, device)
        source = plan.source(seed)
        pairs = read_pairs(plan, options.out / source.name)
        if not pairs:
            raise RuntimeError(f"{source.name} must have its transferred images first: --one {SOURCE} {source.seed}")
        return run_one(plan, job, folder, pairs, device)


def run_missing(plan: DreluPlan, options: argparse.Namespace) -> None:
    """Runs what is not finished and has ``--only`` in its name, after the plain models that it needs.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed.
        ValueError: ``--gpu`` without a GPU.
    """
    attacks_of(plan, {})  # what is missing is said now, not after the first training
    todo, known = runs_to_do(jobs_of(plan, options.seeds), read_result, options)
    sources = list(dict.fromkeys(plan.source(job.seed) for job in todo))
    sources = [job for job in sources if not read_pairs(plan, options.out / job.name)]

    def command(name: str, seed: int) -> list[str]:
        return [sys.executable, __file__, *options.typed, "--one", name, str(seed)]

    run_all(
        sources, lambda job: command(SOURCE, job.seed), options.out, Clock(sources, {}, options.jobs), options.threads
    )
    clock = Clock(todo, known, options.jobs)
    run_all(todo, lambda job: command(job.variant, job.seed), options.out, clock, options.threads)


def collect(plan: DreluPlan, options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study.

    Raises:
        ValueError: a result in the folder was made with other settings, or the runs differ in their steps.
    """
    found = [(job, read_result(job, options)) for job in jobs_of(plan, options.seeds)]
    words = ["python", "benchmarks/study_drelu.py", *shown_arguments(options)]
    # With a plateau a run ends when its loss does not fall.
    return study_of(plan, found, options, words, equal_steps=options.recipe == "sgd")


def save(study: Study, folder: Path) -> str:
    """Writes the page's ``.json``, ``.png`` and ``.md``, each whole or not at all; returns the page."""
    return save_page(folder, study.plan.key, page(study), summary(study), lambda path: draw(study, path))


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    arguments = [] if options.cifar is None else ["--cifar", "CIFAR10_FOLDER"]
    arguments += ["--gpu"] * options.gpu
    if options.lambdas is not None:
        arguments += ["--lambdas", ",".join(f"{lam:g}" for lam in options.lambdas)]
    defaults = {
        "placement": "head", "recipe": "sgd", "method": "standard", "features": None, "drelu_m_lr": None,
        "drelu_init": None, "drelu_quantile": None, "eps": None, "epochs": None, "limit": None,
    }  # fmt: skip
    return arguments + changed_arguments(options, defaults)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lambdas", type=_lambdas, help="values of lambda (default 0.03,0.1,0.3,1,3)")
    parser.add_argument("--placement", default="head", choices=tuple(PLACES), help="of D-ReLU (default head)")
    parser.add_argument("--features", type=int, help="of the new layer (default 256; of a stem 16)")
    parser.add_argument("--recipe", default="sgd", choices=("sgd", "paper"), help="sgd (default): SGD on a cosine")
    parser.add_argument("--method", default="standard", choices=METHOD_NAMES, help="of training (default standard)")
    parser.add_argument("--drelu-m-lr", type=float, help="learning rate of the caps (default: the weights')")
    parser.add_argument("--drelu-init", type=float, help="first value of the caps (default 100, the paper's)")
    parser.add_argument("--drelu-quantile", type=float, help="start at this quantile of the pre-activations instead")
    add_shared_options(
        parser,
        eps="the evaluation (default 0.1; CIFAR-10 the paper's 0.01)",
        epochs="default 20; paper 100",
        only="lambda-3",
    )
    return parsed(parser, arguments, ("features", "epochs", "limit", "seeds", "threads", "jobs"))


def _lambdas(text: str) -> tuple[float, ...]:
    """Numbers with commas between them, in ascending order, each once."""
    values = tuple(sorted({float(part) for part in text.split(",")}))
    if not all(0 <= value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"must be numbers of 0 or more, got {text!r}")
    return values


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    plan = plan_of(options)
    if options.one:
        # Of a study in the background, where the shell has it ignored, and Ctrl-C is how this process is stopped.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return run_locked(plan, options.one[0], int(options.one[1]), options)
    if not options.report_only:
        try:
            run_missing(plan, options)
        except KeyboardInterrupt:
            say("Stopped; the same command goes on.")
            return 130
    say(save(collect(plan, options), options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
