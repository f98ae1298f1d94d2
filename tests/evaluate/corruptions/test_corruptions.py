"""Corruptions against slow, independent forms (SciPy, PIL, plain loops) where they are deterministic, and against their
laws where they are random."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from mixaug.evaluate.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, OURS, PRESETS, SEVERITIES, corrupt
from mixaug.evaluate.corruptions.blur import disk, glass_blur, zoom_blur
from mixaug.evaluate.corruptions.digital import box_taps, elastic_transform
from mixaug.evaluate.corruptions.filters import border, convolve, directional_blur, gaussian_blur
from mixaug.evaluate.corruptions.frost import frost_texture
from mixaug.evaluate.corruptions.tables import TABLES
from mixaug.evaluate.corruptions.warps import clipped_zoom, sample_bilinear
from mixaug.evaluate.corruptions.weather import plasma, snow

ALL = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
RANDOM = {
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
    "elastic_transform", "speckle_noise", "spatter",
}  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photos():
    """Smooth coloured images with edges, uint8 (6, 3, 32, 32)."""
    coarse = torch.rand(6, 3, 5, 5, generator=seeded())
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=True)
    edges = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="nearest")
    return ((0.6 * smooth + 0.4 * edges).clamp(0, 1) * 255).to(torch.uint8)


# ---------------------------------------------------------------- the interface


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("preset", PRESETS)
def test_kind_shape_and_inputs_are_kept(photos, name, preset):
    before = photos.clone()
    out = corrupt(photos, name, 3, preset, seeded())
    assert out.dtype == torch.uint8 and out.shape == photos.shape and photos.equal(before)
    assert out.equal(corrupt(photos, name, 3, preset, seeded()))
    floats = corrupt(photos.float() / 255, name, 3, preset, seeded())
    assert floats.dtype == torch.float32 and (floats * 255).round().sub(out).abs().max() <= 1
    assert (floats * 255).sub((floats * 255).round()).abs().max() < 1e-4  # on the 8-bit grid
    assert name in RANDOM or out.equal(corrupt(photos, name, 3, preset, seeded(1)))


@pytest.mark.parametrize("name", [n for n in ALL if n != "saturate"])
@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 17, 40), (1, 1, 1, 1), (3, 3, 2, 3), (0, 3, 8, 8)])
def test_any_size_and_grey(name, shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded())
    for preset in PRESETS:
        for severity in (1, 5):
            assert corrupt(images, name, severity, preset, seeded()).shape == shape


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_stronger_is_farther(photos, name):
    images = photos.repeat(12, 1, 1, 1)
    distance = [
        (corrupt(images, name, s, generator=seeded(s)).float() - images.float()).abs().mean().item() for s in SEVERITIES
    ]
    # Not every constant of the benchmark grows with every severity (blur of the disk, rounds of the glass blur).
    # Elastic starts with its largest affine part.
    assert distance[0] > 0 and distance[4] >= max(distance) * (0.5 if name == "elastic_transform" else 0.75)


def test_images_of_a_batch_draw_their_own(photos):
    same = photos[:1].repeat(4, 1, 1, 1)
    for name in sorted(RANDOM):
        out = corrupt(same, name, 4, generator=seeded())
        assert not out[0].equal(out[1]) and not out[2].equal(out[3]), name


@pytest.mark.parametrize("name", sorted(set(ALL) - RANDOM))
def test_batched_equals_one_by_one(photos, name):
    whole = corrupt(photos, name, 4)
    assert whole.equal(torch.cat([corrupt(image[None], name, 4) for image in photos]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(1, 3, 4, 4), "rain", 1), ValueError, "name must be one of gaussian_noise, .* got 'rain'"),
        ((torch.zeros(1, 3, 4, 4), "fog", 0), ValueError, "severity must be from 1 to 5, got 0"),
        ((torch.zeros(1, 3, 4, 4), "fog", 6), ValueError, "severity"),
        ((torch.zeros(1, 3, 4, 4), "fog", 1, "mnist"), ValueError, "preset must be one of cifar, imagenet"),
        ((torch.zeros(3, 4, 4), "fog", 1), ValueError, r"images must be \(N, C, H, W\) .*\(3, 4, 4\)"),
        ((torch.zeros(1, 2, 4, 4), "fog", 1), ValueError, "1 or 3 channels"),
        ((torch.zeros(1, 3, 4, 4, dtype=torch.int64), "fog", 1), TypeError, "uint8 or float, got torch.int64"),
        (([1], "fog", 1), TypeError, "images must be a tensor, got list"),
        ((torch.zeros(1, 1, 4, 4), "saturate", 1), ValueError, "colour"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        corrupt(*arguments)


def test_tables_are_whole():
    assert len(CORRUPTIONS) == 15 and set(OURS) <= set(CORRUPTIONS)
    for preset in PRESETS:
        assert set(TABLES[preset]) == set(ALL)
        assert all(len(row) == 5 for row in TABLES[preset].values())


# ---------------------------------------------------------------- noise, by its law


@pytest.mark.parametrize("preset", PRESETS)
def test_noise_laws(preset):
    grey = torch.full((40, 3, 32, 32), 128 / 255)
    n = grey.numel()
    table = TABLES[preset]
    for severity in SEVERITIES:
        sd = table["gaussian_noise"][severity - 1]
        if sd < 0.15:  # else the clipping shrinks it
            noise = corrupt(grey, "gaussian_noise", severity, preset, seeded(severity)) - grey
            assert abs(noise.std() / sd - 1) < 0.02 and abs(noise.mean()) < 5 * sd / math.sqrt(n) + 0.002
        rate = table["shot_noise"][severity - 1]
        if rate >= 25:
            shot = corrupt(grey, "shot_noise", severity, preset, seeded(severity))
            assert abs(shot.var() / (128 / 255 / rate) - 1) < 0.04 and abs(shot.mean() - 128 / 255) < 0.005
        share = table["impulse_noise"][severity - 1]
        hit = corrupt(grey, "impulse_noise", severity, preset, seeded(severity))
        error = 5 * math.sqrt(share / n)
        assert abs((hit == 0).float().mean() - share / 2) < error and abs((hit == 1).float().mean() - share / 2) < error
    half = corrupt(torch.full_like(grey, 64 / 255), "speckle_noise", 5, generator=seeded())
    assert abs((half - 64 / 255).std() / (64 / 255 * TABLES["cifar"]["speckle_noise"][4]) - 1) < 0.03


# ---------------------------------------------------------------- filters, against SciPy and loops


@pytest.mark.parametrize(
    ("sigma", "truncate", "mode"), [(0.4, 4, "nearest"), (2.0, 4, "nearest"), (30.0, 3, "reflect")]
)
def test_gaussian_blur_is_scipys(sigma, truncate, mode):
    image = torch.rand(1, 1, 20, 27, generator=seeded())
    expected = ndimage.gaussian_filter(image[0, 0].double().numpy(), sigma, mode=mode, truncate=truncate)
    assert np.abs(gaussian_blur(image, sigma, truncate=truncate, mode=mode)[0, 0].numpy() - expected).max() < 1e-5


def test_borders_are_numpys():
    row = np.arange(7)
    for mode, name in (("nearest", "edge"), ("reflect", "symmetric"), ("reflect101", "reflect")):
        for size in (1, 2, 7):
            padded = np.pad(row[:size], 20, mode=name)
            assert border(torch.arange(-20, size + 20), size, mode).tolist() == padded.tolist()


def test_defocus_kernel_and_convolution():
    plain = disk(2, 1e-3)  # hardly blurred: the disk itself, 13 pixels
    assert plain.shape == (5, 5) and (plain > 1e-6).sum() == 13 and abs(plain.sum() - 1) < 1e-6
    for preset in PRESETS:
        for setting in TABLES[preset]["defocus_blur"]:
            kernel = disk(*setting)
            # A disk that touches its frame gains a little by the mirrored border, in the original too.
            assert -1e-5 < kernel.sum() - 1 < (0.02 if setting[0] >= 8 else 1e-5)
            assert kernel.allclose(kernel.T) and kernel.allclose(kernel.flip(0, 1))
    image = torch.rand(1, 1, 9, 12, generator=seeded())
    kernel = torch.rand(5, 5, generator=seeded(1))
    expected = ndimage.correlate(image[0, 0].double().numpy(), kernel.double().numpy(), mode="mirror")
    assert np.abs(convolve(image, kernel)[0, 0].numpy() - expected).max() < 1e-5


def test_motion_blur_is_the_loop():
    image = torch.rand(2, 1, 9, 11, generator=seeded())
    angles, radius, sigma = torch.tensor([30.0, -70.0]), 4, 2.0
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    out = directional_blur(image, radius, sigma, angles)
    for n, y, x in [(0, 0, 0), (0, 4, 5), (1, 8, 10), (1, 2, 7), (0, 8, 1)]:
        a = math.radians(float(angles[n]))
        total = 0.0
        for i, weight in enumerate(weights):
            u = min(max(x + math.ceil(i * math.cos(a) - 0.5), 0), 10)
            v = min(max(y + math.ceil(i * math.sin(a) - 0.5), 0), 8)
            total += weight / sum(weights) * float(image[n, 0, v, u])
        assert abs(float(out[n, 0, y, x]) - total) < 1e-5


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.25, 1.75])
def test_zoom_is_scipys(factor):
    image = torch.rand(1, 1, 32, 32, generator=seeded())
    crop = math.ceil(32 / factor)
    top = (32 - crop) // 2
    large = ndimage.zoom(image[0, 0, top : top + crop, top : top + crop].numpy(), factor, order=1)
    trim = (large.shape[0] - 32) // 2
    expected = large[trim : trim + 32, trim : trim + 32]
    if expected.shape == (32, 32):
        assert np.abs(clipped_zoom(image, factor)[0, 0].numpy() - expected).max() < 1e-4
    assert clipped_zoom(image, factor).shape == image.shape


def test_zoom_blur_is_the_mean_of_its_zooms():
    image = torch.rand(1, 3, 32, 32, generator=seeded())
    zooms = [clipped_zoom(image, float(f)) for f in np.arange(1, 1.11, 0.01)]
    assert zoom_blur(image, (1.11, 0.01), None).allclose(torch.stack([image, *zooms]).mean(0), atol=1e-5)


def test_bilinear_sampling_is_scipys():
    image = torch.rand(1, 1, 8, 9, generator=seeded())
    y, x = torch.rand(2, 1, 6, 7, generator=seeded(1)) * 14 - 3
    for mode, name in (("reflect", "reflect"), ("reflect101", "mirror"), ("nearest", "nearest")):
        where = [y[0].double().numpy(), x[0].double().numpy()]
        expected = ndimage.map_coordinates(image[0, 0].double().numpy(), where, order=1, mode=name)
        assert np.abs(sample_bilinear(image, y, x, mode)[0, 0].numpy() - expected).max() < 1e-5


def test_glass_blur_copies_as_the_published_sets_do():
    """With no blur of its own, the result is the slow loop over the original's assignments."""
    image = (torch.rand(1, 3, 12, 10, generator=seeded()) * 255).floor() / 255
    reach, rounds = 2, 3
    out = glass_blur(image, (1e-9, reach, rounds), seeded(5))
    codes = (torch.rand(1, rounds, 12 - 2 * reach, 10 - 2 * reach, generator=seeded(5)) * (2 * reach) ** 2).long()
    expected = image[0].clone()
    for turn in range(rounds):
        for i, y in enumerate(range(12 - reach, reach, -1)):
            for j, x in enumerate(range(10 - reach, reach, -1)):
                dy, dx = (part - reach for part in divmod(int(codes[0, turn, i, j]), 2 * reach))
                expected[:, y, x] = expected[:, y + dy, x + dx]
    assert (out[0] - expected).abs().max() <= 1 / 255 + 1e-6
    assert not out.equal(image)


