"""Transfer: the steps against a plain loop, what a probe trains, what is left alone, and folders on disk."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from train_parts import MapStyle, stripes

from mixaug.evaluate.images import fingerprint
from mixaug.evaluate.measures import transfer as module
from mixaug.evaluate.measures.transfer import transfer
from mixaug.models import build_model
from mixaug.nn import add_drelu_head
from mixaug.train.batches import derived_seed, epoch_order
from mixaug.train.data import DataParts, ImageTensors


def tensors(count: int, channels: int, seed: int, side: int = 16) -> ImageTensors:
    part = stripes(count, channels, seed, side)
    return ImageTensors(part.images, part.labels)


def stripes_data(train: int = 48, test: int = 30, channels: int = 1, side: int = 16) -> DataParts:
    parts = (tensors(train, channels, 0, side), tensors(12, channels, 1, side), tensors(test, channels, 2, side))
    mean, std = (0.5,) * channels, (0.25,) * channels
    return DataParts(*parts, ("rows", "columns", "diagonals"), "stripes", channels, side, mean, std)


def trained(name: str = "lenet5", channels: int = 1, side: int = 16, classes: int = 7) -> nn.Module:
    torch.manual_seed(1)
    return build_model(name, classes, channels, side).eval()


class WithBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten())
        self.out = nn.Linear(4 * 14 * 14, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.body(images))


def with_batch_norm() -> nn.Module:
    torch.manual_seed(2)
    return WithBatchNorm().eval()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_steps_are_those_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr(module, "default_padding", lambda side: 0)
    data, model, epochs, size, lr = stripes_data(train=21), trained(), 3, 5, 0.02
    result = transfer(model, data, epochs=epochs, batch_size=size, lr=lr, weight_decay=0.01, flip=False, seed=4)

    layers = dict(model.named_modules())
    name = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)][-1]
    reference = trained()
    torch.manual_seed(4)
    new = nn.Linear(layers[name].in_features, 3)
    reference.get_submodule(name.rpartition(".")[0])[int(name.rpartition(".")[2])] = new
    optimiser = torch.optim.SGD(reference.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=0.01)
    losses, step, steps = [], 0, 21 // size
    for epoch in range(epochs):
        for index in epoch_order(21, 4, epoch)[: steps * size].split(size):
            optimiser.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / (epochs * steps))) / 2
            loss = nn.functional.cross_entropy(
                reference(data.train.images[index].float() / 255), data.train.labels[index]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            step += 1
    for (key, got), want in zip(result.model.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.allclose(got, want, atol=1e-5), key
    assert [row["train_loss"] for row in result.history] == pytest.approx(
        [sum(losses[i : i + steps]) / steps for i in range(0, len(losses), steps)], rel=1e-4
    )
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    with torch.no_grad():
        right = reference(data.test.images.float() / 255).argmax(1) == data.test.labels
        held = reference(data.validation.images.float() / 255).argmax(1) == data.validation.labels
    assert result.accuracy.value == pytest.approx(right.double().mean().item()) and result.accuracy.n == 30
    assert result.accuracy.low < result.accuracy.value and result.accuracy.method == "wilson"
    assert result.history[-1]["validation_accuracy"] == pytest.approx(held.double().mean().item())


def test_it_learns_and_trained_features_help():
    data = stripes_data(train=96)
    source = transfer(trained("resnet-small"), data, epochs=6, lr=0.02, seed=1)
    assert source.accuracy.value > 0.9
    other = replace(data, train=tensors(24, 1, 5), classes=("a", "b", "c"))
    frozen = {"probe": True, "epochs": 4, "lr": 0.1}
    assert (
        transfer(source.model, other, **frozen).accuracy.value
        > transfer(trained("resnet-small"), other, **frozen).accuracy.value
    )


def test_a_probe_trains_the_new_layer_alone():
    model = with_batch_norm()
    before = weights(model)
    probed = transfer(model, stripes_data(), probe=True, epochs=2, lr=0.1)
    after = probed.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("out"))
    assert after["out.weight"].shape == (3, 784) and probed.settings["probe"] is True
    first = nn.Linear(784, 3)
    torch.manual_seed(0)
    first.reset_parameters()
    assert not torch.allclose(after["out.weight"], first.weight, atol=1e-4)
    assert probed.history[1]["train_loss"] < probed.history[0]["train_loss"]
    tuned = transfer(model, stripes_data(), epochs=1, lr=0.1).model.state_dict()
    assert all(not torch.equal(tuned[name], before[name]) for name in before if "out" not in name)


def test_the_given_model_and_the_global_random_state_are_left_as_they_were():
    model = with_batch_norm().train()
    model.body[1].eval()
    model.body[0].weight.requires_grad_(False)
    model.out.weight.grad = torch.full_like(model.out.weight, 1e4)
    before, state = fingerprint(weights(model)), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    result = transfer(model, stripes_data(), epochs=1)
    assert fingerprint(weights(model)) == before and model.out.out_features == 5
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state) and not model.out._forward_hooks
    assert float(model.out.weight.grad.min()) == 1e4 and model.body[0].weight.grad is None
    # The copy is as plain: frozen where it was, in evaluation mode, without gradients.
    assert [parameter.requires_grad for parameter in result.model.parameters()] == [False, True, True, True, True, True]
    assert not any(module.training for module in result.model.modules())
    assert all(parameter.grad is None for parameter in result.model.parameters())
    # What was frozen is trained nevertheless, and the gradients that lay there are not used.
    assert not torch.equal(result.model.body[0].weight, model.body[0].weight)
    model.out.weight.grad, model.body[0].weight.grad = None, torch.full_like(model.body[0].weight, 1e4)
    again = transfer(model, stripes_data(), epochs=1)
    first = weights(result.model)
    assert all(torch.equal(first[name], value) for name, value in weights(again.model).items())


def test_same_seed_same_result_also_for_callers_without_gradients():
    data, model = stripes_data(), with_batch_norm()
    one = transfer(model, data, epochs=1, seed=3)
    torch.rand(5)
    with torch.no_grad():
        two = transfer(model, data, epochs=1, seed=3)
    with torch.inference_mode():
        three = transfer(model, data, epochs=1, seed=3)
    other = transfer(model, data, epochs=1, seed=4)
    assert one.accuracy == two.accuracy and one.settings == two.settings
    first = weights(one.model)
    assert all(torch.equal(first[name], value) for name, value in weights(two.model).items())
    assert all(torch.equal(first[name], value) for name, value in weights(three.model).items())
    assert not torch.equal(first["out.weight"], weights(other.model)["out.weight"])


@pytest.mark.parametrize(
    ("name", "channels", "side"),
    [("squeezenet1_1", 3, 64), ("timm:vit_tiny_patch16_224", 3, 32), ("mobilenet_v3_small", 1, 32)],
)
def test_other_libraries_networks(name, channels, side):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    model = trained(name, channels, side)
    data = stripes_data(train=4, test=3, channels=channels, side=side)
    result = transfer(model, data, epochs=1, batch_size=4)
    images = torch.rand(2, channels, side, side)
    assert model(images).shape == (2, 7) and result.model(images).shape == (2, 3)
    assert result.accuracy.n == 3 and len(result.model.state_dict()) == len(model.state_dict())


def test_a_model_with_a_drelu_head_keeps_it():
    model = add_drelu_head(with_batch_norm(), 16, init=2.0).eval()
    result = transfer(model, stripes_data(), epochs=1)
    assert result.model.out.output.out_features == 3 and result.model.out.dense.out_features == 16


def test_a_folder_by_name_and_parts_read_on_demand(tmp_path):
    for part, count in (("train", 6), ("val", 3), ("test", 4)):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                picture = torch.randint(0, 80, (16, 16, 3), generator=torch.Generator().manual_seed(i)) + 150 * label
                Image.fromarray(picture.byte().numpy()).save(tmp_path / part / name / f"{i}.png")
    model = trained("resnet-small", channels=3)
    result = transfer(model, f"folder:{tmp_path}", probe=True, epochs=15, batch_size=4, lr=0.1)
    assert result.classes == ("dark", "light") and result.accuracy.n == 8 and result.accuracy.value == 1
    assert result.settings["data"] == f"folder:{tmp_path}"
    data = stripes_data()
    on_demand = replace(data, train=MapStyle(data.train), test=MapStyle(data.test))
    one, two = (transfer(with_batch_norm(), each, epochs=1) for each in (data, on_demand))
    assert one.accuracy == two.accuracy and one.history[0]["train_loss"] == two.history[0]["train_loss"]


def test_plain_values_and_a_part_that_is_missing(capsys):
    nothing = ImageTensors(torch.zeros(0, 1, 16, 16, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    data = replace(stripes_data(), validation=nothing)
    result = transfer(trained(), data, epochs=1, progress=True)
    assert "epoch 1/1" in capsys.readouterr().err
    kept = json.loads(json.dumps(result.to_dict()))
    assert "validation_loss" not in kept["history"][0] and kept["accuracy"] == vars(result.accuracy)
    assert kept["settings"] == {
        "data": "stripes", "epochs": 1, "batch_size": 16, "lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4,
        "schedule": "cosine", "flips": True, "seed": 0, "probe": False,
    }  # fmt: skip
    assert kept["classes"] == list(data.classes) and 0 < result.history[0]["seconds"] <= result.seconds
    assert "model" not in repr(result)


def test_images_are_cropped_and_flipped_as_in_all_runs(monkeypatch):
    drawn, original = [], module.sample_crop_flip

    def sample(count, padding, flip, generator):
        drawn.append((count, padding, flip, generator.initial_seed()))
        return original(count, padding, flip, generator)

    monkeypatch.setattr(module, "sample_crop_flip", sample)
    data, model = stripes_data(train=16), trained()
    losses = [transfer(model, data, epochs=1, seed=3, flip=flip).history[0]["train_loss"] for flip in (None, False)]
    transfer(model, replace(data, name="digits"), epochs=1, seed=3)
    crops = derived_seed(3, "crops")
    assert drawn == [(16, 2, True, crops), (16, 2, False, crops), (16, 2, False, crops)]
    assert losses[0] != losses[1]


def test_the_rate_falls_on_a_cosine():
    rows = transfer(trained(), stripes_data(train=20), epochs=4, batch_size=20, lr=1e-3).history
    assert [row["lr"] for row in rows] == pytest.approx([1e-3 * (1 + math.cos(math.pi * s / 4)) / 2 for s in range(4)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be"),
        ({"batch_size": 1}, ValueError, "batch_size must be"),
        ({"lr": 0}, ValueError, "lr must be"),
        ({"lr": "fast"}, TypeError, "lr must be"),
        ({"momentum": 1.0}, ValueError, "momentum must be"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be"),
        ({"probe": 1}, TypeError, "probe must be True or False, got int"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        transfer(trained(), stripes_data(), **arguments)


def test_refuses_data_that_does_not_serve(tmp_path):
    model, data = trained(), stripes_data()
    nothing = ImageTensors(torch.zeros(0, 1, 16, 16, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="data must have a test part of at least 1 images, got 0"):
        transfer(model, replace(data, test=nothing))
    with pytest.raises(ValueError, match="data must have a train part of at least 2 images, got 1"):
        transfer(model, replace(data, train=tensors(1, 1, 0)))
    with pytest.raises(ValueError, match="data must have at least 2 classes, got 1"):
        transfer(model, replace(data, classes=("one",)))
    with pytest.raises(TypeError, match=r"data must be what mixaug\.train\.data\.load_data gives, .* got tuple"):
        transfer(model, (data.test.images, data.test.labels))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        transfer(model, f"folder:{tmp_path}/none")
    with pytest.raises(ValueError, match="name must be a known data set, got 'birds'"):
        transfer(model, "birds")
    with pytest.raises(ValueError, match=r"data must be images that the model takes, got 3 channels of 16x16 pixels"):
        transfer(model, stripes_data(channels=3))
    with pytest.raises(ValueError, match=r"data must be images that the model takes, got 1 channels of 8x8 pixels"):
        transfer(model, stripes_data(side=8))


def test_refuses_models_that_cannot_be_tuned():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got str"):
        transfer("model", stripes_data())
    with pytest.raises(ValueError, match="model must not be wrapped, got a DataParallel: fine-tune it first"):
        transfer(nn.DataParallel(trained()), stripes_data())
    with pytest.raises(ValueError, match="model must end in a dense layer or a 1x1 convolution"):
        transfer(nn.Sequential(nn.Conv2d(1, 3, 16), nn.Flatten()), stripes_data())
    with pytest.raises(
        FloatingPointError, match=r"loss is not finite in epoch \d of 9: try a lower lr \(it is 1e\+20\)"
    ):
        transfer(trained(), stripes_data(), lr=1e20, epochs=9)
