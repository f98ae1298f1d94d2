"""The best epoch under attack, the warning of catastrophic overfitting, and what the log says of each epoch."""

from __future__ import annotations

import csv
import json
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from train_parts import MapStyle, fit, parts, same_weights, settings, stop_after, stripes, timeless

import mixaug.train.loop as run_module
from mixaug.attacks import FGSM, PGD
from mixaug.losses import EpsSchedule
from mixaug.train.checkpoint import read_checkpoint, write_checkpoint
from mixaug.train.loop import train
from mixaug.train.robust import RobustAccuracy, overfitted, robust_accuracy
from mixaug.train.schedules import RateSchedule

QUICK = {"method": "pgd", "attack_steps": 1, "robust_images": 8}


def rows_of(result):
    return list(csv.DictReader(result.log.read_text().splitlines()))


# --- accuracy under attack ----------------------------------------------------------------------------------------


@pytest.fixture
def model():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)
    ).train()


def measure(model, part, limit=40, eps=0.1, **options):
    return robust_accuracy(model, part, lambda images: images / 255, eps, limit, autocast=nullcontext, **options)


def test_accuracy_under_attack_is_that_of_the_attacks(model):
    part = stripes(40, 1, seed=3)
    images, labels = part.images / 255, part.labels
    torch.manual_seed(5)
    before = torch.get_rng_state()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    clean, fgsm, pgd = measure(model, part)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    model.eval()
    assert clean == pytest.approx((model(images).argmax(1) == labels).float().mean().item())
    attacked = FGSM(0.1)(model, images, labels)
    assert fgsm == pytest.approx((model(attacked).argmax(1) == labels).float().mean().item())
    attacked = PGD(0.1, 0.025, 10, generator=torch.Generator().manual_seed(1))(model, images, labels)
    assert pgd == pytest.approx((model(attacked).argmax(1) == labels).float().mean().item(), abs=0.06)
    assert measure(model, part) == (clean, fgsm, pgd)
    assert measure(model, MapStyle(part)) == (clean, fgsm, pgd)


def test_at_most_so_many_images_are_attacked_and_always_the_same(model):
    part, seen = stripes(40, 1, seed=3), []

    def prepare(images):
        seen.append(images)
        return images / 255

    for _ in range(2):
        robust_accuracy(model, part, prepare, 0.1, 10, batch_size=4, autocast=nullcontext)
    assert [len(images) for images in seen] == [4, 4, 2] * 2
    assert torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))
    assert len({tuple(image.flatten().tolist()) for images in seen for image in images}) == 10
    assert measure(model, part, limit=1000) == measure(model, part, limit=40)


@pytest.mark.parametrize(
    ("clean", "fgsm", "pgd", "expected"),
    [
        (0.85, 0.80, 0.00, True),  # what happens to FGSM training
        (0.80, 0.52, 0.12, True),
        (0.80, 0.52, 0.44, False),  # PGD training
        (0.95, 0.20, 0.00, False),  # standard training: no overfitting to an attack
        (0.10, 0.10, 0.10, False),  # an untrained model
        (0.50, 0.25, 0.0625, False),
        (0.80, 0.35, 0.02, True),  # little is left under FGSM, and next to nothing under PGD
        (0.80, 0.35, 0.05, False),
        (0.96, 0.21, 0.00, False),  # standard training on CIFAR-10
        (0.50, 0.156, 0.012, False),  # the first epoch of a good run of Feature Scatter
        (0.18, 0.15, 0.00, False),  # hardly better than chance
        (0.25, 0.13, 0.03, True),
        (0.25, 0.12, 0.03, False),  # a few images
    ],
)
def test_when_a_model_has_overfitted_to_one_step(clean, fgsm, pgd, expected):
    assert overfitted(RobustAccuracy(clean, fgsm, pgd), classes=10) is expected


def test_chance_is_that_of_the_classes():
    two, ten = (overfitted(RobustAccuracy(0.55, 0.5, 0.0), classes) for classes in (2, 10))
    assert (two, ten) == (False, True)


# --- the best epoch -----------------------------------------------------------------------------------------------


