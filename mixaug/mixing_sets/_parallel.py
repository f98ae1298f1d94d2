"""Work on plain threads: kernels that release the GIL scale, and nothing outlives the call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def on_threads(work: Callable[[T], None], tasks: Iterable[T], kernel: Any, threads: int | None = None) -> None:
    """Calls ``work`` for each task.

    Args:
        work: calls a compiled kernel; its tasks write to places of their own.
        tasks: its arguments.
        kernel: the compiled kernel; while it has no compiled form, the first task runs alone.
        threads: default torch's number of threads (1 in loader workers).
    """
    left = list(tasks)
    workers = min(torch.get_num_threads() if threads is None else threads, len(left))
    if workers <= 1:
        for task in left:
            work(task)
        return
    if not getattr(kernel, "signatures", True):
        work(left.pop())  # the first call compiles, or loads the compiled code: not in several threads at once
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, left):
            pass
