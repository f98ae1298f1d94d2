"""Work on plain threads, and its progress bar."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from mixaug._terminal import progress_bar, quiet, tell

T = TypeVar("T")


def on_threads(work: Callable[[T], None], tasks: Iterable[T], kernel: Any, threads: int | None = None) -> None:
    """Calls ``work`` for each task.

    Args:
        work: calls a compiled kernel; its tasks write to places of their own.
        tasks: its arguments.
        kernel: the compiled kernel; while it has no compiled form, the first task runs alone.
        threads: default torch's number of threads (1 in loader workers).
    """
    left = list(tasks)
    workers = min(torch.get_num_threads() if threads is None else threads, len(left))
    if workers <= 1:
        for task in left:
            work(task)
        return
    if not getattr(kernel, "signatures", True):
        work(left.pop())  # the first call compiles, or loads the compiled code: not in several threads at once
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, left):
            pass


P = TypeVar("P", bound=Sized)


def wanted(progress: bool | None) -> bool:
    """Whether to show a bar: as told, else only on a terminal; never in a loader worker or another child process."""
    if torch.utils.data.get_worker_info() is not None or multiprocessing.parent_process() is not None:
        return False
    return quiet(sys.stderr).isatty() if progress is None else progress


def with_progress(pieces: Iterator[P], total: int, title: str, progress: bool | None) -> Iterator[P]:
    """Passes ``pieces`` on and counts their rows up to ``total``."""
    if not wanted(progress):
        yield from pieces
        return
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    except ImportError:
        yield from _plain(pieces, total, title)
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with progress_bar(*columns, transient=False, anywhere=True) as bar:
        task = bar.add_task(title, total=total)
        for piece in pieces:
            yield piece
            bar.advance(task, len(piece))


def _plain(pieces: Iterator[P], total: int, title: str) -> Iterator[P]:
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        tell(f"\r{title} {done}/{total}")
    tell("\n")
