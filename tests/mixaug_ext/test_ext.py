"""The compiled library: found, refused, absent; and installing with and without a compiler."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from paths import ROOT

import mixaug_ext

HAS_NVCC = shutil.which("nvcc") is not None
HAS_COMPILER = shutil.which("g++") is not None or shutil.which("c++") is not None


@pytest.fixture
def fresh_loader(monkeypatch):
    """The loader as in a new process; restored afterwards."""
    caches = (mixaug_ext._load, mixaug_ext._load_cuda, mixaug_ext.warn_without)
    for cached in caches:
        cached.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )


def test_library_is_active_where_a_compiler_was_there():
    if not HAS_COMPILER:
        pytest.skip("no compiler here")
    assert mixaug_ext.why_not() == "" and mixaug_ext.library().mixaug_abi() == mixaug_ext.ABI
    assert mixaug_ext.status()["ipmix (C++, CPU)"] == "active"


def test_switched_off_by_the_environment(fresh_loader):
    fresh_loader.setenv("MIXAUG_NO_EXT", "1")
    assert mixaug_ext.library() is None
    assert "MIXAUG_NO_EXT" in mixaug_ext.why_not() and "inactive" in mixaug_ext.status()["ipmix (C++, CPU)"]


def test_not_built(fresh_loader, tmp_path):
    fresh_loader.setattr(mixaug_ext, "__file__", str(tmp_path / "__init__.py"))
    assert mixaug_ext.library() is None and "not built" in mixaug_ext.why_not()


def test_broken_library_is_refused(fresh_loader, tmp_path):
    (tmp_path / "_kernels.so").write_bytes(b"not a library")
    fresh_loader.setattr(mixaug_ext, "__file__", str(tmp_path / "__init__.py"))
    assert mixaug_ext.library() is None and "could not be loaded" in mixaug_ext.why_not()


def test_library_of_another_interface_is_refused(fresh_loader):
    if mixaug_ext.library() is None:
        pytest.skip("no compiled library")
    mixaug_ext._load.cache_clear()
    fresh_loader.setattr(mixaug_ext, "ABI", mixaug_ext.ABI + 1)
    assert mixaug_ext.library() is None and "install mixaug again" in mixaug_ext.why_not()


def test_call_without_the_library_says_so(fresh_loader, images):
    from mixaug_ext._ipmix import ipmix

    fresh_loader.setenv("MIXAUG_NO_EXT", "1")
    with pytest.raises(RuntimeError, match="needs the compiled library"):
        ipmix(images, images, images, {}, side=8, mixed_input=False, threads=1)


def test_fallback_gives_the_same_bits_and_says_so_once():
    code = """
import sys, warnings, torch, mixaug_ext
if HIDE:
    mixaug_ext.__file__ = "/nowhere/__init__.py"
from mixaug import IPMix, MixingSet
generator = torch.Generator().manual_seed(0)
pictures = MixingSet.from_tensor(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator))
ipmix = IPMix(mixing_set=pictures, generator=torch.Generator().manual_seed(1))
images = torch.rand(6, 3, 33, 47, generator=torch.Generator().manual_seed(2))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    total = sum(float(ipmix(images).double().sum()) for _ in range(3))
print(repr(total), len([w for w in caught if "kernels are not in use" in str(w.message)]))
"""
    compiled = python(code.replace("HIDE", "False"))
    hidden = python(code.replace("HIDE", "True"))
    off = python(code.replace("HIDE", "False"), MIXAUG_NO_EXT="1")
    assert compiled.returncode == hidden.returncode == off.returncode == 0, compiled.stderr + hidden.stderr + off.stderr
    total, warned = compiled.stdout.split()
    assert hidden.stdout.split() == [total, "1"]  # says so once
    assert off.stdout.split() == [total, "0"]  # asked for: no warning
    assert warned == ("0" if mixaug_ext.library() is not None else "1")


def test_import_is_light():
    """`import mixaug` loads none of the heavy parts; they come when they are used."""
    heavy = ["numba", "kornia", "matplotlib", "torchmetrics", "tensorboard", "sklearn", "rich", "scipy"]
    code = f"""
