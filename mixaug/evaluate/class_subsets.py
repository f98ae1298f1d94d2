"""Folders of pictures whose classes are some of a model's, as ImageNet-R and -A, and folders without classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import DatasetFolder
from torchvision.transforms import v2

from mixaug._checks import MAX_SIDE, check_int
from mixaug._pictures import EXTENSIONS, FolderWalk, read_picture

__all__ = ["ClassSubsetFolder", "PictureFolder"]

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
        for name, index in classes.items():
            if not isinstance(name, str):
                raise TypeError(f"classes must map names of folders to indices, got {name!r}")
            check_int(f"classes[{name!r}]", index, 0)
        return dict(classes)
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise TypeError(
            f"classes must be names in the order of the model's logits, or a mapping, got {type(classes).__name__}"
        )
    indices = {name: index for index, name in enumerate(classes)}
    if len(indices) != len(classes):
        twice = next(name for index, name in enumerate(classes) if indices[name] != index)
        raise ValueError(f"classes must be different names, got {twice!r} twice")
    return indices
