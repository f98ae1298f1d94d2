"""All corruptions, both presets, against the slow plain forms, from the same random numbers; the forms in torch for
other devices against the compiled loops; and what OpenCV, PIL and SciPy do where they are the definition."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import reference_corruptions as reference
import torch

from mixaug.evaluate import corruptions
from mixaug.evaluate.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, PRESETS, SEVERITIES, corrupt
from mixaug.evaluate.corruptions.blur import copy_near, copy_near_torch, disk
from mixaug.evaluate.corruptions.digital import affine_of_points, pixelate, pixelate_torch
from mixaug.evaluate.corruptions.filters import (
    border,
    convolve,
    convolve_torch,
    directional_blur,
    directional_blur_torch,
    gaussian_blur,
    gaussian_matrix,
)
from mixaug.evaluate.corruptions.frost import frost_crops, frost_texture, scaled_textures
from mixaug.evaluate.corruptions.jpeg import jpeg_compression
from mixaug.evaluate.corruptions.noise import poisson_tables, poisson_torch, shot_noise
from mixaug.evaluate.corruptions.spatter import water
from mixaug.evaluate.corruptions.tables import TABLES
from mixaug.evaluate.corruptions.warps import mean_of_zooms, mean_of_zooms_torch, warp, warp_torch

ALL = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)


def has_opencv() -> bool:
    """Whether OpenCV can be imported; on a machine without libGL it may be installed and fail."""
    try:
        importlib.import_module("cv2")
    except ImportError:
        return False
    return True


needs_opencv = pytest.mark.skipif(not has_opencv(), reason="needs OpenCV")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, channels: int, h: int, w: int) -> torch.Tensor:
    """Smooth images with edges and all levels, uint8."""
    coarse = torch.rand(n, channels, 4, 5, generator=seeded(9))
    smooth = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=True)
    edges = torch.nn.functional.interpolate(coarse, size=(h, w), mode="nearest")
    return ((0.7 * smooth + 0.6 * edges - 0.15).clamp(0, 1) * 255).round().to(torch.uint8)


class Draws:
    """The random numbers of a call, drawn again in its order, for one image of the batch."""

    def __init__(self, number: int) -> None:
        self.generator, self.number = seeded(3), number

    def uniform(self, *shape: int, axis: int = 0) -> np.ndarray:
        return torch.rand(shape, generator=self.generator).select(axis, self.number).double().numpy()

    def normal(self, *shape: int) -> np.ndarray:
        return torch.randn(shape, generator=self.generator)[self.number].double().numpy()


def by_hand(name: str, image: np.ndarray, setting, draws: Draws, n: int) -> np.ndarray:
    """The reference's result, with the draws in the order that the package makes them in."""
    h, w, c = image.shape
    function = getattr(reference, name)
    many = setting if isinstance(setting, tuple) else (setting,)
    if name in ("gaussian_noise", "speckle_noise"):
        return function(image, *many, draws.normal(n, c, h, w).transpose(1, 2, 0))
    if name in ("shot_noise", "impulse_noise"):
        return function(image, *many, draws.uniform(n, c, h, w).transpose(1, 2, 0))
    if name == "glass_blur":
        reach = setting[1]
        return function(image, *many, draws.uniform(n, setting[2], h - 2 * reach, w - 2 * reach))
    if name == "motion_blur":
        return function(image, *many, float(draws.uniform(n)))
    if name == "snow":
        normals = draws.normal(n, 1, h, w)[0]
        return function(image, *many, normals, float(draws.uniform(n)))
    if name == "fog":
        side, step, grids = 2 ** (max(h, w) - 1).bit_length(), 2 ** (max(h, w) - 1).bit_length(), []
        while step >= 2:
            grids += [draws.uniform(n, side // step, side // step) * 2 - 1 for _ in range(3)]
            step //= 2
        return function(image, *many, grids)
    if name == "frost":
        texture = frost_texture(torch.zeros(n, c, h, w), draws.generator)[draws.number]
        return function(image, *many, texture.permute(1, 2, 0).double().numpy())
    if name == "elastic_transform":
        shifts = draws.uniform(n, 3, 2) * 2 - 1
        noise = draws.uniform(2, n, h, w, axis=1) * 2 - 1 if setting[0] else None
        return function(image, *many, shifts, noise)
    if name == "spatter":
        return function(image, *many, draws.normal(n, h, w))
    return function(image, *many)


# A value that lies a rounding from a jump (a pixel where a nearest neighbour changes, a threshold) may take the other
# side: shares of values that may be off by more than a level.
_STRAY = {"motion_blur": 0.002, "snow": 0.002, "glass_blur": 0.008, "spatter": 0.005}


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ALL)
def test_equal_to_the_plain_form(name, preset, severity):
    setting = TABLES[preset][name][severity - 1]
    if name == "spatter" and not setting[-1]:
        pytest.importorskip("cv2", exc_type=ImportError)
    shapes = [(2, 3, 29, 26)] + ([(2, 1, 21, 24)] if name != "saturate" else [])
    for shape in shapes:
        images = pictures(*shape)
        out = corrupt(images, name, severity, preset, seeded(3))
        for number in range(2):
            image = images[number].permute(1, 2, 0).numpy()
            expected = np.clip(by_hand(name, image, setting, Draws(number), 2), 0, 255)
            # To the nearest level, of two that are as near either.
            off = np.abs(out[number].permute(1, 2, 0).numpy() - expected) > 0.51
            assert off.mean() <= _STRAY.get(name, 0.0), (shape, number)


@pytest.mark.parametrize("name", ["defocus_blur", "zoom_blur", "pixelate", "contrast", "gaussian_blur", "brightness"])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 1, 1, 7), (1, 3, 2, 3), (1, 3, 5, 40)])
def test_thin_images_equal_the_plain_form(name, shape):
    images = pictures(*shape)
    for preset in PRESETS:
        for severity in (1, 5):
            setting = TABLES[preset][name][severity - 1]
            if name == "defocus_blur" and min(shape[2:]) <= 8:
                continue  # numpy.pad reflects at one distance otherwise; the border is tested by itself
            expected = reference.finished(by_hand(name, images[0].permute(1, 2, 0).numpy(), setting, Draws(0), 1))
            out = corrupt(images, name, severity, preset)[0].permute(1, 2, 0).numpy().astype(int)
            assert np.abs(out - expected).max() <= 1


