"""Makes the pictures of docs/mixing_sets.md: contact sheets, kinds, and how rich the sources are beside photographs.

    python docs/make_mixing_set_images.py [--natural FOLDER] [--only NAME ...] [--out FOLDER]

``--natural`` is a folder of natural pictures (CIFAR-10 as files); 2,000 of them and the photographs that come with
scikit-learn and scikit-image are measured again. Of these only histograms are kept, in ``measures.json``; without the
option the figure is drawn with the ones that are there. The table of the page is written anew.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mixaug._files import atomic_path
from mixaug.mixing_sets import SOURCES, make_pictures, richness
from mixaug.mixing_sets.richness import spectral_slope
from mixaug.mixing_sets.sources import source_of

PAGE = Path(__file__).parent / "mixing_sets.md"
IMAGES = PAGE.parent / "images" / "mixing_sets"
SEED, CELL, GAP = 0, 96, 2
#: Most bytes of a sheet.
WEIGHT = 400_000
#: Pictures of a source that are measured, their side, and that of the squares of photographs.
COUNT, SIZE, SQUARE = 512, 128, 256
#: Key of a measure, its name, and the range and number of its bins; what lies outside counts in the outer ones.
MEASURES = {
    "entropy": ("entropy, bits of 5", 2.0, 5.0, 24),
    "edges": ("edge density", 0.0, 1.0, 24),
    "colours": ("colour spread, grey levels", 0.0, 160.0, 24),
    "slope": ("slope of the power spectrum", -5.0, 1.0, 24),
}
PHOTOGRAPHS, SMALL = "photographs", "CIFAR-10"
COLOURS = ("#1f5fa8", "#2a8a4a", "#b06a00", "#7a4fa3", "#b0304a")


# --- sheets ------------------------------------------------------------------------------------------------------


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """The pictures row by row, with white lines between them."""
    n, _, side, _ = pictures.shape
    rows = -(-n // columns)
    step = side + GAP
    page = np.full((rows * step - GAP, columns * step - GAP, 3), 255, np.uint8)
    for i, picture in enumerate(pictures.permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * step, i % columns * step
        page[top : top + side, left : left + side] = picture
    return Image.fromarray(page)


def kinds_page(columns: int = 8, side: int = 88) -> Image.Image:
    """A row of pictures for each kind of each source, in two columns."""
    rows = [(name, kind) for name in SOURCES for kind in source_of(name).kinds]
    half = -(-len(rows) // 2)
    label, step = 118, side + GAP
    width = label + columns * step + 12
    page = Image.new("RGB", (2 * width, half * step), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for row, (name, kind) in enumerate(rows):
        left, top = row // half * width, row % half * step
        words = f"{source_of(name).title}\n{kind}".replace("-", "-\n", 1) if len(kind) > 14 else f"{name}\n{kind}"
        draw.text((left, top + side // 2 - 18), words, fill="black", font=font)
        strip = grid(make_pictures(name, columns, side, SEED, kinds=kind), columns)
        page.paste(strip, (left + label, top))
    return page


def save_jpeg(page: Image.Image, path: Path) -> int:
    """With the highest quality from 92 down that fits into 400 kB; returns the bytes."""
    for quality in range(92, 40, -2):
        file = io.BytesIO()
        page.save(file, "JPEG", quality=quality, optimize=True, subsampling=0 if quality > 84 else 2)
        if file.tell() <= WEIGHT:
            break
    with atomic_path(path) as temporary:
        temporary.write_bytes(file.getvalue())
    return file.tell()


# --- measures ----------------------------------------------------------------------------------------------------


def measured(pictures: Tensor) -> dict[str, Tensor]:
    """The four measures of each picture."""
    found = richness(pictures)
    return {
        "entropy": found.entropy,
        "edges": found.edges,
        "colours": found.colours,
        "slope": spectral_slope(pictures),
    }


def summarised(values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Histogram, median, 5th and 95th percentile of each measure."""
    summary = {}
    for key, (_, low, high, bins) in MEASURES.items():
        each = values[key][~values[key].isnan()].numpy()
        counts, _ = np.histogram(np.clip(each, low, high), bins, (low, high))
        five, median, ninety_five = (round(float(v), 3) for v in np.percentile(each, (5, 50, 95)))
        summary[key] = {"counts": counts.tolist(), "p5": five, "median": median, "p95": ninety_five}
    return summary


