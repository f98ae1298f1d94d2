"""Box compositing and Dynamic MixCut against torchvision, timm, kornia and the unfused form.

    python benchmarks/bench_mixcut.py             the tables of docs/benchmarks.md (5 minutes)
    python benchmarks/bench_mixcut.py --quick     the same with few rounds, to see that it runs
    make bench                                    with pytest-benchmark, a group for each table

*copy* is ``images.clone()``: the least that any of them could do. *op* composites given boxes; its peers that take
boxes are plain PyTorch: *vectorised torch* (one mask for the batch, a blend, a ``where``) and *unfused* (the same
with the partners gathered first). *whole call* draws boxes and partners and mixes the labels: ours with two boxes and
two partners an image, each image its own; torchvision's ``CutMix`` draws one box for the whole batch and has one
partner, so it does less; timm's ``Mixup`` in "elem" mode draws a box for each image (and writes into its input, a
copy saved); kornia's ``RandomCutMixV2`` with two mixes pastes two partners.

With a GPU every table is made there too, the device waited for inside each timed call, and the share of the measured
copy bandwidth is given, counting the bytes that must be moved: the result written, and each of its pixels read from
where it comes from.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import measure
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from mixaug.ops.composite import box_mask, composite_boxes, composite_boxes_torch
from mixaug.transforms import DynamicMixCut, sample_boxes

SHAPES = [(128, 32), (64, 224)]
GPU_SHAPES = [(1024, 32), (256, 224)]
CLASSES = 10
OP_CASES = ("copy", "op, two views", "op, partners by index", "op, one source", "vectorised torch", "unfused torch")
SLOW = ("vectorised torch", "unfused torch", "timm Mixup elem", "kornia CutMixV2, 2 mixes")
CALL_CASES = ("copy", "DynamicMixCut, partners", "DynamicMixCut, two views", "torchvision CutMix", "timm Mixup elem",
              "kornia CutMixV2, 2 mixes")  # fmt: skip


class Inputs:
    """A batch with what its mixing needs; boxes of several draws, so that no case learns one by heart."""

    draws = 16

    def __init__(self, batch: int, side: int, dtype: torch.dtype, device: str) -> None:
        g = torch.Generator().manual_seed(side)

        def images() -> Tensor:
            x = torch.rand(batch, 3, side, side, generator=g)
            return ((x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)).to(device)

        self.x, self.a, self.b = images(), images(), images()
        self.labels = torch.randint(0, CLASSES, (batch,), generator=g).to(device)
        self.boxes = [sample_boxes(batch, (side, side), generator=g).to(device) for _ in range(self.draws)]
        self.beta = torch.rand(batch, generator=g).to(device)
        self.first, self.second = (torch.randperm(batch, generator=g).to(device) for _ in range(2))
        self.turn = 0

    def next_boxes(self) -> Tensor:
        self.turn = (self.turn + 1) % self.draws
        return self.boxes[self.turn]


def unfused(i: Inputs) -> Tensor:
    """Partners gathered, then a mask, a blend and a ``where``: what one writes by hand."""
    a, b, mask = i.x[i.first], i.x[i.second], box_mask(i.next_boxes(), (i.x.shape[2], i.x.shape[3]))
    weight = i.beta.view(-1, 1, 1, 1)
    return torch.where(mask, (weight * a + (1 - weight) * b).to(i.x.dtype), i.x)


def op_cases(i: Inputs) -> dict[str, measure.Call]:
    calls: list[measure.Call] = [
        i.x.clone,
        lambda: composite_boxes(i.x, i.a, i.next_boxes(), b=i.b, beta=i.beta),
        lambda: composite_boxes(i.x, i.x, i.next_boxes(), b=i.x, beta=i.beta, index_a=i.first, index_b=i.second),
        lambda: composite_boxes(i.x, i.a, i.next_boxes()),
        lambda: composite_boxes_torch(i.x, i.a, i.next_boxes(), b=i.b, beta=i.beta),
        lambda: unfused(i),
    ]
    return dict(zip(OP_CASES, calls, strict=True))


def call_cases(i: Inputs) -> dict[str, measure.Call]:
    mix, cut = DynamicMixCut(CLASSES), v2.CutMix(num_classes=CLASSES)
    cases: dict[str, measure.Call] = {
        "copy": i.x.clone,
        "DynamicMixCut, partners": lambda: mix(i.x, i.labels),
        "DynamicMixCut, two views": lambda: mix(i.x, i.labels, views=(i.a, i.b)),
        "torchvision CutMix": lambda: cut(i.x, i.labels),
    }
    if not i.x.is_floating_point():
        return cases  # the other two want floats
    kornia_mix = kornia_cutmix()
    if importlib.util.find_spec("timm") is not None:
        timm_mix, scratch = timm_mixup(), i.x.clone()
        cases["timm Mixup elem"] = lambda: timm_mix(scratch, i.labels)
    cases["kornia CutMixV2, 2 mixes"] = lambda: kornia_mix(i.x, i.labels)
    return cases


def timm_mixup() -> Any:
    from timm.data import Mixup

    return Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, mode="elem", num_classes=CLASSES)


def kornia_cutmix() -> Any:
    from kornia.augmentation import RandomCutMixV2

    return RandomCutMixV2(num_mix=2, data_keys=["input", "class"], use_correct_lambda=True)


@functools.cache
def inputs(batch: int, side: int, dtype: torch.dtype, device: str) -> Inputs:
    return Inputs(batch, side, dtype, device)


# ------------------------------------------------------------------ pytest-benchmark


@pytest.mark.parametrize("name", OP_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize(("batch", "side"), SHAPES)
def bench_op(benchmark: Any, batch: int, side: int, dtype: torch.dtype, name: str) -> None:
    """Given boxes, all forms."""
    benchmark.group = f"box compositing {batch}x3x{side}x{side}, {str(dtype)[6:]}"
    _measure(benchmark, op_cases(inputs(batch, side, dtype, "cpu"))[name])


@pytest.mark.parametrize("name", CALL_CASES)
@pytest.mark.parametrize(("batch", "side"), SHAPES)
def bench_call(benchmark: Any, batch: int, side: int, name: str) -> None:
    """Boxes, partners and labels drawn and mixed, all peers."""
    benchmark.group = f"Dynamic MixCut {batch}x3x{side}x{side}, float32, labels included"
    _measure(benchmark, call_cases(inputs(batch, side, torch.float32, "cpu"))[name])


def _measure(benchmark: Any, call: measure.Call) -> None:
    benchmark.extra_info.update(threads=torch.get_num_threads(), versions=measure.versions("timm", "kornia"))
    benchmark.pedantic(call, rounds=25, iterations=1, warmup_rounds=3)


# ------------------------------------------------------------------ the tables


def rounds_for(batch: int, side: int, quick: bool) -> int:
    return 5 if quick else (600 if batch * side * side < 1 << 20 else 60)


def in_turns(cases: dict[str, measure.Call], rounds: int, threads: int, device: str) -> dict[str, measure.Timing]:
    """Slow peers in turns of their own: between the fast ones they would empty the caches every time."""
    fast = {name: call for name, call in cases.items() if name not in SLOW}
    got = measure.interleaved(fast, rounds, threads=threads, device=device, reference="copy")
    slow = {name: call for name, call in cases.items() if name in SLOW}
    return got | measure.interleaved(slow, max(3, rounds // 30), threads=threads, device=device)


def speed_tables(device: str, threads: list[int], quick: bool) -> Iterator[str]:
    shapes = GPU_SHAPES if device == "cuda" else SHAPES
    dtypes = [torch.float32, torch.uint8] + ([torch.bfloat16] if device == "cuda" else [])
    for batch, side in shapes:
        for kind, cases_of in (("op with given boxes", op_cases), ("whole call, labels included", call_cases)):
            for dtype in dtypes:
                for count in threads:
                    i = inputs(batch, side, dtype, device)
                    got = in_turns(cases_of(i), rounds_for(batch, side, quick), count, device)
                    where = "GPU" if device == "cuda" else f"{count} thread" + ("s" if count > 1 else "")
                    rounds = len(got["copy"].seconds)
                    yield f"\n**{kind}, {batch}x3x{side}x{side}, {str(dtype)[6:]}, {where}** ({rounds} rounds)\n"
                    yield from measure.table(got, "copy")
                    if device == "cuda" and cases_of is op_cases:
                        yield from bandwidth(i, got)


def bandwidth(i: Inputs, got: dict[str, measure.Timing]) -> Iterator[str]:
    """The op's bytes a second against those of the copy, counting what must be read and written."""
    share = sum(box_mask(b, (i.x.shape[2], i.x.shape[3])).float().mean().item() for b in i.boxes) / len(i.boxes)
    copied = 2 * i.x.nbytes / got["copy"].quartiles[0]
    for name, sources in (("op, two views", 2), ("op, one source", 1)):
        moved = i.x.nbytes * (1 + (1 - share) + sources * share) / got[name].quartiles[0]
        yield f"\n{name}: {moved / 1e9:,.0f} GB/s, {100 * moved / copied:.0f}% of the copy's {copied / 1e9:,.0f} GB/s"


