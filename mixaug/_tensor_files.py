"""Files of tensors and plain values: whole or absent, read so that nothing in them runs as code or passes unchecked."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixaug._checks import kind_of
from mixaug._files import atomic_path

__all__ = ["finite_tensor", "names", "part", "plain", "read_tensors", "state_of_tensors", "write_tensors"]


def write_tensors(path: str | os.PathLike[str], content: Any) -> None:
    """Writes with :func:`torch.save`, whole or not at all.

    Args:
        path: file; its folder is made if it is missing.
        content: tensors and plain values.

    Raises:
        OSError: the disk is full; the message names the file and the free space, and the file before it is kept.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "x.pt"
        >>> write_tensors(path, {"a": 1})
        >>> read_tensors(path, "file", "x.pt")
        {'a': 1}
    """
    with atomic_path(path) as temporary:
        try:
            # Given a path, torch would write itself, and say of a full disk only "unexpected pos 704 vs 598".
            with temporary.open("wb") as file:
                torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


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


@contextmanager
def part(name: str) -> Iterator[None]:
    """Errors of a part of a file that does not fit become one kind, with its name.

    Args:
        name: of the part.

    Raises:
        ValueError: whatever was wrong in the block, after the name.

    Example:
        >>> with part("spec"):
        ...     dict()["name"]
        Traceback (most recent call last):
        ValueError: its 'spec' does not fit (KeyError: 'name')
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, OverflowError) as error:
        if isinstance(error, ValueError) and str(error).startswith("its '"):
            raise
        kind = "" if isinstance(error, TypeError | ValueError | RuntimeError) else f"{type(error).__name__}: "
        reason = str(error).strip().split("\n")
        raise ValueError(
            f"its {name!r} does not fit ({kind}{' '.join(line.strip() for line in reason[:2])})"
        ) from error


def names(value: Any) -> dict[str, Any]:
    """``value``, if it is names with values.

    Args:
        value: of a file.

    Raises:
        TypeError: another kind.

    Example:
        >>> names({"lr": 0.1})
        {'lr': 0.1}
    """
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"it must be names with values, got {kind_of(value)}")
    return value


def plain(value: Any) -> dict[str, Any]:
    """``value``, if it is names with plain values: numbers, strings, None, and lists and names of these.

    Args:
        value: of a file.

    Raises:
        TypeError: another kind.

    Example:
        >>> plain({"lr": torch.tensor(0.1)})
        Traceback (most recent call last):
        TypeError: lr must be a plain value, got a torch.float32 tensor of shape ()
    """

    def check(name: str, each: Any) -> None:
        if isinstance(each, list | tuple):
            for item in each:
                check(name, item)
        elif isinstance(each, dict):
            plain(each)
        elif not isinstance(each, int | float | str | None):
            raise TypeError(f"{name} must be a plain value, got {kind_of(each)}")

    for name, each in names(value).items():
        check(name, each)
    return value


def state_of_tensors(name: str, value: Any) -> dict[str, Tensor]:
    """``value``, if it is a state of a module: names with dense tensors on the CPU whose numbers are finite.

    Args:
        name: of the part, for messages.
        value: of a file.

    Raises:
        TypeError: another kind.
        ValueError: a number that is not finite.

    Example:
        >>> state_of_tensors("model", {"weight": torch.tensor([1.0, float("nan")])})
        Traceback (most recent call last):
        ValueError: model['weight'] must be finite, got nan
    """
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be names with tensors, got {kind_of(value)}")
    for key, tensor in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{name} must have names as keys, got {key!r}")
        finite_tensor(f"{name}[{key!r}]", tensor)
    return value


def finite_tensor(name: str, value: Any) -> Tensor:
    """``value``, if it is a dense tensor on the CPU whose numbers are finite.

    Args:
        name: of the part, for messages.
        value: of a file.

    Raises:
        TypeError: another kind.
        ValueError: a number that is not finite.

    Example:
        >>> finite_tensor("totals", torch.zeros(3)).shape
        torch.Size([3])
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise TypeError(f"{name} must be a dense tensor, got {kind_of(value)}")
    if value.is_complex():
        raise TypeError(f"{name} must be real, got {kind_of(value)}")
    if value.is_floating_point() and not value.isfinite().all():
        raise ValueError(f"{name} must be finite, got {value[~value.isfinite()][0].item()}")
    return value
