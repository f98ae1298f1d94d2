"""The labelled images that a model is evaluated on, in one shape whatever the data set is."""

from __future__ import annotations

import hashlib
import operator
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchvision.datasets import DatasetFolder
from torchvision.transforms import v2

from mixaug._checks import MAX_SIDE, check_int, image_range, in_unit_range, kind_of, out_of_range
from mixaug._pictures import EXTENSIONS, FolderWalk, from_pil, read_picture
from mixaug.train.images import ImageTensors
from mixaug.transforms.sample import IMAGES, LABELS, find_item

__all__ = [
    "ClassSubsetFolder",
    "PictureFolder",
]


IN_MEMORY_BYTES = 2 << 30  # a map-style data set up to this size is read once and kept
ITERABLE_BYTES = 16 << 30  # what can be read only once must be kept: an endless stream has to end before the memory
_FORMS = "(images, labels) tensors, a map-style data set of (image, label), a DataLoader or an iterable of batches"


class LabelledImages:
    """Random access to the images and labels of a data set, as CPU tensors.

    Convention:
        A data set is asked for its items, whatever its attributes are called. An item or a batch is ``(images,
        labels)`` or a mapping, in which the transforms' rule finds them: a key ``image``, ``images``, ``img``,
        ``imgs``, ``pixel_values``, ``video`` or ``videos``, or else the only picture that is no mask, depth map or the
        like; a key ``labels``, ``label``, ``targets`` or ``target`` (or else the first with "label" in it, such as
        ``fine_label``), in any case. Whether it is one image or a batch is told by its images: a list or tuple, or a
        tensor or array with one more dimension, is a batch.

        What can be read only once (a loader, a generator) is read once and kept. Reading it leaves the global random
        states as they were. A ``DataLoader`` that shuffles is read in the order of its data set, with its own
        collate function, workers and batch size: the same call gives the same report and goes on after a kill.

    Args:
        dataset: one of

            - ``(images, labels)``: tensors or NumPy arrays (labels also a list), or an object with such ``images``
              and ``labels`` attributes that has no items of its own;
            - a map-style data set (``__len__`` and ``__getitem__``): of torch, torchvision, Hugging Face, a list, ...;
            - a ``DataLoader``, an ``IterableDataset``, or another iterable of items or batches.

            Images are PIL images, uint8, or floating point in [0, 1], all of one size and dtype; values up to half
            a level of 8 bits outside are rounding and are clipped. PIL images become upright 8-bit grey or RGB by the
            rules for files: palettes and transparency by ``convert``, of 16 bits the upper 8. Labels are whole numbers
            from 0: Python's, NumPy's, or tensors and arrays without dimensions.

    Shape:
        images: tensors (N, C, H, W), one image (C, H, W). NumPy arrays also (N, H, W, C) and (N, H, W), one image
            (H, W, C) and (H, W), as PIL and Hugging Face give them: the axis of 1 or 3 entries holds the channels.

    Raises:
        TypeError: something of another kind; labels that are no whole numbers (2.7, "3", None, a bool, one-hot), named
            by index.
        ValueError: no images; a wrong shape; images of different sizes or dtypes; values outside of [0, 1]; negative
            labels; a loader that draws images with replacement, by weight or only some; more than 16 GiB of images
            from an iterable.

    Note:
        A map-style data set of up to 2 GB is read once and kept; a larger one is read again for each corruption.

    Example:
        >>> data = LabelledImages((torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2])))
        >>> len(data), tuple(data.take(torch.tensor([2]))[0].shape)
        (3, (1, 1, 4, 4))
        >>> len(LabelledImages({"img": np.zeros((4, 4, 3), np.uint8), "fine_label": i} for i in range(5)))
        5
    """

    def __init__(self, dataset: Any) -> None:
        self._images: Tensor | None
        self._labels: Tensor | None
        self._items: Any = None  # a map-style data set, where it is not kept
        self._first: _Block | None = None
        if isinstance(dataset, LabelledImages):
            self._images, self._labels = dataset._images, dataset._labels
            self._items, self._first = dataset._items, dataset._first
            return
        with _global_states_kept():
            self._images, self._labels = self._read(dataset)

    def _read(self, dataset: Any) -> tuple[Tensor | None, Tensor | None]:
        """The images and labels, or None where they are too many to be kept."""
        whole = _whole(dataset)
        if whole is not None:
            images, labels, _ = _block(*whole, 0, batch=True)
            if len(images) == 0:
                raise ValueError("dataset must hold 1 image or more, got 0")
            return images, labels
        items = _entries(dataset)
        if not isinstance(items, _Items):
            return _collected(items)
        if len(items) == 0:
            raise ValueError("dataset must hold 1 image or more, got 0")
        first = _parsed(items[0], 0)
        if first.batch or len(items) * first.images.nbytes <= IN_MEMORY_BYTES:
            return _collected(items)
        self._items, self._first = items, first
        return None, None

    def __len__(self) -> int:
        return len(self._items) if self._images is None else len(self._images)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images (n, C, H, W) and labels (n,) at ``index`` (n,), as they are stored (uint8 or float32)."""
        if self._images is not None and self._labels is not None:
            return self._images[index], self._labels[index]
        blocks = []
        for position in index.tolist():
            block = _parsed(self._items[position], position)
            if block.batch:
                raise TypeError(f"dataset items must be of one image each, got a batch at index {position}")
            _check_alike(block.images, self._first.images if self._first is not None else block.images, position)
            blocks.append(block)
        return torch.cat([block.images for block in blocks]), torch.cat([block.labels for block in blocks])

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


def of_classes(dataset: Any, name: str) -> Any:
    """What a data set says of its classes (``classes`` or ``model_classes``), also from within a loader or a subset.

    Args:
        dataset: as :class:`LabelledImages` takes it.
        name: of the attribute.

    Returns:
        the attribute, None where there is none. ``classes`` that are no list or tuple of names are another thing of
        that name, and None.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.rand(2, 1, 4, 4), torch.arange(2))
        >>> data.classes = ["cat", "dog"]
        >>> of_classes(DataLoader(Subset(data, [1])), "classes")
        ['cat', 'dog']
    """
    while not hasattr(dataset, name) and isinstance(dataset, DataLoader | Subset):
        dataset = dataset.dataset
    found = getattr(dataset, name, None)
    if name == "classes" and not (
        isinstance(found, list | tuple) and all(isinstance(label, str | int) for label in found)
    ):
        return None
    return found


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


# ---------------------------------------------------------------- where the entries come from


class _Items:
    """A map-style data set, asked through ``__getitem__`` for the positions that its length gives."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, position: int) -> Any:
        return self._dataset[position]

    def __iter__(self) -> Iterator[Any]:
        return (self._dataset[position] for position in range(len(self._dataset)))


