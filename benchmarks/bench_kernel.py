"""Where IPMix's time goes, and whether the C++ kernel earns its place.

``python benchmarks/bench_kernel.py`` prints, on one thread, medians of interleaved runs:

1. the share of the replay (all chains and steps) in a whole call, in PyTorch form and with the C++ kernel;
2. its two hottest steps (the bilinear warp and random-element mixing of whole images) as PyTorch operations, as numba
   loops and in C++, with numba's compilation time;
3. what the check of a record adds to its replay: by itself, and as the difference of calls with and without it, which
   also counts that the caches hold other things than the check's after two milliseconds of pictures.
"""

from __future__ import annotations

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable

import numba
import numpy as np
import torch

from mixaug import IPMix, MixingSet
from mixaug.ops import ipmix_torch, replay_ipmix
from mixaug.ops.ipmix import carry_out, check_ipmix
from mixaug.ops.ipmix_record import OP, IPMixParams
from mixaug.ops.warp import affine_matrix

ROUNDS = 9


@numba.njit(nogil=True)
def numba_warp(images, matrix, out):
    """The same fixed-point bilinear warp as mixaug_ext, as plain loops."""
    one, unit = np.int64(1) << 32, 2048
    n, channels, h, w = images.shape
    for i in range(n):
        a, b, c, d, e, f = matrix[i]
        for y in range(h):
            for x in range(w):
                sx = ((a * (2 * x + 1) + b * (2 * y + 1)) >> 1) + c
                sy = ((d * (2 * x + 1) + e * (2 * y + 1)) >> 1) + f
                if sx < 0 or sx >= w * one or sy < 0 or sy >= h * one:
                    for k in range(channels):
                        out[i, k, y, x] = 0
                    continue
                px, py = sx - (one >> 1) + (1 << 20), sy - (one >> 1) + (1 << 20)
                x0, y0 = px >> 32, py >> 32
                fx, fy = np.int32((px >> 21) & 2047), np.int32((py >> 21) & 2047)
                xa, xb = min(max(x0, 0), w - 1), min(max(x0 + 1, 0), w - 1)
                ya, yb = min(max(y0, 0), h - 1), min(max(y0 + 1, 0), h - 1)
                for k in range(channels):
                    top = images[i, k, ya, xa] * (unit - fx) + images[i, k, ya, xb] * fx
                    bottom = images[i, k, yb, xa] * (unit - fx) + images[i, k, yb, xb] * fx
                    out[i, k, y, x] = (top * (unit - fy) + bottom * fy) >> 22


@numba.njit(nogil=True)
def numba_mix32(x):
    """The hash's finaliser on 32-bit integers."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@numba.njit(nogil=True)
def numba_random_elements(images, sources, keep, low, high, out):
    """Random-element mixing of whole images."""
    n, size = images.shape
    for i in range(n):
        threshold = np.uint32(keep[i] * 16777216.0)
        for j in range(size):
            h = numba_mix32(np.uint32(numba_mix32(np.uint32(np.uint32(j) ^ low[i])) + high[i]))
            out[i, j] = images[i, j] if (h >> np.uint32(8)) < threshold else sources[i, j]


def interleaved(forms: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each form, the forms taking turns so that the machine's drift meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(ROUNDS):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def only(params: IPMixParams, operation: str, size: int) -> IPMixParams:
    """The record with one chain of one step: ``operation`` on whole images, the picture as the source."""
    one = {name: value[:, :1] for name, value in params.tensors().items() if value.dim() > 1}
    one |= {name: value[:, :, :1].contiguous() for name, value in one.items() if value.dim() > 2}
    one["op"] = torch.full_like(one["op"], OP[operation])
    one["depth"] = torch.ones_like(one["depth"])
    one["source"] = torch.full_like(one["source"], -1)
    one["level"] = torch.full_like(one["level"], 3.0)
    one["box"] = torch.tensor([0, 0, size, size]).expand_as(one["box"]).contiguous()
    return dataclasses.replace(params, **one)


def shares(pictures: MixingSet, batch: int, size: int) -> None:
    """Prints the replay's share of a whole call, a row a form."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    ipmix = IPMix(mixing_set=pictures)
    params = ipmix.sample(images, generator=generator)
    resized = pictures.resized(params.side)
    replay_ipmix(images, params, resized)
    forms = {
        "sampling": lambda: ipmix.sample(images),
        "PyTorch": lambda: ipmix_torch(images, params, resized),
        "C++": lambda: replay_ipmix(images, params, resized),
    }
    ms = {name: 1e3 * seconds for name, seconds in interleaved(forms).items()}
    for form in ("PyTorch", "C++"):
        whole = ms["sampling"] + ms[form]
        cells = f"{whole:.2f} | {ms['sampling']:.2f} | {ms[form]:.2f} | {ms[form] / whole:.0%}"
        print(f"| {batch}x3x{size}x{size} | {form} | {cells} |")


