"""How corrupted sets lie on disk: .npy files as of CIFAR-C, and trees of pictures as of ImageNet-C."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixaug._pictures import FolderWalk, read_tensor
from mixaug.evaluate.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES

#: What a set of ours says about itself, and the format of that.
ABOUT = "corrupted_set.json"
FORMAT = 1
#: The corruptions that a set may hold, in the benchmark's order.
KNOWN = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)


class ArrayLayout:
    """A folder of .npy files: the published CIFAR-C, or a set of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about = read_about(path)
        self.kind = "saved" if self.about else "cifar-c"
        self.names = tuple(name for name in KNOWN if (path / f"{name}.npy").exists())
        if self.about:
            missing = [name for name in self.about["names"] if name not in self.names]
            if missing:
                raise ValueError(f"{path} is unfinished, {', '.join(missing)} missing: run save_corrupted again")
        self.severities = tuple(self.about["severities"]) if self.about else SEVERITIES
        self._arrays = {name: _open(path / f"{name}.npy") for name in self.names}
        whole = _read(path / "labels.npy")
        if whole.ndim != 1 or whole.dtype.kind not in "iu":
            raise ValueError(f"{path / 'labels.npy'} must hold integers (S N,), got {whole.dtype} {whole.shape}")
        first = self._arrays[self.names[0]]
        rows, levels = len(first), len(self.severities)
        if rows % levels:
            raise ValueError(f"{path / self.names[0]}.npy must hold the same number of images for {levels} severities, "
                             f"got {rows} in all")  # fmt: skip
        count = rows // levels
        for name, array in self._arrays.items():
            if array.shape != first.shape:
                raise ValueError(
                    f"{path / name}.npy must have the shape of {self.names[0]}.npy, {first.shape}, got {array.shape}"
                )
        if len(whole) not in (count, rows):
            raise ValueError(f"{path / 'labels.npy'} must hold {rows} labels (or {count}), got {len(whole)}")
        labels = torch.from_numpy(whole.astype(np.int64))
        if len(whole) == rows and not labels.view(levels, count).eq(labels[:count]).all():
            raise ValueError(f"{path / 'labels.npy'} must repeat the same {count} labels for each severity")
        self.labels = labels[:count].clone()
        channels = first.shape[3] if first.ndim == 4 else 1
        self.image_shape: tuple[int, int, int] = (channels, first.shape[1], first.shape[2])

    def read(self, name: str, severity: int, index: Tensor) -> Tensor:
        at = self.severities.index(severity) * len(self.labels) + index
        images = torch.from_numpy(np.array(self._arrays[name][at.numpy()]))
        return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


