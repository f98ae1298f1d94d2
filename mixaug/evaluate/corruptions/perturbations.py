"""Sequences of 31 frames in which a picture changes a little from one to the next: ten perturbations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixaug._checks import MAX_BATCH, check_choice, check_generator, check_int
from mixaug.evaluate.corruptions import PRESETS
from mixaug.evaluate.corruptions.filters import directional_blur, gaussian_blur
from mixaug.evaluate.corruptions.noise import gaussian_noise, shot_noise
from mixaug.evaluate.corruptions.spatter import WATER, water
from mixaug.evaluate.corruptions.weather import brightness, grey
from mixaug.evaluate.seeds import seed_of

__all__ = ["FRAMES", "PERTURBATIONS", "PerturbationParams", "frame", "frames", "sample_perturbation"]

#: The benchmark's ten perturbations in its order: noise, blur, weather, digital.
PERTURBATIONS = (
    "gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "spatter", "brightness", "translate", "rotate", "tilt",
    "scale",
)  # fmt: skip
#: Frames of a sequence.
FRAMES = 31
# What a step from one frame to the next is, after the generators of CIFAR-10-P and ImageNet-P at their first
# difficulty. Lengths are in pixels whatever the size of the image, as in the corruptions' tables.
_CIFAR: dict[str, Any] = {
    "gaussian_noise": 0.02,  # standard deviation
    "shot_noise": 700.0,  # Poisson rate of a white pixel
    "motion_blur": (6, 1.8, 9.0),  # radius, sigma, degrees a frame
    "zoom_blur": 0.004,  # enlargement a frame
    # mean, sd, sigma, threshold, strength; what a row gives to itself and the rows below in a frame
    "spatter": ((0.6, 0.265, 1.75, 0.7, 0.6), (0.2, 0.8)),
    "brightness": 0.015,  # added to V a frame
    "translate": tuple(range(-7, 9)) + tuple(range(7, -8, -1)),  # the published 16 places, there and back
    "rotate": 1.0,  # degrees a frame
    "tilt": 0.75,  # degrees a frame, about both axes
    "scale": (0.70, 0.02),  # first, step
}
_IMAGENET: dict[str, Any] = {
    "gaussian_noise": 0.03,
    "shot_noise": 300.0,
    "motion_blur": (10, 3.0, 4.0),
    "zoom_blur": 0.004,
    "spatter": ((0.65, 0.27, 3.7, 0.69, 0.6), (0.05, 0.1, 0.15, 0.7)),  # the first to the row above
    "brightness": 0.02,
    "translate": tuple(range(-15, 16)),  # the middle 31 of the published 41 places
    "rotate": 1.0,
    "tilt": 1.0,
    "scale": (0.40, 0.025),
}
_TABLES = {"cifar": _CIFAR, "imagenet": _IMAGENET}
_MIDDLE = FRAMES // 2


@dataclass(frozen=True)
class PerturbationParams:
    """What is random in the sequences of a batch.

    Args:
        seed: (B,) int64 on the CPU, one an image: of the noise of each frame and of the drops of spatter.

    Example:
        >>> PerturbationParams(torch.tensor([3, 4])).seed.tolist()
        [3, 4]
    """

    seed: Tensor


def sample_perturbation(batch_size: int, generator: torch.Generator | None = None) -> PerturbationParams:
    """Draws what is random in the sequences of ``batch_size`` images, for :func:`frame` and :func:`frames`.

    Args:
        batch_size: number of images, 0 or more.
        generator: of torch, on the CPU; None: torch's default.

    Returns:
        The record: a seed an image. The noise itself is made where it is used, a frame at a time.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: ``batch_size`` below 0.

    Example:
        >>> sample_perturbation(5, torch.Generator().manual_seed(0)).seed.shape
        torch.Size([5])
    """
    batch_size = check_int("batch_size", batch_size, 0, MAX_BATCH)
    check_generator(generator)
    return PerturbationParams(torch.randint(2**62, (batch_size,), generator=generator))


def frame(images: Tensor, name: str, t: int, preset: str, params: PerturbationParams) -> Tensor:
    """Frame ``t`` of the sequences of a batch.

    Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
    2019, and its generators of CIFAR-10-P and ImageNet-P:

    - ``gaussian_noise``, ``shot_noise``: frame 0 is the clean image, each other has fresh noise on the clean image;
    - ``motion_blur``: the direction of the streak turns;
    - ``zoom_blur``: the mean of the image and of its enlargements up to this frame's; frame 0 is the clean image;
    - ``spatter``: drops of water, which run down;
    - ``brightness``: V of HSV from below to above the image's, which is frame 15;
    - ``translate``: along the row, by whole pixels; ``rotate``: about the centre, clockwise; ``tilt``: about both axes,
      seen in perspective; ``scale``: about the centre. What comes in from outside the image is black.

    Convention: noise and drops are drawn for each image from its seed in ``params`` and from ``t`` alone, on the CPU;
    so a picture is the same in every batch and on every device. The result is clipped and rounded to 8 bit.

    Args:
        images: uint8, or float in [0, 1]. Not written.
        name: one of ``PERTURBATIONS``.
        t: 0 to 30.
        preset: ``"cifar"`` (steps for about 32 px) or ``"imagenet"`` (224 px).
        params: of :func:`sample_perturbation`, for as many images.

    Shape:
        images: (B, C, H, W), C 1 or 3; the frame: (B, C, H, W) float32 in [0, 1].

    Returns:
        The frame, on the images' device, on the grid of 1/255.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown name or preset, a wrong shape or ``t``.

    Note:
        Differences from the published sets: sequences are 31 frames long for every perturbation (theirs: 21 of the
        motion blur and 16 of the translation for CIFAR-10-P, 41 of the translation for ImageNet-P); steps between
        frames are theirs. Bytes are rounded, where most of theirs are cut off. ImageNet-P's pictures were moved before
        a crop of 224 from 256 px, so that less black is seen at the border, and were then compressed as videos.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> params = sample_perturbation(2, torch.Generator().manual_seed(0))
        >>> frame(images, "rotate", 3, "cifar", params).shape
        torch.Size([2, 3, 8, 8])
    """
    pixels = _checked(images, name, preset, params)
    t = check_int("t", t, 0, FRAMES - 1)
    return _frame(pixels, name, t, preset, params)


def frames(images: Tensor, name: str, preset: str, params: PerturbationParams) -> Iterator[Tensor]:
    """The 31 frames of the sequences of a batch, one after the other; arguments and results as of :func:`frame`.

    Only one frame is held at a time.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> params = sample_perturbation(2, torch.Generator().manual_seed(0))
        >>> sum(1 for _ in frames(images, "zoom_blur", "cifar", params))
        31
    """
    pixels = _checked(images, name, preset, params)
    if name == "zoom_blur":  # a running sum: by itself, frame t is t enlargements
        return _zoom_blurs(pixels, _TABLES[preset][name])
    return (_frame(pixels, name, t, preset, params) for t in range(FRAMES))


def _frame(images: Tensor, name: str, t: int, preset: str, params: PerturbationParams) -> Tensor:
    if len(images) == 0:
        return images.clone()
    setting = _TABLES[preset][name]
    return _bytes(_FUNCTIONS[name](images, t, setting, params))


def _noisy(images: Tensor, t: int, setting: float, params: PerturbationParams, noise: Callable[..., Tensor]) -> Tensor:
    if t == 0:
        return images
    generator = torch.Generator()
    rows = []
    for image, seed in zip(images.split(1), params.seed.tolist(), strict=True):
        rows.append(noise(image, setting, generator.manual_seed(seed_of(seed, t))))
    return torch.cat(rows)


def _gaussian_noise(images: Tensor, t: int, sd: float, params: PerturbationParams) -> Tensor:
    return _noisy(images, t, sd, params, gaussian_noise)


def _shot_noise(images: Tensor, t: int, rate: float, params: PerturbationParams) -> Tensor:
    return _noisy(images, t, rate, params, shot_noise)


def _motion_blur(images: Tensor, t: int, setting: tuple[int, float, float], params: PerturbationParams) -> Tensor:
    radius, sigma, step = setting
    degrees = torch.full((len(images),), (t - (FRAMES - 1)) * step, dtype=torch.float32, device=images.device)
    return directional_blur(images, radius, sigma, degrees)


def _zoom_blur(images: Tensor, t: int, step: float, params: PerturbationParams) -> Tensor:
    return (images + sum(_enlarged(images, i, step) for i in range(1, t + 1))) / (t + 1)


def _zoom_blurs(images: Tensor, step: float) -> Iterator[Tensor]:
    total = images.clone()
    yield _bytes(total)
    for t in range(1, FRAMES):
        total += _enlarged(images, t, step)
        yield _bytes(total / (t + 1))


def _enlarged(images: Tensor, i: int, step: float) -> Tensor:
    return _bytes(_affine(images, 0.0, 1 + step * i))  # as a picture of bytes, as the original's are


def _spatter(
    images: Tensor, t: int, setting: tuple[tuple[float, ...], tuple[float, ...]], params: PerturbationParams
) -> Tensor:
    """The water of the corruption of this name; from frame to frame its liquid runs down."""
    (mean, sd, sigma, threshold, strength), shares = setting
    h, w = images.shape[-2:]
    generator = torch.Generator()
    drawn = (generator.manual_seed(seed) for seed in params.seed.tolist())
    noise = torch.stack([torch.randn(h, w, generator=each, dtype=torch.float32) for each in drawn])
    layer = gaussian_blur(mean + sd * noise, sigma)
    layer = torch.where(layer < threshold, 0.0, layer).double()
    liquid = (torch.linalg.matrix_power(_running(h, shares), t) @ layer).mul(255).clamp(0, 255).to(torch.uint8)
    colour = torch.tensor(WATER, dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
    if images.shape[1] == 1:
        colour = grey(colour)
    return images + strength * colour * water(liquid).to(images.device)[:, None]


def _running(rows: int, shares: tuple[float, ...]) -> Tensor:
    """(rows, rows) float64: what each row has of the rows of the frame before. What runs off the last row is gone."""
    matrix = torch.zeros(rows, rows, dtype=torch.float64)
    for place, share in enumerate(shares):
        down = place - (len(shares) - 1) // 2  # as numpy.convolve(..., "same") has it
        if abs(down) < rows:
            matrix.diagonal(-down).fill_(share)
    return matrix


def _brightness(images: Tensor, t: int, step: float, params: PerturbationParams) -> Tensor:
    return brightness(images, (t - _MIDDLE) * step, None)


def _translate(images: Tensor, t: int, places: tuple[int, ...], params: PerturbationParams) -> Tensor:
    width, shift = images.shape[-1], places[t]
    moved = torch.zeros_like(images)
    if abs(shift) < width:
        moved[..., max(0, shift) : width + min(0, shift)] = images[..., max(0, -shift) : width - max(0, shift)]
    return moved


def _rotate(images: Tensor, t: int, step: float, params: PerturbationParams) -> Tensor:
    return _affine(images, (t - _MIDDLE) * step, 1.0)


def _tilt(images: Tensor, t: int, step: float, params: PerturbationParams) -> Tensor:
    """Turned by the same angle about the row and the column through the centre, seen from a diagonal away."""
    h, w = images.shape[-2:]
    angle = math.radians((t - _MIDDLE) * step)
    cos, sin, distance = math.cos(angle), math.sin(angle), math.hypot(w, h)
    rows: list[list[list[float]]] = [
        [[distance, 0, w / 2, 0], [0, distance, h / 2, 0], [0, 0, 1, 0]],  # projected
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, distance], [0, 0, 0, 1]],  # moved away
        [[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]],  # turned about the row
        [[cos, 0, -sin, 0], [0, 1, 0, 0], [sin, 0, cos, 0], [0, 0, 0, 1]],  # and about the column
        # The row of ones for z is the original's: the picture lies a pixel behind the axes.
        [[1, 0, -w / 2], [0, 1, -h / 2], [0, 0, 1], [0, 0, 1]],
    ]
    forward = torch.linalg.multi_dot([torch.tensor(matrix, dtype=torch.float64) for matrix in rows])
    inverse = torch.linalg.inv(forward)
    y, x = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    source = torch.stack([x, y, torch.ones_like(x)], -1) @ inverse.T
    return _sample(images, source[..., 0] / source[..., 2], source[..., 1] / source[..., 2], "zeros")


def _scale(images: Tensor, t: int, setting: tuple[float, float], params: PerturbationParams) -> Tensor:
    first, step = setting
    return _affine(images, 0.0, first + step * t)


def _affine(images: Tensor, degrees: float, scale: float) -> Tensor:
    """Turned clockwise and enlarged about the centre; bilinear, with PIL's borders: edge pixels reach to the border of
    the image, beyond it is black."""
    h, w = images.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    y = (torch.arange(h, dtype=torch.float64) + 0.5 - h / 2)[:, None]
    x = torch.arange(w, dtype=torch.float64) + 0.5 - w / 2
    # In whole 2^-32 of a pixel, so that a border which is met is met exactly.
    source_x = ((cos * x + sin * y + w / 2) * 2**32).round() / 2**32
    source_y = ((-sin * x + cos * y + h / 2) * 2**32).round() / 2**32
    inside = (source_x >= 0) & (source_x < w) & (source_y >= 0) & (source_y < h)
    return _sample(images, source_x - 0.5, source_y - 0.5, "border") * inside.to(images)


def _sample(images: Tensor, x: Tensor, y: Tensor, padding: str) -> Tensor:
    """Bilinear values at (H, W) float64 positions, pixel centres at integers, the same for all images."""
    h, w = images.shape[-2:]
    grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], -1).to(images)
    return torch.nn.functional.grid_sample(
        images, grid.expand(len(images), h, w, 2), mode="bilinear", padding_mode=padding, align_corners=False
    )


def _bytes(images: Tensor) -> Tensor:
    return images.clamp(0, 1).mul(255).round().div(255)


def _checked(images: Tensor, name: str, preset: str, params: PerturbationParams) -> Tensor:
    """float32 in [0, 1]."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or float in [0, 1], got {images.dtype}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(f"images must be (B, C, H, W) with 1 or 3 channels, got shape {tuple(images.shape)}")
    name = check_choice("name", name, PERTURBATIONS)
    preset = check_choice("preset", preset, PRESETS)
    if not isinstance(params, PerturbationParams):
        raise TypeError(f"params must be PerturbationParams of sample_perturbation, got {type(params).__name__}")
    if len(params.seed) != len(images):
        raise ValueError(f"params must be drawn for the {len(images)} images, got {len(params.seed)} seeds")
    images = images.detach()
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


_FUNCTIONS: dict[str, Callable[[Tensor, int, Any, PerturbationParams], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "spatter": _spatter,
    "brightness": _brightness,
    "translate": _translate,
    "rotate": _rotate,
    "tilt": _tilt,
    "scale": _scale,
}
