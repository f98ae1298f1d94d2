"""Batches of a part of a data set in a given order, from memory or from loader workers, and its accuracy."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mixaug._model_state import evaluation_mode
from mixaug.train.images import in_memory

__all__ = ["accuracy", "batches", "derived_seed", "epoch_order"]


def derived_seed(seed: int, *names: object) -> int:
    """A seed for one purpose, far from those of other purposes and other seeds.

    Example:
        >>> derived_seed(0, "order", 1) != derived_seed(0, "order", 2) != derived_seed(1, "order", 2)
        True
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch, a function of seed and epoch alone: a run resumed within an epoch finds it again.

    Args:
        count: number of images.
        seed: of the run.
        epoch: from 0.

    Returns:
        a permutation, ``(count,)`` int64.

    Example:
        >>> sorted(epoch_order(5, 0, 0).tolist())
        [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


def batches(part: Any, order: Tensor, batch_size: int, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and labels at the positions ``order``, ``batch_size`` at a time.

    Args:
        part: of :func:`~mixaug.train.data.load_data`, or another map-style data set of ``(image, label)``.
        order: positions, int64; the last batch may be smaller.
        batch_size: images a batch.
        workers: processes that load a map-style data set; parts in memory need none.

    Yields:
        images ``(b, C, H, W)`` uint8 and labels ``(b,)`` int64, on the CPU.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> part = TensorDataset(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3))
        >>> [labels.tolist() for _, labels in batches(part, torch.tensor([2, 0, 1]), 2)]
        [[2, 0], [1]]
    """
    tensors = in_memory(part)
    if tensors is not None:
        images, labels = tensors
        for index in order.split(batch_size):
            yield images[index], labels[index]
        return
    positions = [index.tolist() for index in order.split(batch_size)]
    # Loading draws nothing; the generator keeps the loader from drawing its workers' seed from torch's default one,
    # which would tie the run's random numbers to the number of epochs that were loaded.
    yield from DataLoader(
        part,
        batch_sampler=positions,
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_leave_interrupts_to_the_parent,
    )


def _leave_interrupts_to_the_parent(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal, a scheduler's SIGTERM every process of the job; the run ends after
    # its current step and stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def dead_worker_named() -> Iterator[None]:
    """The error of a loader worker that died in the block says so, how, and what to do.

    Raises:
        ChildProcessError: a worker was killed or ended by itself.

    Example:
        >>> with dead_worker_named():
        ...     raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        Traceback (most recent call last):
        ChildProcessError: a loader worker died: DataLoader worker (pid 7) is killed by signal: Killed. (the system \
kills processes when memory runs out: try fewer --workers); what was saved is kept, --resume goes on from there
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[-1] if "DataLoader worker (pid" in str(error) else ""
        if not reason:
            raise
        raise ChildProcessError(
            f"a loader worker died: {reason.strip()} (the system kills processes when memory runs out: try fewer "
            "--workers); what was saved is kept, --resume goes on from there"
        ) from error


@torch.no_grad()
def accuracy(
    model: nn.Module,
    part: Any,
    prepare: Callable[[Tensor], Tensor],
    *,
    batch_size: int = 500,
    workers: int = 0,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[float, float]:
    """Mean cross-entropy and share of right answers on a part, in evaluation mode; the mode is restored.

    Args:
        model: the classifier.
        part: as for :func:`batches`, at least one image.
        prepare: brings a batch of bytes to the model's device, as floats in [0, 1].
        batch_size: images a batch.
        workers: processes that load a map-style data set.
        autocast: makes the context of the forward pass.

    Returns:
        loss and accuracy.
    """
    loss = correct = 0.0
    with evaluation_mode(model):
        for images, labels in batches(part, torch.arange(len(part)), batch_size, workers):
            with autocast():
                logits = model(prepare(images)).float()
            labels = labels.to(logits.device)
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
    return loss / len(part), correct / len(part)
