"""Where and how long an evaluation runs, and a model that comes back as it was."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata

import torch
from torch import nn


def home_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer, the CPU for a model without any."""
    return next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


@contextmanager
def on_device(model: nn.Module, home: torch.device, place: torch.device) -> Iterator[None]:
    """Moves the model to ``place``, and back ``home`` at the end."""
    if place == home:
        yield
        return
    model.to(place)
    try:
        yield
    finally:
        model.to(home)


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Keeps a foreign attack's ``loss.backward()`` out of the model's own gradients."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Notes how long the block took."""
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 3)


# What figures may depend on: pictures, filters and foreign attacks.
_PACKAGES = ("torchvision", "numpy", "pillow", "kornia", "pyautoattack", "scikit-learn")


def environment(device: torch.device) -> dict[str, str]:
    """Versions, machine and time of an evaluation."""
    import mixaug

    return {
        "mixaug": mixaug.__version__,
        "torch": torch.__version__,
        **{name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
