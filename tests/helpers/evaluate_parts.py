"""Small models and images for the tests of evaluate_model, and reports without their times."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from mixaug.evaluate import Report

#: Nothing but the clean images; parts are added by name.
BARE: dict[str, Any] = {"attacks": None, "corruptions": None, "audit": False}


def pictures(n: int = 12, channels: int = 3, side: int = 8, seed: int = 0) -> Tensor:
    """(n, channels, side, side) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=generator)


def net(classes: int = 3, channels: int = 3, side: int = 8, seed: int = 0) -> nn.Sequential:
    """Convolution, batch norm, linear layer; random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(4 * (side - 2) ** 2, classes),
        )


def labelled(model: nn.Module, images: Tensor, wrong: int = 2) -> tuple[Tensor, Tensor]:
    """The images with the labels that the model gives them, but for the first ``wrong``."""
    modes = [part.training for part in model.modules()]
    with torch.no_grad():
        logits = model.eval()(images.float() / 255)
    for part, mode in zip(model.modules(), modes, strict=True):
        part.training = mode
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return images, labels


class Counting(nn.Module):
    """Counts the images that its model gets, and can fail or die at one of its calls."""

    def __init__(self, model: nn.Module, fail_at: int = 0, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.model = model
        self.calls = 0
        self.images = 0
        self._fail_at = fail_at
        self._error = error

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.images += len(images)
        if self.calls == self._fail_at:
            raise self._error("the model stopped")
        return self.model(images)


def timeless(report: Report) -> str:
    """All that a report consists of but its times, as text: where it is equal, so are all figures, to the bit."""
    versions = {name: version for name, version in report.environment.items() if name != "time"}
    outcomes, examples = report.to_json()["outcomes"], report.to_json()["examples"]
    audit = None if report.audit is None else report.audit.to_json()
    parts = [report.name, report.settings, report.classes, report.left_out, report.notices]
    return json.dumps([*parts, versions, outcomes, examples, audit], sort_keys=True)
