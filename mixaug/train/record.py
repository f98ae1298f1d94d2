"""The written record of a run: its files, settings, CSV and TensorBoard log."""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
import torchvision

from mixaug._files import atomic_path
from mixaug._terminal import printable, progress_bar, quiet
from mixaug.train.activation import CAP_COLUMNS
from mixaug.train.methods.adautomix import MIXING_COLUMNS
from mixaug.train.settings import TrainSettings

__all__ = [
    "COLUMNS",
    "EpochProgress",
    "RunLog",
    "RunResult",
    "StopRequest",
    "duration",
    "write_settings",
]


class StopRequest:
    """While it is entered, the first Ctrl-C or SIGTERM sets ``asked``; the second Ctrl-C interrupts at once.

    Signals belong to the main thread; in any other, nothing is changed and ``asked`` stays False. A handler of SIGTERM
    that the program has set itself stays.

    Example:
        >>> with StopRequest() as stop:
        ...     stop.asked
        False
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            # None: the handler before was not set from Python and cannot be put back by it.
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A second SIGTERM comes from schedulers that are in a hurry: the step that is saved is worth more.
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as short as they can be.

    Example:
        >>> duration(5.2), duration(65), duration(3700)
        ('5s', '1m05s', '1h01m40s')
    """
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours}h{minutes:02d}m{whole % 60:02d}s"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


