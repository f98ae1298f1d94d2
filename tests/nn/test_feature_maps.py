"""Layers with a map of places: how outputs are read, which one is the default, how names are found."""

from __future__ import annotations

import pytest
import torch
import torchvision
from adautomix_parts import net
from torch import Tensor, nn

from mixaug.nn.feature_maps import as_map, default_layer, map_layers, resolve_layer


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((2, 7, 4, 6), (32, 48), (7, 4, 6)),
        ((2, 4, 4, 4), (32, 32), (4, 4, 4)),  # both ways fit: as it is
        ((2, 4, 6, 7), (32, 48), (7, 4, 6)),  # the channels last
        ((2, 8, 8, 9), (32, 32), (9, 8, 8)),  # nearly square as it is, but square in the other
        ((2, 9, 8, 8), (32, 32), (9, 8, 8)),
        ((2, 3, 32, 48), (32, 48), (3, 32, 48)),
        ((2, 5, 1, 2), (16, 32), (5, 1, 2)),
        ((2, 24, 7), (32, 48), (7, 4, 6)),
        ((2, 25, 7), (32, 48), (7, 4, 6)),  # of the class
        ((2, 32, 7), (32, 48), (7, 4, 6)),  # eight before the places
        ((2, 4 + 256, 7), (224, 224), (7, 16, 16)),  # registers
    ],
)
def test_outputs_as_maps(shape: tuple[int, ...], size: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert as_map(torch.zeros(shape), size).shape == (2, *expected)


def test_places_keep_their_content() -> None:
    x = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    size = (24, 32)
    assert as_map(x, size) is x
    turned = as_map(x.permute(0, 2, 3, 1).contiguous(), size)
    assert turned.equal(x)
    rows = x.flatten(2).transpose(1, 2)
    assert as_map(rows, size).equal(x)
    prefixed = torch.cat([torch.full((2, 3, 5), -1.0), rows], 1)
    assert as_map(prefixed, size).equal(x)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 7, 1, 1), (32, 32)),  # one place
        ((2, 7), (32, 32)),
        ((2, 3, 4, 5, 6), (32, 32)),
        ((2, 64, 2, 30), (32, 32)),  # strides of 16 and 1
        ((2, 7, 64, 64), (32, 32)),  # more places than pixels
        ((2, 1, 7), (32, 32)),
        ((2, 34, 7), (32, 48)),  # ten tokens over
        ((2, 110, 7), (224, 224)),
        ((2, 7, 0, 0), (32, 32)),
    ],
)
def test_what_is_no_map_is_refused_with_its_shape(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be a map of places") as error:
        as_map(torch.zeros(shape), size)
    assert f"{size[0]}x{size[1]} pixels" in str(error.value) and f"got shape {shape}" in str(error.value)
    with pytest.raises(TypeError, match="must be a tensor, got tuple"):
        as_map((torch.zeros(2, 7, 4, 4),), (32, 32))


def test_layers_in_the_order_in_which_they_end() -> None:
    found = map_layers(net(), torch.zeros(2, 3, 12, 20))
    assert list(found.items()) == [
        ("stage1.0", (6, 12, 20)), ("stage1.1", (6, 12, 20)), ("stage1.2", (6, 12, 20)), ("stage1", (6, 12, 20)),
        ("stage2.0", (8, 6, 10)), ("stage2.1", (8, 6, 10)), ("stage2.2", (8, 6, 10)), ("stage2", (8, 6, 10)),
        ("stage3.0", (8, 3, 5)), ("stage3.1", (8, 3, 5)), ("stage3.2", (8, 3, 5)), ("stage3.3", (8, 3, 5)),
        ("stage3", (8, 3, 5)),
    ]  # fmt: skip
    assert default_layer(found) == "stage3"


def test_a_layer_that_runs_twice_counts_with_its_last_run() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.last(self.act(self.first(x)))).mean((2, 3))

    found = map_layers(Twice(), torch.zeros(2, 3, 16, 16))
    assert list(found.items()) == [("first", (8, 8, 8)), ("last", (8, 4, 4)), ("act", (8, 4, 4))]


def test_the_model_is_looked_at_only() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.stage1.eval()
    ran = []
    hook = model.register_forward_hook(lambda *_: ran.append(1))
    map_layers(model, torch.rand(2, 3, 12, 20))
    hook.remove()
    assert model.training and not model.stage1.training and not model.stage1[0].training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


