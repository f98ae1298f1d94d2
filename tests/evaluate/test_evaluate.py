"""evaluate_model: known errors come out, every model sees the same images, and nothing of the model changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import mixaug.evaluate.runner as module
from mixaug.evaluate import evaluate_model
from mixaug.evaluate.corruptions import CORRUPTIONS
from mixaug.evaluate.images import LabelledImages, fingerprint


class Bright(nn.Module):
    """Class 1 for a bright image, class 0 for a dark one; sure by 4 to 1 either way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach().clone())
        bright = (x.mean((1, 2, 3)) > 0.5).float() * self.weight + x.sum() * 0
        return torch.stack([1 - bright, bright], dim=1) * math.log(4)


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.randint(3, (30,), generator=generator)


def blacken(images, name, severity, preset="cifar", generator=None):
    """A corruption whose error is known: the first images go black, more with severity and place of the name."""
    images = images.clone()
    images[: severity * (CORRUPTIONS.index(name) % 3)] = 0
    return images


def test_known_errors_come_out(monkeypatch):
    monkeypatch.setattr(module, "corrupt", blacken)
    images = torch.full((40, 1, 4, 4), 255, dtype=torch.uint8)
    labels = torch.ones(40, dtype=torch.int64)
    labels[:4] = 0  # 10% wrong
    report = evaluate_model(Bright(), (images, labels), attacks=None, audit=False)
    assert report.clean_error.value == pytest.approx(0.1)
    assert report.clean_error.n == 40
    # Black images are right where the label is 0: of the first j images, 4 labels turn right and j - 4 wrong.
    total = 0.0
    for name in CORRUPTIONS:
        for severity in range(1, 6):
            black = severity * (CORRUPTIONS.index(name) % 3)
            wrong = 4 - min(black, 4) + max(0, black - 4)
            assert report.corruption_errors[name][severity - 1].value == pytest.approx(wrong / 40)
            total += wrong / 40
    assert report.mce is not None
    assert report.mce.value == pytest.approx(total / 75)
    assert report.mce_label == "mCE (15)"
    assert report.missing == []
    # All confidences are 0.8, accuracy is 0.9: one bin, a gap of 0.1.
    assert report.rms.value == pytest.approx(0.1, abs=1e-6)
    assert report.ece.value == pytest.approx(0.1, abs=1e-6)


def test_the_last_block_of_corrupted_images_is_counted_too(monkeypatch):
    monkeypatch.setattr(module, "corrupt", lambda images, *_, **__: images * 0)
    monkeypatch.setattr(module, "CORRUPTION_BLOCK", 7)
    images, labels = torch.full((17, 1, 4, 4), 255, dtype=torch.uint8), torch.ones(17, dtype=torch.int64)
    report = evaluate_model(
        Bright(), (images, labels), attacks=None, audit=False, corruption_names=["fog"], batch_size=3
    )
    assert report.mce is not None
    assert (report.mce.value, report.mce.n) == (1.0, 17)
    assert report.mce_label == "mean corruption error (1 of 15)"
    assert "glass_blur" in report.missing


@pytest.mark.parametrize("preset", ["cifar", "imagenet"])
def test_each_model_sees_the_same_images_whatever_its_batch_size(data, preset):
    seen = []
    for batch_size in (30, 7):
        model = Bright()
        names = ["gaussian_noise", "fog", "glass_blur"]
        evaluate_model(
            model,
            (data[0], data[1] % 2),
            attacks=None,
            audit=False,
            corruptions=preset,
            corruption_names=names,
            n_corruption=20,
            batch_size=batch_size,
            seed=3,
        )
        seen.append(torch.cat(model.seen))
    assert torch.equal(*seen)
    # The first 16 to see what the model is, all of them clean and normalised in two ways, the corrupted ones.
    assert len(seen[0]) == 16 + 30 + 2 * 30 + 3 * 5 * 20


