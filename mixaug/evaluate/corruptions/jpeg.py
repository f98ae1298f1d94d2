"""JPEG compression of a batch, without a codec."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import kernels

# The standard's tables of steps (ITU-T T.81, K.1 and K.2), the frequencies down and across.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32,
)  # fmt: skip


def jpeg_compression(images: Tensor, quality: int, generator: torch.Generator | None) -> Tensor:
    """Written and read as JPEG (4:2:0 for RGB): the pixels that PIL reads from its own file.

    The lossless coding in between changes nothing and is left out. Images of another device go to the CPU and back.
    """
    from mixaug.evaluate.corruptions import _jpeg_kernels

    device, images = images.device, images.cpu().contiguous()
    out = torch.empty_like(images)
    tables = quantisation_tables(quality)
    kernels().over_images(_jpeg_kernels.jpeg_images, len(images), images.numpy(), out.numpy(), *tables)
    return out.to(device)


@functools.cache
def quantisation_tables(quality: int) -> tuple[np.ndarray, np.ndarray]:
    """The steps of luma and chroma at a quality of 1 to 100.

    Example:
        >>> luma, chroma = quantisation_tables(50)
        >>> luma[0, :3].tolist(), chroma[0, :3].tolist()
        ([16, 11, 10], [17, 18, 24])
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (
        np.clip((np.array(table, np.int32).reshape(8, 8) * scale + 50) // 100, 1, 255).astype(np.int32)
        for table in (_LUMA, _CHROMA)
    )
    return luma, chroma
