"""Spatter: drops of water, or of mud at the higher severities."""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import gaussian_blur, kernels, normal
from mixaug.evaluate.corruptions.weather import grey

WATER = (175 / 255, 238 / 255, 238 / 255)  # pale turquoise
_MUD = (63 / 255, 42 / 255, 20 / 255)  # brown


def spatter(images: Tensor, setting: tuple[float, ...], generator: torch.Generator | None) -> Tensor:
    """Thresholded smooth noise is liquid: water is added, with a relief of its edges; mud covers.

    Water is drawn on the CPU whatever the device is: its edges are followed from pixel to pixel. It depends on the
    noise alone, so one transfer of a plane an image is all. Where no drop falls, the image stays; there the original
    divides by zero. A grey image gets the luma of the liquid.
    """
    mean, sd, sigma, threshold, strength, mud = setting
    n, channels, h, w = images.shape
    layer = gaussian_blur(mean + sd * normal((n, h, w), images, generator), sigma)
    colour = torch.tensor(_MUD if mud else WATER, dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
    if channels == 1:
        colour = grey(colour)
    if mud:
        cover = gaussian_blur((layer > threshold).float(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)[:, None]
        return torch.lerp(images, colour, cover)
    layer = torch.where(layer < threshold, 0.0, layer).mul_(255).to(torch.int64).to(torch.uint8).cpu()
    amount = water(layer).to(images.device)[:, None]
    return torch.addcmul(images, amount, colour, value=strength)


def water(layers: Tensor) -> Tensor:
    """How much water is where: the liquid times a relief of the distance to its edges, up to 1 in each layer.

    Canny's edges, distances to them cut at 20, smoothed, equalised, a slanted derivative, smoothed: OpenCV's
    functions in the original, written out.

    Args:
        layers: ``(N, H, W)`` uint8 on the CPU.

    Returns:
        ``(N, H, W)`` float32 in ``[0, 1]``.

    Example:
        >>> water(torch.zeros(1, 5, 5, dtype=torch.uint8)).sum().item()
        0.0
    """
    from mixaug.evaluate.corruptions import _spatter_kernels

    out = torch.empty(layers.shape, dtype=torch.float32)
    layers = layers.contiguous()
    kernels().over_images(_spatter_kernels.water_layers, len(layers), layers.numpy(), out.numpy())
    return out
