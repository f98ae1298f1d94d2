"""CUDA sources built as C++ for the CPU, with the shim of cuda_on_cpu.h."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from paths import HELPERS, ROOT


def built_on_cpu(folder: Path, name: str) -> ctypes.CDLL:
    """``csrc/NAME.cu`` as a library in the folder; skips the test where no compiler is."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    target = folder / f"{name}_on_cpu.so"
    command = [compiler, "-std=c++20", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DMIXAUG_CUDA_ON_CPU"]
    command += [f"-I{HELPERS}", f"-I{ROOT / 'mixaug_ext' / 'csrc'}", "-x", "c++"]
    command += [str(ROOT / "mixaug_ext" / "csrc" / f"{name}.cu"), "-o", str(target)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(str(target))
