"""``mixaug mixing-set``: synthetic pictures as PNG files, with a contact sheet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

#: The sources that this version makes.
SOURCES = ("fractals",)
SHEET = "contact-sheet.png"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("source", choices=SOURCES, help="what to make")
    parser.add_argument("--count", type=int, default=512, help="number of pictures (default %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same pictures (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the PNG files, made if it is missing")


def run(options: argparse.Namespace) -> int:
    """Makes the pictures; files that are there already are kept, so a stopped run goes on where it was."""
    from PIL import Image

    from mixaug._files import atomic_path
    from mixaug.mixing_sets import MixingSet

    pictures = MixingSet.fractals(options.count, options.size, options.seed)
    width = len(str(options.count - 1))
    written = 0
    for index in range(len(pictures)):
        target = options.out / f"{options.source}-s{options.seed}-{options.size}px-{index:0{width}d}.png"
        if target.exists():
            continue
        with atomic_path(target) as temporary:
            Image.fromarray(pictures[index].permute(1, 2, 0).numpy()).save(temporary, format="PNG")
        written += 1
    with atomic_path(options.out / SHEET) as temporary:
        pictures.preview().save(temporary, format="PNG")
    kept = len(pictures) - written
    sys.stdout.write(
        f"{written} pictures of {options.size} px written to {options.out}"
        f"{f' ({kept} were there)' if kept else ''}; overview: {options.out / SHEET}\n"
    )
    return 0
