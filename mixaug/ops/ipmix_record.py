"""What one call of IPMix has drawn: the record that :func:`mixaug.ops.replay_ipmix` carries out.

Paper: Huang et al., "IPMix: Label-Preserving Data Augmentation Method for Training Robust Classifiers", NeurIPS 2023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Image-level operations disjoint from the ImageNet-C corruptions, then the five that ``all_ops`` adds.
IMAGE_OPERATIONS = (
    "equalize", "posterize", "solarize", "invert", "mirror", "rotate", "shear_x", "shear_y", "translate_x",
    "translate_y", "autocontrast", "color", "contrast", "brightness", "sharpness",
)  # fmt: skip
#: The number of image-level operations drawn from by default: those before ``autocontrast``.
DISJOINT = IMAGE_OPERATIONS.index("autocontrast")
#: Mixing operators of the patch and pixel level.
MIXING_OPERATIONS = ("add", "multiply", "random_pixels", "random_elements")
#: Every operation; a record holds positions in this tuple.
OPERATIONS = IMAGE_OPERATIONS + MIXING_OPERATIONS
OP = {name: code for code, name in enumerate(OPERATIONS)}


@dataclass(frozen=True)
class IPMixParams:
    """One draw of IPMix, as tensors: replay it, look at it, store it. Row ``r`` belongs to image ``r % batch``.

    Shape: ``N = batch * views`` rows (all images of view 1, then of view 2, ...), ``k`` chains, ``t`` steps.

    Attributes:
        size: ``(H, W)`` of the images it was drawn for.
        batch: number of images.
        views: number of augmented views of each image.
        side: side in pixels of the resized pictures that ``top`` and ``left`` refer to.
        mixed_input: each chain starts from the result of the one before (structure ``"mixed_input"``).
        depth: ``(N, k)`` int64, steps of each chain that are carried out, ``0..t``.
        weight: ``(N, k)`` float32, Dirichlet(1) weights of the chains.
        m: ``(N,)`` float32, weight of the mixed chains against the image, Beta(1, 1).
        op: ``(N, k, t)`` int64, position in ``OPERATIONS``.
        level: ``(N, k, t)`` float32, strength ``L``.
        sign: ``(N, k, t)`` int64, -1 or 1, direction of a geometric operation.
        box: ``(N, k, t, 4)`` int64, patch of a mixing step, XYXY, half-open.
        a: ``(N, k, t)`` float32, exponent (or coefficient) of the image in add and multiply.
        b: ``(N, k, t)`` float32, that of the picture.
        keep: ``(N, k, t)`` float32 in ``[0, 1)``, share of pixels that the random operators keep.
        seed: ``(N, k, t)`` int64, expands to the random operators' masks by a counter-based hash.
        source: ``(N, k, t)`` int64, -1: mix with the picture; else the image-level operation (with ``level`` and
            ``sign``) whose result on the image itself is mixed in.
        picture: ``(N,)`` int64, which picture of the mixing set.
        top: ``(N,)`` int64, first row of the crop in the resized picture.
        left: ``(N,)`` int64, first column of it.
    """

    size: tuple[int, int]
    batch: int
    views: int
    side: int
    mixed_input: bool
    depth: Tensor
    weight: Tensor
    m: Tensor
    op: Tensor
    level: Tensor
    sign: Tensor
    box: Tensor
    a: Tensor
    b: Tensor
    keep: Tensor
    seed: Tensor
    source: Tensor
    picture: Tensor
    top: Tensor
    left: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the record by name.

        Example:
            >>> from mixaug.transforms.ipmix import sample_example
            >>> sorted(sample_example().tensors())[:3]
            ['a', 'b', 'box']
        """
        return {f.name: value for f in dataclasses.fields(self) if isinstance(value := getattr(self, f.name), Tensor)}

    def to(self, device: torch.device | str) -> IPMixParams:
        """The same record with its tensors on ``device``.

        Example:
            >>> from mixaug.transforms.ipmix import sample_example
            >>> sample_example().to("cpu").m.device.type
            'cpu'
        """
        moved: dict[str, Any] = {name: value.to(device) for name, value in self.tensors().items()}
        return dataclasses.replace(self, **moved)

    def rows(self, index: Tensor | Sequence[int]) -> IPMixParams:
        """The record of some images alone (``views`` must be 1), to replay them one by one.

        Args:
            index: positions in ``0..batch-1``.

        Raises:
            ValueError: the record holds several views.

        Example:
            >>> from mixaug.transforms.ipmix import sample_example
            >>> sample_example(batch=3).rows([2]).batch
            1
        """
        if self.views != 1:
            raise ValueError(f"rows() needs a record of one view, got views={self.views}")
        index = torch.as_tensor(index, device=self.depth.device)
        picked: dict[str, Any] = {name: value[index] for name, value in self.tensors().items()}
        return dataclasses.replace(self, batch=len(index), **picked)

    def repeat_interleave(self, times: int) -> IPMixParams:
        """The record for ``times`` copies of each image one after the other: the frames of a video share their draw.

        Args:
            times: copies of each row, at least 0.

        Example:
            >>> from mixaug.transforms.ipmix import sample_example
            >>> sample_example(batch=2).repeat_interleave(3).m.shape
            torch.Size([6])
        """
        if times == 1:
            return self
        repeated: dict[str, Any] = {name: value.repeat_interleave(times, 0) for name, value in self.tensors().items()}
        return dataclasses.replace(self, batch=self.batch * times, **repeated)

    def describe(self, row: int) -> list[str]:
        """What happens to one row, a line a chain, as ``mixaug preview`` prints it.

        Args:
            row: position in ``0..batch*views-1``.

        Returns:
            lines such as ``"0.61  rotate -6°, multiply 8x8"``; ``"0.20  (unchanged)"`` for a chain without a step.

        Example:
            >>> from mixaug.transforms.ipmix import sample_example
            >>> len(sample_example().describe(0))
            3
        """
        lines = []
        for i in range(self.depth.shape[1]):
            steps = [self._describe_step(row, i, j) for j in range(int(self.depth[row, i]))]
            lines.append(f"{float(self.m[row] * self.weight[row, i]):.2f}  {', '.join(steps) or '(unchanged)'}")
        return lines

    def _describe_step(self, row: int, i: int, j: int) -> str:
        code, level, sign = (int(self.op[row, i, j]), float(self.level[row, i, j]), int(self.sign[row, i, j]))
        if code < len(IMAGE_OPERATIONS):
            return describe_operation(code, level, sign, self.size)
        x0, y0, x1, y1 = self.box[row, i, j].tolist()
        where = "whole" if (y1 - y0, x1 - x0) == self.size else f"{y1 - y0}x{x1 - x0}"
        own = int(self.source[row, i, j])
        other = f" with own {IMAGE_OPERATIONS[own]}" if own >= 0 else ""
        return f"{OPERATIONS[code]} {where}{other}"


def describe_operation(code: int, level: float, sign: int, size: tuple[int, int]) -> str:
    """An image-level operation with its realised strength, such as ``"rotate -6°"``.

    Args:
        code: position in ``OPERATIONS``.
        level: strength ``L``.
        sign: -1 or 1.
        size: ``(H, W)`` of the image in pixels.

    Example:
        >>> describe_operation(OP["rotate"], 2.5, -1, (32, 32))
        'rotate -7°'
    """
    name = OPERATIONS[code]
    match name:
        case "rotate":
            return f"rotate {sign * int(3 * level)}°"
        case "shear_x" | "shear_y":
            return f"{name} {sign * 0.03 * level:.2f}"
        case "translate_x" | "translate_y":
            side = size[1] if name == "translate_x" else size[0]
            return f"{name} {sign * int(level * side / 30)} px"
        case "posterize":
            return f"posterize {max(0, 4 - int(0.4 * level))} bits"
        case "solarize":
            return f"solarize {256 - int(25.6 * level)}"
        case "color" | "contrast" | "brightness" | "sharpness":
            return f"{name} {0.18 * level + 0.1:.2f}"
        case "autocontrast":
            return f"autocontrast {10 - level:.1f}%"
    return name
