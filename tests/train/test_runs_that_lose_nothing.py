"""Trainings that are disturbed: two in one folder, killed workers, signals, full disks, closed streams, tampering."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import torch
from paths import ROOT
from tampering import REMOVED, hostile, places, with_field
from train_parts import fit, parts, same_weights, settings, stop_after, timeless

import mixaug.train.loop as loop
from mixaug.adautomix import read_generator
from mixaug.cli import main
from mixaug.train.checkpoint import load_checkpoint, read_checkpoint, write_checkpoint

DIGITS = ["train", "--data", "digits", "--model", "lenet5", "--method", "mixup", "--limit", "64", "--batch-size", "32"]
DIGITS += ["--device", "cpu"]


def started(words, **how):
    return subprocess.Popen(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, text=True, **how
    )


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_second_training_in_the_folder_is_refused_and_sigterm_saves_the_first(tmp_path, capsys, one_thread):
    words = [*DIGITS, "--epochs", "50", "--out"]
    first = started(["-m", "mixaug", *words, str(tmp_path / "run"), "--quiet"], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "run" / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)  # it does not end meanwhile
        for more in ([], ["--resume"]):
            assert main([*words, str(tmp_path / "run"), *more]) == 2
            refused = capsys.readouterr().err
            assert refused.count("\n") == 1 and f"another training is at work in {tmp_path / 'run'}" in refused
        first.send_signal(signal.SIGTERM)
        first.send_signal(signal.SIGCONT)
        _, told = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130 and told.count("\n") == 1 and "everything is saved" in told
    assert 0 < read_checkpoint(tmp_path / "run" / "last.pt")["epoch"] < 50
    assert main([*words, str(tmp_path / "run"), "--resume", "--quiet"]) == 0
    assert main([*words, str(tmp_path / "whole"), "--quiet"]) == 0
    same_weights(tmp_path / "whole" / "last.pt", tmp_path / "run" / "last.pt")
    same_weights(tmp_path / "whole" / "best.pt", tmp_path / "run" / "best.pt")
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_sigterm_within_an_epoch_saves_like_ctrl_c(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 5, signal.SIGTERM)
        stopped = fit(settings(tmp_path / "run"))
    assert stopped.interrupted and read_checkpoint(stopped.last)["step"] == 5
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    same_weights(fit(settings(tmp_path / "run"), resume=True).last, fit(settings(tmp_path / "whole")).last)


def test_a_killed_worker_is_named_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    chosen, data = settings(tmp_path / "run", workers=1), parts(map_style=True)
    killed = []

    def kill(self, *batch, original=loop.Run._optimise):
        if self.step == 4:
            (worker,) = multiprocessing.active_children()
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(30)  # the loader's handler of a dead child ends it
        return original(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_optimise", kill)
        with pytest.raises(ChildProcessError) as error:
            fit(chosen, data)
    assert f"a loader worker died: DataLoader worker (pid {killed[0]}) is killed by signal: Killed." in str(error.value)
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 3
    same_weights(fit(chosen, data, resume=True).last, fit(settings(tmp_path / "whole"), parts()).last)


SENDS = """
import importlib, os, runpy, signal, sys, threading

where, entry = sys.argv[1], sys.argv[2]

class At:
    def find_spec(self, name, path=None, target=None):
        if name == where:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, At())
sys.argv = ["mixaug", *sys.argv[3:]]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has none
if where[0].isdigit():
    timer = threading.Timer(float(where), os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
if entry == "-m":
    runpy.run_module("mixaug", run_name="__main__", alter_sys=True)
module, name = entry.split(":")
sys.exit(getattr(importlib.import_module(module), name)())
"""


@pytest.mark.parametrize(
    ("when", "entry"),
    [("mixaug.cli", "-m"), ("torch", "script"), ("mixaug.train.loop", "-m"), ("0.1", "script"), ("0.8", "-m")],
)
def test_ctrl_c_in_the_first_second_is_one_line_and_130(tmp_path, entry, when):
    if entry == "script":
        entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["mixaug"]
    words = [*DIGITS, "--epochs", "2000", "--out", str(tmp_path / "run"), "--quiet"]
    with started(["-c", SENDS, when, entry, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    assert not list(tmp_path.glob("run/.*"))


def test_closed_and_full_streams_end_no_training(tmp_path):
    words = [*DIGITS, "--epochs", "2", "--out", str(tmp_path / "run")]
    closed = "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    with open("/dev/full", "w") as full, started(["-c", closed, "-m", "mixaug", *words], stdout=full) as process:
        assert process.wait(timeout=100) == 0
    assert read_checkpoint(tmp_path / "run" / "last.pt")["epoch"] == 2
    assert load_checkpoint(tmp_path / "run" / "best.pt")[0]


@pytest.fixture
def disk(monkeypatch):
    """``disk(size)``: the system writes no more than so many bytes to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "log.csv"])
