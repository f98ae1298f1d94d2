"""Hostile records: what a field of a record must never be, with what it may be, for the tests of records."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from mixaug import IPMix, MixingSet

INT_EDGES = (-(2**63), -(2**31) - 1, -(2**31), -(10**6), -129, -100, -2, -1, 0, 1, 2, 3, 4, 5, 14, 15, 18, 19, 20, 31)
INT_EDGES += (
    32,
    33,
    34,
    36,
    37,
    64,
    100,
    255,
    256,
    4000,
    65_536,
    10**6,
    2**31 - 1,
    2**31,
    2**32,
    10**12,
    2**62,
    2**63 - 1,
)
FLOAT_EDGES = (math.nan, math.inf, -math.inf, -1e38, -1e9, -100.0, -2.0, -1.0001, -1.0, -0.5, -1e-3, -1e-30, -0.0, 0.0)
FLOAT_EDGES += (1e-45, 1e-30, 1e-3, 0.5, 1.0, 1.0001, 1.5, 2.0, 2.001, 3.0, 9.9, 10.0, 10.01, 100.0, 255.0, 1e9, 1e38)


def hostile(value: Tensor) -> Iterator[Any]:
    """At least fifty values in place of a field: of other kinds, dtypes, shapes and devices, and with every edge."""
    yield from (None, 3, "box", value.tolist(), value.numpy(), value.to("meta"), value.to_sparse())
    others = (torch.int8, torch.int16, torch.int32, torch.uint8, torch.int64, torch.float16, torch.bfloat16)
    for dtype in (*others, torch.float32, torch.float64, torch.bool, torch.complex64):
        yield value.to(dtype)
    yield from (value[:-1], value[:0], value[None], value.flatten()[:1], torch.cat([value, value]))
    yield from (value[..., None], value.expand(3, *value.shape), value.flip(0), value.repeat_interleave(2, 0)[::2])
    if value.is_floating_point():
        yield torch.complex(value, value).conj().imag  # a view that owes its sign
    for edge in FLOAT_EDGES if value.is_floating_point() else INT_EDGES:
        filled = torch.full_like(value, edge)
        yield filled
        yield filled[:1].expand_as(value)  # strides of zero
        last = value.clone(memory_format=torch.contiguous_format)
        last.view(-1)[-1] = edge
        yield last
        yield torch.nn.Parameter(last, requires_grad=False)
        yield tv_tensors.Mask(last)


def pictures() -> MixingSet:
    generator = torch.Generator().manual_seed(0)
    return MixingSet.from_tensor(torch.randint(0, 256, (4, 3, 18, 18), dtype=torch.uint8, generator=generator))


def ipmix_record(views: int = 1) -> tuple[IPMix, Tensor, Any]:
    """A transform, images and a record in which every operation and kind of source occurs."""
    generator = torch.Generator().manual_seed(1)
    ipmix = IPMix(mixing_set=pictures(), all_ops=True, self_mix=0.5, n_views=views, generator=generator)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    params = ipmix.sample(images)
    return ipmix, images, dataclasses.replace(params, depth=torch.full_like(params.depth, 3))


def replaced(params: Any, **fields: Any) -> Any:
    return dataclasses.replace(params, **fields)
