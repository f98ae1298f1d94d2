"""Penultimate features against models taken apart by hand, the t-SNE of known groups, and models left as they were."""

from __future__ import annotations

import json
import math
import sys
import warnings

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mixaug.evaluate.images import fingerprint
from mixaug.evaluate.measures.features import (
    FeatureMap,
    feature_figure,
    feature_map,
    penultimate_features,
    why_no_features,
)
from mixaug.nn import add_drelu_head

pytest.importorskip("sklearn")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class Backwards(nn.Module):
    """The layer that is defined first is called last, by keyword; one that is defined last is not called at all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(6, 3)
        self.body = nn.Linear(16, 6)
        self.unused = nn.Linear(6, 9)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(input=self.body(images.flatten(1)).relu()) * 2


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(), nn.Conv2d(5, 4, 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten())  # fmt: skip


# ---------------------------------------------------------------- features


def test_the_input_of_the_layer_that_is_called_last():
    model, images = Backwards().train(), torch.rand(7, 1, 4, 4, generator=seeded())
    found = penultimate_features(model, images, batch_size=3)
    with torch.no_grad():
        hidden = model.body(images.flatten(1)).relu()
    assert found.layer == "head"
    assert torch.allclose(found.values, hidden, atol=1e-6) and found.values.dtype == torch.float32
    assert torch.allclose(found.logits, model(images), atol=1e-6) and not found.logits.requires_grad


def test_a_convolution_at_the_end_is_averaged_over_its_places():
    model, images = convolutional().train(), torch.rand(5, 1, 6, 8, generator=seeded())
    model.eval()
    with torch.no_grad():
        expected = model[:4](images).mean((2, 3))
    model.train()
    found = penultimate_features(model, images)
    assert found.layer == "4" and torch.allclose(found.values, expected, atol=1e-6)


def test_a_linear_layer_with_places_is_averaged_over_them():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images[:, 0]).mean(1)

    images = torch.rand(3, 1, 5, 4, generator=seeded())
    assert torch.allclose(penultimate_features(Tokens(), images).values, images[:, 0].mean(1))


@pytest.mark.parametrize(
    ("name", "layer", "width"),
    [("resnet18", "fc", 512), ("mobilenet_v3_small", "classifier.3", 1024), ("squeezenet1_1", "classifier.1", 512)],
)
def test_models_of_torchvision(name, layer, width):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=7)
    found = penultimate_features(model, torch.rand(2, 3, 64, 64, generator=seeded()))
    assert found.layer == layer and found.values.shape == (2, width) and found.logits.shape == (2, 7)


def test_a_head_of_the_package_and_a_compiled_model():
    torch.manual_seed(0)
    model = add_drelu_head(torchvision.models.resnet18(num_classes=5), features=24)
    images = torch.rand(3, 3, 32, 32, generator=seeded())
    found = penultimate_features(model, images)
    assert found.values.shape == (3, 24)
    compiled = torch.compile(Backwards(), backend="eager")
    few = torch.rand(3, 1, 4, 4, generator=seeded())
    with torch.no_grad():
        compiled.eval()(few)  # compiled before it is looked into, in the same modes
    inside = penultimate_features(compiled, few)
    assert inside.layer == "head" and torch.allclose(inside.values, penultimate_features(Backwards(), few).values)


def test_bytes_are_floats_over_255():
    images = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8, generator=seeded())
    one, two = penultimate_features(Backwards(), images), penultimate_features(Backwards(), images / 255)
    assert torch.equal(one.values, two.values)


def test_the_model_is_left_as_it_was_also_after_an_error():
    model = convolutional()
    model[3].eval()  # a mode of its own
    modes, before = [module.training for module in model.modules()], fingerprint(dict(model.state_dict()))
    penultimate_features(model, torch.rand(5, 1, 6, 8))
    assert [module.training for module in model.modules()] == modes and hooks_of(model) == 0
    assert fingerprint(dict(model.state_dict())) == before
    with pytest.raises(RuntimeError):
        penultimate_features(model, torch.rand(5, 3, 6, 8))  # three channels where one is wanted
    assert [module.training for module in model.modules()] == modes and hooks_of(model) == 0
    kept = model[0].register_forward_hook(lambda *_: None)
    penultimate_features(model, torch.rand(5, 1, 6, 8))
    assert hooks_of(model) == 1
    kept.remove()


def test_what_has_no_features_and_why():
    with warnings.catch_warnings():  # torch calls TorchScript deprecated; users have such files
        warnings.simplefilter("ignore")
        script = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    for model, reason in [
        (lambda images: images.flatten(1), r"a model that is no torch\.nn\.Module has no layers"),
        (script, "TorchScript has no layers that can be looked into"),
        (nn.Sequential(script), "TorchScript has no layers"),
        (nn.Flatten(), "the model has no linear layer and no convolution"),
    ]:
        found = why_no_features(model)
        assert isinstance(found, str)
        with pytest.raises(ValueError, match=f"model must have layers that can be looked into: {reason}"):
            penultimate_features(model, torch.rand(2, 1, 4, 4))
    assert why_no_features(Backwards()) is None

    class NotCalled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 3)

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ self.head.weight.T

    with pytest.raises(ValueError, match="got one that calls no layer with weights"):
        penultimate_features(NotCalled(), torch.rand(2, 1, 4, 4))


# ---------------------------------------------------------------- the map


class Groups(nn.Module):
    """Features that are three far groups, by the brightness of the first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data.copy_(torch.eye(3))

    def forward(self, images: Tensor) -> Tensor:
        group = (images[:, 0, 0, 0] * 2).round().long()
        return self.head(50 * nn.functional.one_hot(group, 3) + images[:, 0, 1, :3])


