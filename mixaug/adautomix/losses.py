"""What is held against the generator's mixtures, from logits and masks: no models, no randomness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SLACK", "share_gap", "similarity"]

#: How far the share of a mask may be from its ratio for nothing, as in AutoMix.
SLACK = 0.1


def similarity(mixed: Tensor, sources: Tensor, index: Tensor, ratios: Tensor) -> Tensor:
    r"""How close the teacher sees mixtures to their sources.

    .. math:: \frac1B \sum_b \sum_i r_i \cos\bigl(t(x_{mix}), t(x_i)\bigr)

    Qin et al., "Adversarial AutoMixup", ICLR 2024 (arXiv:2312.11954), Eq. 11, on the teacher's logits.

    Args:
        mixed: logits of the mixtures.
        sources: logits of the batch.
        index: rows of the images in each mixture.
        ratios: their weights.

    Shape:
        mixed (n, K), sources (B, K), index and ratios (n, N) -> a scalar in [-1, 1], float32 (float64 for float64).

    Example:
        >>> logits = torch.eye(2)
        >>> similarity(logits[:1], logits, torch.tensor([[0, 1]]), torch.tensor([[0.75, 0.25]])).item()
        0.75
    """
    mixed, sources = (z if z.dtype == torch.float64 else z.float() for z in (mixed, sources))
    cosines = (F.normalize(mixed, dim=1)[:, None] * F.normalize(sources, dim=1)[index]).sum(2)
    return (ratios.to(cosines.dtype) * cosines).sum(1).mean()


def share_gap(masks: Tensor, ratios: Tensor) -> Tensor:
    r"""How far the shares of the masks are from the ratios that the labels have.

    .. math:: \frac1B \sum_b \sum_i \max\Bigl(\bigl|\tfrac{1}{HW} \textstyle\sum M_i - r_i\bigr| - 0.1,\ 0\Bigr)

    The mask loss of AutoMix (Liu et al., ECCV 2022, arXiv:2103.13027), with its slack of 0.1.

    Args:
        masks: of the mixtures.
        ratios: of the sources.

    Shape:
        masks (n, N, H, W), ratios (n, N) -> a scalar, float32 (float64 for float64 masks).

    Example:
        >>> masks = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1)
        >>> round(share_gap(masks, torch.tensor([[0.5, 0.5]])).item(), 4)
        0.6
    """
    shares = masks.mean((2, 3))
    return ((shares - ratios.to(shares.dtype)).abs() - SLACK).clamp_min(0).sum(1).mean()
