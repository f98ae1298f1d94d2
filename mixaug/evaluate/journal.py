"""Pieces of an evaluation on disk, so that a killed one goes on, and its progress."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from mixaug._checks import optional_import
from mixaug._files import remove_stale
from mixaug._tensor_files import read_tensors, write_tensors
from mixaug._terminal import printable, progress_bar

__all__ = [
    "Journal",
    "Keep",
    "check_writable",
    "clear_state",
]


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
            self._bar = progress_bar(
                rich.TextColumn("{task.description}", markup=False),
                rich.BarColumn(bar_width=24),
                rich.TaskProgressColumn(),
                rich.TimeElapsedColumn(),
                rich.TextColumn("{task.fields[left]}"),
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


#: Name of a piece and what computes it, to the piece.
Keep = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]
_SUFFIX = ".piece"
_SECONDS = "seconds it took"  # kept beside a piece's own tensors
_NAME = "name of its file"  # so that a file that was renamed is not taken for another piece


class Journal:
    """Keeps each piece of an evaluation in a file of its own, and gives back those that are there.

    A piece is found again only by an evaluation in which all is the same that it depends on. A damaged file is computed
    again. Files are written whole or not at all.

    Args:
        folder: where the files are; None: nothing is kept.
        key: of what all pieces depend on: model, data, seed, versions.
        before: is told the name of each piece that is computed, before that.

    Attributes:
        found: how many pieces were there already.
        spent: seconds that these took when they were computed.

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> Journal(folder, "model").keep("clean", lambda: {"right": torch.tensor([True])})
        {'right': tensor([True])}
        >>> Journal(folder, "model").keep("clean", lambda: {})
        {'right': tensor([True])}
        >>> Journal(folder, "another").keep("clean", lambda: {})
        {}
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, key: str, before: Callable[[str], None] | None = None
    ) -> None:
        self._folder = None if folder is None else Path(folder)
        self._key = key
        self._before = before
        if self._folder is not None:
            remove_stale(self._folder, f"*{_SUFFIX}")
        self.found = 0
        self.spent = 0.0

    def keep(
        self, name: str, compute: Callable[[], dict[str, Tensor]], *depends: object, stored: bool = True
    ) -> dict[str, Tensor]:
        """The piece ``name``, from its file or computed.

        Args:
            name: of the piece.
            compute: makes it, a mapping from names to tensors.
            depends: what it depends on beside the key; tensors by their values, anything else by its ``repr``.
            stored: False computes it always, for what cannot be told apart by its settings.
        """
        if self._folder is None or not stored:
            return self._computed(name, compute)
        path = self._folder / (_digest(self._key, name, *depends) + _SUFFIX)
        piece = _read(path)
        if piece is not None:
            self.found += 1
            self.spent += float(piece.pop(_SECONDS))
            return piece
        start = time.perf_counter()
        piece = self._computed(name, compute)
        seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
        write_tensors(path, piece | {_SECONDS: seconds, _NAME: _name_of(path)})
        return piece

    def keeping(self, *depends: object) -> Keep:
        """:meth:`keep` for pieces that depend on the same."""

        def keep(name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
            return self.keep(name, compute, *depends)

        return keep

    def _computed(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if self._before is not None:
            self._before(name)
        return compute()


def clear_state(folder: str | os.PathLike[str]) -> None:
    """Removes the pieces in a folder, and the folder if nothing else is in it.

    Args:
        folder: the ``state`` of :func:`~mixaug.evaluate.evaluate_model`; one that is not there is none.

    Example:
        >>> clear_state("/nowhere")
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    remove_stale(folder, f"*{_SUFFIX}")
    for path in folder.glob(f"*{_SUFFIX}"):
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def check_writable(argument: str, folder: str | os.PathLike[str]) -> None:
    """Tries to write where a folder is or would be made, before any work is lost; nothing is left there.

    Raises:
        TypeError: no path.
        ValueError: the folder cannot be made, or not be written into.

    Example:
        >>> check_writable("state", "/proc/state")
        Traceback (most recent call last):
        ValueError: state must be a folder that can be written into, got /proc/state (No such file or directory)
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"{argument} must be a path, got {type(folder).__name__}")
    there = Path(folder)
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ValueError(f"{argument} must be a folder that can be written into, got {folder} ({reason})") from error


def _read(path: Path) -> dict[str, Tensor] | None:
    """The piece in a file; None where there is none that is whole."""
    if not path.exists():
        return None
    try:
        piece = read_tensors(path, "piece of an evaluation", f"name{_SUFFIX}")
    except (ValueError, OSError):  # the second where a damaged file names a place outside of itself
        return None
    if not isinstance(piece, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in piece.items()
    ):
        return None
    seconds, name = piece.get(_SECONDS), piece.pop(_NAME, None)
    if seconds is None or seconds.shape != () or not 0 <= float(seconds) < float("inf"):
        return None
    return piece if name is not None and torch.equal(name, _name_of(path)) else None


def _name_of(path: Path) -> Tensor:
    return torch.tensor(list(os.fsencode(path.name)), dtype=torch.uint8)


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            text = f"{part.dtype} {tuple(part.shape)} ".encode() + part.detach().cpu().contiguous().numpy().tobytes()
        else:
            text = repr(part).encode()
        digest.update(hashlib.sha256(text).digest())
    return digest.hexdigest()[:32]
