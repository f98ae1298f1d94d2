"""What one call of Dynamic MixCut draws: the record, the settings and the sampler, the only place with randomness.

Paper: Niu et al., "Enhancing the Robustness of Classification Against Adversarial Attacks through a Dual-Enhancement
Strategy", ICIC 2025; boxes as in Yun et al., "CutMix", ICCV 2019 (arXiv:1905.04899).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import mixaug_ext
from mixaug._checks import (
    MAX_BOXES,
    check_count_range,
    check_flag,
    check_generator,
    check_int,
    check_number,
    check_range,
    check_size,
)
from mixaug._random import drawn_by
from mixaug.transforms._mixcut_law import PER_IMAGE, derive
from mixaug_ext import _mixcut


@dataclass(frozen=True)
class DynamicMixCutParams:
    """One draw of Dynamic MixCut, as tensors: replay it, look at it, store it.

    Attributes:
        size: ``(H, W)`` of the images it was drawn for, in pixels.
        boxes: ``(B, N, 4)`` int64, XYXY, half-open, inside the image; may overlap; without pixels where an image has
            fewer than ``N`` or is skipped.
        lam: ``(B,)`` float32 in ``[0, 1]``, weight of the un-permuted image: one minus the exact share of the pixels
            in the union of its boxes. 1 for a skipped image.
        index: ``(B, 2)`` int64, the two partners of each image in the batch: its first and second successor on one
            random cycle. Not used with given views.
        beta: ``(B,)`` float32 in ``[0, 1)``, weight of the first partner (or view) inside the boxes.
    """

    size: tuple[int, int]
    boxes: Tensor
    lam: Tensor
    index: Tensor
    beta: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the record by name.

        Example:
            >>> sorted(sample_dynamic_mixcut(2, (8, 8), DynamicMixCutSettings()).tensors())
            ['beta', 'boxes', 'index', 'lam']
        """
        return {"boxes": self.boxes, "lam": self.lam, "index": self.index, "beta": self.beta}

    def to(self, device: torch.device | str) -> DynamicMixCutParams:
        """The same record with its tensors on ``device``; on the way to a GPU the host does not wait for it.

        Example:
            >>> sample_dynamic_mixcut(2, (8, 8), DynamicMixCutSettings()).to("cpu").lam.device.type
            'cpu'
        """
        # Only towards a GPU: a copy to the host that is not waited for could be read before it is there.
        later = torch.device(device).type != "cpu"
        moved: dict[str, Any] = {name: value.to(device, non_blocking=later) for name, value in self.tensors().items()}
        return dataclasses.replace(self, **moved)

    def describe(self, row: int) -> list[str]:
        """What happens to one image, a line for the weight and one for each box that has pixels.

        Args:
            row: position in the batch.

        Returns:
            such as ``["lam 0.72, beta 0.31 of image 4, 0.69 of image 0", "box 9x12 at (3, 14)"]`` (height x width, at
            ``(x, y)``).

        Example:
            >>> record = sample_dynamic_mixcut(3, (8, 8), DynamicMixCutSettings(p=0.0))
            >>> record.describe(0)[0].startswith("lam 1.00")
            True
        """
        beta, (first, second) = float(self.beta[row]), self.index[row].tolist()
        lines = [f"lam {float(self.lam[row]):.2f}, beta {beta:.2f} of image {first}, {1 - beta:.2f} of image {second}"]
        for x0, y0, x1, y1 in self.boxes[row].tolist():
            if x1 > x0 and y1 > y0:
                lines.append(f"box {y1 - y0}x{x1 - x0} at ({x0}, {y0})")
        return lines


