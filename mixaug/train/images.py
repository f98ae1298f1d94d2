"""Sets of images with labels: in memory or read on demand, how they are split, their mean and standard deviation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from mixaug._pictures import EXTENSIONS, FolderWalk, read_tensor

__all__ = [
    "FileSource",
    "FolderImages",
    "ImageTensors",
    "MixedPart",
    "ResizedImages",
    "Source",
    "TensorSource",
    "balanced_limit",
    "decode",
    "in_memory",
    "mean_and_std",
    "scan",
    "stratified_split",
]


MEMORY_LIMIT = 2 * 1024**3  # bytes of decoded images a part may hold in memory; larger parts are read on demand
_SAMPLE = 2_000  # images that stand for a part on disk when its mean is measured
_CHUNK = 4_096  # images a step of resizing or counting, to keep what is in between small


class ImageTensors(Dataset[tuple[Tensor, int]]):
    """A part of a data set in memory.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, one per image.

    Raises:
        TypeError: another dtype. ValueError: another shape, or lengths that differ.

    Example:
        >>> part = ImageTensors(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([3, 1]))
        >>> len(part), part[1][0].shape, part[1][1]
        (2, torch.Size([1, 4, 4]), 1)
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {images.dtype}")
        if labels.dtype != torch.int64:
            raise TypeError(f"labels must be int64, got {labels.dtype}")
        if images.ndim != 4:
            raise ValueError(f"images must have the shape (N, C, H, W), got {tuple(images.shape)}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels must have the shape ({len(images)},), got {tuple(labels.shape)}")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class ResizedImages(Dataset[tuple[Tensor, int]]):
    """A part in memory whose images are resized when they are asked for, because all of them resized are too many.

    Args:
        part: the images as they are.
        side: side of the square images returned, in pixels.
    """

    def __init__(self, part: ImageTensors, side: int) -> None:
        self.part, self.side, self.labels = part, side, part.labels

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.part[index]
        return _resize(image, self.side), label


Part = ImageTensors | Dataset[tuple[Tensor, int]]


class MixedPart(Dataset[tuple[Tensor, int]]):
    """Two parts as one: positions below ``len(own)`` are its own images, those from there on the extra ones.

    Convention: its length is that of its own images, the size of an epoch, which does not grow.

    Args:
        own: the data set's training part.
        extra: pictures of the same shape and classes.
        labels: class of the data set for each class of the extra pictures.

    Example:
        >>> part = ImageTensors(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
        >>> mixed = MixedPart(part, part, labels=[1])
        >>> len(mixed), mixed[0][1], mixed[3][1]
        (3, 0, 1)
    """

    def __init__(self, own: Part, extra: Part, labels: list[int]) -> None:
        self.own, self.extra, self.known = own, extra, labels
        self.extra_count = len(extra)  # type: ignore[arg-type]
        self.memory: tuple[Tensor, Tensor] | None = None
        mine, others = in_memory(own), in_memory(extra)
        if mine is not None and others is not None:
            images = torch.cat([mine[0], _like(others[0], mine[0])])
            self.memory = images, torch.cat([mine[1], torch.tensor(labels, dtype=torch.int64)[others[1]]])

    def __len__(self) -> int:
        return len(self.own)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index < len(self):
            return self.own[index]
        image, label = self.extra[index - len(self)]
        return _like(image, self.own[0][0]), self.known[label]


def _like(pictures: Tensor, own: Tensor) -> Tensor:
    """Pictures of bytes in grey if the own images are; torchvision alone would round down, and a grey become darker."""
    if own.shape[-3] == 1 and pictures.shape[-3] == 3:
        return F.rgb_to_grayscale(pictures.float()).round().to(torch.uint8)
    return pictures


def in_memory(part: Any) -> tuple[Tensor, Tensor] | None:
    """The images and labels by position of one of our parts that is in memory; None: its items must be asked for.

    What the attributes of other data sets hold is not known: a transform in ``__getitem__`` would be passed by.

    Example:
        >>> part = ImageTensors(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([3, 1]))
        >>> in_memory(part)[1], in_memory(ResizedImages(part, 8))
        (tensor([3, 1]), None)
    """
    if type(part) is ImageTensors:  # a subclass may have a __getitem__ of its own
        return part.images, part.labels
    return part.memory if type(part) is MixedPart else None


