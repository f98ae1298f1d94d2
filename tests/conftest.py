"""Shared by all tests: one cache folder a run (shared by the processes of xdist), and a small mixing set."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile

import pytest
import torch
from torch.overrides import TorchFunctionMode

# Before mixaug is imported: no test reads or writes the user's own cache. The processes of xdist, and a pytest that a
# test starts, inherit the folder of the first, which removes it at the end.
_FIRST = "MIXAUG_TESTS_CACHE" not in os.environ
if _FIRST:
    os.environ["MIXAUG_TESTS_CACHE"] = tempfile.mkdtemp(prefix="mixaug-tests-")
os.environ["MIXAUG_CACHE"] = os.environ["MIXAUG_TESTS_CACHE"]
_TESTS = os.path.dirname(__file__) + os.sep

# A shell starts what runs in its background with Ctrl-C ignored, and every child inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _FIRST:  # after all workers
        shutil.rmtree(os.environ["MIXAUG_TESTS_CACHE"], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--default-dtype", default="float32", help="torch's default dtype while code of mixaug runs")


class _Float32InTests(TorchFunctionMode):
    """Runs what a test itself asks of torch under float32: its inputs have the dtype they always had."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if not sys._getframe(1).f_code.co_filename.startswith(_TESTS):
            return func(*args, **(kwargs or {}))
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _default_dtype(request: pytest.FixtureRequest):
    """The default dtype of ``--default-dtype`` during each test."""
    name = request.config.getoption("--default-dtype")
    if name == "float32":
        yield
        return
    torch.set_default_dtype(getattr(torch, name))
    try:
        with _Float32InTests():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def pictures():
    """Eight random pictures as a MixingSet: enough where what they show does not matter."""
    from mixaug import MixingSet

    generator = torch.Generator().manual_seed(5)
    return MixingSet.from_tensor(torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=generator))


@pytest.fixture
def images():
    """Five RGB images of 33x47 pixels, float32 in [0, 1]."""
    return torch.rand(5, 3, 33, 47, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fake_cuda():
    """Skips where this torch cannot draw fake CUDA tensors without a driver (2.8 asks for the device)."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            torch.rand(2, device="cuda").as_subclass(torch.Tensor)
    except RuntimeError as error:
        pytest.skip(f"no fake CUDA tensors here: {str(error).splitlines()[0]}")
