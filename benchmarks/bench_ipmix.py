"""IPMix against the papers' PIL pipeline and torchvision's AugMix.

    python benchmarks/bench_ipmix.py              the tables of docs/benchmarks.md, peers interleaved (10 minutes)
    python benchmarks/bench_ipmix.py --quick      the same with few repeats (2 minutes), to see that it runs
    python benchmarks/bench_ipmix.py --device cuda    on a GPU instead: whole batches of bytes, a table of its own
    make bench                                    with pytest-benchmark, a group for each row of the table

What is compared. *PIL pipeline*: the form of the papers' code (``pil_ipmix.PILIPMix``), one image at a time. *lean PIL
pipeline*: the same with NumPy bytes between the steps (``LeanIPMix``), stricter than what people run. Both have the
pictures in memory, resized beforehand, as ours has. *torchvision AugMix, batch*: draws its operations once and applies
them to all images of the batch, so it does less than the name says; *one by one* draws for each image. AugMix has no
patches and no pictures; it is what a torchvision user has today. PIL and AugMix per image use one thread by nature.

Times include sampling. Everything is measured on bytes and on floats, since the chains work on bytes either way.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pil_ipmix
import pytest
import torch
from measure import MALLOC_ENVIRONMENT, Call, peak_of, torch_threads, versions
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

import mixaug_ext
from mixaug import IPMix, MixingSet
from mixaug.ops import ipmix_torch, replay_ipmix

#: What the goals name for the papers' pipeline, images/s on one core of another machine.
PRINTED = {32: 290, 224: 73}
BATCHES = [(32, 128), (32, 1024), (224, 64)]
DTYPES = [torch.uint8, torch.float32]
BATCH_CASES = (
    "mixaug", "mixaug, 1 thread", "mixaug, PyTorch form", "torchvision AugMix, batch (shared operations)",
    "torchvision AugMix, one by one", "PIL pipeline", "lean PIL pipeline",
)  # fmt: skip
SINGLE_CASES = ("mixaug", "torchvision AugMix", "PIL pipeline", "lean PIL pipeline")


# ------------------------------------------------------------------ inputs


@functools.cache
def photographs(count: int, side: int) -> Tensor:
    """Smooth coloured images with edges and noise, uint8 (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(side)
    coarse = torch.rand(count, 3, 6, 6, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    edges = torch.nn.functional.interpolate(coarse.flip(2), size=(side, side), mode="nearest")
    noise = 6 * torch.randn(count, 3, side, side, generator=generator)
    return (0.7 * smooth + 0.3 * edges + noise).clamp(0, 255).to(torch.uint8)


@functools.cache
def as_pil(count: int, side: int) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in photographs(count, side)]


@functools.cache
def bank() -> MixingSet:
    return MixingSet.from_tensor(photographs(64, 256))


@functools.cache
def resized_pil(side: int) -> list[Image.Image]:
    """The same pictures at the side that IPMix crops from, for the PIL pipelines."""
    return [picture.resize((8 * side // 7,) * 2, Image.Resampling.BILINEAR) for picture in as_pil(64, 256)]


def to_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images if dtype == torch.uint8 else images.to(dtype) / 255


# ------------------------------------------------------------------ cases: name -> (call, threads)


def torch_form(ipmix: IPMix, images: Tensor) -> Tensor:
    """The whole call without the compiled kernel."""
    params = ipmix.sample(images)
    return ipmix_torch(images, params, bank().resized(params.side))


def batch_cases(side: int, batch: int, dtype: torch.dtype, threads: int) -> dict[str, tuple[Call, int]]:
    """A whole batch in, a whole batch out."""
    images, pils = to_dtype(photographs(batch, side), dtype), as_pil(batch, side)
    ipmix, augmix = IPMix(mixing_set=bank()), v2.AugMix()
    pipeline, lean = pil_pipelines(side)
    calls: list[tuple[Call, int]] = [
        (lambda: ipmix(images), threads),
        (lambda: ipmix(images), 1),
        (lambda: torch_form(ipmix, images), threads),
        (lambda: augmix(images), threads),
        (lambda: [augmix(image) for image in images], 1),
        (lambda: [pipeline(image) for image in pils], 1),
        (lambda: [lean(image) for image in pils], 1),
    ]
    return dict(zip(BATCH_CASES, calls, strict=True))


def pil_pipelines(side: int) -> tuple[pil_ipmix.PILIPMix, pil_ipmix.LeanIPMix]:
    kinds = (pil_ipmix.PILIPMix, pil_ipmix.LeanIPMix)
    return tuple(kind.for_side(side, resized_pil(side), rng=np.random.default_rng(0)) for kind in kinds)


def single_cases(side: int, kind: str, count: int) -> dict[str, tuple[Call, int]]:
    """One image at a time inside ``Compose`` on one thread, as in a loader worker; ``count`` images a call.

    ``kind`` "PIL": a PIL image in, a float tensor out (the PIL pipeline ends in one by itself). "tensor": a uint8
    tensor in and out; the PIL pipeline needs an image first.
    """
    pipeline, lean = pil_pipelines(side)
    ipmix = IPMix(mixing_set=bank())
    if kind == "PIL":
        inputs: list[Image.Image] | list[Tensor] = as_pil(count, side)
        chains = [
            transforms.Compose([ipmix, transforms.ToTensor()]),
            transforms.Compose([v2.AugMix(), transforms.ToTensor()]),
            transforms.Compose([pipeline]),
            transforms.Compose([lean, transforms.ToTensor()]),
        ]
    else:
        inputs = list(photographs(count, side))
        chains = [
            v2.Compose([ipmix]),
            v2.Compose([v2.AugMix()]),
            transforms.Compose([transforms.ToPILImage(), pipeline]),
            transforms.Compose([transforms.ToPILImage(), lean, transforms.PILToTensor()]),
        ]
    calls = [(lambda chain=chain: [chain(image) for image in inputs], 1) for chain in chains]
    return dict(zip(SINGLE_CASES, calls, strict=True))


def groups(threads: int) -> dict[str, tuple[int, int, dict[str, tuple[Call, int]]]]:
    """Group title -> side, images a call, cases; in the order of the table."""
    out: dict[str, tuple[int, int, dict[str, tuple[Call, int]]]] = {}
    for side, batch in BATCHES:
        for dtype in DTYPES:
            title = f"ipmix batch {side}px, batch {batch}, {str(dtype)[6:]}"
            out[title] = side, batch, batch_cases(side, batch, dtype, threads)
    for side, count in ((32, 64), (224, 16)):
        for kind in ("PIL", "tensor"):
            out[f"ipmix one image {side}px in Compose, {kind} in"] = side, count, single_cases(side, kind, count)
    return out


# ------------------------------------------------------------------ pytest-benchmark


def _measure(benchmark: object, call: Call, threads: int, side: int, count: int) -> None:
    with torch_threads(threads):
        call()
        benchmark.pedantic(call, rounds=7, iterations=1, warmup_rounds=1)
    rate = count / benchmark.stats.stats.median
    benchmark.extra_info.update(
        {
            "images/s": round(rate), "threads": threads, "images": count, "versions": versions("pillow", "numpy"),
            "ratio to the printed PIL figure": round(rate / PRINTED[side], 1),
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", BATCH_CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("side", "batch"), BATCHES)
def bench_batch(benchmark: object, side: int, batch: int, dtype: torch.dtype, name: str) -> None:
    """Whole batches, both dtypes, all peers."""
    benchmark.group = f"ipmix batch {side}px, batch {batch}, {str(dtype)[6:]}"
    call, threads = batch_cases(side, batch, dtype, max(2, torch.get_num_threads()))[name]
    _measure(benchmark, call, threads, side, batch)


@pytest.mark.parametrize("name", SINGLE_CASES)
@pytest.mark.parametrize("kind", ["PIL", "tensor"])
@pytest.mark.parametrize(("side", "count"), [(32, 64), (224, 16)])
def bench_one_image(benchmark: object, side: int, count: int, kind: str, name: str) -> None:
    """One image at a time in a pipeline, one thread."""
    benchmark.group = f"ipmix one image {side}px in Compose, {kind} in"
    call, threads = single_cases(side, kind, count)[name]
    _measure(benchmark, call, threads, side, count)


# ------------------------------------------------------------------ the tables


def interleaved(cases: dict[str, tuple[Call, int]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call; in every round each case runs once, so that a slow minute hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(rounds + 1):
        for name, (call, threads) in cases.items():
            with torch_threads(threads):
                start = time.perf_counter()
                call()
                spent = time.perf_counter() - start
            if round_number:  # the first round warms up
                seconds[name].append(spent)
    return seconds


def speed_tables(threads: int, rounds: int) -> Iterator[str]:
    for title, (side, count, cases) in groups(threads).items():
        seconds = interleaved(cases, rounds)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        base = median["PIL pipeline"]
        yield f"\n**{title}** ({count} images a call, {rounds} rounds)\n"
        yield "| | threads | ms a call | quartiles | images/s | times the PIL pipeline | times the printed figure |"
        yield "|---|---|---|---|---|---|---|"
        for name, values in seconds.items():
            low, _, high = (1e3 * q for q in statistics.quantiles(values, n=4))
            rate = count / median[name]
            yield (
                f"| {name} | {cases[name][1]} | {1e3 * median[name]:.2f} | {low:.2f} to {high:.2f} | {rate:,.0f} "
                f"| {base / median[name]:.1f} | {rate / PRINTED[side]:.1f} |"
            )


def cuda_table(rounds: int) -> Iterator[str]:
    """Whole batches of bytes on a GPU: the call, the replay alone, the PyTorch form, AugMix with shared operations."""
    yield f"\n**IPMix on {torch.cuda.get_device_name()}**, uint8; CUDA kernel: {mixaug_ext.status()['ipmix (CUDA)']}\n"
    yield "| images | | ms a call | images/s |"
    yield "|---|---|---|---|"
    for side, batch in ((32, 512), (32, 4096), (224, 512)):
        images = photographs(64, side).cuda().repeat(batch // 64, 1, 1, 1)
        ipmix, augmix = IPMix(mixing_set=bank()), v2.AugMix()
        params = ipmix.sample(images)
        pictures = bank().resized(params.side).cuda()
        cases: dict[str, Call] = {
            "mixaug": lambda ipmix=ipmix, images=images: ipmix(images),
            "mixaug, replay alone": lambda i=images, p=params, s=pictures: replay_ipmix(i, p, s),
            "mixaug, replay in PyTorch": lambda i=images, p=params, s=pictures: ipmix_torch(i, p, s),
            "torchvision AugMix, batch (shared operations)": lambda augmix=augmix, images=images: augmix(images),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for round_number in range(rounds + 1):
            for name, call in cases.items():
                torch.cuda.synchronize()
                start = time.perf_counter()
                call()
                torch.cuda.synchronize()
                if round_number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
        for name, values in seconds.items():
            spent = statistics.median(values)
            yield f"| {batch} x 3x{side}x{side} | {name} | {1e3 * spent:.3f} | {batch / spent:,.0f} |"


def share_of_sampling(threads: int, rounds: int) -> Iterator[str]:
    """Where the time of a batch goes: drawing the record, replaying it compiled, replaying it in PyTorch."""
    yield "\n**Where the time goes** (float32)\n"
    yield "| images | threads | draw the record, ms | replay compiled, ms | replay in PyTorch, ms |"
    yield "|---|---|---|---|---|"
    for side, batch in BATCHES:
        images, ipmix = to_dtype(photographs(batch, side), torch.float32), IPMix(mixing_set=bank())
        params = ipmix.sample(images)
        pictures = bank().resized(params.side)
        seconds = interleaved(
            {
                "draw": (lambda ipmix=ipmix, images=images: ipmix.sample(images), threads),
                "compiled": (lambda ipmix=ipmix, i=images, p=params: ipmix.replay(i, p), threads),
                "torch": (lambda i=images, p=params, s=pictures: ipmix_torch(i, p, s), threads),
            },
            rounds,
        )
        times = " | ".join(f"{1e3 * statistics.median(values):.2f}" for values in seconds.values())
        yield f"| {batch} x 3x{side}x{side} | {threads} | {times} |"


def scaling_table(threads: int, rounds: int) -> Iterator[str]:
    """Time per pixel as images grow in size and number, with the same settings at every size."""
    yield (
        f"\n**Cost as work grows** ({threads} threads; severity 3, beta 3, patches 4, 8, 16 and no self-mixing at "
        "every size; lower quartile; growth against the best call of over 1 ms that handles fewer pixels)\n"
    )
    yield "| dtype | images | ms a call | ns a pixel and channel | growth |"
    yield "|---|---|---|---|---|"
    shapes = [(32, b) for b in (1, 4, 16, 64, 256, 1024)] + [(224, b) for b in (1, 4, 16, 64)]
    shapes += [(side, 16) for side in (48, 64, 96, 128, 256, 384, 512)] + [(512, 1)]
    for dtype in DTYPES:
        rows = []
        for side, batch in shapes:
            images = to_dtype(photographs(batch, side), dtype)
            ipmix = IPMix(3, 3, 3.0, 3.0, (4, 8, 16), 0.0, mixing_set=bank())
            # Small batches draw more or less work by chance: as many calls as make 256 images, and their mean.
            calls = max(1, 256 // batch)
            case = (lambda ipmix=ipmix, images=images, n=calls: [ipmix(images) for _ in range(n)], threads)
            values = interleaved({"": case}, rounds)[""]
            spent = statistics.quantiles(values, n=4)[0] / calls
            rows.append((side, batch, spent, 1e9 * spent / images.numel(), images.numel()))
        rows.sort(key=lambda row: row[4])
        for side, batch, spent, cost, size in rows:
            before = [other[3] for other in rows if other[4] < size and other[2] > 1e-3]
            growth = f"{100 * (cost / min(before) - 1):+.0f}%" if before and spent > 1e-3 else ""
            yield f"| {str(dtype)[6:]} | {batch} x 3x{side}x{side} | {1e3 * spent:.2f} | {cost:.2f} | {growth} |"


def measure_memory(side: int, batch: int, dtype_name: str, form: str, threads: int) -> None:
    """In a process of its own: prints the peak of resident memory above the state before the call, in bytes."""
    torch.set_num_threads(threads)
    images = to_dtype(photographs(batch, side), getattr(torch, dtype_name)).clone()
    ipmix = IPMix(mixing_set=bank())
    call = ipmix if form == "compiled" else functools.partial(torch_form, ipmix)
    call(images[:1])  # libraries, thread pools and the resized pictures are there
    print(json.dumps({"extra": peak_of(lambda: call(images)), "batch": images.nbytes}))


def memory_table(threads: int) -> Iterator[str]:
    yield "\n**Peak extra memory** in batches of the input's dtype, the result included (Linux, resident memory)\n"
    yield "| images | dtype | form | batches | MB |"
    yield "|---|---|---|---|---|"
    settings = os.environ | MALLOC_ENVIRONMENT
    for side, batch in ((32, 4096), (224, 64), (224, 256)):
        for dtype in ("uint8", "float32"):
            for form in ("compiled", "PyTorch"):
                command = [sys.executable, __file__, "--memory", str(side), str(batch), dtype, form]
                command += ["--threads", str(threads)]
                run = subprocess.run(command, capture_output=True, text=True, env=settings)
                if run.returncode:
                    yield f"| {batch} x 3x{side}x{side} | {dtype} | {form} | not measured here | |"
                    continue
                got = json.loads(run.stdout)
                extra = got["extra"] / got["batch"]
                yield f"| {batch} x 3x{side}x{side} | {dtype} | {form} | {extra:.1f} | {got['extra'] / 1e6:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="IPMix against its peers, as markdown tables")
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch and mixaug")
    parser.add_argument("--only", choices=["speed", "share", "scaling", "memory"], help="one part alone")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: the GPU's own table")
    parser.add_argument("--memory", nargs=4, metavar=("SIDE", "BATCH", "DTYPE", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        side, batch, dtype, form = args.memory
        measure_memory(int(side), int(batch), dtype, form, args.threads)
        return
    rounds = 3 if args.quick else 15
    if args.device == "cuda":
        print(f"`python benchmarks/bench_ipmix.py {' '.join(sys.argv[1:])}`; {versions()}")
        for line in cuda_table(rounds):
            print(line, flush=True)
        return
    parts: dict[str, Iterator[str]] = {
        "speed": speed_tables(args.threads, rounds),
        "share": share_of_sampling(args.threads, rounds),
        "scaling": scaling_table(args.threads, rounds),
        "memory": memory_table(args.threads),
    }
    print(f"`python benchmarks/bench_ipmix.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    print(f"{versions('pillow', 'numpy')}; {args.threads} threads where said; k = 3, t = 3, defaults by size.")
    printed = ", ".join(f"{rate} at {side} px" for side, rate in PRINTED.items())
    print(f"Printed figure: what the goals name for the PIL pipeline on one core of another machine, {printed}.")
    for name, lines in parts.items():
        if args.only in (None, name):
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
