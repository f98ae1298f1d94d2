"""Whole audits: of models whose robustness is known, of ways to hide it; and what an audit leaves behind."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from audit_models import (
    EPS,
    Blocks,
    Compressed,
    Decoy,
    NoisyInput,
    NoNumber,
    OneHot,
    Reversed,
    Rippled,
    Rounded,
    Scaled,
    blocks_data,
)
from torch import nn

from mixaug.evaluate.audit import Audit, Thresholds, audit_images, audit_model, audit_pieces
from mixaug.evaluate.audit import attacks as audit_attacks

pytest.importorskip("pyautoattack")
QUERIES = 60


def audit(model: nn.Module, robust: float = 0.5, n: int = 60, eps: float = EPS, **settings: object) -> Audit:
    images, labels = blocks_data(n, robust)
    return audit_images(model, images, labels, eps, **{"square_queries": QUERIES, **settings})


def status(found: Audit) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


@pytest.fixture(scope="module")
def honest() -> Audit:
    return audit(Blocks(), surrogate=Blocks())


def test_an_honest_model_of_known_robustness(honest):
    for name in ("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-dlr", "transfer"):
        assert honest.accuracies[name].value == 0.5, name
    assert honest.right["clean"].all()
    assert honest.right["pgd-ce"].tolist() == (torch.arange(60) < 30).tolist()
    assert not honest.masked
    assert honest.verdict.startswith("Not masked") and "50.0%" in honest.verdict
    assert set(status(honest).values()) == {"pass", "not run"}
    assert [check.name for check in honest.checks if check.status == "not run"] == ["averaged"]
    assert honest.reported.value == honest.left.value == 0.5


def test_the_confidence_is_of_the_attacked_images(honest):
    assert honest.confidence["clean"].min() > 0.3
    strong = honest.right["pgd-ce"]
    assert honest.confidence["pgd-ce"][strong].mean() < honest.confidence["clean"][strong].mean()


@pytest.mark.parametrize("factor", [0.001, 1.0])
def test_small_logits_do_not_mask(factor):
    found = audit(Scaled(Blocks(), factor))
    assert not found.masked
    assert found.accuracies["pgd-ce"].value == 0.5
    assert ("pgd-stretched" in found.right) == (factor < 1)
    assert ("not flat" in found.left_out.get("pgd-stretched", "")) == (factor == 1)


def test_a_flat_softmax_is_stretched():
    class Decoyed(nn.Module):
        """A brighter image is class 1 soon; a third class far below has the larger slope, the other way."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            mean = images.flatten(1).mean(1)
            return torch.stack([0 * mean + 0.55, mean, -5 - 3 * mean], 1) / 1000

    images = torch.full((20, 1, 4, 4), 0.5)
    found = audit_images(Decoyed(), images, torch.zeros(20, dtype=torch.int64), EPS, square_queries=QUERIES)
    assert found.measures["gap"].tolist() == pytest.approx([5e-5] * 20, rel=0.01)
    assert found.accuracies["pgd-ce"].value == 1  # flat, it follows the decoy
    assert found.accuracies["pgd-stretched"].value == found.accuracies["pgd-margin"].value == 0
    assert not found.masked


def test_large_logits_mask():
    found = audit(Scaled(Blocks(), 10_000.0))
    assert found.masked
    assert status(found)["cross-entropy"] == "fail"
    assert found.accuracies["pgd-margin"].value == 0.5
    assert found.accuracies["pgd-ce"].value > 0.8
    assert "cross-entropy" in found.verdict


def test_a_model_without_robustness_is_not_masked():
    found = audit(Blocks(), robust=0.0)
    assert not found.masked
    assert found.strongest == "fgsm" and found.left.value == 0
    assert found.verdict == "Not masked: FGSM leaves 0.0% of the images: there is no robustness to lose."
    assert status(found)["black-box"] == "not run"
    assert set(found.right) == {"clean", "fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-dlr"}


@pytest.mark.parametrize(
    "make",
    [Rounded, OneHot, Reversed, NoNumber, Decoy, lambda model: Rippled(model, 0.1, 1e5)],
    ids=["rounded", "one-hot", "reversed", "not-a-number", "decoy", "rippled"],
)
def test_hidden_gradients_are_seen_around(make):
    found = audit(make(Blocks()), robust=0.2, surrogate=Blocks())
    assert found.masked, found.verdict
    assert found.verdict.startswith("Masked: ")
    assert status(found)["transfer"] == "fail"
    assert found.accuracies["transfer"].value <= 0.25
    assert found.accuracies[found.strongest].value > found.accuracies["transfer"].value + 0.05