def test_a_full_disk_names_the_file_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, disk, name):
    chosen = settings(tmp_path / "run")
    owner, method = (loop.RunLog, "write") if name == "log.csv" else (loop.Run, "_write")

    original = getattr(owner, method)

    def full(self, *arguments):
        if (tmp_path / "run" / "last.pt").exists() and name in ("log.csv", arguments[0]):
            disk(100 if name == "log.csv" else 10_000)
        return original(self, *arguments)

    # Every epoch is better than the one before: best.pt is written each time.
    monkeypatch.setattr("mixaug.train.loop.is_better", lambda row, best: True)
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, full)
        with pytest.raises(OSError, match=rf"run/{name} cannot be written: File too large \(.*; the file that was"):
            fit(chosen)
    disk(resource.RLIM_INFINITY)
    assert read_checkpoint(tmp_path / "run" / "last.pt")["epoch"] == 1
    assert load_checkpoint(tmp_path / "run" / "best.pt")[1]["epoch"] == (2 if name != "best.pt" else 1)
    assert not list((tmp_path / "run").glob(".*"))
    same_weights(fit(chosen, resume=True).last, fit(settings(tmp_path / "whole")).last)


@pytest.mark.parametrize("at", [0, 30, 700], ids=["no file", "no first event", "later"])
def test_a_disk_too_full_for_tensorboard_ends_no_run(tmp_path, monkeypatch, capsys, disk, at):
    def full(self, row=None, original=loop.RunLog._add):
        if at == 0:
            (tmp_path / "run" / "tensorboard").write_text("in the way")
        disk(at or resource.RLIM_INFINITY)
        try:
            return original(self, row)
        finally:
            disk(resource.RLIM_INFINITY)

    monkeypatch.setattr(loop.RunLog, "_add", full)
    result = loop.train(settings(tmp_path / "run"), parts())
    told = capsys.readouterr().err
    assert told.count("TensorBoard's events cannot be written") == 1 and "Traceback" not in told
    assert len(result.history) == 3 and len(result.log.read_text().splitlines()) == 4


#: Settings that this version does not need to know of the run: any value that is plain goes.
FREE = {"out", "device", "workers", "root"}
RUNS = {
    "sgd": {},
    "adam": {"optimizer": "adam", "lr": 0.001},
    "plateau": {"plateau": True, "activation": "drelu", "placement": "head"},
    "hybrid": {"method": "hybrid"},
    "adautomix": {"method": "adautomix", "model": "resnet-small", "n_mix": 2, "picture_every": 0},
}


def tampered(content, only, each=2):
    """Every field, or those below one; of the many settings, metrics and weights the first and the last three."""
    for path in places(content):
        if only and path[: len(only)] != only:
            continue
        parent = content
        for name in path[:-1]:
            parent = parent[name]
        many = isinstance(parent, dict) and len(parent) > 9 and path[0] != "training"
        inner = isinstance(parent, dict) and len(parent) > 9 and "mixer" in path
        if (many or inner) and path[-1] not in [*list(parent)[:2], *list(parent)[-3:]]:
            continue
        # All values at once would take minutes: each field gets some, other fields others, the same ones every time.
        for value in random.Random(str(path)).sample(hostile(parent[path[-1]]), each):
            yield path, value


