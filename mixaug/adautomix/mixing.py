"""Mixing images with masks and their labels with ratios: no randomness."""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug.transforms._labels import probabilities

__all__ = ["mix_images", "mix_targets", "plain_masks"]


def mix_images(images: Tensor, index: Tensor, masks: Tensor) -> Tensor:
    r"""The mixture of several images by masks.

    .. math:: x_{mix} = \sum_i M_i \odot x_i

    Qin et al., ICLR 2024 (arXiv:2312.11954), Eq. 7.

    Args:
        images: of the batch.
        index: rows of the images that are mixed.
        masks: weights that sum to 1 over N.

    Shape:
        images (B, C, H, W) floating; index (n, N) int64; masks (n, N, H, W), or (n, N, 1, 1) for plain ratios ->
        (n, C, H, W), of the images' dtype and memory format, with a gradient to the masks where they have one.

    Example:
        >>> images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
        >>> mix_images(images, torch.tensor([[0, 1]]), torch.tensor([0.25, 0.75]).view(1, 2, 1, 1)).item()
        0.75
    """
    masks = masks.to(images.dtype)
    mixed = None
    # One source after the other: (n, N, C, H, W) at once is N batches of memory, for no time.
    for source, mask in zip(index.unbind(1), masks.unbind(1), strict=True):
        part = images[source]
        mixed = part * mask[:, None] if mixed is None else torch.addcmul(mixed, part, mask[:, None])
    if mixed is None:
        raise ValueError("index must name at least one image for each mixture, got none")
    return mixed


def mix_targets(labels: Tensor, index: Tensor, ratios: Tensor, num_classes: int) -> Tensor:
    r"""The labels of mixtures.

    .. math:: y_{mix} = \sum_i r_i\, y_i

    The cross-entropy of these is the weighted sum of the cross-entropies of the images' labels (AMCE, Eq. 3 of Qin et
    al., ICLR 2024), since the cross-entropy is linear in the target.

    Args:
        labels: of the batch, class indices or probabilities.
        index: rows of the images that are mixed.
        ratios: their weights.
        num_classes: K.

    Shape:
        labels (B,) of an integer dtype or (B, K); index and ratios (n, N) -> (n, K) float32.

    Example:
        >>> mix_targets(torch.tensor([0, 2]), torch.tensor([[0, 1]]), torch.tensor([[0.25, 0.75]]), 3)
        tensor([[0.2500, 0.0000, 0.7500]])
    """
    return (probabilities(labels, num_classes)[index] * ratios[..., None]).sum(1)


def plain_masks(masks: Tensor, ratios: Tensor, plain: Tensor) -> Tensor:
    """The masks, with constant ones in the mixtures that take the plain ratios.

    Args:
        masks: (n, N, H, W).
        ratios: (n, N).
        plain: (n,) bool.

    Example:
        >>> plain_masks(torch.tensor([[[[0.9]], [[0.1]]]]), torch.tensor([[0.5, 0.5]]), torch.tensor([True])).flatten()
        tensor([0.5000, 0.5000])
    """
    return torch.where(plain[:, None, None, None], ratios[..., None, None].to(masks.dtype), masks)