class Source(Protocol):
    """Images that are known (labels, number) before they are decoded and resized."""

    labels: Tensor

    def subset(self, index: Tensor) -> Source:
        """The images at these positions."""

    def natural_side(self) -> int:
        """The side in pixels that needs the least resizing."""

    def load(self, side: int) -> Part:
        """The images, square, of this side: in memory where they fit, else read on demand."""


class TensorSource:
    """A source whose images are tensors already.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        side: the side in pixels that they get where none is asked for; default their own.
    """

    def __init__(self, images: Tensor, labels: Tensor, side: int | None = None) -> None:
        self.images, self.labels, self.side = images, labels, side

    def subset(self, index: Tensor) -> TensorSource:
        """The images at these positions, a copy."""
        return TensorSource(self.images[index], self.labels[index], self.side)

    def natural_side(self) -> int:
        """The side they have, or were given."""
        return self.side or self.images.shape[-1]

    def load(self, side: int) -> Part:
        """The images with this side (bilinear with antialiasing)."""
        if self.images.shape[-2:] == (side, side):
            return ImageTensors(self.images, self.labels)
        if len(self.images) * self.images.shape[1] * side * side > MEMORY_LIMIT:
            return ResizedImages(ImageTensors(self.images, self.labels), side)
        resized = self.images.new_empty(*self.images.shape[:2], side, side)
        for start in range(0, len(resized), _CHUNK):
            resized[start : start + _CHUNK] = _resize(self.images[start : start + _CHUNK], side)
        return ImageTensors(resized, self.labels)


def _resize(images: Tensor, side: int) -> Tensor:
    return F.resize(images, [side, side], antialias=True)


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions kept and positions split off, the same share of each class.

    Convention: of a class of n images ``round(share * n)`` are split off, at least one where n > 1, and at least one
    stays. Which ones depends on labels and seed alone. Both results are ascending.

    Args:
        labels: (N,) int64.
        share: of each class that is split off, in (0, 1).
        seed: of the choice.

    Returns:
        tuple[Tensor, Tensor]: int64 positions kept, and split off; together all of 0..N-1.

    Example:
        >>> kept, off = stratified_split(torch.tensor([0, 1] * 10), 0.1, seed=0)
        >>> len(kept), torch.tensor([0, 1] * 10)[off].sort().values.tolist()
        (18, [0, 1])
    """
    off = torch.zeros(len(labels), dtype=torch.bool)
    for positions in _shuffled_classes(labels, seed):
        off[positions[: min(max(1, round(share * len(positions))), len(positions) - 1)]] = True
    return torch.nonzero(~off).flatten(), torch.nonzero(off).flatten()


def balanced_limit(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Ascending positions of ``limit`` images, of each class as many as of the others as far as it has them.

    Convention: depends on labels, limit and seed alone; a smaller limit gives a subset of a larger one's. Classes get
    their images in turns, so that numbers differ by at most one between classes that are not used up.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
        >>> labels[balanced_limit(labels, 5, seed=0)].bincount().tolist()
        [2, 2, 1]
    """
    turn = torch.empty(len(labels), dtype=torch.int64)
    for positions in _shuffled_classes(labels, seed):
        turn[positions] = torch.arange(len(positions))
    order = torch.argsort(turn * (int(labels.max()) + 1 if len(labels) else 1) + labels)
    return order[:limit].sort().values


