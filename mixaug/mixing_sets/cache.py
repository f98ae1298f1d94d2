"""Picture sets as memory-mapped files in the user's cache folder: whole or absent, made once, shared by all.

A file is a plain ``.npy`` (so any tool can open it) followed by the checksums of its blocks and a seal: a magic word,
the length of the pictures, and the checksum of header and block checksums. Half a file, a file of zeros that a crash
left at full length, and a file of another version fail the check and are made again.

Opening must not cost more for more pictures, so at most 16 blocks of 1 MiB, spread over the file, are read for the
check: 16 MiB take 10 ms, all of 2 GB would take 2 s in every process. Files of up to 16 MiB are checked to the byte.
"""

from __future__ import annotations

import errno
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

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
    data = int(np.prod(recipe.shape, dtype=np.int64))
    checksums = _Checksums()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        reserve(file.fileno(), len(header) + data + 4 * -(-data // _BLOCK) + _SEAL.size)
        file.write(header)
        for pictures in chunks:
            block = pictures.contiguous().numpy().reshape(-1).data
            checksums.add(block)
            file.write(block)
        checksums.end()
        table = struct.pack(f"<{len(checksums.done)}I", *checksums.done)
        file.write(table + _SEAL.pack(_MAGIC, data, zlib.crc32(table, zlib.crc32(header))))
        file.flush()
        os.fsync(file.fileno())  # on disk before the name points to it


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
        pictures = open_cached(path, recipe.shape)
        if pictures is None:
            raise OSError(errno.EIO, "the file that was just written cannot be read back", str(path))
        return pictures, path
    except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
        warn_once(
            str(path.parent),
            f"mixing sets cannot be cached in {path.parent} ({error}); they are kept in memory instead. "
            f"Set {CACHE_VARIABLE} to a folder that can be written.",
        )
    # Made from the start again, not from what was written: a set may be larger than memory until here.
    pictures = torch.empty(recipe.shape, dtype=torch.uint8)
    done = 0
    for piece in make():
        pictures[done : done + len(piece)] = piece
        done += len(piece)
    return pictures, None
