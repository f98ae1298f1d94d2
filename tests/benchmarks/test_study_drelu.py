"""The D-ReLU study's page says what its figures say; its runs are skipped, resumed, refused, and measured fairly."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import study_command
import study_drelu
import study_drelu_page
import study_drelu_plan
import study_drelu_run
import study_drelu_tables
import study_runs
import torch

RADII = ("0.1", "0.5")
HELD = ("clean", *study_drelu_plan.GRADIENT_ATTACKS, *study_drelu_plan.OTHER_ATTACKS)


def figure(value, n):
    return {"value": value, "low": value - 0.1, "high": value + 0.2, "n": n}


def result(job, *, caps=None, zero=0.0, steps=4, curve=0.25, best="apgd-ce", **accuracies):
    """A result whose accuracies are 0.5 but for those that are named; ``all`` is what all attacks leave."""
    plan = job.plan
    settings = study_drelu_run.settings_of(job, "cpu", Path("/home/somebody"))
    counts = {"clean": 1000, **plan.sizes.n}
    of = {key: accuracies.get(key.replace("-", "_"), 0.5) for key in {*study_drelu_tables.ACCURACIES, *HELD, "all"}}
    held = {key: figure(of[key], 4) for key in (*HELD, "all")}
    known = {} if caps is None else {"quantiles": [0.0, *caps, 9.0], "capped_share": 0.25, "capped_units": 0.75}
    return {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "evaluation": plan.evaluation(),
        "attacks": {"pgd-20": {"kind": "PGD", "eps": 0.1, "steps": 20}, "transfer": {"kind": "Transferred"}},
        "figures": {key: figure(of[key], counts[key]) for key in study_drelu_tables.ACCURACIES},
        "curves": {name: {radius: figure(curve, 4) for radius in RADII} for name in study_drelu_plan.CURVES},
        "same_images": held,
        "masked": {"pgd-20": figure(of["pgd-20"] - of["all"], 4), "best": figure(of[best] - of["all"], 4)},
        "best_gradient_attack": best,
        "caps": {**known, "zero_gradient": figure(zero, 8), "n": 8},
        "steps": steps,
        "parameters": 309_000,
        "training_images": 256,
        "validation_images": 500,
        "history": [{"epoch": 1}, {"epoch": 2}],
        "seconds": {"training": 4.0, "measuring": 1.0, "all": 60.0},
        "environment": {"torch": "2", "time": "now", "device": "CPU, 1 threads"},
        "processor": "abacus, 2 cores",
    }


def write(job, options, row):
    study_command.write_text(options.out / job.name / "result.json", json.dumps(row))


def study_of(tmp_path, *arguments):
    options = study_drelu.parse(
        ["--quick", "--seeds", "2", "--lambdas", "10,0.5", "--out", str(tmp_path), *arguments]
    )  # fmt: skip
    plan = study_drelu.plan_of(options)
    return options, plan, study_drelu.jobs_of(plan, options.seeds)


@pytest.fixture
def finished(tmp_path):
    """Two seeds. With lambda 10 PGD-20 leaves 60%, 50 more than with ReLU, and all attacks 7% on average, ReLU's 5%."""
    options, plan, jobs = study_of(tmp_path)
    plain = {"pgd_20": 0.1, "all": 0.05, "fgsm": 0.2, "clean": 0.9}
    chosen = {
        "no head": plain,
        "ReLU head": plain,
        "D-ReLU head, lambda 0.5": {**plain, "caps": (0.5, 0.75, 1.0)},
        "D-ReLU head, lambda 10": {"pgd_20": 0.6, "fgsm": 0.7, "clean": 0.8, "zero": 0.4, "caps": (0.01, 0.03, 0.1)},
    }
    for job in jobs:
        values = dict(chosen[job.variant])
        if job.variant.endswith("10"):
            values["all"] = 0.02 + 0.1 * job.seed
        write(job, options, result(job, **values))
    return options, plan, jobs


def lines_of(options, plan):
    return study_drelu_page.page(study_drelu.collect(plan, options)).splitlines()


