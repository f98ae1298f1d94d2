"""Takes any kind of image apart into a batch of tensors, and puts the result together again."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors

from mixaug._checks import check_dense, check_finite, image_range, in_unit_range, out_of_range

#: Dtypes of images; floats are in [0, 1].
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)
_DTYPE_NAMES = "uint8, float16, bfloat16 or float32"
# The largest value of images that were not divided by 255 is above this: normalised ones have values below 0 as well.
_BYTES = 2.0


@dataclass(frozen=True)
class ImageBatch:
    """An input as a batch of images, with what is needed to give the result the input's kind and shape.

    Attributes:
        images: ``(batch * frames, C, H, W)``; the frames of a clip follow each other.
        batch: number of images or clips.
        frames: frames of a clip, 1 for images.
        source: the input.
    """

    images: Tensor
    batch: int
    frames: int
    source: Any

    def restore(self, images: Tensor) -> Any:
        """``images`` (shaped as ``self.images``) as the kind and shape of the input."""
        if isinstance(self.source, PIL.Image.Image):
            # PIL holds pixels channel by channel: what this makes contiguous already is, if the input was PIL's.
            pixels = images[0].permute(1, 2, 0).contiguous().numpy()
            return PIL.Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        out = images.reshape(*self.source.shape[:-3], *images.shape[-3:]) if self.source.dim() != 4 else images
        return tv_tensors.wrap(out, like=self.source) if isinstance(self.source, tv_tensors.TVTensor) else out


def is_image(value: object) -> bool:
    """Whether ``value`` is of a kind that can hold images: PIL image, tensor, ``tv_tensors.Image`` or ``Video``."""
    if isinstance(value, tv_tensors.TVTensor):
        return isinstance(value, tv_tensors.Image | tv_tensors.Video)
    return isinstance(value, PIL.Image.Image | Tensor)


def to_batch(value: Any, name: str = "images") -> ImageBatch:
    """Checks kind, dtype and shape, and views the input as a batch.

    Args:
        value: PIL image of mode RGB, L or P; ``(C, H, W)``, ``(B, C, H, W)`` or clips ``(..., T, C, H, W)`` up to 6-D;
            a 4-D ``tv_tensors.Video`` is one clip.
        name: of the argument, for messages.

    Returns:
        the batch; its ``images`` share memory with the input where they can.

    Raises:
        TypeError: another kind, or a dtype other than uint8, float16, bfloat16, float32.
        ValueError: a PIL mode that cannot be used, a shape that is not one of those, channels other than 1 or 3.
    """
    if isinstance(value, PIL.Image.Image):
        # A copy, since PIL's own buffer is read-only; seen as (1, C, H, W) without moving a pixel (channels_last).
        pixels = torch.from_numpy(np.array(_convert(value, name)))
        return ImageBatch(pixels[None, None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)[None], 1, 1, value)
    check_dense(name, value, "a PIL image or a tensor")
    if value.is_meta:
        raise ValueError(f"{name} must hold values, got a tensor on the device meta")
    tensor = value.as_subclass(Tensor)
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} must be {_DTYPE_NAMES}, got {tensor.dtype}")
    if not 3 <= tensor.dim() <= 6:
        raise ValueError(
            f"{name} must be (C, H, W), (B, C, H, W) or clips (..., T, C, H, W) up to 6-D, "
            f"got shape {tuple(tensor.shape)}"
        )
    if tensor.shape[-3] not in (1, 3):
        raise ValueError(f"{name} must have 1 or 3 channels in dimension -3, got shape {tuple(tensor.shape)}")
    if tensor.shape[-1] == 0 or tensor.shape[-2] == 0:
        raise ValueError(f"{name} must have at least one pixel, got shape {tuple(tensor.shape)}")
    clip = tensor.dim() > 4 or isinstance(value, tv_tensors.Video)
    frames = tensor.shape[-4] if clip and tensor.dim() > 3 else 1
    lead = tensor.shape[:-3]
    batch = math.prod(lead[:-1]) if clip else math.prod(lead)
    if tensor.dim() == 3:
        return ImageBatch(tensor[None], 1, 1, value)
    images = tensor if tensor.dim() == 4 else tensor.reshape(-1, *tensor.shape[-3:])
    return ImageBatch(images, batch, frames, value)


def check_values(images: Tensor, name: str = "images", effect: str = "clipped") -> None:
    """Checks float values: NaN and infinity are refused, a range outside ``[0, 1]`` is warned of.

    Reads the tensor, so a CUDA tensor makes the host wait: for single images and the first batch.

    Args:
        images: checked if they are floating.
        name: of the argument, for messages.
        effect: what happens to values out of range, for the warning.

    Raises:
        ValueError: a value is not finite.
    """
    if not images.is_floating_point() or images.numel() == 0:
        return
    low, high = image_range(images)
    if not (math.isfinite(low) and math.isfinite(high)):
        check_finite(name, images)
    if not in_unit_range(low, high):
        if low >= 0.0 and high > _BYTES:
            cure = "Bytes as floats? Divide them by 255, as v2.ToDtype(torch.float32, scale=True) does of uint8."
        else:
            cure = (
                "Normalised images? Put this transform before Normalize (after ToDtype(torch.float32, scale=True)), or "
                "make Normalize the model's first layer."
            )
        warnings.warn(
            out_of_range(name, low, high, f", which are {effect}. {cure}"),
            stacklevel=2,
        )


def _convert(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    if image.width == 0 or image.height == 0:
        raise ValueError(f"{name} must have at least one pixel, got a PIL image of size {image.size}")
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "P":
        return image.convert("RGB")  # indices of a palette cannot be mixed, its colours can
    reasons = {
        "RGBA": "its transparency would have to be mixed too; use image.convert('RGB')",
        "LA": "its transparency would have to be mixed too; use image.convert('L')",
        "1": "it has no grey levels; use image.convert('L')",
    }
    reason = reasons.get(image.mode, "its operations are defined on 8-bit grey or RGB; convert it to 'L' or 'RGB'")
    raise ValueError(f"{name} must be a PIL image of mode RGB, L or P, got mode {image.mode}: {reason}")