def given_scores(monkeypatch, clean, fgsm, pgd):
    """Runs whose validation part has these accuracies, epoch by epoch."""
    cleans, attacks = iter(clean), iter([RobustAccuracy(*values) for values in zip(clean, fgsm, pgd, strict=True)])
    monkeypatch.setattr(run_module, "accuracy", lambda *given, **options: (1.0, next(cleans)))
    monkeypatch.setattr(run_module, "robust_accuracy", lambda *given, **options: next(attacks))


@pytest.mark.parametrize(
    ("clean", "pgd", "best"),
    [
        ([0.5, 0.9, 0.7], [0.1, 0.2, 0.4], 3),
        ([0.5, 0.9, 0.7], [0.3, 0.0, 0.3], 3),  # equal under PGD: the clean images decide
        ([0.5, 0.9, 0.9], [0.0, 0.0, 0.0], 2),
        ([0.9, 0.2, 0.2], [0.1, 0.2, 0.2], 2),
    ],
)
def test_best_is_the_first_highest_under_pgd(tmp_path, monkeypatch, clean, pgd, best):
    given_scores(monkeypatch, clean, [0.0] * 3, pgd)
    result = fit(settings(tmp_path / "run", **QUICK))
    content = read_checkpoint(result.best)
    assert content["epoch"] == best and content["metrics"]["validation_pgd_accuracy"] == pgd[best - 1]
    assert [row["validation_pgd_accuracy"] for row in result.history] == pgd


def test_without_attacked_images_the_clean_ones_choose(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "robust_accuracy", None)
    cleans = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(run_module, "accuracy", lambda *given, **options: (1.0, next(cleans)))
    result = fit(settings(tmp_path / "run", **{**QUICK, "robust_images": 0}))
    assert read_checkpoint(result.best)["epoch"] == 2
    assert {rows_of(result)[0][name] for name in ("validation_pgd_accuracy", "catastrophic_overfitting")} == {""}


def test_methods_without_an_adversary_are_not_attacked(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "robust_accuracy", None)
    result = fit(settings(tmp_path / "run"))
    assert "validation_pgd_accuracy" not in result.history[-1] and rows_of(result)[0]["radius"] == ""


def test_a_run_of_before_the_attacks_can_go_on(tmp_path):
    chosen = settings(tmp_path / "run", epochs=1)
    last = fit(chosen).last
    content = read_checkpoint(last)
    del content["training"]["best"]["clean"]
    content["settings"] = {name: content["settings"][name] for name in ("data", "model", "method", "epochs", "lr")}
    content["settings"] |= {"batch_size": 32}
    write_checkpoint(last, content)
    assert len(fit(chosen, resume=True).history) == 1


# --- catastrophic overfitting -------------------------------------------------------------------------------------


def test_catastrophic_overfitting_is_told_and_logged(tmp_path, monkeypatch, capsys):
    given_scores(monkeypatch, [0.7, 0.8, 0.8], [0.5, 0.78, 0.5], [0.4, 0.01, 0.4])
    result = train(settings(tmp_path / "run", **QUICK), parts(), progress=True)
    text = capsys.readouterr().err
    assert text.count("Warning") == 1
    assert (
        "Warning: catastrophic overfitting in epoch 2: 78.0% right under FGSM, 1.0% under PGD. best.pt is of epoch 1."
    ) in text and "--attack-steps 10" in text
    assert [row["catastrophic_overfitting"] for row in rows_of(result)] == ["0.0", "1.0", "0.0"]
    assert "validation 70.0%, FGSM 50.0%, PGD 40.0% *" in text


# --- radius and weight --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["linear", "cosine", "step"])
def test_hybrid_logs_radius_and_alpha_equal_to_the_formulas(tmp_path, shape):
    """Radius from eps/10 to eps; alpha = pgd / (pgd + clean) of the epoch before, 0.5 in the first."""
    chosen = settings(tmp_path / "run", method="hybrid", epochs=5, eps=0.02, eps_schedule=shape, padding=0, flip=False)
    rows = rows_of(fit(chosen))
    assert [float(row["radius"]) for row in rows] == [EpsSchedule(0.02, 5, shape=shape)(epoch) for epoch in range(5)]
    assert float(rows[0]["radius"]) == 0.002 and float(rows[-1]["radius"]) == 0.02
    alphas = [float(row["alpha"]) for row in rows]
    assert alphas[0] == 0.5
    for before, alpha in zip(rows, alphas[1:], strict=False):
        clean, pgd = float(before["validation_clean_accuracy"]), float(before["validation_pgd_accuracy"])
        assert alpha == (pgd / (pgd + clean) if pgd + clean else 0.5)
    assert any(0 < alpha < 0.5 for alpha in alphas)


