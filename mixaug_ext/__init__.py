"""The compiled kernels of mixaug: found, checked, loaded; or a sentence why not.

The kernels are plain C++ behind a C interface (``csrc/``), loaded with :mod:`ctypes`, so one build serves every
supported torch and Python. Nothing here is needed: without a compiled library mixaug runs its PyTorch code and says so
once. ``MIXAUG_NO_EXT=1`` in the environment leaves the library unloaded, to compare or to rule it out.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

__all__ = ["ABI", "library", "status", "why_not"]

#: Version of the C interface. A library built from other sources is refused instead of being misread.
ABI = 3

_SUFFIXES = (".so", ".dylib", ".dll", ".pyd")


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The loaded library and an empty string, or None and the reason."""
    if os.environ.get("MIXAUG_NO_EXT", "") not in ("", "0"):
        return None, "switched off by MIXAUG_NO_EXT"
    folder = Path(__file__).parent
    found = [path for suffix in _SUFFIXES for path in sorted(folder.glob(f"_kernels*{suffix}"))]
    if not found:
        return None, "not built: no C++ compiler was found when mixaug was installed, or it failed (reinstall with -v)"
    path = found[0]
    try:
        lib = ctypes.CDLL(str(path))
        lib.mixaug_abi.restype = ctypes.c_int
        abi = lib.mixaug_abi()
    except (OSError, AttributeError) as error:
        return None, f"{path.name} could not be loaded: {error}"
    if abi != ABI:
        return None, f"{path.name} has interface {abi}, this mixaug needs {ABI}: install mixaug again"
    return lib, ""


def library() -> ctypes.CDLL | None:
    """The compiled library, loaded at the first call, or None where it cannot be had (see :func:`why_not`).

    Example:
        >>> library() is None or library().mixaug_abi() == ABI
        True
    """
    return _load()[0]


def why_not() -> str:
    """One sentence that says why the compiled library is not in use; empty where it is.

    Example:
        >>> isinstance(why_not(), str)
        True
    """
    return _load()[1]


def status() -> dict[str, str]:
    """What is active, part by part, as ``mixaug info`` prints it.

    Returns:
        a dict from the part to ``"active"`` or to the reason why it is not.

    Example:
        >>> "ipmix (C++, CPU)" in status()
        True
    """
    reason = why_not()
    cpu = f"inactive ({reason}); PyTorch code is used" if reason else "active"
    return {
        "ipmix (C++, CPU)": cpu,
        "ipmix (CUDA)": "PyTorch code is used; this version has no CUDA kernel",
    }
