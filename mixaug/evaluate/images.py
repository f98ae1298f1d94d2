"""The labelled images that a model is evaluated on, in one shape whatever the data set is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

IN_MEMORY_BYTES = 2 << 30  # a map-style data set up to this size is read once and kept


class LabelledImages:
    """Random access to the images and labels of a data set, as CPU tensors.

    Args:
        dataset: ``(images, labels)`` tensors, an object with such ``images`` and ``labels`` attributes, or a map-style
            data set of ``(image, label)`` with PIL images or tensors of one size. Images are uint8, or floating point
            in [0, 1]; labels are integers.

    Shape:
        images: (N, C, H, W), or (C, H, W) each in a map-style data set.

    Raises:
        TypeError: something of another kind.
        ValueError: no images; a wrong shape; images of different sizes; values outside of [0, 1]; negative labels.

    Note:
        A map-style data set of up to 2 GB is read once and kept; a larger one is read again for each corruption.

    Example:
        >>> data = LabelledImages((torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2])))
        >>> len(data), tuple(data.take(torch.tensor([2]))[0].shape)
        (3, (1, 1, 4, 4))
    """

    def __init__(self, dataset: Any) -> None:
        self._images: Tensor | None = None
        self._labels: Tensor | None = None
        self._items: Any = None
        if isinstance(dataset, LabelledImages):
            self._images, self._labels, self._items = dataset._images, dataset._labels, dataset._items
            return
        if hasattr(dataset, "images") and hasattr(dataset, "labels"):
            dataset = (dataset.images, dataset.labels)
        if isinstance(dataset, tuple | list) and len(dataset) == 2 and isinstance(dataset[0], Tensor):
            self._keep(*dataset)
        elif hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Tensor | str):
            if len(dataset) == 0:
                raise ValueError("dataset must hold 1 image or more, got 0")
            self._items = dataset
            image, _ = self._item(0)
            if image.numel() * image.element_size() * len(dataset) <= IN_MEMORY_BYTES:
                images, labels = self.take(torch.arange(len(dataset)))
                self._keep(images, labels)
                self._items = None
        else:
            raise TypeError(
                "dataset must be (images, labels) tensors or a map-style data set of (image, label), "
                f"got {type(dataset).__name__}"
            )

    def __len__(self) -> int:
        return len(self._items) if self._images is None else len(self._images)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images (n, C, H, W) and labels (n,) at ``index`` (n,), as they are stored (uint8 or float32)."""
        if self._images is not None and self._labels is not None:
            return self._images[index], self._labels[index]
        images: list[Tensor] = []
        labels: list[int] = []
        for position in index.tolist():
            image, label = self._item(position)
            if images and image.shape != images[0].shape:
                raise ValueError(
                    f"dataset must hold images of one size, got {tuple(image.shape)} at index {position} "
                    f"and {tuple(images[0].shape)} before"
                )
            images.append(image)
            labels.append(label)
        return torch.stack(images), torch.tensor(labels, dtype=torch.int64)

    def blocks(self, index: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``take`` for consecutive pieces of ``index`` of at most ``size`` images."""
        for piece in index.split(size):
            yield self.take(piece)

    @property
    def channels(self) -> int:
        """Of the images."""
        return int(self.take(torch.tensor([0]))[0].shape[1])

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of images and labels."""
        images_digest, labels_digest = hashlib.sha256(), hashlib.sha256()
        for images, labels in self.blocks(torch.arange(len(self)), 1024):
            images_digest.update(images.contiguous().numpy().tobytes())
            labels_digest.update(labels.numpy().tobytes())
        shape = f"{images.dtype} {tuple(images.shape[1:])}"
        return hashlib.sha256(f"{images_digest.hexdigest()} {labels_digest.hexdigest()} {shape}".encode()).hexdigest()

    def _item(self, position: int) -> tuple[Tensor, int]:
        pair = self._items[position]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"dataset items must be (image, label), got {type(pair).__name__} at index {position}")
        image, label = pair
        if not isinstance(image, Tensor):
            from torchvision.transforms.v2.functional import pil_to_tensor

            image = pil_to_tensor(image)  # a TypeError of its own for what is no PIL image
        if image.ndim != 3:
            raise ValueError(f"dataset images must have shape (C, H, W), got {tuple(image.shape)} at index {position}")
        label = int(label)
        if label < 0:
            raise ValueError(f"dataset labels must be 0 or more, got {label} at index {position}")
        return _as_stored(image.as_subclass(Tensor), f"at index {position}"), label

    def _keep(self, images: Any, labels: Any) -> None:
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
            got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"labels must be an integer tensor, got {got}")
        if images.ndim != 4:
            raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels must have shape ({len(images)},), one per image, got {tuple(labels.shape)}")
        if len(images) == 0:
            raise ValueError("dataset must hold 1 image or more, got 0")
        if int(labels.min()) < 0:
            raise ValueError(f"labels must be 0 or more, got {int(labels.min())}")
        self._images = _as_stored(images.detach().cpu(), "in images")
        self._labels = labels.detach().cpu().long()


def as_float(images: Tensor) -> Tensor:
    """float32 in [0, 1], as models take them.

    Example:
        >>> float(as_float(torch.tensor([255], dtype=torch.uint8)))
        1.0
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images


def as_bytes(images: Tensor) -> Tensor:
    """uint8, as pictures are stored; floats are rounded to the nearest level.

    Example:
        >>> int(as_bytes(torch.tensor([0.5])))
        128
    """
    return images if images.dtype == torch.uint8 else (images * 255).round().clamp(0, 255).to(torch.uint8)


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of named tensors: their names, dtypes, shapes and bytes, in the order of the names.

    Example:
        >>> fingerprint({"a": torch.tensor([1])}) == fingerprint({"a": torch.tensor([2])})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _as_stored(images: Tensor, where: str) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point in [0, 1], got {images.dtype} {where}")
    images = images.detach().float()
    if images.numel():
        low, high = (float(bound) for bound in images.aminmax())
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise ValueError(
                f"images must lie in [0, 1], got values from {low:g} to {high:g} {where}; "
                "normalise inside the model, as its first layer"
            )
    return images
