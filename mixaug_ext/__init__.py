"""The compiled kernels of mixaug: found, checked, loaded; or a sentence why not.

The kernels are plain C++ and CUDA behind a C interface (``csrc/``), loaded with :mod:`ctypes`, so one build serves
every supported torch and Python. Nothing here is needed: without a compiled library mixaug runs its PyTorch code and
says so once. ``MIXAUG_NO_EXT=1`` in the environment leaves both libraries unloaded, to compare or to rule them out;
``MIXAUG_ISA=generic`` or ``avx2`` keeps the C++ kernels to a lower instruction set, with the same results.
"""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from pathlib import Path

__all__ = ["ABI", "ISAS", "cuda_library", "isa", "library", "status", "warn_without", "why_no_cuda", "why_not"]

#: Version of the C interface. A library built from other sources is refused instead of being misread.
ABI = 9

#: Instruction sets that the C++ kernels are compiled for on x86-64, the widest last; elsewhere the first alone.
ISAS = ("generic", "avx2", "avx512")

_SUFFIXES = (".so", ".dylib", ".dll", ".pyd")
_NO_COMPILER = "not built: no C++ compiler was found when mixaug was installed, or it failed (reinstall with -v)"
_NO_NVCC = "not built: mixaug was installed without nvcc or without a GPU (reinstall with nvcc and FORCE_CUDA=1)"


def _open(stem: str, version: str, missing: str) -> tuple[ctypes.CDLL | None, str]:
    """The library whose file begins with ``stem`` and an empty string, or None and the reason."""
    if os.environ.get("MIXAUG_NO_EXT", "") not in ("", "0"):
        return None, "switched off by MIXAUG_NO_EXT"
    folder = Path(__file__).parent
    found = [path for suffix in _SUFFIXES for path in sorted(folder.glob(f"{stem}*{suffix}"))]
    if not found:
        return None, missing
    path = found[0]
    try:
        lib = ctypes.CDLL(str(path))
        get_abi = getattr(lib, version)
        get_abi.restype = ctypes.c_int
        abi = get_abi()
    except (OSError, AttributeError) as error:
        return None, f"{path.name} could not be loaded: {error}"
    if abi != ABI:
        return None, f"{path.name} has interface {abi}, this mixaug needs {ABI}: install mixaug again"
    return lib, ""


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    asked = os.environ.get("MIXAUG_ISA")
    if asked is not None and asked not in ISAS:
        raise ValueError(f"MIXAUG_ISA must be one of {', '.join(ISAS)}, got {asked!r}")
    return _open("_kernels", "mixaug_abi", _NO_COMPILER)


@functools.cache
def _load_cuda() -> tuple[ctypes.CDLL | None, str]:
    """Loaded only where torch sees a GPU: CUDA is not touched before."""
    lib, reason = _open("_cuda", "mixaug_cuda_abi", _NO_NVCC)
    if lib is None:
        return None, reason
    import torch

    if not torch.cuda.is_available():
        return None, "built, but torch sees no GPU here"
    lib.mixaug_cuda_error.restype = ctypes.c_char_p
    lib.mixaug_capped_relu_partials.restype = ctypes.c_int64
    code = lib.mixaug_cuda_probe(ctypes.c_int(torch.cuda.current_device()))
    if code:
        return None, f"the CUDA kernels do not run here: {lib.mixaug_cuda_error(ctypes.c_int(code)).decode()}"
    return lib, ""


def library() -> ctypes.CDLL | None:
    """The compiled C++ library, loaded at the first call, or None where it cannot be had (see :func:`why_not`).

    Example:
        >>> library() is None or library().mixaug_abi() == ABI
        True
    """
    return _load()[0]


def cuda_library() -> ctypes.CDLL | None:
    """The compiled CUDA library, or None where it cannot be had (see :func:`why_no_cuda`).

    Example:
        >>> cuda_library() is None or why_no_cuda() == ""
        True
    """
    return _load_cuda()[0]


def isa() -> str:
    """The instruction set that the C++ kernels use: the widest here, or a lower one that ``MIXAUG_ISA`` asks for.

    Returns:
        one of ``ISAS``; ``"none"`` without the library. All give the same bits.

    Raises:
        ValueError: ``MIXAUG_ISA`` names no instruction set.

    Example:
        >>> isa() in (*ISAS, "none")
        True
    """
    lib = library()
    return "none" if lib is None else ISAS[lib.mixaug_isa()]


def why_not() -> str:
    """One sentence that says why the C++ library is not in use; empty where it is.

    Example:
        >>> isinstance(why_not(), str)
        True
    """
    return _load()[1]


def why_no_cuda() -> str:
    """One sentence that says why the CUDA library is not in use; empty where it is.

    Example:
        >>> isinstance(why_no_cuda(), str)
        True
    """
    return _load_cuda()[1]


@functools.cache
def warn_without(cuda: bool = False) -> None:
    """Says once that PyTorch code does the work of a compiled library that is missing; not when that was asked for.

    Args:
        cuda: the CUDA library instead of the C++ one.

    Example:
        >>> if library() is None:
        ...     warn_without()
    """
    reason = why_no_cuda() if cuda else why_not()
    if reason and "MIXAUG_NO_EXT" not in reason:
        kind = "CUDA" if cuda else "C++"
        warnings.warn(
            f"mixaug: the compiled {kind} kernels are not in use ({reason}). PyTorch code does their work: same "
            "results, slower.",
            stacklevel=4,
        )


def status() -> dict[str, str]:
    """What is active, part by part, as ``mixaug info`` prints it.

    Returns:
        a dict from the part to ``"active"`` or to the reason why it is not.

    Example:
        >>> "ipmix (C++, CPU)" in status()
        True
    """

    def told(reason: str) -> str:
        return f"inactive ({reason}); PyTorch code is used" if reason else "active"

    return {
        "instruction set (C++, CPU)": isa(),
        "ipmix (C++, CPU)": told(why_not()),
        "box compositing (C++, CPU)": told(why_not()),
        "fractals (C++, CPU)": f"inactive ({why_not()}); numba is used" if why_not() else "active",
        "box compositing (CUDA)": told(why_no_cuda()),
        "ipmix (CUDA)": told(why_no_cuda()),
        "d-relu (C++, CPU)": told(why_not()),
        "d-relu (CUDA)": told(why_no_cuda()),
    }
