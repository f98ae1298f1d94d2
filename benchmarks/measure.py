"""What the benchmarks share: interleaved timing, peak memory, and the words about the machine.

Peers are timed in turns, a call of each a round (of short ones a few): a slow minute hits all alike. Short calls
are counted by their lower quartile: on a shared machine the slow half is other people's work.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

import mixaug_ext

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of the calls of one case."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return low, high


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleaved(
    cases: Mapping[str, Call],
    rounds: int,
    *,
    threads: int = 1,
    device: str = "cpu",
    reference: str | None = None,
    at_most: float = 20.0,
) -> dict[str, Timing]:
    """Times each case once a round, after a round to warm up.

    Args:
        cases: name to call.
        rounds: how many rounds count.
        threads: of torch.
        device: on ``"cuda"`` the device is waited for before and after each call.
        reference: a case (the copy) that shows how calm the machine is: rounds in which it took over three times its
            best are thrown away, all cases alike.
        at_most: seconds after which no further round is begun, once there are three.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    rows: list[dict[str, float]] = []
    quickest: dict[str, float] = {}
    begun = time.perf_counter()
    with torch_threads(threads):
        for number in range(rounds + 1):
            row = {}
            for name, call in cases.items():
                # A short call finds the caches as the case before left them: its first run in a round does not count.
                short = bool(number) and quickest.get(name, 1.0) < 2e-3
                for _ in range(4 if short else 1):
                    wait()
                    start = time.perf_counter()
                    out = call()
                    wait()
                    row[name] = time.perf_counter() - start
                    del out
                quickest[name] = min(row[name], quickest.get(name, row[name]))
            if number:
                rows.append(row)
            if len(rows) >= 3 and time.perf_counter() - begun > at_most:
                break
    if reference is not None:
        best = min(row[reference] for row in rows)
        rows = [row for row in rows if row[reference] <= 3 * best]
    return {name: Timing(tuple(row[name] for row in rows)) for name in cases}


def table(timings: Mapping[str, Timing], base: str, *, unit: str = "us") -> Iterator[str]:
    """A markdown table: lower quartile, quartiles, ratio of the lower quartiles to ``base``."""
    scale = {"us": 1e6, "ms": 1e3}[unit]
    yield f"| | lower quartile, {unit} | median, {unit} | upper quartile, {unit} | times {base} |"
    yield "|---|---|---|---|---|"
    least = timings[base].quartiles[0]
    for name, timing in timings.items():
        low, high = timing.quartiles
        yield (
            f"| {name} | {scale * low:,.1f} | {scale * timing.median:,.1f} | {scale * high:,.1f} | {low / least:.2f} |"
        )


def versions(*more: str) -> str:
    """Processor, cores and versions; ``more`` are further packages by their names."""
    from importlib.metadata import version

    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    why_not = mixaug_ext.why_not()
    kernel = f"no compiled kernels: {why_not}" if why_not else f"compiled kernels ({mixaug_ext.isa()})"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    packages = ", ".join(f"{name} {version(name)}" for name in more)
    return (
        f"{cpu}, {os.cpu_count()} cores{gpu}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, {packages + ', ' if packages else ''}{kernel}"
    )


def resident(field: str) -> int:
    """A size in bytes from /proc/self/status (Linux): ``VmRSS`` now, ``VmHWM`` at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_of(call: Call) -> int:
    """Bytes of resident memory that a call takes at its peak, its result included.

    To be run in a process of its own with ``MALLOC_ENVIRONMENT``: freed blocks then go back to the system at once.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = resident("VmRSS")
    out = call()
    peak = resident("VmHWM") - before
    del out
    return peak


MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
