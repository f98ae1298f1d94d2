"""Training mixed with further pictures, such as generated ones: a share of each epoch comes from them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mixaug.train.batches import derived_seed, epoch_order
from mixaug.train.images import MixedPart, scan

if TYPE_CHECKING:
    from mixaug.train.data import DataParts
    from mixaug.train.settings import TrainSettings

__all__ = ["mixed_order", "training_order", "with_extra"]


def mixed_order(count: int, extra: int, share: float, seed: int, epoch: int) -> Tensor:
    """The order of an epoch of mixed pictures, a function of seed and epoch alone.

    Convention: ``round(share * count)`` positions are of extra pictures, the others of own ones, each without
    repetition as far as there are enough.

    Args:
        count: own images, and positions of an epoch.
        extra: extra pictures, whose positions follow the own ones'.
        share: of the extra ones, in (0, 1].
        seed: of the run.
        epoch: from 0.

    Returns:
        ``(count,)`` int64.

    Example:
        >>> order = mixed_order(10, 4, share=0.7, seed=0, epoch=0)
        >>> len(order), int((order >= 10).sum()), order[order >= 10].unique().numel()
        (10, 7, 4)
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "extra", epoch))
    wanted = round(share * count)
    rounds = [torch.randperm(extra, generator=generator) for _ in range(-(-wanted // extra))]
    chosen = torch.cat(
        [torch.randperm(count, generator=generator)[: count - wanted], torch.cat(rounds)[:wanted] + count]
    )
    return chosen[torch.randperm(count, generator=generator)]


def training_order(part: Any, count: int, settings: TrainSettings, epoch: int) -> Tensor:
    """The order of an epoch of any training part.

    Args:
        part: the training images, mixed with extra ones or not.
        count: positions of an epoch.
        settings: of the run.
        epoch: from 0.

    Returns:
        ``(count,)`` int64.
    """
    if isinstance(part, MixedPart):
        return mixed_order(count, part.extra_count, cast(float, settings.extra_share), settings.seed, epoch)
    return epoch_order(count, settings.seed, epoch)


def with_extra(data: DataParts, path: str) -> DataParts:
    """The data set with a training part that is mixed with a folder's pictures, resized to its side.

    Args:
        data: the data set.
        path: a tree with a folder for each class, of the same names, not necessarily of all.

    Returns:
        the data set; validation, test, mean and standard deviation are its own.

    Raises:
        ValueError: the folder has a class that the data set has not, no pictures, or one of the validation or test
            part.
        FileNotFoundError: there is no such folder.
    """
    source, _, _, classes = scan(Path(path).expanduser())
    unknown = sorted(set(classes) - set(data.classes))
    if unknown:
        known = ", ".join(data.classes)
        raise ValueError(f"extra_data must have folders of the data set's classes ({known}), got {', '.join(unknown)}")
    held_out = {os.path.realpath(path) for path in data.held_out}
    shared = [path for path in source.paths if os.path.realpath(path) in held_out]
    if shared:
        raise ValueError(
            "extra_data must not have pictures of the validation or test part, which training would then have seen, "
            f"got {shared[0]}{f' and {len(shared) - 1} more' if len(shared) > 1 else ''}"
        )
    labels = [data.classes.index(name) for name in classes]
    return dataclasses.replace(data, train=MixedPart(data.train, source.load(data.image_size), labels))
