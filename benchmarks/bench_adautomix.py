"""What a step of AdAutoMix costs, in time and memory: N = 1 to 5, the cheaper settings, the passes by themselves.

    python benchmarks/bench_adautomix.py            the tables of docs/benchmarks.md (5 minutes)
    python benchmarks/bench_adautomix.py --quick    the same with few rounds, to see that it runs
    make bench                                      with pytest-benchmark

N = 1 is a plain step. Steps are whole training steps without data loading: both players' forward and backward passes,
both optimisers, the teacher. *Counted*: forward passes of the model on the batch, a backward pass as two, one that
stops at the images as one; a plain step is 3. *Bare passes*: the same passes of the same models, one after the other,
with nothing else: what is beyond them is the generator, the mixing, the losses and the two further steps. With a GPU: a
CIFAR ResNet-18 in bf16 and channels_last.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import measure
import pytest
import torch

from mixaug import AdAutoMix
from mixaug.losses import soft_target_cross_entropy
from mixaug.models import build_model

CLASSES = 10
#: Settings by name; None is the plain step.
CASES: dict[str, dict[str, Any] | None] = {
    "N = 1, plain step": None,
    **{f"N = {n}": {"n_mix": n} for n in (2, 3, 4, 5)},
    "co-operative": {"adversarial": False},
    "shared draws": {"shared_draws": True},
    "generator every 4 steps, on half": {"generator_every": 4, "generator_share": 0.5},
    "the same, terms on a quarter": {"generator_every": 4, "generator_share": 0.5, "terms_share": 0.25},
}
PLAIN, OURS = "N = 1, plain step", "N = 3"


def counted(settings: dict[str, Any] | None) -> float:
    """Forward passes of a step, a backward pass as two, one to the images alone as one."""
    if settings is None:
        return 3.0
    terms, every = settings.get("terms_share", 1.0), settings.get("generator_every", 1)
    # The teacher's pass of the batch; its part that stops at the features is counted whole.
    passes = 3 + 2 * 3 * terms + 1
    classifier = 0.0 if settings.get("shared_draws") else 2.0
    return float(passes + (classifier + 2.0) * settings.get("generator_share", 1.0) / every)


class Inputs:
    """Model and batches of a device.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        batch: images.
    """

    def __init__(self, device: str, batch: int) -> None:
        torch.manual_seed(0)
        self.device, self.batch = device, batch
        name = "resnet18-cifar" if device == "cuda" else "resnet-small"
        self.model = build_model(name, CLASSES).to(device).to(memory_format=torch.channels_last).train()
        self.images = torch.rand(batch, 3, 32, 32).to(device).contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, CLASSES, (batch,)).to(device)

    def cast(self) -> Any:
        """Autocast on a GPU."""
        return torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else contextlib.nullcontext()


class Steps:
    """Training steps of one case; a call makes as many as the generator's turn takes, so that each call costs the same.

    Args:
        inputs: model and batch.
        settings: of AdAutoMix; None: a plain step.
    """

    def __init__(self, inputs: Inputs, settings: dict[str, Any] | None) -> None:
        self.inputs, self.settings = inputs, settings
        self.model = copy.deepcopy(inputs.model)
        self.opt = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
        self.count = 1
        if settings is not None:
            draws = torch.Generator().manual_seed(0)
            self.mixer = AdAutoMix(self.model, CLASSES, generator=draws, **settings)
            self.generator_opt = torch.optim.SGD(self.mixer.generator.parameters(), 0.01, momentum=0.9)
            self.count = int(settings.get("generator_every", 1))

    def __call__(self) -> None:
        for _ in range(self.count):
            self.plain() if self.settings is None else self.learned()

    def plain(self) -> None:
        """Forward, backward, SGD."""
        with self.inputs.cast():
            loss = soft_target_cross_entropy(self.model(self.inputs.images), self.inputs.labels)
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        self.opt.step()

    def learned(self) -> None:
        """A step of both players and the teacher."""
        with self.inputs.cast():
            out = self.mixer(self.inputs.images, self.inputs.labels)
        self.opt.zero_grad(set_to_none=True)
        self.generator_opt.zero_grad(set_to_none=True)
        out.classifier_loss.backward()
        out.generator_loss.backward()
        self.opt.step()
        self.generator_opt.step()
        self.mixer.update_teacher(0, 100)


class Bare:
    """The passes of a step with the default settings, and nothing else.

    Args:
        inputs: model and batch.
    """

    count = 1

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.model = copy.deepcopy(inputs.model)
        self.teacher = copy.deepcopy(inputs.model).eval().requires_grad_(False)
        self.opt = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)

    def __call__(self) -> None:
        i = self.inputs
        with torch.no_grad(), i.cast():
            self.teacher(i.images)
        with i.cast():
            losses = [soft_target_cross_entropy(self.model(i.images), i.labels) for _ in range(3)]
            self.model.requires_grad_(False)
            pictures = i.images.detach().requires_grad_()
            losses += [soft_target_cross_entropy(f(pictures), i.labels) for f in (self.model, self.teacher)]
            self.model.requires_grad_(True)
        self.opt.zero_grad(set_to_none=True)
        sum(losses[:3], torch.zeros((), device=i.device)).backward()
        torch.autograd.grad(losses[3] + losses[4], pictures)
        self.opt.step()


@pytest.mark.parametrize("name", CASES)
def bench_adautomix_step(benchmark: Any, name: str) -> None:
    """One step of each setting."""
    benchmark.group = "AdAutoMix step, resnet-small, 64x3x32x32"
    benchmark.extra_info.update(threads=torch.get_num_threads(), versions=measure.versions())
    steps = Steps(Inputs("cpu", 64), CASES[name])
    benchmark.extra_info["steps_per_call"] = steps.count
    benchmark.pedantic(steps, rounds=7, iterations=1, warmup_rounds=1)


def time_table(device: str, batch: int, threads: int, quick: bool) -> Iterator[str]:
    inputs = Inputs(device, batch)
    cases: dict[str, Steps | Bare] = {name: Steps(inputs, settings) for name, settings in CASES.items()}
    cases["bare passes of N = 3"] = Bare(inputs)
    got = measure.interleaved(cases, 2 if quick else 15, threads=threads, device=device, at_most=300)
    model = "resnet18-cifar, bf16, GPU" if device == "cuda" else f"resnet-small, float32, {threads} thread(s)"
    rounds = len(got[PLAIN].seconds)
    yield f"\n**A step of AdAutoMix**, {batch}x3x32x32, channels_last, {model} ({rounds} rounds, interleaved)\n"
    yield "| | counted | counted, times plain | median, ms | quartiles, ms | times plain | times its count |"
    yield "|---|---|---|---|---|---|---|"
    plain = got[PLAIN].median
    for name, timing in got.items():
        count = cases[name].count
        passes = counted(CASES.get(name, {}))
        ratio = timing.median / count / plain
        low, high = (1e3 * value / count for value in timing.quartiles)
        yield (
            f"| {name} | {passes:.2f} | {passes / 3:.2f} | {1e3 * timing.median / count:.1f} | {low:.1f} to {high:.1f} "
            f"| {ratio:.2f} | {3 * ratio / passes:.2f} |"
        )
    beyond = got[OURS].median / got["bare passes of N = 3"].median
    yield f"\nN = 3 takes {beyond:.2f} times its bare passes.\n"


def measure_memory(name: str, batch: int, device: str) -> None:
    """In a process of its own: prints the most memory that a step takes above the state before it, in bytes."""
    torch.set_num_threads(1)
    steps = Steps(Inputs(device, batch), CASES[name])
    if device == "cuda":
        steps()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        steps()
        extra = torch.cuda.max_memory_allocated() - before
    else:
        Steps(Inputs(device, 8), CASES[name])()  # libraries are there
        extra = measure.peak_of(steps)
    print(json.dumps({"extra": extra}))


def memory_table(device: str, batch: int) -> Iterator[str]:
    yield f"\n**Peak extra memory** of a first step, {batch}x3x32x32 (Linux, resident; on a GPU allocated)\n"
    yield "| | MB | times plain |"
    yield "|---|---|---|"
    base = None
    for name in CASES:
        command = [sys.executable, __file__, "--memory", name, "--batch", str(batch), "--device", device]
        run = subprocess.run(command, capture_output=True, text=True, env=os.environ | measure.MALLOC_ENVIRONMENT)
        if run.returncode:
            yield f"| {name} | not measured here | |"
            continue
        extra = json.loads(run.stdout)["extra"]
        base = base or extra
        yield f"| {name} | {extra / 1e6:.0f} | {extra / base:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="steps of AdAutoMix, as tables")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--batch", type=int, help="images (default 100, on a GPU 512)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=["time", "memory"], help="one part alone")
    parser.add_argument("--memory", metavar="CASE", choices=list(CASES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    batch = args.batch or (512 if args.device == "cuda" else 100)
    if args.memory:
        measure_memory(args.memory, batch, args.device)
        return
    parts = {
        "time": time_table(args.device, batch, args.threads, args.quick),
        "memory": memory_table(args.device, batch),
    }
    print(f"`python benchmarks/bench_adautomix.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    print(measure.versions())
    for name, lines in parts.items():
        if args.only in (None, name):
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