def _whole(dataset: Any) -> tuple[Any, Any] | None:
    """Images and labels that are given as a whole; None of what has to be asked for its items."""
    if type(dataset) is ImageTensors:  # a subclass may have a __getitem__ of its own
        return dataset.images, dataset.labels
    if isinstance(dataset, Mapping):
        return _pair(dataset, "dataset")
    if isinstance(dataset, tuple | list):
        return tuple(dataset) if len(dataset) == 2 and isinstance(dataset[0], Tensor | np.ndarray) else None
    asked = hasattr(dataset, "__getitem__") or hasattr(dataset, "__iter__")
    if not asked and hasattr(dataset, "images") and hasattr(dataset, "labels"):
        return dataset.images, dataset.labels
    return None


def _entries(dataset: Any) -> Iterable[Any]:
    """The items or batches of a data set; :class:`_Items` of one that can be asked for them again."""
    if isinstance(dataset, DataLoader):
        return _in_order(dataset)
    got = kind_of(dataset)
    if isinstance(dataset, Tensor | np.ndarray):
        raise TypeError(f"dataset must be {_FORMS}, got {got} without labels")
    if isinstance(dataset, str | bytes | type):
        raise TypeError(f"dataset must be {_FORMS}, got {got}")
    if isinstance(dataset, IterableDataset):
        return dataset
    if hasattr(dataset, "__getitem__"):
        if hasattr(dataset, "__len__"):
            return _Items(dataset)
        if not hasattr(dataset, "__iter__"):
            raise TypeError(f"dataset must have a length, got {got} with __getitem__ but without __len__")
    if not hasattr(dataset, "__iter__"):
        raise TypeError(f"dataset must be {_FORMS}, got {got}")
    return dataset  # type: ignore[no-any-return]


