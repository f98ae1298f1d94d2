"""The slope of a picture's power spectrum is that of the noise it was made of."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from paths import ROOT

from mixaug.mixing_sets.richness import richness, spectral_slope


def noise(slope, count, height, width, field, seed=0):
    """Grey pictures cut out of larger ones whose power falls with this slope: uint8 (count, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft2(torch.randn(count, field, field, generator=generator, dtype=torch.float64))
    radius = torch.hypot(torch.fft.fftfreq(field)[:, None], torch.fft.rfftfreq(field)[None]).double()
    radius[0, 0] = 1.0
    values = torch.fft.irfft2(spectrum * radius ** (slope / 2), s=(field, field))[:, :height, :width]
    values = values - values.mean((1, 2), keepdim=True)
    values = values / values.std((1, 2), keepdim=True)
    return (128 + 40 * values).round().clamp(0, 255).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0, -3.0])
def test_noise_of_a_known_slope(slope):
    """Cut out of pictures four times as large: their borders do not join."""
    found = spectral_slope(noise(slope, 64, 64, 64, 256))
    assert found.shape == (64,) and found.dtype == torch.float64
    assert found.mean().item() == pytest.approx(slope, abs=0.1)
    assert found.std() < 0.3


@pytest.mark.parametrize("slope", [0.0, -2.0, -3.0])
@pytest.mark.parametrize("shape", [(256, 256), (32, 32), (48, 61)])
def test_sizes_give_the_same_slope(slope, shape):
    """Reduced to 64 px, small, and neither square nor even."""
    assert spectral_slope(noise(slope, 48, *shape, 256)).mean().item() == pytest.approx(slope, abs=0.2)


def test_neither_contrast_nor_brightness_nor_place_in_the_batch_matters():
    pictures = noise(-2.0, 4, 64, 64, 128)
    found = spectral_slope(pictures)
    faint = (60 + pictures.double() / 4).round().to(torch.uint8)
    torch.testing.assert_close(spectral_slope(faint), found, atol=0.05, rtol=0)
    assert torch.equal(spectral_slope(pictures[2]), found[2:3])
    assert torch.equal(spectral_slope(pictures.flip(0)), found.flip(0))
    torch.testing.assert_close(spectral_slope(pictures.flip(3).transpose(2, 3)), found)


def test_the_luma_is_measured():
    """Steep noise in green outweighs white noise in blue, and the reverse."""
    steep, white = noise(-3.0, 32, 64, 64, 256), noise(0.0, 32, 64, 64, 256, seed=1)
    flat = torch.full_like(steep[:, 0], 128)
    green = spectral_slope(torch.stack([flat, steep[:, 0], white[:, 0]], 1)).mean()
    blue = spectral_slope(torch.stack([flat, white[:, 0], steep[:, 0]], 1)).mean()
    assert green < -1.7 and blue > -0.7
    assert spectral_slope(torch.stack([white[:, 0], flat, flat], 1)).abs().mean() < 0.4


def test_a_slope_of_the_borders_is_not_measured():
    """A ramp's ends do not join: without a window the slope of this one is -2.6."""
    ramp = torch.arange(64).mul(2)[None, None, None].expand(1, 3, 64, 64)
    pictures = (noise(0.0, 16, 64, 64, 64).long() // 4 + ramp).to(torch.uint8)
    assert spectral_slope(pictures).mean().item() == pytest.approx(0.0, abs=0.4)


def test_a_flat_picture_has_no_slope():
    pictures = torch.cat([noise(-1.0, 1, 64, 64, 64), torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)])
    found = spectral_slope(pictures)
    assert math.isnan(found[1]) and -2 < found[0] < 0


def test_a_photograph_is_between_minus_two_and_minus_three():
    china = pytest.importorskip("sklearn.datasets").load_sample_images().images[0]
    crops = [china[top : top + 210, left : left + 210] for top in (0, 210) for left in (0, 210, 420)]
    pictures = torch.stack([torch.from_numpy(crop.copy()).permute(2, 0, 1) for crop in crops])
    assert -3.0 < spectral_slope(pictures).median() < -2.0


@pytest.mark.parametrize("measure, least", [(richness, 2), (spectral_slope, 20)])
def test_bad_input(measure, least):
    with pytest.raises(TypeError, match=r"pictures must be a uint8 tensor, got torch\.float32"):
        measure(torch.zeros(1, 3, 64, 64))
    with pytest.raises(TypeError, match="pictures must be a uint8 tensor, got list"):
        measure([1])
    small = torch.zeros(2, 3, 64, least - 1, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=rf"\(N, 3, H, W\) with sides of {least} or more, got \(2, 3, 64, {least - 1}\)"
    ):
        measure(small)
    with pytest.raises(ValueError, match=r"must have shape .*, got \(1, 1, 64, 64\)"):
        measure(torch.zeros(1, 1, 64, 64, dtype=torch.uint8))


def test_the_table_of_the_gallery_is_that_of_its_figure():
    docs = ROOT / "docs"
    sys.path.append(str(docs))
    import make_mixing_set_images as made

    measures = json.loads((made.IMAGES / "measures.json").read_text(encoding="utf-8"))
    assert list(measures) == [*made.SOURCES, made.PHOTOGRAPHS, made.SMALL]
    assert [sum(each["slope"]["counts"]) for each in measures.values()][:5] == [made.COUNT] * 5
    page = made.PAGE.read_text(encoding="utf-8")
    assert made.table(measures) in page
    every = [kind for name in made.SOURCES for kind in made.source_of(name).kinds]  # every kind has its name there
    assert [kind for kind in every if f"`{kind}`" not in page] == []
    values = {key: torch.tensor([low, high, high + 1.0]) for key, (_, low, high, _) in made.MEASURES.items()}
    summary = made.summarised({**values, "slope": torch.tensor([math.nan, -2.0, -2.0])})
    assert summary["edges"]["counts"][0] == 1 and summary["edges"]["counts"][-1] == 2
    assert summary["slope"]["median"] == -2.0 and sum(summary["slope"]["counts"]) == 2
    page = f"a\n\n{made.table(measures)}\n\nb"
    assert made.with_table(page.replace("CIFAR-10 | 4", "CIFAR-10 | 9"), made.table(measures)) == page
