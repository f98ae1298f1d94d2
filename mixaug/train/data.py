"""Data sets by name, as three parts: train, validation and test."""

from __future__ import annotations

import difflib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixaug._checks import ABOVE_ZERO, MAX_COUNT, MAX_SIDE, check_int, check_number, check_seed
from mixaug.train.images import (
    ImageTensors,
    Part,
    Source,
    TensorSource,
    balanced_limit,
    mean_and_std,
    stratified_split,
)

__all__ = ["DATA_SETS", "DataParts", "ImageTensors", "load_data"]

DATA_SETS = ("embedded", "digits", "fashion-mnist", "mnist", "cifar10", "cifar100", "svhn")
DATA_VARIABLE = "MIXAUG_DATA"
_FOLDER = "folder:"
_TEST_SHARE = 0.1  # of data that come without a test part
_DIGITS_SIDE = 32  # 8x8 pixels are too few for any of the networks

_Loaded = tuple[Source, Source | None, Source | None, tuple[str, ...]]


@dataclass(frozen=True)
class DataParts:
    """A data set in three parts that share no image, and what a model has to know of it.

    Attributes:
        train: to train on; also what ``mean`` and ``std`` are measured on.
        validation: to choose on (checkpoints, settings).
        test: to report on, once.
        classes: their names; label i is ``classes[i]``.
        name: the name it was loaded by, a folder's with its absolute path.
        channels: of the images, 1 or 3.
        image_size: side of the square images in pixels.
        mean: of each channel, images in [0, 1].
        std: of each channel.
        held_out: files of validation and test, if it is a folder: no training may read them.

    Each part has a length and gives ``(image (C, H, W) uint8, label int)`` by position; ``labels`` holds all its
    labels. Parts in memory are :class:`ImageTensors` with ``images`` (N, C, H, W) uint8 and ``labels`` (N,) int64.
    """

    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]
    name: str
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    held_out: tuple[str, ...] = ()


