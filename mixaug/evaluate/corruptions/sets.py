"""How corrupted sets lie on disk: .npy files as of CIFAR-C, and trees of pictures as of ImageNet-C."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mixaug
from mixaug._checks import check_choice, check_choices, check_seed
from mixaug._files import atomic_path
from mixaug._pictures import FolderWalk, as_bytes, read_tensor
from mixaug.evaluate.corruptions import PRESETS, corrupt
from mixaug.evaluate.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES
from mixaug.evaluate.images import LabelledImages, fingerprint
from mixaug.evaluate.seeds import seed_of

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


#: Images are corrupted in blocks of this size, each with a seed of its own, as in an evaluation: the same pictures.
BLOCK = 256


def save_corrupted(
    dataset: Any,
    folder: str | Path,
    *,
    preset: str = "cifar",
    names: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    index: Tensor | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Writes the corruptions of a data set in the layout of the published CIFAR-C, to be read by :class:`CorruptedSet`.

    ``NAME.npy`` is uint8 ``(S N, H, W, 3)``, grey ``(S N, H, W)``, the severities one after another; ``labels.npy``
    is int64 ``(S N,)``. A JSON file beside them keeps preset, seed, versions and a hash of the clean images.

    Convention:
        A file is whole or absent: one that is there is kept, so that a killed run goes on where it was, and further
        corruptions can be added later. The pictures are those that an evaluation with this seed makes by itself.

    Args:
        dataset: as :class:`~mixaug.evaluate.images.LabelledImages` takes it; 1 or 3 channels.
        folder: made if it is missing.
        preset: ``"cifar"`` or ``"imagenet"``.
        names: which corruptions; default the 15 of the benchmark.
        severities: of 1 to 5, default all.
        index: ``(n,)`` int64, which images; default all.
        seed: of the random parts.
        progress: is called with a line after each corruption.

    Returns:
        the folder.

    Raises:
        TypeError: a data set or index of another kind.
        ValueError: an unknown name, preset or severity, saturate for grey images, or a folder that holds another set.
        IndexError: an index outside of the data set.

    Example:
        >>> import tempfile
        >>> images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
        >>> folder = save_corrupted((images, torch.arange(4)), tempfile.mkdtemp(), names=["fog", "contrast"])
        >>> CorruptedSet(folder).names
        ('fog', 'contrast')
    """
    chosen = check_choices("names", CORRUPTIONS if names is None else names, KNOWN)
    names = tuple(name for name in KNOWN if name in chosen)
    severities = _chosen("severities", severities, SEVERITIES)
    preset, seed = check_choice("preset", preset, PRESETS), check_seed("seed", seed)
    data = LabelledImages(dataset)
    index = torch.arange(len(data)) if index is None else checked_index(index, len(data))
    if len(index) == 0:
        raise ValueError("index must hold 1 image or more, got 0")
    first, _ = data.take(index[:1])
    channels = first.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"dataset images must have 1 or 3 channels, got {channels}")
    if channels == 1 and "saturate" in names:
        raise ValueError("names must not have 'saturate' for grey images: it needs colour")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = _about(data, index, preset, severities, seed)
    _write_about(folder, about, names)
    _write_labels(folder / "labels.npy", data, index, len(severities))
    shape = (len(severities) * len(index), *first.shape[2:], *([3] if channels == 3 else []))
    for name in names:
        path = folder / f"{name}.npy"
        if not path.exists():
            with atomic_path(path) as temporary:
                stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
                for level, severity in enumerate(severities):
                    for block, (images, _) in enumerate(data.blocks(index, BLOCK)):
                        generator = torch.Generator().manual_seed(seed_of(seed, name, severity, block))
                        made = corrupt(as_bytes(images), name, severity, preset, generator)
                        at = level * len(index) + block * BLOCK
                        stored[at : at + len(made)] = (
                            made[:, 0] if channels == 1 else made.permute(0, 2, 3, 1)
                        ).numpy()
                stored.flush()
                del stored
        if progress is not None:
            progress(name)
    return folder