# ---------------------------------------------------------------- the others


def test_brightness_and_saturation_are_hsv(photos):
    bright, colour = corrupt(photos, "brightness", 3), corrupt(photos, "saturate", 5)
    for n, y, x in [(0, 0, 0), (1, 10, 20), (2, 31, 5), (5, 16, 16)]:
        h, s, v = colorsys.rgb_to_hsv(*(photos[n, :, y, x] / 255).tolist())
        for out, hsv in (
            (bright, (h, s, min(1, v + 0.15))),
            (colour, (h, min(1, max(0, s * 2.5 + 0.2)), v)),
        ):
            expected = torch.tensor(colorsys.hsv_to_rgb(*hsv)) * 255
            assert (out[n, :, y, x] - expected).abs().max() <= 1
    grey = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    assert corrupt(grey, "brightness", 5).unique().item() in (176, 177)  # 176.5


def test_contrast(photos):
    x = photos.float() / 255
    expected = ((x - x.mean((2, 3), keepdim=True)) * 0.4 + x.mean((2, 3), keepdim=True)) * 255
    assert (corrupt(photos, "contrast", 3) - expected).abs().max() <= 0.51


@pytest.mark.parametrize(("preset", "side"), [("cifar", 32), ("imagenet", 224), ("cifar", 33)])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_pils(preset, side, severity):
    image = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=seeded())
    small = int(side * TABLES[preset]["pixelate"][severity - 1])
    pil = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    pil = pil.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)
    expected = torch.from_numpy(np.asarray(pil).copy()).permute(2, 0, 1)
    assert corrupt(image, "pixelate", severity, preset)[0].equal(expected)
    assert abs(box_taps(small, side)[1].sum(1) / 2**22 - 1).max() < 1e-6


