"""The AdAutoMix study: its page says what its numbers say; its runs are in their order, stopped, resumed, measured."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import study_adautomix
import torch
from study import command, measured
from study.page import means_of
from study_parts import job_of, of_the_run, with_interval, write
from train_parts import stop_after

RATIOS = ("0", "0.5", "0.9")


def result(job, *, steps=3, left=(0.9, 0.5, 0.1), losses=None, skipped=0.0, **errors):
    """A result whose errors are 50% but for those that are named."""
    settings = measured.settings_of(job, "cpu", Path("/home/somebody"))
    counts = {"clean": 1000, "ece": 1000, "rms": 1000, "fgsm": 8, "mce": 4, "occlusion": 8}
    columns = ("mixed_loss", "adversarial_loss", "similarity")
    if losses is None:
        losses = (2.0, 2.5, 0.25) if settings.method == "adautomix" else (None, None, None)
    return {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "evaluation": job.plan.evaluation(),
        "figures": {key: with_interval(errors.get(key, 0.5), n) for key, n in counts.items()},
        "occlusion": {ratio: with_interval(value, 8) for ratio, value in zip(RATIOS, left, strict=True)},
        "patch_size": 2,
        "last_epoch": dict(zip(columns, losses, strict=True)),
        "skipped": skipped,
        "best": {"epoch": 2.0, "validation_accuracy": 0.75, "last_validation_accuracy": 0.7},
        **of_the_run(steps, 250),
    }


def study_of(tmp_path, *arguments):
    options = study_adautomix.parse(["--quick", "--seeds", "2", "--out", str(tmp_path), *arguments])
    plan = study_adautomix.plan_of(options)
    return options, plan, study_adautomix.jobs_of(plan, options.seeds)


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path):
    """Two seeds. AdAutoMix has 30 and 34% top-1 error; it is better than Mixup, and better calibrated by chance."""
    options, plan, jobs = study_of(tmp_path)
    ours = {"clean": (0.30, 0.34), "ece": (0.10, 0.16), "fgsm": (0.4, 0.4)}
    rivals = {
        "Mixup": {"clean": (0.40, 0.42), "ece": (0.12, 0.16)},
        "CutMix": {"clean": (0.25, 0.34), "ece": (0.10, 0.16)},
    }
    for job in jobs:
        chosen = ours if job.variant == "AdAutoMix" else rivals.get(job.variant, {})
        errors = {key: values[job.seed] for key, values in chosen.items()}
        write(job, options, result(job, **errors))
    return options, plan, jobs


def lines_of(options, plan):
    return study_adautomix.page(study_adautomix.collect(plan, options)).splitlines()


def before_parts(lines):
    """The page down to the first of its parts."""
    return lines[: next(i for i, line in enumerate(lines) if line.startswith("## "))]


def starting(lines, start):
    """The only line that begins so."""
    (line,) = (line for line in lines if line.startswith(start))
    return line


def part_of(lines, heading):
    """The rows of the table below a heading."""
    after = lines[lines.index(f"## {heading}") + 1 :]
    end = next((i for i, line in enumerate(after) if line.startswith("## ")), len(after))
    return [line for line in after[:end] if line.startswith("| ")]


def test_the_page_says_what_the_figures_say(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    half = "50.0 ± 0.0"
    first = before_parts(lines)
    row = f"| 32.0 ± 2.8 | **13.0 ± 4.2** | {half} | **40.0 ± 0.0** | {half} | {half} | 2 |"
    assert f"| AdAutoMix {row}" in first
    assert starting(first, "| CutMix |").startswith("| CutMix | **29.5 ± 6.4** | **13.0 ± 4.2** |")
    assert starting(first, "| standard |").endswith(f"{half} | {half} | 2 |")
    assert part_of(lines, "Ablation")[1].startswith("| AdAutoMix | **32.0 ± 2.8** |")
    heads = next(line for line in lines if "top-1 error (n = 1,000)" in line)
    assert "FGSM error (n = 8)" in heads and "corruption error (n = 4)" in heads
    whole = "| AdAutoMix, seed 1 | 34.0 [24.0, 54.0] | 16.0 [6.0, 36.0] | 50.0 [40.0, 70.0] | 40.0 [30.0, 60.0] |"
    assert starting(lines, "| AdAutoMix, seed 1 |").startswith(whole)
    assert "| AdAutoMix | 70.0 ± 0.0 | 75.0 ± 0.0 | 2, 2 |" in lines


def test_the_page_says_how_it_was_made(finished):
    options, plan, jobs = finished
    text = "\n".join(lines_of(options, plan))
    assert text.startswith("# AdAutoMix at CPU scale\n")
    assert "Fashion-MNIST, the subset in the package: 250 training images, 1 epochs, 3 optimiser steps for all" in text
    assert "batch 100, lr 0.1 on a cosine, weight decay 0.0001" in text
    assert "generator's SGD has lr 0.1; the teacher's momentum starts at 0.99." in text
    assert "standard deviation over 2 seeds" in text and "FGSM: eps 0.03137." in text
    assert "    python benchmarks/study_adautomix.py --seeds 2 --quick\n" in text
    assert "abacus, 2 cores; torch 2." in text and f": {len(jobs)} process minutes" in text
    assert "](study_adautomix.png)" in text and "Partial" not in text and "/home" not in text


def test_goals_are_met_missed_or_within_the_spread(finished):
    options, plan, jobs = finished
    goals = [line for line in lines_of(options, plan) if " lower than " in line]
    assert goals == [
        "- top-1 error lower than Mixup's: -9.0 ± 1.4 points, met.",
        "- ECE lower than Mixup's: -1.0 ± 1.4 points, met, within the spread of the seeds.",
        "- top-1 error lower than CutMix's: +2.5 ± 3.5 points, not met.",
        "- ECE lower than CutMix's: +0.0 ± 0.0 points, not met.",
    ]
    (options.out / plan.key / "mixup-s0" / "result.json").unlink()  # the differences are of the seeds that both have
    for job in jobs:
        if job.variant == "CutMix":
            (options.out / job.name / "result.json").unlink()
    goals = [line for line in lines_of(options, plan) if " lower than " in line]
    assert goals == [
        "- top-1 error lower than Mixup's: -8.0 points, met.",
        "- ECE lower than Mixup's: +0.0 points, not met.",
    ]


def test_each_part_has_its_table_beside_the_method(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    names = {
        heading: [line.split(" | ")[0].removeprefix("| ") for line in part_of(lines, heading)[1:]]
        for heading in ("Cheaper settings", "Ablation", "Number of images in a mixture")
    }
    assert names["Cheaper settings"] == [
        "AdAutoMix", "shared draws", "generator every 4 steps, on half", "the same, terms on a quarter",
    ]  # fmt: skip
    assert names["Ablation"][0] == "AdAutoMix" and names["Ablation"][-1] == "none of the four"
    assert len(names["Ablation"]) == 6
    assert names["Number of images in a mixture"] == ["standard", "N = 2", "AdAutoMix", "N = 4", "N = 5"]
    assert "N = 1 is standard training, N = 3 is AdAutoMix as above." in lines
    numbers = part_of(lines, "Number of images in a mixture")
    assert starting(numbers, "| N = 5 |").endswith("| 50.0 ± 0.0 | 2 |")


def test_the_players_are_those_of_the_runs_with_a_generator(finished):
    options, plan, jobs = finished
    for job in jobs:
        if job.variant == "AdAutoMix":
            losses = (2.1 + 0.2 * job.seed, 2.6, 0.3)
            write(job, options, result(job, losses=losses, skipped=job.seed * 2.0))
        if job.variant == "without the similarity":
            write(job, options, result(job, losses=(2.0, 2.0, None)))
    lines = lines_of(options, plan)
    rows = part_of(lines, "The players in the last epoch")
    assert "| AdAutoMix | 2.200 ± 0.141 | 2.600 ± 0.000 | 0.300 ± 0.000 |" in rows
    assert "| without the similarity | 2.000 ± 0.000 | 2.000 ± 0.000 | - |" in rows
    assert (
        not any(row.startswith(("| standard", "| Mixup", "| CutMix")) for row in rows)
        and len(rows) == 1 + len(plan.variants) - 3
    )
    assert starting(lines, "Means over the steps").endswith("not finite, in all runs: 2.")


def test_occlusion_is_an_accuracy_by_the_hidden_share(finished):
    options, plan, jobs = finished
    write(jobs[0], options, result(jobs[0], left=(0.8, 0.5, 0.1)))
    lines = lines_of(options, plan)
    rows = part_of(lines, "Accuracy under occlusion, %")
    assert rows[0] == "|  | 0% | 50% | 90% |" and len(rows) == 6
    assert rows[1] == "| standard | 85.0 ± 7.1 | 50.0 ± 0.0 | 10.0 ± 0.0 |"
    assert "patches of 2 px hidden (black), the same for all models; n = 8." in "\n".join(lines)


def test_a_partial_study_says_so(finished):
    options, plan, jobs = finished
    for name in ("standard-s0", "standard-s1", "co-operative-s0", "n-=-4-s0", "n-=-4-s1"):
        (options.out / plan.key / name / "result.json").unlink()
    study = study_adautomix.collect(plan, options)
    lines = study_adautomix.page(study).splitlines()
    missing = "standard-s0, co-operative-s0, standard-s1, n-=-4-s0, n-=-4-s1"
    assert f"**Partial: {len(jobs) - 5} of {len(jobs)} runs are finished.** Missing: {missing}." in lines
    first = before_parts(lines)
    assert starting(first, "| co-operative |").endswith("| 50.0 | 1 |")
    assert means_of(study.rows, ["clean"])["co-operative"]["clean"] == {
        "mean": 0.5,
        "sd": None,
        "seeds": 1,
    }
    study_adautomix.draw(study, options.out / "partial.png")
    assert (options.out / "partial.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_without_a_method_has_the_rest(finished):
    options, plan, jobs = finished
    for job in jobs:
        if job.variant != "shared draws":
            (options.out / job.name / "result.json").unlink()
    study = study_adautomix.collect(plan, options)
    lines = study_adautomix.page(study).splitlines()
    assert len(part_of(lines, "Cheaper settings")) == 2 and "## Ablation" not in lines
    assert not any("Goals" in line or "occlusion, %" in line for line in lines)
    study_adautomix.draw(study, options.out / "partial.png")
    assert (options.out / "partial.png").exists()


def test_the_files_are_written_from_what_is_finished(finished, tmp_path, monkeypatch, capsys):
    options, plan, jobs = finished
    arguments = ["--quick", "--seeds", "2", "--out", str(tmp_path), "--results", str(tmp_path / "page")]
    monkeypatch.setattr(sys, "argv", ["study", *arguments, "--report-only"])
    assert study_adautomix.main() == 0
    assert capsys.readouterr().out.startswith("# AdAutoMix at CPU scale\n")
    names = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert names == ["study_adautomix.json", "study_adautomix.md", "study_adautomix.png"]
    assert (tmp_path / "page" / "study_adautomix.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "page" / "study_adautomix.json").read_text())
    assert list(content["results"]) == list(plan.variants) and len(content["results"]["AdAutoMix"]) == 2
    assert content["means"]["Mixup"]["clean"] == {
        "mean": pytest.approx(0.41), "sd": pytest.approx(0.01414, abs=1e-4), "seeds": 2,
    }  # fmt: skip
    assert content["missing"] == [] and content["planned"] == len(jobs) and "/home" not in json.dumps(content)
    assert options.results == options.out  # the page of a quick run, which says nothing, stays with its runs


def settings_of(job):
    return measured.settings_of(job, "cpu", Path("run"))


def test_variants_differ_only_in_what_they_are_named_for(tmp_path):
    _, plan, jobs = study_of(tmp_path)
    ours = settings_of(job_of(jobs, "AdAutoMix"))
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
        other = settings_of(job_of(jobs, name))
        assert other.differences(ours) == [key for key in vars(ours) if key in changed]
        assert {key: getattr(other, key) for key in changed} == changed
    assert (ours.n_mix, ours.teacher_momentum, ours.generator_lr, ours.picture_every) == (3, 0.99, 0.1, 0)
    plain = settings_of(job_of(jobs, "standard"))
    assert (plain.method, plain.teacher_momentum, plain.batch_size, plain.weight_decay) == ("standard", None, 100, 1e-4)
    assert settings_of(job_of(jobs, "Mixup")).differences(plain) == ["method"]
    assert settings_of(job_of(jobs, "AdAutoMix", 1)).differences(ours) == ["seed"]


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


def test_only_missing_runs_are_started_in_their_order(tmp_path, processes, capsys):
    options, plan, jobs = study_of(tmp_path, "--jobs", "1")
    for job in jobs:
        write(job, options, result(job))
    command.run_missing(study_adautomix.__file__, jobs, measured.read_result, options)
    assert processes.started == [] and f"0 of {len(jobs)} runs to do" in capsys.readouterr().out
    for name in ("shared-draws-s1", "shared-draws-s0", "adautomix-s1", "mixup-s0", "standard-s1"):
        (options.out / plan.key / name / "result.json").unlink()
    command.run_missing(study_adautomix.__file__, jobs, measured.read_result, options)
    methods = [["Mixup", "0"], ["standard", "1"], ["AdAutoMix", "1"]]
    assert processes.started == [*methods, ["shared draws", "0"], ["shared draws", "1"]]
    lines = capsys.readouterr().out.splitlines()
    assert f"5 of {len(jobs)} runs to do, 1 at a time" in lines[0] and "about 4 min left" in lines[1]
    processes.started.clear()
    options.only = "adautomix-s"
    command.run_missing(study_adautomix.__file__, jobs, measured.read_result, options)
    assert processes.started == [["AdAutoMix", "1"]]


@pytest.mark.parametrize(
    "arguments",
    [
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
    assert study_adautomix.best_epoch(history) == best


@pytest.mark.slow
def test_a_run_is_stopped_resumed_and_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep their threads
    sizes = study_adautomix.Sizes({"fgsm": 3, "corruptions": 2, "occlusion": 5})
    monkeypatch.setattr(study_adautomix, "QUICK", sizes)
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
        assert (folder / "last.pt").exists() and measured.read_result(job, options) is None
        evaluate = study_adautomix.evaluate_model
        monkeypatch.setattr(study_adautomix, "evaluate_model", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # killed while it is measured: the training is kept
            study_adautomix.main()
        trained = (folder / "last.pt").read_bytes()
        monkeypatch.setattr(study_adautomix, "evaluate_model", evaluate)
        assert study_adautomix.main() == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert (folder / "last.pt").read_bytes() == trained and (folder / "generator.pt").exists()

    row = measured.read_result(job, options)
    counts = {key: entry["n"] for key, entry in row["figures"].items()}
    assert counts == {"clean": 1000, "ece": 1000, "rms": 1000, "fgsm": 3, "mce": 2, "occlusion": 5}
    assert row["settings"]["without"] == ["similarity"] and (row["steps"], row["training_images"]) == (4, 210)
    assert len(row["history"]) == 2 and row["best"] == study_adautomix.best_epoch(row["history"])
    assert row["last_epoch"]["mixed_loss"] > 0 and row["last_epoch"]["similarity"] is None and row["skipped"] == 0
    curve = [entry["value"] for entry in row["occlusion"].values()]
    hidden = row["figures"]["occlusion"]
    assert list(row["occlusion"]) == ["0", *(f"0.{tenth}" for tenth in range(1, 10))] and row["patch_size"] == 2
    assert hidden["value"] == pytest.approx(1 - sum(curve) / 10) and hidden["low"] <= hidden["value"] <= hidden["high"]
    assert json.loads((folder / "settings.json").read_text())["resolved"]["images"]["train"] == row["training_images"]
    lines = study_adautomix.page(study_adautomix.collect(plan, options)).splitlines()
    assert any(line.startswith("| without the similarity | ") and line.endswith(" | 1 |") for line in lines)