import sys, torch, torchvision.transforms.v2
before = set(sys.modules)
import mixaug
print([name for name in {heavy} if name in sys.modules and name not in before])
"""
    result = python(code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def build(target: Path, *command: str, fails: bool = False, **environment: str) -> str:
    """Runs a build of a copy of the sources, so that the working tree is left alone; its output."""
    pytest.importorskip("setuptools", minversion="77")  # what pyproject.toml asks of an isolated build
    copy = target / "sources"
    tracked = ["mixaug", "mixaug_ext", "pyproject.toml", "setup.py", "README.md", "LICENSE"]
    copy.mkdir()
    for name in tracked:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignore)
        elif source.exists():
            shutil.copy(source, copy / name)
    result = subprocess.run(
        [sys.executable, *command], cwd=copy, capture_output=True, text=True, env=os.environ | environment, timeout=300
    )
    assert (result.returncode != 0) == fails, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.slow
def test_sdist_and_wheel_hold_what_is_needed(tmp_path):
    pytest.importorskip("build")
    # --no-isolation: the same build, without a download in the tests; setuptools comes with the environment.
    build(tmp_path, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"py3-none-{platform}.whl")  # one build for every Python and torch
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"mixaug/py.typed", "mixaug_ext/py.typed", "mixaug_ext/csrc/ipmix.cpp"} <= names
    assert any(name.startswith("mixaug_ext/_kernels") for name in names) == HAS_COMPILER
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
    with tarfile.open(sdist) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"mixaug_ext/csrc/ipmix.cpp", "mixaug_ext/csrc/composite.cu", "mixaug_ext/csrc/composite.h"} <= held
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= held


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sets a Unix compiler")
def test_builds_without_a_compiler(tmp_path):
    # Some sysconfigs name the linker apart from CC and CXX; all of them fail here.
    broken = dict.fromkeys(("CC", "CXX", "LDSHARED", "LDCXXSHARED"), "/bin/false")
    output = build(tmp_path, "setup.py", "-q", "build", **broken)
    built = [path for path in (tmp_path / "sources" / "build").rglob("_kernels*") if path.suffix in (".so", ".dll")]
    assert not built and "_kernels" in output  # it says what could not be built
    assert (tmp_path / "sources" / "build").exists()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_NVCC, reason="no nvcc here")
def test_force_cuda_builds_without_a_gpu(tmp_path):
    # One architecture is enough here: the default, all of them, takes a minute.
    # The C++ library, which this is not about, takes 15 seconds more.
    no_cxx = dict.fromkeys(("CC", "CXX", "LDSHARED", "LDCXXSHARED"), "/bin/false")
    build(tmp_path, "setup.py", "-q", "build", FORCE_CUDA="1", MIXAUG_CUDA_ARCH="sm_90", **no_cxx)
    (built,) = (tmp_path / "sources" / "build").rglob("_cuda.so")
    lib = ctypes.CDLL(str(built))
    assert lib.mixaug_cuda_abi() == mixaug_ext.ABI and lib.mixaug_composite_cuda
    lib.mixaug_cuda_error.restype = ctypes.c_char_p
    code = lib.mixaug_cuda_probe(0)
    if not torch.cuda.is_available():
        assert code and lib.mixaug_cuda_error(code)  # refused with a reason, not with a crash


@pytest.mark.slow
@pytest.mark.skipif(Path("/usr/local/cuda/bin/nvcc").exists(), reason="nvcc is found whatever the PATH is")
@pytest.mark.skipif(Path("/usr/bin/nvcc").exists(), reason="nvcc lies beside the C++ compiler")
def test_force_cuda_without_nvcc_fails_and_says_why(tmp_path):
    environment = {"FORCE_CUDA": "1", "PATH": "/usr/bin:/bin", "CUDA_HOME": "/nowhere", "CUDA_PATH": ""}
    assert "needs nvcc" in build(tmp_path, "setup.py", "-q", "build", fails=True, **environment)


def test_cuda_library_is_looked_for_but_not_used_without_a_gpu(fresh_loader, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert mixaug_ext.cuda_library() is None and mixaug_ext.why_no_cuda()
    mixaug_ext._load_cuda.cache_clear()
    (tmp_path / "_cuda.so").write_bytes(b"not a library")
    fresh_loader.setattr(mixaug_ext, "__file__", str(tmp_path / "__init__.py"))
    assert "could not be loaded" in mixaug_ext.why_no_cuda()
    assert "could not be loaded" in mixaug_ext.status()["box compositing (CUDA)"]


def test_missing_library_is_said_once_and_not_when_asked_for(fresh_loader, tmp_path):
    fresh_loader.setattr(mixaug_ext, "__file__", str(tmp_path / "__init__.py"))
    with pytest.warns(UserWarning, match=r"C\+\+ kernels are not in use \(not built"):
        mixaug_ext.warn_without()
    mixaug_ext.warn_without()  # a second warning would be an error here
    mixaug_ext.warn_without.cache_clear()
    mixaug_ext._load.cache_clear()
    fresh_loader.setenv("MIXAUG_NO_EXT", "1")
    mixaug_ext.warn_without()
