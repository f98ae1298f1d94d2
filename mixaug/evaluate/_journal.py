"""The finished pieces of an evaluation on disk, so that one that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mixaug._files import atomic_path
from mixaug._tensor_files import read_tensors

__all__ = ["Journal", "Keep", "check_writable", "clear_state"]

#: Name of a piece, what computes it, and what it depends on.
Keep = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]
_SUFFIX = ".piece"


class Journal:
    """Keeps each piece of an evaluation in a file of its own, and gives back those that are there.

    A piece is found again only by an evaluation in which all is the same that it depends on. A damaged file is computed
    again. Files are written whole or not at all.

    Args:
        folder: where the files are; None: nothing is kept.
        key: of what all pieces depend on: model, data, seed.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> Journal(folder, "model").keep("clean", lambda: {"right": torch.tensor([True])})
        {'right': tensor([True])}
        >>> Journal(folder, "model").keep("clean", lambda: {})
        {'right': tensor([True])}
        >>> Journal(folder, "another").keep("clean", lambda: {})
        {}
    """

    def __init__(self, folder: str | os.PathLike[str] | None, key: str) -> None:
        self._folder = None if folder is None else Path(folder)
        self._key = key
        self.found = 0  # pieces that were there already

    @property
    def on(self) -> bool:
        """Whether pieces are kept."""
        return self._folder is not None

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
            return compute()
        path = self._folder / (_digest(self._key, name, *depends) + _SUFFIX)
        if path.exists():
            try:
                piece: dict[str, Tensor] = read_tensors(path, "piece of an evaluation", f"name{_SUFFIX}")
            except ValueError:
                pass
            else:
                self.found += 1
                return piece
        piece = compute()
        with atomic_path(path) as temporary:
            torch.save(piece, temporary)
        return piece

    def keeping(self, *depends: object) -> Keep:
        """:meth:`keep` for pieces that depend on the same."""

        def keep(name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
            return self.keep(name, compute, *depends)

        return keep


def clear_state(folder: str | os.PathLike[str]) -> None:
    """Removes the pieces in a folder, and the folder if nothing else is in it.

    Example:
        >>> clear_state("/nowhere")
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    for path in folder.glob(f"*{_SUFFIX}"):
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def check_writable(argument: str, folder: str | os.PathLike[str]) -> None:
    """Makes a folder and tries to write into it, before any work is lost.

    Raises:
        ValueError: it cannot be made, or not be written into.

    Example:
        >>> check_writable("state", "/proc/state")
        Traceback (most recent call last):
        ValueError: state must be a folder that can be written into, got /proc/state (No such file or directory)
    """
    try:
        with atomic_path(Path(folder) / "writable"):
            pass
        (Path(folder) / "writable").unlink()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ValueError(f"{argument} must be a folder that can be written into, got {folder} ({reason})") from error


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            text = f"{part.dtype} {tuple(part.shape)} ".encode() + part.detach().cpu().contiguous().numpy().tobytes()
        else:
            text = repr(part).encode()
        digest.update(hashlib.sha256(text).digest())
    return digest.hexdigest()[:32]
