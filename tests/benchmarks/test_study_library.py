"""What the studies share: plans and runs, results that are read or refused, and the commands."""

from __future__ import annotations

import argparse
import ast
import signal

import pytest
import torch
from paths import ROOT
from study import command, measured, runs
from study.plan import DataPlan, Job, Plan, Sizes, job_of, jobs_of
from study_parts import of_the_run, with_interval, write

SHARED = {"data": "embedded", "limit": 64, "epochs": 2, "amp": "bf16"}
VARIANTS = {"standard": {"method": "standard"}, "Mixup + more, 2": {"method": "mixup"}}
PLAN = Plan("page", "Clothes", SHARED, VARIANTS, Sizes({"fgsm": 8}), title="A page", reference="standard", eps=0.1)
SEVERAL = [DataPlan(key, key.title(), SHARED, VARIANTS, Sizes({"corruptions": 20})) for key in ("one", "two")]


def parse(*arguments):
    parser = argparse.ArgumentParser()
    command.add_shared_options(parser, eps="the attack", epochs="default 2", only="standard")
    return command.parsed(parser, list(arguments))


def options_in(tmp_path, *arguments):
    return parse("--out", str(tmp_path), "--seeds", "2", *arguments)


def result(job, steps=4):
    settings = measured.settings_of(job, "cpu", "/home/somebody").to_dict()
    evaluation = job.plan.evaluation() if isinstance(job.plan, Plan) else None
    return {
        "settings": settings,
        "evaluation": evaluation,
        "figures": {"clean": with_interval(0.5, 8)},
        **of_the_run(steps),
    }


def collected(plans, options, **how):
    read = measured.read_result if plans == [PLAN] else measured.read_sized_result
    found = [(job, read(job, options)) for job in jobs_of(plans, options.seeds)]
    return command.study_of(plans, found, options, ["python", "it is.py"], **how)


def test_a_study_imports_no_other_program():
    folder = ROOT / "benchmarks"
    programs = {path.stem for path in folder.glob("*.py")}
    for path in [*folder.glob("study_*.py"), *folder.glob("study/*.py"), folder / "sweep_relu.py"]:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not {name.partition(".")[0] for name in names} & programs, path


# --- plans and runs ----------------------------------------------------------------------------------------------


def test_runs_are_seed_by_seed_and_have_plain_names():
    jobs = jobs_of(SEVERAL, 2)
    assert [(job.seed, job.plan.key) for job in jobs[::2]] == [(0, "one"), (0, "two"), (1, "one"), (1, "two")]
    job = jobs[1]
    assert (job.name, job.shown) == ("one/mixup-more-2-s0", "one/mixup-more-2-s0")
    assert job.words == ["one", "Mixup + more, 2", "0"] and job_of(jobs, job.words) is job
    alone = Job(PLAN, "standard", 1)
    assert (alone.name, alone.shown, alone.words) == ("page/standard-s1", "standard-s1", ["standard", "1"])


