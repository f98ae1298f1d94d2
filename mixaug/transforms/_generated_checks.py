"""What GeneratedMix is given: draws that fit the images, and images that the teacher takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mixaug.adautomix._checks import check_draw
from mixaug.adautomix.draws import MixDraw

__all__ = ["fitting_draw", "per_frame", "teacher_takes"]


def fitting_draw(params: Any, images: Tensor, check_values: bool = False) -> MixDraw:
    """The draw on the images' device, if it was drawn for so many images; ``check_values`` reads one on a GPU."""
    if not isinstance(params, MixDraw):
        raise TypeError(f"params must be a MixDraw, got {type(params).__name__}")
    if len(params.index) != len(images):
        raise ValueError(f"params were drawn for {len(params.index)} images, got images of shape {tuple(images.shape)}")
    return check_draw(params, len(images), images.device, check_values=check_values)


def per_frame(draw: MixDraw, images: Tensor) -> MixDraw:
    """The draw of a batch of clips (B, T, C, H, W) as that of the B T frames one after the other; of images, itself."""
    if images.ndim == 4:
        return draw
    frames = images.shape[1]
    place = torch.arange(frames, device=draw.index.device)
    index = draw.index[:, None] * frames + place[:, None]
    return MixDraw(
        index.flatten(0, 1), draw.ratios.repeat_interleave(frames, 0), draw.plain.repeat_interleave(frames, 0)
    )


@contextmanager
def teacher_takes(images: Tensor) -> Iterator[None]:
    """A pass of the teacher whose failure names the images: what a convolution says does not."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"images must be such as the generator's teacher takes, got shape {tuple(images.shape)}: {reason}"
        ) from error
