"""IPMix as the papers write it: one PIL image at a time, NumPy random numbers, no batch. Yardstick and oracle.

PROFILE
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Array = np.ndarray
_BILINEAR = Image.Resampling.BILINEAR
_AFFINE = Image.Transform.AFFINE


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, _AFFINE, matrix, resample=_BILINEAR, fillcolor=0)


def equalize(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Histogram equalisation of each channel."""
    return ImageOps.equalize(image)


def posterize(image: Image.Image, level: float, sign: int) -> Image.Image:
    """Keeps ``4 - int(0.4 L)`` bits."""
    return ImageOps.posterize(image, max(0, 4 - int(0.4 * level)))


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


class PILIPMix:
    """IPMix on one PIL image, structure ``chain``, as one would write it with PIL and NumPy.

    Args:
        pictures: mixing pictures as ``(H', W', 3)`` uint8 arrays, already resized a little larger than the images
            (so that only a random crop remains for each use).
        k: chains.
        t: most steps a chain; the depth is uniform on ``0..t``.
        severity: strengths are ``L ~ U(0.1, severity)``.
        beta: parameter of the mixing exponents.
        patch_sizes: sides of the patches; the whole image is added.
        self_mix: share of P-level steps that mix with an augmented copy of the image.
        rng: NumPy generator.

    Example:
        >>> pictures = [np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8)]
        >>> PILIPMix(pictures)(Image.new("RGB", (32, 32), "teal")).size
        (32, 32)
    """

    def __init__(
        self,
        pictures: Sequence[Array],
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

    def __call__(self, image: Image.Image) -> Image.Image:
        rng = self.rng
        base = np.asarray(image)
        height, width = base.shape[:2]
        picture = self._crop(height, width)
        weights = rng.dirichlet(np.ones(self.k, dtype=np.float32))
        m = rng.random()
        total = np.multiply(base, np.float32(1 - m), dtype=np.float32)
        for i in range(self.k):
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
            total += np.multiply(chain, np.float32(m * weights[i]), dtype=np.float32)
        return Image.fromarray(np.rint(total).clip(0, 255).astype(np.uint8))

    def _crop(self, height: int, width: int) -> Array:
        picture = self.pictures[int(self.rng.integers(len(self.pictures)))]
        top = int(self.rng.integers(picture.shape[0] - height + 1))
        left = int(self.rng.integers(picture.shape[1] - width + 1))
        return picture[top : top + height, left : left + width]

    def _image_step(self, image: Image.Image) -> Image.Image:
        u, v, w = self.rng.random(3).tolist()
        level = 0.1 + (self.severity - 0.1) * v
        return self._operations[int(u * DISJOINT)](image, level, 1 if w < 0.5 else -1)

    def _mix_step(self, current: Array, other: Array) -> None:
        height, width = current.shape[:2]
        u = self.rng.random(6).tolist()
        choice = int(u[0] * (len(self.patch_sizes) + 1))
        if choice == len(self.patch_sizes):
            rows, columns = height, width
        else:
            side = self.patch_sizes[choice]
            rows = columns = side
            if u[1] >= 0.5:
                rows, columns = 2 + int(u[2] * (side - 1)), 2 + int(u[3] * (side - 1))
        y, x = int(u[4] * (height - rows + 1)), int(u[5] * (width - columns + 1))
        patch = current[y : y + rows, x : x + columns]
        patch[...] = self._operator(patch, other[y : y + rows, x : x + columns])

    def _operator(self, u: Array, s: Array) -> Array:
        rng = self.rng
        which = int(rng.integers(4))
        if which >= 2:
            keep = rng.random()
            shape = u.shape[:2] + ((1,) if which == 2 else u.shape[2:])
            return np.where(rng.random(shape, dtype=np.float32) < keep, u, s)
        first, second, coin = rng.random(3).tolist()
        a, b = first ** (1 / self.beta), 1 - second ** (1 / self.beta)
        if coin < 0.5:
            a, b = 2 - a, -b
        return add(u, s, a, b) if which == 0 else multiply(u, s, a, b)


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