def test_jpeg_is_pils(photos):
    for severity, quality in enumerate(TABLES["cifar"]["jpeg_compression"], 1):
        out = corrupt(photos, "jpeg_compression", severity)
        file = io.BytesIO()
        Image.fromarray(photos[2].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        assert out[2].equal(torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1))


def test_elastic_without_displacement_is_an_affine_map():
    """At severity 1 of the cifar preset only the affine part acts: straight lines stay straight."""
    ramp = torch.linspace(0.2, 0.8, 32).expand(8, 1, 32, 32)
    out = elastic_transform(ramp, TABLES["cifar"]["elastic_transform"][0], seeded())[:, :, 10:22, 10:22]
    bend_x = out[..., 2:] - 2 * out[..., 1:-1] + out[..., :-2]
    bend_y = out[..., 2:, :] - 2 * out[..., 1:-1, :] + out[..., :-2, :]
    assert bend_x.abs().max() < 1e-4 and bend_y.abs().max() < 1e-4
    assert (out - ramp[:, :, 10:22, 10:22]).abs().max() > 0.01
    still = elastic_transform(ramp, (0.0, 0.0, 0.0), seeded())
    assert still.allclose(ramp, atol=1e-5)


def test_plasma_is_rough_where_decay_is_small():
    smooth, rough = plasma(20, 32, 3.0, torch.zeros(1), seeded()), plasma(20, 32, 1.4, torch.zeros(1), seeded())
    for field in (smooth, rough):
        assert field.amin() == 0 and field.amax() == 1 and field.isfinite().all()
    assert (rough.diff(dim=2).abs().mean()) > 1.5 * smooth.diff(dim=2).abs().mean()


