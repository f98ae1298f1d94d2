"""Collate functions for a ``DataLoader``: batches that come out of the loader mixed, or with smoothed labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from mixaug._checks import check_number, kind_of
from mixaug.transforms import labels as _labels
from mixaug.transforms import sample as _sample
from mixaug.transforms.dynamic_mixcut import DynamicMixCut


class DynamicMixCutCollate:
    r"""Collates a batch, then mixes it by :class:`~mixaug.DynamicMixCut` with partners from the batch.

    .. math:: \bar x = (1 - M)\, x + M\, (\beta\, x_a + (1 - \beta)\, x_b), \qquad
        \bar y = (1 - \alpha) [\lambda y + (1 - \lambda)(\beta y_a + (1 - \beta) y_b)] + \alpha / K

    with ``M`` the union of the image's boxes and ``1 - \lambda`` its share of the pixels (boxes as in Niu et al., ICIC
    2025, and Yun et al., ICCV 2019; the adversarial views of the former need a model, so they come after the loader).

    Convention:
        As in :class:`~mixaug.DynamicMixCut`: everything is drawn for each image. Samples are put together by
        ``torch.utils.data.default_collate``. Works on the CPU, in loader workers started in any way.

    Args:
        num_classes: ``K``; needed when labels are class indices.
        boxes: boxes of each image, or a range ``(low, high)``. Default 2.
        smoothing: ``alpha`` of the label smoothing, in ``[0, 1]``. Default 0.1.
        p: probability in ``[0, 1]`` that an image is mixed. Default 1.
        area: None (default): CutMix's law; else the range ``(low, high)`` in ``[0, 1]`` of a box's share.
        square: height and width are the same share of the image's. Default True.
        images_getter, labels_getter: where images and labels of the collated batch are, ``"default"`` or a function of
            it, see :class:`~mixaug.DynamicMixCut`.
        generator: of torch; its seed is combined with the worker's, so that workers and epochs differ.

    Shape:
        samples: a list of tuples ``(image, label)`` or of mappings, images ``(C, H, W)`` of one size, uint8, float16,
        bfloat16 or float32.

    Returns:
        what ``default_collate`` gives, with images ``(B, C, H, W)`` mixed and labels ``(B, K)`` float32.

    Raises:
        TypeError: one sample or batch in place of a list of samples; PIL images (convert them in the dataset's
            transform), torchvision's boxes, masks or key points.
        ValueError: no samples; a CUDA tensor in a loader worker; labels that do not fit.

    Example:
        >>> dataset = [(torch.rand(3, 32, 32), i % 10) for i in range(8)]
        >>> loader = torch.utils.data.DataLoader(dataset, batch_size=8, collate_fn=DynamicMixCutCollate(num_classes=10))
        >>> images, targets = next(iter(loader))
        >>> images.shape, targets.shape
        (torch.Size([8, 3, 32, 32]), torch.Size([8, 10]))
    """

    def __init__(
        self,
        num_classes: int | None = None,
        boxes: int | tuple[int, int] = 2,
        smoothing: float = 0.1,
        p: float = 1.0,
        *,
        area: tuple[float, float] | None = None,
        square: bool = True,
        images_getter: str | _sample.Getter = "default",
        labels_getter: str | _sample.Getter = "default",
        generator: torch.Generator | None = None,
    ) -> None:
        #: The transform that mixes the collated batch.
        self.mix = DynamicMixCut(
            num_classes,
            boxes,
            smoothing,
            p,
            area=area,
            square=square,
            images_getter=images_getter,
            labels_getter=labels_getter,
            generator=generator,
        )

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The mixed batch of ``samples``."""
        return self.mix(_collated(samples, "DynamicMixCut"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.mix.extra_repr()})"


