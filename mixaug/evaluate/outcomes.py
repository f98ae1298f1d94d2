"""What an evaluation measured, image by image, and its form in JSON."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mixaug.evaluate.surface import LossSurface

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Outcomes:
    """Right or wrong, image by image: every figure of a report is computed from these.

    Args:
        correct: (n,) bool, clean images.
        confidence: (n,) float32, probability of the predicted class, clean images.
        corruption_index: (m,) int64, which of the n images were corrupted.
        corrupted: corruption name to (5, m) bool, whether each was right at severity 1 to 5.
        attack_index: attack name to (a,) int64, which of the n images it was given.
        attacked: attack name to (a,) bool, whether each was still right.
        attack_change: attack name to the largest change of a pixel that it made, in [0, 1].
        attack_confidence: attack name to (a,) float32, probability of the predicted class under the attack.
        lipschitz_index: (l,) int64, the images around which the Lipschitz constant was measured.
        lipschitz: (l,) float32, the constant at each of them.
    """

    correct: Tensor
    confidence: Tensor
    corruption_index: Tensor
    corrupted: dict[str, Tensor]
    attack_index: dict[str, Tensor]
    attacked: dict[str, Tensor]
    attack_change: dict[str, float]
    attack_confidence: dict[str, Tensor] = field(default_factory=dict)
    lipschitz_index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    lipschitz: Tensor = field(default_factory=lambda: torch.empty(0))

    def failures(self) -> Tensor:
        """(m,) float64: the share of all corruptions and severities that the model fails, image by image."""
        return torch.stack([(~rows).double().mean(0) for rows in self.corrupted.values()]).mean(0)

    def to_json(self) -> dict[str, Any]:
        """Bits packed eight to a byte, numbers little-endian, in base64: some 10 bytes an image and 15 corruptions."""
        return {
            "correct": _pack_bits(self.correct),
            "confidence": _pack(self.confidence.float()),
            "corruption_index": _pack(self.corruption_index.int()),
            "corrupted": {name: _pack_bits(bits) for name, bits in self.corrupted.items()},
            "attack_index": {name: _pack(index.int()) for name, index in self.attack_index.items()},
            "attacked": {name: _pack_bits(bits) for name, bits in self.attacked.items()},
            "attack_change": self.attack_change,
            "attack_confidence": {name: _pack(values.float()) for name, values in self.attack_confidence.items()},
            "lipschitz_index": _pack(self.lipschitz_index.int()),
            "lipschitz": _pack(self.lipschitz.float()),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcomes:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            correct=_unpack_bits(data["correct"]),
            confidence=_unpack(data["confidence"], torch.float32),
            corruption_index=_unpack(data["corruption_index"], torch.int32).long(),
            corrupted={name: _unpack_bits(bits) for name, bits in data["corrupted"].items()},
            attack_index={name: _unpack(text, torch.int32).long() for name, text in data["attack_index"].items()},
            attacked={name: _unpack_bits(bits) for name, bits in data["attacked"].items()},
            attack_change=data["attack_change"],
            attack_confidence={name: _unpack(text, torch.float32) for name, text in data["attack_confidence"].items()},
            lipschitz_index=_unpack(data["lipschitz_index"], torch.int32).long(),
            lipschitz=_unpack(data["lipschitz"], torch.float32),
        )


@dataclass(frozen=True)
class CorruptedExample:
    """One corrupted image and what the model made of it: uint8 (C, H, W), label, prediction and its confidence."""

    corruption: str
    severity: int
    image: Tensor
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class AdversarialExample:
    """One attacked image before and after: uint8 (C, H, W) each, with the two predictions and their confidences."""

    attack: str
    clean: Tensor
    adversarial: Tensor
    label: int
    predicted_clean: int
    confidence_clean: float
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Examples:
    """What a report shows of single images: pictures and loss surfaces."""

    corrupted: list[CorruptedExample] = field(default_factory=list)
    adversarial: list[AdversarialExample] = field(default_factory=list)
    surfaces: list[LossSurface] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Pictures as lossless PNG in base64, surfaces as rows of numbers."""
        return {
            "corrupted": [_with_pictures(vars(example)) for example in self.corrupted],
            "adversarial": [_with_pictures(vars(example)) for example in self.adversarial],
            "surfaces": [
                vars(surface) | {"losses": surface.losses.tolist(), "offsets": surface.offsets.tolist()}
                for surface in self.surfaces
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Examples:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            corrupted=[CorruptedExample(**_without_pictures(example)) for example in data["corrupted"]],
            adversarial=[AdversarialExample(**_without_pictures(example)) for example in data["adversarial"]],
            surfaces=[
                LossSurface(
                    **surface | {"losses": torch.tensor(surface["losses"]), "offsets": torch.tensor(surface["offsets"])}
                )
                for surface in data["surfaces"]
            ],
        )


def _with_pictures(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: {"png": _png(value)} if isinstance(value, Tensor) else value for name, value in fields.items()}


def _without_pictures(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _from_png(value["png"]) if isinstance(value, dict) else value for name, value in fields.items()}


def _png(image: Tensor) -> str:
    from torchvision.transforms.v2.functional import to_pil_image

    file = io.BytesIO()
    to_pil_image(image).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _from_png(text: str) -> Tensor:
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(Image.open(io.BytesIO(base64.b64decode(text))))


def _pack(values: Tensor) -> str:
    return base64.b64encode(values.cpu().numpy().tobytes()).decode()


def _unpack(text: str, dtype: torch.dtype) -> Tensor:
    data = bytearray(base64.b64decode(text))
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _pack_bits(bits: Tensor) -> dict[str, Any]:
    import numpy as np

    return {"shape": list(bits.shape), "bits": base64.b64encode(np.packbits(bits.cpu().numpy()).tobytes()).decode()}


def _unpack_bits(data: dict[str, Any]) -> Tensor:
    import numpy as np

    shape = data["shape"]
    count = int(torch.tensor(shape).prod())
    bits = np.unpackbits(np.frombuffer(base64.b64decode(data["bits"]), dtype=np.uint8), count=count)
    return torch.from_numpy(bits.astype(bool)).reshape(shape)
