"""numba with the settings of this package. Imported by the files of compiled kernels only: numba takes a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(*, contract: bool = False) -> Callable[[F], F]:
    """A decorator: ``numba.njit`` that releases the GIL, with IEEE division and a disk cache.

    Convention: without ``contract`` every operation is rounded as written (no fast-math), so a kernel of plus, minus,
    times, divide and square root gives the same bits on every machine.

    Args:
        contract: a multiply and an add may become one rounding: faster, equal up to rounding. Default False.

    Returns:
        The decorator. Where no folder for the disk cache can be written, the function is compiled in each process.

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
            return numba.njit(cache=True, **settings)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # "no locator available": neither beside this file nor in the user's cache
            return numba.njit(**settings)(function)  # type: ignore[no-any-return]

    return decorate
