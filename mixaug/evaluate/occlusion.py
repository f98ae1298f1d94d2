"""Accuracy of a model whose images are hidden bit by bit: random square patches, 0 to 90% of each image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixaug._checks import MAX_COUNT, check_int, check_seed
from mixaug._files import atomic_path
from mixaug._model_state import bare, check_class_range, check_logits, check_model, evaluation_mode
from mixaug._pictures import as_float
from mixaug.evaluate._choices import seed_of, subset
from mixaug.evaluate._place import home_of, on_device
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.intervals import Estimate, bootstrap_means, share
from mixaug.evaluate.patches import check_fill, check_ratio, occlude, patch_grid, patch_size_of, sample_patch_order

__all__ = ["RATIOS", "OcclusionCurve", "occlusion_curve"]

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
        :func:`~mixaug.evaluate.occlusion_figure.occlusion_figure`.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        from mixaug.evaluate.occlusion_figure import occlusion_figure

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
    at one ratio stays hidden at all larger ones. See :func:`~mixaug.evaluate.patches.occlude`.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, K); its normalisation is inside.
        dataset: as for :func:`~mixaug.evaluate.evaluate_model`.
        ratios: shares of the patches to hide, ascending, each in [0, 1]; default 0, 0.1, ..., 0.9.
        patch_size: side of a patch in pixels; default a 14th of the images' shorter side, see
            :func:`~mixaug.evaluate.patches.patch_size_of`.
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
    place = home if device is None else torch.device(device)
    check_fill(fill, torch.empty(0, channels, 0, 0, dtype=torch.float32))
    correct = []
    with on_device(model, home, place), evaluation_mode(model), torch.no_grad():
        for positions in index.split(batch_size):
            images, labels = data.take(positions)
            images = as_float(images).to(place)
            order = _orders(positions, height, width, side, seed).to(place)
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