def steps(pictures: MixingSet, batch: int, size: int) -> None:
    """Prints the two hottest steps in three forms; all three must give the same bytes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    params = IPMix(mixing_set=pictures).sample(images, generator=generator)
    resized = pictures.resized(params.side)
    still = dataclasses.replace(params, depth=torch.zeros_like(params.depth))
    out, flat = np.empty_like(images.numpy()), (batch, -1)

    rotate = only(params, "rotate", size)
    matrix = affine_matrix(rotate.op[:, 0, 0], rotate.level[:, 0, 0], rotate.sign[:, 0, 0], (size, size)).numpy()
    elements = only(params, "random_elements", size)
    places = zip(elements.picture, elements.top, elements.left, strict=True)
    crops = torch.stack([resized[p, :, top : top + size, left : left + size] for p, top, left in places])
    halves = [(elements.seed[:, 0, 0] >> shift & 0xFFFFFFFF).numpy().astype(np.uint32) for shift in (0, 32)]
    keep = elements.keep[:, 0, 0].numpy()
    rows, others, results = images.numpy().reshape(flat), crops.numpy().reshape(flat), out.reshape(flat)
    loops = {
        "rotate": (rotate, lambda: numba_warp(images.numpy(), matrix, out)),
        "random_elements": (elements, lambda: numba_random_elements(rows, others, keep, *halves, results)),
    }
    for name, (record, loop) in loops.items():
        start = time.perf_counter()
        loop()
        first = time.perf_counter() - start
        alone = dataclasses.replace(record, m=torch.ones(batch), weight=torch.ones(batch, 1))
        if not np.array_equal(out, replay_ipmix(images, alone, resized).numpy()):
            raise RuntimeError(f"the numba form of {name} differs from the C++ one")
        forms = {
            "PyTorch": lambda record=record: ipmix_torch(images, record, resized),
            "numba": loop,
            "C++": lambda record=record: replay_ipmix(images, record, resized),
            "no step": lambda: replay_ipmix(images, still, resized),
        }
        ms = {form: 1e3 * seconds for form, seconds in interleaved(forms).items()}
        # numba's loop neither quantises nor sums, so the C++ step is what it adds to a replay without steps.
        cells = f"{ms['PyTorch']:.2f} | {ms['numba']:.2f} | {ms['C++'] - ms['no step']:.2f} | {first:.1f}"
        print(f"| {name} | {batch}x3x{size}x{size} | {cells} |")


def checks(pictures: MixingSet, batch: int, size: int) -> None:
    """Prints what the check of a record costs."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    params = IPMix(mixing_set=pictures).sample(images, generator=generator)
    resized = pictures.resized(params.side)

    def check() -> None:
        check_ipmix(params, batch, (size, size), len(resized), images.device, True)

    def timed(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    alone = statistics.median(timed(check) for _ in range(1000))
    pairs = [
        (timed(lambda: replay_ipmix(images, params, resized)), timed(lambda: carry_out(images, params, resized)))
        for _ in range(300)
    ]
    without = statistics.median(bare for _, bare in pairs)
    added = statistics.median(whole - bare for whole, bare in pairs)
    cells = f"{without:.3f} | {alone:.3f} ({100 * alone / without:.1f}%) | {added:.3f} ({100 * added / without:.1f}%)"
    print(f"| {batch}x3x{size}x{size} | {cells} |")


def main() -> None:
    """Prints the three tables."""
    torch.set_num_threads(1)
    pictures = MixingSet.default()
    versions = f"torch {torch.__version__}, numba {numba.__version__}"
    print(f"1 thread, uint8, {platform.machine()}, {versions}, median of {ROUNDS} interleaved runs\n")
    print("| batch | form | whole call, ms | sampling, ms | replay, ms | replay's share |\n|---|---|---|---|---|---|")
    for batch, size in ((128, 32), (32, 224)):
        shares(pictures, batch, size)
    print("\n| step, whole images | batch | PyTorch, ms | numba, ms | C++, ms | numba's first call, s |")
    print("|---|---|---|---|---|---|")
    for batch, size in ((128, 32), (32, 224)):
        steps(pictures, batch, size)
    print("\n| batch | replay without check, ms | check alone, ms | added to a replay, ms |\n|---|---|---|---|")
    for batch, size in ((128, 32), (32, 224)):
        checks(pictures, batch, size)


if __name__ == "__main__":
    main()
