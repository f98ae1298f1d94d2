"""The study's page says what its figures say; its runs are skipped, resumed and refused where they should be."""

from __future__ import annotations

import json
import sys

import pytest
import study_ipmix
import torch
from study.plan import jobs_of
from study_parts import of_the_run, write

from mixaug.evaluate.corruptions import CORRUPTIONS


def result(plan, *, steps=2, corruptions=None, **figures):
    values = {**dict.fromkeys(study_ipmix.METRICS, 0.5), **figures}
    return {
        "settings": {**plan.shared, "batch_size": 128, "out": "/home"},
        "figures": {
            name: {"value": value, "low": value - 0.02, "high": value + 0.04, "n": 20} for name, value in values.items()
        },
        "corruptions": {**dict.fromkeys(CORRUPTIONS, values["mce"]), **(corruptions or {})},
        "best_epoch": 3,
        **of_the_run(steps),
    }


def study_jobs(options):
    (plan,) = study_ipmix.plans(options)
    return plan, jobs_of([plan], options.seeds)


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
    return study_ipmix.page(study_ipmix.collect([plan], options)).splitlines()


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
    means = study_ipmix.means_of(study.one)["standard"]["clean"]
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
    study_ipmix.save_study(study_ipmix.collect([plan], options), tmp_path / "page")
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "study_ipmix.json", "study_ipmix.md", "study_ipmix.png",
    ]  # fmt: skip
    assert (tmp_path / "page" / "study_ipmix.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "page" / "study_ipmix.json").read_text())
    assert content["means"]["embedded"]["IPMix"]["mce"]["mean"] == pytest.approx(0.205)
    rows = content["results"]["embedded"]["IPMix"]
    assert len(rows) == 2 and "/home" not in json.dumps(rows)


def test_an_ablation_alone_can_be_drawn(finished, tmp_path):
    options, plan = finished
    for path in options.out.glob("embedded/*/result.json"):
        if "without" not in str(path):
            path.unlink()
    study_ipmix.draw(study_ipmix.collect([plan], options), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()
    assert not any("standard" in line for line in lines_of(options, plan) if line.startswith("|"))


def test_the_command_makes_the_run_that_it_names(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(study_ipmix, "run_one", lambda job, options: job)
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--out", str(tmp_path), "--one", "embedded", "AugMix", "2"])
    job = study_ipmix.main()
    assert (job.plan.key, job.variant, job.seed) == ("embedded", "AugMix", 2)


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
    assert {key: row["figures"][key]["n"] for key in study_ipmix.METRICS} == {
        "clean": 1000, "clean_best": 1000, "rms": 1000, "ece": 1000, "mce": 20, "pgd_2": 20, "pgd_8": 20,
    }  # fmt: skip
    assert list(row["corruptions"]) == list(CORRUPTIONS) and row["training_images"] == 256 and row["steps"] == 2


def test_folders_are_plain():
    options = study_ipmix.parse(["--cifar", "pictures", "--seeds", "1"])
    names = [job.name for job in jobs_of(study_ipmix.plans(options), options.seeds)]
    assert len(names) == len(set(names)) == 11
    assert "embedded/ipmix-jsd-s0" in names and "cifar10-jpeg/standard-s0" in names
    assert "embedded/ipmix-without-image-level-s0" in names and "cifar10-jpeg/ipmix-without-image-level-s0" not in names


def test_sizes_can_be_chosen():
    options = study_ipmix.parse(["--cifar", "pictures", "--epochs", "3", "--limit", "700", "--threads", "2"])
    found = study_ipmix.plans(options)
    assert {(plan.shared["epochs"], plan.shared["limit"]) for plan in found} == {(3, 700)}
    assert {count for plan in found for count in plan.sizes.n.values()} == {500}
    assert study_ipmix.shown_arguments(options) == [
        "--cifar", "CIFAR10_FOLDER", "--epochs", "3", "--limit", "700", "--threads", "2",
    ]  # fmt: skip


def test_the_images_in_the_package_can_be_left_out():
    options = study_ipmix.parse(["--cifar", "pictures", "--cifar-only"])
    assert [plan.key for plan in study_ipmix.plans(options)] == ["cifar10-jpeg"]
    assert study_ipmix.shown_arguments(options) == ["--cifar", "CIFAR10_FOLDER", "--cifar-only"]
    with pytest.raises(SystemExit):
        study_ipmix.parse(["--cifar-only"])
