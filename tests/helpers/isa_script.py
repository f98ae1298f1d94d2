"""Digests of what the compiled kernels make, of every kind and odd sizes: run under MIXAUG_ISA, the lines are equal."""

from __future__ import annotations

import hashlib
import sys

import torch

import mixaug_ext
from mixaug import IPMix, MixingSet
from mixaug.mixing_sets import render_fractals, sample_fractals
from mixaug.ops.capped_relu import capped_relu
from mixaug.ops.composite import composite_boxes
from mixaug.transforms import sample_boxes

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


def told(name: str, *values: torch.Tensor) -> None:
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    sys.stdout.write(f"{name} {digest.hexdigest()}\n")


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (6, 3, 70, 70), dtype=torch.uint8, generator=generator)
    for size in ((33, 47), (5, 3), (32, 130)):
        for dtype in DTYPES:
            images = torch.rand(5, 3, *size, generator=generator)
            images = (images * 255).to(dtype) if dtype == torch.uint8 else images.to(dtype)
            for layout in (torch.contiguous_format, torch.channels_last):
                x = images.to(memory_format=layout)
                for structure in ("chain", "mixed_input"):
                    mix = IPMix(
                        all_ops=True, structure=structure, mixing_set=MixingSet.from_tensor(pictures),
                        patch_sizes=(2, 3), generator=torch.Generator().manual_seed(1),
                    )  # fmt: skip
                    told(f"ipmix {size} {dtype} {layout} {structure}", mix(x))
                boxes = sample_boxes(5, size, count=3, generator=torch.Generator().manual_seed(2))
                beta = torch.rand(5, generator=torch.Generator().manual_seed(3))
                told(f"boxes {size} {dtype} {layout}", *composite_boxes(x, x.flip(0), boxes, b=x.roll(1, 0), beta=beta))
                told(f"cut {size} {dtype} {layout}", *composite_boxes(x, x.flip(0), boxes))
    for count in (1, 7, 64, 1000):
        x = torch.randn(3, count, 5, generator=generator).requires_grad_()
        cap = torch.rand(count, generator=generator).requires_grad_()
        y = capped_relu(x, cap)
        y.backward(torch.ones_like(y))
        told(f"capped relu {count}", y.detach(), x.grad, cap.grad)
    params = sample_fractals(16, seed=3, threads=1)
    params.width[::6] = 1e-3  # views so deep that orbits are float64
    for size, samples in ((33, 2), (16, 3), (9, 1)):
        told(f"fractals {size} {samples}", render_fractals(params, size, 77, samples, threads=1))


if __name__ == "__main__":
    torch.set_num_threads(2)
    sys.stderr.write(f"{mixaug_ext.isa()}\n")
    main()
