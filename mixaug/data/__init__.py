"""The images that come with the package: a subset of Fashion-MNIST (licence and origin in ``NOTICE.md``)."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["EMBEDDED_CLASSES", "EmbeddedData", "load_embedded"]

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
