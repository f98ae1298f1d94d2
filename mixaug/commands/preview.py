"""``mixaug preview``: a grid of images before and after with what was drawn: operations of chains, boxes, or masks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mixaug.commands._arguments import number_or_range

if TYPE_CHECKING:
    import torch

    from mixaug import GeneratedMix
    from mixaug.adautomix import MixDraw, SavedGenerator
    from mixaug.adautomix.figure import Mixture
    from mixaug.train.data import DataParts


TRANSFORMS = ("ipmix", "dynamic-mixcut", "adautomix")
#: Images of the largest mixture of adautomix.
_MOST = 5
#: Options and the transforms that have them.
_OWNERS = {
    "severity": ("ipmix",), "structure": ("ipmix",), "mixing_set": ("ipmix",), "boxes": ("dynamic-mixcut",),
    "rows": ("ipmix", "dynamic-mixcut"), "checkpoint": ("adautomix",),
}  # fmt: skip
_HEADINGS = {
    "ipmix": "IPMix: the image, and variants with its weight (above) and the operations of each chain (below)",
    "dynamic-mixcut": "Dynamic MixCut: the image, and variants with its weight (above), its partners and boxes (below)",
}


@dataclass(frozen=True)
class Variant:
    """A column of the grid.

    Args:
        images: ``(B, C, H, W)`` uint8.
        weight: of the unchanged image in each, ``(B,)``.
        lines: what was drawn for each.
        boxes: to be outlined, ``(B, N, 4)`` XYXY; None: none.
    """

    images: torch.Tensor
    weight: torch.Tensor
    lines: list[list[str]]
    boxes: torch.Tensor | None = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--data", default="embedded", help="a data set's name or folder:PATH (default embedded)")
    parser.add_argument("--root", type=Path, help="where data sets are kept")
    parser.add_argument("--transform", choices=TRANSFORMS, default="ipmix", help="what to show (default ipmix)")
    parser.add_argument("--rows", type=int, help="ipmix, dynamic-mixcut: images shown (default 6)")
    parser.add_argument("--columns", type=int, help="augmented variants of each (default 4; adautomix 2)")
    parser.add_argument("--severity", type=float, help="ipmix: strength of the operations (default by image size)")
    parser.add_argument("--structure", help="ipmix: chain (default), linear or mixed_input")
    parser.add_argument(
        "--mixing-set", metavar="NAME", help="ipmix: fractals, ifs, ..., a folder, or several with commas, as in train"
    )
    parser.add_argument("--boxes", type=number_or_range, help="dynamic-mixcut: boxes an image, or 1,3 (default 2)")
    parser.add_argument("--checkpoint", type=Path, help="adautomix: generator.pt of a run, whose mixtures are shown")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same picture (default 0)")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="PNG file (default preview.png)")


def run(options: argparse.Namespace) -> int:
    """Writes the grid."""
    import torch

    from mixaug.train.data import load_data

    for name in ("rows", "columns"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}")
    for name, owners in _OWNERS.items():
        if getattr(options, name) is not None and options.transform not in owners:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} must be used with --transform {' or '.join(owners)}, got {options.transform}")
    if options.transform == "adautomix":
        return write_mixtures(options)
    rows, columns = options.rows or 6, options.columns or 4
    data = load_data(options.data, root=options.root)
    generator = torch.Generator().manual_seed(options.seed)
    chosen = torch.randperm(len(cast(Sized, data.train)), generator=generator)[:rows].tolist()
    samples = [data.train[i] for i in chosen]
    images = torch.stack([image for image, _ in samples])
    names = [data.classes[int(label)] for _, label in samples]
    make = _of_ipmix if options.transform == "ipmix" else _of_mixcut
    variants = make(images, options, columns, generator)
    if options.transform == "dynamic-mixcut":
        names = [f"image {row}: {name}" for row, name in enumerate(names)]
    draw_grid(images, names, variants, _HEADINGS[options.transform], options.out)
    sys.stdout.write(f"{options.out}: {len(images)} images of {data.name}, {columns} variants each\n")
    return 0


def _of_ipmix(
    images: torch.Tensor, options: argparse.Namespace, columns: int, generator: torch.Generator
) -> list[Variant]:
    from mixaug import IPMix
    from mixaug.mixing_sets.named import mixing_set_of

    pictures = None if options.mixing_set is None else mixing_set_of(options.mixing_set)
    ipmix = IPMix(severity=options.severity, structure=options.structure or "chain", mixing_set=pictures)
    records = [ipmix.sample(images, generator=generator) for _ in range(columns)]
    rows = range(len(images))
    return [Variant(ipmix.replay(images, one), 1 - one.m, [one.describe(row) for row in rows]) for one in records]


def _of_mixcut(
    images: torch.Tensor, options: argparse.Namespace, columns: int, generator: torch.Generator
) -> list[Variant]:
    import torch

    from mixaug import DynamicMixCut

    mix = DynamicMixCut(num_classes=1, boxes=2 if options.boxes is None else options.boxes)
    labels, rows = torch.zeros(len(images), dtype=torch.int64), range(len(images))
    records = [mix.sample(images, generator=generator) for _ in range(columns)]
    return [
        Variant(mix.replay(images, labels, one)[0], one.lam, [one.describe(row) for row in rows], one.boxes)
        for one in records
    ]


def draw_grid(images: torch.Tensor, names: list[str], variants: list[Variant], heading: str, path: Path) -> None:
    """Writes a PNG with a row an image: the image and its label, then its variants with what was drawn for them.

    Args:
        images: ``(B, C, H, W)`` uint8.
        names: label of each image.
        variants: the other columns.
        heading: above the grid.
        path: PNG file, written whole or not at all.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "mixaug[train]"') from error
    from mixaug._files import atomic_path

    rows, columns = len(images), len(variants) + 1
    figure = Figure(figsize=(2.3 * columns, 3.0 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        _show(axes[row][0], images[row])
        axes[row][0].set_title(names[row], fontsize=11, fontweight="bold", loc="left")
        for column, variant in enumerate(variants, 1):
            axis = axes[row][column]
            _show(axis, variant.images[row])
            axis.set_title(f"image {float(variant.weight[row]):.2f}", fontsize=8, loc="left", color="#555555")
            axis.set_xlabel("\n".join(_wrap(line) for line in variant.lines[row]), fontsize=6.5, loc="left")
            for x0, y0, x1, y1 in [] if variant.boxes is None else variant.boxes[row].tolist():
                # Pixels are drawn around their centres.
                outline = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="#e4572e")
                axis.add_patch(outline)
    figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _show(axis, image: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
    pixels = image.permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        axis.imshow(pixels[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        axis.imshow(pixels, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])


def _wrap(line: str, width: int = 38) -> str:
    import textwrap

    return textwrap.fill(line, width, subsequent_indent="         ")


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
