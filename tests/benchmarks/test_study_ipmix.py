"""The study's page says what its figures say; its runs are skipped, resumed and refused where they should be."""

from __future__ import annotations

import json

import pytest
import study_figure
import study_ipmix
import study_page
import study_runs
import torch

from mixaug.evaluate.corruptions import CORRUPTIONS


def result(plan, *, steps=2, corruptions=None, **figures):
    values = {**dict.fromkeys(study_page.FIGURES, 0.5), **figures}
    return {
        "settings": {"epochs": plan.epochs, "limit": plan.limit, "amp": "bf16", "batch_size": 128, "out": "/home"},
        "figures": {
            name: {"value": value, "low": value - 0.02, "high": value + 0.04, "n": 20} for name, value in values.items()
        },
        "corruptions": {**dict.fromkeys(CORRUPTIONS, values["mce"]), **(corruptions or {})},
        "best_epoch": 3,
        "steps": steps,
        "training_images": 256,
        "seconds": {"training": 4.0, "measuring": 1.0, "all": 6.0},
        "environment": {"torch": "2", "time": "now"},
        "processor": "abacus, 2 cores",
    }


def write(job, options, row):
    study_ipmix.write_text(options.out / job.name / "result.json", json.dumps(row))


def study_jobs(options):
    (plan,) = study_ipmix.plans(options)
    return plan, study_ipmix.jobs_of([plan], options)


@pytest.fixture
def finished(tmp_path):
    """A finished study of two seeds in which IPMix halves the corruption error and costs one point of clean error."""
    options = study_ipmix.parse(["--quick", "--seeds", "2", "--out", str(tmp_path)])
    plan, jobs = study_jobs(options)
    for job in jobs:
        figures = {"mce": 0.40 + 0.02 * job.seed, "clean": 0.10 + 0.01 * job.seed, "rms": 0.05 + 0.01 * job.seed}
        if job.variant == "IPMix":
            figures = {"mce": 0.20 + 0.01 * job.seed, "clean": 0.11 + 0.01 * job.seed, "rms": 0.045}
        write(job, options, result(plan, **figures))
    return options, plan


def lines_of(options, plan):
    return study_page.page(study_ipmix.collect([plan], options)).splitlines()


def test_the_page_says_what_the_figures_say(finished):
    options, plan = finished
    lines = lines_of(options, plan)
    same = "50.0 ± 0.0"
    assert f"| IPMix | 11.5 ± 0.7 | {same} | **20.5 ± 0.7** | **4.5 ± 0.0** | {same} | {same} | {same} | 2 |" in lines
    assert "| frost* | 41.0 ± 1.4 | 41.0 ± 1.4 | **20.5 ± 0.7** | 41.0 ± 1.4 |" in lines
    assert "| IPMix | 4 | 64 | 1 | 3, 3 |" in lines
    assert any("clean error ± 3.0 (n = 20)" in line for line in lines)
    text = "\n".join(lines)
    assert "abacus, 2 cores; torch 2." in text and "python benchmarks/study_ipmix.py --seeds 2 --quick" in text
    assert "Partial" not in text


def test_each_goal_is_met_or_not(finished):
    options, plan = finished
    lines = lines_of(options, plan)
    start = "- IPMix against standard, "
    assert f"{start}corruption error cut by at least a third: **met** (41.0 to 20.5, cut by 50%)." in lines
    assert f"{start}clean error at most 0.5 points higher: **not met** (+1.0 ± 0.0 points)." in lines
    rms = f"{start}RMS calibration error lower: **met** (-1.0 ± 0.7 points)."
    assert rms in lines
    same = [line for line in lines if line.startswith("- IPMix + JSD against standard, ")]
    assert "**not met** (41.0 to 41.0, changed by less than 1%, a change within the spread over the seeds)" in same[0]
    assert "**met** (+0.0 ± 0.0 points, a change within the spread over the seeds)" in same[1]  # equal is no worse
    assert "lower: **not met** (+0.0 ± 0.0 points, " in same[2]  # and not lower
    assert "- IPMix against AugMix, corruption error lower: **met** (41.0 to 20.5, cut by 50%)." in lines


def test_the_fall_is_traced_to_its_corruptions(finished):
    options, plan = finished
    _, jobs = study_jobs(options)
    bright = dict.fromkeys(("snow", "frost", "fog", "brightness", "contrast"), 0.1)
    for job in jobs:
        if job.variant == "standard":
            write(job, options, result(plan, mce=0.4))
        if job.variant == "IPMix":
            write(job, options, result(plan, mce=0.4, corruptions={**bright, "pixelate": 0.5}))
    (line,) = [line for line in lines_of(options, plan) if "of the fall" in line]
    assert line == (
        "- IPMix against standard: 107% of the fall of the corruption error is on snow, frost*, fog, brightness, "
        "contrast; the other 10 fell by -1.0 points on average."
    )


