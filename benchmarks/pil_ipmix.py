"""IPMix as the papers write it: one PIL image at a time, NumPy random numbers, no batch. Yardstick and oracle.


:class:`PILIPMix` is the form of the papers' code (AugMix, PixMix and IPMix share it): PIL images between steps, float
tensors where pixels are mixed. :class:`LeanIPMix` does the same work with NumPy bytes in place of tensors: about twice
as fast, and stricter than what people run. Benchmarks print our figures beside both. The tests hold our kernels to
:data:`IMAGE_OPERATIONS`, and compare what we draw with what these pipelines draw.

Profiled with cProfile (AMD EPYC, one thread, k=3, t=3, pillow 13, torch 2.15; about 2,500 images/s at 32 px and 300 at
224 px; lean 6,200 and 470), so that nothing in it is needlessly slow:

* pictures are in memory and resized beforehand; resizing one from 256 to 36 px for each use would take 0.17 ms, 43% of
  the whole 0.39 ms that an image of 32 px takes;
* random numbers are drawn a few at a time into Python floats: NumPy's generator costs 1 us a call, whatever the count;
* only the patch is cropped, converted and mixed, never the image around it;
* what remains at 32 px: 39% image-to-tensor conversions (which the lean form is without), 20% PIL building its tables
  of 256 entries (equalize, solarize, posterize, invert), the rest flat; at 224 px: 37% PIL's bilinear transform (59% of
  the lean form), 24% conversions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.functional import to_tensor

Array = np.ndarray
_BILINEAR = Image.Resampling.BILINEAR
_AFFINE = Image.Transform.AFFINE


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, _AFFINE, matrix, resample=_BILINEAR, fillcolor=0)


def equalize(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Histogram equalisation of each channel."""
    return ImageOps.equalize(image)


