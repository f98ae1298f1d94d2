"""Pictures, tensors and bits as text for JSON, and back."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "decode_pictures",
    "decode_png",
    "encode_pictures",
    "encode_png",
    "pack",
    "pack_bits",
    "unpack",
    "unpack_bits",
]


def encode_png(image: Tensor) -> str:
    """An image as a lossless PNG in base64."""
    from torchvision.transforms.v2.functional import to_pil_image

    file = io.BytesIO()
    to_pil_image(image).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def decode_png(text: str) -> Tensor:
    """The inverse of :func:`encode_png`, uint8 (C, H, W)."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(Image.open(io.BytesIO(base64.b64decode(text))))


def pack(values: Tensor) -> str:
    """A tensor's bytes in base64; its dtype and length are the reader's to know."""
    return base64.b64encode(values.cpu().numpy().tobytes()).decode()


def unpack(text: str, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`pack`, one-dimensional."""
    data = bytearray(base64.b64decode(text))
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def pack_bits(bits: Tensor) -> dict[str, Any]:
    """A bool tensor, eight to a byte, with its shape."""
    import numpy as np

    return {"shape": list(bits.shape), "bits": base64.b64encode(np.packbits(bits.cpu().numpy()).tobytes()).decode()}


def unpack_bits(data: dict[str, Any]) -> Tensor:
    """The inverse of :func:`pack_bits`."""
    import numpy as np

    shape = data["shape"]
    count = math.prod(shape)
    bits = np.unpackbits(np.frombuffer(base64.b64decode(data["bits"]), dtype=np.uint8), count=count)
    return torch.from_numpy(bits.astype(bool)).reshape(shape)


def encode_pictures(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with pictures, uint8 tensors, as PNG."""
    return {name: {"png": encode_png(value)} if isinstance(value, Tensor) else value for name, value in fields.items()}


def decode_pictures(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`encode_pictures`, exactly; a grey picture comes back with its channel."""
    return {name: decode_png(value["png"]) if isinstance(value, dict) else value for name, value in fields.items()}
