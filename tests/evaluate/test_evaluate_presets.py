"""The presets of attacks: which, on which images, and what of them becomes the figures."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from evaluate_parts import BARE, Counting, labelled, net, pictures
from torch import nn

import mixaug.evaluate.parts as module
from mixaug.attacks import APGD, FGSM, PGD, SPSA, AutoAttack, CWLinf, Square
from mixaug.evaluate import evaluate_model
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.plan import planned, preset_attacks

pytest.importorskip("pyautoattack")

NAMES = {
    "pgd": ["pgd-20"],
    "quick": ["fgsm", "pgd-20", "cw-20", "square"],
    "standard": ["fgsm", "pgd-20", "pgd-100", "cw-20", "cw-l2", "spsa", "apgd-ce", "apgd-dlr", "square"],
    "autoattack": ["autoattack"],
}


class Plane(nn.Module):
    """Two classes, ``z_1 - z_0 = w x + b``: what a perturbation of any radius does to it is known."""

    def __init__(self, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(size, generator=generator))
        self.bias = nn.Parameter(-0.5 * self.weight.detach().sum())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = images.flatten(1) @ self.weight + self.bias
        return torch.stack([-score / 2, score / 2], 1)


class Still(nn.Module):
    """Class 1 whatever the image, by a margin of its own; its gradient is 0 everywhere."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        nothing = 0 * images.flatten(1).sum(1)
        return torch.stack([nothing, nothing + self.margin, nothing - 1], 1)


@pytest.mark.parametrize("preset", NAMES)
def test_names_and_settings(preset):
    attacks = {attack.name: attack for attack in preset_attacks(preset, 0.2)}
    assert list(attacks) == NAMES[preset]
    for attack in attacks.values():
        assert getattr(attack, "eps", None) == (None if attack.name == "cw-l2" else 0.2)
        if isinstance(attack, PGD | CWLinf):
            assert (attack.step_size, attack.random_start, attack.targeted) == (0.05, True, False)
            assert attack.steps == int(attack.name.split("-")[1])
    if preset == "quick":
        assert (attacks["square"].queries, attacks["square"].rescale) == (200, True)
        assert isinstance(attacks["cw-20"], CWLinf)
    if preset == "standard":
        assert (attacks["square"].queries, attacks["square"].rescale) == (5000, False)
        assert (attacks["spsa"].samples, attacks["spsa"].delta, attacks["spsa"].steps) == (128, 0.01, 20)
        assert (attacks["apgd-ce"].loss, attacks["apgd-dlr"].loss, attacks["apgd-ce"].steps) == ("ce", "dlr", 100)
        assert attacks["cw-l2"].eps is None
    if preset == "autoattack":
        assert attacks["autoattack"].version == "standard"


@pytest.mark.parametrize(
    ("preset", "total", "count", "curve"),
    [
        ("quick", 1200, 1000, 100),
        ("standard", 1200, 500, 100),
        ("autoattack", 1200, 500, 100),
        ("pgd", 1200, 1200, 0),
        ("quick", 40, 40, 40),
        ("standard", 40, 40, 40),
        ("autoattack", 40, 40, 40),
    ],
)
def test_numbers_of_images(preset, total, count, curve):
    data = LabelledImages((torch.zeros(total, 1, 1, 1), torch.zeros(total, dtype=torch.int64)))
    parts = ("audit", "curve", "lipschitz", "surface", "flips", "occlusion", "features", "maps")

    def plan(n_attack=None, everything=False, **given):
        counts = dict.fromkeys(parts) | given
        return planned(data, (), preset, 0.1, True, counts, None, n_attack, everything, 0)

    usual = plan()
    assert {name: len(index) for name, index in usual.attack_index.items()} == dict.fromkeys(NAMES[preset], count)
    assert {name: len(index) for name, index in usual.index.items() if len(index)} == {
        name: n for name, n in (("audit", min(200, total)), ("curve", curve)) if n
    }
    given = plan(n_attack=7, curve=3, audit=0)
    assert [len(index) for index in given.attack_index.values()] == [7] * len(NAMES[preset])
    assert (len(given.index["curve"]), len(given.index["audit"])) == (3, 0)
    whole = plan(everything=True, maps=0)
    sizes = {name: len(whole.index[name]) for name in parts[2:]}
    assert sizes == {
        "lipschitz": min(100, total), "surface": 2, "flips": min(100, total), "occlusion": min(200, total),
        "features": min(500, total), "maps": 0,
    }  # fmt: skip


