"""What a training run shows: a live bar in a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from mixaug._terminal import printable, quiet

__all__ = ["Progress", "duration"]


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


class Progress:
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
        >>> with Progress(total_steps=10, done=0, epochs=1, stream=shown) as progress:
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

    def __enter__(self) -> Progress:
        if self.show and self.stream.isatty():
            try:
                from rich.console import Console
                from rich.progress import BarColumn, TextColumn
                from rich.progress import Progress as RichProgress
            except ImportError:
                return self
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                console=Console(file=self.stream),
                transient=True,
            )
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
