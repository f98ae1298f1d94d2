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
        draws = [sample_mix(_MOST, law, generator) for _ in range(columns)]
        rows.append(_row(mix, images, labels, draws, data.classes))
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


def _row(
    mix: GeneratedMix, images: torch.Tensor, labels: torch.Tensor, draws: list[MixDraw], names: tuple[str, ...]
) -> list[Mixture]:
    """For each draw, which has a batch of its own, the mixture of its first image."""
    import torch

    from mixaug.adautomix.figure import Mixture
    from mixaug.evaluate.measures.activation_maps import class_activation_maps

    batches = list(zip(images.split(_MOST), labels.split(_MOST), draws, strict=True))
    mixed = torch.stack([mix.replay(*batch)[0][0] for batch in batches])
    classes = torch.stack([known[draw.index[0]] for _, known, draw in batches])
    maps = class_activation_maps(mix.teacher.model, mixed, classes)
    return [
        Mixture(
            pictures[draw.index[0]],
            [names[label] for label in classes[column].tolist()],
            draw.ratios[0],
            mix.masks(pictures, draw)[0],
            mixed[column],
            maps[column],
        )
        for column, (pictures, _, draw) in enumerate(batches)
    ]