def test_without_a_surrogate_black_boxes_see_around():
    found = audit(Reversed(Blocks()), robust=0.2, square_queries=300)
    assert found.masked
    assert status(found)["black-box"] == "fail"
    assert status(found)["transfer"] == "not run"


def test_a_model_cut_off_from_its_images_is_attacked_all_the_same():
    class Cut(Blocks):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return super().forward(images)

    class Inferred(Blocks):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return super().forward(images)

    class Numpy(Blocks):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(images.flatten(1).numpy() @ self.linear.weight.detach().numpy().T)

    for kind in (Cut, Inferred, Numpy):
        found = audit(kind(), robust=0.2, surrogate=Blocks())
        assert found.masked, kind
        assert found.measures["zero-margin"].all() and found.measures["zero-ce"].all()
        assert found.settings["gradient"] == (kind is not Numpy)
        assert status(found)["zero-gradients"] == "fail"


def test_jpeg_in_front_is_seen_around():
    found = audit(Compressed(Blocks(), quality=95), robust=0.2, n=40, surrogate=Blocks())
    assert found.masked


def test_averaged_gradients_are_run_where_calls_differ():
    class Lost(Blocks):
        """The gradient of one call is mostly that of chance; over many it is the model's."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            chance = torch.randn(4, images[0].numel()) * 3
            return super().forward(images) + (images - images.detach()).flatten(1) @ chance.T + torch.randn(4) * 1e-3

    found = audit(Lost(), robust=0.2, draws=200)
    assert found.settings["repeats"] == 4
    assert status(found)["repeated-calls"] == "warn"
    assert status(found)["together"] == "not run"
    assert found.accuracies["averaged"].value < found.accuracies["pgd-margin"].value
    assert status(found)["averaged"] == "fail" and found.masked
    assert status(audit(Blocks()))["averaged"] == "not run"


def test_a_random_model_is_right_where_it_is_right_every_time():
    class Moody(Blocks):
        """Wrong at one call in ten, whatever the image is."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            return torch.where(torch.rand(len(images), 1) < 0.1, -logits, logits)

    found = audit(Moody(), n=400, robust=1.0, square_queries=2)
    assert found.accuracies["clean"].value == pytest.approx(0.9**4, abs=0.08)
    again = audit(Moody(), n=400, robust=1.0, square_queries=2)
    assert again.to_json() == found.to_json()


def test_every_attack_gets_every_image_that_is_right(monkeypatch):
    seen: dict[str, torch.Tensor] = {}
    real = audit_attacks._adversarial

    def spy(subject, name, plan, images, labels, generator):
        seen[name] = images.clone()
        return real(subject, name, plan, images, labels, generator)

    monkeypatch.setattr(audit_attacks, "_adversarial", spy)
    images, labels = blocks_data(40)
    labels = labels.clone()
    labels[5] = (labels[5] + 1) % 4  # wrong before any attack
    found = audit_images(Blocks(), images, labels, EPS, surrogate=Blocks(), square_queries=QUERIES)
    assert set(seen) == set(audit_pieces(surrogate=True)) - {"clean", "gradients", "averaged", "pgd-stretched"}
    rest = torch.cat([images[:5], images[6:]])
    assert all(torch.equal(given, rest) for given in seen.values())
    assert not any(bits[5] for bits in found.right.values())
    assert found.n == 40


def test_an_image_is_fooled_if_one_of_several_tries_fools(monkeypatch):
    def tries(subject, name, plan, images, labels, generator):
        yield 1 - images  # the brightest quarter is the darkest now
        yield images

    monkeypatch.setattr(audit_attacks, "_adversarial", tries)
    found = audit(Blocks(), n=20)
    assert not found.right["fgsm"].any()
    assert found.confidence["fgsm"].min() > 0.25


def test_attacks_stay_in_the_ball(monkeypatch):
    made: dict[str, list[torch.Tensor]] = {}
    real = audit_attacks._adversarial

    def spy(subject, name, plan, images, labels, generator):
        for adversarial in real(subject, name, plan, images, labels, generator):
            made.setdefault(name, []).append((adversarial - images).abs().amax())
            assert adversarial.min() >= 0 and adversarial.max() <= 1
            yield adversarial

    monkeypatch.setattr(audit_attacks, "_adversarial", spy)
    audit(Blocks(), surrogate=Blocks(), n=20)
    radii = {name: float(max(changes)) for name, changes in made.items()}
    assert radii.pop("radius-half") == pytest.approx(0.05, abs=1e-6)
    assert radii.pop("radius-double") == pytest.approx(0.2, abs=1e-6)
    assert radii.pop("radius-large") == pytest.approx(0.5, abs=1e-6)
    assert 0.1 < radii.pop("grey") <= 0.5
    assert radii == pytest.approx(dict.fromkeys(radii, 0.1), abs=1e-6)
    assert {name: len(changes) for name, changes in made.items() if len(changes) > 1} == {
        "noise": 8,
        "radius-half": 2,
        "radius-double": 2,
        "radius-large": 2,
    }


