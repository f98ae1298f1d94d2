"""Training in two processes: the steps of one, the same model in both, files written once, stopped together."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from paths import HELPERS, ROOT
from torch import nn
from train_parts import fit, settings, timeless

from mixaug._random import GeneratorState, RankGenerator
from mixaug.train.checkpoint import read_checkpoint
from mixaug.train.processes import ALONE, Processes, _reduce, run_device, this_process
from mixaug.train.settings import TrainSettings

#: Steps that do not depend on who draws, of a model without batch norm.
STILL = {"method": "standard", "padding": 0, "flip": False, "weight_decay": 0.01, "steps": 4}
LEARNED = {"method": "adautomix", "model": "resnet-small", "picture_every": 2, "steps": 5}
SMALL = {"model": "resnet-small", "steps": 2, "robust_images": 4}
RUNS = [
    {"name": "standard", "settings": STILL},
    {"name": "learned", "settings": LEARNED},
    {"name": "stopped", "settings": LEARNED, "stop": 2},
    {"name": "resumed", "settings": LEARNED, "folder": "stopped", "resume": True},
    {"name": "mixed", "settings": {**LEARNED, "without": ["clean", "plain"], "steps": 3}},
    {"name": "broken", "settings": {"method": "standard"}, "broken": 4},
]
OTHERS = [
    {"name": "shared", "settings": {**LEARNED, "shared_draws": True, "steps": 2}},
    {"name": "mixup", "settings": {"method": "mixup", "steps": 4}},
    {"name": "jsd", "settings": {**SMALL, "method": "ipmix", "jsd": True}},
    {"name": "pgd", "settings": {**SMALL, "method": "pgd", "attack_steps": 2}},
    {"name": "trades", "settings": {**SMALL, "method": "trades", "attack_steps": 2}},
    {"name": "feature-scatter", "settings": {**SMALL, "method": "feature-scatter"}},
    {"name": "dynamic-mixcut", "settings": {**SMALL, "method": "dynamic-mixcut", "attack_steps": 2}},
    {"name": "hybrid", "settings": {**SMALL, "method": "hybrid", "steps": 6, "plateau": True}},
    {"name": "drelu", "settings": {"method": "cutmix", "activation": "drelu", "drelu_quantile": 0.9, "steps": 4}},
    {"name": "bf16", "settings": {**LEARNED, "amp": "bf16", "steps": 2}},
    {"name": "whole", "settings": {"method": "ipmix", "steps": 4}},
    {"name": "half", "settings": {"method": "ipmix", "steps": 4}, "stop": 2},
    {"name": "rest", "settings": {"method": "ipmix", "steps": 4}, "folder": "half", "resume": True},
]


def torchrun(*words, folder):
    """Starts two processes with a gloo group and gives what they wrote."""
    path = os.pathsep.join([str(HELPERS), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )


def ran(made, runs):
    done = torchrun(str(HELPERS / "processes_script.py"), str(made), json.dumps(runs), folder=made)
    assert done.returncode == 0, done.stderr
    (made / "shown.txt").write_text(done.stdout + done.stderr)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two processes, started once: that takes longer than the steps."""
    return ran(tmp_path_factory.mktemp("processes"), [*OTHERS, *RUNS])


def kept(folder, name):
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


