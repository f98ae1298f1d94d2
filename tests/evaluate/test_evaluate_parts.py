"""All parts of one evaluation: whole, repeated, without a trace on the model, with a progress that adds up."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from evaluate_parts import BARE, labelled, net, pictures, timeless
from torch import nn

import mixaug.evaluate.evaluation as module
from mixaug.attacks import FGSM, PGD, Square
from mixaug.evaluate import Report, evaluate_model, flip_rates, local_lipschitz, occlusion_curve
from mixaug.evaluate.journal import Progress, time_left
from mixaug.evaluate.plan import describe, repeats, seeded
from mixaug.evaluate.seeds import subset

pytest.importorskip("pyautoattack")
pytest.importorskip("sklearn")
pytest.importorskip("rich")

EVERYTHING: dict[str, Any] = {
    "attacks": "quick",
    "corruption_names": ["fog", "contrast"],
    "everything": True,
    "n_flips": 3,
    "n_occlusion": 5,
    "n_surface": 1,
    "n_audit": 10,
    "eps": 0.02,
    "batch_size": 5,
}


@pytest.fixture(scope="module")
def data():
    return labelled(net(), pictures())


@pytest.fixture(scope="module")
def report(data):
    return evaluate_model(net(), data, **EVERYTHING, out_of_distribution=(pictures(7, seed=1), torch.zeros(7).long()))


# --- everything -----------------------------------------------------------------------------------------------------


def test_all_parts_are_there(report):
    assert list(report.attacks) == ["fgsm", "pgd-20", "cw-20", "square"]
    assert list(report.outcomes.corrupted) == ["fog", "contrast"]
    assert report.left_out == {} and report.notices == []
    assert report.audit is not None and report.worst_case is not None and report.robustness_gap is not None
    assert list(report.accuracy_curve) == [0.0, 0.005, 0.01, 0.02, 0.04, 0.08]
    assert report.flip_rate.n == 3 and report.occlusion.n == 5 and report.lipschitz.n == 12
    assert len(report.measured["ood"].confidence_out) == 7 and report.anomaly is not None
    examples = report.examples
    found = report.measured
    assert len(found["surface"]) == 3 and len(found["maps"]) == 6 and len(found["features"].labels) == 12
    assert len(examples.corrupted) == 2 and len(examples.adversarial) == 4 * 3  # of the first block, that has 3 right
    assert set(report.seconds) == {
        "clean", "corruptions", *report.attacks, "curve", "lipschitz", "flips", "occlusion", "ood", "audit", "surfaces",
        "features", "maps",
    }  # fmt: skip
    settings = report.settings
    assert {name: settings[name] for name in settings if name.startswith("n_") and name != "n_attack"} == {
        "n_clean": 12, "n_corruption": 12, "n_audit": 10, "n_curve": 12, "n_lipschitz": 12, "n_surface": 1,
        "n_flips": 3, "n_occlusion": 5, "n_features": 12, "n_maps": 6,
    }  # fmt: skip
    assert settings["flip_preset"] == settings["preset"] == "cifar" and settings["eps"] == 0.02
    assert len(settings["weights_sha256"]) == len(settings["out_of_distribution_sha256"]) == 64
    assert settings["attacks"]["pgd-20"]["step_size"] == 0.005


def test_json_and_back_is_exact(report, tmp_path):
    text = json.dumps(report.to_json(), allow_nan=False)
    path = tmp_path / "report.json"
    path.write_text(text)
    loaded = Report.load(path)
    assert json.dumps(loaded.to_json(), allow_nan=False) == text
    assert timeless(loaded) == timeless(report)


def test_the_same_call_gives_the_same_report(data, report):
    torch.rand(3)
    other = (pictures(7, seed=1), torch.zeros(7).long())
    assert timeless(evaluate_model(net(), data, **EVERYTHING, out_of_distribution=other)) == timeless(report)


def test_parts_are_what_their_own_functions_measure(data, report):
    model = net()
    assert report.lipschitz.value == pytest.approx(local_lipschitz(model, data, 0.02, batch_size=5).value, rel=1e-5)
    curve = occlusion_curve(model, data, n=5)
    assert torch.equal(report.measured["occlusion"].value.correct, curve.correct)
    flips = flip_rates(model, data, n=3)
    assert flips.to_json() == report.measured["flips"].value.to_json()


def test_nothing_of_the_model_or_the_world_changes(data):
    model = net()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 2.0)
    hook_calls = []
    model[2].register_forward_hook(lambda *given: hook_calls.append(1))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = data[0].clone(), data[1].clone()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    trace = sys.gettrace()
    evaluate_model(model, (images, labels), **EVERYTHING, surrogate=net(seed=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [part.training for part in model] == [True, False, True, True, True, True] and model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + 5 * [True]
    assert torch.equal(model[5].weight.grad, torch.full_like(model[5].weight, 2.0))
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "5.weight")
    hooks = [[*part._forward_hooks.values(), *part._forward_pre_hooks.values()] for part in model.modules()]
    assert [len(each) for each in hooks] == [0, 0, 0, 1, 0, 0, 0] and hook_calls
    assert torch.equal(images, data[0]) and torch.equal(labels, data[1])
    assert sys.gettrace() is trace and torch.is_grad_enabled()


# --- some of the model's classes ------------------------------------------------------------------------------------


class Subset:
    """Images of the classes 5, 1 and 3 of a model, with labels 0, 1 and 2."""

    model_classes = (5, 1, 3)

    def __init__(self, images, labels):
        self.images, self.labels = images, labels


def test_a_data_set_of_some_classes_is_measured_on_their_logits_alone():
    model = net(7)
    images = pictures()
    restricted = nn.Sequential(model, Columns([5, 1, 3]))
    data = labelled(restricted, images, wrong=0)
    settings = (
        EVERYTHING
        | {"n_audit": 12, "eps": 0.001}
        | {"attacks": [FGSM(0.02), PGD(0.02, 0.005, 5), Square(0.02, queries=20)]}
    )
    surrogate = net(7, seed=2)
    report = evaluate_model(model, Subset(*data), surrogate=surrogate, **settings)
    expected = evaluate_model(restricted, data, surrogate=nn.Sequential(surrogate, Columns([5, 1, 3])), **settings)
    one, other = report.to_json(), expected.to_json()
    assert one["outcomes"] == other["outcomes"] and one["examples"]["maps"] == other["examples"]["maps"]
    assert report.audit.verdict == expected.audit.verdict
    assert {name: right.tolist() for name, right in report.audit.right.items()} == {
        name: right.tolist() for name, right in expected.audit.right.items()
    }
    assert report.settings["num_classes"] == 3 and "transfer" in report.audit.right
    whole = evaluate_model(model, data, **BARE)
    assert whole.clean_error.value != report.clean_error.value  # the other classes take images
    with pytest.raises(ValueError, match="model_classes must lie below the model's 5 classes, got 5"):
        evaluate_model(net(5), Subset(*data))


class Columns(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.columns = columns

    def forward(self, logits):
        return logits[:, self.columns]


# --- progress -------------------------------------------------------------------------------------------------------


class Watched(Progress):
    """A bar that is not shown but keeps what it was told."""

    bars: list[Watched] = []  # noqa: RUF012

    def __init__(self, total, title, shown):
        super().__init__(total, title, False)
        self.told: list[tuple[str, str, float, bool]] = []
        Watched.bars.append(self)

    def doing(self, what):
        self.told.append(("doing", what, 0.0, False))

    def advance(self, done, by=1.0, found=False):
        super().advance(done, by, found)
        self.told.append(("done", done, by, found))


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(module, "Progress", Watched)
    Watched.bars = []
    return Watched.bars


@pytest.mark.parametrize(
    "settings",
    [
        BARE,
        BARE | {"attacks": "quick", "n_attack": 7},
        BARE | {"attacks": [FGSM()], "n_curve": 7, "eps": 0.5},  # radii end at 1: there are fewer
        BARE | {"audit": True, "n_audit": 11},
        BARE | {"audit": True, "n_audit": 3, "surrogate": net(seed=3)},
        BARE | {"n_flips": 7, "n_occlusion": 7, "n_lipschitz": 7, "n_surface": 2, "n_features": 2, "n_maps": 3},
        BARE | {"out_of_distribution": (pictures(8), torch.zeros(8).long()), "corruptions": "cifar", "n_corruption": 3},
        EVERYTHING,
    ],
    ids=["bare", "quick", "curve", "audit", "surrogate", "parts", "ood", "everything"],
)
def test_all_work_is_told_and_adds_up(data, bars, settings, tmp_path):
    for found in (False, True):
        evaluate_model(net(), data, **settings | {"batch_size": 5}, state=tmp_path)
        (bar,) = bars
        bars.clear()
        assert bar.done == pytest.approx(bar.total)
        told = [(by, late) for kind, _, by, late in bar.told if kind == "done"]
        assert len(told) >= 3 and all(by > 0 for by, _ in told)
        steps = [late for _, late in told]
        if not found:
            assert not any(steps)
        elif "audit" not in settings or settings["audit"] or settings.get("n_features"):
            assert any(steps)  # what is left out of an audit, and features that there are too few of, are not found
        else:
            assert all(steps)


def test_it_says_what_is_being_done_before_it_is_done(data, bars):
    evaluate_model(net(), data, **EVERYTHING)
    ((_, first, *_), *_) = bars[0].told
    assert first == "clean images"
    doing = [what for kind, what, *_ in bars[0].told if kind == "doing"]
    for words in ("fog of severity 1", "contrast of severity 5", "fgsm", "square", "radius 0.005", "Lipschitz constant",
                  "perturbation sequences", "occlusion", "audit, clean", "loss surface", "features",
                  "class activation maps"):  # fmt: skip
        assert words in doing
    done = [what for kind, what, *_ in bars[0].told if kind == "done"]
    assert "audit, pgd-ce" in done  # what comes next


class Terminal:
    """Standard error as rich sees it on a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return True