def test_a_partial_study_says_so_and_compares_common_seeds(finished):
    options, plan = finished
    for name in ("standard-s0", "augmix-s0", "augmix-s1", "ipmix-without-image-level-s1"):
        (options.out / plan.key / name / "result.json").unlink()
    lines = lines_of(options, plan)
    partial = "**Partial: 10 of 14 runs are finished.** Missing: embedded/standard-s0, embedded/augmix-s0, "
    assert any(line.startswith(partial) for line in lines)
    assert not any("against AugMix" in line for line in lines)
    # Seed 1 alone, so without a spread.
    assert "- IPMix against standard, clean error at most 0.5 points higher: **not met** (+1.0 points)." in lines
    study = study_ipmix.collect([plan], options)
    means = study_page.summary(study)["means"]["embedded"]["standard"]["clean"]
    assert means == {"mean": pytest.approx(0.11), "sd": None, "seeds": 1}


def test_a_result_without_a_figure_is_not_finished(finished):
    options, plan = finished
    _, jobs = study_jobs(options)
    row = result(plan)
    del row["figures"]["ece"]
    write(jobs[0], options, row)
    assert study_ipmix.collect([plan], options).missing == ["embedded/standard-s0"]


def test_the_files_are_written(finished, tmp_path):
    options, plan = finished
    study_ipmix.save(study_ipmix.collect([plan], options), tmp_path / "page")
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "study_ipmix.json", "study_ipmix.md", "study_ipmix.png",
    ]  # fmt: skip
    assert (tmp_path / "page" / "study_ipmix.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "page" / "study_ipmix.json").read_text())
    assert content["means"]["embedded"]["IPMix"]["mce"]["mean"] == pytest.approx(0.205)
    rows = content["results"]["embedded"]["IPMix"]
    assert len(rows) == 2 and "/home" not in json.dumps(rows)


def test_nothing_finished_is_refused(tmp_path):
    options = study_ipmix.parse(["--quick", "--out", str(tmp_path)])
    with pytest.raises(ValueError, match="at least one finished run, got none"):
        study_ipmix.save(study_ipmix.collect(study_ipmix.plans(options), options), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_ablation_alone_can_be_drawn(finished, tmp_path):
    options, plan = finished
    for path in options.out.glob("embedded/*/result.json"):
        if "without" not in str(path):
            path.unlink()
    study_figure.draw(study_ipmix.collect([plan], options), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()
    assert not any("standard" in line for line in lines_of(options, plan) if line.startswith("|"))


class Process:
    """Ends with the next of ``codes``, 0 without one."""

    def __init__(self, command, **how):
        Process.started.append((command[command.index("--one") + 1 :], how["env"]["OMP_NUM_THREADS"]))

    def wait(self):
        return Process.codes.pop(0) if Process.codes else 0


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(Process, "started", [], raising=False)
    monkeypatch.setattr(Process, "codes", [], raising=False)
    monkeypatch.setattr(study_runs.subprocess, "Popen", Process)
    monkeypatch.setattr(study_ipmix.signal, "signal", lambda *how: None)
    return Process


def test_finished_runs_are_skipped_and_missing_ones_started(finished, processes, capsys):
    options, plan = finished
    _, jobs = study_jobs(options)
    study_ipmix.run_missing(jobs, options)
    assert processes.started == []
    (options.out / plan.key / "augmix-s1" / "result.json").unlink()
    (options.out / plan.key / "standard-s1" / "result.json").unlink()
    options.only = "augmix"
    study_ipmix.run_missing(jobs, options)
    assert processes.started == [(["embedded", "AugMix", "1"], "1")]
    assert "1 of 14 runs to do" in capsys.readouterr().out


def test_a_failed_run_is_named_after_the_others_ended(finished, processes, capsys):
    options, plan = finished
    _, jobs = study_jobs(options)
    for name in ("augmix-s1", "standard-s1"):
        (options.out / plan.key / name / "result.json").unlink()
    processes.codes.append(1)
    options.jobs = 1
    with pytest.raises(RuntimeError, match=r"embedded/standard-s1 ended with code 1: see .*output\.txt"):
        study_ipmix.run_missing(jobs, options)
    assert len(processes.started) == 2 and "embedded/augmix-s1" in capsys.readouterr().out


def test_the_time_left_comes_from_runs_of_the_same_kind():
    options = study_ipmix.parse(["--quick", "--seeds", "1"])
    _, jobs = study_jobs(options)
    known = {jobs[0].group: [300.0], jobs[1].group: [900.0]}
    assert study_runs.Clock(jobs[:2], known, 2).left() == "about 10 min left"  # (300 + 900) / 2
    assert study_runs.Clock(jobs[1:3], known, 1).left() == "about 25 min left"  # 900, and 600 as the mean of all
    clock = study_runs.Clock(jobs[2:4], {}, 1)
    assert clock.left() == ""
    clock.start(jobs[2])
    clock.finish(jobs[2], failed=True)
    assert clock.left() == "" and clock.todo == [jobs[3]]


def test_results_of_other_sizes_are_refused(finished):
    options, plan = finished
    _, jobs = study_jobs(options)
    row = result(plan)
    write(jobs[0], options, {**row, "settings": {**row["settings"], "epochs": 7}})
    with pytest.raises(ValueError, match="was made with other sizes"):
        study_ipmix.collect([plan], options)
    write(jobs[0], options, {**row, "steps": 3})
    with pytest.raises(ValueError, match=r"must have equal optimiser steps, got \[2, 3\]"):
        study_ipmix.collect([plan], options)


@pytest.mark.slow
def test_one_run_from_training_to_its_result(tmp_path, monkeypatch, pictures):
    from filelock import FileLock, Timeout

    from mixaug import MixingSet

    monkeypatch.setattr(MixingSet, "default", lambda: pictures)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep their threads
    options = study_ipmix.parse(["--quick", "--seeds", "1", "--out", str(tmp_path)])
    _, jobs = study_jobs(options)
    (job,) = (job for job in jobs if job.variant == "IPMix + JSD")
    (tmp_path / job.name).mkdir(parents=True)
    with FileLock(tmp_path / job.name / ".study.lock"), pytest.raises(Timeout):
        study_ipmix.run_one(job, options)
    assert study_ipmix.run_one(job, options) == 0
    row = study_ipmix.read_result(job, options)
    assert row["settings"]["jsd"] and row["settings"]["method"] == "ipmix"
    assert {key: row["figures"][key]["n"] for key in study_page.FIGURES} == {
        "clean": 1000, "clean_best": 1000, "rms": 1000, "ece": 1000, "mce": 20, "pgd_2": 20, "pgd_8": 20,
    }  # fmt: skip
    assert list(row["corruptions"]) == list(CORRUPTIONS) and row["training_images"] == 256 and row["steps"] == 2


def test_folders_are_plain():
    options = study_ipmix.parse(["--cifar", "pictures", "--seeds", "1"])
    names = [job.name for job in study_ipmix.jobs_of(study_ipmix.plans(options), options)]
    assert len(names) == len(set(names)) == 11
    assert "embedded/ipmix-jsd-s0" in names and "cifar10-jpeg/standard-s0" in names
    assert "embedded/ipmix-without-image-level-s0" in names and "cifar10-jpeg/ipmix-without-image-level-s0" not in names


def test_sizes_can_be_chosen():
    options = study_ipmix.parse(["--cifar", "pictures", "--epochs", "3", "--limit", "700", "--threads", "2"])
    assert {(plan.epochs, plan.limit, plan.images) for plan in study_ipmix.plans(options)} == {(3, 700, 500)}
    assert study_ipmix.shown_arguments(options) == [
        "--cifar", "CIFAR10_FOLDER", "--epochs", "3", "--limit", "700", "--threads", "2",
    ]  # fmt: skip


def test_the_images_in_the_package_can_be_left_out():
    options = study_ipmix.parse(["--cifar", "pictures", "--cifar-only"])
    assert [plan.key for plan in study_ipmix.plans(options)] == ["cifar10-jpeg"]
    assert study_ipmix.shown_arguments(options) == ["--cifar", "CIFAR10_FOLDER", "--cifar-only"]
    with pytest.raises(SystemExit):
        study_ipmix.parse(["--cifar-only"])


@pytest.mark.parametrize("name", ["epochs", "limit", "seeds", "threads", "jobs"])
def test_wrong_numbers_are_refused(name, capsys):
    with pytest.raises(SystemExit):
        study_ipmix.parse([f"--{name}", "0"])
    assert f"--{name} must be at least 1, got 0" in capsys.readouterr().err
