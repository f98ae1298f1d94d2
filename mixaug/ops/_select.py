"""Applies an operation to the images that it concerns, and to no others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def update(images: Tensor, mask: Tensor, operation: Callable[..., Tensor], *per_image: Tensor) -> Tensor:
    """``images`` with ``operation(images, *per_image)`` in the rows of ``mask``; the input is not written.

    On the CPU only the rows of the mask are computed. On other devices (and under ``torch.compile``) every row is
    computed and the right ones are kept, since finding them would make the host wait for the device.

    Args:
        images: ``(n, C, H, W)``.
        mask: ``(n,)`` bool.
        operation: called with rows of ``images`` and the same rows of each further tensor; keeps shape and dtype.
        per_image: tensors whose first dimension is ``n``.

    Example:
        >>> update(torch.zeros(2, 1, 1, 1), torch.tensor([True, False]), lambda x: x + 1).flatten()
        tensor([1., 0.])
    """
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.where(mask[:, None, None, None], operation(images, *per_image), images)
    index = mask.nonzero().flatten()
    if index.numel() == 0:
        return images
    if index.numel() == len(images):
        return operation(images, *per_image)
    return images.index_copy(0, index, operation(images[index], *(tensor[index] for tensor in per_image)))