def test_the_bar_is_on_standard_error_with_the_time_left(data, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    bar = Progress(4, "ours", shown=True)
    with bar:
        bar.doing("square")
        bar._bar.refresh()
        bar.advance("square", 3.0)
        bar._bar.refresh()
    assert "ours: square" in terminal.text and "75%" in terminal.text and "about 0 s left" in terminal.text
    assert evaluate_model(net(), data, **BARE, name="mine", progress=True).clean_error.n == 12
    assert "mine: clean images" in terminal.text


def test_nothing_is_printed_where_there_is_no_terminal(data, capfd):
    evaluate_model(net(), data, **BARE | {"attacks": [FGSM()]}, progress=True)
    assert capfd.readouterr() == ("", "")


def test_a_missing_library_for_the_bar_or_the_features_is_named_before_the_work(data, monkeypatch):
    for missing, settings in (("rich", {"progress": True}), ("sklearn", {"n_features": 4})):
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.split(".")[0] == missing]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(ModuleNotFoundError, match=rf'needs {missing}.*pip install "mixaug\[train\]"'):
                evaluate_model(net(), data, **BARE | settings)


def test_time_left_in_words():
    assert time_left(10, 0, 5) == "" and time_left(10, 5, 5) == "about 10 s left"
    assert time_left(10, 1, 30) == "about 5 min left" and time_left(100, 1, 99) == "about 2 h 45 min left"
    bar = Progress(10, "x", shown=False)
    bar.advance("a", 4, found=True)
    bar.advance("b", 2)
    assert (bar.done, bar._worked) == (6, 2)


