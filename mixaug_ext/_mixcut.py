"""The calls into Dynamic MixCut's compiled sampler and label mixing: pointers and numbers, nothing else."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

import mixaug_ext
from mixaug_ext._records import address

# The structs of the same names in csrc/mixcut.cpp, as 64-bit words in their order.
_pack_sample = struct.Struct("5q6q3d").pack
_pack_labels = struct.Struct("5q2qd").pack


def sample(
    uniforms: Tensor, size: tuple[int, int], count: tuple[int, int], p: float, area: tuple[float, float] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, lam, index and beta of a record with square boxes, from the uniforms of each image.

    Args:
        uniforms: ``(B, 4 + 3 high)`` float32 in ``[0, 1)``, contiguous, on the CPU.
        size: ``(H, W)`` in pixels.
        count: smallest and largest number of boxes.
        p: probability that an image is mixed.
        area: range of a box's share, None for CutMix's law.

    Returns:
        ``(B, high, 4)`` int64, ``(B,)`` float32, ``(B, 2)`` int64 and ``(B,)`` float32.

    Raises:
        MemoryError: no memory for the cycle through the batch.
    """
    batch, high = uniforms.shape[0], count[1]
    boxes = torch.empty((batch, high, 4), dtype=torch.int64)
    index = torch.empty((2, batch), dtype=torch.int64)
    lam, beta = torch.empty(batch, dtype=torch.float32), torch.empty(batch, dtype=torch.float32)
    words = _pack_sample(
        address("uniforms", uniforms, torch.float32, batch * (4 + 3 * high)),
        *(x.data_ptr() for x in (boxes, index, lam, beta)),
        *(batch, *size, *count, area is not None),
        *(p, area[0] if area else 0.0, area[1] - area[0] if area else 1.0),
    )
    if mixaug_ext.library().mixaug_mixcut_sample(words):  # type: ignore[union-attr]
        raise MemoryError(f"Dynamic MixCut: no memory for a cycle through {batch} images")
    return boxes, lam, index.T, beta


def mix_labels(
    labels: Tensor, num_classes: int, smoothing: float, record: tuple[Tensor, Tensor, Tensor] | None
) -> Tensor:
    """Mixed and smoothed probabilities of class indices.

    Args:
        labels: ``(B,)`` int64 in ``[0, num_classes)`` on the CPU.
        num_classes: ``K``.
        smoothing: in ``[0, 1]``.
        record: ``lam (B,)``, ``index (B, 2)`` and ``beta (B,)``; None keeps the labels.

    Returns:
        ``(B, K)`` float32.

    Raises:
        IndexError: a label or an index of the record out of range.
    """
    targets = torch.empty((labels.shape[0], num_classes), dtype=torch.float32)
    labels = labels.contiguous()
    lam, index, beta = (None, None, None) if record is None else (
        record[0].contiguous(), record[1].T.contiguous(), record[2].contiguous()
    )  # fmt: skip
    batch = labels.shape[0]
    words = _pack_labels(
        address("labels", labels, torch.int64, batch),
        0 if lam is None else address("lam", lam, torch.float32, batch),
        0 if index is None else address("index", index, torch.int64, 2 * batch),
        0 if beta is None else address("beta", beta, torch.float32, batch),
        *(targets.data_ptr(), batch, num_classes, smoothing),
    )
    if mixaug_ext.library().mixaug_mix_labels(words):  # type: ignore[union-attr]
        raise IndexError(f"labels must be in [0, {num_classes}) and the record's index in [0, {len(labels)})")
    return targets
