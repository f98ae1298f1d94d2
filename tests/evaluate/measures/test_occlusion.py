"""Occlusion: hidden pixels against a loop over pixels, orders that repeat and nest, and the curve of known models."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from mixaug.evaluate import OcclusionCurve, occlusion_curve
from mixaug.evaluate.images import fingerprint
from mixaug.evaluate.measures.occlusion import RATIOS, occlude, occlusion_figure, patch_size_of, sample_patch_order


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_occlude(images: Tensor, order: Tensor, ratio: float, side: int, fill: list) -> Tensor:
    """Pixel by pixel: hidden where the patch of the pixel is among the first of its image's order."""
    result = images.clone()
    _, channels, height, width = images.shape
    columns = math.ceil(width / side)
    for i, row in enumerate(order.tolist()):
        first = row[: round(ratio * len(row))]
        for y in range(height):
            for x in range(width):
                if (y // side) * columns + x // side in first:
                    for c in range(channels):
                        result[i, c, y, x] = fill[c]
    return result


def small_model(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, classes)
    )


class Brightness(nn.Module):
    """Class 1 where the mean of the pixels is above a threshold, else 0; keeps the pictures it saw."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        above = images.mean((1, 2, 3)) - self.threshold
        return torch.stack([-above, above], 1)


class NotFinite(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4] / 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 2), (7, 10, 3), (5, 9, 4), (4, 6, 6), (3, 3, 1)])
def test_pixels_are_hidden_as_a_loop_over_pixels_hides_them(dtype, height, width, side):
    images = torch.randint(1, 256, (3, 3, height, width), generator=seeded())
    images = images.to(dtype) if dtype == torch.uint8 else (images / 255).to(dtype)
    fill = [0, 9, 255] if dtype == torch.uint8 else [0.0, 0.25, 1.0]
    order = sample_patch_order(3, height, width, side, seeded(1))
    before = images.clone()
    for ratio in (0.0, 0.1, 0.45, 0.9, 1.0):
        got = occlude(images, order, ratio, side, fill)
        assert got.dtype == dtype and torch.equal(got, slow_occlude(images, order, ratio, side, fill))
        black = occlude(images, order, ratio, side)
        assert torch.equal(black, slow_occlude(images, order, ratio, side, [0, 0, 0]))
    assert torch.equal(images, before)


def test_memory_format_strides_and_empty_batches():
    images = torch.rand(2, 3, 6, 8, generator=seeded())
    order = sample_patch_order(2, 6, 8, 2, seeded())
    plain = occlude(images, order, 0.5, 2)
    last = occlude(images.contiguous(memory_format=torch.channels_last), order, 0.5, 2)
    assert plain.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous() and torch.equal(plain, last)
    assert torch.equal(occlude(images.mT.contiguous().mT, order, 0.5, 2), plain)
    untouched = occlude(images, order, 0.0, 2)
    assert torch.equal(untouched, images) and untouched.data_ptr() != images.data_ptr()
    assert occlude(images[:0], order[:0], 0.5, 2).shape == (0, 3, 6, 8)
    assert sample_patch_order(0, 6, 8, 2).shape == (0, 12)


def test_the_number_of_hidden_patches_is_the_rounded_share_and_halves_go_to_even():
    images = torch.ones(1, 1, 5, 6)
    order = sample_patch_order(1, 5, 6, 1, seeded())
    for ratio, hidden in [(0.0, 0), (0.05, 2), (0.1, 3), (0.55, 16), (0.25, 8), (0.9, 27), (1.0, 30)]:
        assert int((occlude(images, order, ratio, 1) == 0).sum()) == hidden, ratio


def test_what_is_hidden_stays_hidden_at_larger_ratios():
    images = torch.ones(4, 1, 28, 28)
    order = sample_patch_order(4, 28, 28, 2, seeded())
    hidden = [occlude(images, order, ratio, 2) == 0 for ratio in RATIOS]
    assert all(bool((more | ~less).all()) for less, more in pairwise(hidden))
    assert [int(mask.sum()) for mask in hidden] == [4 * 4 * round(ratio * 196) for ratio in RATIOS]


def test_orders_are_permutations_uniform_and_of_each_image():
    orders = sample_patch_order(6000, 4, 6, 2, seeded())
    assert torch.equal(orders.sort(1).values, torch.arange(6).expand(6000, 6))
    # Each patch is first in 1000 of 6000 orders; 5 standard deviations are 144.
    counts = torch.bincount(orders[:, 0], minlength=6)
    assert int((counts - 1000).abs().max()) < 144
    assert torch.equal(orders, sample_patch_order(6000, 4, 6, 2, seeded()))
    assert not torch.equal(orders, sample_patch_order(6000, 4, 6, 2, seeded(1)))


def test_patches_are_a_fourteenth_of_the_shorter_side():
    sizes = [(224, 224), (224, 320), (32, 32), (28, 28), (64, 64), (96, 96), (8, 8), (5, 3)]
    assert [patch_size_of(*size) for size in sizes] == [16, 16, 2, 2, 5, 7, 1, 1]


def test_a_model_of_the_mean_brightness_has_a_curve_known_by_hand():
    # White images of 16 patches: hiding k of them leaves a mean of 1 - k / 16, so they are right up to 7 of 16.
    data = (torch.ones(5, 3, 4, 4), torch.ones(5, dtype=torch.int64))
    ratios = (0.0, 0.25, 7 / 16, 9 / 16, 1.0)
    curve = occlusion_curve(Brightness(0.5), data, ratios, patch_size=1)
    assert curve.ratios == ratios and curve.patch_size == 1 and curve.fill == 0.0
    assert [estimate.value for estimate in curve.accuracy] == [1, 1, 1, 0, 0]
    assert curve.area.value == pytest.approx(0.6) and curve.area.method == "bootstrap"
    assert {(estimate.n, estimate.method) for estimate in curve.accuracy} == {(5, "wilson")}
    assert curve.accuracy[0].low == pytest.approx(0.5655, abs=1e-4) and curve.accuracy[0].high == 1
    # Hidden by white, nothing changes; the fill is in the unit of [0, 1].
    assert occlusion_curve(Brightness(0.5), data, ratios, patch_size=1, fill=1.0).area.value == 1
    colours = occlusion_curve(Brightness(0.5), data, (1.0,), patch_size=1, fill=(1, 1, 0.0))
    assert colours.area.value == 1 and colours.fill == (1.0, 1.0, 0.0)


def test_the_default_ratios_and_the_mean_over_images_of_different_fate():
    # 13 of 14 columns black: how much is hidden of the white one decides, so images differ.
    images = torch.zeros(40, 1, 14, 14)
    images[..., 3] = 1
    curve = occlusion_curve(Brightness(7.5 / 196), (images, torch.ones(40, dtype=torch.int64)))
    values = [estimate.value for estimate in curve.accuracy]
    assert curve.ratios == RATIOS and curve.patch_size == 1
    assert values[0] == 1 and values == sorted(values, reverse=True) and 0 < values[5] < 1 and values[9] == 0
    assert curve.area.value == pytest.approx(sum(values) / 10)
    assert curve.area.low < curve.area.value < curve.area.high


def test_two_models_see_the_same_pictures_whatever_the_batches_and_the_subset():
    data = (torch.rand(12, 3, 10, 10, generator=seeded()), torch.arange(12) % 2)
    one, two, three, other = (Brightness(0.3) for _ in range(4))
    first = occlusion_curve(one, data, (0.5,), seed=4)
    second = occlusion_curve(two, data, (0.5,), seed=4, batch_size=5)
    occlusion_curve(three, data, (0.5,), seed=4, n=6)
    occlusion_curve(other, data, (0.5,), seed=5)
    pictures = torch.cat(one.seen)
    assert torch.equal(pictures, torch.cat(two.seen)) and torch.equal(first.correct, second.correct)
    assert len(torch.cat(three.seen)) == 6
    assert all(any(torch.equal(few, picture) for picture in pictures) for few in torch.cat(three.seen))
    assert not torch.equal(pictures, torch.cat(other.seen))
    masks = {tuple((picture == 0).all(0).flatten().tolist()) for picture in pictures}
    assert len(masks) == 12  # each image has an order of its own


def test_bytes_are_read_as_floats_and_a_map_style_data_set_too():
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=seeded())
    labels = torch.arange(6) % 3
    model = small_model().eval()
    pairs = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    curves = [occlusion_curve(model, data) for data in ((images, labels), (images / 255, labels), pairs)]
    assert torch.equal(curves[0].correct, curves[1].correct) and torch.equal(curves[0].correct, curves[2].correct)
    with torch.no_grad():
        assert torch.equal(curves[0].correct[0], model(images / 255).argmax(1) == labels)


def test_the_model_the_images_and_the_global_random_state_are_left_as_they_were():
    model = small_model()
    model[1].eval()
    before, state = fingerprint(dict(model.state_dict())), torch.get_rng_state()
    images = torch.ones(6, 3, 8, 8)
    occlusion_curve(model, (images, torch.zeros(6, dtype=torch.int64)), device="cpu")
    assert fingerprint(dict(model.state_dict())) == before
    assert [layer.training for layer in model] == [True, False, True, True, True, True]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state) and bool((images == 1).all())


def test_plain_values_and_figures(tmp_path):
    pytest.importorskip("matplotlib")
    data = (torch.rand(20, 1, 14, 14, generator=seeded()), torch.arange(20) % 2)
    curves = {name: occlusion_curve(Brightness(threshold), data) for name, threshold in [("a", 0.45), ("b", 0.2)]}
    kept = json.loads(json.dumps(curves["a"].to_dict()))
    assert kept["ratios"] == list(RATIOS) and kept["patch_size"] == 1 and kept["fill"] == 0
    assert kept["accuracy"][3] == vars(curves["a"].accuracy[3]) and kept["area"] == vars(curves["a"].area)
    figure = occlusion_figure(curves)
    assert figure.png[:4] == b"\x89PNG" and "n = 20 images" in figure.caption
    path = curves["a"].draw(tmp_path / "new" / "curve.png")
    assert path.read_bytes() == occlusion_figure({"": curves["a"]}).png != figure.png
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]
    with pytest.raises(ValueError, match="of one patch size, got none"):
        occlusion_figure({})
    with pytest.raises(ValueError, match=r"of one patch size, got \[1, 2\]"):
        occlusion_figure({"a": curves["a"], "c": OcclusionCurve((0.0,), torch.ones(1, 2, dtype=torch.bool), 2)})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ratios": 0.5}, TypeError, "ratios must be a sequence of numbers, got float"),
        ({"ratios": ("a",)}, TypeError, "ratio must be a number, got str"),
        ({"ratios": (0.2, 1.1)}, ValueError, r"ratio must be from 0 to 1, got 1\.1"),
        ({"ratios": (float("nan"),)}, ValueError, r"ratio must be from 0 to 1, got nan"),
        ({"ratios": ()}, ValueError, "ratios must be one or more, ascending"),
        ({"ratios": (0.2, 0.1)}, ValueError, r"ratios must be one or more, ascending, got \[0.2, 0.1\]"),
        ({"patch_size": 0}, ValueError, "patch_size must be at least 1, got 0"),
        ({"patch_size": 9}, ValueError, "patch_size must be at most the longer side of the 8x8 images, got 9"),
        ({"patch_size": 2.0}, TypeError, "patch_size must be an int, got float"),
        ({"fill": 2}, ValueError, r"fill must be from 0 to 1, got 2"),
        ({"fill": "black"}, TypeError, "fill must be a number, got str: 'black'"),
        ({"fill": (0.5, 0.5)}, ValueError, "fill must have one value, or one for each of the 3 channels"),
        ({"n": 5}, ValueError, "n must be at most the 4 images"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 to 2147483647"),
        ({"seed": -1}, ValueError, "seed must be from 0 to 9223372036854775807"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    data = (torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(error, match=message):
        occlusion_curve(small_model(), data, **arguments)


def test_refuses_what_is_no_classifier_no_image_or_no_order():
    data = (torch.rand(4, 3, 8, 8), torch.full((4,), 3))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        occlusion_curve("model", data)
    with pytest.raises(ValueError, match="model must return logits of shape"):
        occlusion_curve(nn.Identity(), data)
    with pytest.raises(ValueError, match="labels must lie below the model's 3 classes, got 3"):
        occlusion_curve(small_model(), data)
    with pytest.raises(FloatingPointError, match="logits are not finite on images hidden to 20%"):
        occlusion_curve(NotFinite(), data, (0.2,))
    images = torch.rand(2, 3, 8, 8)
    order = sample_patch_order(2, 8, 8, 2)
    with pytest.raises(TypeError, match=r"images must be uint8 or floating point in \[0, 1\], got torch.int64"):
        occlude(images.long(), order, 0.5, 2)
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\), got \(3, 8, 8\)"):
        occlude(images[0], order, 0.5, 2)
    with pytest.raises(ValueError, match=r"order must have shape \(2, 4\), .* got \(2, 16\)"):
        occlude(images, order, 0.5, 4)
    with pytest.raises(TypeError, match=r"order must be an int64 tensor, got torch.float32"):
        occlude(images, order.float(), 0.5, 2)
    with pytest.raises(ValueError, match=r"fill must be a whole number for torch\.uint8, got 0\.5"):
        occlude(images.byte(), order, 0.5, 2, 0.5)
    with pytest.raises(ValueError, match=r"fill must be from 0 to 255, got 256"):
        occlude(images.byte(), order, 0.5, 2, 256)
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None, got int"):
        sample_patch_order(2, 8, 8, 2, 1)
    with pytest.raises(ValueError, match="batch_size must be from 0 to 1048576, got -1"):
        sample_patch_order(-1, 8, 8, 2)