def _in_order(loader: DataLoader[Any]) -> Iterable[Any]:
    """The loader, or one like it that does not shuffle.

    Raises:
        ValueError: it draws images with replacement, by weight, or only some of them.
    """
    sampler: Any = loader.sampler
    if type(loader.batch_sampler) is BatchSampler:
        sampler = loader.batch_sampler.sampler
    order: Sequence[int]
    if isinstance(sampler, WeightedRandomSampler) or (
        isinstance(sampler, RandomSampler) and (sampler.replacement or sampler.num_samples != len(sampler.data_source))
    ):
        raise ValueError(
            "dataset must give each of its images once: a DataLoader whose "
            f"{type(sampler).__name__} draws some of them gives others each time; give loader.dataset"
        )
    if type(sampler) is RandomSampler:
        order = range(len(sampler.data_source))
    elif type(sampler) is SubsetRandomSampler:
        order = [int(position) for position in sampler.indices]
    else:
        return loader
    batches = loader.batch_sampler
    size = batches.batch_size if isinstance(batches, BatchSampler) else loader.batch_size
    drop_last = batches.drop_last if isinstance(batches, BatchSampler) else False
    return DataLoader(
        loader.dataset,
        batch_size=size,
        sampler=order,
        drop_last=drop_last,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        generator=torch.Generator().manual_seed(0),  # of the workers' seeds; the user's own stays where it is
    )


def _collected(entries: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """All images and labels of items or batches, read once."""
    pieces: list[Tensor] = []
    labels: list[Tensor] = []
    count = held = 0
    for entry in entries:
        block = _parsed(entry, count)
        if not len(block.images):
            continue
        if pieces:
            _check_alike(block.images, pieces[0], count)
        else:
            # Sizes are known before all is read where there is a length.
            _check_bytes(block.images.nbytes * operator.length_hint(entries, 0), entries)
        pieces.append(block.images)
        labels.append(block.labels)
        count += len(block.images)
        held += block.images.nbytes
        _check_bytes(held, entries)
    if not pieces:
        once = "; a generator gives its batches only once" if isinstance(entries, Iterator) else ""
        raise ValueError(f"dataset must hold 1 image or more, got 0{once}")
    images = pieces[0].new_empty((count, *pieces[0].shape[1:]))
    while pieces:  # from the end, each freed when it is copied: all of them are held once, not twice
        piece = pieces.pop()
        images[count - len(piece) : count] = piece
        count -= len(piece)
    return images, torch.cat(labels)


def _check_bytes(held: int, entries: Iterable[Any]) -> None:
    if held > ITERABLE_BYTES and not isinstance(entries, _Items):
        raise ValueError(
            f"dataset must hold at most {ITERABLE_BYTES / 2**30:.3g} GiB of images where it can be read only once, got "
            f"{held / 2**30:.3g} GiB or more; give a map-style data set (of a loader its dataset), which is read again"
        )


@contextmanager
def _global_states_kept() -> Iterator[None]:
    """What transforms and loaders draw while a data set is read leaves the global random states as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


# ---------------------------------------------------------------- what an entry holds


class _Block(NamedTuple):
    """Images (n, C, H, W) uint8 or float32, labels (n,) int64, and whether they were a batch."""

    images: Tensor
    labels: Tensor
    batch: bool


def _parsed(entry: Any, index: int) -> _Block:
    """An item, or a batch whose first image is the one at ``index`` of the data set."""
    if isinstance(entry, Mapping):
        images, labels = _pair(entry, f"dataset item at index {index}")
    elif isinstance(entry, tuple | list) and len(entry) == 2:
        images, labels = entry
    else:
        got = f"{type(entry).__name__} of {len(entry)}" if isinstance(entry, tuple | list) else kind_of(entry)
        raise TypeError(f"dataset items must be (image, label), got {got} at index {index}")
    if isinstance(images, np.ndarray):
        # Grey images may come without channels: then a label tells a batch of them from one image in colour.
        several = images.ndim == 4 or (images.ndim == 3 and getattr(labels, "ndim", int(_is_list(labels))) == 1)
    else:
        several = _is_list(images) or (isinstance(images, Tensor) and images.ndim == 4)
    return _block(images, labels, index, several)


def _pair(entry: Mapping[Any, Any], what: str) -> tuple[Any, Any]:
    """Images and labels of a mapping."""
    try:
        return find_item(entry)
    except KeyError as error:
        missing = f"an image ({', '.join(IMAGES)})" if "image" in error.args else f"a label ({', '.join(LABELS)})"
        raise TypeError(
            f"{what} must have {missing}, got a {type(entry).__name__} with the keys {list(entry)}"
        ) from None


def _block(images: Any, labels: Any, index: int, batch: bool) -> _Block:
    if not batch:
        image = _stored(_tensor_of(images, index, batch=False)[None], index)
        return _Block(image, torch.tensor([_label(labels, index)], dtype=torch.int64), False)
    if _is_list(images):
        made = [_stored(_tensor_of(each, index + at, batch=False)[None], index + at) for at, each in enumerate(images)]
        for at, each in enumerate(made):
            _check_alike(each, made[0], index + at)
        found = torch.cat(made) if made else torch.empty(0, 0, 0, 0, dtype=torch.float32)
    else:
        found = _tensor_of(images, index, batch=True)
        found = _stored(found.detach().cpu(), index) if len(found) else found.float()
    return _Block(found, _labels(labels, len(found), index), True)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _tensor_of(images: Any, index: int, batch: bool) -> Tensor:
    """(C, H, W) of one image, (N, C, H, W) of a batch, in its own dtype."""
    shape, what = ("(N, C, H, W)", "images") if batch else ("(C, H, W)", f"dataset image at index {index}")
    if isinstance(images, Image.Image):
        return from_pil(images, name=what)
    if isinstance(images, np.ndarray):
        return _from_array(images, what, batch)
    if not isinstance(images, Tensor):
        raise TypeError(f"{what} must be a PIL image, a tensor or a NumPy array, got {kind_of(images)}")
    if images.ndim != 3 + batch:
        raise ValueError(f"{what} must have shape {shape}, got {tuple(images.shape)}")
    return images.as_subclass(Tensor)


def _from_array(array: np.ndarray[Any, Any], what: str, batch: bool) -> Tensor:
    """An array with its channels first; they are the axis of 1 or 3 entries, the first or the last of an image."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise TypeError(f"{what} must be uint8 or floating point in [0, 1], got {kind_of(array)}")
    if array.ndim == 2 + batch:
        array = array[..., None, :, :]
    elif array.ndim == 3 + batch:
        first, last = array.shape[-3] in (1, 3), array.shape[-1] in (1, 3)
        if first == last:
            which = "either could be" if first else "neither is"
            raise ValueError(
                f"{what} must have 1 or 3 channels, first or last, got shape {array.shape}, where {which}; give tensors"
            )
        array = np.moveaxis(array, -1, -3) if last else array
    else:
        raise ValueError(f"{what} must have shape {'(N, H, W, C)' if batch else '(H, W, C)'}, got {array.shape}")
    # Copied: an array may be read-only, of another byte order or of negative strides.
    return torch.from_numpy(np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32, order="C"))


