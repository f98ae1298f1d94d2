"""Models and data as they come: in the wrong mode, normalised, of one class, of three images, grey, of any size."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from evaluate_parts import BARE, Counting, labelled, net, pictures, timeless
from torch import nn

from mixaug._model_state import home_of
from mixaug.evaluate import CorruptedSet, Report, Thresholds, evaluate_model, save_corrupted

pytest.importorskip("pyautoattack")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

PARTS = [
    "n_curve", "n_lipschitz", "n_surface", "n_flips", "n_occlusion", "n_features", "n_maps", "n_audit",
]  # fmt: skip


@pytest.fixture
def data():
    return labelled(net(), pictures())


# --- the model ------------------------------------------------------------------------------------------------------


def test_a_model_in_training_mode_is_measured_in_evaluation_mode_without_a_warning(data):
    expected = evaluate_model(net().eval(), data, **BARE | {"attacks": "quick"}, n_attack=6, n_curve=2)
    model = net()
    model[2].eval()
    report = evaluate_model(model, data, **BARE | {"attacks": "quick"}, n_attack=6, n_curve=2)
    assert report.to_json()["outcomes"] == expected.to_json()["outcomes"]
    assert [part.training for part in model] == [True, True, False, True, True, True]


@pytest.mark.parametrize("part", ["clean", "attacks", "corruptions", *PARTS])
def test_modes_gradients_and_random_states_come_back_after_an_error_in_each_part(data, part):
    settings: dict[str, Any] = {"attacks": None, "corruptions": None, "audit": part == "n_audit"}
    settings |= {"attacks": {"attacks": "quick"}.get(part), "corruptions": {"corruptions": "cifar"}.get(part)}
    settings |= {part: 4} if part in PARTS else {}
    # Probe, perhaps a gradient, clean images, two kinds of normalised ones.
    fail_at = {"clean": 2, "n_features": 5, "n_curve": 9}.get(part, 6)
    model = Counting(net(), fail_at=fail_at, error=RuntimeError)
    model.model[1].eval()
    model.model[0].bias.requires_grad_(False)
    model.model[5].bias.grad = torch.ones(3)
    before = [each.training for each in model.modules()]
    random = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="the model stopped"):
        evaluate_model(model, data, **settings)
    assert model.calls >= fail_at
    assert [each.training for each in model.modules()] == before
    assert not model.model[0].bias.requires_grad and model.model[5].bias.requires_grad
    assert torch.equal(model.model[5].bias.grad, torch.ones(3)) and model.model[0].weight.grad is None
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_buffers_that_an_attack_moves_are_put_back(data):
    def careless(model, images, labels):
        model.train()
        model(images)
        return images

    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate_model(model, data, **BARE | {"attacks": {"careless": careless}})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(part.training for part in model.modules())


def test_a_model_is_moved_to_the_device_and_back(monkeypatch, data):
    moves = []

    class Moved(nn.Sequential):
        def to(self, device):
            moves.append(str(device))
            return self

    model = Moved(net())
    monkeypatch.setattr("mixaug.evaluate.evaluation.home_of", lambda module: torch.device("cuda:3"))
    evaluate_model(model, data, **BARE, device="cpu")
    assert moves == ["cpu", "cuda:3"]
    moves.clear()
    with pytest.raises(ValueError, match="labels must lie below"):
        evaluate_model(model, (data[0], data[1] + 9), **BARE, device="cpu")
    assert moves == ["cpu", "cuda:3"]
    assert home_of(model) == torch.device("cpu")


def test_a_model_without_weights_is_refused(data):
    with pytest.raises(ValueError, match="model must have weights, got parameters on the device meta"):
        evaluate_model(net().to("meta"), data, **BARE)


def test_wrong_class_counts_and_names_are_noticed_before_the_work(data):
    images, labels = data
    for model, dataset, settings, message in [
        (net(3), (images, labels + 1), {}, "labels must lie below the model's 3 classes, got 3"),
        (net(3), data, {"classes": ["a", "b"]}, "classes must be names of the model's 3 classes, got 2 names"),
        (net(1), (images, labels * 0), {}, "model must give logits of 2 classes or more, got 1"),
    ]:
        counting = Counting(model)
        with pytest.raises(ValueError, match=message):
            evaluate_model(counting, dataset, **settings)
        assert counting.calls <= 2

    class Part:
        classes = ("cat", "dog")

    Part.images, Part.labels = data
    with pytest.raises(ValueError, match="classes must be names of the model's 3 classes, got 2 names"):
        evaluate_model(net(3), Part())
    late = (images, labels.clone())
    late[1][-1] = 7  # not among the first images
    with pytest.raises(ValueError, match="labels must lie below the model's 3 classes, got 7"):
        evaluate_model(net(3), late)


def test_a_surrogate_that_does_not_fit_is_refused_before_the_work(data):
    model = Counting(net())
    with pytest.raises(TypeError, match=r"surrogate must be a torch.nn.Module or None, got function"):
        evaluate_model(model, data, surrogate=lambda images: images)
    with pytest.raises(TypeError, match="thresholds must be Thresholds or None, got float"):
        evaluate_model(model, data, thresholds=0.02)
    assert model.calls == 0
    surrogate = net(4)
    with pytest.raises(ValueError, match="surrogate must have the model's 3 classes, got 4"):
        evaluate_model(model, data, surrogate=surrogate)
    assert model.calls <= 2 and surrogate.training
    report = evaluate_model(
        net(), data, attacks=None, corruptions=None, surrogate=net(seed=1), n_audit=12, eps=0.1,
        thresholds=Thresholds(margin=0.1, far=0.2),
    )  # fmt: skip
    assert report.audit.thresholds.margin == 0.1
    assert report.settings["surrogate_sha256"] != report.settings["weights_sha256"]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_plays_no_part(data, context):
    settings = BARE | {"attacks": {"steepest": steepest}, "eps": 0.1, "n_curve": 3, "n_lipschitz": 3, "n_maps": 2}
    expected = evaluate_model(net(), data, **settings)
    model = net()
    with context():
        report = evaluate_model(model, (data[0].clone(), data[1].clone()), **settings)
    assert report.to_json()["outcomes"] == expected.to_json()["outcomes"]


def steepest(model, images, labels):
    """A foreign attack as they are: it takes gradients for granted."""
    images = images.detach().requires_grad_()
    nn.functional.cross_entropy(model(images), labels).backward()
    return (images + 0.1 * images.grad.sign()).clamp(0, 1).detach()


# --- normalised input -----------------------------------------------------------------------------------------------


class Prototypes(nn.Module):
    """Nearest of a few pictures; made for images that are normalised, or for images in [0, 1]."""

    def __init__(self, prototypes: torch.Tensor) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(prototypes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -(images.flatten(1)[:, None] - self.prototypes.flatten(1)).square().sum(2)


def prototypes_of(channels, n=40):
    """Dim pictures of four classes, and the pictures that they are noisy copies of."""
    generator = torch.Generator().manual_seed(2)
    centres = 0.15 * torch.rand(4, channels, 6, 6, generator=generator)
    labels = torch.arange(n) % 4
    return centres, centres[labels] + 0.03 * torch.rand(n, channels, 6, 6, generator=generator), labels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("whose", ["own", "ImageNet"])
def test_a_model_that_expects_normalised_images_is_noticed(channels, whose, tmp_path):
    centres, images, labels = prototypes_of(channels)
    if whose == "own":
        mean, deviation = images.mean((0, 2, 3)), images.std((0, 2, 3))
    else:
        mean, deviation = (torch.tensor(each)[:channels] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalised = (centres - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
    model = Prototypes(normalised)
    if whose == "ImageNet" and channels == 1:
        report = evaluate_model(Prototypes(centres), (images, labels), **BARE)
        assert report.notices == []
        return
    with pytest.warns(UserWarning, match="the model seems to expect normalised images") as caught:
        report = evaluate_model(model, (images, labels), **BARE)
    assert caught[0].filename == __file__
    (notice,) = report.notices
    assert notice == str(caught[0].message)
    assert f"on {100 - 100 * report.clean_error.value:.1f}% of 40 images in [0, 1]" in notice
    assert "put the normalisation into the model, as its first layer" in notice
    assert "mean and standard deviation of the data set" in notice or whose == "ImageNet"
    assert notice in " ".join(report.to_table().split())
    report.save(tmp_path / "r.html")
    assert Report.load(tmp_path / "r.json").notices == [notice]
    assert "the model seems to expect normalised images" in (tmp_path / "r.html").read_text()


def test_a_model_for_images_in_0_1_is_not_warned_of():
    centres, images, labels = prototypes_of(3)
    assert evaluate_model(Prototypes(centres), (images, labels), **BARE).notices == []
    model = net(4, side=6)  # and a bad one is bad either way
    assert evaluate_model(model, (images, labels), **BARE).notices == []


def test_data_in_the_order_of_their_classes_are_looked_at_all_over():
    """A folder's first images are of one class, which normalised images may favour: no sign of what a model expects."""

    class Between(nn.Module):
        """Second class from 0.6 to 0.7: 75% of these images; the first class for all of them once normalised."""

        def forward(self, images):
            level = images.mean((1, 2, 3))
            second = ((level > 0.6) & (level < 0.7)).to(images.dtype)
            return torch.stack([1 - second, second], 1)

    labels = torch.arange(600) // 300
    levels = torch.where((labels == 0) & (torch.arange(600) % 2 == 0), 0.35, 0.65)
    noise = 0.01 * torch.rand(600, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    images = levels.view(-1, 1, 1, 1) + noise
    report = evaluate_model(Between(), (images, labels), **BARE)
    assert report.notices == [] and report.clean_error.value == 0.25


def test_a_model_that_refuses_other_values_or_has_no_answer_to_them_is_measured():
    centres, images, labels = prototypes_of(3)

    class Strict(Prototypes):
        def forward(self, given):
            if float(given.min()) < 0 or float(given.max()) > 1:
                raise AssertionError("images must lie in [0, 1]")
            return super().forward(given)

    class Root(Prototypes):
        def forward(self, given):
            return super().forward(given.sqrt().square())

    for kind in (Strict, Root):
        report = evaluate_model(kind(centres), (images, labels), **BARE)
        assert report.notices == [] and report.clean_error.value == 0


# --- the data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "channels"), [(1, 3), (2, 3), (3, 1)])
def test_a_few_images_with_everything(n, channels, tmp_path):
    model = net(channels=channels)
    images, labels = labelled(model, pictures(n, channels), wrong=n - 1)
    report = evaluate_model(
        model, (images, labels), everything=True, out_of_distribution=(images, labels), surrogate=net(channels=channels)
    )
    assert set(report.left_out) == ({"features"} if n < 3 else set())
    assert all("must be 3 or more" in reason for reason in report.left_out.values())
    sizes = {name: report.settings[name] for name in ("n_clean", "n_corruption", *PARTS)}
    assert sizes == dict.fromkeys(sizes, n) | {"n_surface": min(2, n)}
    assert report.settings["n_attack"] == dict.fromkeys(("fgsm", "pgd-20", "cw-20", "square"), n)
    assert len(report.outcomes.corrupted) == 15 and report.audit is not None and report.flip_rate is not None
    assert len(report.measured["maps"]) == n and len(report.measured["surface"]) == 3 * min(2, n)
    assert report.anomaly.auroc.value == pytest.approx(0.5)
    if (n, channels) == (3, 1):  # drawing takes seconds
        report.save(tmp_path / "r.html")
        assert timeless(Report.load(tmp_path / "r.json")) == timeless(report)


def test_a_data_set_of_one_class():
    model = net()
    images, labels = labelled(model, pictures(30), wrong=0)
    one = int(labels.mode().values)
    images = images[labels == one]
    report = evaluate_model(
        model, (images, torch.full((len(images),), one)), corruption_names=["fog"], everything=True, n_flips=2
    )
    assert report.clean_error.value == 0 and report.audit is not None and report.left_out == {}
    assert set(report.measured["features"].labels.tolist()) == {one}


def test_images_of_two_channels_are_measured_but_for_what_is_a_picture():
    model = net(channels=2)
    data = labelled(model, pictures(6, channels=2))
    with pytest.raises(ValueError, match="corruptions must be None or a CorruptedSet for images of 2 channels"):
        evaluate_model(model, data)
    report = evaluate_model(model, data, corruptions=None, everything=True, n_attack=4)
    why = "images of 2 channels are no pictures"
    assert report.left_out == {"flips": why, "maps": why}
    assert report.examples.adversarial == [] and report.audit is not None and len(report.attacks) == 4


def test_images_of_mixed_sizes_are_refused():
    mixed = [(image[:, : 8 - at % 2], 0) for at, image in enumerate(pictures(4))]
    with pytest.raises(ValueError, match=r"images of one size, got \(3, 7, 8\) at index 1 and \(3, 8, 8\) before"):
        evaluate_model(net(), mixed)


def test_other_data_must_have_the_same_channels(data):
    with pytest.raises(ValueError, match="out_of_distribution must have images of 3 channels like the data set, got 1"):
        evaluate_model(net(), data, out_of_distribution=(pictures(4, 1), torch.zeros(4, dtype=torch.int64)))


# --- the radius -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": "quick"}, "eps must be above 0 for the attacks 'quick', got 0; attacks=None attacks nothing"),
        ({"audit": True}, "eps must be above 0 to measure what the audit measures, got 0; audit=False leaves it out"),
        ({"n_lipschitz": 2}, "to measure the Lipschitz constant, got 0; n_lipschitz=0 leaves it out"),
        ({"n_curve": 2}, "to measure the accuracy against the radius, got 0; n_curve=0 leaves it out"),
        ({"everything": True}, "to measure the Lipschitz constant, got 0; n_lipschitz=0 leaves it out"),
    ],
)
def test_a_radius_of_0_is_refused_by_what_needs_one(data, settings, message):
    model = Counting(net())
    with pytest.raises(ValueError, match=message):
        evaluate_model(model, data, **BARE | settings, eps=0)
    assert model.calls == 0


