"""A progress bar that may be off."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from mixaug.evaluate._optional import optional_import


class Progress:
    """``total`` steps under a title, shown with rich; does nothing if ``shown`` is False.

    Example:
        >>> with Progress(2, "model", shown=False) as bar:
        ...     bar.advance("clean images")
    """

    def __init__(self, total: int, title: str, shown: bool) -> None:
        self._title = title
        self._bar: Any = None
        if shown:
            rich = optional_import("rich.progress")
            self._bar = rich.Progress(
                rich.TextColumn("{task.description}"),
                rich.BarColumn(),
                rich.MofNCompleteColumn(),
                rich.TimeRemainingColumn(),
                transient=True,
            )
            self._task = self._bar.add_task(f"evaluating {title}", total=total)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def advance(self, done: str) -> None:
        """One step further; ``done`` is what was done."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=f"{self._title}: {done}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