@dataclass(frozen=True)
class DynamicMixCutSettings:
    """Everything that :func:`sample_dynamic_mixcut` needs besides the batch: the checked arguments of the transform.

    Args:
        boxes: number of boxes of each image, at least 1, or a range ``(low, high)``, drawn for each image with both
            ends included. Kept as a range. Default 2.
        p: probability in ``[0, 1]`` that an image is mixed at all. Default 1.
        area: None (default): boxes follow CutMix. Else the range ``(low, high)`` in ``[0, 1]`` of a box's share of the
            image.
        square: height and width are the same share of the image's (a square on a square image). False: aspect ratios
            from 1/3 to 3. Default True.

    Raises:
        TypeError: an argument of another kind.
        ValueError: an argument out of range.

    Example:
        >>> DynamicMixCutSettings(boxes=3).boxes, DynamicMixCutSettings(boxes=(1, 6)).boxes
        ((3, 3), (1, 6))
    """

    boxes: int | tuple[int, int] = 2
    p: float = 1.0
    area: tuple[float, float] | None = None
    square: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", check_count_range("boxes", self.boxes, MAX_BOXES))
        object.__setattr__(self, "p", check_number("p", self.p, 0.0, 1.0))
        object.__setattr__(self, "area", None if self.area is None else check_range("area", self.area, 0.0, 1.0))
        object.__setattr__(self, "square", check_flag("square", self.square))

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest number of boxes of an image."""
        return (self.boxes, self.boxes) if isinstance(self.boxes, int) else self.boxes

    @property
    def per_box(self) -> int:
        """Uniforms of a box: its share of the image, two for its place, its aspect where that is free."""
        return 3 if self.square else 4


def sample_dynamic_mixcut(
    batch_size: int,
    size: tuple[int, int],
    settings: DynamicMixCutSettings,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> DynamicMixCutParams:
    """Draws everything that Dynamic MixCut decides at random for a batch. The only place with randomness.

    Boxes as :func:`sample_boxes` draws them, ``beta ~ U(0, 1)``, and for each image two partners from the batch (Niu et
    al., 2025, Algorithm 1; the partners stand in for its two adversarial views where there is no adversary).

    Convention:
        Everything is per image. ``p`` gates each image once: a skipped image has boxes without pixels and ``lam`` 1.
        Partners are the first and second successor on one random cycle through the batch: never the image itself, two
        different images from three on; of two images each is the other's only partner; one image has none but itself.
        ``lam`` is what was realised: clipping, overlap and rounding to whole pixels are in it.

    Args:
        batch_size: number of images, 0 allowed.
        size: ``(H, W)`` in pixels.
        settings: the checked arguments.
        generator: of torch; None: torch's default generator of ``device``.
        device: where the record is drawn and kept; ignored with a generator, whose device counts.

    Returns:
        the record.

    Raises:
        TypeError: ``batch_size`` or ``size`` is not whole.
        ValueError: they are out of range.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> params = sample_dynamic_mixcut(4, (32, 32), DynamicMixCutSettings(), generator=g)
        >>> params.boxes.shape, bool((params.index != torch.arange(4)[:, None]).all())
        (torch.Size([4, 2, 4]), True)
    """
    batch_size, size = check_int("batch_size", batch_size, 0), check_size("size", size)
    check_generator(generator)
    if generator is not None:
        device = generator.device
    # All uniforms in one draw: at 32 px the time of a call is the number of its operations.
    columns = PER_IMAGE + settings.range[1] * settings.per_box
    u = torch.rand(batch_size, columns, device=device, dtype=torch.float32, **drawn_by(generator))
    # torch's own kinds of tensor, such as fake ones, have no data to point at.
    plain = type(u) is Tensor and u.device.type == "cpu"
    compiled = settings.square and plain and not torch.compiler.is_compiling()
    if compiled and mixaug_ext.library():
        return DynamicMixCutParams(size, *_mixcut.sample(u, size, settings.range, settings.p, settings.area))
    return DynamicMixCutParams(size, *derive(u, size, settings))


def sample_boxes(
    batch_size: int,
    size: tuple[int, int],
    *,
    count: int | tuple[int, int] = 2,
    area: tuple[float, float] | None = None,
    square: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Draws boxes for a batch of images.

    .. math:: h = H \sqrt{1 - \lambda}, \quad w = W \sqrt{1 - \lambda}, \quad \lambda \sim U(0, 1), \quad
        \text{centre} \sim U([0, W) \times [0, H))

    rounded to whole pixels and clipped to the image (CutMix, Yun et al., 2019, with its Beta(1, 1)). With ``area`` the
    share of the image ``1 - \lambda`` is drawn from that range instead, and the place uniformly among those where the
    box lies inside the image, so that nothing is clipped.

    Convention:
        Everything is per image and box. Boxes are XYXY, half-open, in pixels: ``(x0, y0, x1, y1)`` covers columns
        ``x0 .. x1 - 1``. Sides are rounded to the nearest pixel, and the law is the same from left and right.

    Args:
        batch_size: number of images, 0 allowed.
        size: ``(H, W)`` in pixels.
        count: boxes of each image, at least 1, or a range ``(low, high)`` drawn for each image, both ends included.
            Default 2.
        area: None (default): CutMix's law; else ``(low, high)`` in ``[0, 1]``.
        square: height and width are the same share of the image's (a square on a square image). False: their ratio is
            log-uniform from 1/3 to 3, as far as the share fits into the image. Default True.
        generator: of torch; None: torch's default generator of ``device``.
        device: where the boxes are drawn and kept; None: the CPU; ignored with a generator, whose device counts.

    Returns:
        ``(batch_size, N, 4)`` int64 with ``N`` the largest count, inside the image; boxes that an image does not have
        are ``(0, 0, 0, 0)``. A box of CutMix's law may be without pixels.

    Raises:
        TypeError: an argument of another kind.
        ValueError: an argument out of range.

    Note:
        torchvision and timm halve the side and round down before they lay it around the centre, so that boxes lose up
        to two pixels a side and odd sides never occur; here a side is what was drawn.

    Example:
        >>> sample_boxes(5, (32, 48), count=(1, 3), area=(0.1, 0.2)).shape
        torch.Size([5, 3, 4])
    """
    settings = DynamicMixCutSettings(check_count_range("count", count, MAX_BOXES), 1.0, area, square)
    return sample_dynamic_mixcut(batch_size, size, settings, generator, device or "cpu").boxes