def test_json_and_back(honest):
    again = Audit.from_json(json.loads(json.dumps(honest.to_json())))
    assert again.to_json() == honest.to_json()
    assert again.checks == honest.checks
    assert again.thresholds == honest.thresholds
    assert all(torch.equal(again.right[name], bits) for name, bits in honest.right.items())
    assert all(torch.equal(again.confidence[name], values) for name, values in honest.confidence.items())
    assert all(
        torch.equal(again.measures[name].nan_to_num(9), values.nan_to_num(9))
        for name, values in honest.measures.items()
    )
    assert again.measures["zero-ce"].dtype == torch.bool and again.measures["cosine"].dtype == torch.float32
    assert (again.masked, again.verdict, again.eps) == (honest.masked, honest.verdict, honest.eps)
    assert again.left_out == honest.left_out and again.settings == honest.settings


def test_json_keeps_what_is_no_number():
    found = audit(Rounded(Blocks()), n=20)
    again = Audit.from_json(json.loads(json.dumps(found.to_json())))
    assert again.measures["cosine"].isnan().all()


def test_a_killed_audit_goes_on_and_gives_the_same(honest):
    store: dict[str, dict[str, torch.Tensor]] = {}
    computed: list[str] = []

    class Killed(RuntimeError):
        pass

    def keep(name, compute):
        if name not in store:
            if len(computed) == 5:
                raise Killed
            computed.append(name)
            store[name] = compute()
        return store[name]

    model = NoisyInput(Blocks(), 0.02)
    images, labels = blocks_data(30)
    with pytest.raises(Killed):
        audit_images(model, images, labels, EPS, square_queries=QUERIES, keep=keep)
    assert computed == ["audit clean", "audit gradients", "audit fgsm", "audit pgd-ce", "audit pgd-margin"]
    computed.clear()
    rest: list[str] = []

    def keep_on(name, compute):
        if name not in store:
            rest.append(name)
            store[name] = compute()
        return store[name]

    resumed = audit_images(model, images, labels, EPS, square_queries=QUERIES, keep=keep_on)
    whole = audit_images(model, images, labels, EPS, square_queries=QUERIES)
    assert rest[0] == "audit apgd-ce" and "audit averaged" in rest
    assert resumed.to_json() == whole.to_json()


def test_kept_pieces_hold_bits_and_confidence():
    store = {}
    audit(Blocks(), n=20, keep=lambda name, compute: store.setdefault(name, compute()))
    for name, piece in store.items():
        assert name.startswith("audit ")
        if name != "audit gradients":
            assert piece["right"].dtype == torch.bool and piece["confidence"].dtype == torch.float32
            assert len(piece["right"]) == len(piece["confidence"]) == 20


@pytest.mark.parametrize("robust", [0.0, 0.5])
@pytest.mark.parametrize("surrogate", [None, Blocks()])
def test_every_piece_is_told_once(robust, surrogate):
    told: list[str] = []
    audit(Blocks(), robust=robust, n=20, surrogate=surrogate, advance=told.append)
    assert told == audit_pieces(surrogate is not None)


def test_the_same_seed_gives_the_same_whatever_the_batch_size(honest):
    assert audit(Blocks(), surrogate=Blocks()).to_json() == honest.to_json()
    found = audit(Blocks(), surrogate=Blocks(), batch_size=7)
    assert found.accuracies["noise"] == honest.accuracies["noise"]
    assert found.accuracies["pgd-ce"] == honest.accuracies["pgd-ce"]


