"""The loop: its recipe written out by hand, resuming to the bit, and what it refuses."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from paths import HELPERS
from train_parts import BASE, MapStyle, fit, parts, same_weights, settings, stop_after, timeless

import mixaug.train.loop as loop
import mixaug.train.loop as run_module
from mixaug import MixingSet
from mixaug.train import methods, schedules
from mixaug.train.batches import batches, epoch_order
from mixaug.train.checkpoint import load_checkpoint, read_checkpoint, write_checkpoint
from mixaug.train.loop import train
from mixaug.train.settings import TrainSettings


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch, pictures):
    monkeypatch.setattr(MixingSet, "default", lambda: pictures)


def test_the_recipe_written_out(tmp_path):
    data = parts()
    chosen = settings(tmp_path / "run", padding=0, flip=False, steps=5, weight_decay=0.01)
    result = fit(chosen, data)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        from mixaug.models import build_model

        model = build_model("lenet5", 3, 1, 16, (0.5,), (0.25,)).to(memory_format=torch.channels_last).train()
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    step = 0
    for epoch in (0, 1):
        for index in epoch_order(96, 0, epoch).split(32):
            if step == 5:
                break
            images = (data.train.images[index] / 255).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(images), data.train.labels[index])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            rate = 0.05 * (1 + math.cos(math.pi * step / 5)) / 2
            with torch.no_grad():
                for p, g, v in zip(model.parameters(), gradients, velocity, strict=True):
                    g = g + 0.01 * p
                    v.mul_(0.9).add_(g)
                    p.sub_(rate * (g + 0.9 * v))
            step += 1
    trained = read_checkpoint(result.last)["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-6)
    assert [row["step"] for row in result.history] == [3, 5]
    assert result.history[-1]["lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi * 4 / 5)) / 2)


def test_it_learns_and_never_looks_at_the_test_part(tmp_path):
    result = fit(settings(tmp_path / "run", epochs=12, padding=0, flip=False))
    assert result.history[-1]["validation_accuracy"] > 0.9
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    model, info = load_checkpoint(result.best)
    validation = parts().validation
    with torch.no_grad():
        right = (model(validation.images / 255).argmax(1) == validation.labels).float().mean()
    assert float(right) == pytest.approx(info["metrics"]["validation_accuracy"])
    assert info["data"]["name"] == "stripes" and info["data"]["classes"] == ["rows", "columns", "diagonals"]


@pytest.mark.parametrize(
    "values",
    [
        {"method": "standard", "model": "resnet-small"},
        {"method": "mixup"},
        {"method": "cutmix"},
        {"method": "augmix"},
        {"method": "ipmix", "jsd": True},
        {"method": "ipmix", "amp": "bf16", "model": "resnet-small"},
        {"method": "pgd", "attack_steps": 2, "warmup": 1, "schedule": "exponential"},
        {"method": "trades", "attack_steps": 2, "eps_schedule": "cosine"},
        {"method": "feature-scatter", "robust_images": 8},
        {"method": "dynamic-mixcut", "attack_steps": 2, "boxes": (1, 3), "amp": "bf16"},
        {"method": "hybrid"},
        {"method": "hybrid", "hybrid_attack": "pgd", "attack_steps": 2, "model": "resnet-small"},
        {"method": "cutmix", "adversarial": True, "attack_steps": 2},
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
@pytest.mark.parametrize("steps", [2, 3, 4], ids=["within-1", "end-of-1", "within-2"])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, values, steps):
    whole = fit(settings(tmp_path / "whole", **values))
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        stopped = fit(settings(tmp_path / "parts", **values))
    assert stopped.interrupted and read_checkpoint(stopped.last)["step"] == steps
    torch.rand(100)  # the process that resumes has another history
    resumed = fit(settings(tmp_path / "parts", **values), resume=True)
    assert not resumed.interrupted and len(resumed.history) == 3
    same_weights(whole.last, resumed.last)
    same_weights(whole.best, resumed.best)
    assert timeless(whole.history) == timeless(resumed.history)


class Learning(methods.Step):
    """A method with weights and an optimiser of its own, as a learned mixing policy has: it learns a brightness."""

    def __init__(self, setup):
        super().__init__(self.compute)
        self.gain = torch.nn.Parameter(torch.ones(()))
        self.optimiser = torch.optim.Adam([self.gain], lr=0.1)
        self.teacher = copy.deepcopy(setup.model)
        self.finished = []

    def compute(self, model, images, labels):
        logits = model(images * self.gain) + self.teacher(images).detach()
        return methods.StepResult(F.cross_entropy(logits, labels), logits, labels)

    def finish(self, step, total_steps):
        self.finished.append((step, total_steps))
        self.optimiser.step()
        self.optimiser.zero_grad()
        for mine, model in zip(self.teacher.parameters(), (self.gain,) * 100, strict=False):
            mine.data.mul_(float(model.detach()) / 2 + 0.5)

    def state_dict(self):
        return {
            "gain": self.gain.detach(),
            "optimiser": self.optimiser.state_dict(),
            "teacher": self.teacher.state_dict(),
        }

    def load_state_dict(self, state):
        self.gain.data.copy_(state["gain"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.teacher.load_state_dict(state["teacher"])


@pytest.mark.parametrize("steps", [2, 4])
def test_a_method_that_learns_something_itself_resumes_to_the_bit(tmp_path, monkeypatch, steps):
    made = []
    monkeypatch.setitem(methods.METHODS, "standard", lambda setup: made.append(Learning(setup)) or made[-1])
    whole = fit(settings(tmp_path / "whole"))
    assert made[0].finished == [(step, 9) for step in range(9)]
    assert made[0].gain != 1
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        fit(settings(tmp_path / "parts"))
    resumed = fit(settings(tmp_path / "parts"), resume=True)
    same_weights(whole.last, resumed.last)
    assert torch.equal(made[0].gain, made[-1].gain)


def test_a_damaged_training_state_is_refused_by_name(tmp_path):
    chosen = settings(tmp_path / "run", epochs=1)
    last = fit(chosen).last
    whole = read_checkpoint(last)

    def refused(content):
        write_checkpoint(last, content)
        with pytest.raises(ValueError, match=r"run/last\.pt is damaged: its training state does not fit the run"):
            fit(chosen, resume=True)

    for missing in ("optimiser", "scaler", "generators", "default_generator", "history", "best", "method", "totals"):
        refused({**whole, "training": {name: v for name, v in whole["training"].items() if name != missing}})
    refused({**whole, "training": {**whole["training"], "default_generator": torch.zeros(3)}})
    refused({**whole, "model": dict(list(whole["model"].items())[:-1])})


def test_resuming_on_other_data_is_refused(tmp_path):
    chosen = settings(tmp_path / "run", epochs=1)
    fit(chosen)
    with pytest.raises(ValueError, match=r"started with other data: its numbers of images were .*96.*, now .*93"):
        fit(chosen, parts(train=93), resume=True)
    with pytest.raises(ValueError, match="started with other data: its model was"):
        fit(chosen, parts(channels=3), resume=True)
    other = parts()
    other.classes = ("a", "b", "c")
    with pytest.raises(ValueError, match="started with other data: its classes were"):
        fit(chosen, other, resume=True)


def test_killed_before_the_last_checkpoint_the_log_is_written_once(tmp_path, monkeypatch):
    """A run that dies between its log and its checkpoint repeats the epoch and ends with the same log."""
    whole = fit(settings(tmp_path / "whole"))
    save, saves = loop.Run.save, []

    def dies(self):
        saves.append(self.step)
        if len(saves) == 3:
            raise OSError(28, "No space left on device")
        save(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "save", dies)
        with pytest.raises(OSError, match="No space left"):
            fit(settings(tmp_path / "run"))
    assert read_checkpoint(tmp_path / "run" / "last.pt")["epoch"] == 2
    resumed = fit(settings(tmp_path / "run"), resume=True)
    same_weights(whole.last, resumed.last)
    assert [row["epoch"] for row in csv.DictReader(resumed.log.read_text().splitlines())] == ["1", "2", "3"]


def test_a_broken_model_never_replaces_a_good_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(schedules.RateSchedule, "__call__", lambda self, step: 1e30 if step >= 4 else 0.01)
    with pytest.raises(FloatingPointError, match="not finite"):
        fit(settings(tmp_path / "run"))
    content = read_checkpoint(tmp_path / "run" / "last.pt")
    assert 3 <= content["step"] <= 5
    assert math.isfinite(float(content["training"]["totals"][0]))


def test_without_tensorboard_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = train(settings(tmp_path / "run", epochs=2), parts(), progress=True)
    assert capsys.readouterr().err.count("tensorboard is not installed (pip install 'mixaug[train]')") == 1
    assert not (result.folder / "tensorboard").exists() and len(result.log.read_text().splitlines()) == 3


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    result = fit(settings(tmp_path / "run"))
    before = result.last.read_bytes()
    again = fit(settings(tmp_path / "run"), resume=True)
    assert again.last.read_bytes() == before and again.history == result.history


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """SIGKILL at any moment: the run goes on from its last checkpoint to the same bits."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch; torch.set_num_threads(1)\n"
        "from train_parts import parts\n"
        "from mixaug.train.loop import train\n"
        "from mixaug.train.settings import TrainSettings\n"
        f"settings = TrainSettings(**{dict(BASE, epochs=40, method='cutmix')!r}, out=sys.argv[2])\n"
        "train(settings, parts(), progress=False)\n"
    )
    chosen = settings(tmp_path / "killed", method="cutmix", epochs=40)
    process = subprocess.Popen([sys.executable, "-c", script, str(HELPERS), str(tmp_path / "killed")])
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert read_checkpoint(tmp_path / "killed" / "last.pt")["epoch"] > 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = fit(chosen, resume=True)
        whole = fit(replace(chosen, out=str(tmp_path / "whole")))
    finally:
        torch.set_num_threads(threads)
    assert len(resumed.history) == 40
    same_weights(whole.last, resumed.last)


