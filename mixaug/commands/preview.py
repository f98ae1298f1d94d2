"""``mixaug preview``: a before/after grid with labels and the operations of each chain."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch

    from mixaug.ops.ipmix_record import IPMixParams
    from mixaug.transforms import IPMix

TRANSFORMS = ("ipmix",)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--data", default="embedded", help="a data set's name or folder:PATH (default embedded)")
    parser.add_argument("--root", type=Path, help="where data sets are kept")
    parser.add_argument("--transform", choices=TRANSFORMS, default="ipmix", help="what to show (default ipmix)")
    parser.add_argument("--rows", type=int, default=6, help="images shown (default 6)")
    parser.add_argument("--columns", type=int, default=4, help="augmented variants of each (default 4)")
    parser.add_argument("--severity", type=float, help="strength of the operations (default by image size)")
    parser.add_argument("--structure", default="chain", help="chain, linear or mixed_input")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same picture (default 0)")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="PNG file (default preview.png)")


def run(options: argparse.Namespace) -> int:
    """Writes the grid."""
    import torch

    from mixaug import IPMix
    from mixaug.train.data import load_data

    for name in ("rows", "columns"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}")
    data = load_data(options.data, root=options.root)
    generator = torch.Generator().manual_seed(options.seed)
    chosen = torch.randperm(len(cast(Sized, data.train)), generator=generator)[: options.rows].tolist()
    samples = [data.train[i] for i in chosen]
    images = torch.stack([image for image, _ in samples])
    names = [data.classes[int(label)] for _, label in samples]
    ipmix = IPMix(severity=options.severity, structure=options.structure)
    records = [ipmix.sample(images, generator=generator) for _ in range(options.columns)]
    draw_grid(images, names, ipmix, records, options.out)
    sys.stdout.write(f"{options.out}: {len(images)} images of {data.name}, {options.columns} variants each\n")
    return 0


def draw_grid(images: torch.Tensor, names: list[str], ipmix: IPMix, records: list[IPMixParams], path: Path) -> None:
    """Writes a PNG with a row an image: the image and its label, then a variant a record with its operations.

    Args:
        images: ``(B, C, H, W)`` uint8.
        names: label of each image.
        ipmix: the transform that drew the records.
        records: one for each column, each of ``B`` rows.
        path: PNG file, written whole or not at all.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "mixaug[train]"') from error
    from mixaug._files import atomic_path

    variants = [ipmix.replay(images, record) for record in records]
    rows, columns = len(images), len(records) + 1
    figure = Figure(figsize=(2.3 * columns, 3.0 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        _show(axes[row][0], images[row])
        axes[row][0].set_title(names[row], fontsize=11, fontweight="bold", loc="left")
        for column, (variant, record) in enumerate(zip(variants, records, strict=True), 1):
            axis = axes[row][column]
            _show(axis, variant[row])
            axis.set_title(f"image {1 - float(record.m[row]):.2f}", fontsize=8, loc="left", color="#555555")
            axis.set_xlabel("\n".join(_wrap(line) for line in record.describe(row)), fontsize=6.5, loc="left")
    figure.suptitle(
        "IPMix: the image, and variants with the weight of the image (above) and of each chain's operations (below)",
        fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
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
