"""Random square patches of images hidden: the order in which they are hidden, and hiding them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixaug._checks import (
    MAX_BATCH,
    MAX_COUNT,
    MAX_SIDE,
    check_generator,
    check_int,
    check_number,
    check_seed,
    kind_of,
)
from mixaug._drawing import FigureImage, Look, add_legend, looks, new_figure, png_of
from mixaug._files import atomic_path
from mixaug._model_state import bare, check_class_range, check_logits, check_model, evaluation_mode, home_of
from mixaug._pictures import as_float
from mixaug._random import drawn_by
from mixaug.evaluate.drawing import BANDS, draw_curve
from mixaug.evaluate.encoding import pack, pack_bits, unpack, unpack_bits
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.intervals import Estimate, bootstrap_means, complement, share
from mixaug.evaluate.measure import Drawn, Inputs, Measure, Measured, ModelInfo, ModelRunner, Section
from mixaug.evaluate.seeds import seed_of, subset
from mixaug.evaluate.subject import on_device
from mixaug.evaluate.tables import Row, Table

__all__ = [
    "RATIOS",
    "OcclusionCurve",
    "check_fill",
    "check_ratio",
    "occlude",
    "occlusion_curve",
    "patch_grid",
    "patch_size_of",
    "sample_patch_order",
]


def patch_size_of(height: int, width: int) -> int:
    """The side of the patches that images of this size are hidden by: a 14th of the shorter side, at least 1 pixel.

    Convention: rounded; 16 px at 224, as in the papers; 2 at 28 and 32, 5 at 64, 7 at 96. So the grid is always about
    14x14, and curves of different sizes compare. A transformer sees CIFAR-100 enlarged to 224 px, where a patch of
    16 px is 2.3 px of the 32.

    Example:
        >>> [patch_size_of(side, side) for side in (8, 28, 32, 64, 224)]
        [1, 2, 2, 5, 16]
    """
    return max(1, round(min(height, width) / 14))


def sample_patch_order(
    batch_size: int, height: int, width: int, patch_size: int, generator: torch.Generator | None = None
) -> Tensor:
    """A random order of the patches of each image, in which :func:`occlude` hides them.

    Convention: patches are numbered row by row from the top left; where the side does not divide the image, the last
    row and column are cut off by the image's edge.

    Args:
        batch_size: number of images, 0 or more.
        height: of the images in pixels.
        width: of the images in pixels.
        patch_size: side of a patch in pixels, from 1 to the longer side of the images.
        generator: of torch; default torch's own on the CPU.

    Shape:
        (B, P) int64 on the generator's device, each row a permutation of 0 to P - 1, with
        ``P = ceil(height / patch_size) * ceil(width / patch_size)``.

    Returns:
        the orders.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a number out of range.

    Example:
        >>> sample_patch_order(2, 4, 6, 2).sort(1).values.tolist()
        [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    """
    batch_size = check_int("batch_size", batch_size, 0, MAX_BATCH)
    check_generator(generator)
    rows, columns = patch_grid(height, width, patch_size)
    device = "cpu" if generator is None else generator.device
    return torch.rand(batch_size, rows * columns, device=device, dtype=torch.float32, **drawn_by(generator)).argsort(1)


def occlude(
    images: Tensor, order: Tensor, ratio: float, patch_size: int, fill: float | Sequence[float] = 0.0
) -> Tensor:
    """Hides the first patches of each image's order.

    Convention: ``round(ratio * P)`` of the P patches, halves to the even number as Python rounds. Patches at the edge
    that are cut off by it count as one each, so the hidden share of pixels differs a little where the side does not
    divide the image.

    Args:
        images: a batch; not written to.
        order: of :func:`sample_patch_order` for this size and patch size.
        ratio: share of the patches, in [0, 1].
        patch_size: side of a patch in pixels.
        fill: the hidden pixels' value in the images' own unit (0 to 255 for bytes, [0, 1] else), one or one for each
            channel; default 0, black.

    Shape:
        images: (B, C, H, W) uint8 in [0, 255] or floating point in [0, 1]; order: (B, P) int64; result as images, of
        their dtype, device and memory format.

    Returns:
        the images with patches hidden.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range; an order for another number of images or patches.

    Example:
        >>> images = torch.full((1, 1, 2, 4), 9, dtype=torch.uint8)
        >>> occlude(images, torch.tensor([[1, 0]]), ratio=0.5, patch_size=2).tolist()
        [[[[9, 9, 0, 0], [9, 9, 0, 0]]]]
    """
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be uint8 or floating point in [0, 1], got {got}")
    if images.ndim != 4 or 0 in images.shape[2:]:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    ratio = check_ratio(ratio)
    height, width = images.shape[2:]
    rows, columns = patch_grid(height, width, patch_size)
    count = rows * columns
    if not isinstance(order, Tensor) or order.dtype != torch.int64:
        got = order.dtype if isinstance(order, Tensor) else type(order).__name__
        raise TypeError(f"order must be an int64 tensor, got {got}")
    if order.device != images.device:
        raise ValueError(f"order must be on the images' device {images.device}, got {order.device}")
    if order.shape != (len(images), count):
        raise ValueError(
            f"order must have shape ({len(images)}, {count}), the images and the patches of {patch_size} px, "
            f"got {tuple(order.shape)}"
        )
    hidden = torch.zeros_like(order, dtype=torch.bool)
    hidden.scatter_(1, order[:, : round(ratio * count)], True)
    grid = hidden.view(-1, 1, rows, columns)
    mask = grid.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)[..., :height, :width]
    result = torch.where(mask, check_fill(fill, images), images)
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return result.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of the patches that cover an image.

    Raises:
        TypeError, ValueError: the patch size is no int, below 1, or above the longer side.

    Example:
        >>> patch_grid(7, 10, 3)
        (3, 4)
    """
    height, width = check_int("height", height, 1, MAX_SIDE), check_int("width", width, 1, MAX_SIDE)
    patch_size = check_int("patch_size", patch_size, 1)
    if patch_size > max(height, width):
        raise ValueError(f"patch_size must be at most the longer side of the {height}x{width} images, got {patch_size}")
    return -(-height // patch_size), -(-width // patch_size)


def check_ratio(ratio: object) -> float:
    """A number in [0, 1], or an error."""
    return check_number("ratio", ratio, 0.0, 1.0)


def check_fill(fill: Any, images: Tensor) -> Tensor:
    """The hidden pixel, 0-dimensional or (C, 1, 1), of the images' dtype and on their device.

    Raises:
        TypeError, ValueError: not a number for all channels or one for each, or one out of the images' range.

    Example:
        >>> check_fill((0, 255), torch.zeros(1, 2, 4, 4, dtype=torch.uint8)).flatten().tolist()
        [0, 255]
    """
    if isinstance(fill, Tensor) and fill.device.type == "meta":
        raise TypeError(f"fill must be numbers, got {kind_of(fill)}")
    fill = fill.tolist() if isinstance(fill, np.ndarray | Tensor) else fill
    values = list(fill) if isinstance(fill, Sequence) and not isinstance(fill, str) else [fill]
    whole = images.dtype == torch.uint8
    for value in values:
        number = check_number("fill", value, 0.0, 255.0 if whole else 1.0)
        if whole and not number.is_integer():
            raise ValueError(f"fill must be a whole number for {images.dtype}, got {value}")
    if isinstance(fill, Sequence) and len(values) != images.shape[1]:
        raise ValueError(f"fill must have one value, or one for each of the {images.shape[1]} channels, got {fill}")
    tensor = torch.tensor(values, dtype=images.dtype, device=images.device)
    return tensor.view(-1, 1, 1) if isinstance(fill, Sequence) else tensor[0]


#: The hidden shares of the paper's Table 7.
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class OcclusionCurve:
    """What a model gets right when parts of its images are hidden.

    Args:
        ratios: the hidden shares, ascending.
        correct: (R, n) bool on the CPU; row i is image by image at ``ratios[i]``.
        patch_size: side of the square patches in pixels.
        fill: what stands in a hidden pixel, in [0, 1]: one value, or one for each channel.

    Example:
        >>> curve = OcclusionCurve((0.0, 0.5), torch.tensor([[True, True], [True, False]]), patch_size=2)
        >>> [estimate.value for estimate in curve.accuracy], curve.area.value
        ([1.0, 0.5], 0.75)
    """

    ratios: tuple[float, ...]
    correct: Tensor
    patch_size: int
    fill: float | tuple[float, ...] = 0.0

    @cached_property
    def accuracy(self) -> tuple[Estimate, ...]:
        """The accuracy at each ratio, with Wilson's 95% interval."""
        return tuple(share(row) for row in self.correct)

    @cached_property
    def area(self) -> Estimate:
        """The mean accuracy over the ratios, with the 95% bootstrap interval over the images."""
        return bootstrap_means(self.correct.double().mean(0)[:, None])[0]

    def to_dict(self) -> dict[str, Any]:
        """Ratios, figures and settings as plain numbers, for JSON.

        Example:
            >>> OcclusionCurve((0.0,), torch.tensor([[True]]), patch_size=2).to_dict()["area"]["value"]
            1.0
        """
        return {
            "ratios": list(self.ratios),
            "accuracy": [dict(vars(estimate)) for estimate in self.accuracy],
            "area": dict(vars(self.area)),
            "patch_size": self.patch_size,
            "fill": list(self.fill) if isinstance(self.fill, tuple) else self.fill,
        }

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Writes the curve as a PNG file, whole or not at all; for several models in one see
        :func:`~mixaug.evaluate.measures.occlusion.occlusion_figure`.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """

        png = occlusion_figure({"": self}).png
        with atomic_path(path) as temporary:
            temporary.write_bytes(png)
        return Path(path)


def occlusion_curve(
    model: nn.Module,
    dataset: Any,
    ratios: Sequence[float] = RATIOS,
    *,
    patch_size: int | None = None,
    fill: float | Sequence[float] = 0.0,
    n: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> OcclusionCurve:
    """The accuracy of a classifier while random square patches of its images are hidden.

    Naseer, Ranasinghe, Khan, Hayat, Khan, Yang, "Intriguing properties of vision transformers", NeurIPS 2021
    (arXiv:2105.10497), random patch drop; as in section 4.4 and Table 7 of Qin et al., "Adversarial AutoMixup", ICLR
    2024 (arXiv:2312.11954).

    Convention: each image has an order of its own in which its patches are hidden, drawn from the seed and its position
    in the data set alone. So two models see the same pictures, whatever their batch size and ``n``, and what is hidden
    at one ratio stays hidden at all larger ones. See :func:`~mixaug.evaluate.measures.occlusion.occlude`.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, K); its normalisation is inside.
        dataset: as for :func:`~mixaug.evaluate.evaluate_model`.
        ratios: shares of the patches to hide, ascending, each in [0, 1]; default 0, 0.1, ..., 0.9.
        patch_size: side of a patch in pixels; default a 14th of the images' shorter side, see
            :func:`~mixaug.evaluate.measures.occlusion.patch_size_of`.
        fill: what a hidden pixel is set to, in [0, 1]: one value or one for each channel; default 0, black.
        n: number of images, drawn from the seed as for ``evaluate_model``; default all.
        batch_size: images in one pass of the model, default 256.
        seed: of the subset and the orders, default 0.
        device: where the model runs; default where its first parameter is.

    Returns:
        An :class:`OcclusionCurve`. The model is left as it was.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range, logits of a wrong shape, labels above the model's classes.
        FloatingPointError: logits that are not finite.

    Note:
        Black is the paper's fill: its masks set pixels to 0 before normalisation. A model meets no such picture in
        training; a fill at the mean of the data is a milder test.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> data = (torch.rand(6, 3, 8, 8), torch.arange(6) % 2)
        >>> curve = occlusion_curve(model, data, ratios=(0.0, 0.5), patch_size=2)
        >>> curve.ratios, curve.accuracy[0].n
        ((0.0, 0.5), 6)
    """
    check_model(model)
    shares = _ratios(ratios)
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    seed = check_seed("seed", seed)
    data = LabelledImages(dataset)
    index = subset("n", n, len(data), seed)
    channels, height, width = data.take(index[:1])[0].shape[1:]
    side = patch_size_of(height, width) if patch_size is None else patch_size
    patch_grid(height, width, side)  # a patch that does not fit is refused before any work
    home = home_of(model)
    target = home if device is None else torch.device(device)
    check_fill(fill, torch.empty(0, channels, 0, 0, dtype=torch.float32))
    correct = []
    with on_device(model, home, target), evaluation_mode(model), torch.no_grad():
        for positions in index.split(batch_size):
            images, labels = data.take(positions)
            images = as_float(images).to(target)
            order = _orders(positions, height, width, side, seed).to(target)
            rows = []
            for ratio in shares:
                logits = check_logits(bare(model)(occlude(images, order, ratio, side, fill)), len(images))
                if not bool(logits.isfinite().all()):
                    raise FloatingPointError(f"the model's logits are not finite on images hidden to {100 * ratio:g}%")
                check_class_range("labels", labels, logits.shape[1])
                rows.append(logits.argmax(1).cpu() == labels)
            correct.append(torch.stack(rows))
    kept = tuple(float(value) for value in fill) if isinstance(fill, Sequence) else float(fill)
    return OcclusionCurve(shares, torch.cat(correct, 1), side, kept)


def _orders(positions: Tensor, height: int, width: int, patch_size: int, seed: int) -> Tensor:
    """Each image's order from a seed of its own: the same in every batch and subset."""
    generator = torch.Generator()
    orders = []
    for position in positions.tolist():
        generator.manual_seed(seed_of(seed, "occlusion", position))
        orders.append(sample_patch_order(1, height, width, patch_size, generator))
    return torch.cat(orders)


def _ratios(ratios: Any) -> tuple[float, ...]:
    if isinstance(ratios, str) or not isinstance(ratios, Sequence):
        raise TypeError(f"ratios must be a sequence of numbers, got {type(ratios).__name__}")
    ratios = [check_ratio(ratio) for ratio in ratios]
    if not ratios or any(one >= two for one, two in pairwise(ratios)):
        raise ValueError(f"ratios must be one or more, ascending, got {ratios}")
    return tuple(ratios)


def occlusion_figure(curves: Mapping[str, OcclusionCurve], styles: Sequence[Look] | None = None) -> FigureImage:
    """Accuracy against the share of each image that is hidden.

    Args:
        curves: each model's name to its curve, with one patch size; an empty name has no legend.
        styles: how each looks; default one after the other.

    Returns:
        The figure; bands are 95% intervals.

    Raises:
        ValueError: no curve, or curves with different patch sizes.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> curve = OcclusionCurve((0.0, 0.5), torch.tensor([[True, True], [True, False]]), patch_size=2)
        >>> occlusion_figure({"one": curve}).title
        'Accuracy under occlusion'
    """
    sides = {curve.patch_size for curve in curves.values()}
    if len(sides) != 1:
        raise ValueError(f"curves must be one or more of one patch size, got {sorted(sides) or 'none'}")
    figure, axes = new_figure(3.4)
    for (name, curve), look in zip(curves.items(), styles or looks(len(curves)), strict=True):
        draw_curve(axes, [100 * ratio for ratio in curve.ratios], curve.accuracy, name, look, len(curves) <= BANDS)
    axes.set_xlabel("hidden patches in %")
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(bottom=0)
    add_legend(figure, list(curves))
    count = max(len(curve.correct[0]) for curve in curves.values())
    caption = (
        f"Random patches of {sides.pop()} px hidden, the same for all; n = {count} images"
        + ("; bands are 95% intervals. " if len(curves) <= BANDS else ". ")
        + "Higher is better."
    )
    return FigureImage(png_of(figure), "Accuracy under occlusion", caption)


class Occlusion(Measure[Measured[OcclusionCurve]]):
    """The accuracy while 0 to 90% of each image are hidden, see :func:`occlusion_curve`."""

    name, order, usual = "occlusion", 40, 200

    def work(self, n: int, eps: float) -> float:
        return len(RATIOS) * float(n)

    def compute(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> Measured[OcclusionCurve]:
        def curve() -> dict[str, Tensor]:
            found = occlusion_curve(
                runner.model, runner.data, n=len(index), batch_size=runner.batch_size, seed=runner.seed,
                device=runner.device,
            )  # fmt: skip
            return {"correct": found.correct, "patch_size": torch.tensor(found.patch_size)}

        runner.bar.doing("occlusion")
        piece = runner.journal.keep("occlusion", curve, index, runner.batch_size)
        runner.step("occlusion", self.work(len(index), inputs.eps))
        return Measured(index, OcclusionCurve(RATIOS, piece["correct"], int(piece["patch_size"])))

    def to_json(self, result: Measured[OcclusionCurve] | None) -> dict[str, Any]:
        index = torch.empty(0, dtype=torch.int64) if result is None else result.index
        return {"occlusion_index": pack(index.int()), "occlusion": None if result is None else _to_json(result.value)}

    def from_json(self, data: Mapping[str, Any], clean: tuple[Tensor, Tensor]) -> Measured[OcclusionCurve] | None:
        if data["occlusion"] is None:
            return None
        return Measured(unpack(data["occlusion_index"], torch.int32).long(), _from_json(data["occlusion"]))

    def summary(self, result: Measured[OcclusionCurve] | None) -> dict[str, Any]:
        return {"occlusion": None if result is None else vars(result.value.area)}

    def rows(self, result: Measured[OcclusionCurve]) -> dict[str, tuple[str, Estimate]]:
        return {"occlusion": ("occlusion error", complement(result.value.area))}

    def count(self, result: Measured[OcclusionCurve]) -> str:
        return f"occlusion on {len(result.index):,}"

    def tables(self, result: Measured[OcclusionCurve]) -> list[Section]:
        curve = result.value
        header = ["hidden", *(f"{100 * ratio:.0f}%" for ratio in curve.ratios), "mean"]
        note = (
            f"Random patches of {curve.patch_size} px hidden, n = {curve.area.n:,} images; "
            "small figures are 95% intervals."
        )
        return [Section("Occlusion", 60, Table(header, [Row("accuracy, %", [*curve.accuracy, curve.area])], note))]

    def figures(self, result: Measured[OcclusionCurve], model: ModelInfo) -> list[Drawn]:
        return [Drawn("occlusion", 110, occlusion_figure({"": result.value}))]

    def same(
        self, one: Measured[OcclusionCurve], other: Measured[OcclusionCurve], models: tuple[ModelInfo, ModelInfo]
    ) -> bool:
        kinds = [(curve.ratios, curve.patch_size, curve.fill) for curve in (one.value, other.value)]
        return torch.equal(one.index, other.index) and kinds[0] == kinds[1]

    def by_image(self, result: Measured[OcclusionCurve], key: str) -> Tensor:
        return (~result.value.correct).double().mean(0)

    def compared_figures(self, results: Sequence[Measured[OcclusionCurve]], models: Sequence[ModelInfo]) -> list[Drawn]:
        curves = {model.name: result.value for model, result in zip(models, results, strict=True)}
        return [Drawn("occlusion", 55, occlusion_figure(curves))]


def _to_json(curve: OcclusionCurve) -> dict[str, Any]:
    fill = list(curve.fill) if isinstance(curve.fill, tuple) else curve.fill
    return {
        "ratios": list(curve.ratios), "correct": pack_bits(curve.correct), "patch_size": curve.patch_size, "fill": fill
    }  # fmt: skip


def _from_json(data: Mapping[str, Any]) -> OcclusionCurve:
    fill = tuple(data["fill"]) if isinstance(data["fill"], list) else data["fill"]
    return OcclusionCurve(tuple(data["ratios"]), unpack_bits(data["correct"]), data["patch_size"], fill)


MEASURE = Occlusion()