def recorded(monkeypatch, given):
    """Notes the images that each attack is given."""
    original = module.seeded

    def noting(attack, seed, name, block):
        def attacked(model, images, labels):
            given.setdefault(name, []).append(images.clone())
            return original(attack, seed, name, block)(model, images, labels)

        return attacked

    monkeypatch.setattr(module, "seeded", noting)


def test_each_attack_gets_all_images_that_are_right_and_none_what_another_left(monkeypatch):
    given: dict[str, list[torch.Tensor]] = {}
    recorded(monkeypatch, given)
    model = net(side=6)
    images, labels = labelled(model, pictures(10, side=6), wrong=3)
    report = evaluate_model(
        model, (images, labels), **BARE | {"attacks": "standard"}, eps=0.5, n_curve=0, n_attack=8, batch_size=5
    )
    assert list(report.attacks) == list(given) == NAMES["standard"]
    assert report.attacks["fgsm"].accuracy.value == 0  # nothing is left, and the others still get all
    index = report.outcomes.attack_index["fgsm"]
    right = index[report.outcomes.correct[index]]
    assert 0 < len(right) < 8
    for name, batches in given.items():
        assert torch.equal(torch.cat(batches), images[right].float() / 255), name
        assert torch.equal(report.outcomes.attack_index[name], index)
    assert report.settings["n_attack"] == dict.fromkeys(NAMES["standard"], 8)


def test_cw_l2_has_no_radius_and_no_part_in_the_worst_case():
    model = net(side=6)
    report = evaluate_model(
        model, labelled(model, pictures(6, side=6)), **BARE | {"attacks": "standard"}, eps=1 / 255, n_curve=0
    )
    assert report.outcomes.attack_change["cw-l2"] > 1 / 255
    assert report.attacks["cw-l2"].accuracy.value < report.worst_case.accuracy.value
    assert report.worst_case.attacks == tuple(name for name in NAMES["standard"] if name != "cw-l2")


def test_two_models_start_from_the_same_points(monkeypatch):
    found: list[torch.Tensor] = []
    original = module._checked
    monkeypatch.setattr(module, "_checked", lambda *given: found.append(original(*given)) or found[-1])
    data = (torch.full((7, 1, 4, 4), 0.5), torch.ones(7, dtype=torch.int64))
    for model, seed in ((Still(1.0), 0), (Still(2.0), 0), (Still(1.0), 1)):
        evaluate_model(model, data, **BARE | {"attacks": [PGD(0.1, 0.02, 3)]}, batch_size=4, seed=seed)
    one, other, reseeded = (torch.cat(found[at : at + 2]) for at in (0, 2, 4))
    assert (one - 0.5).abs().max() > 0.09  # without a gradient an attack stays where it starts
    assert torch.equal(one, other)
    assert not torch.equal(one, reseeded)
    assert not torch.equal(one[:3], one[4:])  # each block has starts of its own


@pytest.mark.parametrize(
    ("preset", "who"), [("quick", "Square"), ("standard", "APGD"), ("autoattack", "AutoAttack"), ("pgd", None)]
)
def test_a_missing_extra_is_named_with_its_command_before_any_work(monkeypatch, preset, who):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyautoattack" else original(name))
    model = Counting(net())
    settings = BARE | {"attacks": preset, "n_attack": 2, "n_curve": 0}
    if who is None:
        assert list(evaluate_model(model, labelled(net(), pictures()), **settings).attacks) == ["pgd-20"]
    else:
        with pytest.raises(ModuleNotFoundError, match=rf"{who} .*pyautoattack.*pip install 'mixaug\[attacks\]'"):
            evaluate_model(model, (pictures(), torch.zeros(12, dtype=torch.int64)), **settings)
        assert model.calls == 0


