"""PGD against a hand-written loop and foolbox, two views against one attack, and the cost of a training step.

    python benchmarks/bench_attacks.py            the tables of docs/benchmarks.md (5 minutes)
    python benchmarks/bench_attacks.py --quick    the same with few rounds, to see that it runs
    make bench                                    with pytest-benchmark, a group for each table

*hand-written loop* is the fifteen lines that people copy: random start, then ten times a forward pass, the gradient
for the images, a step by its sign, a projection; parameters keep ``requires_grad``, as they do there, and the model
is in evaluation mode. *frozen loop* is the same with the parameters' gradients switched off, which our engine does
for the time of an attack. All start at points of their own; a step's cost does not depend on them. The training steps
are those of ``mixaug train`` without data loading: attack, forward, backward, SGD.

With a GPU: a CIFAR ResNet-18 in bf16 and channels_last, the device waited for inside each timed call.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import measure
import pytest
import torch
from torch import Tensor, nn

from mixaug.attacks import PGD, two_views
from mixaug.train.methods import Setup, build_step
from mixaug.train.models import build_model
from mixaug.train.settings import TrainSettings

EPS, STEP_SIZE, STEPS, CLASSES = 8 / 255, 2 / 255, 10, 10
PGD_CASES = ("hand-written loop", "frozen loop", "PGD", "foolbox LinfPGD")
VIEW_CASES = ("PGD, doubled batch", "two_views", "PGD twice")
METHODS = ("standard", "pgd", "trades", "feature-scatter", "dynamic-mixcut", "hybrid")


def hand_written(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Fifteen lines, without a check."""
    x = images + torch.empty_like(images).uniform_(-EPS, EPS)
    x = x.clamp(0, 1)
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(x), labels)
        gradient = torch.autograd.grad(loss, x)[0]
        with torch.no_grad():
            x = x + STEP_SIZE * gradient.sign()
            x = torch.minimum(torch.maximum(x, images - EPS), images + EPS).clamp(0, 1)
    return x.detach()


def frozen(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The same, the parameters' gradients off."""
    model.requires_grad_(False)
    try:
        return hand_written(model, images, labels)
    finally:
        model.requires_grad_(True)


class Inputs:
    """A model in evaluation mode and a batch on its device."""

    def __init__(self, device: str, batch: int) -> None:
        torch.manual_seed(0)
        name = "resnet18" if device == "cuda" else "resnet-small"
        self.device, self.name = device, name
        self.model = build_model(name, CLASSES).to(device).to(memory_format=torch.channels_last).eval()
        self.images = torch.rand(batch, 3, 32, 32).to(device).contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, CLASSES, (batch,)).to(device)

    def cast(self) -> Any:
        return torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else contextlib.nullcontext()


@functools.cache
def inputs(device: str, batch: int) -> Inputs:
    return Inputs(device, batch)


def within(i: Inputs, call: Callable[[], object]) -> measure.Call:
    def inside() -> object:
        with i.cast():
            return call()

    return inside


def pgd_cases(i: Inputs) -> dict[str, measure.Call]:
    attack = PGD(EPS, STEP_SIZE, STEPS)
    calls: list[Callable[[], object]] = [
        lambda: hand_written(i.model, i.images, i.labels),
        lambda: frozen(i.model, i.images, i.labels),
        lambda: attack(i.model, i.images, i.labels),
        foolbox_pgd(i),
    ]
    return {name: within(i, call) for name, call in zip(PGD_CASES, calls, strict=True)}


def foolbox_pgd(i: Inputs) -> Callable[[], object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox

        theirs = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=True)
        wrapped = foolbox.PyTorchModel(i.model, bounds=(0, 1), device=i.images.device)
    return lambda: theirs.run(wrapped, i.images, i.labels, epsilon=EPS)


def view_cases(i: Inputs) -> dict[str, measure.Call]:
    attack = PGD(EPS, STEP_SIZE, STEPS, targeted=True)
    calls: list[Callable[[], object]] = [
        lambda: attack(i.model, torch.cat([i.images, i.images]), torch.cat([i.labels, i.labels])),
        lambda: two_views(attack, i.model, i.images, i.labels),
        lambda: (attack(i.model, i.images, i.labels), attack(i.model, i.images, i.labels)),
    ]
    return {name: within(i, call) for name, call in zip(VIEW_CASES, calls, strict=True)}


def training_cases(i: Inputs) -> dict[str, measure.Call]:
    """One step of each method, with a model and an optimiser of its own."""
    return {name: training_step(i, name) for name in METHODS}