class Busy(nn.Module):
    """Dropout, a batch norm in training mode, a count of its calls, and numbers from three generators."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__()
        self.inner = Blocks()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.2)
        self.frozen = nn.Dropout(0.2).eval()
        self.register_buffer("calls", torch.zeros(()))
        self.fail_after = fail_after

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise ZeroDivisionError("the model failed")
        torch.randn(1), random.random(), np.random.rand()
        return self.inner(self.frozen(self.drop(images))) + 0 * self.norm(images).flatten(1)[:, :1]


@pytest.mark.parametrize("fail_after", [None, 0, 6, 40])
def test_the_model_and_all_random_states_are_left_as_they_were(fail_after):
    model = Busy(fail_after)
    model.train()
    model.frozen.eval()
    model.inner.linear.weight.grad = torch.ones_like(model.inner.linear.weight)
    images, labels = blocks_data(20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copies = images.clone(), labels.clone()
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    if fail_after is None:
        audit_images(model, images, labels, EPS, square_queries=QUERIES)
    else:
        with pytest.raises(ZeroDivisionError):
            audit_images(model, images, labels, EPS, square_queries=QUERIES)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.inner.linear.weight.grad, torch.ones_like(model.inner.linear.weight))
    assert model.inner.linear.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.random.get_state()[1].tolist() == states[2]
    assert torch.equal(images, copies[0]) and torch.equal(labels, copies[1])


def test_the_surrogate_is_left_as_it_was():
    surrogate = nn.Sequential(nn.Dropout(0.5), Blocks()).train()
    found = audit(Blocks(), surrogate=surrogate)
    assert [module.training for module in surrogate.modules()] == [True, True, True, True]
    assert found.accuracies["transfer"].value == 0.5  # in evaluation mode it is the model itself


def test_numbers_of_the_gradient_that_are_none_are_no_gradient():
    found = audit(NoNumber(Blocks()), n=20)
    assert found.measures["zero-margin"].all()
    assert status(found)["zero-gradients"] == "fail"


def test_zero_gradients_image_by_image():
    class Gate(Blocks):
        """No gradient where the first pixel is bright."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            bright = images[:, :1, :1, :1] > 0.8
            return super().forward(torch.where(bright, images.detach(), images))

    images, labels = blocks_data(20)
    images[:6, 0, 0, 0] = 0.9
    found = audit_images(Gate(), images, labels, EPS, square_queries=2)
    assert found.measures["zero-margin"].tolist() == (torch.arange(20) < 6).tolist()
    assert found.measures["cosine"][:6].isnan().all()
    assert found.measures["cosine"][6:].min() > 0.49  # 0.5 where the runner-up is another class there


def test_a_ripple_turns_the_gradient_a_little_away():
    found = audit(Rippled(Blocks(), 0.1, 1e5), n=40)
    assert found.measures["cosine"].nanmean() < 0.25
    assert status(found)["rough-surface"] == "warn"


def test_a_saturated_softmax_has_a_gradient_of_the_margin():
    found = audit(Scaled(Blocks(), 1e5), n=20)
    assert found.measures["zero-ce"].all() and not found.measures["zero-margin"].any()


def test_missing_pyautoattack_is_said(monkeypatch):
    monkeypatch.setattr(audit_attacks.importlib.util, "find_spec", lambda name: None)
    told: list[str] = []
    found = audit(Blocks(), advance=told.append)
    assert set(found.left_out) >= {"apgd-ce", "apgd-dlr", "square"}
    black_box = next(check for check in found.checks if check.name == "black-box")
    assert black_box.status == "pass" and "pip install 'mixaug[attacks]'" in black_box.reason
    assert "SPSA" in black_box.figures
    assert told == audit_pieces(surrogate=False)
    assert not found.masked


def test_two_classes_go_without_dlr():
    class Two(Blocks):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images)[:, :2]

    images, labels = blocks_data(60)
    keep = labels < 2
    found = audit_images(Two(), images[keep], labels[keep], EPS, square_queries=QUERIES)
    assert "3 classes" in found.left_out["apgd-dlr"]
    assert found.accuracies["apgd-ce"].value == 16 / 30  # of the 30 images, as many lie in the robust half
    assert not found.masked


def test_one_class_three_images_and_nothing_right():
    images, labels = blocks_data(120)
    one = labels == 2
    assert not audit_images(Blocks(), images[one], labels[one], EPS, square_queries=QUERIES).masked
    few = audit_images(Blocks(), images[:3], labels[:3], EPS)
    assert few.verdict == "No verdict: the model gets 3 of the 3 images right, and 10 are needed." and not few.masked
    assert set(few.right) == {"clean"}
    few = audit_images(Reversed(Blocks()), images[60:63], labels[60:63], EPS, thresholds=Thresholds(least_images=3))
    assert set(few.right) > {"clean", "fgsm", "square"}
    wrong = audit_images(Blocks(), images, (labels + 1) % 4, EPS)
    assert wrong.verdict.startswith("No verdict: the model gets 0 of the 120") and not wrong.masked


