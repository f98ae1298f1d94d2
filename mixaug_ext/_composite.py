"""The calls into the compiled box compositing."""

from __future__ import annotations

import torch
from torch import Tensor


def usable(base: Tensor) -> bool:
    """Whether the compiled form serves images like these."""
    return False


def composite(
    base: Tensor,
    a: Tensor,
    b: Tensor | None,
    beta: Tensor | None,
    boxes: Tensor,
    index_a: Tensor | None,
    index_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


def empty_like(base: Tensor) -> Tensor:
    """An uninitialised tensor for the result."""
    channels_last = not base.is_contiguous() and base.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(base, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
