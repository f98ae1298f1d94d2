"""What the transforms share that mix the images of a batch and its labels: the way through a sample, and checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mixaug._checks import check_dense, check_flag, check_label_values, check_number
from mixaug._random import Drawing, GeneratorState
from mixaug.transforms import labels as _labels
from mixaug.transforms import sample as _sample
from mixaug.transforms.images import DTYPES, check_values

__all__ = ["BatchMix", "as_plain", "check_images", "check_one_size"]


class BatchMix(Drawing, v2.Transform):
    """Mixes the images of a batch and their labels, wherever :mod:`mixaug.transforms.sample` finds both in a sample.

    A subclass has the hooks ``make_params`` (draws once for the images of a sample) and ``transform`` (carries the
    draw out on the labels, which it knows by ``inpt is params["labels"]``, or on a batch of images).

    Args:
        num_classes, smoothing, images_getter, labels_getter, generator, check_values: of the transforms.
    """

    make_params: Callable[[list[Any]], dict[str, Any]]
    transform: Callable[[Any, dict[str, Any]], Any]

    def __init__(
        self,
        num_classes: int | None,
        smoothing: float,
        images_getter: str | _sample.Getter,
        labels_getter: str | _sample.Getter,
        generator: torch.Generator | None,
        check_values: bool,
    ) -> None:
        super().__init__()
        self.num_classes = _labels.check_classes(num_classes)
        self.smoothing = check_number("smoothing", smoothing, 0.0, 1.0)
        self.check_values = check_flag("check_values", check_values)
        self._images_getter = _sample.parse_getter("images_getter", images_getter)
        self._labels_getter = _sample.parse_getter("labels_getter", labels_getter)
        self._random = GeneratorState(generator)
        self._checked = False

    def _mix(self, inputs: tuple[Any, ...], **given: Any) -> Any:
        """The sample with its images and labels replaced; ``given`` goes to the checks and the hooks."""
        sample = inputs[0] if len(inputs) == 1 else inputs
        found = _sample.find_batch(type(self).__name__, sample, self._images_getter, self._labels_getter)
        images, labels = [entry.value for entry in found.images], found.labels.value
        try:
            self._check_sample(images, labels, **given)
            params = {"labels": labels, **given, **self.make_params(images)}
        except (TypeError, ValueError) as error:
            raise _sample.named_entries(error, sample, found.images, found.labels) from error
        mixed = {entry.path: self.transform(entry.value, params) for entry in (*found.images, found.labels)}
        return _sample.replaced(sample, mixed)

    def _check_sample(self, images: Sequence[Any], labels: Any) -> None:
        """Raises unless all batches of images of a sample can be mixed with these labels."""
        for value in images:
            check_images(value)
            self._check_labels(labels, value)

    def _check_labels(self, labels: Any, images: Tensor, more: Sequence[tuple[str, Tensor]] = ()) -> None:
        """Raises unless the labels fit the images, and the values of both, and of ``more`` by name, are in range."""
        classes = _labels.check_labels(labels, self.num_classes, images)
        if torch.compiler.is_compiling():
            return
        # A GPU is waited for at the first call only, unless asked for.
        first = self.check_values or not self._checked
        if first or labels.device.type == "cpu":
            check_label_values(labels, classes)
        if first or (images.device.type == "cpu" and images.shape[0] == 1):
            for name, value in (("images", images), *more):
                check_values(as_plain(value), name, "mixed as they are")
            self._checked = True


def check_one_size(images: Sequence[Tensor]) -> Tensor:
    """The first of several batches that share a draw, if they are of as many images of one size."""
    first = images[0]
    for other in images[1:]:
        if (len(other), other.shape[-2:]) != (len(first), first.shape[-2:]):
            raise ValueError(
                "the images of one sample share their draw and must have one size, got "
                f"{tuple(first.shape)} and {tuple(other.shape)}"
            )
    return first


def check_images(images: Any) -> None:
    """Raises unless ``images`` are a batch of images or clips of a dtype that can be mixed. Reads no value."""
    check_dense("images", images, "a tensor of shape (B, C, H, W)")
    if images.dtype not in DTYPES:
        raise TypeError(f"images must be uint8, float16, bfloat16 or float32, got {images.dtype}")
    if images.ndim not in (4, 5):
        hint = _sample.COLLATED if images.ndim == 3 else ""
        raise ValueError(f"images must be (B, C, H, W) or clips (B, T, C, H, W), got shape {tuple(images.shape)}{hint}")
    if 0 in images.shape[1:]:
        raise ValueError(f"images must have at least one pixel and channel, got shape {tuple(images.shape)}")


def as_plain(value: Tensor) -> Tensor:
    """The tensor without torchvision's kind; torch's own kinds, such as fake tensors, stay."""
    return value.as_subclass(Tensor) if isinstance(value, tv_tensors.TVTensor) else value