def test_a_constant_model_is_robust_and_not_masked():
    class Constant(Blocks):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * 0 + torch.tensor([1.0, 0.0, 0.0, 0.0])

    images, labels = blocks_data(60)
    found = audit_images(Constant(), images, labels, EPS, square_queries=20)
    assert not found.masked  # it is right on its class whatever happens: nothing was overstated
    assert "But: 100.0% of the images have no gradient" in found.verdict
    assert status(found)["large-radius"] == "warn"


@pytest.mark.parametrize("eps", [2 / 255, 0.3, 0.6, 1.0])
def test_other_radii(eps):
    images, labels = blocks_data(60, eps=min(eps, 0.25))
    found = audit_images(Blocks(), images, labels, eps, square_queries=QUERIES)
    assert not found.masked, found.verdict
    assert found.eps == eps


def test_a_large_radius_is_not_doubled():
    class Stuck(Reversed):
        pass

    images, labels = blocks_data(40)
    found = audit_images(Stuck(Blocks()), images, labels, 0.6, square_queries=20)
    assert {"radius-double", "radius-large", "grey"} <= set(found.left_out)
    assert "0.5 or more" in found.left_out["grey"]
    found = audit_images(Stuck(Blocks()), images, labels, 0.3, square_queries=20)
    assert "radius-double" in found.left_out and "radius-large" in found.right


def test_audit_model_takes_a_data_set_and_draws_n_of_it():
    images, labels = blocks_data(60)
    stored = (images * 255).round().to(torch.uint8)
    found = audit_model(Blocks(), (stored, labels), EPS, n=25, square_queries=QUERIES)
    assert found.n == 25 and not found.masked
    assert audit_model(Blocks(), (stored, labels), EPS, n=25, square_queries=QUERIES).to_json() == found.to_json()
    other = audit_model(Blocks(), (stored, labels), EPS, n=25, seed=1, square_queries=QUERIES)
    assert other.settings["seed"] == 1
    assert audit_model(Blocks(), (stored[:20], labels[:20]), EPS, square_queries=QUERIES).n == 20
    told: list[str] = []
    audit_model(Blocks(), (stored, labels), EPS, n=None, square_queries=QUERIES, advance=told.append)
    assert told == audit_pieces(surrogate=False)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"model": lambda images: images}, TypeError, "model must be a torch.nn.Module"),
        ({"eps": 0}, ValueError, "eps must be above 0 to look for masking, got 0"),
        ({"eps": 8}, ValueError, "did you mean 8/255"),
        ({"eps": "1"}, TypeError, "eps must be a number"),
        ({"surrogate": "plain"}, TypeError, "surrogate must be a torch.nn.Module or None, got str"),
        ({"thresholds": 0.02}, TypeError, "thresholds must be Thresholds, got float"),
        ({"seed": -1}, ValueError, "seed must be from 0 to"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 to"),
        ({"square_queries": 0}, ValueError, "square_queries must be at least 1, got 0"),
        ({"draws": 1}, ValueError, "draws must be at least 2, got 1"),
        ({"images": torch.rand(60, 1, 8, 8) * 2}, ValueError, r"images must lie in \[0, 1\]"),
        ({"images": torch.rand(0, 1, 8, 8), "labels": torch.arange(0)}, ValueError, "images must be 1 or more, got 0"),
        ({"labels": torch.rand(60, 4).softmax(1)}, TypeError, "labels must be class indices"),
        ({"labels": torch.arange(60)}, ValueError, "labels must lie below the model's 4 classes, got 59"),
        (
            {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), "labels": torch.zeros(60).long()},
            ValueError,
            "2 cl",
        ),
    ],
)
def test_arguments_are_checked(change, error, words):
    images, labels = blocks_data(60)
    arguments = {"model": Blocks(), "images": images, "labels": labels, "eps": EPS, **change}
    with pytest.raises(error, match=words):
        audit_images(**arguments)


def test_more_arguments_of_audit_model():
    images, labels = blocks_data(12)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        audit_model(Blocks(), (images, labels), n=0)
    with pytest.raises(TypeError, match="dataset must be"):
        audit_model(Blocks(), 3)
    with pytest.raises(ValueError, match="eps must be above 0"):
        audit_model(Blocks(), (images, labels), 0.0)


def test_logits_that_are_not_finite_are_an_error():
    class Broken(Blocks):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) / 0

    with pytest.raises(FloatingPointError, match="not finite"):
        audit(Broken())
