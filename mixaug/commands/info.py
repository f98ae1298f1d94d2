"""``mixaug info``: versions, devices, which compiled parts are active and why not."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mixaug", "torch", "torchvision", "kornia", "numba", "numpy", "pillow")
EXTRAS = {
    "train": ("torchmetrics", "matplotlib", "rich", "tensorboard", "scikit-learn"),
    "attacks": ("pyautoattack",),
    "timm": ("timm",),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Prints the lines of :func:`describe`."""
    width = max(len(name) for name, _ in describe())
    sys.stdout.writelines(f"{name:<{width}}  {value}\n" for name, value in describe())
    return 0


def describe() -> list[tuple[str, str]]:
    """What is installed and active, as pairs of a name and a value.

    Example:
        >>> dict(describe())["mixaug"] == version("mixaug")
        True
    """
    import torch

    import mixaug_ext
    from mixaug.mixing_sets.cache import cache_folder

    lines = [("python", f"{platform.python_version()} on {platform.platform()}")]
    lines += [(name, _version(name)) for name in PACKAGES]
    for extra, names in EXTRAS.items():
        missing = [name for name in names if _version(name) == "not installed"]
        state = f'missing {", ".join(missing)} (pip install "mixaug[{extra}]")' if missing else "installed"
        lines.append((f"extra {extra}", state))
    lines.append(("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            lines.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory >> 30} GiB"))
    else:
        built = torch.version.cuda
        lines.append(("cuda", f"no device (torch built for CUDA {built})" if built else "torch built without CUDA"))
    lines += list(mixaug_ext.status().items())
    lines.append(("cache", str(cache_folder())))
    return lines


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
