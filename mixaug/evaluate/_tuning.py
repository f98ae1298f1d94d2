"""The steps of a fine-tuning, made of the training package's parts."""

from __future__ import annotations

import copy
import math
import time
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixaug._model_state import check_logits
from mixaug.nn.head import new_output_layer, output_layers, put_layers
from mixaug.nn.trace import look_at
from mixaug.train.batches import (
    accuracy,
    batches,
    crop_flip,
    default_padding,
    derived_seed,
    epoch_order,
    sample_crop_flip,
)
from mixaug.train.data import DataParts, load_data
from mixaug.train.descent import Descent
from mixaug.train.methods.step import StepResult
from mixaug.train.record import Progress
from mixaug.train.settings import TrainSettings


class Tuning:
    """A model while it is fine-tuned, with its optimiser.

    Args:
        model: on ``place``; it is trained in place.
        new: its new layers.
        data: what it is trained and measured on.
        settings: of the run.
        place: the device.
        probe: train the new layers alone.
    """

    def __init__(
        self,
        model: nn.Module,
        new: list[nn.Module],
        data: DataParts,
        settings: TrainSettings,
        place: torch.device,
        probe: bool,
    ) -> None:
        self.model, self.data, self.settings, self.place = model, data, settings, place
        count = len(cast(Any, data.train))
        self.batch_size = min(settings.batch_size, count)
        self.steps = count // self.batch_size
        self.total_steps = settings.epochs * self.steps
        self.padding = default_padding(data.image_size)
        self.crops = torch.Generator().manual_seed(derived_seed(settings.seed, "crops"))
        self._wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        for parameter, _ in self._wanted:
            parameter.requires_grad_(parameter.is_floating_point() and not probe)
        model.train(not probe)
        for layer in new:
            layer.requires_grad_(True).train()
        self.descent = Descent(model, settings, self.total_steps, self.steps)

    def one_epoch(self, epoch: int, started: float, shown: Progress) -> dict[str, float]:
        """Trains for an epoch, from 0, and measures the validation part."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.place)
        order = epoch_order(len(cast(Any, self.data.train)), self.settings.seed, epoch)[: self.steps * self.batch_size]
        begun, step = time.perf_counter(), epoch * self.steps
        for images, labels in batches(self.data.train, order, self.batch_size, self.settings.workers):
            totals += self._optimise(images, labels, step).counts().to(totals)
            step += 1
        loss, right, seen = totals.tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is not finite in epoch {epoch + 1} of {self.settings.epochs}: try a lower lr "
                f"(it is {self.settings.lr})"
            )
        now = time.perf_counter()
        row = {"epoch": epoch + 1, "lr": self.descent.rate, "train_loss": loss / seen, "train_accuracy": right / seen}
        if len(cast(Any, self.data.validation)):
            row["validation_loss"], row["validation_accuracy"] = self.measured(self.data.validation)
        row["seconds"] = time.perf_counter() - started
        shown.epoch_end({**row, "images_per_second": seen / max(now - begun, 1e-9)}, step, best=False)
        return row

    def measured(self, part: Any) -> tuple[float, float]:
        """Loss and accuracy on a part. Without gradients four times as many images fit."""
        return accuracy(
            self.model,
            part,
            self._prepare,
            batch_size=4 * self.batch_size,
            workers=self.settings.workers,
            autocast=nullcontext,
        )

    def finished(self) -> nn.Module:
        """The model in evaluation mode, as plain as the one that was given."""
        for parameter, wanted in self._wanted:
            parameter.requires_grad_(wanted)
        return self.model.to(memory_format=torch.contiguous_format).eval()

    def _optimise(self, images: Tensor, labels: Tensor, step: int) -> StepResult:
        draw = sample_crop_flip(len(images), self.padding, self.settings.flips, self.crops)
        images = self._prepare(crop_flip(images.to(self.place), draw))
        self.descent.before_step(step)
        logits = check_logits(self.model(images), len(images))
        labels = labels.to(self.place, torch.int64)
        result = StepResult(F.cross_entropy(logits.float(), labels), logits, labels)
        result.loss.backward()
        self.descent.optimiser.step()
        self.descent.after_step()
        self.descent.optimiser.zero_grad(set_to_none=True)
        return result

    def _prepare(self, images: Tensor) -> Tensor:
        floats = images.to(self.place, torch.float32).div(255)
        return floats.contiguous(memory_format=torch.channels_last)


def loaded(data: Any) -> DataParts:
    """The data that :func:`~mixaug.evaluate.transfer` was given, if they serve.

    Raises:
        TypeError: something else.
        ValueError: one class, or a part that is missing.
    """
    if isinstance(data, str):
        data = load_data(data)
    if not isinstance(data, DataParts):
        raise TypeError(
            f"data must be what mixaug.train.data.load_data gives, or a name for it, got {type(data).__name__}"
        )
    if len(data.classes) < 2:
        raise ValueError(f"data must have at least 2 classes, got {len(data.classes)}")
    for name, least in (("train", 2), ("test", 1)):
        count = len(getattr(data, name))
        if count < least:
            raise ValueError(f"data must have a {name} part of at least {least} images, got {count}")
    return data


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    model(*inputs)


def with_new_output(model: nn.Module, data: DataParts) -> tuple[nn.Module, list[nn.Module]]:
    """A copy of the model on the CPU with new output layers, and these.

    Raises:
        ValueError: the model does not take the images, or ends in something else.
    """
    side = data.image_size
    example = torch.zeros(2, data.channels, side, side, dtype=torch.float32)
    try:
        look_at(model, example, _run)
    except ValueError as error:
        raise ValueError(
            f"data must be images that the model takes, got {data.channels} channels of {side}x{side} pixels: "
            f"{error.__cause__ or error}"
        ) from error
    tuned = copy.deepcopy(model).cpu()  # the new weights are drawn there: the same on every device
    layers = output_layers(tuned, example)
    swaps = {layer: new_output_layer(layer, len(data.classes)) for layer in layers.values()}
    return put_layers(tuned, swaps, example), list(swaps.values())