# ---------------------------------------------------------------- the forms for other devices


@pytest.mark.parametrize("shape", [(3, 3, 19, 23), (2, 1, 8, 40), (1, 3, 1, 1), (1, 3, 3, 2)])
def test_torch_forms_equal_the_compiled_loops(shape):
    n, _, h, w = shape
    images = torch.rand(shape, generator=seeded())
    for setting in (*TABLES["cifar"]["defocus_blur"], *TABLES["imagenet"]["defocus_blur"]):
        assert convolve(images, disk(*setting)).allclose(convolve_torch(images, disk(*setting)), atol=2e-6)
    for radius, sigma in ((6, 1), (20, 15)):
        degrees = torch.rand(n, generator=seeded(1)) * 360
        assert directional_blur(images, radius, sigma, degrees).allclose(
            directional_blur_torch(images, radius, sigma, degrees), atol=1e-6
        )
    for factors in ([1.0, 1.11, 1.3], np.arange(1, 1.31, 0.03).tolist()):
        assert mean_of_zooms(images, factors).allclose(mean_of_zooms_torch(images, factors), atol=1e-5)
    for mode in ("reflect", "reflect101", "nearest"):
        affine = torch.eye(2, 3) + torch.randn(n, 2, 3, generator=seeded(2)) * torch.tensor([0.1, 0.1, 30.0])
        offsets = torch.randn(2, n, h, w, generator=seeded(3)) * 5
        for moves in (None, offsets):
            both = warp(images, affine, moves, mode), warp_torch(images, affine, moves, mode)
            assert both[0].allclose(both[1], atol=2e-4)
    for scale in (0.95, 0.65, 0.25):
        assert pixelate(images, scale, None).equal(pixelate_torch(images, scale))