def _stored(images: Tensor, index: int) -> Tensor:
    """Images (n, C, H, W) on the CPU as uint8, or as float32 in [0, 1]; their first is at ``index`` of the data set."""
    images = images.detach().cpu()
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point in [0, 1], got {images.dtype} at index {index}")
    images = images.float()
    if not images.numel():
        return images
    low, high = image_range(images)
    if not in_unit_range(low, high):
        ranges = [image_range(image) for image in images]
        at = next(at for at, found in enumerate(ranges) if not in_unit_range(*found))
        low, high = ranges[at]
        raise ValueError(
            out_of_range("images", low, high, f" at index {index + at}; normalise inside the model, as its first layer")
        )
    return images.clamp(0, 1) if low < 0 or high > 1 else images


def _check_alike(images: Tensor, first: Tensor, index: int) -> None:
    if images.shape[1:] != first.shape[1:]:
        raise ValueError(
            f"dataset must hold images of one size, got {tuple(images.shape[1:])} at index {index} "
            f"and {tuple(first.shape[1:])} before"
        )
    if images.dtype != first.dtype:
        raise ValueError(
            f"dataset must hold images of one dtype, got {images.dtype} at index {index} and {first.dtype} before"
        )


def _label(label: Any, index: int) -> int:
    if isinstance(label, Tensor) and label.ndim == 0:
        label = label.item()
    name, most = f"dataset label at index {index}", torch.iinfo(torch.int64).max
    number = check_int(name, label, 0)
    return number if number <= most else check_int(name, number, 0, most)  # the usual message is without the bound