def _shuffled_classes(labels: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    groups = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    return [group[torch.randperm(len(group), generator=generator)] for group in groups]


def mean_and_std(part: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of images scaled to [0, 1].

    Convention: exact for a part in memory (from histograms of its bytes); for a part read on demand from up to 2,000
    images evenly spread over it. The standard deviation is at least 1/255: one colour everywhere
    must not divide by 0.

    Returns:
        two tuples with one float per channel.

    Example:
        >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> mean_and_std(ImageTensors(images, torch.zeros(2, dtype=torch.int64)))
        ((0.5,), (0.5,))
    """
    if isinstance(part, ImageTensors):
        images = part.images
    else:
        count = len(part)  # type: ignore[arg-type]
        spread = torch.linspace(0, count - 1, min(_SAMPLE, count), dtype=torch.float32).round().long().unique().tolist()
        images = torch.stack([part[index][0] for index in spread])
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for chunk in images.split(_CHUNK):
        for channel in range(images.shape[1]):
            counts[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    weights = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values
    std = (weights * (values - mean[:, None]) ** 2).sum(1).sqrt().clamp_min(1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


_LARGE_SIDE = 224  # images of mixed sizes get the side of ImageNet's recipes
_LOOKED_AT = 64  # files whose sizes are read to find the natural side


def decode(path: str | os.PathLike[str], side: int | None = None) -> Tensor:
    """One picture as a uint8 RGB tensor.

    Convention: read by the rules of every folder of pictures (`mixaug._pictures`): upright, 8 bits, transparency
    dropped, of an animation the first frame; grey becomes three equal channels. With ``side`` and another size: the
    largest centred square, resized (bilinear with antialiasing, whose filter reads a little beyond the cut).

    Args:
        path: the file.
        side: of the square result in pixels; None keeps the size.

    Returns:
        Tensor: (3, H, W) uint8.

    Raises:
        ValueError: the file cannot be read as a picture, or is of a depth that has no rule. The message names it.
    """
    return read_tensor(path, "RGB", side)


class FolderImages(Dataset[tuple[Tensor, int]]):
    """Pictures decoded when they are asked for: for folders that do not fit into memory.

    Args:
        paths: the files.
        labels: (N,) int64, one per file.
        side: of the square images returned, in pixels.
    """

    def __init__(self, paths: Sequence[str], labels: Tensor, side: int) -> None:
        # One array of bytes, not a list of objects: loader processes share it instead of copying it page by page.
        self._paths = np.array([os.fsencode(path) for path in paths])
        self.labels, self.side = labels, side

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return decode(os.fsdecode(self._paths[index]), self.side), int(self.labels[index])


class FileSource:
    """A source whose images are files.

    Args:
        paths: the files.
        labels: (N,) int64, one per file.
    """

    def __init__(self, paths: Sequence[str], labels: Tensor) -> None:
        self.paths, self.labels = paths, labels

    def subset(self, index: Tensor) -> FileSource:
        """The files at these positions."""
        return FileSource([self.paths[position] for position in index.tolist()], self.labels[index])

    def natural_side(self) -> int:
        """The files' side when up to 64 of them, evenly spread, are squares of one size; else 224."""
        count = len(self.paths)
        places = torch.linspace(0, count - 1, min(_LOOKED_AT, count), dtype=torch.float32)
        spread = places.round().long().unique()
        sizes = {tuple(decode(self.paths[position]).shape[1:]) for position in spread.tolist()}
        height, width = sizes.pop()
        return height if not sizes and height == width else _LARGE_SIDE

    def load(self, side: int) -> Part:
        """All files decoded by threads into one tensor, or on demand when that would be more than 2 GiB."""
        count = len(self.paths)
        if count * 3 * side * side > MEMORY_LIMIT:
            return FolderImages(self.paths, self.labels, side)
        pictures = torch.empty(count, 3, side, side, dtype=torch.uint8)

        def fill(position: int) -> None:
            pictures[position] = decode(self.paths[position], side)

        # Pillow lets go of the interpreter while it reads and decodes.
        with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 2)) as pool:
            try:
                for _ in pool.map(fill, range(count)):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)  # a broken picture is reported now, not after the others are read
                raise
        return ImageTensors(pictures, self.labels)