def test_the_same_seed_repeats_and_another_differs(data):
    def outcomes(seed):
        settings = {
            "corruption_names": ["shot_noise", "frost"],
            "n_attack": 11,
            "attacks": "pgd",
            "audit": False,
            "n_corruption": 20,
        }
        return evaluate_model(small_model(), data, seed=seed, **settings).outcomes

    one, two, other = outcomes(1).to_json(), outcomes(1).to_json(), outcomes(2).to_json()
    assert one == two
    assert one["corruption_index"] != other["corruption_index"]


def test_the_global_random_state_is_neither_used_nor_moved(data):
    model = small_model()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    evaluate_model(model, data, corruption_names=CORRUPTIONS, n_corruption=2, n_attack=2, attacks="pgd", audit=False)
    assert torch.equal(before, torch.get_rng_state())


def test_the_model_is_left_as_it_was(data):
    model = small_model()
    model[1].eval()
    model[4].bias.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before = fingerprint(dict(model.state_dict()))

    def careless(net, images, labels):
        net.train()  # and does not put it back; its backward pass reaches the parameters
        images = images.clone().requires_grad_()
        net(images).sum().backward()
        net.eval()
        return images.detach()

    frozen = nn.Module.state_dict(model)["1.running_mean"].clone()
    model[1].momentum = 0.0  # its own statistics are its own affair: keep them from moving
    evaluate_model(model, data, attacks={"careless": careless}, audit=False, corruptions=None)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert model[0].weight.grad is None
    assert not model[4].bias.requires_grad
    assert torch.equal(frozen, model[1].running_mean)
    model[1].num_batches_tracked.zero_()
    assert fingerprint(dict(model.state_dict())) == before


def test_modes_come_back_after_an_error(data):
    model = small_model()
    model[2].eval()

    def fails(net, images, labels):
        raise RuntimeError("no attack")

    with pytest.raises(RuntimeError, match="no attack"):
        evaluate_model(model, data, attacks={"fails": fails}, audit=False, corruptions=None)
    assert [m.training for m in model] == [True, True, False, True, True]


def test_a_map_style_data_set_gives_the_same_as_tensors(data, monkeypatch):
    from torchvision.transforms.v2.functional import to_pil_image

    images, labels = data
    settings = {"corruption_names": ["snow"], "n_attack": 5, "attacks": "pgd", "audit": False}
    expected = evaluate_model(small_model(), data, **settings).to_json()["outcomes"]
    pictures = [(to_pil_image(image), int(label)) for image, label in zip(images, labels, strict=True)]
    assert evaluate_model(small_model(), pictures, **settings).to_json()["outcomes"] == expected
    monkeypatch.setattr("mixaug.evaluate.images.IN_MEMORY_BYTES", 0)
    lazy = evaluate_model(small_model(), pictures, **settings)
    assert lazy.to_json()["outcomes"] == expected
    floats = [(image.float() / 255, label) for image, label in zip(images, labels, strict=True)]
    assert evaluate_model(small_model(), floats, **settings).to_json()["outcomes"] == expected


def test_images_and_labels_attributes_and_class_names(data):
    class Part:
        images, labels = data
        classes = ("cat", "dog", "eel")

    report = evaluate_model(small_model(), Part(), attacks=None, corruptions=None, audit=False)
    assert report.class_name(2) == "eel"
    assert report.settings["n_clean"] == 30


def test_the_device_is_put_back_and_progress_shows(data, capsys):
    model = small_model()
    evaluate_model(
        model, data, device="cpu", corruption_names=["fog"], n_attack=2, attacks="pgd", audit=False, progress=True
    )
    assert model[0].weight.device.type == "cpu"


