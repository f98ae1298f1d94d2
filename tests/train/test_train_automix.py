"""The method adautomix in training: two players, resumed to the bit, broken steps skipped, files and log of both."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from paths import ROOT
from torch.utils.data import TensorDataset
from train_parts import Part, fit, parts, same_weights, settings, stop_after, timeless

from mixaug import AdAutoMix
from mixaug.models import build_model
from mixaug.train.checkpoint import load_checkpoint, read_checkpoint
from mixaug.train.methods.adautomix import MIXING_COLUMNS, AutoMixStep
from mixaug.train.methods.step import Setup
from mixaug.train.settings import LEARNED, TrainSettings

LOOP = ROOT / "docs" / "examples" / "adautomix_loop.py"
SMALL = {"method": "adautomix", "model": "resnet-small", "picture_every": 0, "lr": 0.05}


def step_of(model, **values):
    chosen = TrainSettings(**{"method": "adautomix", "picture_every": 0, "momentum": 0.5, **values})
    return AutoMixStep(Setup(chosen, 3, torch.Generator().manual_seed(1), model, 2, None, ("a", "b", "c")))


def small_model():
    torch.manual_seed(0)
    return build_model("resnet-small", 3, 1, 16)


def batch(count=8, seed=0):
    part = parts(train=count).train
    return part.images[:count].float() / 255, part.labels[:count]


def test_a_run_leaves_both_players_behind(tmp_path):
    result = fit(settings(tmp_path / "run", **SMALL))
    assert len(result.history) == 3
    row = result.history[-1]
    assert {*MIXING_COLUMNS} - {*row} == {"share_gap"}  # which has no weight
    assert row["mixed_loss"] > 0 and -1 <= row["similarity"] <= 1 and row["skipped_steps"] == 0
    assert row["train_loss"] > row["mixed_loss"]  # with the clean and the plain term on top
    stored = read_checkpoint(result.last)["training"]["method"]
    assert any(name.startswith("generator.") for name in stored["mixer"])
    assert any(name.startswith("teacher.model.") for name in stored["mixer"])
    assert stored["generator_optimiser"]["state"]  # its momentum
    assert (tmp_path / "run" / "generator.pt").exists()
    with pytest.raises(ValueError, match=r"generator.pt holds the generator of an adautomix run, .* best.pt"):
        load_checkpoint(tmp_path / "run" / "generator.pt")
    model, _ = load_checkpoint(result.best)
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 3)
    header = (tmp_path / "run" / "log.csv").read_text().splitlines()[0]
    assert header.endswith(",".join(MIXING_COLUMNS))


@pytest.mark.parametrize(
    "more",
    [{}, {"shared_draws": True}, {"generator_every": 2, "generator_share": 0.5, "terms_share": 0.25, "n_mix": 2}],
    ids=["plain", "shared", "cheap"],
)
def test_a_stopped_run_goes_on_to_the_bit(tmp_path, monkeypatch, more):
    whole = fit(settings(tmp_path / "whole", **SMALL, **more))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)  # in the second epoch
        first = fit(settings(tmp_path / "stopped", **SMALL, **more))
    assert first.interrupted
    second = fit(settings(tmp_path / "stopped", **SMALL, **more), resume=True)
    same_weights(whole.last, second.last)
    assert timeless(whole.history) == timeless(second.history)
    one, two = (read_checkpoint(result.last)["training"]["method"]["mixer"] for result in (whole, second))
    assert all(torch.equal(value, two[name]) for name, value in one.items() if isinstance(value, torch.Tensor))
    assert one["_extra_state"].tolist()[0] == two["_extra_state"].tolist()[0] == 9  # calls


def test_a_step_written_out():
    """Both backward passes, then the classifier's step, the generator's with its own rate, the teacher's."""
    model, twin = small_model(), small_model()
    torch.manual_seed(5)
    step = step_of(model, generator_lr=0.4, weight_decay=0.1, mix_alpha=0.7, mix_beta=0.2, teacher_momentum=0.9)
    torch.manual_seed(5)
    mixer = AdAutoMix(twin, 3, alpha=0.7, beta=0.2, momentum=0.9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mixer.generator.project.weight, step.mixer.generator.project.weight)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    twins = [torch.optim.SGD(twin.parameters(), 0.1), torch.optim.SGD(mixer.generator.parameters(), 0.4, 0.5, 0, 0.1)]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    images, labels = batch()
    for number, rate in enumerate((1.0, 0.5)):
        result = step(model, images, labels)
        optimiser.zero_grad()
        step.backward(result, scaler)
        optimiser.step()
        step.optimise(scaler, rate)
        step.finish(number, 10)
        out = mixer(images, labels)
        for each in twins:
            each.zero_grad()
        (out.classifier_loss + out.generator_loss).backward()
        twins[1].param_groups[0]["lr"] = 0.4 * rate
        for each in twins:
            each.step()
        mixer.update_teacher(number, 10)
        torch.testing.assert_close(result.loss, out.classifier_loss)
    for one, two in ((model, twin), (step.mixer.generator, mixer.generator), (step.mixer.teacher, mixer.teacher)):
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)