def _labels(labels: Any, count: int, index: int) -> Tensor:
    """(count,) int64 of the labels of a batch, whose first is at ``index`` of the data set."""
    if _is_list(labels):
        if len(labels) != count:
            raise ValueError(f"labels must be {count}, one per image, got {len(labels)}")
        return torch.tensor([_label(label, index + at) for at, label in enumerate(labels)], dtype=torch.int64)
    if isinstance(labels, np.ndarray) and labels.dtype.kind == "O":
        return _labels(labels.tolist(), count, index)
    if not isinstance(labels, Tensor | np.ndarray):
        raise TypeError(f"labels must be an integer tensor or array, got {kind_of(labels)}")
    if tuple(labels.shape) != (count,):
        raise ValueError(f"labels must have shape ({count},), one per image, got {tuple(labels.shape)}")
    if isinstance(labels, np.ndarray):
        whole = labels.dtype.kind in "iu"
    else:
        whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole:
        raise TypeError(f"labels must be an integer tensor or array, got {kind_of(labels)}")
    if isinstance(labels, Tensor):
        found = labels.detach().cpu().long().as_subclass(Tensor)
    else:
        found = torch.from_numpy(labels.astype(np.int64))
    if count and int(found.min()) < 0:
        at = int((found < 0).nonzero()[0])
        _label(labels[at], index + at)  # an error, of the label as it was before the cast
    return found


_MODES = {1: "L", 3: "RGB"}


class _Folder(DatasetFolder):  # type: ignore[misc]
    """torchvision's folder data set with pictures of one size, and an error that says which picture is unreadable."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Any], Any] | None,
        extensions: Sequence[str],
        image_size: int | None,
        channels: int,
    ) -> None:
        if not Path(root).is_dir():
            raise ValueError(f"root must be a folder, got {os.fspath(root)!r}")
        if transform is not None and image_size is not None:
            raise ValueError("image_size must be None where a transform is given: the transform sees to the size")
        if check_int("channels", channels) not in _MODES:
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        if image_size is not None:
            image_size = check_int("image_size", image_size, 1, MAX_SIDE)
            # torchvision's for ImageNet: 256 for 224.
            transform = v2.Compose(
                [v2.Resize(round(image_size * 256 / 224), antialias=True), v2.CenterCrop(image_size)]
            )
        self._mode = _MODES[channels]
        super().__init__(os.fspath(root), self._open, extensions=tuple(extensions), transform=transform)

    def _open(self, path: str) -> Image.Image:
        return read_picture(path, self._mode)

    @staticmethod
    def make_dataset(
        directory: str | Path,
        class_to_idx: dict[str, int],
        extensions: tuple[str, ...] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> list[tuple[str, int]]:
        """Paths and labels, in torchvision's order; torchvision's hook."""
        walk = FolderWalk(EXTENSIONS if extensions is None else extensions)
        samples: list[tuple[str, int]] = []
        for name in sorted(class_to_idx):
            label = class_to_idx[name]
            paths = walk.pictures(os.path.join(directory, name), owner=label)
            samples += [(path, label) for path in sorted(paths, key=os.path.split)]
        walk.warn_of_links()
        present = {label for _, label in samples}
        if empty := [name for name in sorted(class_to_idx) if class_to_idx[name] not in present]:
            raise FileNotFoundError(
                f"root must hold pictures ({', '.join(extensions or EXTENSIONS)}) in the folder of each class, "
                f"got none in {', '.join(empty)}"
            )
        return samples


class ClassSubsetFolder(_Folder):
    """A folder of pictures in folders of classes, which are some of a model's classes.

    As ImageNet-R (200 of the 1,000 classes of ImageNet), ImageNet-A (200) and ImageNet-Sketch (all): Hendrycks et al.,
    "The Many Faces of Robustness", ICCV 2021, and "Natural Adversarial Examples", CVPR 2021. As there, a model is asked
    which of these classes a picture shows: the logits of the others are left out.

    Convention: labels count the classes of the folder, 0 to K - 1, in the order of the folders' names; row k of
    ``model_classes`` is the model's class of label k. :func:`~mixaug.evaluate.evaluate_model` takes
    ``logits[:, model_classes]`` of a data set that has them. Folders of one model class share a label.

    Args:
        root: holds a folder for each class, with pictures in it or in folders below.
        classes: the model's classes: names of folders in the order of its logits (WordNet ids for ImageNet), or a
            mapping from names of folders to the model's class indices.
        transform: of a PIL image; default none: pictures as they are, then all must have one size.
        extensions: file names' ends that are pictures; default those of every folder of pictures.
        image_size: side in pixels: pictures are resized to 256/224 of it on the shorter side and cropped in the centre,
            as is usual for ImageNet; default None, as they are.
        channels: 3 for colour (default), 1 for grey.

    Attributes:
        classes: names of the folders, by label (the first, where several share one).
        class_to_idx: folder to label.
        model_classes: (K,) int64, the model's class of each label.
        targets: the label of each picture.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: ``root`` is no folder; a folder that is no class of the model; no folder; class names given twice;
            a folder or file that two classes share, by links; on access, a picture that cannot be read, named.
        FileNotFoundError: a class folder without pictures, named.

    Example:
        >>> import pathlib, tempfile
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("n02", "n07"):
        ...     (root / name).mkdir()
        ...     Image.new("RGB", (40, 30)).save(root / name / "a.png")
        >>> folder = ClassSubsetFolder(root, [f"n{i:02}" for i in range(10)], image_size=24)
        >>> folder.model_classes.tolist(), folder.targets, folder[1][0].size
        ([2, 7], [0, 1], (24, 24))
    """

    model_classes: Tensor

    def __init__(
        self,
        root: str | os.PathLike[str],
        classes: Sequence[str] | Mapping[str, int],
        transform: Callable[[Any], Any] | None = None,
        extensions: Sequence[str] = EXTENSIONS,
        *,
        image_size: int | None = None,
        channels: int = 3,
    ) -> None:
        self._indices = _class_indices(classes)
        super().__init__(root, transform, extensions, image_size, channels)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """The folders and their labels; torchvision's hook."""
        folders = FolderWalk().subfolders(directory)
        if not folders:
            raise ValueError(f"root must hold a folder for each class, got none in {os.fspath(directory)}")
        unknown = [folder for folder in folders if folder not in self._indices]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ValueError(
                f"root must hold folders of the model's {len(self._indices)} classes alone, got {unknown[0]!r}{more}; "
                "give a mapping from folders to the model's class indices if they have other names"
            )
        model_classes = list(dict.fromkeys(self._indices[folder] for folder in folders))
        self.model_classes = torch.tensor(model_classes)
        labels = {folder: model_classes.index(self._indices[folder]) for folder in folders}
        names = {label: folder for folder, label in reversed(labels.items())}
        return [names[label] for label in range(len(model_classes))], labels


