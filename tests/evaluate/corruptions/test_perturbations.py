"""Perturbation sequences against PIL, NumPy and loops over pixels, and against their laws where they are random."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pil

from mixaug.evaluate.corruptions import PRESETS
from mixaug.evaluate.corruptions.perturbations import (
    FRAMES,
    PERTURBATIONS,
    PerturbationParams,
    frame,
    frames,
    sample_perturbation,
)
from mixaug.evaluate.seeds import seed_of

RANDOM = {"gaussian_noise", "shot_noise", "spatter"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth with edges, uint8."""
    coarse = torch.rand(count, channels, 5, 5, generator=seeded(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    edges = torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")
    return ((0.5 * smooth + 0.5 * edges).clamp(0, 1) * 255).round().to(torch.uint8)


def levels(images: Tensor, name: str, t: int, preset: str = "cifar", seed: int = 0) -> Tensor:
    """A frame in grey levels, float64."""
    return (frame(images, name, t, preset, sample_perturbation(len(images), seeded(seed))) * 255).double()


def through_pil(images: Tensor, **how: object) -> Tensor:
    done = []
    for image in images:
        array = image.permute(1, 2, 0).squeeze(-1).numpy()
        moved = pil.affine(
            Image.fromarray(array), **({"angle": 0.0, "translate": (0, 0), "scale": 1.0, "shear": 0.0} | how)
        )
        done.append(torch.from_numpy(np.array(moved)).view(*image.shape[1:], -1).permute(2, 0, 1))
    return torch.stack(done).double()


# ---------------------------------------------------------------- the interface


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(3, 3, 13, 18), (1, 1, 28, 28)])
def test_a_sequence_has_31_frames_which_are_those_asked_for_one_by_one(name, preset, shape):
    images = pictures(*shape)
    before = images.clone()
    params = sample_perturbation(len(images), seeded())
    whole = list(frames(images, name, preset, params))
    assert len(whole) == FRAMES == 31
    for one in whole:
        assert one.shape == shape and one.dtype == torch.float32
        assert float(one.min()) >= 0 and float(one.max()) <= 1
        assert torch.equal(one, (one * 255).round() / 255)
    for t in (0, 1, 15, 30):
        # Sums in another order, those of zoom blur, may round to levels apart.
        apart = 1.01 / 255 if name == "zoom_blur" else 0
        assert float((whole[t] - frame(images, name, t, preset, params)).abs().max()) <= apart
    assert images.equal(before)
    assert any(not torch.equal(one, whole[0]) for one in whole)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_floats_and_bytes_give_the_same_and_floats_are_not_written(name):
    images = pictures(2, 3, 12, 9)
    params = sample_perturbation(2, seeded())
    floats = images.float() / 255
    kept = floats.clone()
    assert torch.equal(frame(images, name, 11, "cifar", params), frame(floats, name, 11, "cifar", params))
    for one, two in zip(frames(images, name, "cifar", params), frames(floats, name, "cifar", params), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(floats, kept)
    for dtype in (torch.float16, torch.float64):
        assert frame(floats.to(dtype), name, 11, "cifar", params).dtype == torch.float32


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_an_image_has_its_frames_whatever_batch_it_is_in(name):
    images = pictures(5, 3, 11, 14)
    params = sample_perturbation(5, seeded())
    together = frame(images, name, 9, "imagenet", params)
    for i in (0, 3, 4):
        alone = frame(images[i : i + 1], name, 9, "imagenet", PerturbationParams(params.seed[i : i + 1]))
        assert torch.equal(alone[0], together[i])
    empty = PerturbationParams(params.seed[:0])
    assert [each.shape for each in frames(images[:0], name, "cifar", empty)] == [(0, 3, 11, 14)] * 31


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_memory_format_does_not_matter(name):
    images = pictures(2, 3, 10, 12)
    params = sample_perturbation(2, seeded())
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(frame(images, name, 7, "cifar", params), frame(last, name, 7, "cifar", params))


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_what_is_random_comes_from_the_seed_of_each_image(name):
    images = pictures(1, 3, 32, 32).expand(3, -1, -1, -1)
    params = PerturbationParams(torch.tensor([5, 6, 5]))
    one = frame(images, name, 4, "cifar", params)
    assert torch.equal(one[0], one[2]) and not torch.equal(one[0], one[1])
    assert torch.equal(one, frame(images, name, 4, "cifar", params))
    assert not torch.equal(one, frame(images, name, 5, "cifar", params))
    state = torch.get_rng_state()
    frame(images, name, 4, "cifar", params)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", sorted(set(PERTURBATIONS) - RANDOM))
def test_the_others_do_not_depend_on_the_seed(name):
    images = pictures(2, 3, 12, 12)
    assert torch.equal(levels(images, name, 3, seed=1), levels(images, name, 3, seed=2))


def test_records_repeat_and_differ():
    one = sample_perturbation(1000, seeded())
    assert one.seed.dtype == torch.int64 and one.seed.unique().numel() == 1000 and int(one.seed.min()) >= 0
    assert torch.equal(one.seed, sample_perturbation(1000, seeded()).seed)
    assert not torch.equal(one.seed, sample_perturbation(1000, seeded(1)).seed)
    assert sample_perturbation(0).seed.shape == (0,)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(PERTURBATIONS),
    preset=st.sampled_from(PRESETS),
    t=st.integers(0, 30),
    shape=st.tuples(st.integers(0, 3), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
)
def test_any_size_gives_pictures_of_bytes(name, preset, t, shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded())
    found = frame(images, name, t, preset, sample_perturbation(shape[0], seeded()))
    assert found.shape == shape and bool(found.isfinite().all())
    assert torch.equal((found * 255).round() / 255, found)


# ---------------------------------------------------------------- frames that are the image


@pytest.mark.parametrize(
    ("name", "preset", "t"),
    [("gaussian_noise", "cifar", 0), ("shot_noise", "imagenet", 0), ("zoom_blur", "cifar", 0)]
    + [(name, preset, 15) for name in ("brightness", "rotate") for preset in PRESETS]
    + [("scale", "cifar", 15), ("scale", "imagenet", 24), ("translate", "cifar", 7), ("translate", "cifar", 23)]
    + [("translate", "imagenet", 15)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_itself_is_one_of_the_frames(name, preset, t, channels):
    images = pictures(3, channels, 17, 24)
    assert torch.equal(levels(images, name, t, preset), images.double())


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize(("preset", "sd"), [("cifar", 0.02), ("imagenet", 0.03)])
def test_gaussian_noise_is_fresh_in_each_frame_and_of_the_right_size(preset, sd):
    grey = torch.full((2, 3, 64, 64), 0.5)
    params = sample_perturbation(2, seeded())
    noise = [frame(grey, "gaussian_noise", t, preset, params) - 0.5 for t in (1, 2, 30)]
    for each in noise:
        # Rounding to bytes adds a twelfth of a squared level; 4 standard errors at 24,576 values are 1.8%.
        expected = math.sqrt(sd**2 + (1 / 255) ** 2 / 12)
        assert abs(float(each.std()) / expected - 1) < 0.02
        assert abs(float(each.mean())) < 0.003
    assert abs(float((noise[0] * noise[1]).mean())) < 0.03 * sd**2
    assert abs(float((noise[0][0] * noise[0][1]).mean())) < 0.04 * sd**2


def test_gaussian_noise_image_by_image():
    images = pictures(3, 3, 7, 9)
    params = PerturbationParams(torch.tensor([11, 12, 13]))
    found = frame(images, "gaussian_noise", 6, "cifar", params)
    for image, one, seed in zip(images, found, (11, 12, 13), strict=True):
        noise = torch.randn(1, 3, 7, 9, generator=seeded(seed_of(seed, 6)))[0]
        assert torch.equal((one * 255).round(), ((image / 255 + 0.02 * noise).clamp(0, 1) * 255).round())


@pytest.mark.parametrize(("preset", "rate"), [("cifar", 700), ("imagenet", 300)])
def test_shot_noise_has_the_variance_of_a_poisson_count(preset, rate):
    grey = torch.full((2, 1, 96, 96), 0.4)
    found = frame(grey, "shot_noise", 3, preset, sample_perturbation(2, seeded())) - 0.4
    # Counts are 0.4 rate on average with that variance; 4 standard errors at 18,432 values are 4%.
    assert abs(float(found.var()) / (0.4 / rate + (1 / 255) ** 2 / 12) - 1) < 0.045
    assert abs(float(found.mean())) < 0.002
    assert float(frame(torch.zeros(1, 3, 4, 4), "shot_noise", 3, preset, sample_perturbation(1)).max()) == 0


# ---------------------------------------------------------------- blurs


def slow_motion_blur(image: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """Pixel by pixel: taps along the angle with one half of a Gaussian, edge pixels repeated."""
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(2 * radius + 1)]
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for i, weight in enumerate(weights):
                row = min(max(y + math.ceil(i * math.sin(math.radians(degrees)) - 0.5), 0), height - 1)
                column = min(max(x + math.ceil(i * math.cos(math.radians(degrees)) - 0.5), 0), width - 1)
                out[y, x] += weight / sum(weights) * image[row, column]
    return out


@pytest.mark.parametrize(
    ("preset", "radius", "sigma", "step"), [("cifar", 6, 1.8, 9), ("imagenet", 10, 3, 4)], ids=["cifar", "imagenet"]
)
@pytest.mark.parametrize("t", [0, 7, 19, 30])
def test_motion_blur_turns_with_the_frames(preset, radius, sigma, step, t):
    images = pictures(2, 3, 12, 17)
    found = levels(images, "motion_blur", t, preset)
    for image, one in zip(images, found, strict=True):
        slow = slow_motion_blur(image.permute(1, 2, 0).double().numpy(), radius, sigma, (t - 30) * step)
        assert np.abs(one.permute(1, 2, 0).numpy() - slow).max() < 0.51  # a rounding


@pytest.mark.parametrize("t", [1, 2, 9, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_zoom_blur_is_the_mean_of_pils_enlargements(t, channels):
    images = pictures(2, channels, 21, 30)
    copies = [images.double()] + [
        through_pil(images, scale=1 + 0.004 * i, interpolation=InterpolationMode.BILINEAR) for i in range(1, t + 1)
    ]
    difference = levels(images, "zoom_blur", t) - torch.stack(copies).mean(0)
    # PIL cuts fractions of a level off in each enlargement, half a level on average.
    assert float(difference.abs().max()) < 1.5 and -0.1 < float(difference.mean()) < 0.6


# ---------------------------------------------------------------- spatter


def slow_spatter(image: np.ndarray, noise: np.ndarray, t: int, setting: tuple[float, ...], run: list) -> np.ndarray:
    """The generator's steps by SciPy, NumPy and OpenCV; channels last, in [0, 1]."""
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    mean, sd, sigma, threshold = setting
    layer = ndimage.gaussian_filter(mean + sd * noise, sigma, mode="nearest", truncate=4)
    layer[layer < threshold] = 0
    for _ in range(t):
        layer = np.apply_along_axis(lambda column: np.convolve(column, run, mode="same"), 0, layer)
    liquid = (layer * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    distance = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    relief = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    amount = liquid * cv2.blur(relief, (3, 3)).astype(np.float32)
    colour = np.array([175, 238, 238]) / 255
    if image.shape[2] == 1:
        colour = colour @ np.array([[0.299], [0.587], [0.114]])
    return np.clip(image + 0.6 * (amount / amount.max())[..., None] * colour, 0, 1)


@pytest.mark.parametrize(
    ("preset", "setting", "run"),
    [("cifar", (0.6, 0.265, 1.75, 0.7), [0.2, 0.8]), ("imagenet", (0.65, 0.27, 3.7, 0.69), [0.05, 0.1, 0.15, 0.7])],
    ids=["cifar", "imagenet"],
)
@pytest.mark.parametrize("t", [0, 1, 4, 17])
@pytest.mark.parametrize(("channels", "size"), [(3, (64, 64)), (1, (57, 70))])
def test_spatter_is_the_generators_water(preset, setting, run, t, channels, size):
    images = pictures(2, channels, *size)
    seeds = [3, 4]
    found = frame(images, "spatter", t, preset, PerturbationParams(torch.tensor(seeds)))
    for image, one, seed in zip(images, found, seeds, strict=True):
        noise = torch.randn(*size, generator=seeded(seed)).double().numpy()
        slow = slow_spatter((image.permute(1, 2, 0) / 255).double().numpy(), noise, t, setting, run)
        # The layer of single precision may fall on the other side of a byte, now and then, and moves an edge there.
        off = np.abs(one.permute(1, 2, 0).numpy() - slow) * 255
        assert np.mean(off > 0.6) < 0.02 and off.mean() < 0.5
        assert np.abs(slow * 255 - image.permute(1, 2, 0).numpy()).max() > 50  # there is water


def test_the_drops_of_spatter_run_down_and_off_the_picture():
    black = torch.zeros(8, 1, 48, 24)
    params = sample_perturbation(8, seeded())
    liquid = [frame(black, "spatter", t, "cifar", params) > 0.02 for t in (0, 10, 20)]
    heights = [float((mask * torch.arange(48.0)[:, None]).sum() / mask.sum()) for mask in liquid]
    assert all(bool(mask.any()) for mask in liquid) and heights[1] > heights[0] + 2
    assert not bool((frame(black[..., :9, :], "spatter", 30, "cifar", params) > 0.02)[..., :3, :].any())


# ---------------------------------------------------------------- brightness


@pytest.mark.parametrize(("preset", "step"), [("cifar", 0.015), ("imagenet", 0.02)])
@pytest.mark.parametrize("t", [0, 4, 16, 30])
def test_brightness_adds_to_the_value_of_hsv(preset, step, t):
    images = pictures(2, 3, 6, 5)
    found = levels(images, "brightness", t, preset)
    for i in range(2):
        for y in range(6):
            for x in range(5):
                hue, saturation, value = colorsys.rgb_to_hsv(*(images[i, :, y, x] / 255).tolist())
                value = min(max(value + (t - 15) * step, 0), 1)
                expected = [255 * channel for channel in colorsys.hsv_to_rgb(hue, saturation, value)]
                assert np.abs(found[i, :, y, x].numpy() - expected).max() < 0.51


def test_brightness_of_grey_images_adds_to_the_grey_value():
    images = pictures(2, 1, 6, 5)
    expected = (images / 255 + 9 * 0.015).clamp(0, 1) * 255
    assert float((levels(images, "brightness", 24) - expected).abs().max()) < 0.51


# ---------------------------------------------------------------- geometry


def test_translation_goes_pixel_by_pixel_and_for_cifar_there_and_back():
    images = pictures(2, 3, 10, 33)
    cifar = [*range(-7, 9), *range(7, -8, -1)]
    assert len(cifar) == 31
    for preset, places in (("cifar", cifar), ("imagenet", list(range(-15, 16)))):
        for t, place in enumerate(places):
            assert torch.equal(levels(images, "translate", t, preset), through_pil(images, translate=(place, 0))), t


def test_translation_beyond_the_image_is_black():
    images = torch.full((1, 1, 3, 4), 255, dtype=torch.uint8)
    assert [float(levels(images, "translate", t).sum() / 255) for t in (0, 4, 5, 10, 11)] == [0, 3, 6, 3, 0]


@pytest.mark.parametrize("t", [0, 8, 14, 16, 22, 30])
@pytest.mark.parametrize("size", [(32, 32), (19, 26), (28, 7)])
def test_rotation_is_pils_within_a_level(t, size):
    images = pictures(2, 3, *size)
    expected = through_pil(images, angle=float(t - 15), interpolation=InterpolationMode.BILINEAR)
    difference = levels(images, "rotate", t) - expected
    assert float(difference.min()) >= 0 and float(difference.max()) <= 1  # PIL cuts the fraction of a level off


@pytest.mark.parametrize(
    ("preset", "t", "scale"),
    [
        ("cifar", 0, 0.7),
        ("cifar", 7, 0.84),
        ("cifar", 30, 1.3),
        ("imagenet", 0, 0.4),
        ("imagenet", 11, 0.675),
        ("imagenet", 30, 1.15),
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (19, 26)])
def test_scale_is_pils_within_a_level(preset, t, scale, size):
    images = pictures(2, 3, *size)
    expected = through_pil(images, scale=scale, interpolation=InterpolationMode.BILINEAR)
    difference = levels(images, "scale", t, preset) - expected
    assert float(difference.min()) >= 0 and float(difference.max()) <= 1


def slow_tilt(image: np.ndarray, degrees: float) -> np.ndarray:
    """Pixel by pixel: the ray through a pixel of the view meets the tilted picture; zeros count outside of it.

    A point (x, y) of the picture, from its centre, lies at z = 1 (a pixel behind the axes). It is turned about the
    column, then about the row, moved a diagonal away and projected onto a plane a diagonal away.
    """
    height, width, _ = image.shape
    away, cos, sin = math.hypot(width, height), math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def project(x: float, y: float) -> tuple[float, float, float]:
        x1, y1, z1 = cos * x - sin, y, sin * x + cos
        x2, y2, z2 = x1, cos * y1 - sin * z1, sin * y1 + cos * z1 + away
        return away * x2 + width / 2 * z2, away * y2 + height / 2 * z2, z2

    origin = np.array(project(0, 0))
    basis = np.stack([np.array(project(1, 0)) - origin, np.array(project(0, 1)) - origin, origin], 1)
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            a, b, c = np.linalg.solve(basis, np.array([column, row, 1.0]))
            x, y = a / c + width / 2, b / c + height / 2
            left, top = math.floor(x), math.floor(y)
            for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                if 0 <= i < height and 0 <= j < width:
                    out[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return out


@pytest.mark.parametrize(("preset", "step"), [("cifar", 0.75), ("imagenet", 1.0)])
@pytest.mark.parametrize("t", [0, 11, 30])
@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
def test_tilt_is_the_view_of_a_turned_picture(preset, step, t, size):
    images = pictures(2, 3, *size)
    found = levels(images, "tilt", t, preset)
    for image, one in zip(images, found, strict=True):
        slow = slow_tilt(image.permute(1, 2, 0).double().numpy(), (t - 15) * step)
        assert np.abs(one.permute(1, 2, 0).numpy() - slow).max() < 0.52


def test_tilt_is_opencvs():
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    images = pictures(1, 3, 24, 31)
    image = images[0].permute(1, 2, 0).numpy()
    height, width = 24, 31
    for t in (0, 10, 15, 28):
        cos, sin, away = math.cos(math.radians(t - 15)), math.sin(math.radians(t - 15)), math.hypot(width, height)
        flat = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1], [0, 0, 1]])
        about_row = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
        about_column = np.array([[cos, 0, -sin, 0], [0, 1, 0, 0], [sin, 0, cos, 0], [0, 0, 0, 1]])
        moved = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, away], [0, 0, 0, 1]])
        seen = np.array([[away, 0, width / 2, 0], [0, away, height / 2, 0], [0, 0, 1, 0]])
        theirs = cv2.warpPerspective(image, seen @ moved @ about_row @ about_column @ flat, (width, height))
        ours = levels(images, "tilt", t, "imagenet")[0].permute(1, 2, 0).numpy()
        # OpenCV places pixels on 32nds.
        assert np.abs(ours - theirs.astype(float)).max() <= 6 and np.abs(ours - theirs.astype(float)).mean() < 0.6


# ---------------------------------------------------------------- bad input


def test_refuses_bad_input():
    images, params = pictures(2, 3, 8, 8), sample_perturbation(2, seeded())
    for arguments, error, message in [
        ((images.numpy(), "tilt", 0, "cifar", params), TypeError, "images must be a tensor, got ndarray"),
        ((images.long(), "tilt", 0, "cifar", params), TypeError, "images must be uint8 or float in .*torch.int64"),
        ((images[0], "tilt", 0, "cifar", params), ValueError, r"images must be \(B, C, H, W\).*got shape \(3, 8, 8\)"),
        ((images[:, :2], "tilt", 0, "cifar", params), ValueError, "with 1 or 3 channels"),
        ((images[..., :0], "tilt", 0, "cifar", params), ValueError, "got shape"),
        ((images, "snow", 0, "cifar", params), ValueError, "name must be one of gaussian_noise.*got 'snow'"),
        ((images, "tilt", 0, "svhn", params), ValueError, "preset must be one of cifar, imagenet, got 'svhn'"),
        ((images, "tilt", 31, "cifar", params), ValueError, "t must be from 0 to 30, got 31"),
        ((images, "tilt", -1, "cifar", params), ValueError, "t must be from 0 to 30, got -1"),
        ((images, "tilt", 1.0, "cifar", params), TypeError, "t must be an int, got float"),
        ((images, "tilt", 0, "cifar", None), TypeError, "params must be PerturbationParams.*got NoneType"),
        ((images[:1], "tilt", 0, "cifar", params), ValueError, "params must be drawn for the 1 images, got 2 seeds"),
    ]:
        with pytest.raises(error, match=message):
            frame(*arguments)
    with pytest.raises(ValueError, match="name must be one of"):
        frames(images, "snow", "cifar", params)  # at once, not at the first frame
    with pytest.raises(ValueError, match="batch_size must be from 0 to 1048576, got -1"):
        sample_perturbation(-1)
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None, got int"):
        sample_perturbation(2, 3)
