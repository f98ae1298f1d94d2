"""Models by name: sizes of the literature, heads of every torchvision family, grey images, refusals."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from mixaug.models import MODELS, Normalize, build_model, torchvision_models

# The smallest member of each family of heads and stems in torchvision, with the smallest convenient image.
FAMILIES = {
    "alexnet": 64,
    "vgg11_bn": 32,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "mnasnet0_5": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vit_b_32": 64,
    "maxvit_t": 224,
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "channels", "side", "low", "high"),
    [
        ("lenet5", 1, 28, 61_706, 61_706),
        ("resnet-small", 1, 28, 250_000, 350_000),
        ("resnet18-cifar", 3, 32, 11_170_000, 11_180_000),
        ("wrn-40-4", 3, 32, 8_900_000, 8_960_000),
        ("wrn-28-10", 3, 32, 36_450_000, 36_550_000),
        ("resnext29", 3, 32, 6_800_000, 6_900_000),
    ],
)
def test_parameter_counts_are_those_of_the_literature(name: str, channels: int, side: int, low: int, high: int) -> None:
    with torch.device("meta"):
        assert low <= count(build_model(name, 10, channels, side)) <= high


@pytest.mark.parametrize("name", MODELS)
def test_own_models_learn_from_one_batch(name: str) -> None:
    torch.manual_seed(0)
    side = 16
    model = build_model(name, 3, 2, side)
    images = torch.rand(2, 2, side, side)
    assert isinstance(model[0], Normalize)
    logits = model(images)
    assert logits.shape == (2, 3)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert images._version == 0


def test_wide_resnet_depth_and_residual_depths() -> None:
    with torch.device("meta"):
        for name, depth in (("wrn-40-4", 40), ("wrn-28-10", 28), ("resnet18-cifar", 18), ("resnext29", 29)):
            model = build_model(name, 10)
            main = [
                module
                for path, module in model.named_modules()
                if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in path and "projection" not in path
            ]
            # A Wide ResNet's own count leaves its projections in: 3 stages, so 6n + 4 = 6n convolutions + stem + 3.
            assert len(main) + (2 if name.startswith("wrn") else 0) == depth


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_families_have_our_head(name: str) -> None:
    side = FAMILIES[name]
    if name.startswith("regnet"):  # its constructor reads values, which the meta device has not
        model = build_model(name, 7, 3, side).to("meta")
    else:
        with torch.device("meta"):
            model = build_model(name, 7, 3, side)
    assert isinstance(model[0], Normalize)
    assert model.training
    for mode in (model.train(), model.eval()):
        assert mode(torch.empty(2, 3, side, side, device="meta")).shape == (2, 7)


def test_every_torchvision_classifier_is_named() -> None:
    assert set(FAMILIES) <= set(torchvision_models())
    assert not any(name.startswith(("fcn", "deeplab", "raft", "fasterrcnn", "r3d")) for name in torchvision_models())


def test_torchvision_takes_grey_images_by_repeating_them() -> None:
    torch.manual_seed(0)
    model = build_model("squeezenet1_1", 4, 1, 32, mean=[0.3], std=[0.2]).eval()
    images = torch.rand(2, 1, 32, 32)
    expected = model[1](((images - 0.3) / 0.2).expand(-1, 3, -1, -1))
    torch.testing.assert_close(model(images), expected)
    with pytest.raises(ValueError, match="in_channels must be 1 or 3 for torchvision's resnet18, got 2"):
        build_model("resnet18", 10, 2)


def test_timm_models() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    grey = build_model("timm:resnet10t", 5, 1, 32)
    assert grey(torch.rand(2, 1, 32, 32)).shape == (2, 5)
    transformer = build_model("timm:vit_tiny_patch16_224", 5, 3, 32)
    assert transformer(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"got 'resnet10tt'; did you mean timm:resnet10t"):
        build_model("timm:resnet10tt", 5)


def test_timm_missing_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'mixaug\[timm\]'"):
        build_model("timm:resnet10t", 5)


def test_normalize_values_buffers_and_state() -> None:
    layer = Normalize([0.5, 0.25], [0.5, 0.125])
    images = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1)
    assert layer(images).flatten().tolist() == [1.0, 2.0]
    assert layer(images.half()).dtype == torch.float16
    assert not list(layer.parameters())
    other = Normalize([0.0, 0.0], [1.0, 1.0])
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert other(images).flatten().tolist() == [1.0, 2.0]
    assert "mean=[0.5, 0.25]" in repr(layer)


def test_normalize_bad_input() -> None:
    with pytest.raises(ValueError, match="std must be greater than 0, got"):
        Normalize([0.5], [0.0])
    with pytest.raises(ValueError, match="one value per channel each, got 2 and 1"):
        Normalize([0.5, 0.5], [1.0])
    with pytest.raises(ValueError, match="at least one value"):
        Normalize([], [])
    with pytest.raises(ValueError, match="repeat must be 1, or more for a single channel; got 3 for 3 channels"):
        Normalize([0.5] * 3, [1.0] * 3, repeat=3)
    layer = Normalize([0.5], [1.0])
    with pytest.raises(TypeError, match=r"images must be floating in \[0, 1\], got torch.uint8; divide"):
        layer(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"images must have the shape \(B, 1, H, W\), got \(1, 3, 2, 2\)"):
        layer(torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("resnet19", "resnet18"), ("wrn-40-2", "wrn-40-4"), ("LeNet-5", "lenet5"), ("ResNet-18", "resnet18")],
)
def test_unknown_names_list_the_right_ones(wrong: str, meant: str) -> None:
    with pytest.raises(
        ValueError, match=rf"got '{wrong}'; did you mean .*{meant}.*\? Ours: lenet5, .*convnext_tiny.*timm:NAME"
    ):
        build_model(wrong, 10)


def test_bad_numbers_and_sizes() -> None:
    with pytest.raises(TypeError, match="name must be a string, got int"):
        build_model(3, 10)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="num_classes must be an int, got float"):
        build_model("lenet5", 10.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes must be from 2 to 1048576, got 1"):
        build_model("lenet5", 1)
    with pytest.raises(ValueError, match="image_size must be at least 12 for lenet5, got 8"):
        build_model("lenet5", 10, 1, 8)
    with pytest.raises(ValueError, match="mean must have one value per channel, 1; got 3"):
        build_model("lenet5", 10, 1, mean=[0.5] * 3)
    with pytest.raises(ValueError, match="alexnet cannot take images of 8x8 pixels: "), torch.device("meta"):
        build_model("alexnet", 10, 3, 8)
    with pytest.raises(ValueError, match="vit_b_32 cannot be built for images of 33x33 pixels: "), torch.device("meta"):
        build_model("vit_b_32", 10, 3, 33)


def test_same_seed_same_weights_and_building_draws_nothing_else() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build_model("resnet-small", 10, 1, 28)
        weights.append([*model.state_dict().values(), torch.rand(1)])
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))