class LabelSmoothingCollate:
    r"""Collates a batch and smooths its labels: :math:`\bar y = (1 - \alpha)\, y + \alpha / K` (Szegedy et al., 2016).

    Convention:
        Images are left alone. Labels are float32 also with ``smoothing=0``.

    Args:
        num_classes: ``K``; needed when labels are class indices.
        smoothing: ``alpha`` in ``[0, 1]``. Default 0.1.
        labels_getter: where the labels of the collated batch are, see :class:`~mixaug.DynamicMixCut`.

    Shape:
        samples: a list of tuples ``(image, label)`` or of mappings.

    Returns:
        what ``default_collate`` gives, with labels ``(B, K)`` float32.

    Raises:
        TypeError: one sample or batch in place of a list of samples; PIL images (convert them in the dataset's
            transform); labels that are none.
        ValueError: no samples; labels that do not fit; a CUDA tensor in a loader worker.

    Example:
        >>> collate = LabelSmoothingCollate(num_classes=4)
        >>> collate([(torch.zeros(1, 2, 2), 3)])[1]
        tensor([[0.0250, 0.0250, 0.0250, 0.9250]])
    """

    def __init__(
        self,
        num_classes: int | None = None,
        smoothing: float = 0.1,
        *,
        labels_getter: str | _sample.Getter = "default",
    ) -> None:
        self.num_classes = _labels.check_classes(num_classes)
        self.smoothing = check_number("smoothing", smoothing, 0.0, 1.0)
        self._labels_getter = _sample.parse_getter("labels_getter", labels_getter)

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The batch of ``samples`` with smoothed labels."""
        batch = _collated(samples, "smooth_labels")
        found = _sample.find_labels(batch, self._labels_getter)
        try:
            labels = _labels.smooth_labels(_sample.as_labels(found.value), self.num_classes, self.smoothing)
        except (TypeError, ValueError) as error:
            raise _sample.named_entries(error, batch, [], found) from error
        return _sample.replaced(batch, {found.path: labels})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_classes={self.num_classes}, smoothing={self.smoothing})"


def _collated(samples: Any, later: str) -> Any:
    """``default_collate``; refuses PIL images, and in a worker CUDA tensors, which would start CUDA in each process."""
    samples = _checked(samples, later)
    if get_worker_info() is not None:
        for entry in _sample.entries_of(samples, Tensor):
            if entry.value.device.type != "cpu":
                raise ValueError(
                    f"samples must be on the CPU in a loader worker, got a tensor on {entry.value.device}: keep the "
                    f"dataset on the CPU, or mix after the loader with {later}"
                )
    try:
        return default_collate(samples)
    except TypeError as error:
        if _sample.entries_of(samples, PIL.Image.Image):
            raise TypeError(
                "images must be tensors in the samples, got a PIL image: convert them in the dataset's transform, "
                "such as v2.PILToTensor() or v2.ToImage()"
            ) from error
        raise


def _checked(samples: Any, later: str) -> list[Any]:
    """The samples as a list, if they are what a loader gives a collate function."""
    what = "samples must be a list of samples such as (image, label)"
    # A loader with batch_size=None hands over what the data set gives: one sample, or a batch that is whole already.
    whole = f": with batch_size=None there is nothing to collate; mix whole batches after the loader with {later}"
    if isinstance(samples, Mapping):
        raise TypeError(f"{what}, got one {type(samples).__name__} with the keys {list(samples)}{whole}")
    if isinstance(samples, (Tensor, np.ndarray, str)) or not isinstance(samples, Iterable):
        raise TypeError(f"{what}, got {kind_of(samples)}{whole}")
    listed = list(samples)
    if not listed:
        raise ValueError(f"{what}, at least one, got none")
    for i, sample in enumerate(listed):
        if not isinstance(sample, (tuple, list, Mapping)):
            alone = isinstance(samples, (tuple, list)) and len(listed) == 2 and isinstance(listed[0], Tensor)
            raise TypeError(f"{what}, got {kind_of(sample)} as samples[{i}]{whole if alone else ''}")
    return listed
