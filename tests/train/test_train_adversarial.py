"""Methods that attack: each step written out, its passes counted, its radius and weight per epoch."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2
from train_parts import fit, settings

from mixaug import DynamicMixCut
from mixaug.attacks import FGSM, KLPGD, PGD, FeatureScatter, two_views
from mixaug.train.methods import build_step
from mixaug.train.methods.step import Setup
from mixaug.train.settings import ADVERSARIAL_METHODS, AUGMENTED_METHODS, TrainSettings

EPS = 8 / 255


class Net(nn.Module):
    """A small network with batch norm and dropout, which notes the mode and size of each pass."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
            nn.Linear(6 * 8 * 8, 5),
        )  # fmt: skip
        self.passes = []

    def forward(self, images):
        self.passes.append((self.training, len(images)))
        return self.body(images)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (12, 3, 8, 8), generator=generator) / 255, torch.arange(12) % 5


@pytest.fixture
def model():
    torch.manual_seed(8)
    return Net().train()


@pytest.fixture
def twin(model):
    """The model before a step has moved its batch statistics."""
    return copy.deepcopy(model)


def generator():
    return torch.Generator().manual_seed(7)


def step_of(method, epochs=1, **values):
    return build_step(Setup(TrainSettings(method=method, **values), 5, generator(), epochs=epochs))


def run(method, model, batch, **settings):
    torch.manual_seed(7)
    return step_of(method, **settings)(model, *batch)


def written_out(twin, compute):
    """The loss of a computation that attacks ``twin`` in evaluation mode and trains it in training mode."""
    torch.manual_seed(7)
    return compute(lambda attack, *inputs: attack(twin.eval(), *inputs), lambda images: twin.train()(images))


def test_pgd_is_cross_entropy_of_pgds_images(model, twin, batch):
    result = run("pgd", model, batch, attack_steps=3)
    attack = PGD(EPS, EPS / 4, 3, generator=generator())
    expected = written_out(twin, lambda run, f: F.cross_entropy(f(run(attack, *batch)), batch[1]))
    torch.testing.assert_close(result.loss, expected)
    assert torch.equal(result.labels, batch[1])


def test_the_attack_of_the_settings_and_smoothed_labels(model, twin, batch):
    settings = {"attack_steps": 3, "smoothing": 0.3, "targeted": True, "eps": 0.1, "step_size": 0.04}
    result = run("pgd", model, batch, **settings)
    attack = PGD(0.1, 0.04, 3, targeted=True, generator=generator())
    expected = written_out(twin, lambda run, f: F.cross_entropy(f(run(attack, *batch)), batch[1], label_smoothing=0.3))
    torch.testing.assert_close(result.loss, expected)


def test_trades_is_its_formula(model, twin, batch):
    result = run("trades", model, batch, attack_steps=2, trades_beta=3.0)

    def compute(attack, f):
        attacked = attack(KLPGD(EPS, EPS / 4, 2, generator=generator()), *batch)
        clean = f(batch[0])
        divergence = F.kl_div(F.log_softmax(f(attacked), 1), F.softmax(clean, 1), reduction="batchmean")
        return F.cross_entropy(clean, batch[1]) + 3 * divergence

    torch.testing.assert_close(result.loss, written_out(twin, compute))


def test_feature_scatter_smooths_by_a_half(model, twin, batch):
    result = run("feature-scatter", model, batch)
    attack = FeatureScatter(EPS, generator=generator())
    expected = written_out(twin, lambda run, f: F.cross_entropy(f(run(attack, *batch)), batch[1], label_smoothing=0.5))
    torch.testing.assert_close(result.loss, expected)


