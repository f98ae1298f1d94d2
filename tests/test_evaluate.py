"""evaluate_model: known errors come out, every model sees the same images, and nothing of the model changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import mixaug.evaluate._judge as module
from mixaug.attacks import FGSM, PGD
from mixaug.evaluate import evaluate_model
from mixaug.evaluate.corruptions import CORRUPTIONS
from mixaug.evaluate.images import LabelledImages, fingerprint
from mixaug.evaluate.intervals import bootstrap_centred, bootstrap_means, wilson


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
    report = evaluate_model(Bright(), (images, labels), attacks=None)
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
    report = evaluate_model(Bright(), (images, labels), attacks=None, corruption_names=["fog"], batch_size=3)
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
            corruptions=preset,
            corruption_names=names,
            n_corruption=20,
            batch_size=batch_size,
            seed=3,
        )
        seen.append(torch.cat(model.seen))
    assert torch.equal(*seen)
    assert len(seen[0]) == 30 + 3 * 5 * 20


def test_the_same_seed_repeats_and_another_differs(data):
    def outcomes(seed):
        settings = {"corruption_names": ["shot_noise", "frost"], "n_attack": 11, "n_corruption": 20}
        return evaluate_model(small_model(), data, seed=seed, **settings).outcomes

    one, two, other = outcomes(1).to_json(), outcomes(1).to_json(), outcomes(2).to_json()
    assert one == two
    assert one["corruption_index"] != other["corruption_index"]


def test_the_global_random_state_is_neither_used_nor_moved(data):
    model = small_model()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    evaluate_model(model, data, corruption_names=CORRUPTIONS, n_corruption=2, n_attack=2)
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
    evaluate_model(model, data, attacks={"careless": careless}, corruptions=None)
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
        evaluate_model(model, data, attacks={"fails": fails}, corruptions=None)
    assert [m.training for m in model] == [True, True, False, True, True]


def test_pgd_20_and_attacks_by_name(data):
    report = evaluate_model(small_model(), data, corruptions=None, n_attack=12, eps=0.1)
    result = report.attacks["pgd-20"]
    assert result.accuracy.n == 12
    assert result.accuracy.value + result.error.value == pytest.approx(1)
    assert result.accuracy.value <= result.clean_accuracy.value
    assert 0.05 < report.outcomes.attack_change["pgd-20"] <= 0.1 + 1e-6
    assert report.settings["attacks"]["pgd-20"]["step_size"] == pytest.approx(0.025)
    identity = evaluate_model(small_model(), data, attacks={"none": lambda m, x, y: x}, corruptions=None)
    assert identity.attacks["none"].error.value == identity.clean_error.value


def test_several_attacks_each_on_its_own_number_of_images(data):
    given: dict[str, list[torch.Tensor]] = {"wide": [], "narrow": []}

    def watching(name):
        def attack(model, images, labels):
            given[name].append(images.clone())
            return images.flip(0)  # the labels stay: some of the images turn wrong

        return attack

    counts = {"wide": 20, "narrow": 7}
    attacks = {name: watching(name) for name in counts}
    report = evaluate_model(small_model(), data, corruptions=None, attacks=attacks, n_attack=counts, batch_size=8)
    assert {name: result.accuracy.n for name, result in report.attacks.items()} == counts
    assert report.settings["n_attack"] == counts
    for name, index in report.outcomes.attack_index.items():
        assert torch.equal(torch.cat(given[name]), data[0][index].float() / 255)
        before = report.outcomes.correct[index].double().mean()
        assert report.attacks[name].clean_accuracy.value == pytest.approx(float(before))
        assert report.attacks[name].gap.value == pytest.approx(float(before) - report.attacks[name].accuracy.value)
    assert set(report.outcomes.attack_index["narrow"].tolist()) < set(report.outcomes.attack_index["wide"].tolist())
    worst, gap = report.robustness_gap
    assert gap.value == max(result.gap.value for result in report.attacks.values()) and gap == report.attacks[worst].gap
    table = report.to_table()
    assert "wide error" in table and "narrow error" in table and "different numbers of images" in table
    some = evaluate_model(small_model(), data, corruptions=None, attacks=attacks, n_attack={"narrow": 7})
    assert some.attacks["wide"].accuracy.n == 30  # those without a number get all images


def test_a_list_of_attacks_has_their_names_and_its_seeds(data):
    attacks = [FGSM(0.1), PGD(0.1, 0.03, 3), PGD(0.1, 0.03, 3, targeted=True)]
    settings = {"corruptions": None, "n_attack": 10, "attacks": attacks}
    state = torch.get_rng_state()
    one, two, other = (evaluate_model(small_model(), data, **settings, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(one.attacks) == ["fgsm", "pgd-3", "pgd-3-targeted"]
    assert one.settings["attacks"]["pgd-3"]["step_size"] == 0.03
    for name in one.attacks:
        assert torch.equal(one.outcomes.attack_confidence[name], two.outcomes.attack_confidence[name])
    assert not torch.equal(one.outcomes.attack_confidence["pgd-3"], other.outcomes.attack_confidence["pgd-3"])
    assert all(attack.generator is None for attack in attacks if isinstance(attack, PGD))  # ours, not written to
    alone = evaluate_model(small_model(), data, **settings | {"attacks": attacks[1:2]})
    assert torch.equal(alone.outcomes.attack_confidence["pgd-3"], one.outcomes.attack_confidence["pgd-3"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"attacks": [FGSM(0.1), FGSM(0.2)]}, ValueError, "different names, got fgsm, fgsm; give names to attacks"),
        ({"attacks": [3]}, TypeError, "attacks must be callable, got int"),
        ({"attacks": 3}, TypeError, "attacks must be 'pgd', None, attacks or names to attacks, got int"),
        ({"n_attack": {"fgsm": 3}}, ValueError, "n_attack must name attacks of pgd-20; got 'fgsm'"),
        ({"n_attack": {"pgd-20": 31}}, ValueError, r"n_attack\['pgd-20'\] must be at most the 30 images"),
        ({"n_attack": {"pgd-20": 0}}, ValueError, r"n_attack\['pgd-20'\] must be 1 or more, got 0"),
        ({"n_lipschitz": 31}, ValueError, "n_lipschitz must be at most the 30 images"),
        ({"n_surface": -1}, ValueError, "n_surface must be 0 or more, got -1"),
        ({"n_lipschitz": 3, "eps": 0}, ValueError, "eps must be above 0 to measure the Lipschitz constant"),
    ],
)
def test_refuses_attacks_and_numbers(data, settings, error, message):
    with pytest.raises(error, match=message):
        evaluate_model(small_model(), data, corruptions=None, **settings)


def test_a_map_style_data_set_gives_the_same_as_tensors(data, monkeypatch):
    from torchvision.transforms.v2.functional import to_pil_image

    images, labels = data
    settings = {"corruption_names": ["snow"], "n_attack": 5}
    expected = evaluate_model(small_model(), data, **settings).outcomes.to_json()
    pictures = [(to_pil_image(image), int(label)) for image, label in zip(images, labels, strict=True)]
    assert evaluate_model(small_model(), pictures, **settings).outcomes.to_json() == expected
    monkeypatch.setattr("mixaug.evaluate.images.IN_MEMORY_BYTES", 0)
    lazy = evaluate_model(small_model(), pictures, **settings)
    assert lazy.outcomes.to_json() == expected
    floats = [(image.float() / 255, label) for image, label in zip(images, labels, strict=True)]
    assert evaluate_model(small_model(), floats, **settings).outcomes.to_json() == expected


def test_images_and_labels_attributes_and_class_names(data):
    class Part:
        images, labels = data
        classes = ("cat", "dog", "eel")

    report = evaluate_model(small_model(), Part(), attacks=None, corruptions=None)
    assert report.class_name(2) == "eel"
    assert report.settings["n_clean"] == 30


def test_the_device_is_put_back_and_progress_shows(data, capsys):
    model = small_model()
    evaluate_model(model, data, device="cpu", corruption_names=["fog"], n_attack=2, progress=True)
    assert model[0].weight.device.type == "cpu"


def test_refuses_bad_arguments(data):
    images, labels = data
    model = small_model()
    for settings, error, message in [
        (
            {"attacks": "standard"},
            ValueError,
            "attacks must be 'pgd', None, attacks or names to attacks, got 'standard'",
        ),
        ({"attacks": {"x": 3}}, TypeError, r"attacks\['x'\] must be callable, got int"),
        ({"corruptions": "mnist"}, ValueError, "corruptions must be 'cifar', 'imagenet' or None, got 'mnist'"),
        ({"corruptions": "cifar", "corruption_names": ["rain"]}, ValueError, "got 'rain'"),
        ({"corruptions": "cifar", "corruption_names": []}, ValueError, "one or more different names"),
        ({"corruptions": "cifar", "n_corruption": 31}, ValueError, "n_corruption must be at most the 30 images"),
        ({"attacks": "pgd", "n_attack": 0}, ValueError, "n_attack must be 1 or more, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be 1 or more"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
        ({"eps": 8}, ValueError, r"eps must be at most 1 .*, got 8; did you mean 8/255\?"),
        ({"attacks": {"big": lambda m, x, y: x * 3}}, ValueError, r"must return images in \[0, 1\]"),
        ({"attacks": {"nan": lambda m, x, y: x * float("nan")}}, ValueError, r"must return images in \[0, 1\]"),
        ({"attacks": {"cut": lambda m, x, y: x[..., 1:]}}, ValueError, "must return images of shape"),
    ]:
        with pytest.raises(error, match=message):
            evaluate_model(model, data, **({"corruptions": None, "attacks": None} | settings))
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got function; wrap it in a torch\.nn\.Module"):
        evaluate_model(lambda x: model(x), data)
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
        ((images, labels - 5), ValueError, "labels must be 0 or more"),
        ((images, labels + 5), ValueError, "below the model's 3 classes"),
        ([images[0]], TypeError, r"items must be \(image, label\)"),
        ([(images[0, 0], 1)], ValueError, r"images must have shape \(C, H, W\)"),
        ([(images[0], -1)], ValueError, "labels must be 0 or more"),
        ([(images[0], 1), (images[0, :, 1:], 1)], ValueError, "one size"),
    ]:
        with pytest.raises(error, match=message):
            evaluate_model(model, dataset, attacks=None, corruptions=None)
    with pytest.raises(TypeError, match="model must be"):
        evaluate_model("model", data)
    with pytest.raises(ValueError, match="model must return logits"):
        evaluate_model(nn.Identity(), data, attacks=None, corruptions=None)


def test_logits_that_are_not_finite_are_an_error_that_says_where(data, monkeypatch):
    class Breaks(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3) / (x.amax((1, 2, 3)) > 0).float()[:, None]

    monkeypatch.setattr(module, "corrupt", lambda images, *_, **__: images * 0)
    with pytest.raises(FloatingPointError, match="not finite on fog of severity 1"):
        evaluate_model(Breaks(), data, corruption_names=["fog"], attacks=None)


def test_labelled_images_take_and_length(data):
    labelled = LabelledImages(data)
    images, labels = labelled.take(torch.tensor([3, 1]))
    assert len(labelled) == 30
    assert torch.equal(images, data[0][[3, 1]])
    assert labels.dtype == torch.int64


def test_wilson_by_hand():
    # p = 0.3, n = 50, z = 1.96: centre (0.3 + 3.8415/100) / 1.07683, half 1.96 sqrt(.0042 + .00038415) / 1.07683
    estimate = wilson(15, 50)
    assert estimate.value == 0.3
    assert estimate.low == pytest.approx(0.19103, abs=1e-4)
    assert estimate.high == pytest.approx(0.43750, abs=1e-4)
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    for successes, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="must"):
            wilson(successes, n)


def test_bootstrap_agrees_with_the_normal_interval():
    values = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    for column, estimate in enumerate(bootstrap_means(values)):
        half = 1.96 * values[:, column].std().item() / 20
        assert estimate.value == pytest.approx(values[:, column].mean().item(), abs=1e-6)
        assert estimate.high - estimate.value == pytest.approx(half, rel=0.1)
        assert estimate.value - estimate.low == pytest.approx(half, rel=0.1)
    centred = bootstrap_centred(lambda index: values[index, 0].double().mean(), 400, lower=0.0)
    assert centred.high - centred.value == pytest.approx(1.96 * values[:, 0].std().item() / 20, rel=0.15)
