"""Collate functions for a ``DataLoader``: batches that come out of the loader mixed, or with smoothed labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import default_collate, get_worker_info

from mixaug._checks import check_number
from mixaug.transforms import _labels
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
        labels_getter: ``"default"``, or a function of the collated batch that returns its labels.
        generator: of torch; its seed is combined with the worker's, so that workers and epochs differ.

    Shape:
        samples: tuples ``(image, label)`` or mappings with a key that has ``label`` in it, images ``(C, H, W)`` of one
        size, uint8, float16, bfloat16 or float32.

    Returns:
        what ``default_collate`` gives, with images ``(B, C, H, W)`` mixed and labels ``(B, K)`` float32.

    Raises:
        TypeError: PIL images (convert them in the dataset's transform), boxes, masks, key points.
        ValueError: a CUDA tensor in a loader worker; labels that do not fit.

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
        labels_getter: str | _labels.LabelsGetter = "default",
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
        labels_getter: ``"default"``, or a function of the collated batch that returns its labels.

    Shape:
        samples: tuples ``(image, label)`` or mappings with a key that has ``label`` in it.

    Returns:
        what ``default_collate`` gives, with labels ``(B, K)`` float32.

    Raises:
        TypeError: PIL images (convert them in the dataset's transform); labels that are none.
        ValueError: labels that do not fit; a CUDA tensor in a loader worker.

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
        labels_getter: str | _labels.LabelsGetter = "default",
    ) -> None:
        self.num_classes = _labels.check_classes(num_classes)
        self.smoothing = check_number("smoothing", smoothing, 0.0, 1.0)
        self._labels_getter = _labels.parse_getter(labels_getter)

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The batch of ``samples`` with smoothed labels."""
        batch = _collated(samples, "smooth_labels")
        flat, spec = tree_flatten(batch)
        labels = self._labels_getter(batch)
        at = _labels.place(labels, flat)
        flat[at] = _labels.smooth_labels(labels, self.num_classes, self.smoothing)
        return tree_unflatten(flat, spec)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_classes={self.num_classes}, smoothing={self.smoothing})"


def _collated(samples: Sequence[Any], later: str) -> Any:
    """``default_collate``; refuses PIL images, and in a worker CUDA tensors, which would start CUDA in each process."""
    if get_worker_info() is not None:
        for value in tree_flatten(list(samples))[0]:
            if isinstance(value, Tensor) and value.device.type != "cpu":
                raise ValueError(
                    f"samples must be on the CPU in a loader worker, got a tensor on {value.device}: keep the dataset "
                    f"on the CPU, or mix after the loader with {later}"
                )
    try:
        return default_collate(list(samples))
    except TypeError as error:
        if any(isinstance(value, PIL.Image.Image) for value in tree_flatten(list(samples))[0]):
            raise TypeError(
                "images must be tensors in the samples, got a PIL image: convert them in the dataset's transform, "
                "such as v2.PILToTensor() or v2.ToImage()"
            ) from error
        raise