def test_dynamic_mixcut_mixes_two_targeted_views(model, twin, batch):
    result = run("dynamic-mixcut", model, batch, attack_steps=2, boxes=(1, 3), smoothing=0.2)

    def compute(run, f):
        draws = generator()
        attack = PGD(EPS, EPS / 4, 2, targeted=True, generator=draws)
        views = two_views(attack, twin.eval(), *batch)
        mix = DynamicMixCut(num_classes=5, boxes=(1, 3), smoothing=0.2, generator=draws)
        mixed, targets = mix(*batch, views=views)
        assert not torch.equal(mixed, batch[0]) and targets.amax() == pytest.approx(0.84)
        return F.cross_entropy(f(mixed), targets)

    torch.testing.assert_close(result.loss, written_out(twin, compute))
    assert torch.equal(result.labels, batch[1])


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_hybrid_is_the_union_weighed_by_the_accuracies(model, twin, batch, name):
    step = step_of("hybrid", hybrid_attack=name, epochs=3)
    step.end_epoch({"validation_clean_accuracy": 0.6, "validation_pgd_accuracy": 0.2})
    step.start_epoch(1)
    radius = 0.003 + (0.03 - 0.003) / 2
    assert step.columns() == {"radius": pytest.approx(radius), "alpha": pytest.approx(0.25)}
    torch.manual_seed(7)
    result = step(model, *batch)
    attack = FGSM(radius) if name == "fgsm" else PGD(radius, radius / 4, 10, generator=generator())

    def compute(run, f):
        logits = f(torch.cat([batch[0], run(attack, *batch)]))
        return 0.25 * F.cross_entropy(logits[:12], batch[1]) + 0.75 * F.cross_entropy(logits[12:], batch[1])

    torch.testing.assert_close(result.loss, written_out(twin, compute))
    assert len(result.logits) == 12


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_mixed_batches_are_attacked_with_their_labels(model, twin, batch, method):
    result = run(method, model, batch, adversarial=True, attack_steps=3, alpha=0.7)

    def compute(attack, f):
        mixed, targets = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[method](alpha=0.7, num_classes=5)(*batch)
        assert ((targets > 0).sum(1) == 2).any()
        return F.cross_entropy(f(attack(PGD(EPS, EPS / 4, 3, generator=generator()), mixed, targets)), targets)

    torch.testing.assert_close(result.loss, written_out(twin, compute))


def test_augmented_batches_are_attacked(model, twin, batch, pictures, monkeypatch):
    from mixaug import IPMix, MixingSet

    monkeypatch.setattr(MixingSet, "default", lambda: pictures)
    result = run("ipmix", model, batch, adversarial=True, attack_steps=3, targeted=True)

    def compute(attack, f):
        draws = generator()
        view = IPMix(mixing_set=pictures, generator=draws)(batch[0])
        pgd = PGD(EPS, EPS / 4, 3, targeted=True, generator=draws)
        return F.cross_entropy(f(attack(pgd, view, batch[1])), batch[1])

    torch.testing.assert_close(result.loss, written_out(twin, compute))


