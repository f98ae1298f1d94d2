"""Small data for the training tests, stripes whose direction is the class under noise, and how runs are made of it."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.utils.data import Dataset

import mixaug.train.loop as loop
from mixaug.train.checkpoint import read_checkpoint
from mixaug.train.images import ImageTensors as Part
from mixaug.train.loop import train
from mixaug.train.settings import TrainSettings

#: 3 steps an epoch, 3 epochs.
BASE = {"model": "lenet5", "batch_size": 32, "epochs": 3, "lr": 0.05, "device": "cpu"}


class MapStyle(Dataset):
    """The same part as a map-style data set, as load_data returns folders too large for memory."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.part.images[index], int(self.part.labels[index])


class Untouchable:
    """A test part: whoever looks at it fails."""

    def __len__(self) -> int:
        return 40

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"training looked at {name} of the test part")

    def __getitem__(self, index: int) -> object:
        raise AssertionError("training looked at an image of the test part")


def stripes(count: int, channels: int, seed: int, side: int = 16) -> Part:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    row, column = torch.arange(side)[:, None], torch.arange(side)[None]
    patterns = torch.stack(
        [(row % 4 < 2).expand(side, side), (column % 4 < 2).expand(side, side), (row + column) % 4 < 2]
    )
    noise = torch.randint(0, 120, (count, channels, side, side), generator=generator)
    return Part((patterns[labels][:, None] * 110 + noise).to(torch.uint8), labels)


def parts(train: int = 96, validation: int = 30, channels: int = 1, map_style: bool = False):
    made = [stripes(train, channels, 0), stripes(validation, channels, 1)]
    if map_style:
        made = [MapStyle(part) for part in made]
    return SimpleNamespace(
        train=made[0],
        validation=made[1],
        test=Untouchable(),
        classes=("rows", "columns", "diagonals"),
        name="stripes",
        channels=channels,
        image_size=16,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def settings(out, **values):
    return TrainSettings(**{**BASE, "method": "standard", "out": str(out), **values})


def fit(chosen, data=None, **options):
    return train(chosen, parts() if data is None else data, progress=False, **options)


def same_weights(first, second):
    one, two = read_checkpoint(first)["model"], read_checkpoint(second)["model"]
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def timeless(history):
    of_the_machine = {"images_per_second", "seconds", "epoch_seconds", "validation_seconds", "peak_memory"}
    return [{name: value for name, value in row.items() if name not in of_the_machine} for row in history]


def stop_after(monkeypatch, steps, number=signal.SIGINT):
    """Ctrl-C, or another signal, during the given step, as the terminal or a scheduler sends it."""
    original, done = loop.Run._optimise, [0]

    def optimise(self, images, labels):
        done[0] += 1
        if done[0] == steps:
            os.kill(os.getpid(), number)
        return original(self, images, labels)

    monkeypatch.setattr(loop.Run, "_optimise", optimise)