def test_just_missing_runs_are_started(tmp_path, processes, capsys):
    options = options_in(tmp_path, "--jobs", "1", "--threads", "3")
    jobs = jobs_of([PLAN], 2)
    write(jobs[1], options, result(jobs[1]))
    command.run_missing("it.py", jobs, measured.read_result, options)
    assert processes.started == [["standard", "0"], ["standard", "1"], ["Mixup + more, 2", "1"]]
    assert processes.threads == {"3"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 of 4 runs to do, 1 at a time") and lines[1].endswith("about 1 min left")
    processes.started.clear()
    options.only = "mixup"
    command.run_missing("it.py", jobs, measured.read_result, options)
    assert processes.started == [["Mixup + more, 2", "1"]]


def test_a_failed_run_is_named_after_the_others_ended(tmp_path, processes, capsys):
    options = options_in(tmp_path, "--jobs", "1")
    processes.codes.append(1)
    with pytest.raises(RuntimeError, match=r"^page/standard-s0 ended with code 1: see .*output\.txt$"):
        command.run_missing("it.py", jobs_of([PLAN], 1), measured.read_result, options)
    assert len(processes.started) == 2 and "page/mixup-more-2-s0" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_is_said_before_anything_runs(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--gpu needs a GPU"):
        command.run_missing("it.py", jobs_of([PLAN], 1), measured.read_result, options_in(tmp_path, "--gpu"))
    assert processes.started == []


def test_the_time_left_comes_from_runs_of_the_same_kind():
    first, second, third, fourth = (Job(PLAN, name, 0) for name in "abcd")
    known = {first.group: [300.0], second.group: [900.0]}
    assert runs.Clock([first, second], known, 2).left() == "about 10 min left"  # (300 + 900) / 2
    assert runs.Clock([second, third], known, 1).left() == "about 25 min left"  # 900, and 600 as the mean of all
    clock = runs.Clock([third, fourth], {}, 1)
    assert clock.left() == ""
    clock.start(third)
    clock.finish(third, failed=True)
    assert clock.left() == "" and clock.todo == [fourth]


def test_a_run_is_of_one_process(tmp_path, monkeypatch):
    from filelock import FileLock, Timeout

    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    options, (first, second) = options_in(tmp_path, "--threads", "3"), jobs_of([PLAN], 1)
    with command.locked(first, options) as folder:
        assert folder == tmp_path / "page" / "standard-s0" and folder.is_dir() and threads == [3]
        with pytest.raises(Timeout), command.locked(first, options):
            pass
        with command.locked(second, options) as other:  # a run of its own
            assert other != folder
    with FileLock(folder / ".study.lock", timeout=0):  # free again
        pass


# --- results -----------------------------------------------------------------------------------------------------


def test_results_of_other_settings_are_refused(tmp_path):
    options, job = options_in(tmp_path), Job(PLAN, "standard", 0)
    assert measured.read_result(job, options) is None
    row = result(job)
    write(job, options, row)
    assert measured.read_result(job, options) == row
    write(job, options, {**row, "settings": {**row["settings"], "epochs": 7, "device": "cuda", "out": "elsewhere"}})
    with pytest.raises(ValueError, match=r"standard-s0.*other settings \(epochs\); choose another --out"):
        measured.read_result(job, options)
    with pytest.raises(ValueError, match=r"other settings \(epochs\)"):  # before anything is trained
        command.run_missing("it.py", [job], measured.read_result, options)
    write(job, options, {**row, "evaluation": {**row["evaluation"], "eps": 0.2}})
    with pytest.raises(ValueError, match=r"other settings \(eps\)"):
        measured.read_result(job, options)


def test_results_of_other_sizes_are_refused(tmp_path):
    options, job = options_in(tmp_path), Job(SEVERAL[0], "standard", 0)
    assert measured.read_sized_result(job, options) is None
    row = result(job)
    write(job, options, row)  # an older one, which does not say the number of images
    assert measured.read_sized_result(job, options) == row
    for other in ({"images": 7}, *({"settings": {**row["settings"], name: 9}} for name in ("epochs", "limit", "amp"))):
        write(job, options, {**row, **other})
        with pytest.raises(ValueError, match="was made with other sizes; choose another --out"):
            measured.read_sized_result(job, options)


def test_finished_runs_are_collected_in_the_order_of_the_variants(tmp_path):
    options = options_in(tmp_path, "--jobs", "5")
    with pytest.raises(ValueError, match="must have at least one finished run, got none"):
        collected([PLAN], options)
    jobs = jobs_of([PLAN], 2)
    for job in reversed(jobs[1:]):
        write(job, options, result(job))
    study = collected([PLAN], options)
    assert [(name, list(rows)) for name, rows in study.rows.items()] == [("standard", [1]), ("Mixup + more, 2", [0, 1])]
    assert (study.planned, study.missing, study.command) == (4, ["standard-s0"], "python 'it is.py'")
    assert (study.seeds, study.gpu, study.plan, len(study.every)) == (2, False, PLAN, 3)
    assert study.conditions == (
        "5 processes at a time, threads of each: 1; precision of the forward pass in training: bf16, in the evaluation "
        "float32."
    )


def test_data_sets_without_a_run_are_left_out_and_named_as_missing(tmp_path):
    options = options_in(tmp_path)
    for job in jobs_of(SEVERAL[1:], 2):
        write(job, options, result(job, steps=3))
    study = collected(SEVERAL, options, precision="")
    assert list(study.data) == ["two"] and study.missing[0] == "one/standard-s0" and len(study.missing) == 4
    assert study.conditions.endswith("in training: bf16.")


def test_unequal_steps_are_refused_where_they_must_be_equal(tmp_path):
    options = options_in(tmp_path)
    for job in jobs_of([PLAN], 2):
        write(job, options, result(job, steps=3 + job.seed))
    with pytest.raises(ValueError, match=r"runs on Clothes must have equal optimiser steps, got \[3, 4\]"):
        collected([PLAN], options)
    assert len(collected([PLAN], options, equal_steps=False).every) == 4


# --- commands ----------------------------------------------------------------------------------------------------


def test_what_is_left_open_is_decided():
    options = parse("--gpu", "--only", "x")
    assert (options.seeds, options.jobs, options.typed) == (1, 1, ["--gpu", "--only", "x"])
    assert (options.out, options.results) == (ROOT / "runs", ROOT / "docs" / "results")
    options = parse("--quick", "--threads", "1000")
    assert (options.seeds, options.jobs) == (3, 1)
    assert options.out == options.results == ROOT / "runs" / "quick"  # a page that says nothing stays with its runs


def test_the_shown_arguments_are_those_that_decide_the_result():
    options = parse(
        "--cifar", "pictures", "--epochs", "3", "--seeds", "2", "--jobs", "4", "--only", "x", "--amp", "off"
    )
    shown = ["--cifar", "CIFAR10_FOLDER", "--more", "--epochs", "3", "--seeds", "2", "--amp", "off"]
    assert command.shown_arguments(options, {"epochs": None, "limit": None}, "--more") == shown
    assert command.shown_arguments(parse("--gpu", "--quick"), {}) == ["--gpu", "--quick"]


@pytest.mark.parametrize("name", ["epochs", "limit", "seeds", "threads", "jobs"])
def test_counts_below_one_are_refused(name, capsys):
    with pytest.raises(SystemExit):
        parse(f"--{name}", "0")
    assert f"--{name} must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("eps", ["0", "2", "nan"])
def test_a_radius_outside_of_the_pixels_is_refused(eps, capsys):
    with pytest.raises(SystemExit):
        parse("--eps", eps)
    assert "--eps must be above 0 and at most 1" in capsys.readouterr().err


def never(*_):
    raise AssertionError("must not be called")


def test_a_run_of_a_study_in_the_background_can_be_stopped():
    options = parse("--one", "standard", "0")
    seen = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell sets it for "command &"
    try:
        code = command.run_command(options, lambda: seen.append(signal.getsignal(signal.SIGINT)) or 130, never, never)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.default_int_handler] and code == 130


def test_a_study_that_is_stopped_says_how_it_goes_on(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert command.run_command(parse(), never, interrupted, never) == 130
    assert capsys.readouterr().out == "Stopped; the same command goes on.\n"


def test_a_page_alone_runs_nothing(capsys):
    assert command.run_command(parse("--report-only"), never, never, lambda: "the page") == 0
    assert capsys.readouterr().out == "the page\n"
