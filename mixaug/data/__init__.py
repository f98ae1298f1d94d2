"""The images that come with the package: a subset of Fashion-MNIST, and the default mixing set for small images.

Licences and origins are in ``NOTICE.md``.
"""

from __future__ import annotations

import lzma
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "EMBEDDED_CLASSES",
    "EmbeddedData",
    "has_pictures",
    "load_embedded",
    "load_pictures",
    "pack_pictures",
    "unpack_pictures",
]

EMBEDDED_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class EmbeddedData(NamedTuple):
    """The four tensors of the embedded subset, in the order train images, train labels, test images, test labels."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_embedded() -> EmbeddedData:
    """The embedded subset of Fashion-MNIST: 5,000 images to train on and 1,000 to test on.

    Of each of the 10 classes the first 500 images of the original training file and the first 100 of the original test
    file, in the order of those files. Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for
    Benchmarking Machine Learning Algorithms", 2017, arXiv:1708.07747; MIT licence, see ``NOTICE.md``.

    Convention: nothing is random, no network is used, each call returns fresh tensors (about 5 MB, 0.1 s).

    Shape: images uint8 (5000, 1, 28, 28) and (1000, 1, 28, 28), 0 is black background; labels int64 (5000,) and
        (1000,) in 0..9, named by ``EMBEDDED_CLASSES``.

    Returns:
        EmbeddedData: the named tuple of the four tensors.

    Raises:
        OSError: the file is missing from the installed package or damaged; the message says to install again.

    Note:
        The subset is made by ``benchmarks/make_embedded_data.py`` from the original files.

    Example:
        >>> data = load_embedded()
        >>> data.train_images.shape, data.test_labels.bincount().tolist()
        (torch.Size([5000, 1, 28, 28]), [100, 100, 100, 100, 100, 100, 100, 100, 100, 100])
    """
    source = files("mixaug.data").joinpath("fashion_mnist_subset.npz")
    try:
        with source.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return EmbeddedData(
            torch.from_numpy(arrays["train_images"]).unsqueeze(1),
            torch.from_numpy(arrays["train_labels"].astype(np.int64)),
            torch.from_numpy(arrays["test_images"]).unsqueeze(1),
            torch.from_numpy(arrays["test_labels"].astype(np.int64)),
        )
    except Exception as error:  # zipfile, zlib and numpy each raise their own kind for a damaged file
        raise OSError(f"the embedded images {source} cannot be read ({error}); install mixaug again") from error


def has_pictures(stem: str) -> bool:
    """Whether the pictures of a set come ready with the package.

    Example:
        >>> has_pictures("fractals2-s256-seed0-n512-r36"), has_pictures("fractals-of-mine")
        (True, False)
    """
    return files("mixaug.data").joinpath(f"{stem}.xz").is_file()


def load_pictures(stem: str, shape: tuple[int, int, int, int]) -> Tensor | None:
    """Pictures of a mixing set that come ready with the package, or None where these do not.

    Args:
        stem: of the set's cache file, which names source, version, number, size and seed.
        shape: ``(N, 3, S, S)``.

    Returns:
        uint8 ``(N, 3, S, S)``, the very pictures that would be made.

    Raises:
        OSError: the file is damaged; the message says to install again.

    Note:
        The files are made by ``benchmarks/make_ready_pictures.py``. 512 pictures of 36 px, for images of 32 px, are
        1.3 MB and take 0.1 s.

    Example:
        >>> load_pictures("fractals-of-mine", (4, 3, 36, 36)) is None
        True
    """
    if not has_pictures(stem):
        return None
    source = files("mixaug.data").joinpath(f"{stem}.xz")
    try:
        return unpack_pictures(source.read_bytes(), shape)
    except (ValueError, lzma.LZMAError, EOFError) as error:
        raise OSError(f"the ready pictures {source} cannot be read ({error}); install mixaug again") from error


def pack_pictures(pictures: Tensor) -> bytes:
    """Compresses uint8 ``(N, 3, S, S)`` without loss: two thirds of their size for 512 fractals of 36 px.

    Red and blue are kept as differences to green, and each value as that to the plane through the ones to the left,
    above, and above on the left, modulo 256. That is what two running sums undo.

    Example:
        >>> pictures = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
        >>> torch.equal(unpack_pictures(pack_pictures(pictures), (2, 3, 5, 5)), pictures)
        True
    """
    values = pictures.numpy().copy()
    values[:, ::2] -= values[:, 1:2]
    for axis in (2, 3):
        values = np.diff(values, axis=axis, prepend=np.uint8(0))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
    return lzma.compress(values.tobytes(), filters=filters)


def unpack_pictures(data: bytes, shape: tuple[int, int, int, int]) -> Tensor:
    """The pictures that :func:`pack_pictures` compressed.

    Raises:
        ValueError: pictures of another shape.
        lzma.LZMAError: damaged data.

    Example:
        >>> unpack_pictures(pack_pictures(torch.full((1, 3, 2, 2), 7, dtype=torch.uint8)), (1, 3, 2, 2)).unique()
        tensor([7], dtype=torch.uint8)
    """
    values = np.frombuffer(lzma.decompress(data), np.uint8).reshape(shape)
    for axis in (3, 2):
        values = np.cumsum(values, axis=axis, dtype=np.uint8)
    values[:, ::2] += values[:, 1:2]
    return torch.from_numpy(values)