@pytest.mark.parametrize("mode", ["nearest", "reflect", "reflect101"])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_blur_row_by_row_is_the_matrix(sigma, mode):
    images = torch.rand(2, 3, 100, 70, generator=seeded())
    rows, columns = (gaussian_matrix(size, sigma, truncate=4, mode=mode) for size in (100, 70))
    assert gaussian_blur(images, sigma, mode=mode).allclose(rows @ images @ columns.T, atol=1e-6)
    small = torch.rand(1, 1, 5, 60, generator=seeded())  # the radius is beyond the rows
    rows, columns = (gaussian_matrix(size, sigma, truncate=4, mode=mode) for size in (5, 60))
    assert gaussian_blur(small, sigma, mode=mode).allclose(rows @ small @ columns.T, atol=1e-6)


@pytest.mark.parametrize(("reach", "rounds"), [(1, 1), (1, 2), (2, 3), (4, 2)])
def test_copies_found_by_doubling_are_those_made_one_by_one(reach, rounds):
    images = torch.rand(3, 2, 17, 14, generator=seeded())
    shape = (3, rounds, 17 - 2 * reach, 14 - 2 * reach)
    codes = torch.randint(0, (2 * reach) ** 2, shape, dtype=torch.uint8, generator=seeded(1))
    assert copy_near(images, codes, reach).equal(copy_near_torch(images, codes, reach))
    # The longest chain there can be: every pixel copies the one after it.
    codes.fill_(reach * 2 * reach + min(reach + 1, 2 * reach - 1) if reach > 1 else 2)
    assert copy_near(images, codes, reach).equal(copy_near_torch(images, codes, reach))


@pytest.mark.parametrize("rate", [3, 60, 500])
def test_counts_of_shot_noise(rate):
    """The look-up equals SciPy's quantile function, in both forms, and hardly loses a tail."""
    from scipy import stats

    levels = torch.arange(256, dtype=torch.uint8).repeat_interleave(64).view(1, 1, 128, 128)
    out = shot_noise(levels / 255, rate, seeded(4)) * rate
    u = torch.rand(levels.shape, generator=seeded(4))
    expected = stats.poisson.ppf(u.double().numpy(), levels.double().numpy() / 255 * rate)
    assert (np.abs(out.numpy() - expected) > 0.01).mean() < 2e-4  # a uniform of 24 bits on an edge of 53
    assert np.abs(out.numpy() - expected).max() < 1.01
    assert poisson_torch(levels / 255, u, rate).allclose(out / rate, atol=1e-5)
    edge = torch.full((1, 1, 1, 1), 1 - 2**-24)
    assert poisson_torch(torch.ones(1, 1, 1, 1), edge, rate) * rate < rate + 8 * rate**0.5 + 13
    cumulative, guide = poisson_tables(rate)
    assert (cumulative[:, -2] > 1 - 1e-6).all() and guide.min() == 0 and len(guide) == 256


def test_affine_of_points_is_solved():
    shift = torch.randn(5, 3, 2, generator=seeded())
    points = np.array([[16, 15], [16, 5], [6, 5]], float)
    for back, moved in zip(affine_of_points(11, 10, 5, shift), shift.double().numpy(), strict=True):
        there = np.hstack([points + moved, np.ones((3, 1))])
        assert np.abs(there @ back.double().numpy().T - points).max() < 1e-4


# ---------------------------------------------------------------- JPEG, spatter and frost