#: Passes of the attack in evaluation mode and of the step in training mode, in batches of 12.
PASSES = {
    "pgd": ({}, [12] * 10, [12]),
    "trades": ({}, [12] * 11, [12, 12]),
    "feature-scatter": ({}, [12] * 2, [12]),
    "dynamic-mixcut": ({}, [24] * 10, [12]),
    "hybrid": ({}, [12], [24]),
    "hybrid with pgd": ({"hybrid_attack": "pgd", "attack_steps": 4}, [12] * 4, [24]),
    "mixup": ({"adversarial": True}, [12] * 10, [12]),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_step_costs_the_attack_and_one_pass(model, batch, name):
    settings, attack, step = PASSES[name]
    run(name.split()[0], model, batch, **settings).loss.backward()
    assert [size for training, size in model.passes if not training] == attack
    assert [size for training, size in model.passes if training] == step
    assert model.passes[-len(step) :] == [(True, size) for size in step]
    assert int(model.body[1].num_batches_tracked) == len(step)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("method", ADVERSARIAL_METHODS)
def test_bf16_gradients_reach_every_weight(model, batch, method):
    """An attack's clean pass without gradients must not leave its cast weights to the step."""
    whole = run(method, model, batch)
    whole.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        result = run(method, model, batch)
    assert result.loss.dtype == torch.float32
    result.loss.backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert F.cosine_similarity(parameter.grad.flatten(), gradient.flatten(), dim=0) > 0.5


@pytest.mark.parametrize("method", ADVERSARIAL_METHODS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_and_images_are_kept(model, batch, method, channels_last):
    images = batch[0].contiguous(memory_format=torch.channels_last) if channels_last else batch[0]
    seen = []
    model.body[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    version = images._version
    run(method, model, (images, batch[1]))
    assert images._version == version and torch.equal(images, batch[0])
    for given in seen:
        assert given.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert given.min() >= 0 and given.max() <= 1


def radii(step, epochs):
    found = []
    for epoch in range(epochs):
        step.start_epoch(epoch)
        found.append(step.columns()["radius"])
    return found


@pytest.mark.parametrize("method", ADVERSARIAL_METHODS)
def test_the_radius_follows_the_schedule_and_reaches_the_attack(model, batch, method):
    step = step_of(method, epochs=3, eps=0.1, eps_schedule="linear")
    assert radii(step, 3) == pytest.approx([0.01, 0.055, 0.1])
    largest = []
    for epoch in range(3):
        step.start_epoch(epoch)
        model.passes.clear()
        seen = []
        hook = model.body[0].register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(inputs[0].detach())
        )
        step(model, *batch)
        hook.remove()
        copies = [given.view(-1, 12, 3, 8, 8) - batch[0] for given in seen]
        largest.append(max(float(copy.abs().max()) for copy in copies))
    assert largest == pytest.approx([0.01, 0.055, 0.1], abs=2e-3)
    assert set(radii(step_of(method, epochs=4, eps_schedule="constant"), 4)) == {step_of(method).radius}


def test_the_papers_values_are_the_defaults():
    assert {method: dataclasses.astuple(TrainSettings(method=method).adversary) for method in ADVERSARIAL_METHODS} == {
        "dynamic-mixcut": (8 / 255, 2 / 255, 10, True, "constant", 0.1),
        "pgd": (EPS, EPS / 4, 10, False, "constant", 0.0),
        "trades": (EPS, EPS / 4, 10, False, "constant", 0.0),
        "feature-scatter": (EPS, EPS, 1, False, "constant", 0.5),
        "hybrid": (0.03, 0.03, 1, False, "linear", 0.0),
    }
    assert TrainSettings(method="hybrid", hybrid_attack="pgd").adversary.step_size == 0.0075
    assert all(TrainSettings(method=method).adversary is None for method in ("standard", *AUGMENTED_METHODS))
    own = [(TrainSettings(method=method), name, value) for method, name, value in OWN]
    assert all(getattr(settings, name) == value for settings, name, value in own)
    assert [(s.hybrid_attack, s.trades_beta, s.boxes) for s in (TrainSettings(), TrainSettings(method="pgd"))] == [
        (None, None, None)
    ] * 2


#: Settings that one method alone has, with their defaults.
OWN = [("hybrid", "hybrid_attack", "fgsm"), ("trades", "trades_beta", 6.0), ("dynamic-mixcut", "boxes", 2)]


@pytest.mark.parametrize(("method", "name", "value"), OWN)
@pytest.mark.parametrize("other", ["standard", "ipmix", "pgd"])
def test_settings_of_one_method_are_refused_with_others_but_read_from_earlier_runs(method, name, value, other):
    with pytest.raises(ValueError, match=f"{name} must be used with the method {method}, got the method '{other}'"):
        TrainSettings(method=other, **{name: value})
    of_earlier = TrainSettings(method=other).to_dict() | {"hybrid_attack": "fgsm", "trades_beta": 6.0, "boxes": 2}
    kept = dict(of_earlier)
    assert TrainSettings.from_dict(of_earlier) == TrainSettings(method=other) and of_earlier == kept
    same = TrainSettings.from_dict(TrainSettings(method=method).to_dict() | {name: value})
    assert not same.differences(TrainSettings(method=method))


@pytest.mark.parametrize("boxes", [(4, 2), (1, 2, 3), 0, (0, 2), "2", (1, 2.0), True])
def test_boxes_are_refused_in_the_words_of_the_transform(boxes):
    with pytest.raises((TypeError, ValueError)) as expected:
        DynamicMixCut(10, boxes)
    with pytest.raises(expected.type) as refused:
        TrainSettings(method="dynamic-mixcut", boxes=boxes)
    assert str(refused.value) == str(expected.value)


def test_a_range_of_one_number_of_boxes_is_the_number():
    assert TrainSettings(method="dynamic-mixcut", boxes=(3, 3)) == TrainSettings(method="dynamic-mixcut", boxes=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "pgd", "eps": 0.0}, "eps must be above 0 and at most 1, got 0.0"),
        ({"method": "pgd", "eps": 8.0}, "eps must be above 0 and at most 1, got 8.0; did you mean 8/255?"),
        ({"method": "pgd", "step_size": 2}, "step_size must be above 0 and at most 1, got 2; did you mean 2/255?"),
        ({"method": "pgd", "step_size": 0.0}, "step_size must be above 0 and at most 1, got 0.0"),
        ({"method": "pgd", "attack_steps": 0}, "attack_steps must be from 1 to 2147483647, got 0"),
        ({"method": "pgd", "eps_schedule": "sine"}, "eps_schedule must be one of linear, cosine, step, constant"),
        ({"method": "pgd", "smoothing": 1.5}, "smoothing must be from 0 to 1, got 1.5"),
        ({"method": "dynamic-mixcut", "boxes": 0}, "boxes must be from 1 to 1000, got 0"),
        ({"method": "dynamic-mixcut", "boxes": (4, 2)}, "boxes must be a range (low, high) with low <= high, got (4,"),
        (
            {"method": "dynamic-mixcut", "boxes": (1, 2, 3)},
            "boxes must be a number or a pair (low, high), got tuple",
        ),
        ({"method": "hybrid", "hybrid_attack": "cw"}, "hybrid_attack must be one of fgsm, pgd, got 'cw'"),
        ({"method": "hybrid", "attack_steps": 5}, "attack_steps must be left out for the method hybrid with"),
        ({"method": "hybrid", "robust_images": 0}, "robust_images must be at least 1 for the method hybrid"),
        ({"method": "feature-scatter", "step_size": 0.1}, "step_size must be left out for the method feature-scatter"),
        ({"method": "trades", "targeted": True}, "targeted must be left out for the method trades"),
        ({"method": "trades", "smoothing": 0.1}, "smoothing must be left out for the method trades"),
        ({"method": "trades", "trades_beta": -1.0}, "trades_beta must be finite and at least 0, got -1.0"),
        ({"method": "mixup", "adversarial": True, "targeted": True}, "targeted must be left out for the method mixup"),
        ({"method": "pgd", "adversarial": True}, "adversarial must be used with one of mixup, cutmix, augmix, ipmix"),
        ({"method": "ipmix", "adversarial": True, "jsd": True}, "adversarial must be used without jsd"),
        ({"method": "standard", "eps": 0.1}, "eps must be used with adversarial or one of dynamic-mixcut, pgd, trades"),
        ({"method": "mixup", "targeted": False}, "targeted must be used with adversarial or one of"),
        ({"warmup": -1}, "warmup must be from 0 to 2147483647, got -1"),
        ({"schedule": "linear"}, "schedule must be one of cosine, exponential, got 'linear'"),
        ({"lr_decay": 0.0}, "lr_decay must be above 0 and at most 1, got 0.0"),
    ],
)
def test_settings_that_are_refused(values, message):
    with pytest.raises(ValueError) as refused:
        TrainSettings(**values)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "value"),
    [("boxes", (1, 2.0)), ("boxes", 1.5), ("eps", "8/255"), ("attack_steps", 2.0), ("robust_images", 0.5)],
)
def test_kinds_are_checked(name, value):
    with pytest.raises(TypeError, match=f"{name} must be a"):
        TrainSettings(**{"method": "dynamic-mixcut", name: value})