def test_fog_keeps_the_brightest_value_below_one():
    dark = torch.full((4, 3, 32, 32), 0.2)
    out = corrupt(dark, "fog", 5, generator=seeded())
    assert out.amax() <= 0.2 + 1 / 255 and out.std() > 0.01


def test_snow_and_frost_whiten():
    dark = torch.full((8, 3, 32, 32), 0.1)
    flakes = snow(dark, TABLES["cifar"]["snow"][2], seeded()) - dark
    assert flakes.min() >= -1e-6 and flakes.mean() > 0.02 and flakes.std() > 0.02
    texture = frost_texture(torch.zeros(8, 3, 32, 32), seeded())
    assert texture.amin() >= 0 and texture.amax() <= 1
    assert texture.std((2, 3)).mean() > 0.1  # structure, not a flat veil
    assert (texture[:, 2] >= texture[:, 0]).all()  # bluish


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_gpu_equals_cpu_for_a_cpu_generator(photos, name):
    difference = corrupt(photos.cuda(), name, 3, generator=seeded()).cpu().int() - corrupt(
        photos, name, 3, generator=seeded()
    )
    assert difference.abs().float().mean() < 0.1


@pytest.mark.parametrize("severity", [1, 4, 5])
def test_hue_of_grey_pixels_is_red(severity):
    """As HSV has it: a shift of the saturation tints them; black stays black, and brightness makes it grey."""
    levels = torch.tensor([0, 90, 255], dtype=torch.uint8).expand(1, 3, 1, 3)
    _, shift = TABLES["cifar"]["saturate"][severity - 1]
    out = corrupt(levels, "saturate", severity)[0, :, 0].T
    for got, level in zip(out.tolist(), (0, 90, 255), strict=True):
        expected = [255 * part for part in colorsys.hsv_to_rgb(0, min(1, shift), level / 255)]
        assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= 0.51
    added = 255 * TABLES["cifar"]["brightness"][severity - 1]
    assert (corrupt(levels, "brightness", severity)[0, :, 0, 0] - added).abs().max() <= 0.51