def training_step(i: Inputs, method: str) -> measure.Call:
    settings = TrainSettings(method=method, epochs=2)
    model = build_model(i.name, CLASSES).to(i.device).to(memory_format=torch.channels_last).train()
    step = build_step(Setup(settings, CLASSES, torch.Generator().manual_seed(0), model, 2))
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)

    def call() -> None:
        with i.cast():
            result = step(model, i.images, i.labels)
        optimiser.zero_grad(set_to_none=True)
        result.loss.backward()
        optimiser.step()

    return call


# ------------------------------------------------------------------ pytest-benchmark


@pytest.mark.parametrize("name", PGD_CASES)
def bench_pgd(benchmark: Any, name: str) -> None:
    """PGD-10, all forms."""
    benchmark.group = "PGD-10, resnet-small, 64x3x32x32"
    _measure(benchmark, pgd_cases(inputs("cpu", 64))[name])


@pytest.mark.parametrize("name", VIEW_CASES)
def bench_views(benchmark: Any, name: str) -> None:
    """Two views of each image."""
    benchmark.group = "two views by PGD-10, resnet-small, 64x3x32x32"
    _measure(benchmark, view_cases(inputs("cpu", 64))[name])


@pytest.mark.parametrize("name", METHODS)
def bench_training_step(benchmark: Any, name: str) -> None:
    """One step of each method."""
    benchmark.group = "training step, resnet-small, 64x3x32x32"
    _measure(benchmark, training_cases(inputs("cpu", 64))[name])


def _measure(benchmark: Any, call: measure.Call) -> None:
    benchmark.extra_info.update(threads=torch.get_num_threads(), versions=measure.versions("foolbox"))
    benchmark.pedantic(call, rounds=7, iterations=1, warmup_rounds=1)


# ------------------------------------------------------------------ the tables


def speed_tables(device: str, batch: int, threads: int, quick: bool) -> Iterator[str]:
    i, rounds = inputs(device, batch), 2 if quick else 15
    precision = "bf16" if device == "cuda" else "float32"
    where = "GPU" if device == "cuda" else f"{threads} thread" + ("s" if threads > 1 else "")
    for title, cases, base in (
        ("PGD-10", pgd_cases(i), "hand-written loop"),
        ("Two views by PGD-10", view_cases(i), "PGD, doubled batch"),
        ("One training step", training_cases(i), "standard"),
    ):
        got = measure.interleaved(cases, rounds, threads=threads, device=device, at_most=120)
        count = len(got[base].seconds)
        yield f"\n**{title}, {i.name}, {batch}x3x32x32, {precision}, channels_last, {where}** ({count} rounds)\n"
        yield from measure.table(got, base, unit="ms")


def measure_memory(batch: int, name: str) -> None:
    """In a process of its own: prints the peak of resident memory above the state before the call, in bytes."""
    i, small = Inputs("cpu", batch), Inputs("cpu", 4)
    torch.set_num_threads(1)
    every = {**pgd_cases(i), **training_cases(i)}
    ({**pgd_cases(small), **training_cases(small)})[name]()  # libraries are there
    print(json.dumps({"extra": measure.peak_of(every[name]), "batch": i.images.nbytes}))


def memory_table(batch: int) -> Iterator[str]:
    yield f"\n**Peak extra memory**, resnet-small, {batch}x3x32x32, float32 (Linux, resident)\n"
    yield "| | MB | times the hand-written loop or the standard step |"
    yield "|---|---|---|"
    environment = os.environ | measure.MALLOC_ENVIRONMENT
    for names in (PGD_CASES[:3], METHODS):
        base = None
        for name in names:
            command = [sys.executable, __file__, "--memory", name, "--batch", str(batch)]
            run = subprocess.run(command, capture_output=True, text=True, env=environment)
            if run.returncode:
                yield f"| {name} | not measured here | |"
                continue
            extra = json.loads(run.stdout)["extra"]
            base = base or extra
            yield f"| {name} | {extra / 1e6:.0f} | {extra / base:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="attacks and training steps against their peers, as tables")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--batch", type=int, help="images (default 64, on a GPU 512)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=["speed", "memory"], help="one part alone")
    parser.add_argument("--memory", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    batch = args.batch or (512 if args.device == "cuda" else 64)
    if args.memory:
        measure_memory(batch, args.memory)
        return
    parts = {
        "speed": speed_tables(args.device, batch, args.threads, args.quick),
        "memory": memory_table(batch),
    }
    print(f"`python benchmarks/bench_attacks.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    print(measure.versions("foolbox"))
    for name, lines in parts.items():
        if args.only in (None, name):
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