# --- attacks and subsets --------------------------------------------------------------------------------------------


def test_what_describe_says_tells_attacks_apart_or_they_are_not_kept():
    class Mine(PGD):
        pass

    assert repeats(PGD()) and repeats(FGSM()) and repeats(Square())
    for attack in (
        PGD(generator=torch.Generator()), PGD(objective=lambda logits, labels: logits[:, 0]), Mine(),
        PGD(objective=nn.CrossEntropyLoss(reduction="none")), lambda model, images, labels: images,
    ):  # fmt: skip
        assert not repeats(attack)
    assert describe(PGD(eps=0.5)) | {"eps": 0.5} == describe(PGD(eps=0.5)) != describe(PGD(eps=0.25))
    assert json.loads(json.dumps(describe(Square(0.1)))) == describe(Square(0.1))


def test_seeds_are_given_to_attacks_that_draw_and_have_no_generator():
    generator = torch.Generator()
    own = PGD(generator=generator)
    assert seeded(own, 1) is own
    one, two, other = (seeded(PGD(), *parts) for parts in (("a", 1), ("a", 1), ("a", 2)))
    draws = [torch.rand(3, generator=attack.generator).tolist() for attack in (one, two, other)]
    assert draws[0] == draws[1] != draws[2]
    mine = PGD(objective=lambda logits, labels: logits[:, 0])
    assert seeded(mine, 1).generator is not None and seeded(mine, 1).objective is mine.objective


def test_a_smaller_subset_is_part_of_a_larger_one():
    small, large, other = (subset("n", n, 50, seed) for n, seed in ((10, 0), (20, 0), (10, 1)))
    assert set(small.tolist()) < set(large.tolist()) and small.tolist() == sorted(small.tolist())
    assert small.tolist() != other.tolist()
    assert torch.equal(subset("n", 50, 50, 0), torch.arange(50)) and torch.equal(
        subset("n", None, 50, 0), torch.arange(50)
    )