class CorruptedSet:
    """A corrupted set on disk: one of ours, a published CIFAR-C folder, or an ImageNet-C tree.

    Convention:
        Of a ``.npy`` file only what is asked for is read. ImageNet-C trees are ``NAME/SEVERITY/CLASS/FILE``, also below
        the published groups (``blur``, ``noise``, ``weather``, ``digital``, ``extra``); classes count in the order of
        their names; grey files are read as RGB.

    Args:
        path: the folder.
        classes: for a tree, folder name of a class to its label; default their order. A tree of some of ImageNet's
            classes needs it.

    Attributes:
        kind: ``"saved"``, ``"cifar-c"`` or ``"imagenet-c"``.
        names: the corruptions that are there, in the benchmark's order.
        severities: those that every corruption has.
        image_shape: ``(C, H, W)``.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a folder that is none of the three, or is unfinished; files that cannot be read, that disagree in
            their number or size of images, or that are not uint8.

    Example:
        >>> import tempfile
        >>> images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
        >>> folder = save_corrupted((images, torch.arange(4)), tempfile.mkdtemp(), names=["fog"])
        >>> made = CorruptedSet(folder)
        >>> images, labels = made.take("fog", 5, torch.tensor([3, 0]))
        >>> len(made), tuple(images.shape), labels.tolist()
        (4, (2, 3, 8, 8), [3, 0])
    """

    kind: str
    names: tuple[str, ...]
    severities: tuple[int, ...]
    image_shape: tuple[int, int, int]

    def __init__(self, path: str | Path, classes: Mapping[str, int] | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"path must be a folder with a corrupted set, found none at {self.path}")
        self._source: ArrayLayout | TreeLayout
        if any((self.path / f"{name}.npy").exists() for name in KNOWN) or (self.path / ABOUT).exists():
            if classes is not None:
                raise ValueError(f"classes must be None for a set of .npy files such as {self.path}")
            self._source = ArrayLayout(self.path)
        else:
            self._source = TreeLayout(self.path, classes)
        self.kind, self.names = self._source.kind, self._source.names
        self.severities, self.image_shape = self._source.severities, self._source.image_shape

    def __len__(self) -> int:
        """Images of one corruption and severity."""
        return len(self._source.labels)

    def labels(self) -> Tensor:
        """int64 ``(N,)``."""
        return self._source.labels.clone()

    def take(self, name: str, severity: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images of one corruption and severity.

        Args:
            name: of ``names``.
            severity: of ``severities``.
            index: ``(n,)`` int64.

        Returns:
            uint8 ``(n, C, H, W)`` and int64 ``(n,)``.

        Raises:
            TypeError: an index of another kind.
            ValueError: a corruption or severity that is not there; a file that cannot be read or has another size.
            IndexError: an index outside of the set.
        """
        name = check_choice(f"name (in {self.path})", name, self.names)
        if severity not in self.severities:
            raise ValueError(f"severity must be one of {list(self.severities)} in {self.path}, got {severity!r}")
        index = checked_index(index, len(self))
        return self._source.read(name, severity, index), self._source.labels[index]

    def description(self) -> dict[str, Any]:
        """What a report notes: folder, kind, size, a hash of the labels, and of a saved set how it was made."""
        return {
            "folder": str(self.path.resolve()),
            "kind": self.kind,
            "corruptions": list(self.names),
            "severities": list(self.severities),
            "images": len(self),
            "shape": list(self.image_shape),
            "labels_sha256": fingerprint({"labels": self._source.labels}),
            **({"made": self._source.about} if self._source.about else {}),
        }


def _chosen(argument: str, values: Sequence[Any], known: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{argument} must be a sequence, got {type(values).__name__} {values!r}")
    for value in values:
        if value not in known:
            raise ValueError(f"{argument} must be of {', '.join(map(str, known))}; got {value!r}")
    if not values or len(set(values)) != len(values):
        raise ValueError(f"{argument} must be one or more different ones, got {list(values)}")
    return tuple(value for value in known if value in values)


def _about(data: LabelledImages, index: Tensor, preset: str, severities: tuple[int, ...], seed: int) -> dict[str, Any]:
    digest = hashlib.sha256()
    for images, labels in data.blocks(index, BLOCK):
        digest.update(fingerprint({"images": as_bytes(images), "labels": labels}).encode())
    return {
        "format": FORMAT,
        "preset": preset,
        "severities": list(severities),
        "seed": seed,
        "images": len(index),
        "clean_sha256": digest.hexdigest(),
    }


def _write_about(folder: Path, about: dict[str, Any], names: tuple[str, ...]) -> None:
    """Notes what the folder will hold before anything is in it; what an earlier call promised is still promised."""
    before = read_about(folder)
    if before:
        for key, value in about.items():
            if before.get(key) != value:
                raise ValueError(
                    f"folder must be empty or hold the same set, got {folder} with {key} {before.get(key)!r} "
                    f"in place of {value!r}"
                )
    elif any((folder / f"{name}.npy").exists() for name in (*KNOWN, "labels")):
        raise ValueError(f"folder must be empty or hold a set of ours, got {folder} with .npy files of another origin")
    promised = tuple(name for name in KNOWN if name in names or name in before.get("names", ()))
    versions = {"mixaug": mixaug.__version__, "torch": torch.__version__, "python": platform.python_version()}
    whole = {**about, "names": list(promised), "versions": before.get("versions", versions)}
    with atomic_path(folder / ABOUT) as temporary:
        temporary.write_text(json.dumps(whole, indent=1) + "\n")


def _write_labels(path: Path, data: LabelledImages, index: Tensor, times: int) -> None:
    if not path.exists():
        labels = torch.cat([labels for _, labels in data.blocks(index, BLOCK)]).numpy()
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.tile(labels, times))
