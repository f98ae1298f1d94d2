"""The study's page says what its figures say; its runs are skipped, resumed and refused where they should be."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "study_ipmix.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study_ipmix", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["study_ipmix"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["study_ipmix"]


def result(study, plan, variant, seed, **figures):
    values = {**dict.fromkeys(study.FIGURES, 0.5), **figures}
    return {
        "settings": {"epochs": plan.epochs, "limit": plan.limit, "amp": "bf16"},
        "figures": {name: {"value": value, "low": 0.0, "high": 1.0, "n": 20} for name, value in values.items()},
        "corruptions": {"fog": 0.5},
        "steps": 2,
        "training_images": 256,
        "seconds": {"training": 3.0, "measuring": 1.0, "all": 5.0},
        "environment": {"torch": "2", "time": "now"},
        "processor": "abacus, 2 cores",
    }


@pytest.fixture
def finished(study, tmp_path):
    """A finished study of two seeds in which IPMix halves the corruption error and costs one point of clean error."""
    options = study.parse(["--quick", "--seeds", "2", "--out", str(tmp_path)])
    (plan,) = study.plans(options)
    for variant in plan.variants:
        for seed in (0, 1):
            figures = {"mce": 0.40 + 0.02 * seed, "clean": 0.10 + 0.01 * seed, "rms": 0.05}
            if variant == "IPMix":
                figures = {"mce": 0.20 + 0.01 * seed, "clean": 0.11 + 0.01 * seed, "rms": 0.03}
            row = result(study, plan, variant, seed, **figures)
            study.write_json(tmp_path / plan.key / study.folder_name(variant, seed) / "result.json", row)
    return options, plan


def test_the_page_says_what_the_figures_say(study, finished, tmp_path):
    options, plan = finished
    results = study.collect([plan], options)
    text = study.page([plan], results, options)
    assert "| IPMix | 11.5 ± 0.7 | 50.0 ± 0.0 | **20.5 ± 0.7** | **3.0 ± 0.0** | 50.0 ± 0.0 | 50.0 ± 0.0 | 3 |" in text
    line = next(line for line in text.splitlines() if line.startswith("- IPMix against standard"))
    assert "corruption error 41.0 to 20.5, cut by 50% (goal, a third: reached)" in line
    assert "clean error +1.0 ± 0.0 points (goal, at most +0.5: missed)" in line
    assert "RMS -2.0 ± 0.0 points (goal, lower: reached)" in line
    same = next(line for line in text.splitlines() if line.startswith("- IPMix + JSD against standard"))
    assert "cut by 0% (goal, a third: missed)" in same and "RMS +0.0 ± 0.0 points (goal, lower: missed)" in same
    augmix = next(line for line in text.splitlines() if line.startswith("- IPMix against AugMix"))
    assert "goal" not in augmix
    assert "abacus, 2 cores; torch 2;" in text and "python benchmarks/study_ipmix.py --seeds 2 --quick" in text
    study.draw([plan], results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_skipped_and_missing_ones_started(study, finished, monkeypatch):
    options, plan = finished
    started = []

    class Process:
        def __init__(self, command, **how):
            started.append((command[command.index("--one") + 1 :], how["env"]["OMP_NUM_THREADS"]))

        def wait(self):
            return 1 if len(started) > 1 else 0

    monkeypatch.setattr(study.subprocess, "Popen", Process)
    study.run_all([plan], options)
    assert started == []
    (options.out / plan.key / "augmix-s1" / "result.json").unlink()
    study.run_all([plan], options)
    assert started == [(["embedded", "AugMix", "1"], "1")]
    (options.out / plan.key / "ipmix-jsd-s0" / "result.json").unlink()
    with pytest.raises(RuntimeError, match=r"embedded, .* ended with code 1: see .*output\.txt"):
        study.run_all([plan], options)


def test_results_of_other_sizes_are_refused(study, finished):
    options, plan = finished
    path = options.out / plan.key / "standard-s0" / "result.json"
    row = json.loads(path.read_text())
    study.write_json(path, {**row, "settings": {**row["settings"], "epochs": 7}})
    with pytest.raises(ValueError, match="was made with other sizes"):
        study.collect([plan], options)
    study.write_json(path, {**row, "steps": 3})
    with pytest.raises(ValueError, match=r"must have equal optimiser steps, got \[2, 3\]"):
        study.collect([plan], options)


@pytest.mark.slow
def test_one_run_from_training_to_its_result(study, tmp_path, monkeypatch, pictures):
    from mixaug import MixingSet

    monkeypatch.setattr(MixingSet, "default", lambda: pictures)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep their threads
    options = study.parse(["--quick", "--out", str(tmp_path)])
    (plan,) = study.plans(options)
    assert study.run_one(plan, "IPMix + JSD", 0, options) == 0
    row = json.loads((tmp_path / "embedded" / "ipmix-jsd-s0" / "result.json").read_text())
    assert row["settings"]["jsd"] and row["settings"]["method"] == "ipmix"
    assert {key: row["figures"][key]["n"] for key in study.FIGURES} == {
        "clean": 1000, "clean_best": 1000, "rms": 1000, "mce": 20, "pgd_2": 20, "pgd_8": 20,
    }  # fmt: skip
    assert len(row["corruptions"]) == 15 and row["training_images"] == 256 and row["steps"] == 2


def test_folders_are_plain(study):
    assert study.folder_name("IPMix + JSD", 2) == "ipmix-jsd-s2"
    assert study.folder_name("IPMix without image level", 0) == "ipmix-without-image-level-s0"


def test_wrong_numbers_are_refused(study, capsys):
    with pytest.raises(SystemExit):
        study.parse(["--seeds", "0"])
    assert "--seeds and --jobs must be at least 1, got 0 and" in capsys.readouterr().err