@pytest.mark.parametrize(
    ("classes", "preset", "without"),
    [
        (2, "standard", {"apgd-dlr": "it needs 3 classes or more, and the model has 2"}),
        (3, "standard", {}),
        (3, "autoattack", {"autoattack": "it needs 4 classes or more, and the model has 3"}),
    ],
)
def test_attacks_that_need_more_classes_are_left_out_with_the_reason(classes, preset, without):
    model = net(classes, side=6)
    report = evaluate_model(
        model, labelled(model, pictures(4, side=6)), **BARE | {"attacks": preset}, eps=0.3, n_curve=0
    )
    assert report.left_out == without
    assert list(report.attacks) == list(report.settings["attacks"]) == [n for n in NAMES[preset] if n not in without]
    for reason in without.values():
        assert reason in " ".join(report.to_table().split())


def test_worst_case_gap_and_confidence_by_hand():
    """Six images, the last one wrong by itself; each attack turns the images that it is told to."""

    class Read(nn.Module):
        """The class is written into the first pixel, the confidence grows with the second."""

        def forward(self, images):
            one = (images[:, 0, 0, 0] > 0.5).float()
            scale = 1 + 3 * images[:, 0, 0, 1]
            return torch.stack([(1 - one) * scale, one * scale], 1)

    images = torch.zeros(6, 1, 1, 3)
    images[:, 0, 0, 2] = torch.arange(6) / 10  # which image it is
    labels = torch.tensor([0, 0, 0, 0, 0, 1])

    def turning(*which, sure=0.0):
        def attack(model, given, classes):
            given = given.clone()
            for row in given:
                if round(float(10 * row[0, 0, 2])) in which:
                    row[0, 0, 0] = 1
                    row[0, 0, 1] = sure
            return given

        return attack

    attacks = {"a": turning(0, 1, sure=1.0), "b": turning(2), "nothing": turning()}
    report = evaluate_model(Read(), (images, labels), **BARE | {"attacks": attacks}, eps=1.0)
    assert {name: round(6 * each.accuracy.value) for name, each in report.attacks.items()} == {
        "a": 3, "b": 4, "nothing": 5
    }  # fmt: skip
    assert report.worst_case.accuracy.value == pytest.approx(2 / 6)
    assert report.worst_case.clean_accuracy.value == pytest.approx(5 / 6)
    assert report.worst_case.gap.value == pytest.approx(3 / 6)
    assert report.robustness_gap[0] == "a" and report.robustness_gap[1].value == pytest.approx(2 / 6)
    plain, sure = (1 / (1 + math.exp(-scale)) for scale in (1, 4))
    assert report.attacks["a"].confidence.value == pytest.approx((2 * sure + 3 * plain) / 5, abs=1e-6)
    assert report.attacks["nothing"].confidence.value == pytest.approx(plain, abs=1e-6)
    assert report.outcomes.attack_change == {"a": 1.0, "b": 1.0, "nothing": 0.0}
    # Only the images that both were given count.
    fewer = evaluate_model(Read(), (images, labels), **BARE | {"attacks": attacks}, eps=1.0, n_attack={"b": 3})
    shared = fewer.outcomes.attack_index["b"]
    left = [int(at) not in (0, 1, 2, 5) for at in shared]
    assert fewer.worst_case.accuracy.n == 3
    assert fewer.worst_case.accuracy.value == pytest.approx(sum(left) / 3)
    # Attacks that go beyond the radius fool any model: they are no part of it.
    small = evaluate_model(Read(), (images, labels), **BARE | {"attacks": attacks}, eps=0.9)
    assert small.worst_case.attacks == ("nothing",)


def test_an_attack_that_writes_to_its_images_is_seen_to_move_them():
    def rude(model, images, labels):
        return images.add_(0.25).clamp_(0, 1)

    images = torch.full((4, 1, 4, 4), 0.5)
    report = evaluate_model(Still(1.0), (images, torch.ones(4, dtype=torch.int64)), **BARE | {"attacks": {"x": rude}})
    assert report.outcomes.attack_change["x"] == pytest.approx(0.25)
    assert torch.equal(report.examples.adversarial[0].clean, torch.full((1, 4, 4), 128, dtype=torch.uint8))
    assert torch.equal(images, torch.full((4, 1, 4, 4), 0.5))