def test_settings_of_an_attack_survive_json_and_name_the_folder():
    settings = TrainSettings(method="dynamic-mixcut", boxes=(1, 4), eps=0.1)
    again = TrainSettings.from_dict(settings.to_dict())
    assert again == settings and settings.to_dict()["boxes"] == [1, 4]
    assert TrainSettings(method="ipmix", adversarial=True).folder.name == "embedded-resnet-small-ipmix-adversarial-s0"


def test_a_step_without_an_adversary_is_refused():
    from mixaug.train.methods.adversarial import pgd

    with pytest.raises(ValueError, match="settings must be of a run with an adversary, got the method 'standard'"):
        pgd(Setup(TrainSettings(method="standard"), 5, generator()))


def test_the_weight_is_part_of_the_methods_state():
    step, again = (step_of("hybrid") for _ in range(2))
    step.end_epoch({"validation_clean_accuracy": 0.8, "validation_pgd_accuracy": 0.2})
    again.load_state_dict(step.state_dict())
    assert again.columns()["alpha"] == step.columns()["alpha"] == pytest.approx(0.2)
    assert math.isclose(step_of("hybrid").columns()["alpha"], 0.5)
    again.load_state_dict({"alpha": 0.3})  # of an earlier version
    assert again.columns()["alpha"] == 0.3


def test_weights_that_break_in_an_attack_are_told_like_a_broken_loss(tmp_path):
    chosen = settings(tmp_path / "run", method="pgd", attack_steps=2, lr=1e30)
    with pytest.raises(
        FloatingPointError, match=r"the attack failed in step \d of 9: try a lower --lr \(it is 1e\+30\)"
    ):
        fit(chosen)
    assert not chosen.folder.joinpath("best.pt").exists()