class EpochProgress:
    """Shows loss, accuracy, images a second and the time left.

    Args:
        total_steps: of the whole run.
        done: steps that an earlier process made.
        epochs: of the whole run.
        show: False shows nothing.
        stream: where to; None: standard error. A live bar where it is a terminal and rich is installed. Nothing more is
            shown once it is closed or full.

    Example:
        >>> import io
        >>> shown = io.StringIO()
        >>> with EpochProgress(total_steps=10, done=0, epochs=1, stream=shown) as progress:
        ...     progress.epoch_end({"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.25, "validation_accuracy": 0.5,
        ...                         "images_per_second": 900.0}, step=10, best=True)
        >>> print(shown.getvalue().strip())
        epoch 1/1  loss 2.000  accuracy 25.0%  validation 50.0% *  900 images/s  0s left
    """

    #: Seconds between two updates of the bar; more often nobody can read, and a GPU would wait.
    INTERVAL = 0.5

    def __init__(
        self, total_steps: int, done: int, epochs: int, show: bool = True, stream: TextIO | None = None
    ) -> None:
        self.total_steps = total_steps
        self.first = done
        self.epochs = epochs
        self.show = show
        self.stream = quiet(stream if stream is not None else sys.stderr)
        self.started = time.perf_counter()
        self.shown = self.started
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> EpochProgress:
        if self.show and self.stream.isatty():
            try:
                from rich.progress import BarColumn, TextColumn
            except ImportError:
                return self
            columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}")
            self._bar = progress_bar(*columns, stream=self.stream)
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total_steps, completed=self.first, text="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def due(self) -> bool:
        """Whether the bar wants new numbers (they cost a wait for the device)."""
        return self._bar is not None and time.perf_counter() - self.shown > self.INTERVAL

    def update(self, step: int, epoch: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Moves the bar.

        Args:
            step: finished steps of the run.
            epoch: number of the epoch, from 1.
            loss: mean of the epoch so far.
            accuracy: share of right answers of the epoch so far, in [0, 1].
            images_per_second: of the run so far.
        """
        self.shown = time.perf_counter()
        if self._bar is None:
            return
        text = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {images_per_second:.0f} images/s  {self._left(step)} left"
        self._bar.update(self._task, completed=step, description=f"epoch {epoch}/{self.epochs}", text=text)

    def epoch_end(self, row: dict[str, float], step: int, best: bool) -> None:
        """Prints the epoch's line.

        Args:
            row: of the log.
            step: finished steps of the run.
            best: whether it is the best epoch so far; marked by a star.
        """
        if not self.show:
            return
        line = f"epoch {row['epoch']:.0f}/{self.epochs}  loss {row['train_loss']:.3f}"
        line += f"  accuracy {row['train_accuracy']:.1%}"
        if "validation_accuracy" in row:
            line += f"  validation {row['validation_accuracy']:.1%}"
            if "validation_pgd_accuracy" in row:
                line += f", FGSM {row['validation_fgsm_accuracy']:.1%}, PGD {row['validation_pgd_accuracy']:.1%}"
            line += " *" if best else ""
        line += f"  {row['images_per_second']:.0f} images/s  {self._left(step)} left"
        self.note(line)

    def note(self, line: str) -> None:
        """Prints a line above the bar."""
        if not self.show:
            return
        line = printable(line)
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()

    def _left(self, step: int) -> str:
        here = step - self.first
        if here <= 0:
            return "?"
        return duration((time.perf_counter() - self.started) / here * (self.total_steps - step))


#: Columns of ``log.csv``; the validation ones are empty where there is no validation part, those from the fourth row on
#: for methods without an adversary. ``seconds`` counts training alone from the start of the run, ``epoch_seconds`` from
#: the start of the epoch. Memory is in MiB: of tensors on a GPU in this epoch's training, of the process so far on a
#: CPU. ``validation_accuracy`` is of the whole validation part; the clean, FGSM and PGD accuracies are all of the same,
#: at most ``robust_images`` of it. ``radius`` and ``alpha`` are those that the epoch was trained with.
#: The caps' columns are of the first validation images, at most 500, after the epoch. The last ones are of adautomix.
COLUMNS = (
    "epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy",
    "images_per_second", "seconds",
    "epoch_seconds", "validation_seconds", "peak_memory",
    "validation_clean_accuracy", "validation_fgsm_accuracy", "validation_pgd_accuracy", "catastrophic_overfitting",
    "radius", "alpha", *CAP_COLUMNS, *MIXING_COLUMNS,
)  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Args:
        folder: of the run.
        last: checkpoint of the last epoch.
        best: checkpoint of the best epoch on the validation part.
        log: the CSV log, a row an epoch.
        history: the rows of the log.
        interrupted: Ctrl-C ended the run after a step; it is saved, and ``train(..., resume=True)`` goes on.
    """

    folder: Path
    last: Path
    best: Path
    log: Path
    history: list[dict[str, float]]
    interrupted: bool = False


def write_settings(path: Path, settings: TrainSettings, decided: dict[str, Any]) -> None:
    """Writes the settings, what they were resolved to, and the versions, as JSON.

    Args:
        path: of the file.
        settings: of the run.
        decided: what the settings left open, see :func:`resolved`.

    Example:
        >>> write_settings(Path("settings.json"), TrainSettings(), {"device": "cpu"})
        >>> json.loads(Path("settings.json").read_text())["settings"]["method"]
        'ipmix'
    """
    versions = {
        "python": platform.python_version(),
        "mixaug": version("mixaug"),
        "torch": str(torch.__version__),  # with the build it was made for, which the installed metadata leave out
        "torchvision": str(torchvision.__version__),
    }
    content = {"settings": settings.to_dict(), "resolved": decided, "versions": versions}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class RunLog:
    """Writes ``log.csv`` whole after each epoch, and TensorBoard's events where tensorboard is installed.

    Events that cannot be written, on a full disk, end no run: the log has the same numbers.

    Args:
        folder: of the run.
        step: finished steps; events after it, of a process that was killed, are dropped.
        fresh: a new run: events of an earlier one in the folder are removed.
        active: False writes nothing: of several processes, the others' log.

    Example:
        >>> with RunLog(Path("run"), step=0, fresh=True) as log:
        ...     log.write([{"epoch": 1, "step": 10, "train_loss": 0.5}])
        ''
        >>> Path("run/log.csv").read_text().splitlines()[1]
        '1,10,,0.5,,,,,,,,,,,,,,,,,,,,,,,,,,,,'
    """

    def __init__(self, folder: Path, step: int, fresh: bool, active: bool = True) -> None:
        self.folder = folder
        self._events = folder / "tensorboard"
        self._step = step
        self._active = active
        self._writer: Any = None
        #: What the user should know of the log; empty when all is as usual.
        self.notice = ""
        if fresh and active:
            shutil.rmtree(self._events, ignore_errors=True)

    def __enter__(self) -> RunLog:
        if not self._active:
            return self
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            self.notice = "tensorboard is not installed (pip install 'mixaug[train]'): log.csv has the same numbers"
            return self
        self.notice = self._add()
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def write(self, history: list[dict[str, float]]) -> str:
        """Adds the last row.

        Args:
            history: all rows so far.

        Returns:
            a line that the user should see; empty for nothing.
        """
        if not self._active:
            return ""
        with atomic_path(self.folder / "log.csv") as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(history)
        return self._add(history[-1])

    def _add(self, row: dict[str, float] | None = None) -> str:
        """Adds a row's events, the first ones of the file without a row; says if it cannot, and never tries again."""
        if row is not None and self._writer is None:
            return ""
        # Not torch's SummaryWriter: its thread prints a traceback when the disk is full.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import scalar

        if row is not None:
            step = int(row["step"])
            events = [Event(summary=scalar(name, row[name]), step=step) for name in COLUMNS[2:] if name in row]
        else:
            events = [Event(file_version="brain.Event:2", step=self._step + 1 if self._step else 0)]
        if row is None and self._step:  # TensorBoard drops what comes after it
            events.append(Event(step=self._step + 1, session_log=SessionLog(status=SessionLog.START)))
        try:
            if self._writer is None:
                self._events.mkdir(parents=True, exist_ok=True)
                name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
                self._writer = RecordWriter((self._events / name).open("wb"))
            for event in events:
                event.wall_time = time.time()
                self._writer.write(event.SerializeToString())
            self._writer.flush()
        except OSError as error:
            self._close()
            return f"TensorBoard's events cannot be written ({error.strerror}): log.csv has the same numbers"
        return ""

    def _close(self) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
            self._writer = None
