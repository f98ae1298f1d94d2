"""Where the files of a stream live, and how they go away again."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

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
