"""Checks of what Dynamic MixCut is given: images, views and records, by kind, shape, dtype and device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from mixaug.transforms._images import DTYPES
from mixaug.transforms._labels import COLLATED
from mixaug.transforms.dynamic_mixcut_params import DynamicMixCutParams

#: torchvision's kinds of tensor that hold images.
KINDS = (tv_tensors.Image, tv_tensors.Video)
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


def images_in(flat: list[Any], labels: int) -> list[int]:
    """Which entries are images: all ``Image`` and ``Video`` tensors, else the first plain tensor besides the labels."""
    explicit = [i for i, value in enumerate(flat) if isinstance(value, KINDS)]
    plain = [i for i, value in enumerate(flat) if isinstance(value, Tensor) and i != labels]
    if not (explicit or plain):
        kinds = sorted({type(value).__name__ for i, value in enumerate(flat) if i != labels}) or ["nothing"]
        raise TypeError(f"images must be a tensor of shape (B, C, H, W) in the sample, got {', '.join(kinds)}")
    return explicit or plain[:1]


def check_images(images: Any) -> None:
    """Raises unless ``images`` are a batch of images or clips of a dtype that can be mixed. Reads no value."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor of shape (B, C, H, W), got {type(images).__name__}")
    if images.dtype not in DTYPES:
        raise TypeError(f"images must be uint8, float16, bfloat16 or float32, got {images.dtype}")
    if images.ndim not in (4, 5):
        hint = COLLATED if images.ndim == 3 else ""
        raise ValueError(f"images must be (B, C, H, W) or clips (B, T, C, H, W), got shape {tuple(images.shape)}{hint}")
    if 0 in images.shape[1:]:
        raise ValueError(f"images must have at least one pixel and channel, got shape {tuple(images.shape)}")


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
