"""The written record of a run: settings, CSV and TensorBoard log."""

from __future__ import annotations

import csv
import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision

from mixaug._files import atomic_path
from mixaug.train.settings import TrainSettings

__all__ = ["COLUMNS", "RunLog", "write_settings"]

#: Columns of ``log.csv``; the validation ones are empty where there is no validation part.
COLUMNS = (
    "epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy",
    "images_per_second", "seconds",
)  # fmt: skip


def write_settings(path: Path, settings: TrainSettings, resolved: dict[str, Any]) -> None:
    """Writes the settings, what they were resolved to, and the versions, as JSON.

    Args:
        path: of the file.
        settings: of the run.
        resolved: what the settings left open.

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
    content = {"settings": settings.to_dict(), "resolved": resolved, "versions": versions}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class RunLog:
    """Writes ``log.csv`` whole after each epoch, and TensorBoard's events where tensorboard is installed.

    Args:
        folder: of the run.
        step: finished steps; events after it, of a process that was killed, are dropped.
        fresh: a new run: events of an earlier one in the folder are removed.

    Example:
        >>> with RunLog(Path("run"), step=0, fresh=True) as log:
        ...     log.write([{"epoch": 1, "step": 10, "train_loss": 0.5}])
        >>> Path("run/log.csv").read_text().splitlines()[1]
        '1,10,,0.5,,,,,'
    """

    def __init__(self, folder: Path, step: int, fresh: bool) -> None:
        self.folder = folder
        self._events = folder / "tensorboard"
        self._step = step
        self._writer: Any = None
        #: What the user should know of the log; empty when all is as usual.
        self.notice = ""
        if fresh:
            shutil.rmtree(self._events, ignore_errors=True)

    def __enter__(self) -> RunLog:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.notice = "tensorboard is not installed (pip install 'mixaug[train]'): log.csv has the same numbers"
            return self
        self._writer = SummaryWriter(str(self._events), purge_step=self._step + 1 if self._step else None)
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, history: list[dict[str, float]]) -> None:
        """Adds the last row.

        Args:
            history: all rows so far.
        """
        with atomic_path(self.folder / "log.csv") as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(history)
        if self._writer is not None:
            row = history[-1]
            for name in COLUMNS[2:]:
                if name in row:
                    self._writer.add_scalar(name, row[name], int(row["step"]))
            self._writer.flush()
