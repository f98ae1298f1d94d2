"""``mixaug mixing-set``: synthetic pictures as PNG files, with a contact sheet."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import TYPE_CHECKING

from mixaug.commands._arguments import names

if TYPE_CHECKING:
    from mixaug.mixing_sets.export import Job

#: `mixaug.mixing_sets.SOURCES`, here without importing torch: the help takes a tenth of a second.
SOURCES = ("fractals", "ifs", "contours", "dead-leaves", "spectrum")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.description = (
        "Make synthetic pictures into a folder, with a contact sheet. Pictures that are there already are kept: a "
        "stopped run goes on where it was, and a larger --count adds to a smaller one."
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help=f"what to make: {', '.join(SOURCES)}")
    add("--count", type=int, default=512, help="number of pictures (default %(default)s)")
    add("--size", type=int, default=256, help="side in pixels (default %(default)s)")
    add("--seed", type=int, default=0, help="the same seed gives the same pictures (default 0)")
    add("--kinds", type=names, metavar="A,B", help="variants of the source, with commas (default: all)")
    add("--out", type=Path, required=True, help="folder for the PNG files, made if it is missing")
    add("--workers", type=int, help="processes (default: one a core where there is enough to do; 1: threads only)")
    add("--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace) -> int:
    """Makes the pictures that are missing, then the contact sheet."""
    from mixaug._terminal import INTERRUPTED

    job = checked(options)
    count, title = job.recipe.count, job.recipe.title
    missing = job.missing()
    left = sum(rows for _, rows in missing)
    started = time.perf_counter()
    try:
        make(job, missing, left, options.workers, False if options.quiet else None)
        job.write_sheet()
    except KeyboardInterrupt:
        there = count - sum(rows for _, rows in job.missing())
        sys.stderr.write(
            f"mixaug mixing-set: interrupted; {there} of {count} pictures are in {job.folder}, the same command "
            "goes on where it was\n"
        )
        return INTERRUPTED
    seconds = time.perf_counter() - started
    made = f"{left} made, {left / seconds:.1f} a second" if left else "all were there"
    kept = f"; {count - left} were there" if 0 < left < count else ""
    sys.stdout.write(f"{title}, in {job.folder} ({made}{kept})\nContact sheet: {job.sheet}\n")
    return 0


def checked(options: argparse.Namespace) -> Job:
    """What is to be made, after all checks.

    Raises:
        ValueError: an option is out of range, unknown, or no folder that can be written into.
    """
    from mixaug._checks import MAX_PICTURES, MAX_SEED, MAX_SIDE, MAX_THREADS, check_int
    from mixaug.mixing_sets.export import Job, check_folder
    from mixaug.mixing_sets.recipes import SyntheticRecipe
    from mixaug.mixing_sets.sources import MIN_SIZE, check_kinds, source_of

    source = source_of(options.source)
    for name, least, most in (("count", 1, MAX_PICTURES), ("size", MIN_SIZE, MAX_SIDE), ("seed", 0, MAX_SEED)):
        check_int(f"--{name}", getattr(options, name), least, most)
    if options.workers is not None:
        check_int("--workers", options.workers, 1, MAX_THREADS)
    kinds: tuple[str, ...] | None = check_kinds(options.kinds, source.kinds)
    if kinds == source.kinds:  # all of them: the pictures are those without the option
        kinds = None
    folder = check_folder("--out", options.out)
    return Job(SyntheticRecipe(source.name, options.count, options.size, options.seed, kinds), folder)


def make(job: Job, missing: list[tuple[int, int]], left: int, workers: int | None, progress: bool | None) -> None:
    """Makes the missing pictures, in processes where that is worth it.

    Args:
        job: what is made.
        missing: runs of pictures.
        left: their number in all.
        workers: processes; None: as many as are worth it.
        progress: shows a bar; None: on a terminal.

    Raises:
        OSError: the disk is full, or a worker died.
    """
    from mixaug.mixing_sets.export import Workers, worker_count
    from mixaug.mixing_sets.threads import with_progress

    if not missing:
        return
    count = worker_count(workers, left, len(missing))

    def shown(pieces: Iterator[Sized]) -> None:
        for _ in with_progress(pieces, left, job.recipe.title, progress):
            pass

    if count == 1:
        shown(job.make_on_threads(missing))
        return
    try:
        with Workers(job, count) as started:
            shown(started.made(missing))
    except ChildProcessError as error:
        raise ChildProcessError(f"{error}; what was made is kept, the same command goes on where it was") from error
