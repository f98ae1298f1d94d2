"""``mixaug preview --transform adautomix``: mixtures of 2 to 5 images by the generator of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sized
from dataclasses import replace
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch

    from mixaug import GeneratedMix
    from mixaug.adautomix import MixDraw, SavedGenerator
    from mixaug.adautomix.figure import Mixture
    from mixaug.train.data import DataParts

_MOST = 5  # images of a mixture


def write_mixtures(options: argparse.Namespace) -> int:
    """Writes a row for each number of images: mixtures of the same first image in each column.

    Args:
        options: of ``mixaug preview``.

    Raises:
        ValueError: no checkpoint, one of a model of the user's own, or data that does not fit it.
    """
    import torch

    from mixaug import GeneratedMix
    from mixaug.adautomix import read_generator, sample_mix
    from mixaug.adautomix.figure import draw_blocks
    from mixaug.train.data import load_data

    if options.checkpoint is None:
        raise ValueError("--checkpoint must be given with --transform adautomix: generator.pt of a run")
    saved = read_generator(options.checkpoint)
    data = load_data(options.data, root=options.root)
    columns, generator = options.columns or 2, torch.Generator().manual_seed(options.seed)
    chosen = torch.randperm(len(cast(Sized, data.train)), generator=generator)[: _MOST * columns].tolist()
    if len(chosen) < _MOST * columns:
        raise ValueError(f"--columns must be at most {len(chosen) // _MOST} for {len(chosen)} images, got {columns}")
    samples = [data.train[i] for i in chosen]
    images = torch.stack([image for image, _ in samples])
    labels = torch.tensor([int(label) for _, label in samples])
    _check_data(saved, data, images)
    mix = GeneratedMix(*saved.build(), num_classes=saved.num_classes)
    rows = []
    for n_mix in range(2, _MOST + 1):
        law = replace(saved.law, n_mix=n_mix)
        batches = [slice(_MOST * column, _MOST * (column + 1)) for column in range(columns)]
        rows.append(
            [
                _mixture(mix, images[part], labels[part], sample_mix(_MOST, law, generator), data.classes)
                for part in batches
            ]
        )
    heading = (
        f"AdAutoMix: mixtures of 2 to {_MOST} images of {data.name} by {options.checkpoint.name}, trained with "
        f"{saved.law.n_mix}"
    )
    draw_blocks(rows, options.out, heading)
    sys.stdout.write(f"{options.out}: mixtures of 2 to {_MOST} images of {data.name}, {columns} each\n")
    return 0


def _check_data(saved: SavedGenerator, data: DataParts, images: torch.Tensor) -> None:
    """Raises unless the generator's teacher knows such images and these classes."""
    if saved.spec is None:
        raise ValueError(
            "--checkpoint must be of a model that mixaug builds, got one of a model of the user's own: draw its "
            "mixtures with mixaug.adautomix.figure.draw_mixtures"
        )
    if images.shape[1] != saved.spec.in_channels:
        raise ValueError(
            f"--data must have the checkpoint's {saved.spec.in_channels} channels, got {data.name} with "
            f"{images.shape[1]}"
        )
    known = saved.classes or ()
    if len(data.classes) != saved.num_classes or (known and known != data.classes):
        names = f" ({', '.join(known[:3])}, ...)" if known else ""
        raise ValueError(
            f"--data must have the checkpoint's {saved.num_classes} classes{names}, got {data.name} with "
            f"{len(data.classes)} ({', '.join(data.classes[:3])}, ...)"
        )


def _mixture(
    mix: GeneratedMix, images: torch.Tensor, labels: torch.Tensor, draw: MixDraw, classes: tuple[str, ...]
) -> Mixture:
    """The mixture of the first image."""
    from mixaug.adautomix.figure import Mixture
    from mixaug.evaluate.activation_maps import class_activation_maps

    index, mixed = draw.index[0], mix.replay(images, labels, draw)[0][0]
    maps = class_activation_maps(mix.teacher.model, mixed[None], labels[index][None])[0]
    names = [classes[int(label)] for label in labels[index]]
    return Mixture(images[index], names, draw.ratios[0], mix.masks(images, draw)[0], mixed, maps)
