"""What the teacher holds against the generator's mixtures, from logits: no models, no randomness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["similarity"]


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
