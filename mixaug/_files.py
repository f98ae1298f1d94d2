"""Files that are either whole or absent, and folders that one process at a time works in."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The mask can only be read by setting it: of two threads, one could take the other's 0 for the process's.
_umask_lock = threading.Lock()
#: Errors of a disk, a quota or a limit that has no room for what is written.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.tmp")
#: Temporary files that were in a folder when this process first wrote to it, by folder and by the file they were to be.
_left_behind: dict[Path, dict[str, list[Path]]] = {}
#: Descriptors of locks: a forked child (a loader worker) must not keep one that its killed parent held.
_held: set[int] = set()


def _forget_locks() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` and renames it to ``path`` when the block ends without an error.

    A killed run leaves the old file (or none), never half of a new one. The parent folder is made if it is missing;
    the temporary file is removed when the block raises. What a killed process was writing is removed when the file is
    written again, or by :func:`remove_stale`: the system holds a lock on the temporary file while its writer lives.

    Raises:
        OSError: the disk is full; the message names the file and the space that is left.

    Example:
        >>> import tempfile, pathlib
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a" / "b.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    target = Path(path)
    with full_disk_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(target)
        handle, temporary = _temporary(target)
        try:
            yield temporary
            # mkstemp makes files private (0600); give the result the mode that open() would have given.
            with _umask_lock:
                umask = os.umask(0)
                os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
            _close(handle)


@contextmanager
def full_disk_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of a full disk in the block get the name of the file and the free space of its disk.

    Args:
        path: what is written.

    Raises:
        OSError: the disk, the quota or the process's limit has no room.

    Example:
        >>> with full_disk_named("/nowhere/last.pt"):
        ...     raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        Traceback (most recent call last):
        OSError: [Errno 28] /nowhere/last.pt cannot be written: No space left on device
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = ""
        with suppress(OSError):
            free = f" ({_size(shutil.disk_usage(Path(path).parent).free)} free on the disk of {Path(path).parent})"
        kept = "; the file that was there is kept" if os.path.exists(path) else ""
        raise OSError(error.errno, f"{path} cannot be written: {os.strerror(error.errno)}{free}{kept}") from error


def remove_stale(folder: str | os.PathLike[str], name: str = "*") -> list[Path]:
    """Removes what killed processes were writing with :func:`atomic_path`; files of live writers stay.

    Args:
        folder: where they are; one that is not there has none.
        name: of the files that were to be written, with ``*`` for any letters. Default all.

    Returns:
        the files that were removed.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / ".last.pt.abcd1234.tmp").write_text("half")
        >>> [path.name for path in remove_stale(folder, "*.pt")]
        ['.last.pt.abcd1234.tmp']
    """
    if fcntl is None:
        return []
    pattern = glob.escape(name).replace("[*]", "*")
    found = Path(folder).glob(f".{pattern}.????????.tmp")
    return [path for path in found if _TEMPORARY.fullmatch(path.name) and _removed(path)]


def _removed(temporary: Path) -> bool:
    """Removes a temporary file unless its writer lives."""
    with suppress(OSError):  # another user's, or gone meanwhile
        handle = os.open(temporary, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
            return True
        finally:
            os.close(handle)
    return False


def _remove_left_behind(target: Path) -> None:
    """Removes what killed writers of the file left; lists each folder once, since exports write 10^5 files to one."""
    if fcntl is None:
        return
    left = _left_behind.get(target.parent)
    if left is None:
        left = _left_behind[target.parent] = {}
        for path in target.parent.glob(".*.tmp"):
            if match := _TEMPORARY.fullmatch(path.name):
                left.setdefault(match["name"], []).append(path)
    for path in left.pop(target.name, ()):
        _removed(path)


def only_ours(folder: str | os.PathLike[str]) -> bool:
    """Whether nobody but this user and root can have put what is in a folder there.

    The folder, what lies in it and the folders above must belong to this user or root, and no one else may write to
    them; a folder above that others can write to must be sticky, as ``/tmp`` is, so that nothing in it can be replaced.
    On Windows, where there are no such owners, every folder counts as ours.

    Args:
        folder: links in its path are followed.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> only_ours(folder)
        True
        >>> folder.chmod(0o777)
        >>> only_ours(folder)
        False
    """
    if not hasattr(os, "getuid"):
        return True
    place = Path(os.path.realpath(folder))
    trusted = (0, os.getuid())
    try:
        for path in (place, *place.iterdir()):
            entry = path.lstat()
            if entry.st_uid not in trusted or (entry.st_mode & _BY_OTHERS and not stat.S_ISLNK(entry.st_mode)):
                return False
        for path in place.parents:
            entry = path.stat()
            if entry.st_uid not in trusted or (entry.st_mode & _BY_OTHERS and not entry.st_mode & stat.S_ISVTX):
                return False
    except OSError:
        return False
    return True


@contextmanager
def sole_use(lock: str | os.PathLike[str], busy: str) -> Iterator[None]:
    """One process at a time is in the block; any other is refused at once.

    The system gives the lock back when the process ends, however it ends, and its forked children do not hold it. The
    lock's folder is made if it is missing; a folder that was made for it and is still empty afterwards goes with it.
    On file systems without locks nobody is refused.

    Args:
        lock: file that stands for what is used; removed at the end.
        busy: message for a process that is refused.

    Raises:
        BlockingIOError: another process, or another thread, is in such a block.

    Example:
        >>> lock = Path(tempfile.mkdtemp()) / ".lock"
        >>> with sole_use(lock, "somebody trains here"), sole_use(lock, "somebody trains here"):
        ...     pass
        Traceback (most recent call last):
        BlockingIOError: somebody trains here
    """
    path = Path(lock)
    made = [folder for folder in path.parents if not folder.exists()]
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _lock(path, busy)
    try:
        yield
    finally:
        if held is not None:
            path.unlink(missing_ok=True)
            _close(held)
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _lock(path: Path, busy: str) -> int | None:
    """A descriptor with the lock on ``path``; None where there are no locks."""
    if fcntl is None:
        return None
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BlockingIOError(busy) from None
        except OSError:  # a file system without locks
            os.close(handle)
            path.unlink(missing_ok=True)
            return None
        if _is(path, handle):
            _held.add(handle)
            return handle
        os.close(handle)  # the process before has removed the file in between


def _temporary(target: Path) -> tuple[int, Path]:
    """A new file beside ``target``, locked as long as the descriptor is open."""
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        if fcntl is None:  # Windows: an open file could not be renamed
            os.close(handle)
            return -1, Path(name)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _is(Path(name), handle):
            _held.add(handle)
            return handle, Path(name)
        os.close(handle)  # taken for a stale one before it was locked


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _close(handle: int) -> None:
    if handle in _held:  # not in a forked child, which has closed it already
        _held.remove(handle)
        os.close(handle)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB" if count < 1000 else f"{count / 1000:.3g} TB"