def same(one, two):
    """Equal to the bit, whatever is nested."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(value, two[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def test_the_steps_are_those_of_one_process(folder, tmp_path):
    alone = fit(settings(tmp_path / "alone", **STILL))
    first, second = kept(folder, "standard")
    expected = read_checkpoint(alone.last)["model"]
    assert same(first["model"], second["model"]) and first["step"] == 4
    for name, value in expected.items():
        torch.testing.assert_close(first["model"][name], value, rtol=1e-4, atol=1e-6)
    for row, wanted in zip(first["history"], alone.history, strict=True):
        assert row["train_accuracy"] == wanted["train_accuracy"] and row["step"] == wanted["step"]
        assert row["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-5)
        assert row["validation_loss"] == pytest.approx(wanted["validation_loss"], rel=1e-4)
        assert row["lr"] == wanted["lr"]


def check_agreement(folder, name):
    """Weights, batch norms' running statistics, caps; the method's own weights and weighing; the rows."""
    first, second = kept(folder, name)
    assert same(first["model"], second["model"])
    assert first["history"] == second["history"] and first["step"] == second["step"]
    assert all(math.isfinite(row["train_loss"]) for row in first["history"])
    for state in (first["method"], second["method"]):
        state.pop("sums", None)
        state.get("mixer", {}).pop("generator_state", None)  # the numbers that each draws
    assert same(first["method"], second["method"])
    return first


@pytest.mark.parametrize("name", ["standard", "learned", "resumed"])
def test_both_processes_have_the_same_model_and_log(folder, name):
    assert check_agreement(folder, name)["history"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [run["name"] for run in OTHERS if "stop" not in run])
def test_every_method_trains_the_same_model_in_both(folder, name):
    assert check_agreement(folder, name)["history"]


@pytest.mark.slow
def test_a_transform_with_a_generator_of_its_own_goes_on_to_the_bit(folder):
    for one, two in zip(kept(folder, "whole"), kept(folder, "rest"), strict=True):
        assert same(one["model"], two["model"])


def test_a_stopped_run_goes_on_to_the_bit_in_both(folder):
    """The second process alone was asked to stop: both did after the same step."""
    assert [state["step"] for state in kept(folder, "stopped")] == [2, 2]
    assert [state["history"] for state in kept(folder, "stopped")] == [[], []]
    for one, two in zip(kept(folder, "learned"), kept(folder, "resumed"), strict=True):
        assert same(one["model"], two["model"]) and same(one["method"], two["method"])
        assert timeless(one["history"]) == timeless(two["history"])
    assert one["method"]["mixer"]["_extra_state"].tolist() == [5, 0, 0]


def test_the_log_is_of_all_images(folder):
    """Where the loss is that of the mixtures alone, so is its column."""
    (row,) = kept(folder, "mixed")[0]["history"]
    assert row["mixed_loss"] == pytest.approx(row["train_loss"], rel=1e-6)


def test_the_processes_draw_different_numbers(folder):
    stored = read_checkpoint(folder / "learned" / "last.pt")["training"]
    (other,) = stored["others"]
    for name in ("crops", "method"):
        assert not torch.equal(stored["generators"][name], other["generators"][name])
    assert not torch.equal(stored["default_generator"], other["default_generator"])


def test_files_are_written_once_and_the_first_process_shows(folder):
    run = folder / "learned"
    assert {path.name for path in run.iterdir()} == {
        "settings.json", "log.csv", "tensorboard", "last.pt", "best.pt", "generator.pt", "mixtures",
    }  # fmt: skip
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert [path.name for path in sorted((run / "mixtures").iterdir())] == ["step-000002.png", "step-000004.png"]
    assert [row["step"] for row in csv.DictReader((run / "log.csv").read_text().splitlines())] == ["3", "5"]
    assert json.loads((run / "settings.json").read_text())["resolved"]["processes"] == 2
    assert (folder / "shown.txt").read_text().count("epoch 1/2  loss") == 8  # of those with two epochs that ended


def test_a_loss_that_is_not_finite_in_one_ends_both(folder):
    told = [(folder / f"broken-{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1] and "the loss is not finite by step 4 of 9" in told[0]
    assert read_checkpoint(folder / "broken" / "last.pt")["step"] == 3


def test_resumed_by_another_number_of_processes(folder, monkeypatch, tmp_path):
    path = folder / "stopped"
    with pytest.raises(ValueError, match=r"number of processes must be that of the run in .*stopped, 2, got 1"):
        fit(settings(path, **LEARNED), resume=True)
    alone = fit(settings(tmp_path / "run", epochs=1))
    assert read_checkpoint(alone.last)["training"]["others"] == []
    in_two(monkeypatch)
    with pytest.raises(ValueError, match=r"number of processes must be that of the run in .*run, 1, got 2"):
        fit(settings(tmp_path / "run", epochs=1), resume=True)


def in_two(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 33}, "batch_size must be a multiple of the number of processes, 2, got 33"),
        ({"batch_size": 2}, "batch_size must be at least 2 for each of the 2 processes, got 2"),
        ({"batch_size": 8, "method": "adautomix", "n_mix": 5}, "n_mix must be at most a process's slice of batch_size"),
        ({"device": "meta"}, "device must be cpu, or cuda without a number, for several processes, got 'meta'"),
    ],
)
def test_what_cannot_be_shared_is_said_before_any_work(monkeypatch, tmp_path, values, message):
    in_two(monkeypatch)
    with pytest.raises(ValueError, match=message):
        fit(settings(tmp_path / "run", **values))
    assert not (tmp_path / "run").exists()


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = TrainSettings(device="cuda")
    assert run_device(chosen) == torch.device("cuda")
    assert run_device(chosen, Processes(rank=5, count=6, local_rank=1)) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="there must be a GPU for each process of a machine, got 2 GPUs"):
        run_device(chosen, Processes(rank=2, count=3, local_rank=2))
    with pytest.raises(ValueError, match="cuda without a number, for several processes, got 'cuda:1'"):
        run_device(TrainSettings(device="cuda:1"), Processes(rank=0, count=2))


def test_small_data_that_make_one_batch():
    Processes(count=3).check_batch(6)
    with pytest.raises(ValueError, match=r"multiple of the number of processes, 3, got 20 \(all training images\)"):
        Processes(count=3).check_batch(20, " (all training images)")
    ALONE.check_batch(1)


def test_the_slices_of_all_processes_make_the_order():
    order = torch.randperm(24)
    slices = [Processes(rank, 3, rank).share(order, 6).view(4, 2) for rank in range(3)]
    assert torch.equal(torch.cat(slices, 1).flatten(), order)
    assert torch.equal(ALONE.share(order, 6), order)


def test_which_process_this_is():
    assert this_process({}) == this_process({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}) == ALONE
    assert this_process({"RANK": "3"}) == ALONE  # of something else than torchrun
    found = this_process({"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1"})
    assert found == Processes(5, 8, 1) and not found.leads
    with pytest.raises(ValueError, match=r"RANK and LOCAL_RANK must be numbers.*got WORLD_SIZE='2', RANK=None"):
        this_process({"WORLD_SIZE": "2"})


def test_alone_nothing_happens():
    """Neither a group nor a copy."""
    model, values = nn.BatchNorm1d(2), torch.ones(2)
    assert ALONE.wrapped(model, torch.device("cpu")) is model and ALONE.total(values) is values
    assert ALONE.any(True, False) == [True, False]
    assert ALONE.from_first("row") == "row" and ALONE.gathered(1) == [1]
    ALONE.average_statistics(model)
    assert model.running_var.tolist() == [1, 1]
    with ALONE.connected(torch.device("cpu")), ALONE.first_here():
        assert not torch.distributed.is_initialized()


def test_a_generator_of_the_rank_is_drawn_from_as_it_is(monkeypatch):
    own, given = RankGenerator().manual_seed(1), torch.Generator().manual_seed(1)
    monkeypatch.setenv("RANK", "1")
    assert GeneratorState(own).current() is own
    assert GeneratorState(given).current() is not given


def test_the_command_says_its_last_lines_once(tmp_path):
    words = ["--data", "digits", "--limit", "64", "--batch-size", "16", "--model", "lenet5", "--method", "mixup"]
    words += ["--steps", "2", "--device", "cpu", "--out", "run"]
    words.append("--download")  # of what is there already: one process looks first
    done = torchrun("-m", "mixaug", "train", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]  # torch 2.8 greets
    assert said == ["run/best.pt", "Evaluate with: mixaug evaluate run/best.pt"]
    assert done.stderr.count("epoch 1/1") == 1 and "Warning" not in done.stderr
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["resolved"]["processes"] == 2


def test_a_reduction_ends_when_gloo_has_let_go_of_the_tensor():
    # Otherwise the process may end while gloo's thread still holds it, and is aborted then; see processes._reduce.
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        held = []
        for value in range(500):
            values = torch.full((2,), float(value))
            _reduce(values)
            held.append(values._use_count())
            assert values.tolist() == [value, value]
    finally:
        torch.distributed.destroy_process_group()
    assert set(held) == {1}
