"""Pictures without an end: what a stream needs to know of its source."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from mixaug.mixing_sets.recipes import MixtureRecipe, PicturesRecipe, SyntheticRecipe, interleaved, resize
from mixaug.mixing_sets.sources import iter_pictures
from mixaug.mixing_sets.streaming.ring import CONTROL, RECIPE, Control, RingFolder


class EndlessRecipe(Protocol):
    """How to make a set of pictures and all that follow; small, and importable where it is unpickled."""

    @property
    def shape(self) -> tuple[int, int, int, int]: ...

    @property
    def stem(self) -> str: ...

    @property
    def title(self) -> str: ...

    def chunks(self) -> Iterator[torch.Tensor]:
        """The first pictures, as uint8 (n, 3, S, S) pieces."""

    def pictures_from(self, start: int, chunk: int, threads: int | None) -> Iterator[torch.Tensor]:
        """Pictures ``start``, ``start + 1``, ... without an end, in pieces of at most ``chunk``."""


@dataclass(frozen=True)
class EndlessSynthetic(SyntheticRecipe):
    """A synthetic source; its first pictures are those of the finite set, in the same cache file."""

    def pictures_from(self, start: int, chunk: int, threads: int | None) -> Iterator[torch.Tensor]:
        return iter_pictures(
            self.source, None, self.size, self.seed, start=start, kinds=self.kinds, chunk=chunk, threads=threads
        )


@dataclass(frozen=True)
class EndlessMixture(MixtureRecipe):
    """A mixture of endless recipes: after the first pictures of each come the next ones, in the same pattern."""

    def pictures_from(self, start: int, chunk: int, threads: int | None) -> Iterator[torch.Tensor]:
        order = interleaved(self.counts)
        block, place = divmod(start, len(order))
        taken = [block * count + sum(k == part for k, _ in order[:place]) for part, count in enumerate(self.counts)]
        streams = [
            self._singles(endless_recipe(part), first, chunk, threads)
            for part, first in zip(self.parts, taken, strict=True)
        ]
        while True:
            pieces = []
            for _ in range(chunk):
                pieces.append(next(streams[order[place][0]]))
                place = (place + 1) % len(order)
            yield torch.stack(pieces)

    def _singles(self, part: EndlessRecipe, start: int, chunk: int, threads: int | None) -> Iterator[torch.Tensor]:
        for pictures in part.pictures_from(start, chunk, threads):
            yield from resize(pictures, self.size)


def endless_recipe(recipe: PicturesRecipe | None) -> EndlessRecipe:
    """The recipe whose first pictures are those of ``recipe``, and which then goes on.

    Raises:
        TypeError: pictures of a folder or a tensor, which have no next one, take part.
    """
    if isinstance(recipe, SyntheticRecipe):
        return EndlessSynthetic(recipe.source, recipe.count, recipe.size, recipe.seed, recipe.kinds)
    if isinstance(recipe, MixtureRecipe):
        for part in recipe.parts:
            endless_recipe(part)
        return EndlessMixture(recipe.parts, recipe.counts, recipe.size)
    what = "pictures in memory" if recipe is None else recipe.title
    raise TypeError(f"a stream needs synthetic sources (fractals, ifs, ...) or a mixture of them, got {what}")


_LOG = "producer.log"


class Supervisor:
    """The owner's hold on the producer.

    A thread waits for the producer to end, without using the interpreter: the pictures may be used in loader workers
    only, so no call in this process would notice.

    Args:
        folder: new; removed by `close`.
        recipe: of the pictures.
        threads: of the producer.
        nice: its priority.

    Raises:
        OSError: the folder cannot be written, or the process not started.
    """

    def __init__(self, folder: RingFolder, recipe: EndlessRecipe, threads: int, nice: int) -> None:
        self._folder, self._threads, self._nice = folder, threads, nice
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        Control.create(folder.path / CONTROL, recipe.shape[0])
        (folder.path / RECIPE).write_bytes(pickle.dumps(recipe))
        self._process = self._start()
        self._watcher = threading.Thread(target=self._watch, name="mixaug-stream", daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int:
        """Process id of the producer."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a producer, or will be again."""
        return self._watcher.is_alive()

    def close(self) -> None:
        """Ends the producer and removes the folder. In a process that was forked meanwhile, nothing."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._process.kill()  # it has nothing to save
        self._watcher.join()
        self._folder.close()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P and PYTHONPATH: exactly this process' sys.path, so that what is importable here is importable there.
        command = [sys.executable, "-P", "-m", "mixaug.mixing_sets.streaming.producer"]
        arguments = [str(self._folder.path), str(self._owner), str(self._threads), str(self._nice)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(part or os.getcwd() for part in sys.path),
            "CUDA_VISIBLE_DEVICES": "",  # no memory of the trainer's GPU
            "OMP_NUM_THREADS": str(self._threads),
        }
        with open(self._folder.path / _LOG, "ab") as log:
            return subprocess.Popen(
                command + arguments, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )

    def _watch(self) -> None:
        reason = self._wait()
        with self._lock:
            if self._closed:
                return
            try:
                self._process = self._start()
            except OSError as error:  # the folder is gone too
                again = str(error)
            else:
                again = ""
        if not again:
            again = self._wait()
            if self._closed:
                return
        warnings.warn(
            f"the process that makes fresh mixing pictures ended ({reason}), and again after a new start ({again}); "
            "the last pictures go on being used",
            RuntimeWarning,
            stacklevel=1,
        )

    def _wait(self) -> str:
        """Waits for the producer to end and says why it did."""
        status = self._process.wait()
        if status < 0:
            return f"signal {-status}"
        try:
            lines = (self._folder.path / _LOG).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else f"exit status {status}"
