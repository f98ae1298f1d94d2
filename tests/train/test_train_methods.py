"""Each method's step against the same computation written out, and the settings' checks."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from mixaug import IPMix, MixingSet
from mixaug.losses import jensen_shannon
from mixaug.train.methods import METHODS, build_step
from mixaug.train.methods.step import Setup
from mixaug.train.settings import METHOD_NAMES, TrainSettings


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch, pictures):
    monkeypatch.setattr(MixingSet, "default", lambda: pictures)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (12, 3, 16, 16), generator=generator) / 255, torch.arange(12) % 5


@pytest.fixture
def model():
    torch.manual_seed(8)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))


def run(method, model, batch, seed=7, **settings):
    step = build_step(Setup(TrainSettings(method=method, **settings), 5, torch.Generator().manual_seed(seed), model))
    torch.manual_seed(seed)
    return step(model, *batch)


def test_standard_is_cross_entropy(model, batch):
    result = run("standard", model, batch)
    torch.testing.assert_close(result.loss, F.cross_entropy(model(batch[0]), batch[1]))
    assert torch.equal(result.labels, batch[1])


@pytest.mark.parametrize(("method", "transform"), [("mixup", v2.MixUp), ("cutmix", v2.CutMix)])
def test_mixed_labels_are_torchvisions(model, batch, method, transform):
    result = run(method, model, batch, alpha=0.7)
    torch.manual_seed(7)
    images, targets = transform(alpha=0.7, num_classes=5)(*batch)
    torch.testing.assert_close(result.loss, F.cross_entropy(model(images), targets))
    assert not torch.equal(images, batch[0])
    assert torch.equal(result.labels, targets.argmax(1))


def test_ipmix_is_the_transform_with_the_given_settings(model, batch, pictures):
    options = {
        "k": 2,
        "t": 2,
        "severity": 2.0,
        "structure": "mixed_input",
        "levels": ("image", "pixel"),
        "all_ops": True,
    }
    result = run("ipmix", model, batch, **options)
    view = IPMix(**options, mixing_set=pictures, generator=torch.Generator().manual_seed(7))(batch[0])
    torch.testing.assert_close(result.loss, F.cross_entropy(model(view), batch[1]))
    assert not torch.equal(view, batch[0])


def test_ipmix_with_consistency(model, batch, pictures):
    result = run("ipmix", model, batch, jsd=True, jsd_weight=5.0)
    ipmix = IPMix(mixing_set=pictures, generator=torch.Generator().manual_seed(7))
    clean, one, two = (model(images) for images in (batch[0], ipmix(batch[0]), ipmix(batch[0])))
    expected = F.cross_entropy(clean, batch[1]) + 5 * jensen_shannon(clean, one, two)
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(result.logits, clean)


@pytest.mark.parametrize("jsd", [False, True])
def test_augmix_is_torchvisions_image_by_image(model, batch, jsd):
    result = run("augmix", model, batch, jsd=jsd)
    torch.manual_seed(7)
    transform = v2.AugMix(all_ops=False)
    pixels = (batch[0] * 255).round().to(torch.uint8)
    views = [model(torch.stack([transform(image) for image in pixels]) / 255) for _ in range(2 if jsd else 1)]
    if jsd:
        clean = model(batch[0])
        expected = F.cross_entropy(clean, batch[1]) + 12 * jensen_shannon(clean, *views)
    else:
        expected = F.cross_entropy(views[0], batch[1])
    torch.testing.assert_close(result.loss, expected)


class Recorder(nn.Module):
    def forward(self, images):
        self.seen = images
        return torch.zeros(len(images), 5, requires_grad=True)


@pytest.mark.parametrize("method", ["augmix", "ipmix"])
def test_equal_images_of_a_batch_become_different(method):
    recorder = Recorder()
    image = torch.randint(0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(1)) / 255
    run(method, recorder, (image.expand(12, -1, -1, -1).contiguous(), torch.zeros(12, dtype=torch.int64)))
    different = {tuple(row.flatten().tolist()) for row in recorder.seen}
    assert len(different) > 8
    assert recorder.seen.min() >= 0 and recorder.seen.max() <= 1


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_inputs_are_left_alone_and_the_gradient_arrives(model, batch, method, channels_last):
    images, labels = batch
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    if method == "adautomix":  # needs a map of places
        model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
    versions, copy = (images._version, labels._version), images.clone()
    run(method, model, (images, labels)).loss.backward()
    assert (images._version, labels._version) == versions and torch.equal(images, copy)
    assert model[-1].weight.grad.abs().sum() > 0


def test_mixing_set_folder_is_used(model, batch, tmp_path, monkeypatch):
    from PIL import Image

    Image.new("RGB", (32, 32), (255, 0, 0)).save(tmp_path / "red.png")
    opened = []
    make = MixingSet.from_folder
    monkeypatch.setattr(MixingSet, "from_folder", lambda path: opened.append(path) or make(path))
    run("ipmix", model, batch, mixing_set=tmp_path)
    assert opened == [str(tmp_path)]


def test_unknown_methods_list_the_right_ones():
    with pytest.raises(ValueError, match=r"method must be one of standard, mixup, .*, hybrid, adautomix, got 'mixed'"):
        TrainSettings(method="mixed")
    assert tuple(METHODS) == METHOD_NAMES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be from 1 to 2147483647, got 0"),
        ({"steps": 0}, "steps must be from 1 to 2147483647, got 0"),
        ({"batch_size": 1}, "batch_size must be from 2 to 1048576, got 1"),
        ({"lr": 0.0}, "lr must be finite and above 0, got 0.0"),
        ({"lr": math.nan}, "lr must be finite and above 0, got nan"),
        ({"lr": math.inf}, "lr must be finite and above 0, got inf"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"validation": 0.95}, "validation must be above 0 and at most 0.5, got 0.95"),
        ({"severity": 11.0}, "severity must be from 0.1 to 10, got 11.0"),
        ({"alpha": -1.0}, "alpha must be finite and above 0, got -1.0"),
        ({"amp": "half"}, "amp must be one of off, bf16, fp16, got 'half'"),
        ({"levels": ("image", "word")}, "levels must be one of image, patch, pixel, got 'word'"),
        ({"levels": ()}, "levels must be one or more of image, patch, pixel, got none"),
        ({"structure": "tree"}, "structure must be one of chain, linear, mixed_input, got 'tree'"),
        ({"method": "mixup", "jsd": True}, "jsd must be used with one of augmix, ipmix, got 'mixup'"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        TrainSettings(**values)


@pytest.mark.parametrize(("name", "value"), [("epochs", 1.5), ("seed", True), ("lr", "0.1"), ("k", None)])
def test_kinds_are_checked(name, value):
    with pytest.raises(TypeError, match=f"{name} must be a"):
        TrainSettings(**{name: value})


def test_settings_survive_json():
    settings = TrainSettings(levels=("patch",), severity=2.5, out="runs/x", steps=7)
    again = TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings and again.differences(settings) == []
    with pytest.raises(ValueError, match="unknown colour"):
        TrainSettings.from_dict({"colour": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.k = 4


def test_differences_name_what_decides_the_result():
    first = TrainSettings()
    assert first.differences(TrainSettings(lr=0.2, k=2)) == ["lr", "k"]
    assert first.differences(TrainSettings(out="elsewhere", device="cpu", workers=2, root="data")) == []


@pytest.mark.parametrize(
    ("values", "folder"),
    [
        ({}, "runs/embedded-resnet-small-ipmix-s0"),
        ({"jsd": True, "seed": 3}, "runs/embedded-resnet-small-ipmix-jsd-s3"),
        ({"data": "folder:/data/my set/", "model": "timm:x"}, "runs/data_my set-timm_x-ipmix-s0"),
        ({"out": Path("a") / "b"}, "a/b"),
    ],
)
def test_default_folders(values, folder):
    assert TrainSettings(**values).folder == Path(folder)


def test_digits_are_not_flipped():
    flips = {name: TrainSettings(data=name).flips for name in ("mnist", "svhn", "digits", "embedded", "cifar10")}
    assert flips == {"mnist": False, "svhn": False, "digits": False, "embedded": True, "cifar10": True}
    assert TrainSettings(data="digits", flip=True).flips
