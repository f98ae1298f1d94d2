"""Processes that make the pictures of a job, each on one core.

They are plain subprocesses and not those of `multiprocessing`: nothing of the caller's main module is imported, and a
worker whose caller was killed ends by itself, as its standard input does.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from mixaug.mixing_sets._making import Job
from mixaug.mixing_sets._recipes import SyntheticRecipe
from mixaug.mixing_sets._saving import write_file

_GRACE = 2.0  # seconds that a worker has to remove the file it is writing
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from mixaug.mixing_sets._workers import work; work()"
)
_KINDS: dict[str, type[Exception]] = {"ValueError": ValueError, "TypeError": TypeError, "ImportError": ImportError}
_MOST = 16  # processes that are started without being asked for: each has 0.35 GB of its own
_ENOUGH = 64  # pictures that are worth the two seconds in which a process starts


def worker_count(asked: int | None, pictures: int, runs: int) -> int:
    """Processes for a number of pictures: as asked, at most one a run; None: a core each, where it is worth it."""
    if asked is not None:
        return max(1, min(asked, runs))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _MOST, pictures // _ENOUGH))


class Workers:
    """Processes for one job; leaving the block ends them.

    Args:
        job: what they make.
        count: how many, at least 1.
    """

    def __init__(self, job: Job, count: int) -> None:
        self.job = job
        self.count = count
        self.processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Workers:
        job = json.dumps({**asdict(self.job.recipe), "folder": str(self.job.folder)})
        command = [sys.executable, "-P", "-c", _PROGRAM, json.dumps([os.path.abspath(path) for path in sys.path]), job]
        try:
            for _ in range(self.count):
                # A session of its own: Ctrl-C in the terminal reaches this process only, which then ends the workers.
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
                )
                self.processes.append(process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def _end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:  # each has seen its worker end
            thread.join()
        for process in self.processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what a dead worker has not read
                        pipe.close()

    def made(self, runs: list[tuple[int, int]]) -> Iterator[range]:
        """Has the runs made.

        Args:
            runs: first picture and number of each.

        Returns:
            An iterator of the pictures whose files are whole, run by run as they come.

        Raises:
            ValueError, TypeError, ImportError, OSError: as in a worker.
            ChildProcessError: a worker died.
        """
        first, rows = runs[0]
        # One picture first: its worker compiles the kernels, where they are not on the disk yet, for all others.
        ahead = [(first, 1), *([(first + 1, rows - 1)] if rows > 1 else []), *runs[1:]]
        tasks: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for run in ahead:
            tasks.put(run)
        answers: queue.SimpleQueue[range | Exception] = queue.SimpleQueue()
        compiled = threading.Event()

        def serve(process: subprocess.Popen[str], leads: bool) -> None:
            try:
                while leads or compiled.wait():
                    run = tasks.get_nowait()
                    answers.put(_ask(process, *run))
                    compiled.set()
            except queue.Empty:
                pass
            except Exception as error:
                answers.put(error)
            finally:
                compiled.set()

        for number, process in enumerate(self.processes):
            thread = threading.Thread(target=serve, args=(process, number == 0), daemon=True)
            self._threads.append(thread)
            thread.start()
        for _ in ahead:
            answer = answers.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer


def _ask(process: subprocess.Popen[str], first: int, rows: int) -> range:
    """Sends a run to a worker and waits for it."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a worker must be started with pipes")
    try:
        process.stdin.write(f"{first} {rows}\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:  # the pipe is closed: the worker has died
        line = ""
    if not line:
        raise ChildProcessError(_how_it_died(process))
    answer: dict[str, Any] = json.loads(line)
    if "error" not in answer:
        return range(first, first + rows)
    if answer["error"] in _KINDS:
        raise _KINDS[answer["error"]](answer["text"])
    raise OSError(answer["errno"], answer["text"])


def _how_it_died(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    if code >= 0:
        return f"worker process {process.pid} ended with exit status {code}"
    memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"worker process {process.pid} was ended by {signal.Signals(-code).name}{memory}"


# --- in the worker -----------------------------------------------------------------------------------------------


def work() -> None:
    """Answers each line of standard input, a run, with a line of standard output; ends with the input."""
    signal.signal(signal.SIGTERM, _stop)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints does not reach the caller as an answer
    import torch

    torch.set_num_threads(1)
    settings = json.loads(sys.argv[2])
    folder, kinds = Path(settings.pop("folder")), settings.pop("kinds")
    job = Job(SyntheticRecipe(**settings, kinds=None if kinds is None else tuple(kinds)), folder)
    for line in sys.stdin:
        first, rows = (int(word) for word in line.split())
        answer: dict[str, Any] = {}
        try:
            job.make(first, rows, _write_undisturbed)
        except (ValueError, TypeError, ImportError, OSError) as error:
            name = type(error).__name__
            answer = {
                "error": name if name in _KINDS else "OSError",
                "text": getattr(error, "strerror", None) or str(error),
                "errno": getattr(error, "errno", None),
            }
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def _write_undisturbed(path: Path, content: bytes) -> None:
    """Writes a file while SIGTERM waits: the exit that it raises, one time in twenty, left a temporary file behind."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        write_file(path, content)
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        write_file(path, content)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
