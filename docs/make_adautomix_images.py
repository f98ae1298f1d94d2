"""Makes the pictures of the card of AdAutoMix from trained generators.

    python docs/make_adautomix_images.py GENERATOR.pt [OTHER.pt ...] --data embedded|folder:PATH

``images/adautomix.png`` has mixtures of 2 to 5 test images by the first generator: sources, masks, the mixture, and
where the teacher sees each source's class in it. ``images/adautomix_shares.png`` has the share of the image that a
source's mask takes against its ratio, of a generator as it is initialised and of each that is given, by the names of
their folders. The files are the ``generator.pt`` of runs of ``mixaug train --method adautomix`` on the same data. Those
of the docs are of the study: ``RUNS/study_adautomix/{adautomix-s0,adautomix-s2,co-operative-s0,
shares-tied-to-the-ratios-s0}``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mixaug import GeneratedMix
from mixaug._files import atomic_path
from mixaug.adautomix import MixDraw, MixLaw, read_generator, sample_mix
from mixaug.adautomix.figure import Mixture, draw_blocks
from mixaug.evaluate.measures.activation_maps import class_activation_maps
from mixaug.nn import MixGenerator
from mixaug.train.data import DataParts, load_data

IMAGES = Path(__file__).parent / "images"
#: Images of a mixture: of the examples, of the scatter.
NUMBERS, SCATTERED = (2, 3, 4, 5), (2, 3)
#: The untrained generator, and those that are given.
GREY, BLUE = "#8a8a8a", "#2a6fb0"


@dataclass(frozen=True)
class Shares:
    """Ratios and what the masks make of them.

    Args:
        ratios: (B, N) that were asked for.
        shares: (B, N), means of the masks over the image.
        spread: (B, N), standard deviations of the masks over the image: 0 for a flat one.
    """

    ratios: Tensor
    shares: Tensor
    spread: Tensor

    @property
    def correlation(self) -> float:
        """Of share and ratio of the first source of each mixture: all of a mixture's are not independent."""
        both = torch.stack([self.ratios[:, 0], self.shares[:, 0]])
        return float(torch.corrcoef(both)[0, 1])


@torch.no_grad()
def mask_shares(generator_file: Path, images: Tensor, n: int, seed: int) -> dict[str, Shares]:
    """Share against ratio of a freshly initialised generator and of the trained one, for the same features and draws.

    Args:
        generator_file: ``generator.pt`` of a run.
        images: (B, C, H, W) uint8; a mixture is made for each.
        n: images of a mixture.
        seed: of the draws and of the fresh generator.

    Returns:
        the ``"untrained"`` and the ``"trained"`` one's.
    """
    trained, teacher = read_generator(generator_file).build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = MixGenerator(trained.channels)
    draw = sample_mix(len(images), MixLaw(n, per_image=True), torch.Generator().manual_seed(seed))
    features = torch.cat([teacher.features(part.float() / 255) for part in images.split(250)])
    found = {}
    for name, generator in (("untrained", untrained), ("trained", trained)):
        masks = torch.cat(
            [
                generator(features, ratios, (images.shape[2], images.shape[3]), index)
                for ratios, index in zip(draw.ratios.split(250), draw.index.split(250), strict=True)
            ]
        )
        found[name] = Shares(draw.ratios, masks.mean((2, 3)), masks.std((2, 3)))
    return found


