"""What a run asks of the processor and of the C library that it finds."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest
import torch
from train_parts import parts, settings

from mixaug.train import processes
from mixaug.train.loop import train


@pytest.mark.parametrize("amp,supported,slow", [
    ("off", False, False), ("bf16", True, False), ("bf16", False, True), ("fp16", True, True),
])  # fmt: skip
def test_a_precision_that_costs_time_is_named(monkeypatch, amp, supported, slow):
    monkeypatch.setattr(processes, "_has_bfloat16", lambda: supported)
    note = processes.slow_precision(torch.device("cpu"), amp)
    assert (note is not None) == slow and processes.slow_precision(torch.device("cuda"), amp) is None
    assert note is None or f"no instructions for {amp}" in note


def test_a_run_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "_has_bfloat16", lambda: False)
    train(settings(tmp_path, amp="bf16", epochs=2), parts(), progress=True)
    assert capsys.readouterr().err.count("so --amp bf16 is slower than float32 here") == 1


def test_bfloat16_is_looked_for():
    if platform.machine() != "x86_64" or not os.path.exists("/proc/cpuinfo"):
        pytest.skip("the flags are those of Linux on x86-64")
    with open("/proc/cpuinfo") as file:
        assert processes._has_bfloat16() == ("avx512_bf16" in file.read())


MALLOC = "from mixaug.train.processes import keep_freed_memory as keep; print(keep())"


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    def run(**environment):
        command = [sys.executable, "-c", MALLOC]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert run() == str(platform.libc_ver()[0] == "glibc")
    assert run(MALLOC_TRIM_THRESHOLD_="131072") == "False"  # the user's own choice

    def none(_):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", none)
    assert processes.keep_freed_memory() is False
