"""PGD against a loop written by hand and other libraries' PGD; two views against two attacks; peak memory.

    python benchmarks/bench_attacks.py            the tables of docs/benchmarks.md (5 minutes)
    python benchmarks/bench_attacks.py --quick    the same with few rounds and images, to see that it runs
    make bench                                    with pytest-benchmark, a group for each table

*written by hand* is what one writes without a library: the least that a PGD of these settings can cost, with
``torch.autograd.grad`` for the images only. *foolbox* and *torchattacks* (where installed) are called as their pages
show; both call the model as often. All make the same 10 steps from a random start, on a model in evaluation mode.
*PGD, doubled batch* is one attack on ``cat([x, x])``, the least that two views can cost.

A ratio is the median, over the rounds, of a call's time to that of the base in the same round, with its quartiles: a
slow minute hits both.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import measure
import pytest
import torch
from torch import Tensor, nn

from mixaug.attacks import PGD, two_views
from mixaug.models import build_model

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
BY_HAND = "written by hand"
#: Model, images a batch: one where the passes are nearly all, one where what is around them shows most.
CASES = [("resnet-small", 32), ("lenet5", 64)]
GPU_CASES = [("resnet18-cifar", 512), ("resnet-small", 512)]
QUICK_CASES = [("lenet5", 8)]
OTHERS = tuple(name for name in ("foolbox", "torchattacks") if importlib.util.find_spec(name))


def pgd_by_hand(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The usual loop, nothing checked and nothing kept."""
    low, high = (images - EPS).clamp(0, 1), (images + EPS).clamp(0, 1)
    x = images + EPS * (2 * torch.rand_like(images) - 1)
    x = torch.clamp(x, low, high)
    for _ in range(STEPS):
        x.requires_grad_()
        loss = nn.functional.cross_entropy(model(x), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        x = torch.clamp(x.detach() + STEP * gradient.sign(), low, high)
    return x


@functools.cache
def foolbox_module() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports from SciPy
        import foolbox

    return foolbox


def foolbox_pgd(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    foolbox = foolbox_module()
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    return attack.run(wrapped, images, labels, epsilon=EPS)


def torchattacks_pgd(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    import torchattacks

    return torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)(images, labels)


class Inputs:
    """A model with its batch; on a GPU in channels_last."""

    def __init__(self, name: str, batch: int, device: str) -> None:
        torch.manual_seed(0)
        model = build_model(name, 10, 3, 32, (0.5,) * 3, (0.25,) * 3).eval().to(device)
        x = torch.rand(batch, 3, 32, 32).to(device)
        if device == "cuda":
            model, x = (thing.to(memory_format=torch.channels_last) for thing in (model, x))
        self.model: nn.Module = model
        self.x: Tensor = x
        self.labels = torch.randint(10, (batch,)).to(device)
        self.doubled = torch.cat([self.x, self.x]), torch.cat([self.labels, self.labels])


@functools.cache
def inputs(name: str, batch: int, device: str) -> Inputs:
    return Inputs(name, batch, device)


def in_bfloat16(call: measure.Call) -> measure.Call:
    def run() -> object:
        with torch.autocast("cuda", torch.bfloat16):
            return call()

    return run


def pgd_cases(i: Inputs) -> dict[str, measure.Call]:
    attack = PGD(EPS, STEP, STEPS)
    cases: dict[str, measure.Call] = {
        BY_HAND: lambda: pgd_by_hand(i.model, i.x, i.labels),
        "mixaug PGD": lambda: attack(i.model, i.x, i.labels),
    }
    if "foolbox" in OTHERS:
        cases["foolbox LinfPGD"] = lambda: foolbox_pgd(i.model, i.x, i.labels)
    if "torchattacks" in OTHERS:
        cases["torchattacks PGD"] = lambda: torchattacks_pgd(i.model, i.x, i.labels)
    return cases


def view_cases(i: Inputs) -> dict[str, measure.Call]:
    attack = PGD(EPS, STEP, STEPS, targeted=True)
    return {
        "PGD, doubled batch": lambda: attack(i.model, *i.doubled),
        "two_views": lambda: two_views(attack, i.model, i.x, i.labels),
        "two attacks": lambda: (attack(i.model, i.x, i.labels), attack(i.model, i.x, i.labels)),
        "written by hand, doubled batch": lambda: pgd_by_hand(i.model, *i.doubled),
    }


KINDS = {"PGD-10": pgd_cases, "two views by PGD-10": view_cases}
PGD_NAMES = (BY_HAND, "mixaug PGD", "foolbox LinfPGD", "torchattacks PGD")
VIEW_NAMES = ("PGD, doubled batch", "two_views", "two attacks", "written by hand, doubled batch")


# ------------------------------------------------------------------ pytest-benchmark


@pytest.mark.parametrize("name", PGD_NAMES)
@pytest.mark.parametrize(("model", "batch"), CASES)
def bench_pgd(benchmark: Any, model: str, batch: int, name: str) -> None:
    """One attack, all forms."""
    _measure(benchmark, f"PGD-10, {model}, {batch}x3x32x32, float32", pgd_cases(inputs(model, batch, "cpu")), name)


@pytest.mark.parametrize("name", VIEW_NAMES)
@pytest.mark.parametrize(("model", "batch"), CASES)
def bench_two_views(benchmark: Any, model: str, batch: int, name: str) -> None:
    """Two adversarial views of each image."""
    _measure(benchmark, f"two views, {model}, {batch}x3x32x32, float32", view_cases(inputs(model, batch, "cpu")), name)


def _measure(benchmark: Any, group: str, cases: Mapping[str, measure.Call], name: str) -> None:
    if name not in cases:
        pytest.skip(f"{name.split()[0]} is not installed")
    benchmark.group = group
    benchmark.extra_info.update(threads=torch.get_num_threads(), versions=measure.versions(*OTHERS))
    benchmark.pedantic(cases[name], rounds=5, iterations=1, warmup_rounds=1)


# ------------------------------------------------------------------ the tables


def ratio(timing: measure.Timing, base: measure.Timing) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of the rounds' ratios."""
    ratios = [one / other for one, other in zip(timing.seconds, base.seconds, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return low, statistics.median(ratios), high


def passes(i: Inputs, call: measure.Call) -> int:
    """How many images go through the model in a call, in batches of ``i.x``."""
    seen = []
    hook = i.model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    try:
        call()
    finally:
        hook.remove()
    return round(sum(seen) / len(i.x))


def speed_tables(shapes: list[tuple[str, int]], device: str, threads: list[int], rounds: int) -> Iterator[str]:
    for name, batch in shapes:
        for kind, cases_of in KINDS.items():
            for count in threads:
                for dtype in ("float32", "bfloat16") if device == "cuda" else ("float32",):
                    i = inputs(name, batch, device)
                    cases = cases_of(i)
                    if dtype == "bfloat16":
                        cases = {case: in_bfloat16(call) for case, call in cases.items()}
                    got = measure.interleaved(cases, rounds, threads=count, device=device, at_most=90.0)
                    base = next(iter(got))
                    where = "GPU" if device == "cuda" else f"{count} thread" + ("s" if count > 1 else "")
                    done = len(got[base].seconds)
                    yield f"\n**{kind}, {name}, {batch}x3x32x32, {dtype}, {where}** ({done} rounds)\n"
                    yield f"| | forward passes | median, ms | lower quartile, ms | times *{base}* | quartiles |"
                    yield "|---|---|---|---|---|---|"
                    for case, timing in got.items():
                        low, middle, high = ratio(timing, got[base])
                        yield (
                            f"| {case} | {passes(i, cases[case])} | {1e3 * timing.median:,.1f} "
                            f"| {1e3 * timing.quartiles[0]:,.1f} | {middle:.3f} | {low:.3f} to {high:.3f} |"
                        )


def measure_memory(name: str, batch: int, device: str, form: str) -> None:
    """In a process of its own: prints the peak of memory above the state before the call, in bytes."""
    i = Inputs(name, batch, device)
    cases = {**pgd_cases(i), **view_cases(i)}
    call = cases[form]
    small = Inputs(name, 2, device)
    {**pgd_cases(small), **view_cases(small)}[form]()  # libraries and thread pools are there
    print(json.dumps({"extra": gpu_peak_of(call) if device == "cuda" else measure.peak_of(call)}))


def gpu_peak_of(call: measure.Call) -> int:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del out
    return peak


def memory_table(shapes: list[tuple[str, int]], device: str) -> Iterator[str]:
    kind = "allocated on the GPU" if device == "cuda" else "resident, Linux"
    yield f"\n**Peak extra memory** of a call, its result included ({kind}, float32, 1 thread)\n"
    yield "| model | images | | MB | times the loop written by hand |"
    yield "|---|---|---|---|---|"
    for name, batch in shapes:
        for forms in (PGD_NAMES, ("written by hand, doubled batch", "two_views")):
            base = 0.0
            for form in forms:
                if any(form.startswith(other) and other not in OTHERS for other in ("foolbox", "torchattacks")):
                    continue
                command = [sys.executable, __file__, "--memory", name, str(batch), form, "--device", device]
                environment = os.environ | measure.MALLOC_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
                run = subprocess.run(command, capture_output=True, text=True, env=environment)
                if run.returncode:
                    yield f"| {name} | {batch} | {form} | not measured here | |"
                    continue
                extra = json.loads(run.stdout)["extra"]
                base = base or extra
                yield f"| {name} | {batch} | {form} | {extra / 1e6:.1f} | {extra / base:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="attacks against a loop written by hand and other libraries")
    parser.add_argument("--quick", action="store_true", help="a small batch, few rounds")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="threads of torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=["speed", "memory"], help="one part alone")
    parser.add_argument("--memory", nargs=3, metavar=("MODEL", "BATCH", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        name, batch, form = args.memory
        measure_memory(name, int(batch), args.device, form)
        return
    shapes = QUICK_CASES if args.quick else (GPU_CASES if args.device == "cuda" else CASES)
    parts = {
        "speed": speed_tables(shapes, args.device, args.threads, 3 if args.quick else 15),
        "memory": memory_table(shapes, args.device),
    }
    print(f"`python benchmarks/bench_attacks.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    print(measure.versions(*OTHERS))
    for name, lines in parts.items():
        if args.only in (None, name):
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
