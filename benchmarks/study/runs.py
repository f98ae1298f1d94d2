"""Runs of a study side by side: processes, a line for each that ends, the time left; and their files."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from mixaug._files import atomic_path


class Run(Hashable, Protocol):
    """What is known of a run here."""

    @property
    def name(self) -> str:
        """Its folder."""

    @property
    def group(self) -> tuple[str, str]:
        """What runs that take the same time have in common."""


AnyRun = TypeVar("AnyRun", bound=Run)


class Clock(Generic[AnyRun]):
    """Time left of the runs that are to do, from the seconds of finished ones.

    Args:
        todo: runs that are not finished.
        known: seconds of finished runs by group.
        at_a_time: processes side by side.
    """

    def __init__(
        self, todo: Sequence[AnyRun], known: Mapping[tuple[str, str], Sequence[float]], at_a_time: int
    ) -> None:
        self.todo = list(todo)
        self.known = {group: list(seconds) for group, seconds in known.items()}
        self.at_a_time = at_a_time
        self.began: dict[AnyRun, float] = {}

    def start(self, run: AnyRun) -> None:
        """A run has begun."""
        self.began[run] = time.perf_counter()

    def finish(self, run: AnyRun, failed: bool = False) -> float:
        """A run has ended; its seconds, which say nothing of others when it failed."""
        seconds = time.perf_counter() - self.began.pop(run)
        self.todo.remove(run)
        if not failed:
            self.known.setdefault(run.group, []).append(seconds)
        return seconds

    def left(self) -> str:
        """``about 12 min left``; runs of whose group none is finished count as the mean of the others."""
        every = [seconds for many in self.known.values() for seconds in many]
        if not self.todo or not every:
            return ""
        now, total = time.perf_counter(), 0.0
        for run in self.todo:
            expected = statistics.mean(self.known.get(run.group, every))
            total += max(expected - (now - self.began.get(run, now)), 0.0)
        return f"about {max(total / self.at_a_time / 60, 1):.0f} min left"


def run_all(
    todo: Sequence[AnyRun], command: Callable[[AnyRun], list[str]], out: Path, clock: Clock[AnyRun], threads: int
) -> None:
    """Runs each in a process of its own, as many at a time as the clock says; their output goes to ``output.txt``.

    Args:
        todo: the runs in their order.
        command: of one run; exit status 0 when it is finished.
        out: folder of the runs' folders.
        clock: of these runs.
        threads: of each process.

    Raises:
        RuntimeError: a run failed; the others are finished first, and its log is named.
        KeyboardInterrupt: the processes were told so, and have ended.
    """
    running: set[subprocess.Popen[bytes]] = set()
    stopping = False

    def start(run: AnyRun) -> str | None:
        if stopping:
            return None
        folder = out / run.name
        folder.mkdir(parents=True, exist_ok=True)
        clock.start(run)
        with (folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                command(run),
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # Ctrl-C reaches a run once, from here; a second one would end it at once
            )
            running.add(process)
            code = process.wait()
            running.discard(process)
        seconds = clock.finish(run, failed=code != 0)
        if code != 0:
            return f"{run.name} ended with code {code}: see {folder / 'output.txt'}"
        say(f"{run.name:44} {seconds:5.0f} s  {clock.left()}")
        return None

    with ThreadPoolExecutor(clock.at_a_time) as pool:
        try:
            failures = [message for message in pool.map(start, todo) if message]
        except KeyboardInterrupt:
            stopping = True
            for process in list(running):  # they save their state and end; the same command goes on with it
                process.send_signal(signal.SIGINT)
            raise
    if failures:
        raise RuntimeError("\n".join(failures))


def say(line: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
