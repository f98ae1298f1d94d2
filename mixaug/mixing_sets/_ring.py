"""The files that the processes of a stream share: two counters, and a ring of pictures for each side in use."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from mixaug._files import atomic_path
from mixaug.mixing_sets._cache import _reserve

CONTROL = "control"
_PAGE = 4096
_MADE, _USED = 0, 1
_WRITING = -1  # in place of a stamp


def ring_path(folder: Path, side: int) -> Path:
    """The file of the pictures of a side."""
    return folder / f"{side}.ring"


def ring_sides(folder: Path) -> list[int]:
    """The sides that have a ring; none where the folder is gone."""
    try:
        return [int(name.removesuffix(".ring")) for name in os.listdir(folder) if name[0].isdigit()]
    except OSError:
        return []


class Control:
    """Counters in a map that all processes share. Each is one aligned word, written whole: no lock is needed.

    Attributes:
        made: how many pictures there are so far, those at the start included; written by the producer.
        used: ``made`` as it was when a process last used the pictures, -1 before; written by all others.
    """

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), _PAGE)).cast("q")

    @staticmethod
    def create(path: Path, made: int) -> None:
        path.write_bytes(np.array([made, -1], "=i8").tobytes().ljust(_PAGE, b"\0"))

    @property
    def made(self) -> int:
        return self._words[_MADE]

    @made.setter
    def made(self, value: int) -> None:
        self._words[_MADE] = value

    @property
    def used(self) -> int:
        return self._words[_USED]

    def note_use(self) -> None:
        """Several processes may do this at once: each stores about the same number, and the next call repairs it."""
        self._words[_USED] = self._words[_MADE]


class Ring:
    """The pictures of one side as a process reads them.

    A slot's stamp is the index of its picture, or -1 while it is replaced.

    The map is private: nothing that this process writes to the tensor reaches the others, while what the producer
    writes to the file is seen at once.

    Attributes:
        pictures: uint8 (count, 3, side, side), which changes as the producer goes on.
        stamps: int64 (count,), likewise.
    """

    def __init__(self, path: Path, count: int, side: int) -> None:
        with open(path, "rb") as file:
            self.stamps = np.asarray(np.memmap(file, np.int64, mode="r", shape=(count,)))
            shape = count, 3, side, side
            self.pictures = torch.from_numpy(np.memmap(file, np.uint8, mode="c", offset=_offset(count), shape=shape))

    def read(self, slots: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Copies of some slots and their stamps; the stamp of one that was replaced meanwhile is -1."""
        before = self.stamps[slots]
        pictures = self.pictures[torch.from_numpy(slots)]
        return pictures, np.where(self.stamps[slots] == before, before, _WRITING)


class RingWriter:
    """The same ring as the producer writes it: to the file, where a full disk is an error and not a bus error."""

    def __init__(self, path: Path, count: int, side: int) -> None:
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115  (kept as long as the producer runs)
        self._count, self.side = count, side

    def put(self, index: int, picture: torch.Tensor) -> None:
        """Replaces the oldest picture, by picture ``index``."""
        slot, pixels = index % self._count, picture.contiguous().numpy()
        self._write(8 * slot, _stamp(_WRITING))
        self._write(_offset(self._count) + slot * pixels.nbytes, pixels.reshape(-1).data)
        self._write(8 * slot, _stamp(index))

    def close(self) -> None:
        self._file.close()

    def _write(self, place: int, data: bytes | memoryview) -> None:
        self._file.seek(place)
        self._file.write(data)


def create_ring(path: Path, pieces: Iterable[torch.Tensor], count: int, side: int) -> None:
    """Makes the file of a ring with the first pictures; it has its whole length from the start."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        _reserve(file.fileno(), _offset(count) + count * 3 * side * side)
        file.write(np.arange(count, dtype=np.int64).tobytes().ljust(_offset(count), b"\0"))
        for pictures in pieces:
            file.write(pictures.contiguous().numpy().reshape(-1).data)


def _offset(count: int) -> int:
    """Where the pixels begin: at a page, behind the stamps."""
    return -(-8 * count // _PAGE) * _PAGE


def _stamp(value: int) -> bytes:
    return np.int64(value).tobytes()