def test_alpha_compares_accuracies_of_the_same_images(tmp_path):
    """The images that are attacked, not the whole validation part against some of it."""
    data = parts(validation=30)
    result = fit(settings(tmp_path / "run", method="hybrid", epochs=2, robust_images=4), data)
    first, second = result.history
    whole, few = first["validation_accuracy"], first["validation_clean_accuracy"]
    assert (few * 4).is_integer() and few != whole
    assert second["alpha"] == first["validation_pgd_accuracy"] / (first["validation_pgd_accuracy"] + few)


def test_alpha_weighs_the_loss_of_the_next_epoch(tmp_path, monkeypatch):
    weights = []
    for pgd in (0.0, 0.8):
        given_scores(monkeypatch, [0.8] * 2, [0.0] * 2, [pgd] * 2)
        result = fit(settings(tmp_path / str(pgd), method="hybrid", epochs=2))
        assert [row["alpha"] for row in result.history] == [0.5, 0.0 if pgd == 0 else 0.5]
        weights.append(read_checkpoint(result.last)["model"])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_alpha_of_0_is_told_once_also_when_the_run_is_resumed(tmp_path, monkeypatch, capsys):
    given_scores(monkeypatch, [0.6] * 4, [0.1] * 4, [0.0, 0.2, 0.0, 0.0])
    result = train(settings(tmp_path / "run", method="hybrid", epochs=4), parts(), progress=True)
    text = capsys.readouterr().err
    assert [row["alpha"] for row in result.history] == [0.5, 0.0, 0.25, 0.0]
    assert text.count("Note:") == 1 and text.index("epoch 1/4") < text.index(
        "Note: no validation image is right under "
    )
    assert "after epoch 1, so alpha is 0" in text and text.index("Note:") < text.index("epoch 2/4")
    chosen = settings(tmp_path / "parts", method="hybrid", epochs=4)
    given_scores(monkeypatch, [0.6] * 4, [0.1] * 4, [0.0] * 4)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        train(chosen, parts(), progress=True)
    assert capsys.readouterr().err.count("Note:") == 1
    train(chosen, parts(), resume=True, progress=True)
    assert "Note:" not in capsys.readouterr().err


def test_hybrid_needs_a_validation_part(tmp_path):
    with pytest.raises(ValueError, match="data must have a validation part for the method hybrid"):
        fit(settings(tmp_path / "run", method="hybrid"), parts(validation=0))
    result = fit(settings(tmp_path / "pgd", **QUICK), parts(validation=0))
    same_weights(result.best, result.last)


def test_the_radius_of_other_methods_is_logged_and_constant(tmp_path):
    assert {row["radius"] for row in rows_of(fit(settings(tmp_path / "run", **QUICK)))} == {str(8 / 255)}


# --- seconds, memory, the run's own record ------------------------------------------------------------------------


def test_seconds_and_memory_of_each_epoch(tmp_path):
    rows = [
        {name: float(value or "nan") for name, value in row.items()} for row in rows_of(fit(settings(tmp_path / "r")))
    ]
    assert all(row["epoch_seconds"] > 0 and row["validation_seconds"] > 0 for row in rows)
    total = 0.0
    for row in rows:
        total += row["epoch_seconds"]
        assert row["seconds"] == pytest.approx(total)
        assert row["images_per_second"] == pytest.approx(96 / row["epoch_seconds"])
    peaks = [row["peak_memory"] for row in rows]
    assert peaks == sorted(peaks) and 50 < peaks[0] < 100_000  # MiB of this process


def test_measuring_is_not_counted_as_training(tmp_path, monkeypatch):
    import time

    monkeypatch.setattr(
        run_module, "robust_accuracy", lambda *given, **options: (time.sleep(0.3), RobustAccuracy(0.0, 0.0, 0.0))[1]
    )
    result = fit(settings(tmp_path / "run", **{**QUICK, "epochs": 2}))
    assert all(row["validation_seconds"] >= 0.3 for row in result.history)
    assert result.history[-1]["seconds"] == pytest.approx(sum(row["epoch_seconds"] for row in result.history))


