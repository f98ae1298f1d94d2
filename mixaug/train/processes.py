"""Training in several processes, as ``torchrun`` starts them: which one this is, and what they tell each other."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from mixaug.train.settings import TrainSettings

__all__ = [
    "ALONE",
    "Processes",
    "keep_freed_memory",
    "peak_memory",
    "reset_peak_memory",
    "run_device",
    "slow_precision",
    "this_process",
]


try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


_Value = TypeVar("_Value")
#: The others wait so long for the first one, which alone measures the validation part. Of a process that dies, torchrun
#: stops the others itself.
_PATIENCE = timedelta(hours=12)
#: What DistributedDataParallel calls the sending of buffers before each pass; before torch 2.15 the second name.
_SENDING = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel.__init__).parameters
)


@dataclass(frozen=True)
class Processes:
    """The processes that make a run together; all methods but ``share`` are called by each of them at the same place.

    Convention:
        A batch is cut into slices of the same size, one for each process; each computes the gradient of its slice, and
        all take the step of the mean (``DistributedDataParallel``). So a step is of as many images as in one process,
        and steps, epochs and learning rates mean the same. Crops, mixtures and attacks are drawn by each process for
        its own slice, by the first one from the numbers of a single process. Partners for mixing are of the slice.

        Batch norms take the statistics of the slice; their running averages are averaged over the processes after each
        step, so that all have the same model. The first process alone measures the validation part and writes files.

        With one process nothing here does anything.

    Args:
        rank: number of this process, from 0.
        count: of processes.
        local_rank: number of this process among those of its machine: it takes the GPU of this number.

    Example:
        >>> Processes(rank=1, count=2, local_rank=1).share(torch.arange(8), batch_size=4).tolist()
        [2, 3, 6, 7]
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which measures, writes and shows."""
        return self.rank == 0

    def check(self, settings: TrainSettings) -> None:
        """Raises unless the settings can be those of so many processes.

        Args:
            settings: of the run.

        Raises:
            ValueError: a batch that cannot be cut, or whose slices are too small for the method.

        Example:
            >>> from mixaug.train.settings import TrainSettings
            >>> Processes(count=3).check(TrainSettings(batch_size=128))
            Traceback (most recent call last):
            ValueError: batch_size must be a multiple of the number of processes, 3, got 128
        """
        if self.count == 1:
            return
        self.check_batch(settings.batch_size)
        each = settings.batch_size // self.count
        if settings.n_mix is not None and settings.n_mix > each:
            raise ValueError(
                f"n_mix must be at most a process's slice of batch_size, {each} of {settings.batch_size}, "
                f"got {settings.n_mix}"
            )

    def check_batch(self, batch_size: int, what: str = "") -> None:
        """Raises unless a batch can be cut.

        Args:
            batch_size: of all processes together.
            what: to be said of it at the end of the message.
        """
        if batch_size % self.count:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, {self.count}, got {batch_size}{what}"
            )
        if self.count > 1 and batch_size < 2 * self.count:
            raise ValueError(
                f"batch_size must be at least 2 for each of the {self.count} processes, got {batch_size}{what}"
            )

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """The processes can talk meanwhile; a group that is there already is used, and left.

        Args:
            device: of this process.
        """
        if self.count == 1 or dist.is_initialized():
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Gradients go from GPU to GPU; flags and rows between the hosts, without waiting for the GPUs.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        yield
        # Not after an error: NCCL would wait here for the processes that know nothing of it.
        dist.destroy_process_group()

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """The first process of each machine goes in first; the others follow when it is out."""
        if self.local_rank:
            self.any(False)
        yield
        if not self.local_rank:
            self.any(False)

    def wrapped(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model whose backward pass averages the gradients, from the first process's weights on.

        Args:
            model: the classifier on its device.
            device: of this process.
        """
        if self.count == 1:
            return model
        # Buffers are not sent before each pass: that would write to them between the passes of one step (TRADES and
        # AdAutoMix have several), and what evaluation mode sees in an attack would still differ between processes.
        still: dict[str, Any] = {_SENDING: False}
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, **still)

    def share(self, order: Tensor, batch_size: int) -> Tensor:
        """This process's slices of the batches of an order.

        Args:
            order: positions, a multiple of ``batch_size`` of them.
            batch_size: of all processes together, a multiple of their number.
        """
        each = batch_size // self.count
        return order.view(-1, batch_size)[:, self.rank * each : (self.rank + 1) * each].reshape(-1)

    def any(self, *flags: bool) -> list[bool]:
        """Whether a flag is set in any process, for each flag."""
        if self.count == 1:
            return list(flags)
        seen = torch.tensor(flags, dtype=torch.int32)
        _reduce(seen, dist.ReduceOp.MAX)
        return [bool(value) for value in seen.tolist()]

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes; the argument is left as it is."""
        if self.count == 1:
            return values
        values = values.clone()
        _reduce(values)
        return values

    def from_first(self, value: _Value) -> _Value:
        """The first process's value."""
        if self.count == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, device=torch.device("cpu"))
        return held[0]

    def gathered(self, value: _Value) -> list[_Value]:
        """The values of all processes, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def average_statistics(self, model: nn.Module) -> None:
        """Averages the running statistics of batch norms that are in training mode.

        Other buffers are constants, and a mean of three equal numbers can differ from them by a rounding.

        Args:
            model: the classifier, not wrapped.
        """
        if self.count == 1:
            return
        norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.training]
        found = [(norm.running_mean, norm.running_var) for norm in norms]
        buffers = [buffer for pair in found for buffer in pair if buffer is not None]
        if not buffers:
            return
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        _reduce(flat)
        flat /= self.count
        for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))


def _reduce(values: Tensor, operation: Any = dist.ReduceOp.SUM) -> None:
    """In place, over the processes; on the CPU it ends when gloo's thread has let go of the tensor.

    That thread may drop it later than the call returns, and asks for the interpreter's lock then. In a process that
    ends in the meantime it finds none and aborts ("terminate called without an active exception"): 1 of 80 processes on
    a busy core, after all work was done. ``destroy_process_group`` does not join the thread once there was a
    DistributedDataParallel (torch 2.8 to 2.15).
    """
    dist.all_reduce(values, operation)
    while values.device.type == "cpu" and values._use_count() > 1:  # type: ignore[attr-defined]
        time.sleep(0)


#: One process, the usual case.
ALONE = Processes()


def this_process(environment: Mapping[str, str] | None = None) -> Processes:
    """Which of ``torchrun``'s processes this is; outside of it the only one.

    Args:
        environment: with ``WORLD_SIZE``, ``RANK`` and ``LOCAL_RANK``; None: that of the process.

    Raises:
        ValueError: several processes without their numbers.

    Example:
        >>> this_process({}).count
        1
        >>> this_process({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"})
        Processes(rank=1, count=2, local_rank=1)
    """
    environment = os.environ if environment is None else environment
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    if environment.get("WORLD_SIZE", "1") == "1":
        return ALONE
    try:
        count, rank, local_rank = (int(environment[name]) for name in names)
    except (KeyError, ValueError):
        found = ", ".join(f"{name}={environment.get(name)!r}" for name in names)
        raise ValueError(
            f"WORLD_SIZE, RANK and LOCAL_RANK must be numbers, as torchrun sets them, got {found}"
        ) from None
    return Processes(rank, count, local_rank)


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


def slow_precision(device: torch.device, amp: str) -> str | None:
    """Why a lower precision would cost time here instead of saving it; None where it would not.

    Args:
        device: of the run.
        amp: ``"off"``, ``"bf16"`` or ``"fp16"``.

    Example:
        >>> slow_precision(torch.device("cpu"), "off") is None
        True
    """
    if amp == "off" or device.type != "cpu" or (amp == "bf16" and _has_bfloat16()):
        return None
    return (
        f"Note: this processor has no instructions for {amp}, so --amp {amp} is slower than float32 here (8 times with "
        "bf16 and AVX2). On a CPU leave it off."
    )


def _has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 numbers."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch's own question; not in every version
    if supported is not None and platform.machine().lower() in ("x86_64", "amd64"):
        return bool(supported())
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return True  # not known: Apple's have them
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def keep_freed_memory() -> bool:
    """Has glibc keep freed blocks for the next batch; else it gives them back to the system after each, and asks again.

    It is a setting of the whole process, so the commands alone choose it. ``MALLOC_TRIM_THRESHOLD_`` in the
    environment, glibc's own name, goes before it.

    Returns:
        whether it is set: not with another C library.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return False
    trim, map_above = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    return bool(mallopt(trim, 1 << 30)) and bool(mallopt(map_above, 32 << 20))  # the most that glibc takes
