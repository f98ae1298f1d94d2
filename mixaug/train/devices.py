"""The device of a run, and how much of its memory the run takes."""

from __future__ import annotations

import sys

import torch

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

from mixaug.train.processes import ALONE, Processes
from mixaug.train.settings import TrainSettings

__all__ = ["peak_memory", "reset_peak_memory", "run_device"]


def run_device(settings: TrainSettings, processes: Processes = ALONE) -> torch.device:
    """The device that the settings name: by default a GPU where there is one.

    Convention: of several processes on a machine each takes the GPU of its own number.

    Args:
        settings: of the run.
        processes: that make the run together.

    Raises:
        ValueError: there is no such device or not one for each process, or it cannot compute in the settings'
            precision.

    Example:
        >>> run_device(TrainSettings(device="cpu"))
        device(type='cpu')
    """
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be a name such as cpu or cuda:0, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be present, got {name!r} and no GPU that this torch can use")
    if settings.amp == "fp16" and device.type == "cpu":
        raise ValueError("amp must be bf16 or off on a CPU, got 'fp16'")
    return device if processes.count == 1 else _of_process(device, processes)


def _of_process(device: torch.device, processes: Processes) -> torch.device:
    if device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise ValueError(f"device must be cpu, or cuda without a number, for several processes, got '{device}'")
    count = torch.cuda.device_count()
    if processes.local_rank >= count:
        raise ValueError(
            f"device must be cpu, or there must be a GPU for each process of a machine, got {count} GPUs and at least "
            f"{processes.local_rank + 1} processes"
        )
    return torch.device("cuda", processes.local_rank)


def reset_peak_memory(device: torch.device) -> None:
    """Begins a new peak on a GPU. A process's own cannot be reset: on a CPU the peak is the highest so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float | None:
    """The most memory in MiB: of torch's tensors on a GPU since the reset, of this process on a CPU so far.

    Args:
        device: of the run.

    Returns:
        MiB; None on systems that do not tell.

    Example:
        >>> peak_memory(torch.device("cpu")) > 10
        True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux KiB
