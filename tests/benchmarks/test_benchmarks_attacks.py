"""The benchmark of attacks: all forms do the same work, and its quick form prints its tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import bench_attacks
import measure
import pytest
import torch


@pytest.fixture
def inputs(monkeypatch):
    monkeypatch.setattr(bench_attacks, "STEPS", 3)
    return bench_attacks.Inputs("lenet5", 4, "cpu")


def test_the_loop_by_hand_gives_the_same_images(inputs):
    attacked = []
    for case in (bench_attacks.BY_HAND, "mixaug PGD"):
        torch.manual_seed(3)
        attacked.append(bench_attacks.pgd_cases(inputs)[case]())
    assert torch.equal(*attacked)


@pytest.mark.parametrize("kind", bench_attacks.KINDS)
def test_every_form_makes_as_many_passes(inputs, kind):
    cases = bench_attacks.KINDS[kind](inputs)
    views = 2 if "two views" in kind else 1
    assert {name: bench_attacks.passes(inputs, call) for name, call in cases.items()} == dict.fromkeys(cases, 3 * views)
    assert len(cases) >= 2


def test_foolboxs_form_is_in_the_ball_and_uses_it(inputs):
    pytest.importorskip("foolbox")
    change = bench_attacks.foolbox_pgd(inputs.model, inputs.x, inputs.labels) - inputs.x
    assert bench_attacks.EPS / 2 < change.abs().max() <= bench_attacks.EPS + 1e-6


def test_a_ratio_is_of_calls_in_the_same_round():
    slow_and_fast = measure.Timing((9.0, 1.0, 1.0)), measure.Timing((3.0, 0.5, 1.0))
    assert bench_attacks.ratio(*slow_and_fast)[1] == 2.0
    assert bench_attacks.ratio(*(measure.Timing(t.seconds[:1]) for t in slow_and_fast)) == (3.0, 3.0, 3.0)


def test_the_quick_form_prints_every_table(monkeypatch, capsys):
    monkeypatch.setattr(bench_attacks, "STEPS", 1)
    monkeypatch.setattr(sys, "argv", ["bench_attacks.py", "--quick", "--only", "speed", "--device", "cpu"])
    bench_attacks.main()
    printed = capsys.readouterr().out
    assert printed.startswith("`python benchmarks/bench_attacks.py --quick --only speed --device cpu`")
    assert torch.__version__ in printed
    for kind in bench_attacks.KINDS:
        assert f"**{kind}, lenet5, 8x3x32x32, float32, 1 thread**" in printed
    assert "| mixaug PGD | 1 |" in printed
    assert "| two_views | 2 |" in printed


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_measured_in_a_process_of_its_own():
    command = [sys.executable, bench_attacks.__file__, "--memory", "lenet5", "16", "mixaug PGD", "--device", "cpu"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | measure.MALLOC_ENVIRONMENT)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["extra"] > 16 * 3 * 32 * 32 * 4  # more than its result


def test_the_memory_table_compares_with_the_loop_by_hand(monkeypatch):
    def run(command, **options):
        form = command[5]
        if form == "two_views":
            return SimpleNamespace(returncode=1, stdout="")
        return SimpleNamespace(returncode=0, stdout=json.dumps({"extra": 3e6 if form == "mixaug PGD" else 2e6}))

    monkeypatch.setattr(bench_attacks.subprocess, "run", run)
    rows = list(bench_attacks.memory_table([("lenet5", 2)], "cpu"))
    assert "| lenet5 | 2 | written by hand | 2.0 | 1.00 |" in rows
    assert "| lenet5 | 2 | mixaug PGD | 3.0 | 1.50 |" in rows
    assert "| lenet5 | 2 | two_views | not measured here | |" in rows
