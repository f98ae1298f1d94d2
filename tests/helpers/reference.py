"""The slow, plain oracle that the fast IPMix must equal: PIL for the image operations, float64 formulas for mixing.

It reads one row of a record and follows the definitions, an image at a time. Nothing is shared with the code under
test: the image operations are PIL's own (those of benchmarks/pil_ipmix.py), the mixing operators are the printed
formulas in float64, and the masks come from an implementation of the counter hash in Python's unbounded integers
(NumPy's 64-bit ones, masked) with one array entry a pixel.
"""

from __future__ import annotations

import numpy as np
import pil_ipmix
import torch
from PIL import Image

from mixaug.ops.ipmix_record import OPERATIONS, IPMixParams

TINY = 1e-37
_MASK = 0xFFFFFFFF


def to_pil(image: np.ndarray) -> Image.Image:
    """A uint8 array (C, H, W) with one or three channels as a PIL image."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"need a uint8 array (1 or 3, H, W), got {image.dtype} {image.shape}")
    return Image.fromarray(image[0]) if image.shape[0] == 1 else Image.fromarray(image.transpose(1, 2, 0).copy())


def from_pil(image: Image.Image) -> np.ndarray:
    """The inverse of :func:`to_pil`."""
    array = np.asarray(image)
    return array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy()


def image_operation(image: np.ndarray, name: str, level: float, sign: int) -> np.ndarray:
    """An image-level operation on a uint8 array (C, H, W), by PIL."""
    return from_pil(pil_ipmix.IMAGE_OPERATIONS[name](to_pil(image), float(level), int(sign)))


def mix32(x: int | np.ndarray) -> int | np.ndarray:
    """The 32-bit finaliser of the counter hash, on Python integers or uint64 arrays that hold 32-bit values."""
    if isinstance(x, np.ndarray):
        x = x ^ (x >> np.uint64(16))
        x = (x * np.uint64(0x7FEB352D)) & np.uint64(_MASK)
        x = x ^ (x >> np.uint64(15))
        x = (x * np.uint64(0x846CA68B)) & np.uint64(_MASK)
        return x ^ (x >> np.uint64(16))
    x ^= x >> 16
    x = (x * 0x7FEB352D) & _MASK
    x ^= x >> 15
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def hash_uniform(counter: np.ndarray, seed: int) -> np.ndarray:
    """Uniforms in [0, 1), multiples of 2^-24: the top 24 bits of ``mix32(mix32(counter ^ low(seed)) + high(seed))``."""
    seed = int(seed) & 0xFFFFFFFFFFFFFFFF
    low, high = np.uint64(seed & _MASK), np.uint64(seed >> 32)
    hashed = mix32((mix32(counter.astype(np.uint64) ^ low) + high) & np.uint64(_MASK))
    return (hashed >> np.uint64(8)).astype(np.float64) / 2.0**24


def keep_mask(op: str, shape: tuple[int, int, int], keep: float, seed: int) -> np.ndarray:
    """The 0/1 mask (C, H, W) of a random operator: 1 keeps the image. The counter is the (channel and) pixel."""
    channels, height, width = shape
    if op == "random_pixels":
        pixel = np.arange(height * width).reshape(1, height, width)
        return np.broadcast_to(hash_uniform(pixel, seed) < keep, shape)
    return hash_uniform(np.arange(channels * height * width).reshape(shape), seed) < keep


def mix_exact(
    current: np.ndarray, other: np.ndarray, op: str, a: float, b: float, keep: float, seed: int
) -> np.ndarray:
    """A mixing operator on whole uint8 arrays (C, H, W), in float64 grey levels, clipped but not rounded."""
    u, s = current.astype(np.float64) / 255.0, other.astype(np.float64) / 255.0
    a, b = float(a), float(b)
    if op == "add":
        mixed = ((2 * u - 1) * a + (2 * s - 1) * b + 1) / 2
    elif op == "multiply":
        mixed = (2 * u) ** a * np.maximum(2 * s, TINY) ** b / 2
    else:
        mixed = np.where(keep_mask(op, current.shape, float(keep), seed), u, s)
    return np.clip(mixed, 0.0, 1.0) * 255.0


def mix(
    current: np.ndarray, other: np.ndarray, op: str, a: float, b: float, keep: float, seed: int,
    box: tuple[int, int, int, int],
) -> np.ndarray:  # fmt: skip
    """A mixing step on uint8 arrays: the operator inside the half-open XYXY box, rounded to 8 bit, nothing outside."""
    x0, y0, x1, y1 = (int(v) for v in box)
    out = current.copy()
    mixed = np.rint(mix_exact(current, other, op, a, b, keep, seed)).astype(np.uint8)
    out[:, y0:y1, x0:x1] = mixed[:, y0:y1, x0:x1]
    return out


def enlarge(picture: np.ndarray, side: int) -> np.ndarray:
    """A uint8 picture (3, S, S) at a larger side: bilinear in float64, pixel centres aligned, rounded."""
    size = picture.shape[-1]
    at = (np.arange(side) + 0.5) * size / side - 0.5
    low = np.floor(at).astype(int)
    weight = at - low
    first, second = np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1)
    x = picture.astype(np.float64)
    x = x[:, first] * (1 - weight)[:, None] + x[:, second] * weight[:, None]
    x = x[:, :, first] * (1 - weight) + x[:, :, second] * weight
    return np.rint(x).astype(np.uint8)


def picture_crop(params: IPMixParams, row: int, pictures: np.ndarray, channels: int) -> np.ndarray:
    """The picture of a row, enlarged if it is too small, cropped to the image's size; PIL's luma for grey images."""
    height, width = params.size
    top, left = int(params.top[row]), int(params.left[row])
    picture = pictures[int(params.picture[row])]
    if picture.shape[-1] < params.side:
        picture = enlarge(picture, params.side)
    crop = picture[:, top : top + height, left : left + width]
    if crop.shape[1:] != (height, width):
        raise ValueError(f"the crop at ({top}, {left}) leaves the picture of {pictures.shape[-2:]}")
    return from_pil(to_pil(crop).convert("L")) if channels == 1 else crop


def step(
    current: np.ndarray, base: np.ndarray, picture: np.ndarray, params: IPMixParams, row: int, chain: int, j: int
) -> np.ndarray:
    """One step of a record on the running uint8 result ``current``; ``base`` is the quantised image."""
    at = (row, chain, j)
    op, level, sign = OPERATIONS[int(params.op[at])], float(params.level[at]), int(params.sign[at])
    if op in pil_ipmix.IMAGE_OPERATIONS:
        return image_operation(current, op, level, sign)
    own = int(params.source[at])
    other = picture if own < 0 else image_operation(base, OPERATIONS[own], level, sign)
    box = tuple(params.box[at].tolist())
    return mix(current, other, op, float(params.a[at]), float(params.b[at]), float(params.keep[at]),
               int(params.seed[at]), box)  # fmt: skip


def quantise(image: np.ndarray) -> np.ndarray:
    """What the chains start from: bytes as they are, floats as ``round(255 x)`` computed in float32."""
    if image.dtype == np.uint8:
        return image.copy()
    scaled = np.clip(np.rint(image.astype(np.float32) * np.float32(255.0)), 0, 255)
    return scaled.astype(np.uint8)


def finish(image: np.ndarray, chains: list[np.ndarray | None], weight: np.ndarray, m: float) -> np.ndarray:
    """``(1-m) x + m sum_i w_i chain_i`` in float64; None stands for a chain without a step, which is x itself.

    Returns uint8 (rounded) for uint8 images, else float64 in [0, 1].
    """
    unit = 1.0 if image.dtype == np.uint8 else 255.0
    x = image.astype(np.float64)
    mixed = np.zeros_like(x)
    for w, chain in zip(weight, chains, strict=True):
        mixed += float(w) * (x if chain is None else chain.astype(np.float64) / unit)
    out = (1.0 - m) * x + m * mixed
    if image.dtype == np.uint8:
        return np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return np.clip(out, 0.0, 1.0)


def to_array(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """uint8 stays, floats of every width become float32 (exactly)."""
    if isinstance(image, torch.Tensor):
        image = (image if image.dtype == torch.uint8 else image.float()).numpy()
    return image


def replay_reference(
    image: torch.Tensor | np.ndarray, params: IPMixParams, row: int, pictures: torch.Tensor | np.ndarray
) -> np.ndarray:
    """The whole of IPMix for one row of a record.

    Args:
        image: (C, H, W) uint8 in 0..255 or floating point in [0, 1]; the image of this row (``row % params.batch``).
        params: the record.
        row: position in ``0..batch*views-1``.
        pictures: (P, 3, S, S) uint8, S at most ``params.side``.

    Returns:
        uint8 for uint8 images, else float64 in [0, 1].
    """
    image, pictures = to_array(image), to_array(pictures)
    base = quantise(image)
    picture = picture_crop(params, row, pictures, base.shape[0])
    chains: list[np.ndarray | None] = []
    start: np.ndarray | None = None
    for i in range(params.depth.shape[1]):
        current = start if params.mixed_input else None
        for j in range(int(params.depth[row, i])):
            current = step(base if current is None else current, base, picture, params, row, i, j)
        chains.append(current)
        start = current
    return finish(image, chains, params.weight[row].double().numpy(), float(params.m[row]))
