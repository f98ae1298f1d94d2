"""A progress bar that may be off."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from mixaug._checks import optional_import
from mixaug._terminal import printable, quiet


class Progress:
    """Work of a known amount under a title, shown with rich on standard error: what is being done, and the time left.

    Nothing is written if ``shown`` is False, or where standard error is no terminal.

    Args:
        total: all the work, in any unit, such as steps or images that pass a model.
        title: what the work is on.
        shown: whether to show it.

    Example:
        >>> with Progress(2, "model", shown=False) as bar:
        ...     bar.advance("clean images")
        >>> bar.done
        1.0
    """

    def __init__(self, total: float, title: str, shown: bool) -> None:
        self.total = total
        self.done = 0.0
        self._title = printable(title)
        self._worked = 0.0
        self._start = time.perf_counter()
        self._bar: Any = None
        if shown:
            rich = optional_import("rich.progress")
            console = optional_import("rich.console").Console(file=quiet(sys.stderr))
            self._bar = rich.Progress(
                rich.TextColumn("{task.description}", markup=False),
                rich.BarColumn(bar_width=24),
                rich.TaskProgressColumn(),
                rich.TimeElapsedColumn(),
                rich.TextColumn("{task.fields[left]}"),
                console=console,
                transient=True,
                disable=not (console.is_terminal or console.is_jupyter),
            )
            self._task = self._bar.add_task(f"evaluating {self._title}", total=total, left="")

    def __enter__(self) -> Progress:
        self._start = time.perf_counter()
        if self._bar is not None:
            self._bar.start()
        return self

    def doing(self, what: str) -> None:
        """Says what is being done."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self._title}: {what}")

    def advance(self, done: str, by: float = 1.0, found: bool = False) -> None:
        """Goes on.

        Args:
            done: what was done.
            by: how much of the total.
            found: whether it was there from an earlier call: it says nothing about how long the rest takes.
        """
        self.done += by
        self._worked += 0.0 if found else by
        if self._bar is not None:
            left = time_left(time.perf_counter() - self._start, self._worked, self.total - self.done)
            self._bar.update(self._task, advance=by, description=f"{self._title}: {done}", left=left)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def time_left(seconds: float, done: float, left: float) -> str:
    """How long the rest takes at the speed so far, in words; nothing before the first work is done.

    Example:
        >>> time_left(60, 1, 2), time_left(1, 1, 30), time_left(3600, 1, 2.5), time_left(1, 0, 3)
        ('about 2 min left', 'about 30 s left', 'about 2 h 30 min left', '')
    """
    if done <= 0:
        return ""
    rest = round(seconds * max(left, 0.0) / done)
    if rest < 100:
        return f"about {rest} s left"
    hours, minutes = divmod(round(rest / 60), 60)
    return f"about {hours} h {minutes} min left" if hours else f"about {minutes} min left"
