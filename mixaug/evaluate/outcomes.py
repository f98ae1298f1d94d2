"""What an evaluation measured, image by image, and its form in JSON."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixaug.evaluate.surface import LossSurface

if TYPE_CHECKING:
    from mixaug.evaluate.consistency import FlipRates
    from mixaug.evaluate.features import FeatureMap
    from mixaug.evaluate.occlusion import OcclusionCurve

SEVERITIES = (1, 2, 3, 4, 5)


def _no_index() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


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
            An image that is wrong without an attack is not attacked, and wrong.
        attack_change: attack name to the largest change of a pixel that it made, in [0, 1].
        attack_confidence: attack name to (a,) float32, probability of the predicted class under the attack; without one
            for an image that was not attacked.
        lipschitz_index: (l,) int64, the images around which the Lipschitz constant was measured.
        lipschitz: (l,) float32, the constant at each of them.
        curve_index: (c,) int64, the images of the accuracy against the radius.
        curve: radius to (c,) bool, whether each was still right under the strongest of the curve's attacks.
        flip_index: (f,) int64, the images of the perturbation sequences.
        flips: the changes of the prediction in them; None: not measured.
        occlusion_index: (o,) int64, the images of the occlusion curve.
        occlusion: that curve; None: not measured.
        ood_confidence: (d,) float32, probability of the predicted class on images of another data set.
    """

    correct: Tensor
    confidence: Tensor
    corruption_index: Tensor
    corrupted: dict[str, Tensor]
    attack_index: dict[str, Tensor]
    attacked: dict[str, Tensor]
    attack_change: dict[str, float]
    attack_confidence: dict[str, Tensor] = field(default_factory=dict)
    lipschitz_index: Tensor = field(default_factory=_no_index)
    lipschitz: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float32))
    curve_index: Tensor = field(default_factory=_no_index)
    curve: dict[float, Tensor] = field(default_factory=dict)
    flip_index: Tensor = field(default_factory=_no_index)
    flips: FlipRates | None = None
    occlusion_index: Tensor = field(default_factory=_no_index)
    occlusion: OcclusionCurve | None = None
    ood_confidence: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float32))

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
            "curve_index": _pack(self.curve_index.int()),
            "curve": [{"eps": eps, "right": _pack_bits(bits)} for eps, bits in self.curve.items()],
            "flip_index": _pack(self.flip_index.int()),
            "flips": None if self.flips is None else self.flips.to_json(),
            "occlusion_index": _pack(self.occlusion_index.int()),
            "occlusion": None if self.occlusion is None else _occlusion_to_json(self.occlusion),
            "ood_confidence": _pack(self.ood_confidence.float()),
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
            curve_index=_unpack(data["curve_index"], torch.int32).long(),
            curve={row["eps"]: _unpack_bits(row["right"]) for row in data["curve"]},
            flip_index=_unpack(data["flip_index"], torch.int32).long(),
            flips=None if data["flips"] is None else _flips_from_json(data["flips"]),
            occlusion_index=_unpack(data["occlusion_index"], torch.int32).long(),
            occlusion=None if data["occlusion"] is None else _occlusion_from_json(data["occlusion"]),
            ood_confidence=_unpack(data["ood_confidence"], torch.float32),
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
class MapExample:
    """An image with the class activation maps of its label and of the prediction: uint8 (C, H, W) and (H, W) each."""

    image: Tensor
    label_map: Tensor
    predicted_map: Tensor
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Examples:
    """What a report shows of single images: pictures, loss surfaces, and a map of the features."""

    corrupted: list[CorruptedExample] = field(default_factory=list)
    adversarial: list[AdversarialExample] = field(default_factory=list)
    surfaces: list[LossSurface] = field(default_factory=list)
    maps: list[MapExample] = field(default_factory=list)
    features: FeatureMap | None = None

    def to_json(self) -> dict[str, Any]:
        """Pictures as lossless PNG in base64, surfaces as rows of numbers."""
        return {
            "corrupted": [_with_pictures(vars(example)) for example in self.corrupted],
            "adversarial": [_with_pictures(vars(example)) for example in self.adversarial],
            "surfaces": [
                vars(surface) | {"losses": surface.losses.tolist(), "offsets": surface.offsets.tolist()}
                for surface in self.surfaces
            ],
            "maps": [_with_pictures(vars(example)) for example in self.maps],
            "features": None if self.features is None else self.features.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Examples:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            corrupted=[CorruptedExample(**_without_pictures(example)) for example in data["corrupted"]],
            adversarial=[AdversarialExample(**_without_pictures(example)) for example in data["adversarial"]],
            surfaces=[
                LossSurface(
                    **surface
                    | {name: torch.tensor(surface[name], dtype=torch.float32) for name in ("losses", "offsets")}
                )
                for surface in data["surfaces"]
            ],
            maps=[MapExample(**_flat_maps(_without_pictures(example))) for example in data["maps"]],
            features=None if data["features"] is None else _features_from_json(data["features"]),
        )


def _occlusion_to_json(curve: OcclusionCurve) -> dict[str, Any]:
    fill = list(curve.fill) if isinstance(curve.fill, tuple) else curve.fill
    return {
        "ratios": list(curve.ratios), "correct": _pack_bits(curve.correct), "patch_size": curve.patch_size, "fill": fill
    }  # fmt: skip


def _occlusion_from_json(data: dict[str, Any]) -> OcclusionCurve:
    from mixaug.evaluate.occlusion import OcclusionCurve

    fill = tuple(data["fill"]) if isinstance(data["fill"], list) else data["fill"]
    return OcclusionCurve(tuple(data["ratios"]), _unpack_bits(data["correct"]), data["patch_size"], fill)


def _flips_from_json(data: dict[str, Any]) -> FlipRates:
    from mixaug.evaluate.consistency import FlipRates

    return FlipRates.from_json(data)


def _features_from_json(data: dict[str, Any]) -> FeatureMap:
    from mixaug.evaluate.features import FeatureMap

    return FeatureMap.from_json(data)


def _flat_maps(fields: dict[str, Any]) -> dict[str, Any]:
    """A grey PNG comes back with a channel, which maps do not have."""
    return fields | {name: fields[name][0] for name in ("label_map", "predicted_map")}


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