def growth_table(device: str, threads: int, quick: bool) -> Iterator[str]:
    """Time per value as images grow in size and number."""
    yield f"\n**Cost as work grows**, op with two views, float32, {device}, {threads} threads\n"
    yield "| images | ms a call | ns a value | times the copy | growth |"
    yield "|---|---|---|---|---|"
    rows = []
    shapes = [(1, 32), (16, 32), (128, 32), (1024, 32), (16, 64), (16, 128), (1, 224), (16, 224), (64, 224), (16, 512)]
    for batch, side in shapes:
        i = Inputs(batch, side, torch.float32, device)
        both = {name: op_cases(i)[name] for name in ("copy", "op, two views")}
        got = measure.interleaved(
            both, rounds_for(batch, side, quick), threads=threads, device=device, reference="copy", at_most=5
        )
        low = got["op, two views"].quartiles[0]
        rows.append((i.x.numel(), batch, side, low, low / got["copy"].quartiles[0]))
    rows.sort()
    for size, batch, side, low, ratio in rows:
        # Against the cheapest of the smaller calls that take over 1 ms; the copy grows alike as caches are left.
        before = [other[3] / other[0] for other in rows if other[0] < size and other[3] > 1e-3]
        growth = f"{100 * (low / size / min(before) - 1):+.0f}%" if before and low > 1e-3 else ""
        yield f"| {batch} x 3x{side}x{side} | {1e3 * low:.3f} | {1e9 * low / size:.3f} | {ratio:.2f} | {growth} |"


