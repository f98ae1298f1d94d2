"""The process that makes the fresh pictures of a stream: ``python -m mixaug.mixing_sets.streaming.producer``.

A process of its own, and not of `multiprocessing`: it takes no time from the trainer's interpreter, and the user's
script needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mixaug.mixing_sets.recipes import resize
from mixaug.mixing_sets.streaming.ring import CONTROL, RECIPE, Control, RingWriter, remove, ring_path, ring_sides
from mixaug.mixing_sets.streaming.supervisor import EndlessRecipe

_CHUNK = 8  # pictures made at a time: fractals come a third faster than one by one, and 1.5 MB at 256 px is little
_POLL = 0.05  # seconds between two looks while there is nothing to do


def produce(folder: Path, recipe: EndlessRecipe, alive: Callable[[], bool], threads: int) -> None:
    """Replaces the oldest picture of every ring by the next one, as long as ``alive()``.

    Never more than ``count`` pictures are made since the last use: a training that pauses costs nothing.
    """
    control = Control(folder / CONTROL)
    count = recipe.shape[0]
    chunk = min(_CHUNK, count)
    pieces = recipe.pictures_from(control.made, chunk, threads)
    rings: dict[int, RingWriter] = {}
    try:
        while alive():
            for side in ring_sides(folder):
                if side not in rings:
                    rings[side] = RingWriter(ring_path(folder, side), count, side)
            made = control.made
            if not rings or made + chunk > control.used + count:
                time.sleep(_POLL)
                continue
            pictures = next(pieces)
            for ring in rings.values():
                for k, picture in enumerate(resize(pictures, ring.side)):
                    ring.put(made + k, picture)
            control.made = made + len(pictures)
    finally:
        for ring in rings.values():
            ring.close()


def main() -> None:
    """Arguments: the folder of the stream, the process that it ends with, its threads and priority."""
    # Ctrl-C, a lost terminal and a batch system reach all processes at once. This one ends after the trainer, whose
    # files it removes.
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    import torch

    folder = Path(sys.argv[1])
    parent, threads, nice = (int(argument) for argument in sys.argv[2:])
    if hasattr(os, "nice"):
        os.nice(nice)
    torch.set_num_threads(threads)

    def alive() -> bool:
        return os.getppid() == parent

    if alive():
        produce(folder, pickle.loads((folder / RECIPE).read_bytes()), alive, threads)
    remove(folder)  # the parent was killed: nobody else would


if __name__ == "__main__":
    main()