def test_refuses_bad_arguments(data):
    images, labels = data
    model = small_model()
    for settings, error, message in [
        (
            {"attacks": "strong"},
            ValueError,
            "attacks must be 'pgd', 'quick', 'standard', 'autoattack', None, attacks or names to attacks, got 'strong'",
        ),
        ({"corruption_names": ["fog"]}, ValueError, "corruption_names must be None where corruptions is None, got"),
        ({"n_audit": 3}, ValueError, "n_audit must be None where audit is False, got 3"),
        ({"attacks": {"x": 3}}, TypeError, r"attacks\['x'\] must be callable, got int"),
        (
            {"corruptions": "mnist"},
            ValueError,
            "corruptions must be 'cifar', 'imagenet', a CorruptedSet or None, got 'mnist'",
        ),
        ({"corruptions": "cifar", "corruption_names": ["rain"]}, ValueError, "got 'rain'"),
        ({"corruptions": "cifar", "corruption_names": []}, ValueError, "names must be one or more of .*, got none"),
        ({"corruptions": "cifar", "n_corruption": 31}, ValueError, "n_corruption must be at most the 30 images"),
        ({"attacks": "pgd", "n_attack": 0}, ValueError, r"n_attack\S* must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 to"),
        ({"seed": -1}, ValueError, "seed must be from 0 to"),
        ({"eps": 8}, ValueError, r"eps must be from 0 to 1, got 8; did you mean 8/255\?"),
        ({"attacks": {"big": lambda m, x, y: x * 3}}, ValueError, r"must return images in \[0, 1\]"),
        ({"attacks": {"nan": lambda m, x, y: x * float("nan")}}, ValueError, r"must return images in \[0, 1\]"),
        ({"attacks": {"cut": lambda m, x, y: x[..., 1:]}}, ValueError, "must return images of shape"),
    ]:
        with pytest.raises(error, match=message):
            evaluate_model(model, data, **({"corruptions": None, "attacks": None, "audit": False} | settings))
    for dataset, error, message in [
        (3, TypeError, "dataset must be"),
        (images, TypeError, "dataset must be"),
        ([], ValueError, "1 image or more"),
        ((images, labels.float()), TypeError, "labels must be an integer tensor"),
        ((images, labels[:3]), ValueError, r"labels must have shape \(30,\)"),
        ((images[0], labels), ValueError, r"images must have shape \(N, C, H, W\)"),
        ((images[:0], labels[:0]), ValueError, "1 image or more"),
        ((images.long(), labels), TypeError, "uint8 or floating point"),
        ((images.float(), labels), ValueError, "normalise inside the model"),
        ((images, labels - 5), ValueError, "label at index 0 must be at least 0, got -"),
        ((images, labels + 5), ValueError, "below the model's 3 classes"),
        ([images[0]], TypeError, r"items must be \(image, label\)"),
        ([(images[0, 0], 1)], ValueError, r"image at index 0 must have shape \(C, H, W\)"),
        ([(images[0], 0), (images[0], -1)], ValueError, "label at index 1 must be at least 0, got -1"),
        ([(images[0], 1), (images[0, :, 1:], 1)], ValueError, "one size"),
    ]:
        with pytest.raises(error, match=message):
            evaluate_model(model, dataset, attacks=None, audit=False, corruptions=None)
    with pytest.raises(TypeError, match="model must be"):
        evaluate_model("model", data)
    with pytest.raises(ValueError, match="model must return logits"):
        evaluate_model(nn.Identity(), data, attacks=None, audit=False, corruptions=None)


def test_logits_that_are_not_finite_are_an_error_that_says_where(data, monkeypatch):
    class Breaks(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3) / (x.amax((1, 2, 3)) > 0).float()[:, None]

    monkeypatch.setattr(module, "corrupt", lambda images, *_, **__: images * 0)
    with pytest.raises(FloatingPointError, match="not finite on fog of severity 1"):
        evaluate_model(Breaks(), data, corruption_names=["fog"], attacks=None, audit=False)


def test_labelled_images_take_and_length(data):
    labelled = LabelledImages(data)
    images, labels = labelled.take(torch.tensor([3, 1]))
    assert len(labelled) == 30
    assert torch.equal(images, data[0][[3, 1]])
    assert labels.dtype == torch.int64