def photographs() -> Tensor:
    """Squares of 256 px of six photographs, 64 px apart: uint8 (N, 3, 256, 256)."""
    import skimage
    import sklearn.datasets

    ours = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png")
    images = [np.asarray(Image.open(ours / name).convert("RGB")) for name in names]
    images += sklearn.datasets.load_sample_images().images
    squares = []
    for image in images:
        for top in range(0, image.shape[0] - SQUARE + 1, SQUARE // 4):
            for left in range(0, image.shape[1] - SQUARE + 1, SQUARE // 4):
                squares.append(
                    torch.from_numpy(image[top : top + SQUARE, left : left + SQUARE].copy()).permute(2, 0, 1)
                )
    return torch.stack(squares)


def small_pictures(folder: Path, count: int = 2_000) -> Tensor:
    """Pictures of one size, evenly spread over the files of a folder: uint8 (count, 3, H, W).

    Raises:
        ValueError: the folder holds no pictures.
    """
    paths = sorted(path for path in folder.expanduser().rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise ValueError(f"--natural must be a folder with PNG or JPEG pictures, got {folder}")
    chosen = paths[:: max(len(paths) // count, 1)][:count]
    return torch.stack([torch.from_numpy(np.array(Image.open(p).convert("RGB"))).permute(2, 0, 1) for p in chosen])


def draw_histograms(measures: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A row for each source, a column for each measure; natural pictures as lines."""
    from matplotlib.figure import Figure

    names = [name for name in SOURCES if name in measures]
    figure = Figure(figsize=(12.5, 1.55 * len(names) + 0.7), layout="constrained", facecolor="white")
    axes = figure.subplots(len(names), len(MEASURES), squeeze=False, sharex="col")
    lines = {PHOTOGRAPHS: ("#111111", "-"), SMALL: ("#111111", ":")}
    for row, name in enumerate(names):
        for column, (key, (title, low, high, bins)) in enumerate(MEASURES.items()):
            axis, edges = axes[row][column], np.linspace(low, high, bins + 1)
            shares = _shares(measures[name][key]["counts"])
            axis.stairs(shares, edges, fill=True, color=COLOURS[row], alpha=0.55, label=source_of(name).title)
            for natural, (colour, style) in lines.items():
                if natural in measures:
                    shares = _shares(measures[natural][key]["counts"])
                    axis.stairs(shares, edges, color=colour, linestyle=style, linewidth=1.1, label=natural)
            axis.set_yticks([])
            axis.set_xlim(low, high)
            axis.tick_params(labelsize=8, length=2)
            axis.spines[["top", "right", "left"]].set_visible(False)
            if row == 0:
                axis.set_title(title, fontsize=9, loc="left")
        axes[row][0].set_ylabel(source_of(name).title, fontsize=10)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles[1:], labels[1:], ncols=2, fontsize=9, frameon=False, loc="outside lower center")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})


def _shares(counts: Sequence[int]) -> np.ndarray:
    values = np.asarray(counts, float)
    return values / values.sum()


def table(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """Median, and in brackets the 5th to the 95th percentile, in Markdown."""
    lines = ["| | " + " | ".join(title for title, *_ in MEASURES.values()) + " |", "|---" * 5 + "|"]
    for name, each in measures.items():
        cells = []
        for key in MEASURES:
            low, middle, high = (each[key][part] for part in ("p5", "median", "p95"))
            places = {"colours": 0, "edges": 2}.get(key, 1)
            cells.append(f"{middle:.{places}f} [{low:.{places}f}, {high:.{places}f}]")
        lines.append(f"| {name.replace('-', ' ') if name in SOURCES else name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(page: str, lines: str) -> str:
    """The page with its table of measures replaced."""
    start = page.index(lines.partition("\n")[0])
    return page[:start] + lines + page[page.index("\n\n", start) :]


def main() -> None:
    """Writes every picture, measures.json and the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--natural", type=Path, help="folder of natural pictures that are measured again")
    parser.add_argument("--only", nargs="+", choices=[*SOURCES, "kinds", "histograms"], help="just these")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = options.only or [*SOURCES, "kinds", "histograms"]
    for name in SOURCES:
        if name in wanted:
            path = options.out / f"{name}.jpg"
            size = save_jpeg(grid(make_pictures(name, 64, CELL, SEED), 8), path)
            sys.stdout.write(f"{path}: {size:,} bytes\n")
    if "kinds" in wanted:
        path = options.out / "kinds.jpg"
        sys.stdout.write(f"{path}: {save_jpeg(kinds_page(), path):,} bytes\n")
    if "histograms" in wanted:
        kept = options.out / "measures.json"
        measures = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        sources = {name: summarised(measured(make_pictures(name, COUNT, SIZE, SEED))) for name in SOURCES}
        natural = {name: measures[name] for name in (PHOTOGRAPHS, SMALL) if name in measures}
        if options.natural is not None:
            natural = {
                PHOTOGRAPHS: summarised(measured(photographs())),
                SMALL: summarised(measured(small_pictures(options.natural))),
            }
        measures = {**sources, **natural}
        with atomic_path(kept) as temporary:
            temporary.write_text(json.dumps(measures) + "\n", encoding="utf-8")
        draw_histograms(measures, options.out / "histograms.png")
        if options.out == IMAGES:
            PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(measures)), encoding="utf-8")
        sys.stdout.write(table(measures) + "\n")


if __name__ == "__main__":
    main()