def test_a_radius_of_0_is_none_of_the_business_of_the_rest(data):
    report = evaluate_model(
        net(), data, attacks={"same": lambda m, x, y: x}, corruption_names=["fog"], audit=False, eps=0.0,
        everything=True, n_lipschitz=0, n_flips=2,
    )  # fmt: skip
    assert report.worst_case.accuracy.value == pytest.approx(1 - report.clean_error.value)
    assert report.settings["eps"] == 0.0 and len(report.measured["surface"]) == 6


# --- names and sets -------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_those_that_there_are(data):
    model = Counting(net())
    for settings, message in [
        ({"corruption_names": ["rain"]}, r"corruption_names must be one of gaussian_noise, .*saturate, got 'rain'"),
        ({"corruptions": "cifar10"}, "corruptions must be 'cifar', 'imagenet', a CorruptedSet or None, got 'cifar10'"),
        ({"corruptions": "data/cifar-c"}, r"a folder is read by CorruptedSet\(folder\)"),
        ({"attacks": "fast"}, "attacks must be 'pgd', 'quick', 'standard', 'autoattack'"),
        ({"attacks": ["pgd"]}, "attacks must be callable, got str"),
        ({"n_attack": {"pgd": 3}}, "n_attack must name attacks of fgsm, pgd-20, cw-20, square; got 'pgd'"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            evaluate_model(model, data, **settings)
    grey = (pictures(4, 1), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="corruption_names must not hold 'saturate' for grey images"):
        evaluate_model(model, grey, corruption_names=["fog", "saturate"])
    assert model.calls == 0


def test_a_corrupted_set_of_other_images_is_refused(data, tmp_path):
    images, labels = data
    saved = CorruptedSet(save_corrupted(data, tmp_path / "set", names=["fog", "contrast"]))
    some = CorruptedSet(save_corrupted(data, tmp_path / "some", names=["fog"], severities=[1, 5]))
    model = Counting(net())
    for dataset, corruptions, message in [
        ((images[:9], labels[:9]), saved, "of the data set's 12 images|of the data set's 9 images .* a set of 12"),
        ((images, labels.roll(1)), saved, "the data set's labels in their order, got another one at index 0"),
        ((images[..., 1:], labels), saved, r"of the data set's images \(3, 8, 7\), got a set of \(3, 8, 8\)"),
        (data, some, r"must have the severities 1 to 5, got a set without \[2, 3, 4\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate_model(model, dataset, corruptions=corruptions)
    with pytest.raises(ValueError, match="corruption_names must be one of fog, contrast, got 'snow'"):
        evaluate_model(model, data, corruptions=saved, corruption_names=["snow"])
    with pytest.raises(TypeError, match="corruptions must be 'cifar', 'imagenet', a CorruptedSet or None, got PosixPa"):
        evaluate_model(model, data, corruptions=tmp_path / "set")
    assert model.calls == 0


def test_a_saved_corrupted_set_gives_what_is_made_on_the_spot(data, tmp_path):
    saved = CorruptedSet(save_corrupted(data, tmp_path / "set", names=["glass_blur", "fog"], seed=5))
    settings = {"attacks": None, "audit": False, "seed": 5}
    stored = evaluate_model(net(), data, corruptions=saved, **settings)
    made = evaluate_model(net(), data, corruption_names=["glass_blur", "fog"], **settings)
    assert stored.to_json()["outcomes"] == made.to_json()["outcomes"]
    assert stored.to_json()["examples"] == made.to_json()["examples"]
    assert stored.settings["preset"]["folder"] == str(tmp_path / "set")
    few = evaluate_model(net(), data, corruptions=saved, corruption_names=["fog"], n_corruption=5, **settings)
    assert torch.equal(few.outcomes.corrupted["fog"], made.outcomes.corrupted["fog"][:, few.outcomes.corruption_index])


def test_nothing_is_warned_of_in_a_usual_evaluation(data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate_model(net(), data, corruption_names=["fog"], n_attack=3, n_curve=2, n_audit=3)
    assert caught == []
