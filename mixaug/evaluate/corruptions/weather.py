"""Snow, fog, brightness and saturation; frost has a file of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import directional_blur, normal, uniform
from mixaug.evaluate.corruptions.warps import clipped_zoom

_GREY = (0.299, 0.587, 0.114)


def snow(images: Tensor, setting: tuple[float, ...], generator: torch.Generator | None) -> Tensor:
    """Flakes (thresholded noise), streaked along -135 to -45 degrees, added to a whitened image, twice."""
    mean, sd, zoom, threshold, radius, sigma, weight = setting
    n, _, h, w = images.shape
    layer = clipped_zoom(mean + sd * normal((n, 1, h, w), images, generator), zoom)
    layer = torch.where(layer < threshold, 0.0, layer).clamp_(0, 1).mul_(255).floor_().div_(255)
    layer = directional_blur(layer, int(radius), sigma, uniform((n,), images, generator) * 90 - 135)
    whitened = torch.maximum(images, 1.5 * grey(images) + 0.5)
    return weight * images + (1 - weight) * whitened + layer + layer.flip(-1, -2)


def fog(images: Tensor, setting: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """Adds a plasma fractal, keeping the brightest value of the image."""
    amount, decay = setting
    n, _, h, w = images.shape
    side = max(2, 1 << (max(h, w) - 1).bit_length())
    layer = plasma(n, side, decay, images, generator)[:, None, :h, :w]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * layer) * brightest / (brightest + amount)


def brightness(images: Tensor, amount: float, generator: torch.Generator | None) -> Tensor:
    """Adds to V of HSV, the largest channel: hue and saturation stay, so all channels grow in proportion.

    A grey image is its own V; black becomes grey.
    """
    value = images.amax(1, keepdim=True)
    brighter = (value + amount).clamp_(0, 1)
    return torch.where(value > 0, images * (brighter / value.clamp_min(1e-9)), brighter)


def saturate(images: Tensor, setting: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """Scales and shifts S of HSV: with the largest channel V, each goes to ``V - (V - x) S' / S``.

    Grey pixels have hue 0, red: where there is a shift, green and blue go down.
    """
    if images.shape[1] == 1:
        raise ValueError("saturate needs colour images (N, 3, H, W), got 1 channel")
    factor, shift = setting
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    saturation = (value - least) / value.clamp_min(1e-9)
    wanted = (saturation * factor + shift).clamp_(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
    below = torch.where(saturation > 0, (value - images) * (wanted / saturation.clamp_min(1e-9)), value * wanted * red)
    return value - below


def plasma(count: int, side: int, decay: float, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Diamond-square fractals: midpoints are the mean of four neighbours plus noise that shrinks by ``decay`` a level.

    The original's arithmetic is kept: the noise is ``wibble * U(-wibble, wibble)``, wrapped around at the borders.

    Args:
        count: how many.
        side: a power of two, at least 2.
        decay: above 1; larger is smoother.
        like: a tensor on the wanted device.
        generator: of torch.

    Returns:
        ``(count, side, side)`` in ``[0, 1]``, both reached.

    Example:
        >>> field = plasma(1, 8, 2.0, torch.zeros(1), torch.Generator().manual_seed(0))
        >>> field.min().item(), field.max().item()
        (0.0, 1.0)
    """
    field = torch.zeros(count, side, side, dtype=torch.float32, device=like.device)
    step, wibble = side, 100.0

    def mean_of(total: Tensor) -> Tensor:
        noise = uniform(tuple(total.shape), like, generator) * 2 - 1
        return total / 4 + wibble * wibble * noise

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        total = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = mean_of(total + total.roll(-1, 2))
        centres, corners = field[:, half::step, half::step], field[:, ::step, ::step]
        field[:, ::step, half::step] = mean_of(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        field[:, half::step, ::step] = mean_of(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, wibble = half, wibble / decay
    low, high = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    return (field - low) / (high - low)


def grey(images: Tensor) -> Tensor:
    """The luma of colour images, ``(N, 1, H, W)``; grey ones as they are.

    Example:
        >>> round(grey(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).item(), 3)
        0.299
    """
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(_GREY, dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)