def test_a_linear_model_has_the_accuracy_that_is_known_at_every_radius():
    generator = torch.Generator().manual_seed(1)
    images = 0.4 + 0.2 * torch.rand(60, 1, 5, 5, generator=generator)
    model = Plane(25)
    score = (images.flatten(1) @ model.weight + model.bias).detach()
    labels = (score > 0).long()
    labels[:6] = 1 - labels[:6]
    margin = torch.where(labels == 1, score, -score)
    eps = 0.02
    report = evaluate_model(
        model, (images, labels), **BARE | {"attacks": [FGSM(eps), PGD(eps, eps / 4, 20)]}, eps=eps, n_curve=60,
        batch_size=17,
    )  # fmt: skip
    slope = model.weight.detach().abs().sum()
    assert list(report.measured["curve"].right) == [eps / 4, eps / 2, eps, 2 * eps, 4 * eps]
    for radius, right in report.measured["curve"].right.items():
        assert torch.equal(right, margin > radius * slope), radius
    shares = [each.value for each in report.accuracy_curve.values()]
    assert shares[0] == pytest.approx(0.9) and shares == sorted(shares, reverse=True) and len(set(shares)) >= 4
    for name in ("fgsm", "pgd-20"):
        assert torch.equal(report.outcomes.attacked[name], margin > eps * slope)
    some = evaluate_model(model, (images, labels), **BARE, eps=eps, n_curve=9)
    assert torch.equal(some.measured["curve"].right[eps], (margin > eps * slope)[some.measured["curve"].index])


def test_the_curve_takes_the_worse_of_its_two_attacks():
    """Logits times 10,000 leave cross-entropy without a gradient, not the margin."""

    class Saturated(Plane):
        def forward(self, images):
            return 1e4 * super().forward(images)

    images = 0.4 + 0.2 * torch.rand(20, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    model = Saturated(25)
    score = (images.flatten(1) @ model.weight + model.bias).detach()
    report = evaluate_model(model, (images, (score > 0).long()), **BARE, eps=0.02, n_curve=20)
    slope = model.weight.detach().abs().sum()
    for radius, right in report.measured["curve"].right.items():
        assert torch.equal(right, score.abs() > radius * slope), radius


def test_radii_end_at_one():
    model = net()
    report = evaluate_model(model, labelled(model, pictures()), **BARE, eps=0.5, n_curve=4)
    assert list(report.measured["curve"].right) == [0.125, 0.25, 0.5, 1.0]


def test_a_model_that_gets_nothing_right_has_a_whole_report():
    model = net()
    images, labels = labelled(model, pictures(4), wrong=4)
    report = evaluate_model(
        model, (images, labels), attacks="quick", corruptions=None, everything=True, n_flips=0, n_occlusion=2
    )
    assert report.clean_error.value == 1
    assert [each.accuracy.value for each in report.attacks.values()] == [0.0] * 4
    assert report.worst_case.accuracy.value == 0 and report.worst_case.gap.value == 0
    assert report.outcomes.attack_change == dict.fromkeys(NAMES["quick"], 0.0)
    assert [each.value for each in report.accuracy_curve.values()] == [0.0] * 6
    assert report.audit is not None and not report.audit.masked
    assert report.examples.adversarial == []
    assert "100.0%" in report.to_table()


@pytest.mark.parametrize(
    ("attack", "needs"), [(APGD(loss="dlr"), 3), (AutoAttack(), 4), (AutoAttack(version="rand"), 3), (Square(), 2)]
)
def test_attacks_of_ones_own_list_are_left_out_by_the_same_rule(attack, needs):
    plan = planned(
        LabelledImages((torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64))), (), [attack, FGSM()], 0.1,
        False, {},
        None, None, False, 0,
    )  # fmt: skip
    for classes in (2, 3, 4):
        possible = plan.possible(classes, None, None, None)
        assert (attack.name in possible.attacks) == (classes >= needs)
        assert (attack.name in possible.attack_index) == (classes >= needs)
        assert (attack.name in possible.left_out) == (classes < needs)
        assert "fgsm" in possible.attacks
    blind = plan.possible(10, "no gradient", None, None)
    assert ("fgsm" in blind.left_out, attack.name in blind.left_out) == (True, not isinstance(attack, Square | SPSA))