def test_the_second_interrupt_is_immediate(tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)

    def optimise(self, images, labels):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(loop.Run, "_optimise", optimise)
    with pytest.raises(KeyboardInterrupt):
        fit(settings(tmp_path / "run"))
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(("scores", "best"), [([0.2, 0.9, 0.5], 2), ([0.4, 0.4, 0.4], 1), ([0.1, 0.2, 0.3], 3)])
def test_best_is_the_first_highest_on_the_validation_part(tmp_path, monkeypatch, scores, best):
    given, weights = iter(scores), []

    def accuracy(model, part, prepare, **options):
        assert len(part) == 30
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return 1.0, next(given)

    monkeypatch.setattr(run_module, "accuracy", accuracy)
    result = fit(settings(tmp_path / "run"))
    content = read_checkpoint(result.best)
    assert content["epoch"] == best and content["metrics"]["validation_accuracy"] == scores[best - 1]
    assert all(torch.equal(value, weights[best - 1][name]) for name, value in content["model"].items())
    assert "training" not in content and result.best.stat().st_size < result.last.stat().st_size


def test_without_a_validation_part_the_last_epoch_is_kept(tmp_path):
    result = fit(settings(tmp_path / "run"), parts(validation=0))
    same_weights(result.best, result.last)
    assert "validation_accuracy" not in result.history[-1]
    assert result.log.read_text().splitlines()[1].split(",")[5:7] == ["", ""]


