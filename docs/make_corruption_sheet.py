"""Makes the contact sheets of the corruptions: all 19 at severities 1 to 5, for both presets.

    python docs/make_corruption_sheet.py [--photo FILE ...] [--out FOLDER]

draws a scene of its own (sky, hills, a house, text, fine lines), or takes the photo given, cut to a square.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch
from torch import Tensor

from mixaug.evaluate.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, OURS, SEVERITIES, corrupt

IMAGES = Path(__file__).parent / "images"
NAMES = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
#: Side of the picture by preset, of a cell on the sheet, and room for a name and a line of severities.
SIDES, CELL, LABEL, HEAD, GAP = {"cifar": 32, "imagenet": 224}, 96, 150, 24, 4
WEIGHT = 600_000


def scene(side: int = 448) -> PIL.Image.Image:
    """A picture with smooth parts, edges, text and fine detail in many colours."""
    y, x = np.mgrid[:side, :side] / side
    sky = np.stack([110 + 90 * y, 160 + 60 * y, 225 - 10 * y], 2)
    generator = np.random.default_rng(0)
    hills = 0.62 + 0.06 * np.sin(7 * x) + 0.03 * np.sin(19 * x + 1)
    grass = np.stack([60 + 60 * x, 120 + 40 * y, 45 + 30 * x], 2) + generator.normal(0, 14, (side, side, 1))
    picture = PIL.Image.fromarray(np.clip(np.where((y > hills)[..., None], grass, sky), 0, 255).astype(np.uint8))
    draw = PIL.ImageDraw.Draw(picture)
    unit = side / 100
    at = lambda *points: [p * unit for p in points]  # noqa: E731
    draw.ellipse(at(76, 8, 92, 24), fill=(255, 235, 120))
    draw.rectangle(at(16, 44, 54, 82), fill=(196, 88, 62))
    draw.polygon(at(11, 45, 35, 24, 59, 45), fill=(82, 58, 62))
    draw.rectangle(at(29, 62, 39, 82), fill=(60, 40, 32))
    for left in (19, 43):
        draw.rectangle(at(left, 52, left + 8, 60), fill=(235, 240, 250), outline=(40, 40, 40), width=int(unit))
    draw.rectangle(at(76, 50, 79, 86), fill=(92, 62, 40))
    draw.ellipse(at(64, 28, 91, 58), fill=(34, 96, 52))
    for line in range(8):
        draw.line(at(60, 88 + line * 1.4, 98, 84 + line * 1.8), fill=(240, 240, 240) if line % 2 else (30, 30, 30))
    draw.text(at(20, 86), "mixaug", fill=(255, 255, 255), font=PIL.ImageFont.load_default(size=int(9 * unit)))
    return picture


def square(picture: PIL.Image.Image, side: int) -> Tensor:
    """The middle of a picture, ``(1, 3, side, side)`` uint8."""
    width, height = picture.size
    least = min(width, height)
    left, top = (width - least) // 2, (height - least) // 2
    cut = picture.convert("RGB").crop((left, top, left + least, top + least))
    array = np.array(cut.resize((side, side), PIL.Image.Resampling.LANCZOS))
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def sheet(picture: PIL.Image.Image, preset: str) -> PIL.Image.Image:
    """Rows of corruptions, columns of severities; the clean picture first."""
    image = square(picture, SIDES[preset])
    columns, rows = len(SEVERITIES) + 1, len(NAMES)
    size = (LABEL + columns * (CELL + GAP), HEAD + rows * (CELL + GAP))
    page = PIL.Image.new("RGB", size, "white")
    draw, font = PIL.ImageDraw.Draw(page), PIL.ImageFont.load_default(size=14)
    for column, head in enumerate(("clean", *(f"severity {s}" for s in SEVERITIES))):
        draw.text((LABEL + column * (CELL + GAP) + 4, 4), head, fill="black", font=font)
    for row, name in enumerate(NAMES):
        top = HEAD + row * (CELL + GAP)
        note = "\n(our texture)" if name in OURS else ""
        draw.text((6, top + CELL // 2 - 16), name.replace("_", " ") + note, fill="black", font=font)
        for column, severity in enumerate((0, *SEVERITIES)):
            generator = torch.Generator().manual_seed(row)
            made = corrupt(image, name, severity, preset, generator) if severity else image
            cell = PIL.Image.fromarray(made[0].permute(1, 2, 0).contiguous().numpy())
            how = PIL.Image.Resampling.NEAREST if SIDES[preset] < CELL else PIL.Image.Resampling.BOX
            page.paste(cell.resize((CELL, CELL), how), (LABEL + column * (CELL + GAP), top))
    return page


def save(page: PIL.Image.Image, path: Path) -> int:
    """As PNG of as many levels a channel as fit into 600 kB (a palette would turn skies green); returns the bytes."""
    array = np.asarray(page).astype(int)
    for step in (1, 4, 8, 12, 16, 20, 24):
        levels = np.minimum((array + step // 2) // step * step, 255).astype(np.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(levels).save(file, "PNG", optimize=True)
        if file.tell() <= WEIGHT:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
    return file.tell()


def main() -> None:
    parser = argparse.ArgumentParser(description="Contact sheets of the corruptions")
    parser.add_argument("--photo", type=Path, help="a picture in place of the scene")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the sheets")
    args = parser.parse_args()
    picture = PIL.Image.open(args.photo) if args.photo else scene()
    for preset in SIDES:
        path = args.out / f"corruptions_{preset}.png"
        print(f"{path}: {save(sheet(picture, preset), path):,} bytes")


if __name__ == "__main__":
    main()