def test_the_settings_reach_the_mixer():
    step = step_of(
        small_model(), n_mix=4, mix_alpha=0.25, mix_beta=0.75, cooperative=True, without=["plain", "teacher"],
        alpha=2.0, per_image=True, generator_every=3, generator_share=0.5, terms_share=0.75, teacher_momentum=0.5,
        feature_layer="stages.1", share_weight=3.0,
    )  # fmt: skip
    mixer = step.mixer
    assert (mixer.law.n_mix, mixer.law.concentration, mixer.law.per_image) == (4, 2.0, True)
    assert (mixer.alpha, mixer.beta, mixer.momentum, mixer.adversarial) == (0.25, 0.75, 0.5, False)
    assert mixer.share_weight == 3.0
    assert (mixer.clean_term, mixer.plain_term, mixer.teacher_term, mixer.similarity_term) == (True, False, False, True)
    assert (mixer.generator_every, mixer.generator_share, mixer.terms_share) == (3, 0.5, 0.75)
    assert mixer.feature_layer == "1.stages.1" and not mixer.shared_draws
    assert step_of(small_model(), shared_draws=True).mixer.shared_draws


def test_broken_steps_are_skipped_and_counted(tmp_path):
    """A batch with a value that is not a number: nothing steps, nothing is kept of it, the run goes on."""
    model = small_model()
    step = step_of(model)
    images, labels = batch()
    step(model, images, labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    broken = images.clone()
    broken[3] = math.nan
    result = step(model, broken, labels)
    assert result.skipped and result.counts().tolist() == [0, 0, 0]
    step.finish(1, 10)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert step.columns()["skipped_steps"] == 1
    good = step(model, images, labels)
    assert not good.skipped and good.counts()[2] == 8


def test_a_run_of_broken_steps_ends_the_training(tmp_path):
    data = parts()
    torch.manual_seed(0)
    with pytest.raises(FloatingPointError, match="classifier's and the generator's loss has not been finite for 10"):
        fit(settings(tmp_path / "run", **{**SMALL, "epochs": 9, "lr": 1e30}), data)


def test_a_single_broken_step_of_a_run(tmp_path, monkeypatch):
    """The loop takes no step for it and counts none of its images."""
    original, calls = AdAutoMix.is_finite, []

    def third_breaks(self, out):
        calls.append(1)
        if len(calls) == 3:
            self.skipped += 1
            return False
        return original(self, out)

    monkeypatch.setattr(AdAutoMix, "is_finite", third_breaks)
    result = fit(settings(tmp_path / "run", **SMALL))
    assert len(calls) == 9
    assert [row["skipped_steps"] for row in result.history] == [1, 1, 1]
    state = read_checkpoint(result.last)["training"]["optimiser"]
    assert state["state"]
    assert all(math.isfinite(row["train_loss"]) for row in result.history)


def test_bf16_and_contiguous_images(tmp_path):
    result = fit(settings(tmp_path / "run", **SMALL, amp="bf16", channels_last=False, steps=4))
    assert math.isfinite(result.history[-1]["train_loss"])
    mixer = read_checkpoint(result.last)["training"]["method"]["mixer"]
    assert mixer["generator.project.weight"].dtype == torch.float32


def test_pictures_every_so_many_steps(tmp_path):
    pytest.importorskip("matplotlib")
    fit(settings(tmp_path / "run", **{**SMALL, "picture_every": 4}))
    names = sorted(path.name for path in (tmp_path / "run" / "mixtures").iterdir())
    assert names == ["step-000004.png", "step-000008.png"]


@pytest.mark.parametrize("name", LEARNED)
def test_other_methods_refuse_its_settings(name):
    values = {"feature_layer": "a", "without": ("clean",)}
    with pytest.raises(ValueError, match=f"{name} must be used with the method adautomix, got the method 'mixup'"):
        TrainSettings(method="mixup", **{name: values.get(name, 1)})
    assert getattr(TrainSettings(method="mixup"), name) is None
    assert getattr(TrainSettings(method="adautomix"), name) == LEARNED[name]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_mix": 1}, "n_mix must be at least 2, got 1"),
        ({"n_mix": 9, "batch_size": 8}, "n_mix must be at most batch_size, 8, got 9"),
        ({"mix_alpha": 1.5}, "mix_alpha"),
        ({"mix_beta": -0.1}, "mix_beta"),
        ({"teacher_momentum": 2}, "teacher_momentum"),
        ({"share_weight": -1}, "share_weight"),
        ({"generator_share": 0}, "generator_share"),
        ({"terms_share": 1.1}, "terms_share"),
        ({"generator_every": 0}, "generator_every must be from 1 to 2147483647, got 0"),
        ({"generator_lr": -1}, "generator_lr"),
        ({"picture_every": -1}, "picture_every"),
        ({"without": ("mask",)}, "without must be one of clean, plain, teacher, similarity, got 'mask'"),
        ({"shared_draws": True, "generator_share": 0.5}, "generator_share must be 1 with shared_draws"),
        ({"adversarial": True}, "adversarial must be used with one of"),
        ({"jsd": True}, "jsd must be used with one of"),
    ],
)
def test_settings_that_do_not_fit(values, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(method="adautomix", **values)


def test_a_layer_that_does_not_exist_is_named_before_any_step(tmp_path):
    with pytest.raises(ValueError, match=r"feature_layer must be the name of a layer.*1\.stages.*'layer9'"):
        fit(settings(tmp_path / "run", **SMALL, feature_layer="layer9"))
    assert not (tmp_path / "run" / "last.pt").exists()


def test_settings_survive_a_checkpoint():
    chosen = TrainSettings(method="adautomix", without=("clean",), n_mix=4)
    assert TrainSettings.from_dict(chosen.to_dict()) == chosen
    older = {name: value for name, value in TrainSettings(method="mixup").to_dict().items() if name not in LEARNED}
    assert TrainSettings.from_dict(older) == TrainSettings(method="mixup")


def test_the_loop_of_the_docs():
    """The file that the card shows trains both players and the teacher, on a last batch that is smaller too."""
    spec = importlib.util.spec_from_file_location("adautomix_loop", LOOP)
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    data: Part = parts(train=25).train
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    trained, mixer = loop.train(model, TensorDataset(data.images.float() / 255, data.labels), 3, epochs=2, batch_size=8)
    assert trained is model and mixer.skipped == 0
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert "1.stem.0.weight" in moved and "1.fc.bias" in moved
    teacher = dict(mixer.teacher.model.named_parameters())
    assert not torch.equal(teacher["1.fc.weight"], before["1.fc.weight"])
    assert len(LOOP.read_text().strip().splitlines()) <= 34


def test_the_card_shows_that_file():
    assert f"```python\n{LOOP.read_text()}```" in (LOOP.parents[1] / "methods" / "adautomix.md").read_text()
