"""D-ReLU, forward and backward, against nn.ReLU, ReLU6 and PReLU; the bytes that each keeps for the backward pass.

    python benchmarks/bench_drelu.py             the tables of docs/benchmarks.md (10 minutes)
    python benchmarks/bench_drelu.py --quick     the same with few rounds and the small shapes, to see that it runs
    make bench                                   with pytest-benchmark, a group for each table

A timed call is the layer and ``torch.autograd.grad`` for the input and, where the layer learns something, for that too;
the gradient of the output is given. *in place* are the clone that the layer then writes into and the layer, because
what is written into must not be a leaf. *PyTorch form* is D-ReLU in plain operations, as it runs in eager mode without
the compiled library's help; *compiled* is ``torch.compile(fullgraph=True)``. The caps start at the median of the
positive inputs, so that a quarter of the units is capped; *no unit capped* starts at 100, the paper's value.

Run it with MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000: else glibc gives the memory of large
results back after each call, and fetching it again takes several times as long as any of the layers, or not, by chance.

With a GPU every table is made there too, the device waited for inside each timed call.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import measure
import pytest
import torch
from torch import Tensor, nn

from mixaug.nn import DReLU, SReLU
from mixaug.ops.capped_relu import capped_relu_torch

SHAPES = [(128, 512), (128, 64, 8, 8), (128, 64, 32, 32), (64, 256, 56, 56)]
GPU_SHAPES = [(1024, 512), (128, 64, 32, 32), (256, 256, 56, 56)]
RELU = "nn.ReLU"
#: The median of the positive half of a normal distribution.
MEDIAN = 0.674
SLOW = ("nn.PReLU, per channel", "PyTorch form")
CASES = (
    RELU, "nn.ReLU6", "DReLU, per channel", "DReLU, per layer", "DReLU, per neuron", "DReLU, no unit capped", "SReLU",
    "nn.ReLU in place", "DReLU in place", *SLOW,
)  # fmt: skip
COMPILED = ("nn.ReLU, compiled", "DReLU, compiled")


class PlainForm(nn.Module):
    """D-ReLU in PyTorch's operations, differentiated by PyTorch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.max_value = nn.Parameter(torch.full((channels,), MEDIAN))

    def forward(self, x: Tensor) -> Tensor:
        return capped_relu_torch(x, self.max_value)