def grouped_images(count: int) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 1, 4, 4, generator=seeded())
    labels = torch.arange(count) % 3
    images[:, 0, 0, 0] = labels / 2
    return images, labels


def test_groups_of_features_are_groups_of_points():
    images, labels = grouped_images(60)
    layout = feature_map(Groups(), images, labels, perplexity=8)
    assert layout.points.shape == (60, 2) and layout.points.dtype == torch.float32
    assert torch.equal(layout.labels, labels) and torch.equal(layout.predicted, labels)
    assert (layout.layer, layout.dimensions, layout.perplexity) == ("head", 3, 8.0)
    distances = torch.cdist(layout.points, layout.points).fill_diagonal_(math.inf)
    assert torch.equal(labels[distances.argmin(1)], labels)  # everyone's neighbour is of its group
    assert not torch.equal(layout.points[0], layout.points[3])


def test_the_same_seed_gives_the_same_map_and_global_randomness_is_not_used():
    images, labels = grouped_images(30)
    model = Groups()
    state = torch.get_rng_state()
    one, two = feature_map(model, images, labels, seed=3), feature_map(model, images, labels, seed=3)
    assert torch.equal(one.points, two.points) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("count", "perplexity"), [(3, 2 / 3), (4, 1.0), (10, 3.0), (91, 30.0), (100, 30.0)])
def test_perplexity_is_at_most_a_third_of_the_others(count, perplexity):
    images, labels = grouped_images(count)
    layout = feature_map(Groups(), images, labels)
    assert layout.perplexity == pytest.approx(perplexity) and bool(layout.points.isfinite().all())
    assert layout.points.shape == (count, 2)


def test_features_that_are_all_the_same_and_a_single_feature():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.flatten(1)[:, :1] * 0)

    images, labels = grouped_images(6)
    assert torch.equal(feature_map(Constant(), images, labels).points, torch.zeros(6, 2))
    one = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Linear(1, 3))
    layout = feature_map(one, images, labels)
    assert layout.dimensions == 1 and bool(layout.points.isfinite().all()) and layout.points.unique().numel() > 2


def test_json_is_exact():
    images, labels = grouped_images(9)
    layout = feature_map(Groups(), images, labels)
    again = FeatureMap.from_json(json.loads(json.dumps(layout.to_json())))
    for name in ("points", "labels", "predicted"):
        one, two = getattr(again, name), getattr(layout, name)
        assert torch.equal(one, two) and one.dtype == two.dtype
    assert (again.layer, again.dimensions, again.perplexity) == (layout.layer, layout.dimensions, layout.perplexity)


def test_refuses_bad_input():
    images, labels = grouped_images(6)
    for arguments, change, error, message in [
        ((images[:2], labels[:2]), {}, ValueError, "images must be 3 or more, got 2"),
        ((images, labels[:5]), {}, ValueError, r"labels must have shape \(6,\)"),
        ((images, labels.float()), {}, TypeError, "labels must be an integer tensor"),
        ((images, labels + 1), {}, ValueError, "labels must lie below the model's 3 classes, got 3"),
        ((images * 3, labels), {}, ValueError, r"images must lie in \[0, 1\]"),
        ((images.numpy(), labels), {}, TypeError, "images must be a tensor, got ndarray"),
        ((images, labels), {"perplexity": 0}, ValueError, "perplexity must be from 1e-06 to 1e\\+06"),
        ((images, labels), {"perplexity": "30"}, TypeError, "perplexity must be a number"),
        ((images, labels), {"batch_size": 0}, ValueError, "batch_size must be from 1 to"),
        ((images, labels), {"seed": -1}, ValueError, "seed must be from 0 to"),
    ]:
        with pytest.raises(error, match=message):
            feature_map(Groups(), *arguments, **change)
    broken = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.constant_(broken[1].weight, math.nan)
    with pytest.raises(FloatingPointError, match="the model's features or logits are not finite"):
        feature_map(broken, images, labels)


def test_names_the_extra_when_scikit_learn_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mixaug\[train\]"'):
        feature_map(Groups(), *grouped_images(6))


# ---------------------------------------------------------------- figure


@pytest.mark.parametrize("classes", [1, 3, 12, 30])
def test_a_marker_and_a_colour_for_each_class(classes, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    calls = []
    plain = Axes.scatter
    monkeypatch.setattr(Axes, "scatter", lambda self, x, y, **how: calls.append((len(x), how)) or plain(
        self, x, y, **how))  # fmt: skip
    labels = torch.cat([torch.arange(classes), torch.arange(min(classes, 20))])
    layout = FeatureMap(torch.rand(len(labels), 2, generator=seeded()), labels, labels.clone(), "fc", 64, 5.0)
    layout.predicted[0] = (labels[0] + 1) % 2
    figure = feature_figure(layout, ["cat", "dog"])
    assert figure.png.startswith(b"\x89PNG") and f"n = {len(labels)} images" in figure.caption
    assert f"wrong ({100 / len(labels):.1f}%)" in figure.caption
    named = [how for _, how in calls if "marker" in how]
    assert len({(how["marker"], how["color"]) for how in named}) == min(classes, 12) == len(named)
    assert [how["label"] for how in named][:2] == ["cat", "dog"][: min(classes, 2)]
    assert sum(count for count, _ in calls) == len(labels)
    if classes == 30:
        assert calls[0][1]["label"] == "18 others" and calls[0][0] == 18 + 8
    ringed = [colour for how in named for colour in how["edgecolors"]]
    assert ringed.count("black") == 1