def test_the_page_says_what_the_figures_say(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    half = "50.0 ± 0.0"
    expected = f"80.0 ± 0.0 | **70.0 ± 0.0** | **60.0 ± 0.0** | {' | '.join([half] * 8)} | 7.0 ± 7.1"
    assert f"| D-ReLU head, lambda 10 | {expected} | 0.03 ± 0 | 25.0 ± 0.0 | 2 |" in lines
    heads = next(line for line in lines if "clean (n = 1,000)" in line)
    assert "PGD-20 (n = 8)" in heads and "AutoAttack (n = 4)" in heads and "all attacks (n = 4)" in heads
    assert any(line.startswith("| ReLU head, seed 1 | 90.0 [80.0, 110.0] | 20.0 [10.0, 40.0] |") for line in lines)
    text = "\n".join(lines)
    assert "abacus, 2 cores; torch 2." in text and "256 training images, 2 epochs, 4 optimiser steps for all" in text
    assert "python benchmarks/study_drelu.py --lambdas 0.5,10 --seeds 2 --quick" in text
    assert "Radius 0.1 " in text and "Partial" not in text and "/home" not in text
    assert "- PGD-20: eps 0.1, steps 20" in lines and "- transfer" not in text


def test_what_one_attack_overstates_is_shown(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    masked = [line for line in lines if line.endswith("| 7.0 ± 7.1 | +53.0 ± 7.1 | +43.0 ± 7.1 | APGD-CE |")]
    assert len(masked) == 1 and masked[0].startswith("| D-ReLU head, lambda 10 |")
    assert any(line.endswith("| 5.0 ± 0.0 | +5.0 ± 0.0 | +45.0 ± 0.0 | APGD-CE |") for line in lines)
    same = "+10.0 ± 0.0 | +20.0 ± 0.0 | +10.0 ± 0.0 | 25.0 ± 0.0 | 25.0 ± 0.0"
    assert f"| D-ReLU head, lambda 10 | 40.0 ± 0.0 | {same} |" in lines


def test_caps_and_radii_have_their_tables(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    caps = "0 ± 0 | 0.5 ± 0 | 0.75 ± 0 | 1 ± 0 | 9 ± 0 | 25.0 ± 0.0 | 75.0 ± 0.0 | 0.0 ± 0.0 | 4, 4"
    assert f"| D-ReLU head, lambda 0.5 | {caps} |" in lines
    assert not any(line.startswith("| ReLU head | 0 ± 0") for line in lines)
    assert lines.count("| ReLU head | 25.0 ± 0.0 | 25.0 ± 0.0 |") == 3
    assert [line for line in lines if line.startswith("### ")] == [
        "### PGD-20",
        "### Square, 5 queries",
        "### transfer",
    ]


def test_the_reading_is_two_sentences_of_the_figures(finished):
    options, plan, _ = finished
    first, second = study_drelu_page.reading(study_drelu.collect(plan, options))
    assert first.startswith(
        "With lambda 10 the model seems robust, 70.0% under FGSM (20.0%), 60.0% under PGD-20 (10.0%)"
    )
    assert "leaves 7.0 ± 7.1% of the same 4 images (5.0 ± 0.0%)" in first
    assert first.endswith("of the 50.0 points gained under PGD-20, none is left beyond the spread of the seeds.")
    assert second.startswith(
        "The difference is gradient masking: 40.0% of the test images have a gradient that is exactly zero"
    )
    assert "by 43.0 points, and the clean accuracy is 80.0% (90.0%)." in second


@pytest.mark.parametrize(
    ("left", "pgd", "verdict"),
    [
        (0.55, 0.6, "of the 50.0 points gained under PGD-20, 50.0 are left."),
        (0.35, 0.6, "of the 50.0 points gained under PGD-20, 30.0 are left."),
        (0.05, 0.1, "there is no gain to speak of, under PGD-20 neither."),
    ],
)
def test_the_reading_follows_the_figures(finished, left, pgd, verdict):
    options, plan, jobs = finished
    for job in jobs:
        if "lambda" in job.variant:
            write(job, options, result(job, pgd_20=pgd, all=left, caps=(1.0, 2.0, 3.0), apgd_ce=left))
    first, second = study_drelu_page.reading(study_drelu.collect(plan, options))
    assert first.endswith(verdict)
    assert second.startswith("Masking does not show: 0.0% of the test images") and "by 0.0 points" in second


def test_a_partial_study_says_so(finished):
    options, plan, _ = finished
    for name in ("relu-head-s0", "relu-head-s1", "d-relu-head-lambda-10-s1"):
        (options.out / plan.key / name / "result.json").unlink()
    study = study_drelu.collect(plan, options)
    assert study_drelu_page.reading(study) == []
    text = study_drelu_page.page(study)
    assert (
        "**Partial: 5 of 8 runs are finished.** Missing: relu-head-s0, relu-head-s1, d-relu-head-lambda-10-s1." in text
    )
    means = study_drelu_page.summary(study)["means"]["D-ReLU head, lambda 10"]
    assert means["pgd-20"] == {"mean": 0.6, "sd": None, "seeds": 1}
    assert means["pgd-20 less all"]["mean"] == pytest.approx(0.58)
    study_drelu.save(study, options.out / "page")  # the figure of what there is
    assert (options.out / "page" / "study_drelu.png").exists()


def test_the_files_are_written(finished, tmp_path):
    options, plan, _ = finished
    study_drelu.save(study_drelu.collect(plan, options), tmp_path / "page")
    names = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert names == ["study_drelu.json", "study_drelu.md", "study_drelu.png"]
    assert (tmp_path / "page" / "study_drelu.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "page" / "study_drelu.json").read_text())
    assert len(content["results"]["D-ReLU head, lambda 0.5"]) == 2 and "/home" not in json.dumps(content)
    assert len(content["reading"]) == 2


def test_nothing_finished_is_refused(tmp_path):
    options, plan, _ = study_of(tmp_path)
    with pytest.raises(ValueError, match="at least one finished run, got none"):
        study_drelu.save(study_drelu.collect(plan, options), tmp_path)


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
    monkeypatch.setattr(study_drelu.signal, "signal", lambda *how: None)
    return Process


def test_missing_runs_are_started_after_the_models_they_need(finished, processes, capsys):
    pytest.importorskip("pyautoattack")
    options, plan, _ = finished
    options.jobs = 1
    study_drelu.run_missing(plan, options)
    assert processes.started == []
    for name in ("no-head-s1", "relu-head-s1", "d-relu-head-lambda-10-s0"):
        (options.out / plan.key / name / "result.json").unlink()
    study_drelu.run_missing(plan, options)
    first = [["source", "1"], ["source", "2"]]
    assert processes.started == [*first, ["D-ReLU head, lambda 10", "0"], ["no head", "1"], ["ReLU head", "1"]]
    assert "3 of 8 runs to do" in capsys.readouterr().out
    processes.started.clear()
    options.only = "lambda-10"
    folder = options.out / plan.key / "no-head-s1"
    torch.save(
        {"evaluation": plan.evaluation(), "pairs": {"transfer": (torch.zeros(1), torch.zeros(1))}},
        folder / "transfer.pt",
    )
    study_drelu.run_missing(plan, options)
    assert processes.started == [["D-ReLU head, lambda 10", "0"]]


def test_results_of_other_settings_are_refused(finished):
    options, plan, jobs = finished
    row = result(jobs[1])
    write(jobs[1], options, {**row, "settings": {**row["settings"], "extra_features": 7}})
    with pytest.raises(ValueError, match=r"other settings \(extra_features\)"):
        study_drelu.collect(plan, options)
    write(jobs[1], options, {**row, "evaluation": {**row["evaluation"], "curve_queries": 6}})
    with pytest.raises(ValueError, match=r"other settings \(curve_queries\)"):
        study_drelu.collect(plan, options)
    write(jobs[1], options, {**row, "steps": 3})
    with pytest.raises(ValueError, match=r"must have equal optimiser steps, got \[3, 4\]"):
        study_drelu.collect(plan, options)


def test_a_plateau_ends_runs_after_different_steps(tmp_path):
    options, plan, jobs = study_of(tmp_path, "--recipe", "paper")
    for job in jobs:
        write(job, options, result(job, steps=3 + job.seed, caps=(1.0, 2.0, 3.0) if "lambda" in job.variant else None))
    text = "\n".join(lines_of(options, plan))
    assert "at most 2 epochs, 3 to 4 optimiser steps" in text and "Adam, lr 0.001, halved after 5 epochs" in text
    assert "](study_drelu_paper.png)" in text and "--recipe paper" in text


def test_a_gpu_that_is_not_there_is_said_before_anything_runs(tmp_path, processes, monkeypatch):
    pytest.importorskip("pyautoattack")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options, plan, _ = study_of(tmp_path, "--gpu")
    with pytest.raises(ValueError, match="--gpu needs a GPU"):
        study_drelu.run_missing(plan, options)
    assert processes.started == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--features", "0"],
        ["--jobs", "0"],
        ["--eps", "2"],
        ["--lambdas", "1,-1"],
        ["--lambdas", "nan"],
    ],
)
def test_wrong_numbers_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        study_drelu.parse(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_a_run_of_a_study_in_the_background_can_be_stopped(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(study_drelu, "run_locked", lambda *_: seen.append(signal.getsignal(signal.SIGINT)) or 0)
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--out", str(tmp_path), "--one", "ReLU head", "2"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell sets it for "command &"
    try:
        assert study_drelu.main() == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.default_int_handler]
