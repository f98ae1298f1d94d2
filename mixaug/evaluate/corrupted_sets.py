"""Corrupted sets on disk: ours are saved and read again, CIFAR-C folders and ImageNet-C trees are read as published."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mixaug
from mixaug._checks import check_choice, check_choices, check_seed
from mixaug._files import atomic_path
from mixaug._pictures import as_bytes
from mixaug.evaluate._choices import seed_of
from mixaug.evaluate.corruptions import CORRUPTIONS, PRESETS, SEVERITIES, corrupt
from mixaug.evaluate.corruptions.layouts import (
    ABOUT,
    FORMAT,
    KNOWN,
    ArrayLayout,
    TreeLayout,
    checked_index,
    read_about,
)
from mixaug.evaluate.images import LabelledImages, fingerprint

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