def layer_of(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> nn.Module:
    """The layer of a case; D-ReLU's caps stay float32, PReLU's parameter has to have the input's dtype."""
    channels = shape[1]
    makers: dict[str, Callable[[], nn.Module]] = {
        RELU: nn.ReLU,
        "nn.ReLU6": nn.ReLU6,
        "nn.PReLU, per channel": lambda: nn.PReLU(channels).to(dtype),
        "DReLU, per channel": lambda: DReLU(channels, MEDIAN),
        "DReLU, per layer": lambda: DReLU(1, MEDIAN),
        "DReLU, per neuron": lambda: DReLU(shape[1:], MEDIAN),
        "DReLU, no unit capped": lambda: DReLU(channels, 100.0),
        "SReLU": lambda: SReLU(MEDIAN),
        "nn.ReLU in place": lambda: nn.ReLU(inplace=True),
        "DReLU in place": lambda: DReLU(channels, MEDIAN, inplace=True),
        "PyTorch form": lambda: PlainForm(channels),
        "nn.ReLU, compiled": nn.ReLU,
        "DReLU, compiled": lambda: DReLU(channels, MEDIAN),
    }
    return makers[name]().to(device)


@functools.cache
def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """The input, a leaf, and the gradient of the output."""
    g = torch.Generator().manual_seed(sum(shape))
    x, grad = (torch.randn(shape, generator=g).to(dtype).to(device) for _ in range(2))
    return x.requires_grad_(), grad


def case(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> measure.Call:
    """Forward and backward of one layer."""
    layer = layer_of(name, shape, dtype, device)
    wanted = list(layer.parameters())
    called = torch.compile(layer, fullgraph=True, dynamic=False) if name in COMPILED else layer
    x, grad = inputs(shape, dtype, device)
    if name.endswith("in place"):
        return lambda: torch.autograd.grad(called(x.clone()), [x, *wanted], grad)
    return lambda: torch.autograd.grad(called(x), [x, *wanted], grad)


def saved_bytes(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes that autograd keeps between the passes, by saved-tensor hooks."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.nbytes
        return tensor

    layer = layer_of(name, shape, dtype, "cpu")
    x = torch.randn(shape).to(dtype).requires_grad_() * 1
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(kept.values())


# ------------------------------------------------------------------ pytest-benchmark


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def bench_layer(benchmark: Any, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    """Forward and backward, all layers."""
    benchmark.group = f"activation, forward and backward, {'x'.join(map(str, shape))}, {str(dtype)[6:]}"
    benchmark.extra_info.update(threads=torch.get_num_threads(), versions=measure.versions())
    benchmark.pedantic(case(name, shape, dtype), rounds=25, iterations=1, warmup_rounds=3)


# ------------------------------------------------------------------ the tables


def speed_tables(device: str, threads: list[int], quick: bool, compiled: bool) -> Iterator[str]:
    shapes = GPU_SHAPES if device == "cuda" else SHAPES[: 2 if quick else None]
    for shape in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            for count in threads:
                got = timings(shape, dtype, device, count, quick, compiled)
                where = "GPU" if device == "cuda" else f"{count} thread" + ("s" if count > 1 else "")
                size, rounds = "x".join(map(str, shape)), len(got[RELU].seconds)
                yield f"\n**forward and backward, {size}, {str(dtype)[6:]}, {where}** ({rounds} rounds)\n"
                yield from measure.table(got, RELU)
            inputs.cache_clear()


def timings(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, threads: int, quick: bool, compiled: bool
) -> dict[str, measure.Timing]:
    """All cases of a shape; the slow and the compiled ones in turns of their own: they would empty the caches."""
    torch.compiler.reset()  # each shape is compiled for itself, and there is a limit to how often
    elements = torch.Size(shape).numel()
    rounds = 5 if quick else (400 if elements < 1 << 20 else 40)
    fast = {name: case(name, shape, dtype, device) for name in CASES if name not in SLOW}
    got = measure.interleaved(fast, rounds, threads=threads, device=device, reference=RELU, at_most=40)
    other = {name: case(name, shape, dtype, device) for name in (*SLOW, *(COMPILED if compiled else ()))}
    return got | measure.interleaved(other, max(3, rounds // 10), threads=threads, device=device, at_most=10)


def memory_table() -> Iterator[str]:
    shape = SHAPES[1]
    yield f"\n**Bytes kept for the backward pass**, {'x'.join(map(str, shape))}\n"
    yield "| | float32 | more than nn.ReLU | bfloat16 | more than nn.ReLU |"
    yield "|---|---|---|---|---|"
    least = [saved_bytes(RELU, shape, dtype) for dtype in (torch.float32, torch.bfloat16)]
    for name in CASES:
        kept = [saved_bytes(name, shape, dtype) for dtype in (torch.float32, torch.bfloat16)]
        yield f"| {name} | {kept[0]:,} | {kept[0] - least[0]:,} | {kept[1]:,} | {kept[1] - least[1]:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="D-ReLU against nn.ReLU and its relatives, as tables")
    parser.add_argument("--quick", action="store_true", help="few rounds, small shapes")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of torch and mixaug")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=["speed", "memory"], help="one part alone")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which needs a C++ compiler")
    args = parser.parse_args()
    threads = args.threads if args.device == "cpu" else [1]
    parts = {"speed": speed_tables(args.device, threads, args.quick, not args.no_compile), "memory": memory_table()}
    print(f"`python benchmarks/bench_drelu.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    print(measure.versions())
    for name, lines in parts.items():
        if args.only in (None, name):
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