@pytest.mark.parametrize(
    "shape", [(32, 32), (28, 28), (17, 23), (1, 1), (2, 3), (5, 4), (6, 5), (3, 6), (15, 16), (4, 33), (40, 9)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_the_file_of_pil_to_the_bit(shape, channels):
    noise = torch.randint(0, 256, (channels, *shape), dtype=torch.uint8, generator=seeded())
    for image in (noise, pictures(1, channels, *shape)[0]):
        for quality in (1, 7, 10, 25, 40, 50, 65, 80, 100):
            expected = reference.jpeg_compression(image.permute(1, 2, 0).contiguous().numpy(), quality)
            out = jpeg_compression(image[None].float() / 255, quality, None)[0].permute(1, 2, 0) * 255
            assert (out - torch.from_numpy(expected)).abs().max() < 1e-3


@needs_opencv
@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("size", [(32, 32), (64, 51), (9, 40)])
def test_water_is_opencvs(size, sigma):
    layers = gaussian_blur(0.65 + 0.3 * torch.randn(6, *size, generator=seeded(int(sigma))), sigma)
    layers = (torch.where(layers < 0.68, 0.0, layers) * 255).to(torch.int64).to(torch.uint8)
    made = water(layers)
    expected = np.stack([reference.water(layer) for layer in layers.numpy()])
    # OpenCV 5 keeps distances in floats, its earlier versions in 16 bits as here: a mean of nine may round otherwise.
    off = np.abs(made.numpy() - expected) > 1e-5
    assert off.mean() < 0.01 and abs(made.mean() / expected.mean() - 1) < 1e-3
    assert made.amax((1, 2)).sub(1).abs().max() < 1e-6


def test_water_without_drops_changes_nothing(monkeypatch):
    assert water(torch.zeros(2, 6, 7, dtype=torch.uint8)).abs().sum() == 0
    monkeypatch.setitem(TABLES["cifar"], "spatter", ((0.1, 0.0, 0.7, 0.7, 0.5, 0),) * 5)
    images = pictures(1, 3, 12, 12)
    assert corrupt(images, "spatter", 1).equal(images)


def test_mud_hides_and_water_brightens():
    dark = torch.full((8, 3, 64, 64), 10, dtype=torch.uint8)
    for preset in PRESETS:
        wet, muddy = corrupt(dark, "spatter", 3, preset, seeded()), corrupt(dark, "spatter", 5, preset, seeded())
        assert (wet >= dark).all() and (wet.float().mean((0, 2, 3)).diff()[0] > 0)  # pale turquoise: less red
        assert wet[:, 1].equal(wet[:, 2])
        brown = muddy.flatten(2).amax((0, 2)).tolist()
        assert brown[0] <= 63 and brown[1] <= 42 and brown[2] <= 20 and brown[0] > 55
    bright = torch.full((2, 3, 64, 64), 250, dtype=torch.uint8)
    assert corrupt(bright, "spatter", 5, generator=seeded()).amin() < 30


def test_frost_takes_photographs():
    textures = [torch.full((3, 400, 300), 200, dtype=torch.uint8), pictures(1, 3, 90, 500)[0]]
    images = pictures(40, 3, 32, 32)
    out = corrupt(images, "frost", 3, "cifar", seeded(2), frost_textures=textures)
    ready = scaled_textures(textures, 0.2, 32, 32, torch.device("cpu"))
    assert ready[0].shape == (3, 80, 60) and ready[1].shape[1] == 36  # one smaller than the image is enlarged
    crops = frost_crops(images.float(), ready, seeded(2))
    for number in (0, 7, 21):
        crop, image = crops[number].permute(1, 2, 0).double().numpy(), images[number].permute(1, 2, 0).numpy()
        expected = reference.finished(reference.frost(image, 0.9, 0.4, crop)).astype(int)
        assert np.abs(out[number].permute(1, 2, 0).numpy() - expected).max() <= 1
    plain = crops.flatten(1).std(1) < 1e-6
    assert 8 <= plain.sum() <= 32  # about half from each texture
    second = ready[1].unfold(1, 32, 1).unfold(2, 32, 1).flatten(1, 2).transpose(0, 1)
    for crop in crops[~plain][:5]:
        assert (second - crop).abs().amax((1, 2, 3)).min() < 1e-6  # each is cut from it as it is
    grey = corrupt(images[:, :1], "frost", 3, "imagenet", seeded(2), frost_textures=textures[:1])
    assert (grey.float() - (0.7 * images[:, :1].float() + 140).clamp(0, 255)).abs().max() <= 1


@pytest.mark.parametrize(
    ("textures", "error", "message"),
    [
        ([], ValueError, "must hold 1 texture or more"),
        ([torch.zeros(3, 4, 4)], TypeError, "must be uint8 tensors, got torch.float32"),
        ([torch.zeros(4, 4, dtype=torch.uint8)], ValueError, r"must have shape \(3, h, w\), got \(4, 4\)"),
    ],
)
def test_bad_photographs(textures, error, message):
    with pytest.raises(error, match=message):
        corrupt(pictures(1, 3, 8, 8), "frost", 1, frost_textures=textures)


# ---------------------------------------------------------------- parts, formats, devices


@pytest.mark.parametrize("name", ALL)
def test_a_batch_goes_through_in_parts(name, monkeypatch):
    images = pictures(7, 3, 16, 12)
    monkeypatch.setattr(corruptions, "CHUNK", 3 * 16 * 12 * 2)
    seen = []
    function = corruptions._FUNCTIONS[name]

    def counted(some, setting, generator):
        seen.append(len(some))
        return function(some, setting, generator)

    monkeypatch.setitem(corruptions._FUNCTIONS, name, counted)
    out = corrupt(images, name, 4, generator=seeded(8))
    generator = seeded(8)
    parts = [corrupt(part, name, 4, generator=generator) for part in images.split(2)]
    assert out.equal(torch.cat(parts)) and seen == [2, 2, 2, 1] * 2


@pytest.mark.parametrize("name", ALL)
def test_memory_formats_dtypes_and_gradients(name):
    images = pictures(3, 3, 12, 14)
    last = images.to(memory_format=torch.channels_last)
    out = corrupt(last, name, 2, generator=seeded())
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.equal(corrupt(images, name, 2, generator=seeded()))
    strided = images.repeat(1, 1, 1, 2)[..., ::2].contiguous()
    turned = strided.transpose(2, 3).contiguous().transpose(2, 3)
    assert corrupt(turned, name, 2, generator=seeded()).equal(corrupt(strided, name, 2, generator=seeded()))
    floats = (images.float() / 255).requires_grad_()
    before = floats.detach().clone()
    made = corrupt(floats, name, 2, generator=seeded())
    assert not made.requires_grad and floats.detach().equal(before)
    assert (made * 255).round().to(torch.uint8).sub(out).abs().max() == 0
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert corrupt(images.to(dtype) / 255, name, 2, generator=seeded()).dtype == dtype


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "elastic_transform", "spatter"])
def test_threads_change_nothing(name):
    images = pictures(5, 3, 20, 20)
    before = torch.get_num_threads()
    try:
        made = []
        for count in (1, 3):
            torch.set_num_threads(count)
            made.append(corrupt(images, name, 3, "imagenet", seeded()))
    finally:
        torch.set_num_threads(before)
    assert made[0].equal(made[1])


def test_border_of_the_loops_is_the_tensors():
    from mixaug.evaluate.corruptions._kernels import MODES, _inside

    for mode, number in MODES.items():
        for size in (1, 2, 5):
            places = torch.arange(-17, 25)
            expected = border(places, size, mode).tolist()
            assert [_inside(place, size, number) for place in places.tolist()] == expected


@pytest.mark.parametrize("name", [name for name in ALL if name != "jpeg_compression"])
def test_nothing_waits_for_a_gpu(name, fake_cuda):
    """On fake tensors a value that the host would have to read raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for preset in PRESETS:
        for severity in (1, 5):
            if name == "spatter" and severity == 1:
                continue  # its water is made on the CPU
            setting = TABLES[preset][name][severity - 1]
            function = corruptions._FUNCTIONS[name]
            function(torch.rand(2, 3, 24, 20, generator=seeded()), setting, seeded())  # tables are real, and kept
            with FakeTensorMode(allow_non_fake_inputs=True):
                out = function(torch.empty(2, 3, 24, 20, device="cuda"), setting, None)
                assert out.device.type == "cuda" and out.shape == (2, 3, 24, 20) and out.dtype == torch.float32