def posterize(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Keeps ``4 - int(0.4 L)`` bits; with none left the image is black (newer PIL refuses 0 bits)."""
    bits = 4 - int(0.4 * level)
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def solarize(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Inverts values from ``256 - int(25.6 L)`` on."""
    return ImageOps.solarize(image, 256 - int(25.6 * level))


def invert(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Inverts every value."""
    return ImageOps.invert(image)


def mirror(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Left for right."""
    return ImageOps.mirror(image)


def rotate(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Turns by ``int(3 L)`` degrees, counter-clockwise for sign 1."""
    return image.rotate(sign * int(3 * level), resample=_BILINEAR, fillcolor=0)


def shear_x(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Shears rows by ``0.03 L``."""
    return _affine(image, (1, sign * 0.03 * level, 0, 0, 1, 0))


def shear_y(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Shears columns by ``0.03 L``."""
    return _affine(image, (1, 0, 0, sign * 0.03 * level, 1, 0))


def translate_x(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Moves by ``int(L W / 30)`` pixels, to the left for sign 1."""
    return _affine(image, (1, 0, sign * int(level * image.width / 30), 0, 1, 0))


def translate_y(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Moves by ``int(L H / 30)`` pixels, upwards for sign 1."""
    return _affine(image, (1, 0, 0, 0, 1, sign * int(level * image.height / 30)))


def autocontrast(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Stretches the contrast after cutting ``10 - L`` percent at both ends of the histogram."""
    return ImageOps.autocontrast(image, cutoff=10 - level)


def color(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Saturation times ``0.18 L + 0.1``."""
    return ImageEnhance.Color(image).enhance(0.18 * level + 0.1)


def contrast(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Contrast times ``0.18 L + 0.1``."""
    return ImageEnhance.Contrast(image).enhance(0.18 * level + 0.1)


def brightness(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Brightness times ``0.18 L + 0.1``."""
    return ImageEnhance.Brightness(image).enhance(0.18 * level + 0.1)


def sharpness(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Sharpness times ``0.18 L + 0.1``."""
    return ImageEnhance.Sharpness(image).enhance(0.18 * level + 0.1)


#: Image-level operations: ``(image, level in (0, 10], sign -1 or 1) -> image``, the ten disjoint ones first.
IMAGE_OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    f.__name__: f
    for f in (
        equalize, posterize, solarize, invert, mirror, rotate, shear_x, shear_y, translate_x, translate_y,
        autocontrast, color, contrast, brightness, sharpness,
    )
}  # fmt: skip
DISJOINT = 10


class _Draws:
    """Settings and random numbers that both pipelines share; see :class:`PILIPMix`."""

    def __init__(
        self,
        pictures: Sequence[Image.Image],
        k: int = 3,
        t: int = 3,
        severity: float = 3.0,
        beta: float = 3.0,
        patch_sizes: Sequence[int] = (4, 8, 16),
        self_mix: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.pictures = list(pictures)
        self.k, self.t = k, t
        self.severity, self.beta = severity, beta
        self.patch_sizes = tuple(patch_sizes)
        self.self_mix = self_mix
        self.rng = np.random.default_rng() if rng is None else rng
        self._operations = list(IMAGE_OPERATIONS.values())[:DISJOINT]

    @classmethod
    def for_side(cls, side: int, pictures: Sequence[Image.Image], rng: np.random.Generator | None = None) -> _Draws:
        """The papers' settings for images of that side: those of CIFAR under 64 px, those of ImageNet from there."""
        if side < 64:
            return cls(pictures, rng=rng)
        return cls(pictures, severity=1.0, beta=4.0, patch_sizes=(4, 8, 16, 32, 64), self_mix=0.5, rng=rng)

    def _corner(self, picture: tuple[int, int], image: tuple[int, int]) -> tuple[int, int]:
        """Left and top of a random crop; sizes are (width, height)."""
        u, v = self.rng.random(2).tolist()
        return int(u * (picture[0] - image[0] + 1)), int(v * (picture[1] - image[1] + 1))

    def _image_step(self, image: Image.Image) -> Image.Image:
        u, v, w = self.rng.random(3).tolist()
        level = 0.1 + (self.severity - 0.1) * v
        return self._operations[int(u * DISJOINT)](image, level, 1 if w < 0.5 else -1)

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        u = self.rng.random(6).tolist()
        choice = int(u[0] * (len(self.patch_sizes) + 1))
        if choice == len(self.patch_sizes):
            return 0, 0, width, height
        rows = columns = side = self.patch_sizes[choice]
        if u[1] >= 0.5:
            rows, columns = 2 + int(u[2] * (side - 1)), 2 + int(u[3] * (side - 1))
        left, top = int(u[4] * (width - columns + 1)), int(u[5] * (height - rows + 1))
        return left, top, left + columns, top + rows

    def _exponents(self) -> tuple[float, float]:
        u, v, coin = self.rng.random(3).tolist()
        a, b = u ** (1 / self.beta), 1 - v ** (1 / self.beta)
        return (a, b) if coin < 0.5 else (2 - a, -b)


class PILIPMix(_Draws):
    """IPMix on one PIL image, structure ``chain``, in the form of the papers' code.

    Between steps the image is a PIL image. A mixing step crops the patch out of image and picture, turns both into
    float tensors, mixes, rounds to bytes and pastes; each chain's result becomes a float tensor for the weighted sum.

    Args:
        pictures: mixing pictures, already resized a little larger than the images, so that only a random crop remains
            for each use.
        k: chains.
        t: most steps a chain; the depth is uniform on ``0..t``.
        severity: strengths are ``L ~ U(0.1, severity)``.
        beta: parameter of the mixing exponents.
        patch_sizes: sides of the patches in pixels; the whole image is added.
        self_mix: share of mixing steps that mix with an augmented copy of the image.
        rng: NumPy generator.

    Returns:
        float32 tensor ``(C, H, W)`` in ``[0, 1]``, as in the papers, whose next step is the normalisation.

    Example:
        >>> PILIPMix([Image.new("RGB", (36, 36), "teal")])(Image.new("RGB", (32, 32))).shape
        torch.Size([3, 32, 32])
    """

    def __call__(self, image: Image.Image) -> Tensor:
        rng = self.rng
        picture = self.pictures[int(rng.integers(len(self.pictures)))]
        left, top = self._corner(picture.size, image.size)
        picture = picture.crop((left, top, left + image.width, top + image.height))
        weights = rng.dirichlet([1.0] * self.k).tolist()
        x = to_tensor(image)
        mixed = torch.zeros_like(x)
        for weight in weights:
            current = image
            step = self._image_step if rng.random() < 0.5 else lambda chain: self._mix_step(chain, image, picture)
            for _ in range(int(rng.integers(self.t + 1))):
                current = step(current)
            mixed += weight * to_tensor(current)
        return torch.lerp(x, mixed, rng.random())

    def _mix_step(self, current: Image.Image, image: Image.Image, picture: Image.Image) -> Image.Image:
        other = self._image_step(image) if self.self_mix and self.rng.random() < self.self_mix else picture
        box = self._box(*image.size)
        mixed = self._operator(to_tensor(current.crop(box)), to_tensor(other.crop(box)))
        pixels = mixed.clamp_(0, 1).mul_(255).round_().byte().permute(1, 2, 0).numpy()
        out = current.copy()
        out.paste(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), box)
        return out

    def _operator(self, u: Tensor, s: Tensor) -> Tensor:
        which = int(self.rng.integers(4))
        if which < 2:
            a, b = self._exponents()
            if which == 0:
                return ((2 * u - 1) * a + (2 * s - 1) * b + 1) / 2
            return (2 * u) ** a * (2 * s).clamp_min_(1e-37) ** b / 2
        shape = u.shape if which == 2 else u[:1].shape
        return torch.where(torch.from_numpy(self.rng.random(shape, dtype=np.float32)) < self.rng.random(), u, s)


class LeanIPMix(_Draws):
    """The same with NumPy bytes in place of tensors: a stricter yardstick than what people run.

    A chain stays a PIL image (image level) or a byte array (mixing) throughout, mixing steps write into the patch, the
    multiply operator is two look-ups, and the weighted sum is one pass a chain. Arguments as for :class:`PILIPMix`.

    Returns:
        a PIL image.

    Example:
        >>> LeanIPMix([Image.new("RGB", (36, 36), "teal")])(Image.new("RGB", (32, 32))).size
        (32, 32)
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._arrays = [np.asarray(picture) for picture in self.pictures]

    def __call__(self, image: Image.Image) -> Image.Image:
        rng = self.rng
        base = np.asarray(image)
        which = int(rng.integers(len(self._arrays)))
        left, top = self._corner(self.pictures[which].size, image.size)
        picture = self._arrays[which][top : top + image.height, left : left + image.width]
        weights = rng.dirichlet([1.0] * self.k).tolist()
        m = rng.random()
        total = np.multiply(base, np.float32(1 - m), dtype=np.float32)
        for weight in weights:
            depth = int(rng.integers(self.t + 1))
            if depth and rng.random() < 0.5:
                current = image
                for _ in range(depth):
                    current = self._image_step(current)
                chain = np.asarray(current)
            elif depth:
                chain = base.copy()
                for _ in range(depth):
                    own = self.self_mix and rng.random() < self.self_mix
                    self._mix_step(chain, np.asarray(self._image_step(image)) if own else picture)
            else:
                chain = base
            total += np.multiply(chain, np.float32(m * weight), dtype=np.float32)
        return Image.fromarray(np.rint(total, out=total).clip(0, 255, out=total).astype(np.uint8))

    def _mix_step(self, current: Array, other: Array) -> None:
        left, top, right, bottom = self._box(current.shape[1], current.shape[0])
        u, s = current[top:bottom, left:right], other[top:bottom, left:right]
        which = int(self.rng.integers(4))
        if which < 2:
            u[...] = (add, multiply)[which](u, s, *self._exponents())
        else:
            shape = u.shape if which == 2 else u.shape[:2] + (1,) * (u.ndim - 2)
            np.copyto(u, s, where=self.rng.random(shape, dtype=np.float32) >= self.rng.random())


def add(u: Array, s: Array, a: float, b: float) -> Array:
    """``((2u-1) a + (2s-1) b + 1)/2`` for uint8 arrays, rounded to uint8."""
    mixed = np.multiply(u, np.float32(a), dtype=np.float32)
    mixed += np.multiply(s, np.float32(b), dtype=np.float32)
    mixed += np.float32(127.5 * (1 - a - b))
    return np.rint(mixed, out=mixed).clip(0, 255, out=mixed).astype(np.uint8)


_LOG = np.log(np.maximum(np.arange(256) * (2 / 255), 1e-37))


def multiply(u: Array, s: Array, a: float, b: float) -> Array:
    """``(2u)^a (2s)^b / 2`` for uint8 arrays, rounded to uint8; the logarithms of the 256 values are a table."""
    tu = np.exp(a * _LOG + math.log(127.5))
    tu[0] = 0.0 if a else 127.5  # u is not clipped: 0^a = 0
    mixed = tu[u] * np.exp(b * _LOG)[s]
    return np.rint(mixed, out=mixed).clip(0, 255, out=mixed).astype(np.uint8)
