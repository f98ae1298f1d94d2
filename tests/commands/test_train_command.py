"""``mixaug train`` with attacks: options reach the settings, fractions and ranges are read, errors are one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mixaug.cli import main

TINY = ["--data", "digits", "--model", "lenet5", "--limit", "128", "--batch-size", "64", "--device", "cpu"]
QUICK = ["--attack-steps", "1", "--robust-images", "20"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_options_of_attacks_reach_the_settings(capsys):
    words = ["--method", "dynamic-mixcut", "--eps", "16/255", "--step-size", "0.02", "--boxes", "1,3", "--no-targeted"]
    words += ["--smoothing", "0.2", "--eps-schedule", "cosine", "--schedule", "exponential", "--lr-decay", "0.9"]
    assert main(["train", *TINY, "--epochs", "1", *QUICK, *words, "--out", "run"]) == 0
    written = json.loads(Path("run/settings.json").read_text())
    assert written["settings"]["boxes"] == [1, 3] and written["settings"]["schedule"] == "exponential"
    assert written["resolved"]["adversary"] == {
        "eps": 16 / 255, "step_size": 0.02, "steps": 1, "targeted": False, "eps_schedule": "cosine", "smoothing": 0.2,
    }  # fmt: skip
    assert ", FGSM " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["pgd", *QUICK],
        ["trades", *QUICK, "--trades-beta", "1"],
        ["feature-scatter", "--robust-images", "20"],
        ["hybrid", "--robust-images", "20"],
        ["cutmix", "--adversarial", *QUICK],
    ],
    ids=lambda words: words[0],
)
def test_one_word_changes_the_method(words):
    assert main(["train", *TINY, "--epochs", "1", "--quiet", "--out", "run", "--method", *words]) == 0
    (row,) = csv.DictReader(Path("run/log.csv").read_text().splitlines())
    assert 0 <= float(row["validation_pgd_accuracy"]) <= 1 and float(row["radius"]) > 0
    assert (row["alpha"] != "") == (words[0] == "hybrid")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "pgd", "--eps", "8"], "eps must be above 0 and at most 1, got 8.0; did you mean 8/255?"),
        (
            ["--method", "dynamic-mixcut", "--boxes", "4,2"],
            "boxes must be a range (low, high) with low <= high, got (4, 2)",
        ),
        (
            ["--method", "pgd", "--boxes", "3"],
            "boxes must be used with the method dynamic-mixcut, got the method 'pgd'",
        ),
        (["--method", "pgd", "--trades-beta", "6"], "trades_beta must be used with the method trades"),
        (["--hybrid-attack", "fgsm"], "hybrid_attack must be used with the method hybrid, got the method 'ipmix'"),
        (["--method", "hybrid", "--attack-steps", "10"], "attack_steps must be left out for the method hybrid"),
        (
            ["--method", "standard", "--adversarial"],
            "adversarial must be used with one of mixup, cutmix, augmix, ipmix",
        ),
        (["--method", "pgd", "--eps-schedule", "sine"], "eps_schedule must be one of linear, cosine, step, constant"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_2(words, message, capsys):
    assert main(["train", *TINY, "--quiet", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("mixaug train:") and "Traceback" not in err


@pytest.mark.parametrize(("option", "value"), [("--eps", "8/0"), ("--eps", "eight"), ("--boxes", "a,b")])
def test_numbers_that_are_none(option, value, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--method", "dynamic-mixcut", option, value])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert f"argument {option}: must be a number" in err and value in err
