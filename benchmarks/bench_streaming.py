"""What fresh pictures cost: a loader with IPMix and a small training step, a fixed set against a streaming one.

    python benchmarks/bench_streaming.py [--rounds 8] [--steps 60] [--nice 0 10 19]

Workers augment image by image; the main process trains on two threads. The two cases take turns, a short epoch each a
round; during the fixed set's turn the producer is stopped. The ratio is the median of the rounds' ratios. On a shared
machine the processor times say more: those of the trainer and its workers a step, in both cases, and which part of all
of it the producer took.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

import torch
from measure import torch_threads, versions
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixaug import IPMix, MixingSet
from mixaug.mixing_sets.streaming import NICE, StreamingSet

BATCH = 64


class Images(Dataset):
    """Random images through IPMix; as many as ``steps`` batches take."""

    def __init__(self, mixing_set: MixingSet, side: int, steps: int) -> None:
        self.augment = IPMix(mixing_set=mixing_set)
        self.images = torch.randint(0, 256, (256, 3, side, side), dtype=torch.uint8)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps * BATCH

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.augment(self.images[index % 256]), index % 10


class Training:
    """A small convolutional network and its optimiser."""

    def __init__(self) -> None:
        layers: list[torch.nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 64)):
            layers += [torch.nn.Conv2d(before, after, 3, 2, 1), torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
        self.model = torch.nn.Sequential(
            *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)
        )
        self.optimiser = torch.optim.SGD(self.model.parameters(), 0.01)

    def step(self, images: Tensor, labels: Tensor) -> None:
        loss = torch.nn.functional.cross_entropy(self.model(images.float() / 255), labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def seconds_a_step(loader: DataLoader, training: Training, steps: int) -> float:
    """Of one epoch, without its first batches: workers fill their queues then."""
    begun = 0.0
    for k, (images, labels) in enumerate(loader):
        if k == 8:
            begun = time.perf_counter()
        training.step(images, labels)
    return (time.perf_counter() - begun) / (steps - 8)


def memory(pid: int) -> float:
    """MB of a process that it shares with none."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc has no RssAnon")


def processor_seconds(pids: list[int]) -> float:
    """User and system time of processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(side: int, workers: int, nice: int, rounds: int, steps: int) -> str:
    """One row of the table."""
    training = Training()
    fixed = MixingSet.fractals()
    with StreamingSet("fractals", nice=0) as stream:
        producer = stream._supervisor
        assert producer is not None and stream._folder is not None
        loaders = [
            DataLoader(Images(pictures, side, steps), BATCH, num_workers=workers, persistent_workers=True)  # type: ignore[arg-type]
            for pictures in (fixed, stream)
        ]
        for loader in loaders:
            seconds_a_step(loader, training, steps)
        while stream.made == len(stream):  # the producer imports torch and compiles
            time.sleep(0.1)
            if not producer.running:
                raise RuntimeError("the producer ended")
        os.setpriority(os.PRIO_PROCESS, producer.pid, nice)  # from here on: the start-up would take long at nice 19
        trainer = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]
        rows: list[tuple[float, float]] = []
        awake, fresh, taken, processor = 0.0, 0, 0.0, [0.0, 0.0]
        for number in range(rounds):
            row = [0.0, 0.0]
            for case in (0, 1) if number % 2 else (1, 0):
                if case == 0:
                    os.kill(producer.pid, signal.SIGSTOP)
                before = stream.made, processor_seconds(trainer), processor_seconds([producer.pid])
                begun = time.perf_counter()
                row[case] = seconds_a_step(loaders[case], training, steps)
                processor[case] += processor_seconds(trainer) - before[1]
                if case == 0:
                    os.kill(producer.pid, signal.SIGCONT)
                else:
                    awake += time.perf_counter() - begun
                    fresh += stream.made - before[0]
                    taken += processor_seconds([producer.pid]) - before[2]
            rows.append((row[0], row[1]))
        ratios = sorted(b / a for a, b in rows)
        low, _, high = statistics.quantiles(ratios, n=4)
        files = sum(path.stat().st_size for path in stream._folder.glob("*.ring")) / 1e6
        each = [1e3 * seconds / (rounds * steps) for seconds in processor]
        return (
            f"| {side} | {workers} | {nice} | {1e3 * statistics.median(a for a, _ in rows):.0f} "
            f"| {1e3 * statistics.median(b for _, b in rows):.0f} | {statistics.median(ratios):.2f} "
            f"({low:.2f} to {high:.2f}) | {each[0]:.0f} | {each[1]:.0f} | {100 * taken / (taken + processor[1]):.1f}% "
            f"| {fresh / awake:.1f} | {fresh / taken:.0f} | {memory(producer.pid):.0f} | {files:.1f} |"
        )


def calls() -> str:
    """What a call of `resized` costs."""
    with StreamingSet("fractals") as stream:
        sets = {"fixed": MixingSet.fractals(), "streaming": stream}
        words = []
        for name, pictures in sets.items():
            pictures.resized(36)
            begun = time.perf_counter()
            for _ in range(20_000):
                pictures.resized(36)
            words.append(f"{name} {(time.perf_counter() - begun) / 20_000 * 1e6:.2f} us")
    return "a call of resized: " + ", ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--nice", type=int, nargs="+", default=[NICE])
    parser.add_argument("--sides", type=int, nargs="+", default=[32])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    print(versions("numba"))
    print(f"fractals of 256 px, 512 at a time; batches of {BATCH}; temporary folder {tempfile.gettempdir()}")
    print(calls())
    columns = [
        "image, px", "workers", "nice", "fixed, ms a step", "streaming, ms a step", "ratio (quartiles)",
        "fixed, processor ms a step", "streaming, processor ms a step", "the producer's part", "fresh a second",
        "fresh a processor second", "producer, MB of its own", "rings, MB",
    ]  # fmt: skip
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    with torch_threads(2):
        for side in arguments.sides:
            for workers in arguments.workers:
                for nice in arguments.nice:
                    print(measure(side, workers, nice, arguments.rounds, arguments.steps), flush=True)


if __name__ == "__main__":
    main()