class TreeLayout:
    """NAME/SEVERITY/CLASS/FILE, the names perhaps below groups."""

    kind = "imagenet-c"

    def __init__(self, path: Path, classes: Mapping[str, int] | None) -> None:
        self.about: dict[str, Any] = {}
        self._folders: dict[str, Path] = {}
        walk = FolderWalk()
        groups = [path / name for name in walk.subfolders(path)]
        for folder in [*groups, *(group / name for group in groups for name in walk.subfolders(group))]:
            if folder.name in KNOWN and (folder / "1").is_dir():
                self._folders.setdefault(folder.name, folder)
        if not self._folders:
            raise ValueError(
                f"{path} must hold NAME.npy files or NAME/SEVERITY/CLASS folders of corruptions such as "
                f"{', '.join(CORRUPTIONS[:3])}; found none"
            )
        self.names = tuple(name for name in KNOWN if name in self._folders)
        self.severities = tuple(s for s in SEVERITIES if (self._folders[self.names[0]] / str(s)).is_dir())
        first = self._folders[self.names[0]] / str(self.severities[0])
        self._classes = walk.subfolders(first)
        for name in self.names:
            for severity in self.severities:
                folder = self._folders[name] / str(severity)
                if not folder.is_dir():
                    raise ValueError(f"{folder} is missing: {self.names[0]} has severity {severity}")
                if (found := walk.subfolders(folder)) != self._classes:
                    raise ValueError(
                        f"{folder} must have the {len(self._classes)} classes of {first}, got {len(found)}"
                    )
        walk.warn_of_links()
        if classes is not None and (unknown := [name for name in self._classes if name not in classes]):
            raise ValueError(f"classes must give a label for each of {first}, missing {unknown[0]!r}")
        self._lists: dict[tuple[str, int], list[str]] = {}
        self._first = (self.names[0], self.severities[0])
        files = self._files(*self._first)
        if not files:
            raise ValueError(f"{first} must hold images in folders of classes, got none")
        number = classes if classes is not None else {name: label for label, name in enumerate(self._classes)}
        self.labels = torch.tensor([number[file.partition("/")[0]] for file in files])
        channels, height, width = read_tensor(first / files[0]).shape
        self.image_shape: tuple[int, int, int] = (channels, height, width)

    def _files(self, name: str, severity: int) -> list[str]:
        """CLASS/FILE of each image; listed at the first use, a whole tree has some millions."""
        if (name, severity) not in self._lists:
            folder = self._folders[name] / str(severity)
            walk = FolderWalk()
            found = [
                Path(file).relative_to(folder).as_posix()
                for label in self._classes
                for file in walk.pictures(folder / label, owner=label)
            ]
            walk.warn_of_links()
            if (expected := self._lists.get(self._first)) not in (None, found):
                raise ValueError(
                    f"{folder} must hold the {len(expected or [])} images of {'/'.join(map(str, self._first))} "
                    f"by the same names, got {len(found)}"
                )
            self._lists[name, severity] = found
        return self._lists[name, severity]

    def read(self, name: str, severity: int, index: Tensor) -> Tensor:
        folder, files = self._folders[name] / str(severity), self._files(name, severity)
        paths = [folder / files[i] for i in index.tolist()]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            images = list(pool.map(read_tensor, paths))
        for path, image in zip(paths, images, strict=True):
            if image.shape != self.image_shape:
                raise ValueError(
                    f"images must have one size, got {tuple(image.shape)} in {path} and {self.image_shape} before"
                )
        return torch.stack(images) if images else torch.empty(0, *self.image_shape, dtype=torch.uint8)


def checked_index(index: Tensor, count: int) -> Tensor:
    """An index as int64 on the CPU, if every entry is a position among ``count``.

    Raises:
        TypeError: no integer tensor.
        ValueError: not one axis.
        IndexError: a position outside.

    Example:
        >>> checked_index(torch.tensor([1, 0]), 2)
        tensor([1, 0])
    """
    if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool:
        raise TypeError(f"index must be an integer tensor, got {getattr(index, 'dtype', type(index).__name__)}")
    if index.ndim != 1:
        raise ValueError(f"index must have shape (n,), got {tuple(index.shape)}")
    index = index.detach().cpu().long()
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= count):
        raise IndexError(f"index must be in 0 to {count - 1}, got {int(index.min())} to {int(index.max())}")
    return index


def read_about(path: Path) -> dict[str, Any]:
    """What a set of ours says about itself; empty for a published folder.

    Raises:
        ValueError: a file that cannot be read, or of another format.
    """
    file = path / ABOUT
    if not file.exists():
        return {}
    try:
        about = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{file} must have format {FORMAT}; it is of another version or no such file")
    return about


def _read(path: Path, mmap: bool = False) -> np.ndarray:
    if not path.exists():
        raise ValueError(f"{path} is missing: a set of .npy files has its labels there")
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as .npy: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} must hold one array, got {type(array).__name__}")
    return array


def _open(path: Path) -> np.ndarray:
    array = _read(path, mmap=True)
    if array.dtype != np.uint8:
        raise ValueError(f"{path} must be uint8, got {array.dtype}")
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)) or 0 in array.shape:
        raise ValueError(f"{path} must have shape (S N, H, W, 3) or (S N, H, W), got {array.shape}")
    return array
