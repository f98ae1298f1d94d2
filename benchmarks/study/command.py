"""What the commands of the studies share: options and their checks, the runs that are missing, the page's files."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from study.measured import Row
from study.plan import DataPlan, Job
from study.runs import Clock, run_all, say, write_text
from study.tables import DataResults, Study

ROOT = Path(__file__).resolve().parents[2]


def add_shared_options(parser: argparse.ArgumentParser, *, eps: str, epochs: str, only: str) -> None:
    """Adds the options of data, sizes and runs.

    Args:
        parser: of the command.
        eps: what the radius is of, with its default.
        epochs: the default of the epochs.
        only: a piece of a run's name, as an example.
    """
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as a tree of pictures: train/CLASS and test/CLASS")
    parser.add_argument("--gpu", action="store_true", help="run on the GPU, with more images in the evaluation")
    parser.add_argument("--out", type=Path, help="folder of the runs (default runs)")
    parser.add_argument("--results", type=Path, help="folder of the page (default docs/results)")
    parser.add_argument("--eps", type=float, help=f"radius of {eps}")
    parser.add_argument("--epochs", type=int, help=f"passes over the training images ({epochs})")
    parser.add_argument("--limit", type=int, help="training images (default 3,000; CIFAR-10 45,000)")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ... (default 3; on a GPU 1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run (default 1)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: the cores over --threads; on a GPU 1)")
    parser.add_argument("--amp", default="bf16", choices=("off", "bf16"), help="precision in training (default bf16)")
    parser.add_argument("--only", default="", metavar="TEXT", help=f"just runs with this in their name: {only}")
    parser.add_argument("--report-only", action="store_true", help="write the page from the finished runs, run nothing")
    parser.add_argument("--quick", action="store_true", help="a handful of images, into runs/quick")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SEED"), help=argparse.SUPPRESS)


def parsed(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    *counts: str,
    folders: tuple[str, str] = ("", "quick"),
) -> argparse.Namespace:
    """The checked options, with what was left open decided.

    Args:
        parser: with the shared options, or some of them.
        arguments: of the command line; None for those of this process.
        counts: further options that are numbers of at least 1.
        folders: of the runs below ``runs``, and of those of ``--quick``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser.set_defaults(gpu=False, eps=None)  # of a study that has not these options
    options = parser.parse_args(arguments)
    for name in ("epochs", "limit", "seeds", "threads", "jobs", *counts):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if options.eps is not None and not 0 < options.eps <= 1:
        parser.error(f"--eps must be above 0 and at most 1, got {options.eps}")
    options.typed = arguments
    options.seeds = options.seeds or (1 if options.gpu else 3)
    options.jobs = options.jobs or (1 if options.gpu else max((os.cpu_count() or 1) // options.threads, 1))
    options.out = (options.out or ROOT / "runs" / folders[options.quick]).absolute()
    # A quick run says nothing about the methods: its page stays with its runs.
    options.results = options.results or (options.out if options.quick else ROOT / "docs" / "results")
    return options


def shown_arguments(options: argparse.Namespace, defaults: Mapping[str, Any], *more: str) -> list[str]:
    """The arguments that decide the result, as they are typed, without this machine's paths.

    Args:
        options: of the command.
        defaults: of the options that decide the result; those of seeds, threads and precision are known here.
        more: arguments that come before these.
    """
    arguments = [] if options.cifar is None else ["--cifar", "CIFAR10_FOLDER"]
    arguments += ["--gpu"] * options.gpu
    arguments += more
    for name, default in {**defaults, "seeds": 1 if options.gpu else 3, "threads": 1, "amp": "bf16"}.items():
        if getattr(options, name) != default:
            arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return [*arguments, "--quick"] if options.quick else arguments


@contextmanager
def locked(job: Job, options: argparse.Namespace) -> Iterator[Path]:
    """The folder of a run, for this process alone, which then has the run's threads.

    Raises:
        filelock.Timeout: another process is at this run.
    """
    from filelock import FileLock

    torch.set_num_threads(options.threads)
    folder = options.out / job.name
    folder.mkdir(parents=True, exist_ok=True)
    # A run outlives a killed parent: a second one in its folder would spoil both.
    with FileLock(folder / ".study.lock", timeout=0):
        yield folder


def runs_to_do(
    jobs: Sequence[Job], read: Callable[[Job, argparse.Namespace], Row | None], options: argparse.Namespace
) -> tuple[list[Job], dict[tuple[str, str], list[float]]]:
    """What is not finished and has ``--only`` in its name, and the seconds of what is, by group; says how many.

    From here on a time limit stops the study as cleanly as Ctrl-C.

    Args:
        jobs: all planned runs.
        read: gives the result of a run, None where there is none.
        options: of the command.

    Raises:
        ValueError: ``--gpu`` without a GPU.
    """
    if options.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu needs a GPU that this torch can use, and there is none")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    done = {job: row for job in jobs if (row := read(job, options)) is not None}
    known: dict[tuple[str, str], list[float]] = {}
    for job, row in done.items():
        known.setdefault(job.group, []).append(row["seconds"]["all"])
    todo = [job for job in jobs if job not in done and options.only in job.name]
    say(f"{len(todo)} of {len(jobs)} runs to do, {options.jobs} at a time, in {options.out}")
    return todo, known


def run_missing(
    script: str, jobs: Sequence[Job], read: Callable[[Job, argparse.Namespace], Row | None], options: argparse.Namespace
) -> None:
    """Runs what is not finished and has ``--only`` in its name; the arguments are those of the two that it calls."""
    todo, known = runs_to_do(jobs, read, options)
    run_jobs(script, todo, options, known)


def run_jobs(
    script: str,
    todo: Sequence[Job],
    options: argparse.Namespace,
    known: Mapping[tuple[str, str], Sequence[float]],
    words: Callable[[Job], Sequence[str]] = lambda job: job.words,
) -> None:
    """Runs each in a process of its own: the study's file again, with what was typed and ``--one``.

    Args:
        script: file of the study.
        todo: the runs in their order.
        options: of the command.
        known: seconds of finished runs by group.
        words: of ``--one`` for a run.
    """
    run_all(
        todo,
        lambda job: [sys.executable, script, *options.typed, "--one", *words(job)],
        options.out,
        Clock(todo, known, options.jobs),
        options.threads,
    )


def run_command(
    options: argparse.Namespace, one: Callable[[], int], missing: Callable[[], None], write: Callable[[], str]
) -> int:
    """What the command of a study does; its exit status.

    Args:
        options: of the command.
        one: the run that ``--one`` names, in this process.
        missing: the runs that are not finished.
        write: writes the page from what is finished, and gives it.
    """
    if options.one:
        # Of a study in the background, where the shell has it ignored, and Ctrl-C is how this process is stopped.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return one()
    if not options.report_only:
        try:
            missing()
        except KeyboardInterrupt:
            say("Stopped; the same command goes on.")
            return 130
    say(write())
    return 0


def study_of(
    plans: Sequence[DataPlan],
    found: Sequence[tuple[Job, Row | None]],
    options: argparse.Namespace,
    words: Sequence[str],
    *,
    equal_steps: bool = True,
    precision: str = ", in the evaluation float32",
) -> Study:
    """The finished runs, checked to be of one and the same study.

    Args:
        plans: of the page's data sets.
        found: all planned runs with their results, None where there is none yet.
        options: of the command.
        words: of the command as it is shown.
        equal_steps: whether all of a data set must have made the same number of optimiser steps.
        precision: of the evaluation, in words.

    Raises:
        ValueError: no run is finished, or the runs on a data set differ in their steps.
    """
    data = {}
    for plan in plans:
        rows: dict[str, dict[int, Row]] = {}
        for job, row in found:
            if row is not None and job.plan is plan:
                rows.setdefault(job.variant, {})[job.seed] = row
        steps = {row["steps"] for seeds in rows.values() for row in seeds.values()}
        if len(steps) > 1 and equal_steps:
            raise ValueError(f"the runs on {plan.label} must have equal optimiser steps, got {sorted(steps)}")
        if rows:
            data[plan.key] = DataResults(plan, {name: rows[name] for name in plan.variants if name in rows})
    if not data:
        raise ValueError("the study must have at least one finished run, got none")
    return Study(
        data=data,
        command=shlex.join(words),
        planned=len(found),
        missing=[job.shown for job, row in found if row is None],
        conditions=f"{options.jobs} processes at a time, threads of each: {options.threads}; precision of the forward "
        f"pass in training: {options.amp}{precision}.",
        seeds=options.seeds,
        gpu=options.gpu,
    )


def save_page(folder: Path, stem: str, text: str, summary: Mapping[str, Any], draw: Callable[[Path], None]) -> str:
    """Writes the page's ``.json``, ``.png`` and ``.md``, each whole or not at all; returns the page.

    Args:
        folder: of the pages.
        stem: name of the files.
        text: of the page.
        summary: content of the JSON.
        draw: makes the figure at a path.
    """
    write_text(folder / f"{stem}.json", json.dumps(summary, indent=1) + "\n")
    draw(folder / f"{stem}.png")
    write_text(folder / f"{stem}.md", text)
    return text
