"""Checks of what Dynamic MixCut is given: views and records, by kind, shape, dtype and device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixaug._checks import kind_of
from mixaug._records import Rule, Rules, check_record, kept, reads_values
from mixaug.transforms.dynamic_mixcut_params import DynamicMixCutParams


def fitting_record(params: DynamicMixCutParams, images: Tensor, check_values: bool = False) -> DynamicMixCutParams:
    """The record on the images' device, if it was drawn for such images; ``check_values`` reads one on a GPU."""
    if not isinstance(params, DynamicMixCutParams):
        raise TypeError(f"params must be DynamicMixCutParams, got {type(params).__name__}")
    batch, (h, w) = images.shape[0], images.shape[-2:]
    for name, value, ndim in (("lam", params.lam, 1), ("boxes", params.boxes, 3)):
        if not isinstance(value, Tensor) or value.ndim != ndim:
            raise TypeError(f"params.{name} must be a tensor of {ndim} dimensions, got {kind_of(value)}")
    other = len(params.lam) == len(params.boxes) != batch
    if other or not isinstance(params.size, (tuple, list)) or tuple(params.size) != (h, w):
        raise ValueError(
            f"params were drawn for {len(params.lam)} images of size {params.size}, got images of shape "
            f"{tuple(images.shape)}"
        )
    rules, values = _rules(batch, params.boxes.shape[1], h, w), reads_values(images.device, check_values)
    return check_record(params, rules, images.device, values=values, move=True)


@kept
def _rules(batch: int, boxes: int, h: int, w: int) -> Rules:
    return Rules(
        boxes=Rule(torch.int64, (batch, boxes, 4), h, w, kind="box"),
        lam=Rule(torch.float32, (batch,), 0.0, 1.0),
        index=Rule(torch.int64, (batch, 2), 0, batch - 1),
        beta=Rule(torch.float32, (batch,), 0.0, 1.0),
    )


def check_views(views: Any, images: Tensor) -> None:
    """Raises unless ``views`` are two batches like ``images``."""
    if not isinstance(views, (tuple, list)) or len(views) != 2:
        count = f" of {len(views)}" if isinstance(views, (tuple, list)) else ""
        raise TypeError(f"views must be a pair of tensors, got {type(views).__name__}{count}")
    for i, view in enumerate(views):
        if not isinstance(view, Tensor):
            raise TypeError(f"views[{i}] must be a tensor, got {type(view).__name__}")
        if view.dtype != images.dtype:
            raise TypeError(f"views[{i}] must have the images' dtype {images.dtype}, got {view.dtype}")
        if view.shape != images.shape:
            raise ValueError(f"views[{i}] must have the images' shape {tuple(images.shape)}, got {tuple(view.shape)}")
        if view.device != images.device:
            raise ValueError(f"views[{i}] must be on the images' device {images.device}, got {view.device}")
