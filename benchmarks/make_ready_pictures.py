"""Make the pictures of the default mixing set that come with the package, for images of 32 px.

    python benchmarks/make_ready_pictures.py

The default set shrunk to 36 px, the side that IPMix takes its patches from for 32-px images, compressed without loss:
``mixaug/data/*.xz``. Nothing is chosen: the pictures are those that a machine without the file makes, bit for bit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from mixaug import MixingSet
from mixaug._files import atomic_path
from mixaug.data import pack_pictures
from mixaug.mixing_sets.recipes import ResizedRecipe, SyntheticRecipe, resized_chunks

TARGET = Path(__file__).resolve().parents[1] / "mixaug" / "data"
SIDE = 36


def main() -> int:
    pictures = MixingSet.default().pictures
    recipe = ResizedRecipe(SyntheticRecipe("fractals", len(pictures), pictures.shape[-1], 0), SIDE)
    data = pack_pictures(torch.cat(list(resized_chunks(pictures, SIDE))))
    path = TARGET / f"{recipe.stem}.xz"
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    sys.stdout.write(f"{path}: {len(data):,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
