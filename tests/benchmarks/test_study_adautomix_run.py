"""Runs of the AdAutoMix study: what they train, in which order, skipped, refused, stopped and resumed."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import study_adautomix
import study_adautomix_page
import study_adautomix_plan
import study_adautomix_run
import study_adversarial_run
import study_command
import study_runs
import torch
from study_adautomix_parts import result, study_of, write
from train_parts import stop_after


def settings(job):
    return study_adversarial_run.settings_of(job, "cpu", Path("run"))


def job_of(jobs, variant, seed=0):
    """The one job of a variant and seed."""
    (job,) = (job for job in jobs if (job.variant, job.seed) == (variant, seed))
    return job


def test_variants_differ_only_in_what_they_are_named_for(tmp_path):
    _, plan, jobs = study_of(tmp_path)
    ours = settings(job_of(jobs, "AdAutoMix"))
    expected = {
        "co-operative": {"cooperative": True},
        "shared draws": {"shared_draws": True},
        "generator every 4 steps, on half": {"generator_every": 4, "generator_share": 0.5},
        "the same, terms on a quarter": {"generator_every": 4, "generator_share": 0.5, "terms_share": 0.25},
        "none of the four": {"without": ("clean", "plain", "teacher", "similarity")},
        **{f"without the {term} term": {"without": (term,)} for term in ("clean", "plain", "teacher")},
        "without the similarity": {"without": ("similarity",)},
        **{f"N = {n}": {"n_mix": n} for n in (2, 4, 5)},
    }
    assert set(expected) < set(plan.variants)
    for name, changed in expected.items():
        other = settings(job_of(jobs, name))
        assert other.differences(ours) == [key for key in vars(ours) if key in changed]
        assert {key: getattr(other, key) for key in changed} == changed
    assert (ours.n_mix, ours.teacher_momentum, ours.generator_lr, ours.picture_every) == (3, 0.99, 0.1, 0)
    plain = settings(job_of(jobs, "standard"))
    assert (plain.method, plain.teacher_momentum, plain.batch_size, plain.weight_decay) == ("standard", None, 100, 1e-4)
    assert settings(job_of(jobs, "Mixup")).differences(plain) == ["method"]
    assert settings(job_of(jobs, "AdAutoMix", 1)).differences(ours) == ["seed"]


def test_the_methods_come_first_with_every_seed(tmp_path):
    _, plan, jobs = study_of(tmp_path)
    methods = ["standard", "Mixup", "CutMix", "co-operative", "AdAutoMix"]
    assert [(job.variant, job.seed) for job in jobs[:10]] == [(name, seed) for seed in (0, 1) for name in methods]
    rest = [(job.variant, job.seed) for job in jobs[10:]]
    assert rest == [(name, seed) for seed in (0, 1) for name in list(plan.variants)[5:]]
    assert len({job.name for job in jobs}) == len(jobs) == 2 * len(plan.variants)
    assert jobs[4].name == "study_adautomix/adautomix-s0"


def test_cifar_has_the_methods_and_the_cheapest_setting():
    small = study_adautomix.plan_of(study_adautomix.parse(["--cifar", "pictures"]))
    methods = ["standard", "Mixup", "CutMix", "co-operative", "AdAutoMix"]
    assert small.key == "study_adautomix_cifar10"
    assert list(small.variants) == [*methods, "shares tied to the ratios", "the same, terms on a quarter"]
    chosen = small.settings("AdAutoMix")
    assert chosen["model"] == "resnet-small" and (chosen["limit"], chosen["epochs"]) == (3000, 10)
    options = study_adautomix.parse(["--cifar", "pictures", "--gpu"])
    large = study_adautomix.plan_of(options)
    chosen = large.settings("AdAutoMix")
    assert chosen["model"] == "resnet18-cifar" and chosen["amp"] == "bf16" and chosen["teacher_momentum"] == 0.999
    assert (chosen["limit"], chosen["epochs"], large.eps) == (None, 30, 8 / 255)
    assert (options.seeds, options.jobs) == (1, 1) and large.sizes.n["occlusion"] == 5000
    assert large.title == "AdAutoMix on a GPU"
    assert study_adautomix.shown_arguments(options) == ["--cifar", "CIFAR10_FOLDER", "--gpu"]


def test_the_shown_command_has_what_decides_the_result():
    typed = ["--momentum", "0.0", "--generator-lr", "0.5", "--epochs", "7", "--amp", "off"]
    options = study_adautomix.parse([*typed, "--jobs", "1", "--out", "somewhere", "--only", "n"])
    assert study_adautomix.shown_arguments(options) == ["--epochs", "7", *typed[:4], "--amp", "off"]
    chosen = study_adautomix.plan_of(options).settings("N = 2")
    assert (chosen["teacher_momentum"], chosen["generator_lr"], chosen["amp"], chosen["epochs"]) == (0, 0.5, "off", 7)
    assert "generator_lr" not in study_adautomix.plan_of(options).settings("CutMix")


class Process:
    """Ends with 0 at once."""

    def __init__(self, command, **how):
        Process.started.append(command[command.index("--one") + 1 :])

    def wait(self):
        return 0


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(Process, "started", [], raising=False)
    monkeypatch.setattr(study_runs.subprocess, "Popen", Process)
    monkeypatch.setattr(study_adautomix.signal, "signal", lambda *how: None)
    return Process


def test_only_missing_runs_are_started_in_their_order(tmp_path, processes, capsys):
    options, plan, jobs = study_of(tmp_path, "--jobs", "1")
    for job in jobs:
        write(job, options, result(job))
    study_adautomix.run_missing(plan, options)
    assert processes.started == [] and f"0 of {len(jobs)} runs to do" in capsys.readouterr().out
    for name in ("shared-draws-s1", "shared-draws-s0", "adautomix-s1", "mixup-s0", "standard-s1"):
        (options.out / plan.key / name / "result.json").unlink()
    study_adautomix.run_missing(plan, options)
    methods = [["Mixup", "0"], ["standard", "1"], ["AdAutoMix", "1"]]
    assert processes.started == [*methods, ["shared draws", "0"], ["shared draws", "1"]]
    lines = capsys.readouterr().out.splitlines()
    assert f"5 of {len(jobs)} runs to do, 1 at a time" in lines[0] and "about 4 min left" in lines[1]
    processes.started.clear()
    options.only = "adautomix-s"
    study_adautomix.run_missing(plan, options)
    assert processes.started == [["AdAutoMix", "1"]]


def test_results_of_other_settings_are_refused(tmp_path):
    options, plan, jobs = study_of(tmp_path)
    job = job_of(jobs, "the same, terms on a quarter")
    row = result(job)
    write(job, options, row)
    assert list(study_adautomix.collect(plan, options).rows) == [job.variant]
    write(job, options, {**row, "settings": {**row["settings"], "terms_share": 0.5}})
    with pytest.raises(ValueError, match=r"the-same-terms-on-a-quarter-s0.*other settings \(terms_share\)"):
        study_adautomix.collect(plan, options)
    with pytest.raises(ValueError, match=r"other settings \(terms_share\)"):  # before anything is trained
        study_adautomix.run_missing(plan, options)
    write(job, options, {**row, "evaluation": {**row["evaluation"], "eps": 0.1}})
    with pytest.raises(ValueError, match=r"other settings \(eps\)"):
        study_adautomix.collect(plan, options)
    write(job, options, row)
    for arguments, name in ((["--momentum", "0.9"], "teacher_momentum"), (["--epochs", "2"], "epochs")):
        other, other_plan, _ = study_of(tmp_path, *arguments)
        with pytest.raises(ValueError, match=rf"other settings \({name}\)"):
            study_adautomix.collect(other_plan, other)


def test_unequal_steps_are_refused_where_they_must_be_equal(tmp_path):
    options, plan, jobs = study_of(tmp_path)
    write(jobs[0], options, result(jobs[0], steps=3))
    write(jobs[1], options, result(jobs[1], steps=4))
    with pytest.raises(ValueError, match=r"must have equal optimiser steps, got \[3, 4\]"):
        study_adautomix.collect(plan, options)
    found = [(job, study_adautomix.read_result(job, options)) for job in jobs[:3]]
    study = study_command.study_of(plan, found, options, ["python", "it is.py"], equal_steps=False)
    assert [(name, list(rows)) for name, rows in study.rows.items()] == [("standard", [0]), ("Mixup", [0])]
    assert (study.planned, study.missing, study.command) == (3, ["cutmix-s0"], "python 'it is.py'")
    assert (study.seeds, study.gpu, study.plan) == (2, False, plan)
    assert study.conditions.startswith(f"{options.jobs} processes at a time, threads of each: 1; ")
    assert "in training: bf16" in study.conditions


def test_a_run_is_of_one_process(tmp_path, monkeypatch):
    from filelock import FileLock, Timeout

    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    options, _, jobs = study_of(tmp_path, "--threads", "3")
    with study_command.locked(jobs[1], options) as folder:
        assert folder == tmp_path / "study_adautomix" / "mixup-s0" and folder.is_dir() and threads == [3]
        with pytest.raises(Timeout), study_command.locked(jobs[1], options):
            pass
        with study_command.locked(jobs[0], options) as other:  # a run of its own
            assert other != folder
    with FileLock(folder / ".study.lock", timeout=0):  # free again
        pass
    monkeypatch.setattr(study_adautomix, "run_one", lambda *_: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--out", str(tmp_path), "--one", "Mixup", "0"])
    before = signal.getsignal(signal.SIGINT)
    try:
        with FileLock(folder / ".study.lock"), pytest.raises(Timeout):
            study_adautomix.main()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_of_a_study_in_the_background_can_be_stopped(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(
        study_adautomix, "run_one", lambda *given: seen.append((given[1:], signal.getsignal(signal.SIGINT))) or 130
    )
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--out", str(tmp_path), "--one", "N = 2", "2"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell sets it for "command &"
    try:
        assert study_adautomix.main() == 130
    finally:
        signal.signal(signal.SIGINT, before)
    (((job, folder, device), handler),) = seen
    assert handler == signal.default_int_handler and (job.variant, job.seed) == ("N = 2", 2)
    assert folder == tmp_path / job.name and device == "cpu"


def test_a_study_that_is_stopped_says_how_it_goes_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(study_adautomix, "run_missing", interrupted)
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--out", str(tmp_path)])
    assert study_adautomix.main() == 130
    assert capsys.readouterr().out == "Stopped; the same command goes on.\n"


def test_a_gpu_that_is_not_there_is_said_before_anything_runs(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options, plan, _ = study_of(tmp_path, "--gpu")
    with pytest.raises(ValueError, match="--gpu needs a GPU"):
        study_adautomix.run_missing(plan, options)
    assert processes.started == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--limit", "0"],
        ["--jobs", "0"],
        ["--eps", "2"],
        ["--momentum", "1.5"],
        ["--momentum", "nan"],
        ["--generator-lr", "-0.1"],
        ["--generator-lr", "inf"],
    ],
)
def test_wrong_numbers_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        study_adautomix.parse([f"{arguments[0]}={arguments[1]}"])
    assert f"{arguments[0]} must be " in capsys.readouterr().err


def test_the_best_epoch_is_the_first_of_the_best():
    history = [{"epoch": place + 1, "validation_accuracy": value} for place, value in enumerate((0.5, 0.7, 0.7, 0.6))]
    best = {"epoch": 2, "validation_accuracy": 0.7, "last_validation_accuracy": 0.6}
    assert study_adautomix_run.best_epoch(history) == best


@pytest.mark.slow
def test_a_run_is_stopped_resumed_and_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep their threads
    sizes = study_adautomix_plan.Sizes({"fgsm": 3, "corruptions": 2, "occlusion": 5})
    monkeypatch.setattr(study_adautomix_plan, "QUICK", sizes)
    arguments = ["--quick", "--seeds", "1", "--limit", "210", "--epochs", "2", "--out", str(tmp_path)]
    options = study_adautomix.parse(arguments)
    plan = study_adautomix.plan_of(options)
    job = job_of(study_adautomix.jobs_of(plan, 1), "without the similarity")
    monkeypatch.setattr(sys, "argv", ["study", *arguments, "--one", job.variant, "0"])
    before, folder = signal.getsignal(signal.SIGINT), tmp_path / job.name
    try:
        with monkeypatch.context() as patch:
            stop_after(patch, 3)  # in the second of the two epochs
            assert study_adautomix.main() == 130
        assert (folder / "last.pt").exists() and study_adautomix.read_result(job, options) is None
        evaluate = study_adautomix_run.evaluate_model
        monkeypatch.setattr(study_adautomix_run, "evaluate_model", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # killed while it is measured: the training is kept
            study_adautomix.main()
        trained = (folder / "last.pt").read_bytes()
        monkeypatch.setattr(study_adautomix_run, "evaluate_model", evaluate)
        assert study_adautomix.main() == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert (folder / "last.pt").read_bytes() == trained and (folder / "generator.pt").exists()

    row = study_adautomix.read_result(job, options)
    counts = {key: entry["n"] for key, entry in row["figures"].items()}
    assert counts == {"clean": 1000, "ece": 1000, "rms": 1000, "fgsm": 3, "mce": 2, "occlusion": 5}
    assert row["settings"]["without"] == ["similarity"] and (row["steps"], row["training_images"]) == (4, 210)
    assert len(row["history"]) == 2 and row["best"] == study_adautomix_run.best_epoch(row["history"])
    assert row["last_epoch"]["mixed_loss"] > 0 and row["last_epoch"]["similarity"] is None and row["skipped"] == 0
    curve = [entry["value"] for entry in row["occlusion"].values()]
    hidden = row["figures"]["occlusion"]
    assert list(row["occlusion"]) == ["0", *(f"0.{tenth}" for tenth in range(1, 10))] and row["patch_size"] == 2
    assert hidden["value"] == pytest.approx(1 - sum(curve) / 10) and hidden["low"] <= hidden["value"] <= hidden["high"]
    assert json.loads((folder / "settings.json").read_text())["resolved"]["images"]["train"] == row["training_images"]
    lines = study_adautomix_page.page(study_adautomix.collect(plan, options)).splitlines()
    assert any(line.startswith("| without the similarity | ") and line.endswith(" | 1 |") for line in lines)