def test_the_folder_of_a_run(tmp_path):
    result = fit(settings(tmp_path / "run", method="ipmix", padding=None))
    assert {path.name for path in result.folder.iterdir()} == {
        "settings.json", "log.csv", "tensorboard", "last.pt", "best.pt",
    }  # fmt: skip
    rows = list(csv.DictReader(result.log.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) == result.history[-1]["train_loss"]
    content = json.loads((result.folder / "settings.json").read_text())
    assert content["settings"]["method"] == "ipmix" and content["versions"]["torch"] == torch.__version__
    resolved = content["resolved"]
    assert (resolved["steps"], resolved["padding"], resolved["device"]) == (9, 2, "cpu")
    assert resolved["images"] == {"train": 96, "validation": 30, "test": 40}
    assert list((result.folder / "tensorboard").glob("events.*"))


def test_the_same_seed_the_same_weights_and_torchs_generator_untouched(tmp_path):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = fit(settings(tmp_path / "1", method="mixup"))
    assert torch.equal(torch.rand(3), expected)
    second = fit(settings(tmp_path / "2", method="mixup"))
    other = fit(settings(tmp_path / "3", method="mixup", seed=1))
    same_weights(first.last, second.last)
    with pytest.raises(AssertionError):
        same_weights(first.last, other.last)


def test_every_method_starts_from_the_same_weights(tmp_path, monkeypatch):
    starts = []
    original = loop.Run.one_epoch

    def one_epoch(self, *rest):
        starts.append([value.clone() for value in self.model.state_dict().values()])
        return original(self, *rest)

    monkeypatch.setattr(loop.Run, "one_epoch", one_epoch)
    for method in ("standard", "cutmix", "ipmix"):
        fit(settings(tmp_path / method, method=method, epochs=1))
    assert all(torch.equal(a, b) for other in starts[1:] for a, b in zip(starts[0], other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_map_style_data_give_the_same_run(tmp_path, workers):
    memory = fit(settings(tmp_path / "memory", epochs=2))
    loaded = fit(settings(tmp_path / "loaded", epochs=2, workers=workers), parts(map_style=True))
    same_weights(memory.last, loaded.last)
    assert timeless(memory.history) == timeless(loaded.history) and len(memory.history) == 2


def test_batches_cover_the_order():
    data = parts(train=10).train
    order = torch.tensor([7, 1, 9, 0, 4])
    for part in (data, MapStyle(data)):
        found = list(batches(part, order, 2))
        assert [len(labels) for _, labels in found] == [2, 2, 1]
        assert torch.equal(torch.cat([images for images, _ in found]), data.images[order])
        assert torch.equal(torch.cat([labels for _, labels in found]), data.labels[order])
    assert not torch.equal(epoch_order(50, 0, 0), epoch_order(50, 0, 1))
    assert not torch.equal(epoch_order(50, 0, 0), epoch_order(50, 1, 0))


def test_what_is_refused(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="there is no run to resume in"):
        fit(settings(run), resume=True)
    assert not run.exists()
    fit(settings(run, epochs=1))
    with pytest.raises(FileExistsError, match=r"holds a run already: go on with it \(--resume\)"):
        fit(settings(run, epochs=1))
    with pytest.raises(ValueError, match="was started with other settings: epochs, lr"):
        fit(settings(run, epochs=2, lr=0.2), resume=True)
    content = (run / "last.pt").read_bytes()
    (run / "last.pt").write_bytes(content[:-1000])
    with pytest.raises(ValueError, match=r"last\.pt is damaged"):
        fit(settings(run, epochs=1), resume=True)
    (run / "last.pt").write_bytes((run / "best.pt").read_bytes())
    with pytest.raises(ValueError, match="holds a model but no training state"):
        fit(settings(run, epochs=1), resume=True)
    with pytest.raises(ValueError, match="amp must be bf16 or off on a CPU"):
        fit(settings(tmp_path / "b", amp="fp16"))
    with pytest.raises(ValueError, match="device must be a name such as cpu or cuda:0, got 'cup'"):
        fit(settings(tmp_path / "b", device="cup"))
    with pytest.raises(ValueError, match="data must have at least 2 training images, got 1"):
        fit(settings(tmp_path / "b"), parts(train=1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_named(tmp_path):
    with pytest.raises(ValueError, match="device must be present, got 'cuda' and no GPU"):
        fit(settings(tmp_path / "b", device="cuda"))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is not finite by step \d+ of 9: try a lower --lr"):
        fit(settings(tmp_path / "run", lr=1e30))
    assert not (tmp_path / "run" / "best.pt").exists()


def test_small_data_make_one_batch(tmp_path):
    result = fit(settings(tmp_path / "run", batch_size=500), parts(train=20))
    assert [row["step"] for row in result.history] == [1, 2, 3]


def test_long_epochs_are_saved_in_between(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(
        run_module, "write_checkpoint", lambda path, content: saved.append((path.name, content["step"]))
    )
    fit(settings(tmp_path / "run", epochs=1))
    assert saved == [("last.pt", 1), ("last.pt", 2), ("best.pt", 3), ("last.pt", 3)]
    monkeypatch.setattr(run_module, "write_checkpoint", write_checkpoint)


class Terminal:
    """Standard error as a terminal."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass


def test_progress_in_a_terminal_and_elsewhere(tmp_path, monkeypatch, capsys):
    train(settings(tmp_path / "a", epochs=1), parts(), progress=True)
    line = capsys.readouterr().err
    assert line.startswith("epoch 1/1  loss ") and "images/s" in line and "left" in line and line.count("\n") == 1
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(loop.EpochProgress, "INTERVAL", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    train(settings(tmp_path / "b", epochs=1), parts(), progress=True)
    assert "epoch 1/1" in terminal.text and "accuracy" in terminal.text and "images/s" in terminal.text
    fit(settings(tmp_path / "c", epochs=1))
    assert capsys.readouterr().err == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_on_a_gpu(tmp_path, amp):
    result = fit(settings(tmp_path / "run", device="cuda", amp=amp, method="ipmix", model="resnet-small", epochs=6))
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert load_checkpoint(result.best)[0](torch.rand(2, 1, 16, 16)).shape == (2, 3)


def test_real_digits_are_learned(tmp_path):
    chosen = TrainSettings(
        data="digits",
        model="lenet5",
        method="cutmix",
        epochs=5,
        batch_size=32,
        lr=0.03,
        out=str(tmp_path / "run"),
        device="cpu",
    )
    result = train(chosen, progress=False)
    assert result.history[-1]["validation_accuracy"] > 0.8  # 0.1 by chance
    model, info = load_checkpoint(result.best)
    assert info["data"]["name"] == "digits" and info["spec"].image_size == 32
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    again = train(replace(chosen, out=str(tmp_path / "again")), progress=False)
    same_weights(result.last, again.last)
