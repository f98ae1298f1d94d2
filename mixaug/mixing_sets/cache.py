"""Picture sets as memory-mapped files in the user's cache folder: whole or absent, made once, shared by all.

A file is a plain ``.npy`` (so any tool can open it) followed by the checksums of its blocks and a seal: a magic word,
the length of the pictures, and the checksum of header and block checksums. Half a file, a file of zeros that a crash
left at full length, and a file of another version fail the check and are made again.

A set that would take long is not made at once: `Growing` is its file while only the pictures that were asked for are in
it. All processes share it, and it becomes the plain file when the last picture is made.

Opening must not cost more for more pictures, so at most 16 blocks of 1 MiB, spread over the file, are read for the
check: 16 MiB take 10 ms, all of 2 GB would take 2 s in every process. Files of up to 16 MiB are checked to the byte.
"""

from __future__ import annotations

import errno
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch

from mixaug._files import atomic_path

VERSION = 2  # raise it when the layout of the file changes; a source has a version of its own for its pixels
CACHE_VARIABLE = "MIXAUG_CACHE"

_SEAL = struct.Struct("<8sQI")
_MAGIC = b"MIXAUGv2"
_BLOCK = 1 << 20
_CHECKED_BLOCKS = 16
_checked: set[tuple[str, int, int]] = set()  # files whose checksum this process has seen to be right
_warned: set[str] = set()


class Recipe(Protocol):
    """How to make a set of pictures again; small, hashable and picklable."""

    @property
    def shape(self) -> tuple[int, int, int, int]: ...

    @property
    def stem(self) -> str:
        """Name of the cache file, without version and ending; different for different pictures."""

    def chunks(self) -> Iterator[torch.Tensor]:
        """The pictures in order, as uint8 (n, 3, S, S) pieces."""


def cache_folder() -> Path:
    """``$MIXAUG_CACHE`` when set, else ``mixing_sets`` in the user's cache folder of this system. Not created here."""
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return Path(override).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("mixaug", appauthor=False)) / "mixing_sets"


def cache_path(recipe: Recipe, folder: Path | None = None) -> Path:
    """Where the pictures of ``recipe`` are kept."""
    return (cache_folder() if folder is None else folder) / f"{recipe.stem}-v{VERSION}.npy"


