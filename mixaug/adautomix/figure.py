"""Pictures of mixtures: the sources with their ratios, the masks with their shares, and what becomes of them."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixaug._checks import optional_import
from mixaug._drawing import overlay
from mixaug._files import atomic_path
from mixaug.adautomix.mixing import MixDraw

__all__ = ["Mixture", "draw_blocks", "draw_mixtures"]

_TILE = 112  # pixels of a tile's longer side, about; smaller images are enlarged by a whole factor
_NARROWEST = 92  # pixels that a tile's text needs
_GAP, _MARGIN, _LINE = 8, 12, 14
_DPI = 100
_LETTER = 5.6  # pixels, about, of the text above a tile
_PARTS = "Above: the sources with their ratios. Below them: the masks with their share of the image, dark 0, bright 1."
_MAPS = " Below those: where the teacher sees the source's class in the mixture."


@dataclass(frozen=True)
class Mixture:
    """One mixture to be drawn.

    Args:
        sources: (N, C, H, W), bytes or floating in [0, 1].
        names: of the N sources.
        ratios: (N,).
        masks: (N, H, W).
        mixed: (C, H, W), as the sources.
        maps: (N, H, W) in [0, 1], class activation maps of the mixture for the sources' classes; None: not shown.
    """

    sources: Tensor
    names: Sequence[str]
    ratios: Tensor
    masks: Tensor
    mixed: Tensor
    maps: Tensor | None = None


def draw_mixtures(
    images: Tensor,
    draw: MixDraw,
    masks: Tensor,
    mixed: Tensor,
    names: Sequence[str] | None,
    path: str | os.PathLike[str],
    heading: str = "",
    *,
    count: int = 4,
) -> None:
    """Writes a PNG of the first few mixtures of a batch.

    Args:
        images: of the batch.
        draw: of the mixtures.
        masks: of the mixtures.
        mixed: the mixtures.
        names: of the batch's images: their labels; None: their places in the batch.
        path: PNG file, written whole or not at all.
        heading: above the picture.
        count: mixtures shown, at most. Default 4.

    Shape:
        images (B, C, H, W) with one or three channels, bytes or floating in [0, 1]; masks (n, N, H, W); mixed
        (n, C, H, W), with n at least 1 and the draw's first n rows.

    Raises:
        ValueError: shapes that do not fit together.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mixaug.adautomix import MixLaw, mix_images, sample_mix
        >>> images, draw, path = torch.rand(4, 3, 32, 32), sample_mix(4, MixLaw(3)), Path(tempfile.mkdtemp()) / "a.png"
        >>> masks = torch.full((4, 3, 32, 32), 1 / 3)
        >>> draw_mixtures(images, draw, masks, mix_images(images, draw.index, masks), list("abcd"), path, "untrained")
        >>> path.exists()
        True
    """
    shown = min(count, len(mixed))
    index, size = draw.index[:shown], tuple(images.shape[-2:])
    wanted = {
        "masks": (masks, (len(mixed), draw.index.shape[1], *size)),
        "mixed": (mixed, (len(mixed), *images.shape[1:])),
    }
    for name, (value, shape) in wanted.items():
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {tuple(value.shape)}")
    names = [f"image {position}" for position in range(len(images))] if names is None else names
    if len(names) != len(images):
        raise ValueError(f"names must be {len(images)}, one for each image, got {len(names)}")
    if shown < 1 or len(index) < shown:
        raise ValueError(
            f"count, mixed and draw must be of one mixture or more, got {count}, {len(mixed)} and {len(draw.index)}"
        )
    blocks = [
        Mixture(images[rows], [names[i] for i in rows.tolist()], draw.ratios[row], masks[row], mixed[row])
        for row, rows in enumerate(index.to(images.device))
    ]
    draw_blocks([blocks[i : i + 2] for i in range(0, shown, 2)], path, heading)


def draw_blocks(rows: Sequence[Sequence[Mixture]], path: str | os.PathLike[str], heading: str = "") -> None:
    """Writes a PNG with rows of mixtures: each a column for every source, and the mixture beside them.

    Args:
        rows: of mixtures; images of one size.
        path: PNG file, written whole or not at all.
        heading: above the picture.

    Raises:
        ValueError: no mixture, or images that are neither grey nor RGB.
        ModuleNotFoundError: matplotlib is not installed.
    """
    everything = [mixture for row in rows for mixture in row]
    if not everything or everything[0].mixed.ndim != 3 or everything[0].mixed.shape[0] not in (1, 3):
        got = tuple(everything[0].mixed.shape) if everything else "none"
        raise ValueError(f"rows must be of mixtures (C, H, W) with one or three channels, got {got}")
    figure_class = optional_import("matplotlib.figure").Figure
    page = _Page(everything[0].mixed.shape[-2:], any(m.maps is not None for m in everything))
    # Columns begin at one place in all rows.
    columns = range(max(map(len, rows)))
    widths = [max(page.block_width(row[column]) for row in rows if len(row) > column) for column in columns]
    width = sum(widths) + _MARGIN
    top = page.write_lines(heading, _MARGIN, width, 9.5)
    for row in rows:
        for column, mixture in enumerate(row):
            page.add(mixture, _MARGIN + sum(widths[:column]), top)
        top += page.block_height
    note = _PARTS + (_MAPS if page.with_maps else "")
    height = page.write_lines(note, top, width, 7.5) + _MARGIN // 2
    # Pixels are placed, not drawn: a grid of matplotlib's axes takes ten times as long, and blurs them.
    canvas = torch.full((height, width, 3), 255, dtype=torch.uint8)
    for picture, x, y in page.pictures:
        canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    figure = figure_class(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    figure.figimage(canvas.numpy(), origin="upper")
    for text, *xy, style in page.texts:
        figure.text(
            xy[0] / width,
            1 - xy[1] / height,
            text,
            va="top",
            parse_math=False,
            family="DejaVu Sans",
            **style,
        )
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # Names in scripts that the font lacks show as boxes; a warning for each letter helps nobody.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


class _Page:
    """Pictures and texts with their places, in pixels from the upper left.

    Args:
        size: ``(H, W)`` of the images.
        with_maps: whether class activation maps are shown.
    """

    def __init__(self, size: Sequence[int], with_maps: bool) -> None:
        height, width = size
        scale: float = max(1, round(_TILE / max(height, width)))
        if max(height, width) > 1.5 * _TILE:
            scale = 1.5 * _TILE / max(height, width)
        self.tile = (max(1, round(height * scale)), max(1, round(width * scale)))
        self.with_maps = with_maps
        self.column = max(self.tile[1], _NARROWEST) + _GAP
        # Two lines above a source, one above what is below it.
        self.below = (3 + with_maps) * _LINE + (2 + with_maps) * (self.tile[0] + _GAP)
        self.block_height = max(self.below, 2 * _LINE + 2 * self.tile[0]) + 2 * _GAP
        self.pictures: list[tuple[Tensor, int, int]] = []
        self.texts: list[tuple[str, int, int, dict[str, Any]]] = []

    def block_width(self, mixture: Mixture) -> int:
        """Of a mixture with the space to the next."""
        return len(mixture.sources) * self.column + max(2 * self.tile[1], _NARROWEST) + 3 * _GAP

    def add(self, mixture: Mixture, left: int, top: int) -> None:
        """One mixture: its columns, and itself at their right, twice as large."""
        ratios, shares = mixture.ratios.tolist(), mixture.masks.float().mean((1, 2)).tolist()
        for i in range(len(mixture.sources)):
            x, y = left + i * self.column, top
            self._text(self._short(mixture.names[i]), x, y, fontweight="bold")
            y = self._tile(f"ratio {ratios[i]:.2f}", _bytes(mixture.sources[i]), x, y + _LINE)
            y = self._tile(f"share {shares[i]:.2f}", _heat(mixture.masks[i]), x, y)
            if mixture.maps is not None:
                mixed = _bytes(mixture.mixed).permute(2, 0, 1)
                self._tile("activation", overlay(mixed, mixture.maps[i].detach().cpu()), x, y)
        x = left + len(mixture.sources) * self.column
        self._text("mixture", x, top + _LINE, fontweight="bold")
        large = _resize(_bytes(mixture.mixed), (2 * self.tile[0], 2 * self.tile[1]))
        self.pictures.append((large, x, top + 2 * _LINE))

    def write_lines(self, text: str, top: int, width: int, size: float) -> int:
        """A paragraph over the whole width; gives where it ends."""
        letter = _LETTER * size / 7.5
        lines = textwrap.wrap(text, max(20, int((width - 2 * _MARGIN) / letter)))
        for line in lines:
            self._text(line, _MARGIN, top, fontsize=size)
            top += round(size * 1.9)
        return top + (_GAP if lines else 0)

    def _tile(self, text: str, picture: Tensor, x: int, y: int) -> int:
        self._text(text, x, y)
        self.pictures.append((_resize(picture, self.tile), x, y + _LINE))
        return y + _LINE + self.tile[0] + _GAP

    def _text(self, text: str, x: int, y: int, fontsize: float = 7.5, **style: Any) -> None:
        self.texts.append((text, x, y, {"fontsize": fontsize, "color": "#222222", **style}))

    def _short(self, name: str) -> str:
        most = int(self.column / (1.15 * _LETTER))  # bold
        return name if len(name) <= most else f"{name[: most - 1]}…"


def _bytes(image: Tensor) -> Tensor:
    """(C, H, W) as (H, W, 3) bytes."""
    image = image.detach().cpu()
    if image.is_floating_point():
        image = (image.float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).expand(*image.shape[1:], 3)


def _heat(values: Tensor) -> Tensor:
    """(H, W) values in [0, 1] as (H, W, 3) bytes."""
    table = optional_import("matplotlib").colormaps["viridis"]
    return torch.from_numpy(table(values.detach().cpu().float().clamp(0, 1).numpy(), bytes=True)[..., :3].copy())


def _resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) bytes: enlarged pixels stay squares, smaller pictures are averaged."""
    if (picture.shape[0], picture.shape[1]) == size:
        return picture
    if size[0] >= picture.shape[0]:
        rows, columns = (torch.arange(out) * kept // out for out, kept in zip(size, picture.shape[:2], strict=True))
        return picture[rows][:, columns]
    image = picture.permute(2, 0, 1)[None].float()
    smaller = F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)
    return smaller.round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0)
