"""The cache of a large mixing set: bytes, opening time, and memory of eight processes that use it.

    python benchmarks/bench_mixing_cache.py [--count 10000] [--size 256] [--workers 8]

The pictures are random bytes, because making real ones is another benchmark; the cache does not know the difference.
Opening is timed in fresh processes (from the call to the mapped tensor, checks included, imports not). For the memory
each worker reads every picture; what is counted is the proportional share of each process (PSS of the file's map in
``/proc/PID/smaps``), whose sum is the memory that the pictures take.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from mixaug.mixing_sets import MixingSet
from mixaug.mixing_sets.recipes import SyntheticRecipe

OPEN = """
import pickle, sys, time
from pathlib import Path
pictures = pickle.loads(Path(sys.argv[1]).read_bytes())
import numpy, torch, zlib
start = time.perf_counter()
first = pictures.pictures[0]
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class RandomBytes(SyntheticRecipe):
    """Stands in for a source."""

    def chunks(self) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.count, 64):
            n = min(64, self.count - start)
            yield torch.randint(0, 256, (n, 3, self.size, self.size), dtype=torch.uint8, generator=generator)


def share_of_map(path: Path) -> tuple[int, int]:
    """(PSS, RSS) in bytes of the maps of a file in this process."""
    pss = rss = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = words[-1] == str(path)
        elif inside and words[0] == "Pss:":
            pss += 1024 * int(words[1])
        elif inside and words[0] == "Rss:":
            rss += 1024 * int(words[1])
    return pss, rss


def worker(data: bytes, barrier: Barrier, queue: Queue[tuple[int, int, int]]) -> None:
    """Opens the set, reads all of it, and says what it holds while all the others hold it too."""
    pictures = pickle.loads(data)
    total = sum(int(piece.sum()) for piece in pictures.pictures.split(256))
    barrier.wait()
    shares = share_of_map(pictures.path)
    barrier.wait()
    queue.put((*shares, total))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIXAUG_CACHE"] = folder
        pictures = MixingSet(RandomBytes("fractals", options.count, options.size, 0), progress=True)
        start = time.perf_counter()
        _ = pictures.pictures
        written = time.perf_counter() - start
        if pictures.path is None:
            raise RuntimeError("the set could not be cached: is the disk full?")
        length = pictures.path.stat().st_size
        print(f"{options.count} pictures of {options.size} px: {length / 1e9:.3f} GB ({length / 2**30:.3f} GiB)")
        print(f"written in {written:.1f} s")
        # From here on as any other process sees it: this script's stand-in is not importable there.
        shared = MixingSet.fractals(options.count, options.size)
        if shared.pictures.shape[0] != options.count or shared.path != pictures.path:
            raise RuntimeError("the file that was written is not the one that is looked for")
        data = pickle.dumps(shared)
        message = Path(folder) / "set.pickle"
        message.write_bytes(data)
        command = [sys.executable, "-c", OPEN, str(message)]
        times = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(9)]
        print(f"opened in {1e3 * statistics.median(times):.1f} ms (median of 9 processes; most {1e3 * max(times):.1f})")
        context = multiprocessing.get_context("spawn")
        barrier, queue = context.Barrier(options.workers), context.Queue()
        workers = [context.Process(target=worker, args=(data, barrier, queue)) for _ in range(options.workers)]
        for process in workers:
            process.start()
        found = [queue.get() for _ in workers]
        for process in workers:
            process.join()
        together = sum(pss for pss, _, _ in found)
        print(
            f"{options.workers} workers: {together / 1e9:.3f} GB together, where each maps {found[0][1] / 1e9:.3f} GB"
        )


if __name__ == "__main__":
    main()
