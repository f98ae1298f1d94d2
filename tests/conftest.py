"""Shared by all tests: one cache folder a run (shared by the processes of xdist), and a small mixing set."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch

# Before mixaug is imported: no test reads or writes the user's own cache.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"single-{os.getpid()}")
_CACHE = Path(tempfile.gettempdir()) / f"mixaug-tests-{_RUN}"
os.environ["MIXAUG_CACHE"] = str(_CACHE)

# A shell starts what runs in its background with Ctrl-C ignored, and every child inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # the controller, after all workers
        shutil.rmtree(_CACHE, ignore_errors=True)


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
