"""Files of tensors and plain values, read so that nothing in them runs as code and no damage passes as a weight."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

__all__ = ["read_tensors"]


def read_tensors(path: str | os.PathLike[str], what: str, example: str) -> Any:
    """What :func:`torch.save` wrote, checked, with ``weights_only=True`` and tensors on the CPU.

    Args:
        path: the file.
        what: the file should be, for messages, such as ``"checkpoint"``.
        example: name that such a file has, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, truncated, damaged, or holds anything but tensors and plain values.

    Example:
        >>> read_tensors("/nowhere/best.pt", "checkpoint", "best.pt")
        Traceback (most recent call last):
        FileNotFoundError: no checkpoint at /nowhere/best.pt
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"a {what} must be a file such as {path / example}, got the folder {path}")
    if not path.exists():
        raise FileNotFoundError(f"no {what} at {path}")
    try:
        # torch reads tensors without looking at their checksums: a flipped bit would pass as a weight.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"its part {damaged} does not match its checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the {what} {path} is damaged or was not written by mixaug: {reason}") from error
