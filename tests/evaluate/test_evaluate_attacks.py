"""evaluate_model under several attacks: each on its own images, from its own seed, by its own name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixaug.attacks import FGSM, PGD
from mixaug.evaluate import evaluate_model


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.randint(3, (30,), generator=generator)


def test_pgd_20_and_attacks_by_name(data):
    report = evaluate_model(small_model(), data, corruptions=None, attacks="pgd", audit=False, n_attack=12, eps=0.1)
    result = report.attacks["pgd-20"]
    assert result.accuracy.n == 12
    assert result.accuracy.value + result.error.value == pytest.approx(1)
    assert result.accuracy.value <= result.clean_accuracy.value
    assert 0.05 < report.outcomes.attack_change["pgd-20"] <= 0.1 + 1e-6
    assert report.settings["attacks"]["pgd-20"]["step_size"] == pytest.approx(0.025)
    identity = evaluate_model(small_model(), data, attacks={"none": lambda m, x, y: x}, corruptions=None, audit=False)
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
    report = evaluate_model(
        small_model(), data, corruptions=None, audit=False, attacks=attacks, n_attack=counts, batch_size=8
    )
    assert {name: result.accuracy.n for name, result in report.attacks.items()} == counts
    assert report.settings["n_attack"] == counts
    for name, index in report.outcomes.attack_index.items():
        attacked = index[report.outcomes.correct[index]]  # what is wrong already is not attacked
        assert 0 < len(attacked) < len(index)
        assert torch.equal(torch.cat(given[name]), data[0][attacked].float() / 255)
        before = report.outcomes.correct[index].double().mean()
        assert report.attacks[name].clean_accuracy.value == pytest.approx(float(before))
        assert report.attacks[name].gap.value == pytest.approx(float(before) - report.attacks[name].accuracy.value)
    assert set(report.outcomes.attack_index["narrow"].tolist()) < set(report.outcomes.attack_index["wide"].tolist())
    worst, gap = report.robustness_gap
    assert gap.value == max(result.gap.value for result in report.attacks.values()) and gap == report.attacks[worst].gap
    table = report.to_table()
    assert "wide error" in table and "narrow error" in table and "different numbers of images" in table
    some = evaluate_model(small_model(), data, corruptions=None, audit=False, attacks=attacks, n_attack={"narrow": 7})
    assert some.attacks["wide"].accuracy.n == 30  # those without a number get all images


def test_a_list_of_attacks_has_their_names_and_its_seeds(data):
    attacks = [FGSM(0.1), PGD(0.1, 0.03, 3), PGD(0.1, 0.03, 3, targeted=True)]
    settings = {"corruptions": None, "audit": False, "n_attack": 10, "attacks": attacks}
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
        ({"attacks": 3}, TypeError, "'autoattack', None, attacks or names to attacks, got int"),
        ({"n_attack": {"fgsm": 3}}, ValueError, "n_attack must name attacks of pgd-20; got 'fgsm'"),
        ({"n_attack": {"pgd-20": 31}}, ValueError, r"n_attack\['pgd-20'\] must be at most the 30 images"),
        ({"n_attack": {"pgd-20": 0}}, ValueError, r"n_attack\['pgd-20'\] must be at least 1, got 0"),
        ({"n_lipschitz": 31}, ValueError, "n_lipschitz must be at most the 30 images"),
        ({"n_surface": -1}, ValueError, "n_surface must be at least 0, got -1"),
        ({"eps": 0}, ValueError, "eps must be above 0 for the attacks 'pgd', got 0; attacks=None attacks nothing"),
        (
            {"n_lipschitz": 3, "eps": 0, "attacks": None},
            ValueError,
            "eps must be above 0 to measure the Lipschitz constant",
        ),
    ],
)
def test_refuses_attacks_and_numbers(data, settings, error, message):
    with pytest.raises(error, match=message):
        evaluate_model(small_model(), data, corruptions=None, audit=False, **({"attacks": "pgd"} | settings))