def _header(shape: tuple[int, ...]) -> bytes:
    import io

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def _blocks_to_check(blocks: int) -> list[int]:
    """All of a few, else some that are evenly spread, with the first and the last."""
    if blocks <= _CHECKED_BLOCKS:
        return list(range(blocks))
    return [k * (blocks - 1) // (_CHECKED_BLOCKS - 1) for k in range(_CHECKED_BLOCKS)]


def _is_whole(file: BinaryIO, header: bytes, data: int, length: int) -> bool:
    """Whether a file of ``length`` bytes has its header, its seal, and unchanged pictures where that is looked at."""
    blocks = -(-data // _BLOCK)
    tail = 4 * blocks + _SEAL.size
    if length != len(header) + data + tail or file.read(len(header)) != header:
        return False
    file.seek(len(header) + data)
    table = file.read(4 * blocks)
    if file.read() != _SEAL.pack(_MAGIC, data, zlib.crc32(table, zlib.crc32(header))):
        return False
    checksums = struct.unpack(f"<{blocks}I", table)
    for k in _blocks_to_check(blocks):
        file.seek(len(header) + k * _BLOCK)
        if zlib.crc32(file.read(min(_BLOCK, data - k * _BLOCK))) != checksums[k]:
            return False
    return True


def open_cached(path: Path, shape: tuple[int, int, int, int]) -> torch.Tensor | None:
    """Maps the pictures of a finished file; None when it is absent, cut short, damaged or of another kind.

    The map is private (copy on write): PyTorch sees ordinary writable memory and does not warn, all processes share the
    pages of the file, and nothing written to the tensor by mistake could reach the file.
    """
    header = _header(shape)
    data = int(np.prod(shape, dtype=np.int64))
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            key = (str(path), status.st_size, status.st_mtime_ns)
            if key not in _checked:
                if not _is_whole(file, header, data, status.st_size):
                    return None
                _checked.add(key)
            pixels = np.memmap(file, np.uint8, mode="c", offset=len(header), shape=shape)
    except (OSError, ValueError):
        return None
    return torch.from_numpy(pixels)


class _Checksums:
    """Checksums of the blocks of what is written piece by piece."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self._current, self._filled = 0, 0

    def add(self, data: memoryview) -> None:
        start = 0
        while start < len(data):
            part = data[start : start + _BLOCK - self._filled]
            self._current = zlib.crc32(part, self._current)
            self._filled += len(part)
            start += len(part)
            if self._filled == _BLOCK:
                self.end()

    def end(self) -> None:
        if self._filled:
            self.done.append(self._current)
            self._current, self._filled = 0, 0


def reserve(descriptor: int, length: int) -> None:
    """Takes the space on the disk, so that a full one is noticed now and not after minutes of work."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    try:
        os.posix_fallocate(descriptor, 0, length)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems cannot reserve
            raise


def _write(path: Path, recipe: Recipe, chunks: Iterator[torch.Tensor]) -> None:
    header = _header(recipe.shape)
    checksums = _Checksums()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        reserve(file.fileno(), _length(recipe.shape))
        file.write(header)
        for pictures in chunks:
            block = pictures.contiguous().numpy().reshape(-1).data
            checksums.add(block)
            file.write(block)
        checksums.end()
        file.write(_tail(recipe.shape, checksums.done))
        file.flush()
        os.fsync(file.fileno())  # on disk before the name points to it


class RowRecipe(Recipe, Protocol):
    """A recipe whose pictures can be made one by one, in any order."""

    def rows(self, index: Sequence[int]) -> torch.Tensor:
        """The pictures of these positions, uint8 (n, 3, S, S)."""


#: Makes the pictures of some positions, in pieces that follow each other.
MakeRows = Callable[[Sequence[int]], Iterator[torch.Tensor]]


class Growing:
    """Pictures that are made when they are first asked for, in a file that all processes map and fill together.

    Picture i is the same whoever makes it and when, so nothing that is drawn depends on how far the file has come. A
    picture counts as made when its checksum stands beside it, which is written after it and compared when the file is
    opened: a killed process loses what it was at, and nothing else. Where no file can be had, the pictures are kept in
    the memory of each process. For POSIX: elsewhere a file that is mapped cannot be renamed.

    Args:
        recipe: of the pictures.
        folder: where the file is kept. Default `cache_folder()`.
    """

    def __init__(self, recipe: RowRecipe, folder: Path | None = None) -> None:
        self.recipe = recipe
        self.path: Path | None = cache_path(recipe, folder)
        self.whole = False
        self._file: tuple[int, int] | None = None
        try:
            self._pixels, self._made = self._mapped(self.path)
        except (OSError, ValueError, NotImplementedError) as error:
            _warn_uncached(self.path.parent, error)
            self.path = None
            self._pixels, self._made = np.zeros(recipe.shape, np.uint8), np.zeros(len(self), np.uint32)

    def __len__(self) -> int:
        return self.recipe.shape[0]

    def serve(self, index: np.ndarray, make: MakeRows) -> torch.Tensor:
        """All pictures, uint8 (N, 3, S, S), of which those at ``index`` are made. Shared: do not write.

        Args:
            index: positions; those outside the set are passed over.
            make: makes the pictures of some positions.
        """
        index = np.unique(index)
        index = index[(index >= 0) & (index < len(self))]
        if not self._made[index].all():
            with self._lock():
                missing = index[self._made[index] == 0].tolist()  # others may have made some meanwhile
                done = 0
                for piece in make(missing) if missing else ():
                    rows = missing[done : done + len(piece)]
                    self._pixels[rows] = piece.numpy()
                    self._made[rows] = [_mark(self._pixels[row]) for row in rows]
                    done += len(piece)
                if not self.whole and self._made.all():
                    self._finish()
        elif not self.whole and self._made.all():
            self.whole = True
        return torch.from_numpy(self._pixels)

    def _lock(self) -> AbstractContextManager[Any]:
        from filelock import FileLock

        return nullcontext() if self.path is None else FileLock(f"{self.path}.lock")

    def _mapped(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        header, shape = _header(self.recipe.shape), self.recipe.shape
        length = _length(shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        part, marks = _growing_paths(path)
        with self._lock():
            if not part.exists() or part.stat().st_size != length or not marks.exists():
                for each, size in ((marks, 4 * len(self)), (part, length)):
                    each.unlink(missing_ok=True)  # not cut short: others may have it mapped
                    with open(each, "xb") as file:
                        reserve(file.fileno(), size)
                        file.truncate(size)
                with open(part, "r+b") as file:
                    file.write(header)
            self._file = _identity(part)
            pixels = np.memmap(part, np.uint8, "r+", offset=len(header), shape=shape)
            made = np.memmap(marks, np.uint32, "r+", shape=(len(self),))
            for row in np.flatnonzero(made):
                if made[row] != _mark(pixels[row]):
                    made[row] = 0
        return pixels, made

    def _finish(self) -> None:
        """Makes the plain file of it."""
        self.whole = True
        if self.path is None:
            return
        part, marks = _growing_paths(self.path)
        if _identity(part) != self._file:  # somebody has made all of it at once, or has begun another one
            return
        checksums = _Checksums()
        checksums.add(self._pixels.reshape(-1).data)
        checksums.end()
        with open(part, "r+b") as file:
            file.seek(-(4 * len(checksums.done) + _SEAL.size), os.SEEK_END)
            file.write(_tail(self.recipe.shape, checksums.done))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)
        marks.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file stands under a name; None: none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _mark(picture: np.ndarray) -> int:
    """The checksum of a picture that is made; never 0."""
    return zlib.crc32(picture.reshape(-1).data) | 1


def _growing_paths(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.made")


def _length(shape: tuple[int, int, int, int]) -> int:
    """Of the whole file."""
    data = int(np.prod(shape, dtype=np.int64))
    return len(_header(shape)) + data + 4 * -(-data // _BLOCK) + _SEAL.size


def _tail(shape: tuple[int, int, int, int], checksums: list[int]) -> bytes:
    """What stands behind the pictures."""
    table = struct.pack(f"<{len(checksums)}I", *checksums)
    seal = _SEAL.pack(_MAGIC, int(np.prod(shape, dtype=np.int64)), zlib.crc32(table, zlib.crc32(_header(shape))))
    return table + seal


def _warn_uncached(folder: Path, error: Exception) -> None:
    warn_once(
        str(folder),
        f"mixing sets cannot be cached in {folder} ({error}); they are kept in memory instead. "
        f"Set {CACHE_VARIABLE} to a folder that can be written.",
    )


def warn_once(key: str, message: str) -> None:
    """A RuntimeWarning, the first time in this process that ``key`` comes up."""
    if key not in _warned:
        _warned.add(key)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def load_or_make(
    recipe: Recipe, chunks: Callable[[], Iterator[torch.Tensor]] | None = None, folder: Path | None = None
) -> tuple[torch.Tensor, Path | None]:
    """The pictures of a recipe, from their cache file where possible.

    The first process to ask makes the file; the others wait for it on a lock, which the system releases if the maker is
    killed. When the folder cannot be written or the disk is full, the pictures are kept in memory, with one warning.

    Args:
        recipe: what to make.
        chunks: called instead of ``recipe.chunks`` when the pictures have to be made (a progress bar). Default None.
        folder: where the file is kept. Default `cache_folder()`.

    Returns:
        The uint8 tensor (N, 3, S, S) and the file it is mapped from, None for one in memory.
    """
    make = recipe.chunks if chunks is None else chunks
    path = cache_path(recipe, folder)
    pictures = open_cached(path, recipe.shape)
    if pictures is not None:
        return pictures, path
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(path) + ".lock"):
            pictures = open_cached(path, recipe.shape)
            if pictures is not None:
                return pictures, path
            for stale in path.parent.glob(f".{path.name}.*.tmp"):  # of a maker that was killed: we hold the lock
                stale.unlink(missing_ok=True)
            _write(path, recipe, make())
            for growing in _growing_paths(path):
                growing.unlink(missing_ok=True)
        pictures = open_cached(path, recipe.shape)
        if pictures is None:
            raise OSError(errno.EIO, "the file that was just written cannot be read back", str(path))
        return pictures, path
    except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
        _warn_uncached(path.parent, error)
    # Made from the start again, not from what was written: a set may be larger than memory until here.
    pictures = torch.empty(recipe.shape, dtype=torch.uint8)
    done = 0
    for piece in make():
        pictures[done : done + len(piece)] = piece
        done += len(piece)
    return pictures, None
