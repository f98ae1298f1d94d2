"""Image folders: trees with a folder per class, as ImageNet, Tiny-ImageNet and one's own pictures come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixaug._pictures import EXTENSIONS, FolderWalk, read_tensor
from mixaug.train import images as _images
from mixaug.train.images import ImageTensors, Part

__all__ = ["FileSource", "FolderImages", "decode", "scan"]

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
        if count * 3 * side * side > _images.MEMORY_LIMIT:
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