def test_the_adversary_is_written_down(tmp_path):
    result = fit(settings(tmp_path / "run", method="dynamic-mixcut", attack_steps=1, epochs=1, robust_images=8))
    resolved = json.loads((result.folder / "settings.json").read_text())["resolved"]
    assert resolved["adversary"] == {
        "eps": 8 / 255, "step_size": 2 / 255, "steps": 1, "targeted": True, "eps_schedule": "constant",
        "smoothing": 0.1,
    }  # fmt: skip
    standard = fit(settings(tmp_path / "standard", epochs=1))
    assert json.loads((standard.folder / "settings.json").read_text())["resolved"]["adversary"] is None


@pytest.mark.parametrize("method", ["pgd", "trades", "feature-scatter", "dynamic-mixcut", "hybrid"])
def test_the_same_seed_the_same_run(tmp_path, method):
    values = {"method": method, "epochs": 2, "robust_images": 8}
    values |= {} if method in ("feature-scatter", "hybrid") else {"attack_steps": 2}
    first, second, other = (
        fit(settings(tmp_path / name, **values, seed=seed)) for name, seed in (("1", 0), ("2", 0), ("3", 1))
    )
    same_weights(first.last, second.last)
    assert timeless(first.history) == timeless(second.history) != timeless(other.history)


def test_adversarial_training_resists_the_attack_and_standard_training_does_not(tmp_path):
    """Stripes under noise: one pixel in sixteen decides nothing, so a robust model exists."""
    values = {"model": "lenet5", "epochs": 12, "padding": 0, "flip": False, "lr": 0.05}
    data = parts(train=192, validation=60)
    accuracies = {}
    for name, more in (
        ("standard", {}),
        ("pgd", {"method": "pgd", "eps": 0.1, "attack_steps": 5}),
        ("dynamic-mixcut", {"method": "dynamic-mixcut", "eps": 0.1, "attack_steps": 5, "targeted": False}),
    ):
        result = fit(settings(tmp_path / name, **values, **more), data)
        model = run_module.Run(settings(tmp_path / name, **values, **more), data, torch.device("cpu")).model
        model.load_state_dict(read_checkpoint(result.last)["model"])
        accuracies[name] = measure(model, data.validation, limit=60)[1]
    assert accuracies["pgd"] > accuracies["standard"] + 0.2
    assert accuracies["dynamic-mixcut"] > accuracies["standard"] + 0.2


# --- the learning rate --------------------------------------------------------------------------------------------


def test_the_rate_warms_up_and_decays_an_epoch():
    rate = RateSchedule(0.1, total_steps=4000, steps_per_epoch=10, warmup=10, kind="exponential", decay=0.985)
    assert [rate(step) for step in range(100)] == pytest.approx([0.1 * (step + 1) / 100 for step in range(100)])
    for epoch in (10, 11, 200, 399):
        assert [rate(epoch * 10 + step) for step in range(10)] == pytest.approx([0.1 * 0.985 ** (epoch - 10)] * 10)


def test_the_cosine_begins_after_the_warm_up():
    rate = RateSchedule(0.1, total_steps=100, steps_per_epoch=10, warmup=2)
    assert [rate(step) for step in (0, 19, 20)] == pytest.approx([0.005, 0.1, 0.1])
    assert [rate(20 + s) for s in range(80)] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * s / 80)) for s in range(80)]
    )


def test_the_log_has_the_rate_that_was_used(tmp_path):
    result = fit(settings(tmp_path / "run", epochs=4, warmup=2, schedule="exponential", lr_decay=0.5))
    assert [row["lr"] for row in result.history] == pytest.approx([0.025, 0.05, 0.05, 0.025])


def test_a_warm_up_as_long_as_the_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="of 9 steps, got 3 epochs of 3 steps: lower --warmup, or raise --epochs or"):
        fit(settings(tmp_path / "run", warmup=3))
    with pytest.raises(
        ValueError, match="warmup must be shorter than the run of 3 steps, got 1 epoch of 3 steps: lower"
    ):
        fit(settings(tmp_path / "run", warmup=1, steps=3))