def draw_shares(generator_files: Sequence[Path], images: Tensor, seed: int, path: Path) -> None:
    """Writes the scatter: a column for the untrained generator and for each file, a row for each N."""
    width = 2.25 * (len(generator_files) + 1)
    figure = Figure(figsize=(width, 2.6 * len(SCATTERED) + 0.2), layout="constrained", facecolor="white")
    axes = figure.subplots(len(SCATTERED), len(generator_files) + 1, sharex=True, sharey=True, squeeze=False)
    for line, n in zip(axes, SCATTERED, strict=True):
        found = [mask_shares(file, images, n, seed) for file in generator_files]
        columns = {"untrained": found[0]["untrained"]}
        for file, each in zip(generator_files, found, strict=True):
            name = "trained" if len(found) == 1 else file.absolute().parent.name
            columns[name] = each["trained"]
        for axis, (name, shares) in zip(line, columns.items(), strict=True):
            _scatter(axis, shares, GREY if name == "untrained" else BLUE)
            axis.set_title(
                f"N = {n}, {name}\nr = {shares.correlation:z.2f} (n = {len(shares.ratios):,})\n"
                f"within a mask ± {shares.spread.mean():.3f}",
                fontsize=8, loc="left",
            )  # fmt: skip
        line[0].set_ylabel("share of the mask", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("ratio", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _scatter(axis: Any, shares: Shares, colour: str) -> None:
    axis.plot([0, 1], [0, 1], color="#dddddd", linewidth=1, zorder=0)
    axis.plot(shares.ratios[:, 0], shares.shares[:, 0], ".", color=colour, markersize=3, alpha=0.5)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_aspect("equal")
    axis.tick_params(labelsize=8, length=0)
    axis.spines[["top", "right"]].set_visible(False)


def draw_examples(generator_file: Path, data: DataParts, name: str, seed: int, path: Path) -> None:
    """Writes one mixture for each N, of the same first image."""
    saved = read_generator(generator_file)
    mix = GeneratedMix(*saved.build(), num_classes=saved.num_classes)
    generator = torch.Generator().manual_seed(seed)
    # Five images of five classes: an activation map of a class that is there twice says little.
    classes = torch.randperm(len(data.classes), generator=generator)[: max(NUMBERS)]
    places = [_some(data, int(label), generator) for label in classes]
    images, labels = _taken(data, places)
    law = replace(saved.law, per_image=False)
    blocks = []
    for n in NUMBERS:
        draw = _draw(n, law, generator)
        mixed = mix.replay(images, labels, draw)[0][:1]
        index = draw.index[0]
        maps = class_activation_maps(mix.teacher.model, mixed, labels[index][None])[0]
        names = [data.classes[int(label)] for label in labels[index]]
        blocks.append(Mixture(images[index], names, draw.ratios[0], mix.masks(images, draw)[0], mixed[0], maps))
    heading = f"Mixtures of test images of {name}; the generator was trained with N = {saved.law.n_mix}"
    half = len(blocks) // 2
    draw_blocks([list(row) for row in zip(blocks[:half], blocks[half:], strict=True)], path, heading)


def _draw(n: int, law: MixLaw, generator: torch.Generator) -> MixDraw:
    """Mixtures of the images in their order; not one that is made with plain ratios, whose masks are none."""
    while True:
        draw = sample_mix(max(NUMBERS), replace(law, n_mix=n), generator)
        if not draw.plain.any():
            break
    index = (torch.arange(max(NUMBERS))[:, None] + torch.arange(n)) % max(NUMBERS)
    return replace(draw, index=index)


def _some(data: DataParts, label: int, generator: torch.Generator) -> int:
    """The place of a test image of a class."""
    places = (torch.as_tensor(cast(Any, data.test).labels) == label).nonzero()[:, 0]
    return int(places[torch.randint(len(places), (), generator=generator)])


def _taken(data: DataParts, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Test images and their labels."""
    pairs = [cast(Any, data.test)[place] for place in places]
    return torch.stack([image for image, _ in pairs]), torch.tensor([int(label) for _, label in pairs])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generators", type=Path, nargs="+", metavar="GENERATOR.pt", help="of runs on the same data")
    parser.add_argument("--data", default="embedded", help="embedded or folder:PATH (default embedded)")
    parser.add_argument("--name", default="Fashion-MNIST", help="of the data, in the heading (default Fashion-MNIST)")
    parser.add_argument("--mixtures", type=int, default=500, help="in the scatter, of test images (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of images and draws (default 0)")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures (default docs/images)")
    options = parser.parse_args()
    data = load_data(options.data, limit=1_000)  # nothing is trained here: of the test images all are read
    count = min(options.mixtures, len(cast(Any, data.test)))
    chosen = torch.randperm(len(cast(Any, data.test)), generator=torch.Generator().manual_seed(options.seed))
    images, _ = _taken(data, chosen[:count].tolist())
    options.out.mkdir(parents=True, exist_ok=True)
    draw_examples(options.generators[0], data, options.name, options.seed, options.out / "adautomix.png")
    draw_shares(options.generators, images, options.seed, options.out / "adautomix_shares.png")


if __name__ == "__main__":
    main()
