"""Make ``mixaug/data/fashion_mnist_subset.npz`` from the four original Fashion-MNIST files.

    python benchmarks/make_embedded_data.py FOLDER

FOLDER (searched with its subfolders) holds ``train-images-idx3-ubyte.gz``, ``train-labels-idx1-ubyte.gz``,
``t10k-images-idx3-ubyte.gz`` and ``t10k-labels-idx1-ubyte.gz``, as published by Zalando, as Debian's package
``dataset-fashion-mnist`` installs them or as ``mixaug train --data fashion-mnist --download`` keeps them.

The rule: of each class the first 500 images of the original training file and the first 100 of the original test file,
in the order of the original files. Nothing is drawn at random and nothing is chosen by looking; test stays test. The
same input and zlib give the same bytes: the archive carries no time.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
from pathlib import Path

import numpy as np

from mixaug._files import atomic_path

TRAIN_PER_CLASS = 500
TEST_PER_CLASS = 100
CLASSES = 10
TARGET = Path(__file__).resolve().parents[1] / "mixaug" / "data" / "fashion_mnist_subset.npz"


def read_idx(path: Path) -> np.ndarray:
    """The unsigned bytes of one gzip-compressed IDX file, in the shape its header states."""
    content = gzip.decompress(path.read_bytes())
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4]!r}")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], dtype=">u4").astype(np.int64)
    if len(content) - start != int(shape.prod()):
        raise ValueError(f"{path} states the shape {tuple(shape)} and holds {len(content) - start} bytes")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(tuple(shape))


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Ascending positions of the first ``count`` labels of each class."""
    picks = [np.flatnonzero(labels == label)[:count] for label in range(CLASSES)]
    for label, pick in enumerate(picks):
        if len(pick) < count:
            raise ValueError(f"class {label} has {len(pick)} images, {count} are needed")
    return np.sort(np.concatenate(picks))


def find(folder: Path, name: str) -> Path:
    """The file ``name`` in ``folder`` or below it."""
    found = sorted(folder.rglob(name))
    if not found:
        raise FileNotFoundError(f"{name} is not in {folder} nor in a folder below it")
    return found[0]


def make(folder: Path, target: Path) -> str:
    """Writes the archive and returns its SHA-256."""
    arrays = {}
    for part, prefix, count in (("train", "train", TRAIN_PER_CLASS), ("test", "t10k", TEST_PER_CLASS)):
        images = read_idx(find(folder, f"{prefix}-images-idx3-ubyte.gz"))
        labels = read_idx(find(folder, f"{prefix}-labels-idx1-ubyte.gz"))
        if len(images) != len(labels):
            raise ValueError(f"{part}: {len(images)} images and {len(labels)} labels in {folder}")
        pick = first_of_each_class(labels, count)
        arrays[f"{part}_images"] = images[pick]
        arrays[f"{part}_labels"] = labels[pick]
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def main() -> None:
    """Command line: the folder of the originals, and where the archive goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds the four original .gz files, at any depth")
    parser.add_argument("--out", type=Path, default=TARGET, help=f"default {TARGET}")
    options = parser.parse_args()
    digest = make(options.folder, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, sha256 {digest}")


if __name__ == "__main__":
    main()