def measure_memory(batch: int, side: int, dtype_name: str, form: str) -> None:
    """In a process of its own: prints the peak of resident memory above the state before the call, in bytes."""
    i = Inputs(batch, side, getattr(torch, dtype_name), "cpu")
    mix, cut = DynamicMixCut(CLASSES), v2.CutMix(num_classes=CLASSES)
    calls: dict[str, measure.Call] = {
        "mixaug": lambda: mix(i.x, i.labels),
        "unfused torch": lambda: unfused(i),
        "torchvision CutMix": lambda: cut(i.x, i.labels),
    }
    small = Inputs(2, 8, getattr(torch, dtype_name), "cpu")
    mix(small.x, small.labels), cut(small.x, small.labels), unfused(small)  # libraries and thread pools are there
    print(json.dumps({"extra": measure.peak_of(calls[form]), "batch": i.x.nbytes}))


def memory_table() -> Iterator[str]:
    yield "\n**Peak extra memory** of a whole call in batches of its input, the result included (Linux, resident)\n"
    yield "| images | dtype | | batches | MB |"
    yield "|---|---|---|---|---|"
    for batch, side in ((2048, 32), (64, 224)):
        for dtype in ("uint8", "float32"):
            for form in ("mixaug", "unfused torch", "torchvision CutMix"):
                command = [sys.executable, __file__, "--memory", str(batch), str(side), dtype, form]
                environment = os.environ | measure.MALLOC_ENVIRONMENT
                run = subprocess.run(command, capture_output=True, text=True, env=environment)
                if run.returncode:
                    yield f"| {batch} x 3x{side}x{side} | {dtype} | {form} | not measured here | |"
                    continue
                got = json.loads(run.stdout)
                extra = f"{got['extra'] / got['batch']:.2f} | {got['extra'] / 1e6:.0f}"
                yield f"| {batch} x 3x{side}x{side} | {dtype} | {form} | {extra} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="box compositing and Dynamic MixCut against their peers, as tables")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of torch and mixaug")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=["speed", "growth", "memory"], help="one part alone")
    parser.add_argument("--memory", nargs=4, metavar=("BATCH", "SIDE", "DTYPE", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        batch, side, dtype, form = args.memory
        measure_memory(int(batch), int(side), dtype, form)
        return
    threads = args.threads if args.device == "cpu" else [1]
    parts = {
        "speed": speed_tables(args.device, threads, args.quick),
        "growth": growth_table(args.device, threads[-1], args.quick),
        "memory": memory_table(),
    }
    print(f"`python benchmarks/bench_mixcut.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    print(measure.versions("timm", "kornia"))
    for name, lines in parts.items():
        if args.only in (None, name):
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
