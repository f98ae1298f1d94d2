"""The corruptions against imagecorruptions-imaug, image by image in NumPy, one thread each; and the memory they take.

    OMP_NUM_THREADS=1 python benchmarks/bench_corruptions.py    the tables of docs/benchmarks.md (10 minutes)
    python benchmarks/bench_corruptions.py --quick              few rounds, to see that it runs
    python benchmarks/bench_corruptions.py --figure FILE.png    the memory as a figure too

Both make the imagenet preset, the only one the peer has, at 32 and at 224 px, each corruption at its five severities.
The batch of ours is in one call, the peer's images one after another; a round times ours and the peer in turns, and a
corruption's figure is the median over the rounds of the time of an image, the mean of the severities. Our cifar preset
is timed beside them. Times are the processor's, of the thread that does the work: other people's work on the machine
is not counted. Memory is the peak over what the process held before the call, its result included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from torch import Tensor

from mixaug.evaluate.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, corrupt

#: Side: images a batch, of them for the peer.
SIZES = {32: (128, 16), 224: (8, 3)}
MEMORY_COUNTS = (100, 1_000, 10_000)
MEMORY_NAMES = ("gaussian_noise", "zoom_blur", "elastic_transform", "jpeg_compression", "spatter")


def pictures(count: int, side: int) -> Tensor:
    """Smooth pictures with grain, uint8 (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)
    return ((smooth + 0.03 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1) * 255).to(torch.uint8)


def seconds(call: Any, *arguments: Any) -> float:
    start = time.thread_time()
    for severity in SEVERITIES:
        call(*arguments, severity)
    return time.thread_time() - start


def ours(images: Tensor, name: str, preset: str, severity: int) -> Tensor:
    return corrupt(images, name, severity, preset)


def theirs(arrays: list[np.ndarray], name: str, severity: int) -> list[np.ndarray]:
    from imagecorruptions import corrupt as peer

    return [peer(array, severity=severity, corruption_name=name) for array in arrays]


def timings(side: int, rounds: int, at_most: float) -> dict[str, tuple[float, float, float]]:
    """Milliseconds an image of each corruption: ours, the peer's, ours of the cifar preset."""
    count, few = SIZES[side]
    images = pictures(count, side)
    arrays = [np.ascontiguousarray(a) for a in images[:few].permute(0, 2, 3, 1).numpy()]
    found = {}
    for name in (*CORRUPTIONS, *EXTRA_CORRUPTIONS):
        rows: list[tuple[float, float, float]] = []
        begun = time.perf_counter()
        for number in range(rounds + 1):
            row = (
                seconds(ours, images, name, "imagenet") / count,
                seconds(theirs, arrays, name) / few,
                seconds(ours, images, name, "cifar") / count,
            )
            if number:  # the first round compiles and warms up
                rows.append(row)
            if len(rows) >= 3 and time.perf_counter() - begun > at_most:
                break
        found[name] = tuple(1e3 / len(SEVERITIES) * statistics.median(column) for column in zip(*rows, strict=True))
    return found


def speed_table(side: int, rounds: int, at_most: float) -> Iterator[str]:
    found = timings(side, rounds, at_most)
    yield f"\n**{side} px, RGB uint8, {SIZES[side][0]} images a batch**, milliseconds an image\n"
    yield "| | imagecorruptions-imaug | mixaug, imagenet preset | times as fast | mixaug, cifar preset |"
    yield "|---|---|---|---|---|"
    for name, (mine, peers, small) in found.items():
        yield f"| {name} | {peers:.3f} | {mine:.3f} | {peers / mine:.1f} | {small:.3f} |"
    for label, left in (("sum of the 15", ()), ("sum of the 15 without frost", ("frost",))):
        mine, peers, small = (sum(found[n][i] for n in CORRUPTIONS if n not in left) for i in range(3))
        yield f"| **{label}** | {peers:.2f} | {mine:.2f} | **{peers / mine:.1f}** | {small:.2f} |"


def peak(name: str, count: int, side: int) -> float:
    """Megabytes over what was held before, in this process."""
    images = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    images[:] = pictures(1, side)
    corrupt(images[:50], name, 3)  # compiled, and libraries loaded
    return measure.peak_of(lambda: corrupt(images, name, 3)) / 1e6


def memory() -> dict[str, list[float]]:
    """By name, for each number of images; from a process in which freed blocks go back to the system at once."""
    if not all(key in os.environ for key in measure.MALLOC_ENVIRONMENT):
        command, environment = [sys.executable, __file__, "--peak"], {**os.environ, **measure.MALLOC_ENVIRONMENT}
        made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return json.loads(made.stdout)  # type: ignore[no-any-return]
    found: dict[str, list[float]] = {}
    for name in MEMORY_NAMES:
        found[name] = [peak(name, count, 32) for count in MEMORY_COUNTS]
    return found


def memory_table(found: dict[str, list[float]]) -> Iterator[str]:
    yield "\n**Peak memory of one call**, 32 px, MB, the result included (Linux, resident)\n"
    yield "| | " + " | ".join(f"{count:,} images" for count in MEMORY_COUNTS) + " |"
    yield "|---|" + "---|" * len(MEMORY_COUNTS)
    yield "| the result alone | " + " | ".join(f"{count * 3072 / 1e6:.1f}" for count in MEMORY_COUNTS) + " |"
    for name, row in found.items():
        yield f"| {name} | " + " | ".join(f"{value:.0f}" for value in row) + " |"


def draw(found: dict[str, list[float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, row in found.items():
        axes.plot(MEMORY_COUNTS, row, marker="o", label=name)
    results = [count * 3072 / 1e6 for count in MEMORY_COUNTS]
    axes.plot(MEMORY_COUNTS, results, "k--", label="the result alone (uint8)")
    axes.plot(MEMORY_COUNTS, [4 * r for r in results], color="#8a8a8a", ls=":", label="one float32 copy of all")
    axes.set(xscale="log", xlabel="images of 32 px in one call", ylabel="peak memory, MB", ylim=(0, None))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Corruptions against imagecorruptions-imaug, as tables")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--only", choices=["speed", "memory"], help="one part alone")
    parser.add_argument("--figure", type=Path, help="where to draw the memory")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(json.dumps(memory()))
        return
    print(f"`python benchmarks/bench_corruptions.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    if args.only != "memory":
        warnings.simplefilter("ignore")  # the peer divides by zero where no water falls
        import cv2

        cv2.setNumThreads(1)
        packages = ("imagecorruptions-imaug", "numpy", "scikit-image", "opencv-python-headless")
        print(measure.versions(*packages) + "; one thread")
        for side in SIZES:
            for line in speed_table(side, 3 if args.quick else 15, 1.0 if args.quick else 6.0):
                print(line, flush=True)
    if args.only != "speed":
        found = memory()
        for line in memory_table(found):
            print(line, flush=True)
        if args.figure:
            draw(found, args.figure)


if __name__ == "__main__":
    main()
