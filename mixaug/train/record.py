"""The written record of a run: its files, settings, CSV and TensorBoard log."""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torchvision

from mixaug._files import atomic_path
from mixaug.train.activation import CAP_COLUMNS
from mixaug.train.automix import MIXING_COLUMNS
from mixaug.train.settings import TrainSettings

if TYPE_CHECKING:
    from mixaug.train.run import Run

__all__ = ["COLUMNS", "RunLog", "RunResult", "resolved", "write_settings"]

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


def resolved(run: Run) -> dict[str, Any]:
    """What the settings left open, for ``settings.json``.

    Args:
        run: the run.
    """
    return {
        "device": str(run.device),
        "threads": torch.get_num_threads(),
        "processes": run.processes.count,
        "padding": run.padding,
        "flip": run.settings.flips,
        "batch_size": run.batch_size,
        "steps": run.total_steps,
        "epochs": run.epochs,
        "images": run.counts,
        "classes": list(run.data.classes),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "adversary": None if run.adversary is None else asdict(run.adversary),
    }


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
