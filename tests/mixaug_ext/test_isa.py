"""The C++ kernels make the same bits with each instruction set, and MIXAUG_ISA chooses one."""

import os
import subprocess
import sys

import pytest
from paths import HELPERS

import mixaug_ext

compiled = pytest.mark.skipif(mixaug_ext.library() is None, reason="the C++ kernels are not built")


def run(isa, *command):
    environment = {name: value for name, value in os.environ.items() if name != "MIXAUG_ISA"}
    environment |= {} if isa is None else {"MIXAUG_ISA": isa}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


@compiled
def test_each_instruction_set_makes_the_same_bits():
    results = [run(isa, str(HELPERS / "isa_script.py")) for isa in mixaug_ext.ISAS]
    assert [each.returncode for each in results] == [0] * 3, results[0].stderr + results[1].stderr
    lines = results[0].stdout.splitlines()
    assert len(lines) > 80 and all(each.stdout.splitlines() == lines for each in results)
    widest = mixaug_ext.ISAS.index(run(None, "-c", "import mixaug_ext; print(mixaug_ext.isa())").stdout.strip())
    used = [each.stderr.strip() for each in results]
    assert used == [mixaug_ext.ISAS[min(k, widest)] for k in range(3)]  # one that is not there is not used


def test_an_unknown_instruction_set_is_an_error():
    done = run("avx1024", "-c", "import mixaug_ext; mixaug_ext.library()")
    assert "ValueError: MIXAUG_ISA must be one of generic, avx2, avx512, got 'avx1024'" in done.stderr


def test_without_the_library_there_is_none(monkeypatch):
    monkeypatch.setattr(mixaug_ext, "library", lambda: None)
    assert mixaug_ext.isa() == "none"
