"""AdAutoMix's generator: attention between the feature maps of several images makes the masks that mix them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixaug._checks import MAX_SIDE, check_int

__all__ = ["MixGenerator"]

#: Above so many places the fused attention serves: the scores of all pairs would take more memory than the rest of a
#: step. Below it, plain matrix products took 0.4 to 0.8 of its time (CPU, 64 and 196 places: values have one channel).
_MANY_PLACES = 1024


class MixGenerator(nn.Module):
    r"""Masks that mix N images, from their feature maps and ratios.

    .. math:: P_i = \mathrm{softmax}\Bigl(\frac{q_i^\top \sum_{j \ne i} k_j}{\sqrt d}\Bigr) v_i, \qquad
        (q_i, k_i, v_i) = W\,[F_i; r_i] + b, \qquad
        M = \mathrm{softmax}_{i}\bigl(\mathrm{upsample}(P_1, \ldots, P_N)\bigr)

    Qin et al., "Adversarial AutoMixup", ICLR 2024 (arXiv:2312.11954), Eq. 5 to 7. Each feature map gets its ratio as a
    constant channel; 1x1 convolutions make queries and keys of half the channels and values of one. The sum of the keys
    of the others is the sum of all keys less the image's own, so N products serve for any N.

    Convention:
        The masks of an image sum to 1 at every pixel. Permuting the sources permutes the masks. The same weights serve
        for any N from 2 on, any size and any aspect. The attention and both softmaxes are float32, also under autocast.
        Nothing ties the share of a mask to its ratio.

    Args:
        channels: C of the feature maps, at least 2.
        dtype: of the weights; None (default): torch's default dtype, as of any module.

    Shape:
        features (B, N, C, h, w) of any floating dtype and ratios (B, N), which sum to 1 -> masks (B, N, H, W) in
        [0, 1], float32 (float64 of a generator in float64). Or features (M, C, h, w) of M different images, and
        ``index`` (B, N) int64 that says which of them each row mixes: each is then projected once, however often it is
        used.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit together.

    Example:
        >>> generator = MixGenerator(64)
        >>> masks = generator(torch.rand(2, 3, 64, 8, 8), torch.full((2, 3), 1 / 3), size=(32, 32))
        >>> masks.shape, bool((masks.sum(1) - 1).abs().max() < 1e-6)
        (torch.Size([2, 3, 32, 32]), True)
    """

    def __init__(self, channels: int, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        channels = check_int("channels", channels, 2, MAX_SIDE)
        self.channels = channels
        self.hidden = channels // 2
        #: Queries, keys and values in one 1x1 convolution; its last input channel is the ratio.
        self.project = nn.Conv2d(channels + 1, 2 * self.hidden + 1, 1, dtype=dtype)

    def forward(self, features: Tensor, ratios: Tensor, size: tuple[int, int], index: Tensor | None = None) -> Tensor:
        """The masks.

        Args:
            features: of the images.
            ratios: of the images in each mixture.
            size: ``(H, W)`` of the masks, in pixels.
            index: rows of ``features`` that each mixture is of; None: features have them in place already.
        """
        features, index = self._rows(features, ratios, index)
        h, w = features.shape[-2:]
        weight = self.project.weight.flatten(1)  # (2d + 1, C + 1)
        # [F; r] through W is W_F F + w_r r: the images are projected once, and each mixture adds its ratios.
        features = features.to(self.project.weight.dtype)  # those of a classifier in half precision
        projected = F.conv2d(features, self.project.weight[:, : self.channels], self.project.bias)
        with torch.autocast(features.device.type, enabled=False):
            exact = projected if projected.dtype == torch.float64 else projected.float()
            rows = exact.flatten(2)[index]  # (B, N, 2d + 1, hw)
            rows = rows + ratios.to(rows.dtype)[..., None, None] * weight[:, self.channels, None]
            query, key, value = rows.split([self.hidden, self.hidden, 1], dim=2)
            others = key.sum(1, keepdim=True) - key
            scores = _attend(query.flatten(0, 1), others.flatten(0, 1), value.flatten(0, 1))
            scores = scores.unflatten(0, index.shape).unflatten(2, (h, w))
            return F.interpolate(scores, size=size, mode="bilinear", align_corners=False).softmax(1)

    def _rows(self, features: Tensor, ratios: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
        for name, value in (("features", features), ("ratios", ratios)):
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name} must be a floating tensor, got {kind}")
        if ratios.ndim != 2 or ratios.shape[1] < 2:
            raise ValueError(f"ratios must have the shape (B, N) with N at least 2, got {tuple(ratios.shape)}")
        if index is None:
            if features.ndim != 5 or features.shape[:2] != ratios.shape:
                raise ValueError(
                    f"features must have the shape ({ratios.shape[0]}, {ratios.shape[1]}, C, h, w), the first two as "
                    f"ratios, got {tuple(features.shape)}; or (M, C, h, w) with index"
                )
            features = features.flatten(0, 1)
            index = torch.arange(ratios.numel(), device=features.device).view(ratios.shape)
        elif not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
            kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"index must be an int64 tensor, got {kind}")
        elif features.ndim != 4 or index.shape != ratios.shape:
            raise ValueError(
                f"features must be (M, C, h, w) and index of ratios' shape {tuple(ratios.shape)}, got "
                f"{tuple(features.shape)} and {tuple(index.shape)}"
            )
        if features.shape[1] != self.channels:
            raise ValueError(f"features must have {self.channels} channels, got {features.shape[1]}")
        return features, index

    def extra_repr(self) -> str:
        """What ``print(generator)`` shows."""
        return f"channels={self.channels}"


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(q^T k / sqrt(d)) v`` for (n, d, L) queries and keys and (n, 1, L) values: (n, L)."""
    places, d = query.shape[2], query.shape[1]
    if places <= _MANY_PLACES:
        # Scaled before the product: the scores of all pairs are the larger tensor.
        weights = ((query * d**-0.5).transpose(1, 2) @ key).softmax(2)
        return (weights @ value.transpose(1, 2)).squeeze(2)
    # The fused kernels want values of the queries' width.
    wide = F.pad(value, (0, 0, 0, d - 1))
    query, key, wide = (x.transpose(1, 2).unsqueeze(1) for x in (query, key, wide))
    return F.scaled_dot_product_attention(query, key, wide)[:, 0, :, 0]
