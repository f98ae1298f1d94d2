"""Batches of a part of a data set in a given order, from memory or from loader workers, and its accuracy."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mixaug._model_state import evaluation_mode
from mixaug._random import drawn_by
from mixaug.train.images import in_memory

__all__ = [
    "CropFlipParams",
    "accuracy",
    "batches",
    "crop_flip",
    "default_padding",
    "derived_seed",
    "epoch_order",
    "sample_crop_flip",
]


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


@dataclass(frozen=True)
class CropFlipParams:
    """What was drawn for a batch; :func:`crop_flip` carries it out.

    Args:
        top: first row of each crop in the padded image, ``(B,)`` int64 in ``[0, 2 padding]``.
        left: first column, likewise.
        flip: whether the crop is mirrored, ``(B,)`` bool.
        padding: pixels of black added on each side before the crop.

    Example:
        >>> sample_crop_flip(5, padding=4).top.shape
        torch.Size([5])
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    padding: int


def default_padding(image_size: int) -> int:
    """An eighth of the side: the field's 4 pixels at 28 and 32, 8 at 64, 28 at 224, 1 for the 8-px digits.

    Example:
        >>> [default_padding(side) for side in (8, 28, 32, 64, 224)]
        [1, 4, 4, 8, 28]
    """
    return (image_size + 4) // 8


def sample_crop_flip(
    batch_size: int, padding: int = 4, flip: bool = True, generator: torch.Generator | None = None
) -> CropFlipParams:
    """Draws places and flips for a batch.

    Convention:
        Each image has its own place, uniform over the ``(2 padding + 1)^2`` possible ones, and its own flip with
        probability 1/2. Drawn on the generator's device; :func:`crop_flip` moves the draw to the images.

    Args:
        batch_size: number of images, 0 or more.
        padding: pixels on each side, 0 or more, default 4. 0: no crop.
        flip: draw flips; False (for digits, whose mirror images are no digits): none. Default True.
        generator: of torch; None: torch's own on the CPU.

    Returns:
        the draw.

    Raises:
        ValueError: a negative batch size or padding.

    Example:
        >>> bool(sample_crop_flip(100, flip=False).flip.any())
        False
    """
    for name, value in (("batch_size", batch_size), ("padding", padding)):
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    device = "cpu" if generator is None else generator.device
    place = torch.randint(0, 2 * padding + 1, (2, batch_size), device=device, **drawn_by(generator))
    # Drawn also when it is not used: turning flips off leaves the crops of a seed as they were.
    mirrored = torch.rand(batch_size, device=device, dtype=torch.float32, **drawn_by(generator)) < 0.5
    return CropFlipParams(place[0], place[1], mirrored & flip, padding)


def crop_flip(images: Tensor, params: CropFlipParams) -> Tensor:
    """Pads each image with black, crops it back to its size at its own place and mirrors it where drawn.

    Convention:
        One gather for the batch; the pixels are copied, never interpolated.

    Args:
        images: the batch; not written to.
        params: of :func:`sample_crop_flip` for this batch size.

    Shape:
        ``(B, C, H, W)`` of any dtype, also for the result, which keeps the device and the memory format.

    Returns:
        the crops.

    Raises:
        ValueError: not a batch of images, or params of another batch size.

    Example:
        >>> images = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> still = CropFlipParams(torch.tensor([1]), torch.tensor([1]), torch.tensor([True]), padding=1)
        >>> crop_flip(images, still).flatten().tolist()
        [1.0, 0.0, 3.0, 2.0]
    """
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    if len(params.top) != len(images):
        raise ValueError(f"params must be of the batch size {len(images)}, got {len(params.top)}")
    batch, _, height, width = images.shape
    device, pad = images.device, params.padding
    top, left, flip = (drawn.to(device, non_blocking=True)[:, None] for drawn in (params.top, params.left, params.flip))
    columns = torch.arange(width, device=device)
    rows = torch.arange(height, device=device) + top
    columns = torch.where(flip, width - 1 - columns, columns) + left
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    rank = torch.arange(batch, device=device)[:, None, None]
    # Two indexed axes with a slice between: the result is (B, H, W, C), which is channels_last for free.
    crops = padded[rank, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return crops.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
