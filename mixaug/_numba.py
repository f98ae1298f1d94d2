"""numba with the settings of this package. Imported by the files of compiled kernels only: numba takes a while."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
import platformdirs

from mixaug._files import only_ours

F = TypeVar("F", bound=Callable[..., Any])


def jit(*, contract: bool = False) -> Callable[[F], F]:
    """A decorator: ``numba.njit`` that releases the GIL, with IEEE division and a disk cache.

    Convention: without ``contract`` every operation is rounded as written (no fast-math), so a kernel of plus, minus,
    times, divide and square root gives the same bits on every machine.

    Args:
        contract: a multiply and an add may become one rounding: faster, equal up to rounding. Default False.

    Returns:
        The decorator. Compiled code is kept where numba keeps it (beside the file, ``NUMBA_CACHE_DIR``, the user's
        cache) if nobody but this user and root can write there, else in a private folder of the user's cache. Where
        neither can be had, the function is compiled in each process.

    Note:
        numba's disk cache notices a change of a function's own file only: kernels that call each other share a file.
    """
    settings: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract"} if contract else False,
    }

    def decorate(function: F) -> F:
        try:
            made = numba.njit(cache=True, **settings)(function)
            if _trusted(made.stats.cache_path):
                return made  # type: ignore[no-any-return]
        except RuntimeError:  # "no locator available": neither beside this file nor in the user's cache
            pass
        private = _private_folder()
        if private is not None:
            config: Any = numba.config
            usual, config.CACHE_DIR = config.CACHE_DIR, str(private)
            try:
                return numba.njit(cache=True, **settings)(function)  # type: ignore[no-any-return]
            except RuntimeError:
                pass
            finally:
                config.CACHE_DIR = usual
        return numba.njit(**settings)(function)  # type: ignore[no-any-return]

    return decorate


@functools.cache
def _trusted(folder: str) -> bool:
    """Whether the cache may be read: loading it unpickles, which runs whatever somebody else has put there."""
    return only_ours(folder)


@functools.cache
def _private_folder() -> Path | None:
    """A folder of the user's cache for this user alone, made if it is missing; None where there can be none."""
    folder = Path(platformdirs.user_cache_dir("mixaug", appauthor=False)) / "numba"
    with suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        if only_ours(folder) and os.access(folder, os.W_OK):
            return folder
    return None