def named(path, message):
    """Whether a message names a part of the file that has the field in it."""
    return any(str(name) in message for name in path if isinstance(name, str))


def forgotten(path, value):
    """What a run may lack: a weight without a gradient has no buffers, and earlier versions kept less of the best."""
    gone = value is REMOVED and ("best" in path or (path[-2:-1] == ("state",) and "optimiser" in path[-3]))
    return gone or (path[-1] == "state" and value == {})


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("run", "only"),
    [("sgd", ()), ("adam", ("training", "optimiser")), ("plateau", ("training", "descent")), ("plateau", ("spec",)),
     ("hybrid", ("training", "method")), ("adautomix", ("training", "method"))],
    ids=lambda value: value if isinstance(value, str) else value[-1] if value else "all",
)  # fmt: skip
def test_a_tampered_checkpoint_is_refused_by_field_or_makes_no_difference(tmp_path, monkeypatch, run, only):
    chosen = settings(tmp_path / "run", epochs=2, **RUNS[run])
    data = parts(channels=3 if run == "adautomix" else 1)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        last = fit(chosen, data).last
    best, good = last.with_name("best.pt").read_bytes(), read_checkpoint(last)
    whole = fit(chosen, data, resume=True)
    weights, best_weights = read_checkpoint(last)["model"], read_checkpoint(whole.best)["model"]
    refused = accepted = 0
    for path, value in tampered(good, only, each=1 if run == "adautomix" else 2):
        if forgotten(path, value):
            continue
        write_checkpoint(last, with_field(good, path, value))
        case = f"{path}: {value!r}"
        try:
            model, _ = load_checkpoint(last)
            assert all(torch.equal(tensor, good["model"][name]) for name, tensor in model.state_dict().items()), case
        except ValueError as error:
            assert str(last) in str(error) and named(path, str(error)), case
        last.with_name("best.pt").write_bytes(best)
        try:
            resumed = fit(chosen, data, resume=True)
        except ValueError as error:
            assert str(last.parent) in str(error) and named(path, str(error).replace(str(tmp_path), "")), case
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(case) from error
        accepted += 1
        for file, wanted in (last, weights), (resumed.best, best_weights):
            found = read_checkpoint(file)["model"]
            assert all(torch.equal(found[name], wanted[name]) for name in wanted), case
        if "history" not in path:  # a record of what was measured, which decides nothing
            assert timeless(resumed.history) == timeless(whole.history), case
    assert refused > 3 and accepted < refused


def test_a_moment_that_no_optimiser_has_is_refused(tmp_path, monkeypatch):
    chosen = settings(tmp_path / "run", epochs=2, **RUNS["adam"])
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        last = fit(chosen).last
    good = read_checkpoint(last)
    for name, low in ("step", 1), ("exp_avg_sq", 0):
        path = ("training", "optimiser", "state", 3, name)
        value = torch.full_like(good["training"]["optimiser"]["state"][3][name], -2.0)
        write_checkpoint(last, with_field(good, path, value))
        with pytest.raises(ValueError, match=re.escape(f"state[3]['{name}'] must be at least {low}, got -2.0")):
            fit(chosen, resume=True)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_a_tampered_generator_is_refused_by_field_or_makes_no_difference(tmp_path):
    chosen = settings(tmp_path / "run", epochs=1, **RUNS["adautomix"])
    fit(chosen, parts(channels=3))
    path = tmp_path / "run" / "generator.pt"
    good = torch.load(path, weights_only=True)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def output():
        read = read_generator(path)
        generator, teacher = read.build()
        return generator.state_dict(), teacher.model(images)

    wanted = output()
    refused = 0
    for place, value in tampered(good, ()):
        if place == ("spec",) and value is None:  # a generator of a user's own model, which is to be given
            continue
        torch.save(with_field(good, place, value), path)
        case = f"{place}: {value!r}"
        try:
            found = output()
        except ValueError as error:
            assert str(path) in str(error) and named(place, str(error)), case
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(case) from error
        assert torch.equal(found[1], wanted[1]), case
        assert all(torch.equal(found[0][name], tensor) for name, tensor in wanted[0].items()), case
    assert refused > 40