def scan(root: Path) -> tuple[FileSource, FileSource | None, FileSource | None, tuple[str, ...]]:
    """The parts of a tree: train, validation and test sources (None: to be split off) and the names of the classes.

    Convention: a tree either has ``train/`` (and possibly ``val/`` or ``validation/``, and ``test/``) with one folder
    per class in each, or is itself one folder per class. Classes are train's folders in alphabetical order, pictures
    are found at any depth and ordered by path; hidden names are passed over, links are followed (`mixaug._pictures`).
    A ``test/`` without train's class folders has no labels and is left out (ImageNet, Tiny-ImageNet). Where there is no
    labelled ``test/``, ``val/`` *is* the test part, as papers report it, and the validation part has to come off train.
    Tiny-ImageNet's ``val_annotations.txt`` is understood.

    Args:
        root: the tree.

    Raises:
        FileNotFoundError: there is no such folder. NotADirectoryError: it is a file.
        ValueError: no pictures, fewer than two classes, an empty class, or classes that train does not have; a folder
            that cannot be read; a folder or file that two classes or parts share, by links.
    """
    if not root.exists():
        raise FileNotFoundError(f"the image folder {root} does not exist")
    if not root.is_dir():
        raise NotADirectoryError(f"the image folder {root} is a file, not a folder")
    walk = FolderWalk()
    if not (root / "train").is_dir():
        classes = _class_folders(walk, root)
        everything = _labelled(walk, root, classes, complete=True)
        walk.warn_of_links()
        return everything, None, None, classes
    classes = _class_folders(walk, root / "train")
    train = _labelled(walk, root / "train", classes, complete=True)
    named = [root / name for name in ("val", "validation") if (root / name).is_dir()]
    if len(named) > 1:
        raise ValueError(f"{root} must have one validation folder, got both val and validation")
    validation = _optional(walk, named[0], classes) if named else None
    test = _optional(walk, root / "test", classes) if (root / "test").is_dir() else None
    walk.warn_of_links()
    if test is None:
        validation, test = None, validation
    return train, validation, test, classes


def _class_folders(walk: FolderWalk, folder: Path) -> tuple[str, ...]:
    classes = tuple(walk.subfolders(folder))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise ValueError(f"{folder} must have a folder of pictures for each of at least 2 classes, got {found}")
    return classes


def _labelled(walk: FolderWalk, folder: Path, classes: tuple[str, ...], complete: bool) -> FileSource:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        place = folder / name
        found = walk.pictures(place, owner=str(place)) if place.is_dir() else []
        if complete and not found:
            raise ValueError(f"the class folder {folder / name} has no pictures (endings: {', '.join(EXTENSIONS)})")
        paths += found
        labels += [label] * len(found)
    return FileSource(paths, torch.tensor(labels, dtype=torch.int64))


def _optional(walk: FolderWalk, folder: Path, classes: tuple[str, ...]) -> FileSource | None:
    """A validation or test folder; None when it has no labels."""
    annotations = folder / "val_annotations.txt"
    if annotations.is_file():
        return _annotated(walk, folder / "images", annotations, classes)
    present = walk.subfolders(folder)
    if not set(present) & set(classes):
        return None
    unknown = [name for name in present if name not in classes]
    if unknown:
        raise ValueError(f"{folder} must have train's classes only, got {', '.join(unknown[:5])}")
    source = _labelled(walk, folder, classes, complete=False)
    if not source.paths:
        raise ValueError(f"{folder} has no pictures")
    return source


def _annotated(walk: FolderWalk, folder: Path, annotations: Path, classes: tuple[str, ...]) -> FileSource:
    """Tiny-ImageNet's validation part: one folder, and a table of file name and class."""
    numbers = {name: label for label, name in enumerate(classes)}
    paths, labels = [], []
    for line in sorted(annotations.read_text().splitlines()):
        name, label, *_ = [*line.split("\t"), "", ""]
        if label not in numbers:
            raise ValueError(f"{annotations} must name train's classes, got {label!r} in the line {line!r}")
        paths.append(str(folder / name))
        walk.claim(paths[-1], owner=str(folder))
        labels.append(numbers[label])
    return FileSource(paths, torch.tensor(labels, dtype=torch.int64))
