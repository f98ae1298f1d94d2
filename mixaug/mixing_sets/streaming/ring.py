"""Where the files of a stream live, and how they go away again."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from mixaug._files import atomic_path
from mixaug.mixing_sets.cache import reserve

_PREFIX = "mixaug-stream-"
_OWNER = "owner"
_SHARED_MEMORY = Path("/dev/shm")
_YOUNG = 60.0  # seconds in which a folder may be without its lock


class RingFolder:
    """A new folder for one stream, removed by `close`, or after a crash by the next stream of this user.

    Shared memory is preferred: a ring is written over and over, which on a disk would be terabytes in a long training.
    It is taken only if half of it stays free: in a container it may be small, and loader workers need it.

    Args:
        parent: where to make it; None: shared memory or the folder for temporary files.
        length: bytes that the largest ring takes.
    """

    def __init__(self, parent: Path | None, length: int) -> None:
        where = _place(length) if parent is None else parent
        _sweep(where)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=where))
        # Held as long as the owner, or a process it forked, lives: see _sweep.
        self._lock = os.open(self.path / _OWNER, os.O_RDWR | os.O_CREAT, 0o600)
        _try_lock(self._lock)

    def close(self) -> None:
        os.close(self._lock)
        remove(self.path)


def remove(path: Path) -> None:
    """Removes a stream's folder, or what is left of it."""
    shutil.rmtree(path, ignore_errors=True)


def _place(length: int) -> Path:
    try:
        if shutil.disk_usage(_SHARED_MEMORY).free >= 2 * length and os.access(_SHARED_MEMORY, os.W_OK):
            return _SHARED_MEMORY
    except OSError:  # no such place on this system
        pass
    return Path(tempfile.gettempdir())


def _try_lock(descriptor: int) -> bool:
    """Whether the file is ours now; the system gives it back when the last process that holds it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: nothing is swept there
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep(where: Path) -> None:
    """Removes the folders of streams whose owner and producer were both killed: nobody else would."""
    for folder in where.glob(_PREFIX + "*"):
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG:
                continue
            descriptor = os.open(folder / _OWNER, os.O_RDWR)
        except OSError:  # another user's, or gone meanwhile
            continue
        try:
            if _try_lock(descriptor):
                remove(folder)
        finally:
            os.close(descriptor)


_BYTES = 1 << 20  # copied in one call: about 0.1 ms over PCIe, and 50 pictures of 256 px a second at 10 steps a second


class DeviceCopy:
    """The pictures of ``ring`` on ``device``; uploaded whole when it is made.

    Args:
        ring: of the stream.
        device: where the copy lives.
    """

    def __init__(self, ring: Ring, device: torch.device) -> None:
        self._ring, self._device = ring, device
        self._stamps = ring.stamps.copy()  # before the pictures: what is replaced meanwhile is copied again later
        self.pictures = ring.pictures.to(device, copy=True)
        self._most = max(1, _BYTES // ring.pictures[0].numel())

    def refresh(self) -> None:
        """Copies slots that changed, the oldest first, at most 1 MiB; those being replaced wait for the next call."""
        if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return  # a replay of the graph would copy the same pictures again and again
        stamps = self._ring.stamps.copy()
        changed = np.flatnonzero((stamps != self._stamps) & (stamps >= 0))
        if not len(changed):
            return
        slots = changed[np.argsort(stamps[changed])[: self._most]]
        pictures, stamps = self._ring.read(slots)
        whole = stamps >= 0
        slots, pictures = slots[whole], pictures[torch.from_numpy(whole)]
        self._stamps[slots] = stamps[whole]
        self.pictures.index_copy_(0, self._upload(torch.from_numpy(slots)), self._upload(pictures))

    def _upload(self, values: torch.Tensor) -> torch.Tensor:
        """From pinned memory, so that the host does not wait for the device."""
        if self._device.type == "cuda":
            return values.pin_memory().to(self._device, non_blocking=True)
        return values.to(self._device)


CONTROL = "control"
RECIPE = "recipe.pickle"
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
        reserve(file.fileno(), _offset(count) + count * 3 * side * side)
        file.write(np.arange(count, dtype=np.int64).tobytes().ljust(_offset(count), b"\0"))
        for pictures in pieces:
            file.write(pictures.contiguous().numpy().reshape(-1).data)


def _offset(count: int) -> int:
    """Where the pixels begin: at a page, behind the stamps."""
    return -(-8 * count // _PAGE) * _PAGE


def _stamp(value: int) -> bytes:
    return np.int64(value).tobytes()