class PictureFolder(_Folder):
    """All pictures in a folder and the folders below, without classes: out-of-distribution images.

    Args:
        root: the folder.
        transform: of a PIL image; default none.
        extensions: file names' ends that are pictures; default those of every folder of pictures.
        image_size: as for :class:`ClassSubsetFolder`.
        channels: 3 for colour (default), 1 for grey.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: ``root`` is no folder; on access, a picture that cannot be read, named.
        FileNotFoundError: no pictures.

    Note:
        Every label is 0, and means nothing.

    Example:
        >>> import pathlib, tempfile
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> (root / "below").mkdir()
        >>> Image.new("L", (8, 6)).save(root / "a.png")
        >>> Image.new("L", (8, 6)).save(root / "below" / "b.png")
        >>> len(PictureFolder(root, channels=1))
        2
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Any], Any] | None = None,
        extensions: Sequence[str] = EXTENSIONS,
        *,
        image_size: int | None = None,
        channels: int = 3,
    ) -> None:
        try:
            super().__init__(root, transform, extensions, image_size, channels)
        except FileNotFoundError as error:  # torchvision's names a class
            ends = ", ".join(extensions)
            raise FileNotFoundError(f"root must hold pictures ({ends}), got none in {os.fspath(root)}") from error

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """The folder itself as the one class; torchvision's hook, whose search goes below it."""
        return ["."], {".": 0}


def _class_indices(classes: Any) -> dict[str, int]:
    if isinstance(classes, Mapping):
        for name in classes:
            if not isinstance(name, str):
                raise TypeError(f"classes must map names of folders to indices, got {name!r}")
        return {name: check_int(f"classes[{name!r}]", index, 0) for name, index in classes.items()}
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise TypeError(
            f"classes must be names in the order of the model's logits, or a mapping, got {type(classes).__name__}"
        )
    indices = {name: index for index, name in enumerate(classes)}
    if len(indices) != len(classes):
        twice = next(name for index, name in enumerate(classes) if indices[name] != index)
        raise ValueError(f"classes must be different names, got {twice!r} twice")
    return indices
