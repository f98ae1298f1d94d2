"""Snow, frost, fog, brightness and saturation."""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug.evaluate.corruptions.filters import clipped_zoom, directional_blur, normal, uniform

_GREY = (0.299, 0.587, 0.114)


def snow(images: Tensor, setting: tuple[float, ...], generator: torch.Generator | None) -> Tensor:
    """Flakes (thresholded noise), streaked along -135 to -45 degrees, added to a whitened image, twice."""
    mean, sd, zoom, threshold, radius, sigma, weight = setting
    n, _, h, w = images.shape
    layer = clipped_zoom(mean + sd * normal((n, 1, h, w), images, generator), zoom)
    layer = torch.where(layer < threshold, 0.0, layer).clamp(0, 1)
    layer = (layer * 255).floor() / 255
    layer = directional_blur(layer, int(radius), sigma, uniform((n,), images, generator) * 90 - 135)
    whitened = torch.maximum(images, 1.5 * _grey(images) + 0.5)
    return weight * images + (1 - weight) * whitened + layer + layer.flip(-1, -2)


def frost(images: Tensor, setting: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """A weighted sum of the image and a frost texture. The texture is ours: the original crops photographs."""
    return setting[0] * images + setting[1] * frost_texture(images, generator)


def fog(images: Tensor, setting: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """Adds a plasma fractal, keeping the brightest value of the image."""
    amount, decay = setting
    n, _, h, w = images.shape
    side = max(2, 1 << (max(h, w) - 1).bit_length())
    layer = plasma(n, side, decay, images, generator)[:, None, :h, :w]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * layer) * brightest / (brightest + amount)


def brightness(images: Tensor, amount: float, generator: torch.Generator | None) -> Tensor:
    """Adds to V of HSV; a grey image is its own V."""
    if images.shape[1] == 1:
        return images + amount
    from kornia.color import hsv_to_rgb, rgb_to_hsv

    hue, saturation, value = rgb_to_hsv(images).unbind(1)
    return hsv_to_rgb(torch.stack([hue, saturation, (value + amount).clamp(0, 1)], 1))


def saturate(images: Tensor, setting: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """Scales and shifts S of HSV."""
    if images.shape[1] == 1:
        raise ValueError("saturate needs colour images (N, 3, H, W), got 1 channel")
    from kornia.color import hsv_to_rgb, rgb_to_hsv

    hue, saturation, value = rgb_to_hsv(images).unbind(1)
    return hsv_to_rgb(torch.stack([hue, (saturation * setting[0] + setting[1]).clamp(0, 1), value], 1))


def frost_texture(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """A picture of frost for each image: bright ridges where smooth noise crosses zero, at three scales, bluish.

    Args:
        images: ``(N, C, H, W)``; only size and device are used.
        generator: of torch.

    Returns:
        ``(N, C, H, W)`` float32 in ``[0, 1]``.

    Example:
        >>> frost_texture(torch.zeros(2, 3, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 32, 32])
    """
    n, channels, h, w = images.shape
    total = torch.zeros(n, 1, h, w, device=images.device)
    for cells, share in ((2, 0.45), (4, 0.35), (8, 0.2)):
        # Needles: noise that is three times as smooth along a direction of its own, given by a sheared grid.
        rows, columns = min(h, cells * 3), min(w, cells)
        coarse = normal((n, 1, rows + 1, columns + 1), images, generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=True)
        if cells % 4 == 0 and h == w:
            smooth = smooth.transpose(-1, -2)
        total = total + share * torch.exp(-4 * smooth.abs())
    grain = uniform((n, 1, h, w), images, generator)
    ridges = (1.25 * total * (0.75 + 0.5 * grain) + 0.08).clamp(0, 1)
    if channels == 1:
        return ridges
    tint = torch.tensor([0.86, 0.95, 1.0], device=images.device).view(1, 3, 1, 1)
    return ridges * tint


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
    field = torch.zeros(count, side, side, device=like.device)
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


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(_GREY, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)
