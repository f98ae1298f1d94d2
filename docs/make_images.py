"""Makes the pictures of the README and the docs: ``python docs/make_images.py``.

The photographs are scikit-learn's sample images (china.jpg and flower.jpg, by danielbuechele, CC BY 2.0, see
scikit-learn's datasets/images/README.txt); the small ones are the Fashion-MNIST images in the package.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mixaug import IPMix
from mixaug.train.data import load_data

IMAGES = Path(__file__).parent / "images"


def photographs() -> Tensor:
    """The two sample images, cropped to squares of 224 pixels: uint8 (2, 3, 224, 224)."""
    squares = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    return torch.stack([F.resize(F.center_crop(image, [420, 420]), [224, 224], antialias=True) for image in squares])


def fashion(count: int) -> Tensor:
    """Images of the package as RGB, so that the pictures' colours show: uint8 (count, 3, 28, 28)."""
    train = load_data("embedded").train
    return torch.stack([train[i][0] for i in range(count)]).expand(-1, 3, -1, -1).contiguous()


def rows_of(images: Tensor, ipmix: IPMix, columns: int, seed: int) -> list[list[Tensor]]:
    """Each image, then its variants."""
    generator = torch.Generator().manual_seed(seed)
    variants = [ipmix.replay(images, ipmix.sample(images, generator=generator)) for _ in range(columns - 1)]
    return [[image, *(variant[row] for variant in variants)] for row, image in enumerate(images)]


def draw(rows: list[list[Tensor]], path: Path, inch: float = 1.5) -> None:
    """A plain grid: the first column is titled 'image', the second 'IPMix'."""
    height, width = len(rows), len(rows[0])
    figure = Figure(figsize=(inch * width, inch * height + 0.25), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(height, width, squeeze=False)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            axis = axes[row][column]
            axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_axis_off()
            if row == 0 and column < 2:
                axis.set_title(("image", "IPMix")[column], fontsize=10, loc="left")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Writes every picture."""
    IMAGES.mkdir(exist_ok=True)
    rows = rows_of(photographs(), IPMix(), 7, seed=8)
    rows += rows_of(fashion(1), IPMix(), 7, seed=1)
    draw(rows, IMAGES / "ipmix.png")


if __name__ == "__main__":
    main()