def load_data(
    name: str = "embedded",
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    validation: float = 0.1,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> DataParts:
    """A data set by name, split into train, validation and test.

    Convention: the original test part is never touched. The validation part is a share of the original training part,
    equal for every class, chosen by ``seed`` alone; so runs with different seeds of their own share it. Data without a
    test part (digits, a folder of class folders) give 10% to it in the same way. A tree with its own ``val/`` and
    ``test/`` keeps both. Nothing is fetched unless ``download`` is set, and never what is there already.

    Args:
        name: one of ``DATA_SETS`` or "folder:PATH", a tree with a folder per class (rules:
            :func:`mixaug.train.images.scan`).
        root: folder of downloaded data; default ``$MIXAUG_DATA``, else ``data`` in the user's cache folder of mixaug.
        download: fetch a missing data set with torchvision. Default False.
        validation: share of the training images (of all images where there is no test part) in the validation part, in
            (0, 0.5]; default 0.1.
        image_size: side in pixels that the images are resized to; default as they are. Digits (8x8) are enlarged to 32,
            and folders of pictures of several sizes are cut to centred squares and resized to 224.
        limit: at most so many training images, the same number of each class; default all. Validation and test keep
            theirs.
        seed: of split and limit; default 0.

    Returns:
        DataParts: parts in memory as uint8; a part of more than 2 GiB is decoded or resized on demand.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown name, a number out of range, a folder without a class tree, a broken picture (named).
        FileNotFoundError: a missing copy (the message has the command that fetches it) or folder.
        OSError: the download failed.
        ImportError: a package that digits or svhn need is missing.

    Example:
        >>> data = load_data("embedded", limit=1000)
        >>> len(data.train), len(data.validation), len(data.test), data.image_size
        (1000, 500, 1000, 28)
    """
    _check_name(name)
    validation, seed = check_number("validation", validation, ABOVE_ZERO, 0.5), check_seed("seed", seed)
    image_size = None if image_size is None else check_int("image_size", image_size, 1, MAX_SIDE)
    limit = None if limit is None else check_int("limit", limit, 1, MAX_COUNT)
    folder = Path(root).expanduser() if root is not None else data_folder()
    train, held_out, test, classes = _load(name, folder, download)
    share = validation
    if test is None:
        kept, off = stratified_split(train.labels, _TEST_SHARE, seed)
        train, test = train.subset(kept), train.subset(off)
        share /= 1 - _TEST_SHARE
    if held_out is None:
        kept, off = stratified_split(train.labels, share, seed + 1)
        train, held_out = train.subset(kept), train.subset(off)
    for part, source in (("validation", held_out), ("test", test)):
        if not len(source.labels):
            raise ValueError(f"{name} has too few images for a {part} part: every class has only one")
    if limit is not None and limit < len(train.labels):
        train = train.subset(balanced_limit(train.labels, limit, seed))
    side = image_size or train.natural_side()
    training = train.load(side)
    mean, std = mean_and_std(training)
    if name.startswith(_FOLDER):
        name = f"{_FOLDER}{Path(name.removeprefix(_FOLDER)).expanduser().absolute()}"
    files = tuple(path for part in (held_out, test) for path in getattr(part, "paths", ()))
    return DataParts(training, held_out.load(side), test.load(side), classes, name, len(mean), side, mean, std, files)


def data_folder() -> Path:
    """Where downloads are kept: ``$MIXAUG_DATA`` when set, else ``data`` in mixaug's cache folder of this system."""
    override = os.environ.get(DATA_VARIABLE)
    if override:
        return Path(override).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("mixaug", appauthor=False)) / "data"


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    if name not in DATA_SETS and not name.startswith(_FOLDER):
        close = difflib.get_close_matches(name.lower().replace("_", "-"), DATA_SETS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        if Path(name).is_dir():
            hint = f"for the folder of that name type folder:{name}. "
        raise ValueError(
            f"name must be a known data set, got {name!r}; {hint}Known: {', '.join(DATA_SETS)}, folder:PATH"
        )
    if name.startswith(_FOLDER) and not name.removeprefix(_FOLDER):
        raise ValueError(f"name must have a path after 'folder:', got {name!r}")


def _load(name: str, folder: Path, download: bool) -> _Loaded:
    if name.startswith(_FOLDER):
        from mixaug.train.images import scan

        return scan(Path(name.removeprefix(_FOLDER)).expanduser())
    if name == "embedded":
        from mixaug.data import EMBEDDED_CLASSES, load_embedded

        data = load_embedded()
        train = TensorSource(data.train_images, data.train_labels)
        return train, None, TensorSource(data.test_images, data.test_labels), EMBEDDED_CLASSES
    if name == "digits":
        return _digits()
    train_set, test_set = (_torchvision(name, folder, download, train=part) for part in (True, False))
    return _tensors(train_set), None, _tensors(test_set), _classes(name, train_set)


def _digits() -> _Loaded:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the data set digits needs scikit-learn: pip install 'mixaug[train]'") from error
    digits = load_digits()
    grey = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return TensorSource(grey, labels, side=_DIGITS_SIDE), None, None, tuple("0123456789")


def _torchvision(name: str, folder: Path, download: bool, train: bool) -> Any:
    """One part of a torchvision data set; the network only when the copy is missing and ``download`` says so."""
    from torchvision import datasets

    makers = {
        "fashion-mnist": datasets.FashionMNIST,
        "mnist": datasets.MNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "svhn": datasets.SVHN,
    }
    # SVHN's files lie directly in the folder they are given.
    location = str(folder / "svhn" if name == "svhn" else folder)
    part: dict[str, Any] = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}

    def load(fetch: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what NumPy says of how these archives were pickled is not the user's
            return makers[name](location, download=fetch, **part)

    try:
        return load(False)
    except ModuleNotFoundError as error:
        raise ImportError(f"the data set {name} needs scipy: pip install 'mixaug[train]'") from error
    except (RuntimeError, OSError) as missing:
        if not download:
            raise FileNotFoundError(
                f"{name} is not in {folder}, or the copy there is damaged. To fetch it type: mixaug train --data "
                f"{name} --download; to use a copy elsewhere: --root FOLDER. "
                f"In Python: load_data({name!r}, download=True)"
            ) from missing
    try:
        return load(True)
    except (RuntimeError, OSError) as error:
        raise OSError(f"{name} could not be downloaded to {folder}: {error}") from error


def _tensors(data: Any) -> TensorSource:
    """Images (N, C, H, W) and labels of a torchvision data set, whichever of its four layouts it uses."""
    images = torch.as_tensor(data.data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    labels: Tensor = torch.as_tensor(np.asarray(data.labels if hasattr(data, "labels") else data.targets))
    return TensorSource(images.contiguous(), labels.long())


def _classes(name: str, data: Any) -> tuple[str, ...]:
    if name in ("svhn", "mnist"):  # MNIST's own names read "0 - zero"
        return tuple("0123456789")
    return tuple(data.classes)
