"""Pictures of mixtures: every tile is where it should be, with the pixels, ratios and shares that it is of."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from adautomix_parts import draw_of, seeded
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mixaug._drawing import overlay
from mixaug.adautomix import MixLaw, mix_images, sample_mix
from mixaug.adautomix.figure import Mixture, draw_blocks, draw_mixtures


def scene(count: int = 6, n_mix: int = 3, size: tuple[int, int] = (28, 28), channels: int = 3):
    images = torch.rand(count, channels, *size, generator=seeded(1))
    draw = sample_mix(count, MixLaw(n_mix, per_image=True), seeded(2))
    masks = (4 * torch.rand(count, n_mix, *size, generator=seeded(3))).softmax(1)
    return images, draw, masks, mix_images(images, draw.index, masks)


def names_of(count: int) -> list[str]:
    return [f"name {i}" for i in range(count)]


def read(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def enlarged(image: Tensor, factor: int) -> np.ndarray:
    """(C, H, W) in [0, 1] or bytes as the pixels of a tile."""
    pixels = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    return np.kron(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy(), np.ones((factor, factor, 1), np.uint8))


def heat(mask: Tensor, factor: int) -> np.ndarray:
    return np.kron(colormaps["viridis"](mask.numpy(), bytes=True)[..., :3], np.ones((factor, factor, 1), np.uint8))


def places(page: np.ndarray, tile: np.ndarray) -> list[tuple[int, int]]:
    """``(y, x)`` of each place where the page shows just this tile."""
    h, w = tile.shape[:2]
    fits = np.ones((page.shape[0] - h + 1, page.shape[1] - w + 1), bool)
    for y, x in ((0, 0), (h // 2, w // 2), (h - 1, 0), (0, w - 1), (h // 3, w - 1)):  # a few pixels first: it is fast
        fits &= (page[y : y + fits.shape[0], x : x + fits.shape[1]] == tile[y, x]).all(2)
    return [(y, x) for y, x in np.argwhere(fits).tolist() if np.array_equal(page[y : y + h, x : x + w], tile)]


@pytest.fixture
def texts(monkeypatch):
    """Every text of the pictures with its place in pixels from the upper left."""
    seen: list[tuple[str, int, int]] = []
    original = Figure.text

    def text(figure, x, y, s, **style):
        width, height = figure.get_size_inches() * figure.dpi
        seen.append((s, round(x * width), round((1 - y) * height)))
        return original(figure, x, y, s, **style)

    monkeypatch.setattr(Figure, "text", text)
    return seen


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n_mix", [2, 3, 5])
def test_sources_masks_and_mixtures_are_shown_with_what_they_are(tmp_path, texts, n_mix, channels):
    images, draw, masks, mixed = scene(n_mix=n_mix, channels=channels)
    draw_mixtures(images, draw, masks, mixed, names_of(6), tmp_path / "a.png", "the heading")
    page, lines = read(tmp_path / "a.png"), [line for line, _, _ in texts]
    found = {(x, y): line for line, x, y in texts}
    assert lines[0] == "the heading" and lines.count("mixture") == 4
    for row in range(4):
        ((top, right),) = places(page, enlarged(mixed[row], 8))
        lefts = []
        for i, image in enumerate(draw.index[row].tolist()):
            ((y, x),) = places(page, heat(masks[row, i], 4))
            assert (y - 112 - 22, x) in places(page, enlarged(images[image], 4))
            assert found[x, y - 14] == f"share {float(masks[row, i].mean()):.2f}"
            assert found[x, top - 14] == f"ratio {float(draw.ratios[row, i]):.2f}"
            assert found[x, top - 28] == f"name {image}"
            lefts.append(x)
        assert lefts == sorted(lefts) and lefts[-1] + 112 < right and found[right, top - 14] == "mixture"
    assert places(page, enlarged(mixed[4], 8)) == [] and places(page, heat(masks[4, 0], 4)) == []


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16])
def test_bytes_and_half_precision(tmp_path, dtype):
    images, draw, masks, mixed = scene()
    images, mixed = ((x * 255).round().byte() if dtype == torch.uint8 else x.to(dtype) for x in (images, mixed))
    draw_mixtures(images, draw, masks, mixed, None, tmp_path / "a.png")
    page = read(tmp_path / "a.png")
    assert len(places(page, enlarged(mixed[0] if dtype == torch.uint8 else mixed[0].float(), 8))) == 1


def test_activation_maps_are_laid_over_the_mixture(tmp_path, texts):
    images, draw, masks, mixed = scene(n_mix=2)
    maps = torch.rand(2, 28, 28, generator=seeded(7))
    block = Mixture(images[draw.index[0]], ["a", "b"], draw.ratios[0], masks[0], mixed[0], maps)
    draw_blocks([[block]], tmp_path / "a.png")
    page, pixels = read(tmp_path / "a.png"), (mixed[0] * 255).round().byte()
    for i in range(2):
        tile = np.kron(overlay(pixels, maps[i]).numpy(), np.ones((4, 4, 1), np.uint8))
        ((y, x),) = places(page, tile)
        ((above, left),) = places(page, heat(masks[0, i], 4))
        assert y > above + 112 and x == left
    assert "where the teacher sees" in " ".join(line for line, _, _ in texts)


def test_rows_of_different_numbers_begin_their_columns_at_one_place(tmp_path, texts):
    rows = []
    for n_mix in (2, 5):
        images, draw, masks, mixed = scene(n_mix=n_mix)
        rows.append(
            [Mixture(images[draw.index[i]], names_of(n_mix), draw.ratios[i], masks[i], mixed[i]) for i in (0, 1)]
        )
    draw_blocks(rows, tmp_path / "a.png")
    firsts = sorted({x for line, x, _ in texts if line == "name 0"})
    assert len(firsts) == 2
    page = read(tmp_path / "a.png")
    for row in rows:
        for column, mixture in enumerate(row):
            assert [x for _, x in places(page, heat(mixture.masks[0], 4))] == [firsts[column]]


@pytest.mark.parametrize(
    ("size", "tile"), [((32, 32), (128, 128)), ((9, 40), (27, 120)), ((64, 8), (128, 16)), ((1, 1), (112, 112))]
)
def test_small_images_are_enlarged_by_a_whole_factor(tmp_path, size, tile):
    images, draw, masks, mixed = scene(size=size)
    draw_mixtures(images, draw, masks, mixed, None, tmp_path / "a.png", count=1)
    found = places(read(tmp_path / "a.png"), enlarged(mixed[0], 2 * tile[0] // size[0]))
    assert len(found) >= 1


def test_large_images_are_made_smaller(tmp_path):
    images, draw, masks, mixed = scene(count=4, size=(400, 300))
    draw_mixtures(images, draw, masks, mixed, None, tmp_path / "a.png")
    page = read(tmp_path / "a.png")
    assert page.shape[0] < 1000 and page.shape[1] < 1800
    black = torch.zeros(4, 3, 400, 300)  # the text is not quite
    draw_mixtures(black, draw, masks, black, None, tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 0).all(2).sum() == 4 * (336 * 252 + 3 * 168 * 126)


def test_fewer_mixtures_and_a_batch_of_one(tmp_path, texts):
    images, draw, masks, mixed = scene()
    draw_mixtures(images, draw, masks[:3], mixed[:3], None, tmp_path / "a.png")
    assert [line for line, _, _ in texts].count("mixture") == 3 and ("image 0" in [line for line, _, _ in texts])
    one = draw_of([[0]], [[1.0]], [True])
    draw_mixtures(images[:1], one, torch.ones(1, 1, 28, 28), images[:1], ["only"], tmp_path / "b.png")
    assert len(places(read(tmp_path / "b.png"), enlarged(images[0], 8))) == 1


def test_the_same_picture_from_the_same_mixtures(tmp_path):
    for name in ("a.png", "b.png"):
        draw_mixtures(*scene(), names_of(6), tmp_path / name, "heading")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_any_name_can_be_shown(tmp_path, texts):
    """Formulas, letters that the font lacks, and long ones: no warning, which would be an error here."""
    names = ["$x_{$", "熊", "a very long name of a class that has no room", "\\frac{", "", "e"]
    images, draw, masks, mixed = scene()
    draw_mixtures(images, draw, masks, mixed, names, tmp_path / "a.png", "$")
    shown = [line for line, _, _ in texts]
    assert "$x_{$" in shown and any(line.startswith("a very long") and line.endswith("…") for line in shown)
    assert max(map(len, (line for line in shown if line.startswith("a very")))) < 25


def test_written_whole_or_not_at_all_and_nothing_is_written_to(tmp_path, monkeypatch):
    images, draw, masks, mixed = scene()
    versions = [x._version for x in (images, masks, mixed)]
    draw_mixtures(images, draw, masks, mixed, None, tmp_path / "new" / "a.png")
    before = (tmp_path / "new" / "a.png").read_bytes()
    assert [x._version for x in (images, masks, mixed)] == versions

    def broken(figure, file, **options):
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        draw_mixtures(images, draw, masks, mixed, None, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes() == before and os.listdir(tmp_path / "new") == ["a.png"]


def test_bad_input(tmp_path):
    images, draw, masks, mixed = scene()
    path = tmp_path / "a.png"
    for arguments, message in (
        (
            (images, draw, masks[:, :2], mixed, None),
            r"masks must have the shape \(6, 3, 28, 28\), got \(6, 2,",
        ),
        (
            (images, draw, masks, mixed[:, :1], None),
            r"mixed must have the shape \(6, 3, 28, 28\), got \(6, 1,",
        ),
        ((images, draw, masks, mixed, ["a"]), "names must be 6, one for each image, got 1"),
        ((images, draw, masks[:0], mixed[:0], None), "count, mixed and draw must be of one mixture or more, got 4, 0"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            draw_mixtures(*arguments, path)
    five = torch.rand(6, 5, 28, 28)
    with pytest.raises(ValueError, match=r"must be of mixtures \(C, H, W\) with one or three channels, got \(5, 28,"):
        draw_mixtures(five, draw, masks, five, None, path)
    with pytest.raises(ValueError, match="got none"):
        draw_blocks([], path)
    with pytest.raises(ValueError, match="one mixture or more, got 0, 6"):
        draw_mixtures(images, draw, masks, mixed, None, path, count=0)
    assert not path.exists()


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"mixaug\[train\]\""):
        draw_mixtures(*scene(), None, tmp_path / "a.png")
