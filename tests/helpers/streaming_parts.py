"""What the tests of streams share: pictures that show their index, and waiting."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mixaug.mixing_sets.streaming import StreamingSet
from mixaug.mixing_sets.streaming import producer as _producer

COUNT, SIZE, SMALL = 12, 16, 8
#: Seconds after which a test gives up: on a busy machine another process may take long to import torch.
PATIENCE = 100.0


@dataclass(frozen=True)
class Numbered:
    """Pictures that show their index: one grey level a picture, and the index in the first row of each channel."""

    count: int = COUNT
    size: int = SIZE
    fails_at: int = 2**62  # the producer cannot make this one

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.count, 3, self.size, self.size

    @property
    def stem(self) -> str:
        return f"numbered-n{self.count}-s{self.size}"

    @property
    def title(self) -> str:
        return f"{self.count} numbers"

    def chunks(self) -> Iterator[torch.Tensor]:
        yield numbers(0, self.count, self.size)

    def pictures_from(self, start: int, chunk: int, threads: int | None) -> Iterator[torch.Tensor]:
        while start + chunk <= self.fails_at:
            yield numbers(start, chunk, self.size)
            start += chunk
        raise ArithmeticError("no more numbers")


def numbers(start: int, count: int, size: int = SIZE) -> torch.Tensor:
    """Pictures ``start`` to ``start + count - 1`` of `Numbered`."""
    index = np.arange(start, start + count)
    pictures = np.repeat((index % 199 + 20).astype(np.uint8), 3 * size * size).reshape(count, 3, size, size)
    pictures[:, :, 0, :8] = index.astype("<i8").view(np.uint8).reshape(count, 1, 8)
    return torch.from_numpy(pictures)


def until(condition: Callable[[], object]) -> bool:
    """Whether ``condition`` comes true in time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def settled(stream: StreamingSet, beyond: int = 0) -> bool:
    """Uses the stream until it has made more than ``beyond`` pictures; then waits until the producer pauses."""
    if not until(lambda: stream.resized(SIZE) is not None and stream.made > max(beyond, COUNT)):
        return False
    control = stream._control
    return until(lambda: stream.made + _producer._CHUNK > control.used + COUNT)


def numbered(**arguments) -> StreamingSet:
    return StreamingSet.from_recipe(Numbered(), nice=0, **arguments)


def is_gone(pid: int) -> bool:
    """Whether a process has ended (one that was not waited for yet counts as ended)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return sys.platform == "linux"


def shown(pictures: torch.Tensor) -> list[int]:
    """The indices that pictures of `Numbered` show in each channel."""
    index = pictures[:, :, 0, :8].contiguous().numpy().view("<i8").squeeze(-1)
    assert (index == index[:, :1]).all()
    return index[:, 0].tolist()
