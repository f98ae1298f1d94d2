"""What a training step of each method costs, in time and memory, against a plain step and against PGD's.

    python benchmarks/bench_training.py            the tables of docs/benchmarks.md (4 minutes)
    python benchmarks/bench_training.py --quick    the same with few rounds, to see that it runs
    make bench                                     with pytest-benchmark

The steps are those of ``mixaug train`` without data loading: attack, forward, backward, SGD with Nesterov momentum,
each method with its default adversary. *passes*: forward and backward passes of one batch of images; an attack's
backward pass stops at the images and leaves the weights' gradients out, a training pass has both. With a GPU: a CIFAR
ResNet-18 in bf16 and channels_last on 512 images, and the time that an epoch of 50,000 images takes at that rate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import measure
import pytest
import torch

from mixaug.models import build_model
from mixaug.train.methods import Setup, build_step
from mixaug.train.settings import TrainSettings

CLASSES, EPOCH = 10, 50_000
#: Method to the passes of its step: of the attack, and of training (in batches of the given size).
PASSES = {
    "standard": (0, 1), "pgd": (10, 1), "trades": (10, 2), "feature-scatter": (1, 1), "dynamic-mixcut": (20, 1),
    "hybrid": (1, 2),
}  # fmt: skip


def training_step(method: str, device: str, batch: int) -> measure.Call:
    """One step of a method, with a model, a batch and an optimiser of its own."""
    torch.manual_seed(0)
    name = "resnet18-cifar" if device == "cuda" else "resnet-small"
    model = build_model(name, CLASSES).to(device).to(memory_format=torch.channels_last).train()
    images = torch.rand(batch, 3, 32, 32).to(device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,)).to(device)
    generator = torch.Generator().manual_seed(0)
    step = build_step(Setup(TrainSettings(method=method, epochs=2), CLASSES, generator, model, 2))
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)

    def call() -> None:
        cast = torch.autocast("cuda", torch.bfloat16) if device == "cuda" else contextlib.nullcontext()
        with cast:
            result = step(model, images, labels)
        optimiser.zero_grad(set_to_none=True)
        result.loss.backward()
        optimiser.step()

    return call


@pytest.mark.parametrize("method", PASSES)
def bench_training_step(benchmark: Any, method: str) -> None:
    """One step of each method."""
    benchmark.group = "training step, resnet-small, 64x3x32x32"
    benchmark.extra_info.update(threads=torch.get_num_threads(), versions=measure.versions())
    benchmark.pedantic(training_step(method, "cpu", 64), rounds=7, iterations=1, warmup_rounds=1)


def time_table(device: str, batch: int, threads: int, quick: bool) -> Iterator[str]:
    cases = {method: training_step(method, device, batch) for method in PASSES}
    got = measure.interleaved(cases, 2 if quick else 15, threads=threads, device=device, at_most=240)
    rounds = len(got["standard"].seconds)
    model = "resnet18-cifar, bf16, GPU" if device == "cuda" else f"resnet-small, float32, {threads} thread(s)"
    yield f"\n**A training step**, {batch}x3x32x32, channels_last, {model} ({rounds} rounds, interleaved)\n"
    yield (
        "| method | passes of the attack | of training | median, ms | quartiles, ms | times standard | times pgd |"
        + (f" {EPOCH:,} images, s |" if device == "cuda" else "")
    )
    yield "|---|---|---|---|---|---|---|" + ("---|" if device == "cuda" else "")
    plain, pgd = got["standard"].median, got["pgd"].median
    for method, timing in got.items():
        attack, training = PASSES[method]
        low, high = (1e3 * value for value in timing.quartiles)
        yield (
            f"| {method} | {attack} | {training} | {1e3 * timing.median:.1f} | {low:.1f} to {high:.1f} "
            f"| {timing.median / plain:.2f} | {timing.median / pgd:.2f} |"
            + (f" {timing.median * EPOCH / batch:.1f} |" if device == "cuda" else "")
        )


def measure_memory(method: str, batch: int, device: str) -> None:
    """In a process of its own: prints the most memory that a step takes above the state before it, in bytes."""
    torch.set_num_threads(1)
    call = training_step(method, device, batch)
    if device == "cuda":
        call()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        extra = torch.cuda.max_memory_allocated() - before
    else:
        training_step(method, device, 2)()  # libraries are there
        extra = measure.peak_of(call)
    print(json.dumps({"extra": extra}))


def memory_table(device: str, batch: int) -> Iterator[str]:
    yield f"\n**Peak extra memory** of a first training step, {batch}x3x32x32 (Linux, resident; on a GPU allocated)\n"
    yield "| method | MB | times standard |"
    yield "|---|---|---|"
    base = None
    for method in PASSES:
        command = [sys.executable, __file__, "--memory", method, "--batch", str(batch), "--device", device]
        environment = os.environ | measure.MALLOC_ENVIRONMENT
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        if run.returncode:
            yield f"| {method} | not measured here | |"
            continue
        extra = json.loads(run.stdout)["extra"]
        base = base or extra
        yield f"| {method} | {extra / 1e6:.0f} | {extra / base:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="training steps of all methods, as tables")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--batch", type=int, help="images (default 64, on a GPU 512)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=["time", "memory"], help="one part alone")
    parser.add_argument("--memory", metavar="METHOD", choices=list(PASSES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    batch = args.batch or (512 if args.device == "cuda" else 64)
    if args.memory:
        measure_memory(args.memory, batch, args.device)
        return
    parts = {
        "time": time_table(args.device, batch, args.threads, args.quick),
        "memory": memory_table(args.device, batch),
    }
    print(f"`python benchmarks/bench_training.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    print(measure.versions())
    for name, lines in parts.items():
        if args.only in (None, name):
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
