"""D-ReLU in training: placements, start, penalty and rates of the caps, checkpoints, the log, with every method."""

from __future__ import annotations

import csv
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from train_parts import fit, parts, same_weights, settings, stop_after, timeless

from mixaug import DReLU, MixingSet
from mixaug.models import ModelSpec
from mixaug.models.activation import Activation
from mixaug.nn import caps
from mixaug.train.activation import CAP_COLUMNS, start_caps
from mixaug.train.checkpoint import load_checkpoint, read_checkpoint
from mixaug.train.descent import Descent
from mixaug.train.settings import ADVERSARIAL_METHODS, METHOD_NAMES, TrainSettings

DRELU = {"activation": "drelu", "extra_features": 12, "drelu_init": 3.0}
SPEC = ModelSpec("lenet5", 3, 1, 16, (0.5,), (0.25,))


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch, pictures):
    monkeypatch.setattr(MixingSet, "default", lambda: pictures)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_trains_with_it(tmp_path, method):
    more = {"robust_images": 9, "eps": 0.05} if method in ADVERSARIAL_METHODS else {}
    if method in ("pgd", "trades", "dynamic-mixcut"):
        more["attack_steps"] = 2
    result = fit(settings(tmp_path / "run", method=method, steps=4, drelu_lambda=0.5, **DRELU, **more))
    (row, last) = result.history
    assert row["cap_max"] < 3.0  # shrunk
    assert last["cap_median"] < row["cap_median"]
    assert 0 <= row["capped_share"] <= row["capped_units"] <= 1
    model, info = load_checkpoint(result.last)
    assert info["spec"].activation == Activation("drelu", "head", 12, None, 3.0)
    ((_, layer),) = caps(model)
    assert layer.max_value.shape == (12,)


@pytest.mark.parametrize(
    ("placement", "more", "names"),
    [
        ("head", {"extra_features": 5}, {"1.classifier.5.activation": (5,)}),
        ("stem", {"extra_features": 4}, {"1.features.0.activation": (4,)}),
        (
            "all",
            {},
            {"1.features.1": (6,), "1.features.4": (16,), "1.classifier.2": (120,), "1.classifier.4": (84,)},
        ),
        ("all", {"granularity": "layer"}, {"1.features.1": (1,), "1.features.4": (1,), "1.classifier.2": (1,)}),
        ("all", {"granularity": "neuron"}, {"1.features.1": (6, 16, 16), "1.features.4": (16, 4, 4)}),
    ],
)
def test_placements(placement, more, names):
    chosen = TrainSettings(model="lenet5", activation="drelu", placement=placement, **more)
    spec = ModelSpec("lenet5", 3, 1, 16, (0.5,), (0.25,), chosen.changed_activation)
    torch.manual_seed(0)
    model = spec.build()
    torch.manual_seed(0)
    plain = SPEC.build()
    found = {name: tuple(layer.max_value.shape) for name, layer in caps(model)}
    assert names.items() <= found.items()
    assert all(bool((layer.max_value == 100).all()) for _, layer in caps(model))
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    kept = model.state_dict()
    shared = [name for name, value in plain.state_dict().items() if name in kept and kept[name].shape == value.shape]
    assert len(shared) >= len(plain.state_dict()) - 2
    assert all(torch.equal(kept[name], plain.state_dict()[name]) for name in shared)  # the same first weights


def test_last_block_is_less_than_all(tmp_path):
    counts = {}
    for placement in ("last-block", "all"):
        chosen = TrainSettings(model="resnet-small", activation="drelu", placement=placement)
        model = ModelSpec("resnet-small", 3, 1, 16, (0.5,), (0.25,), chosen.changed_activation).build()
        counts[placement] = len(list(caps(model)))
    assert counts == {"last-block": 2, "all": 9}


def test_relu_head_and_drelu_head_start_alike(tmp_path):
    torch.manual_seed(0)
    relu = ModelSpec("lenet5", 3, 1, 16, (0.5,), (0.25,), Activation("relu", "head", 12)).build()
    torch.manual_seed(0)
    drelu = ModelSpec("lenet5", 3, 1, 16, (0.5,), (0.25,), Activation("drelu", "head", 12, None, 1e9)).build()
    images = torch.rand(4, 1, 16, 16)
    assert torch.equal(relu(images), drelu(images))
    assert [name for name in drelu.state_dict() if name not in relu.state_dict()] == [
        "1.classifier.5.activation.max_value"
    ]


def test_old_checkpoints_have_no_activation():
    assert "activation" not in SPEC.to_dict()
    assert ModelSpec.from_dict(SPEC.to_dict()).activation is None


def toy(features: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, features), DReLU(features, init=1.0), nn.Linear(features, 2))


