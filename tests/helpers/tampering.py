"""Files of plain values with one field changed: every field, and values that no run writes there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

REMOVED = object()
#: In the place of a field; for tensors there are more, see :func:`hostile`.
VALUES = (
    REMOVED, None, -1, 10**400, float("nan"), "x", [], {1: 2}, [None],
    torch.zeros(2, 7), torch.tensor(float("nan")),
)  # fmt: skip


def places(value: Any, skip: tuple[str, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all fields: names of dicts, and the first and last place of lists."""
    if isinstance(value, dict):
        names = list(value)
    elif isinstance(value, list):
        names = sorted({0, len(value) - 1}) if value else []
    else:
        return
    for name in names:
        if name not in skip:
            yield (name,)
            yield from ((name, *rest) for rest in places(value[name]))


def hostile(value: Any) -> list[Any]:
    """What is put in the place of a field that holds ``value``."""
    if not isinstance(value, Tensor):
        return list(VALUES)
    changed = [value.to(torch.complex64), value.to(torch.float64 if value.dtype == torch.float32 else torch.float32)]
    if value.ndim:
        changed += [value[:0], value[None], torch.cat([value, value]), value.to_sparse()]
    if value.is_floating_point():
        for bad in (float("nan"), float("-inf")):
            spoilt = value.clone(memory_format=torch.contiguous_format)
            spoilt.view(-1)[-1:] = bad
            changed.append(spoilt)
    return [*VALUES, *changed]


def with_field(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the content with another value at one path; only what is on the way is copied."""
    content = copy.copy(content)
    if len(path) > 1:
        content[path[0]] = with_field(content[path[0]], path[1:], value)
    elif value is REMOVED:
        del content[path[0]]
    else:
        content[path[0]] = value
    return content