#: Random weights on the meta device: only shapes are looked at.
KNOWN = {
    "resnet18": "layer3",
    "convnext_tiny": "features.5",
    "swin_t": "features.5",
    "vit_b_16": "encoder.layers.encoder_layer_8",
    "densenet121": "features.denseblock3",
    "mobilenet_v3_small": "features.8",
}


@pytest.mark.parametrize("name", KNOWN)
def test_default_layers_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    x = torch.empty(2, 3, 224, 224, device="meta")
    found = map_layers(model, x)
    assert default_layer(found) == KNOWN[name]
    assert found[KNOWN[name]][1:] == (14, 14)
    assert default_layer(map_layers(nn.Sequential(nn.BatchNorm2d(3), model), x)) == f"1.{KNOWN[name]}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch16_224", "blocks.8"),
        ("vit_base_patch14_reg4_dinov2", "blocks.8"),
        ("swin_tiny_patch4_window7_224", "layers.2"),
        ("convnext_atto", "stages.2"),
    ],
)
def test_default_layers_of_timm(name: str, expected: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name, img_size=224) if "patch" in name else timm.create_model(name)
    assert default_layer(map_layers(model, torch.empty(2, 3, 224, 224, device="meta"))) == expected


def test_default_layer_from_the_maps_alone() -> None:
    def chosen(**layers: tuple[int, int, int]) -> str:
        return default_layer({name.replace("_", "."): shape for name, shape in layers.items()})

    assert chosen(a=(8, 8, 8), b=(8, 4, 4), c=(8, 2, 2)) == "c"
    assert chosen(a=(8, 16, 16), b=(8, 8, 8), c=(8, 4, 4), d=(8, 2, 2)) == "c"
    assert chosen(a=(8, 8, 8), b=(8, 4, 4)) == "b"
    assert chosen(b_x=(8, 4, 4), b_y=(8, 4, 4), b=(8, 4, 4), a_z=(8, 9, 9)) == "b"
    assert chosen(norm=(3, 8, 8), b0=(8, 4, 4), b1=(8, 4, 4), b2=(8, 4, 4), b3=(8, 4, 4), last=(8, 4, 4)) == "b2"
    assert chosen(b_0_m_0=(8, 4, 4), b_0_m_1=(8, 4, 4), b_0_m_2=(8, 4, 4), b_0=(8, 4, 4), b_1=(8, 4, 4)) == "b.1"
    assert chosen(only=(3, 8, 8)) == "only"
    with pytest.raises(ValueError, match="must have a layer whose output is a map of places, got none"):
        default_layer({})


def test_names_and_their_ends() -> None:
    model = nn.Sequential(nn.Identity(), net())
    assert resolve_layer(model, "1.stage2") == "1.stage2"
    assert resolve_layer(model, "stage2") == "1.stage2"
    assert resolve_layer(model, "stage2.0") == "1.stage2.0"
    assert resolve_layer(model, "1") == "1"  # a whole name goes before the ends of others
    with pytest.raises(ValueError, match=r"one layer, got '2', which may be 1\.stage1\.2, 1\.stage2\.2, 1\.stage3\.2"):
        resolve_layer(model, "2")
    with pytest.raises(ValueError, match=r"must be the name of a layer of the model: .*1\.stage1, .*, got 'tage2'"):
        resolve_layer(model, "tage2")
    with pytest.raises(ValueError, match="got ''"):
        resolve_layer(model, "")
    with pytest.raises(TypeError, match="must be the name of a layer, got int"):
        resolve_layer(model, 3)


def test_errors_list_layers_with_a_map_the_outermost_first() -> None:
    with pytest.raises(ValueError) as error:
        resolve_layer(net(), "layer9")
    listed = str(error.value).split(": ", 1)[1].split(", got ")[0].split(", ")
    assert listed[:3] == ["stage1", "stage2", "stage3"] and "head" not in listed
    many = nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(30)], nn.Flatten(), nn.LazyLinear(2))
    many(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r": 0, 1, .*, 23, \.\.\. \(30 in all\), got 'x'"):
        resolve_layer(many, "x")
    with pytest.raises(ValueError, match=r": 0, 1, got 'x'"):  # takes no images: all layers
        resolve_layer(nn.Sequential(nn.Linear(3, 3), nn.Embedding(3, 3)), "x")