def test_a_step_written_out(tmp_path):
    """SGD without weight decay on the caps, at their own rate along the schedule, then the proximal step."""
    chosen = TrainSettings(activation="drelu", lr=0.2, drelu_m_lr=0.5, drelu_lambda=3.0, momentum=0.0, weight_decay=0.1)
    model, twin = toy(), toy()
    descent = Descent(model, chosen, total_steps=4, steps_per_epoch=2)
    x = torch.tensor([[3.0, -2.0, 1.0], [-4.0, 5.0, 2.0]])
    for step in range(3):
        factor = (1 + math.cos(math.pi * step / 4)) / 2
        descent.before_step(step)
        model(x).square().sum().backward()
        descent.optimiser.step()
        descent.after_step()
        descent.optimiser.zero_grad()
        gradients = torch.autograd.grad(twin(x).square().sum(), list(twin.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(twin.named_parameters(), gradients, strict=True):
                if name == "1.max_value":
                    p.sub_(0.5 * factor * g).div_(1 + 2 * 0.5 * factor * 3.0)
                else:
                    p.sub_(0.2 * factor * (g + 0.1 * p))
        assert descent.rate == pytest.approx(0.2 * factor)
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    assert float(twin[1].max_value.detach().max()) < 0.2


def test_adam_leaves_the_caps_to_their_lambda():
    """With Adam, and at any lambda, the caps shrink by the proximal factor and nothing blows up."""
    for lam in (0.0, 1e-3, 1e12):
        chosen = TrainSettings(activation="drelu", optimizer="adam", drelu_lambda=lam)
        model = toy()
        with torch.no_grad():
            model[1].max_value.fill_(100.0)  # no unit caps: only the penalty moves them
        descent = Descent(model, chosen, total_steps=100, steps_per_epoch=10)
        assert isinstance(descent.optimiser, torch.optim.Adam)
        assert descent.optimiser.param_groups[0]["weight_decay"] == 0
        descent.before_step(0)
        model(torch.ones(1, 3)).sum().backward()
        descent.optimiser.step()
        descent.after_step()
        expected = 100 / (1 + 2 * 1e-3 * lam)
        torch.testing.assert_close(model[1].max_value.detach(), torch.full((2,), expected), rtol=1e-6, atol=1e-12)


def test_caps_at_rest_with_a_rate_of_zero(tmp_path):
    result = fit(settings(tmp_path / "run", steps=3, drelu_m_lr=0.0, drelu_lambda=1e6, **DRELU))
    assert result.history[-1]["cap_min"] == result.history[-1]["cap_max"] == 3.0


def test_a_stopped_run_goes_on_to_the_bit(tmp_path, monkeypatch):
    more = {**DRELU, "optimizer": "adam", "drelu_lambda": 0.1, "drelu_quantile": 0.8, "plateau": True}
    whole = fit(settings(tmp_path / "whole", **more))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        stopped = fit(settings(tmp_path / "run", **more))
    assert stopped.interrupted
    resumed = fit(settings(tmp_path / "run", **more), resume=True)
    assert not resumed.interrupted
    same_weights(whole.last, resumed.last)
    assert timeless(resumed.history) == timeless(whole.history)


def test_caps_start_at_the_quantile(tmp_path):
    chosen = settings(tmp_path / "run", steps=1, drelu_m_lr=0.0, drelu_quantile=0.5, **DRELU)
    result = fit(chosen)
    data = parts()
    torch.manual_seed(0)
    model = ModelSpec("lenet5", 3, 1, 16, (0.5,), (0.25,), chosen.changed_activation).build()
    start_caps(model, data.train, lambda images: images / 255, 0.5)
    ((_, layer),) = caps(model)
    before = []
    layer.register_forward_pre_hook(lambda module, args: before.append(args[0].detach()))
    model.eval()(data.train.images / 255)
    (values,) = before
    for cap, column in zip(layer.max_value.tolist(), values.T, strict=True):
        positive = column[column > 0]
        assert cap == pytest.approx(float(positive.quantile(0.5)) if len(positive) else 3.0, rel=1e-5)
    weights = read_checkpoint(result.last)["model"]
    torch.testing.assert_close(weights["1.classifier.5.activation.max_value"], layer.max_value.detach())


def test_the_log_has_the_caps(tmp_path):
    result = fit(settings(tmp_path / "run", epochs=1, **DRELU))
    (row,) = csv.DictReader(result.log.read_text().splitlines())
    values = [float(row[name]) for name in CAP_COLUMNS]
    assert values[0] <= values[1] <= values[2] <= values[3] <= values[4]
    plain = fit(settings(tmp_path / "plain", epochs=1))
    (row,) = csv.DictReader(plain.log.read_text().splitlines())
    assert [row[name] for name in CAP_COLUMNS] == [""] * len(CAP_COLUMNS)


def test_plateau_halves_and_ends():
    model = toy()
    descent = Descent(model, TrainSettings(lr=0.8, plateau=True), total_steps=1000, steps_per_epoch=10)
    losses = [1.0, 0.9] + [0.9] * 4 + [0.95] + [0.9] * 3
    rates, told = [], []
    for loss in losses:
        told.append(descent.after_epoch({"validation_loss": loss}))
        descent.before_step(0)
        rates.append(descent.rate)
    assert rates == [0.8] * 6 + [0.4] * 4  # five epochs after the lowest loss
    assert told[6] == "The learning rate is halved, from 0.8 to 0.4."
    assert not descent.ended
    twin = Descent(toy(), TrainSettings(lr=0.8, plateau=True), total_steps=1000, steps_per_epoch=10)
    twin.optimiser.load_state_dict(descent.optimiser.state_dict())
    twin.load_state_dict(descent.state_dict())
    for each in (descent, twin):
        assert each.after_epoch({"validation_loss": 0.9}) == ""
        assert each.rate == 0.4
        told_last = each.after_epoch({"validation_loss": 0.9})
        assert told_last == "The validation loss has not fallen for 10 epochs: the run ends here."
        assert each.ended
        assert each.rate == 0.2


def test_plateau_follows_the_penalty_too():
    """Caps that still come down are progress, as in Keras, whose validation loss has every penalty in it."""
    model = toy()
    descent = Descent(model, TrainSettings(activation="drelu", plateau=True, drelu_lambda=0.5), 1000, 10)
    for epoch in range(12):
        with torch.no_grad():
            model[1].max_value.fill_(100.0 - epoch)
        descent.after_epoch({"validation_loss": 1.0})
    assert not descent.ended
    for _ in range(10):
        descent.after_epoch({"validation_loss": 1.0})
    assert descent.ended


def test_a_run_that_ends_early_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr("mixaug.train.descent.STOP_AFTER", 2)
    chosen = settings(tmp_path / "run", epochs=50, plateau=True, lr=1e-12)
    result = fit(chosen)
    assert not result.interrupted
    assert len(result.history) < 50
    again = fit(chosen, resume=True)
    assert timeless(again.history) == timeless(result.history)


def test_plateau_needs_a_validation_part(tmp_path):
    with pytest.raises(ValueError, match="data must have a validation part for plateau"):
        fit(settings(tmp_path / "run", plateau=True), parts(validation=0))


def test_adam_written_out(tmp_path):
    data = parts()
    result = fit(
        settings(tmp_path / "run", padding=0, flip=False, steps=2, optimizer="adam", lr=None, plateau=True), data
    )
    torch.manual_seed(0)
    model = SPEC.build().to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    from mixaug.train.batches import epoch_order

    for index in epoch_order(96, 0, 0).split(32)[:2]:
        images = (data.train.images[index] / 255).contiguous(memory_format=torch.channels_last)
        optimiser.zero_grad()
        F.cross_entropy(model(images), data.train.labels[index]).backward()
        optimiser.step()
    weights = read_checkpoint(result.last)["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, msg=name)
    assert result.history[0]["lr"] == pytest.approx(1e-3)


def test_defaults_are_decided():
    chosen = TrainSettings(activation="drelu")
    assert (chosen.placement, chosen.extra_features, chosen.drelu_init, chosen.drelu_lambda) == (
        "head",
        256,
        100.0,
        0.1,
    )
    assert (chosen.lr, chosen.weight_decay) == (0.1, 5e-4)
    adam = TrainSettings(optimizer="adam")
    assert (adam.lr, adam.weight_decay, adam.placement, adam.changed_activation) == (1e-3, 0.0, None, None)
    assert TrainSettings(activation="drelu", placement="all").granularity == "channel"
    assert TrainSettings.from_dict(chosen.to_dict()) == chosen
    assert chosen.folder.name == "embedded-resnet-small-ipmix-drelu-s0"
    assert TrainSettings(activation="drelu", placement="stem").folder.name.endswith("-drelu-stem-s0")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activation": "gelu"}, "activation must be one of relu, drelu, got 'gelu'"),
        ({"placement": "all"}, "placement must be one of head, stem, got 'all'"),
        ({"activation": "drelu", "placement": "tail"}, "placement must be one of head, stem, last-block, all"),
        ({"drelu_lambda": 1.0}, "drelu_lambda must be used with the activation drelu"),
        ({"placement": "head", "drelu_init": 1.0}, "drelu_init must be used with the activation drelu"),
        ({"activation": "drelu", "drelu_init": 0.0}, "drelu_init"),
        ({"activation": "drelu", "drelu_init": math.nan}, "drelu_init"),
        ({"activation": "drelu", "drelu_lambda": -1.0}, "drelu_lambda"),
        ({"activation": "drelu", "drelu_quantile": 1.5}, "drelu_quantile"),
        ({"activation": "drelu", "drelu_m_lr": -0.1}, "drelu_m_lr"),
        ({"activation": "drelu", "granularity": "layer"}, "granularity must be used with .* last-block, all"),
        ({"activation": "drelu", "placement": "all", "granularity": "x"}, "granularity must be one of channel, layer"),
        ({"activation": "drelu", "placement": "all", "extra_features": 3}, "extra_features must be used .* head, stem"),
        ({"extra_features": 3}, "extra_features must be used with one of the placements"),
        ({"activation": "drelu", "extra_features": 0}, "extra_features must be from 1 to 2147483647"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam"),
        ({"plateau": True, "warmup": 1}, "plateau must be used without schedule and warmup"),
        ({"plateau": True, "schedule": "exponential"}, "plateau must be used without schedule"),
        ({"extra_share": 0.5}, "extra_share must be used with extra_data"),
        ({"extra_data": "x", "extra_share": 0.0}, "extra_share"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(values, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**values)
