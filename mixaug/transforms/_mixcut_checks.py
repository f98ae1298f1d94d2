"""Checks of what Dynamic MixCut is given: views and records, by kind, shape, dtype and device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixaug.transforms.dynamic_mixcut_params import DynamicMixCutParams

_FLOAT, _INT = torch.float32, torch.int64


def fitting_record(params: DynamicMixCutParams, images: Tensor) -> DynamicMixCutParams:
    """The record on the images' device, if it was drawn for such images."""
    if not isinstance(params, DynamicMixCutParams):
        raise TypeError(f"params must be DynamicMixCutParams, got {type(params).__name__}")
    h, w = params.size
    if params.lam.shape[0] != images.shape[0] or (h, w) != tuple(images.shape[-2:]):
        raise ValueError(
            f"params were drawn for {len(params.lam)} images of {h}x{w} pixels, got images of shape "
            f"{tuple(images.shape)}"
        )
    # The compiled label mixing reads them where they lie.
    batch = images.shape[0]
    for name, dtype, shape in (("lam", _FLOAT, (batch,)), ("index", _INT, (batch, 2)), ("beta", _FLOAT, (batch,))):
        value = getattr(params, name)
        if value.dtype != dtype or value.shape != shape:
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"params.{name} must be {kind} of shape {shape}, got {value.dtype} of {tuple(value.shape)}"
            )
    return params if all(x.device == images.device for x in params.tensors().values()) else params.to(images.device)


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
