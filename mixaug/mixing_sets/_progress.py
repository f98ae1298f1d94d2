"""A progress bar for work that takes seconds: rich where it is installed, else one line on standard error."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sized
from typing import TypeVar

import torch

from mixaug._terminal import quiet, tell

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
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield from _plain(pieces, total, title)
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=quiet(sys.stderr))) as bar:
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
