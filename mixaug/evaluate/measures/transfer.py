"""The steps of a fine-tuning, made of the training package's parts."""

from __future__ import annotations

import copy
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixaug._checks import check_flag
from mixaug._model_state import check_logits, home_of
from mixaug.evaluate.intervals import Estimate, wilson
from mixaug.nn.head import new_output_layer, output_layers, put_layers
from mixaug.nn.trace import check_plain, look_at
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
from mixaug.train.record import EpochProgress
from mixaug.train.settings import TrainSettings

if TYPE_CHECKING:
    from mixaug.train.data import DataParts

__all__ = [
    "Transfer",
    "transfer",
]


class Tuning:
    """A model while it is fine-tuned, with its optimiser.

    Args:
        model: on ``device``; it is trained in place.
        new: its new layers.
        data: what it is trained and measured on.
        settings: of the run.
        device: where it runs.
        probe: train the new layers alone.
    """

    def __init__(
        self,
        model: nn.Module,
        new: list[nn.Module],
        data: DataParts,
        settings: TrainSettings,
        device: torch.device,
        probe: bool,
    ) -> None:
        self.model, self.data, self.settings, self.device = model, data, settings, device
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

    def one_epoch(self, epoch: int, started: float, shown: EpochProgress) -> dict[str, float]:
        """Trains for an epoch, from 0, and measures the validation part."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
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
        images = self._prepare(crop_flip(images.to(self.device), draw))
        self.descent.before_step(step)
        logits = check_logits(self.model(images), len(images))
        labels = labels.to(self.device, torch.int64)
        result = StepResult(F.cross_entropy(logits.float(), labels), logits, labels)
        result.loss.backward()
        self.descent.optimiser.step()
        self.descent.after_step()
        self.descent.optimiser.zero_grad(set_to_none=True)
        return result

    def _prepare(self, images: Tensor) -> Tensor:
        floats = images.to(self.device, torch.float32).div(255)
        return floats.contiguous(memory_format=torch.channels_last)


def loaded(data: Any) -> DataParts:
    """The data that :func:`~mixaug.evaluate.measures.transfer` was given, if they serve.

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


_RECORDED = ("data", "epochs", "batch_size", "lr", "momentum", "weight_decay", "schedule", "flips", "seed")


@dataclass(frozen=True)
class Transfer:
    """A model fine-tuned on other data, and how well it does there.

    Args:
        accuracy: on the test part, after the last epoch, with Wilson's 95% interval.
        history: one row an epoch: ``epoch``, ``lr``, ``train_loss``, ``train_accuracy``, ``seconds`` from the start,
            and with a validation part ``validation_loss`` and ``validation_accuracy``.
        seconds: of training and measuring.
        settings: what the result depends on besides model and data.
        classes: names of the classes.
        model: the fine-tuned model in evaluation mode, on the device that it was trained on.

    Example:
        >>> from mixaug.evaluate.intervals import wilson
        >>> str(Transfer(wilson(90, 100), (), 1.0, {"probe": False}, ("a", "b"), nn.Identity()).accuracy)
        '90.0% [82.6, 94.5]'
    """

    accuracy: Estimate
    history: tuple[dict[str, float], ...]
    seconds: float
    settings: dict[str, Any]
    classes: tuple[str, ...]
    model: nn.Module = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the model as plain values, for JSON."""
        return {
            "accuracy": dict(vars(self.accuracy)),
            "history": [dict(row) for row in self.history],
            "seconds": self.seconds,
            "settings": dict(self.settings),
            "classes": list(self.classes),
        }


def transfer(
    model: nn.Module,
    data: DataParts | str,
    *,
    probe: bool = False,
    epochs: int = 10,
    batch_size: int = 16,
    lr: float = 0.001,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    flip: bool | None = None,
    workers: int = 0,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Transfer:
    """Fine-tunes a copy of a trained classifier on other data, and measures it there.

    As in section 4.5 of Qin et al., "Adversarial AutoMixup", ICLR 2024 (arXiv:2312.11954): SGD with momentum 0.9,
    weight decay 0.0005, batches of 16, a learning rate of 0.001 on a cosine, 100 epochs.

    Convention:
        The given model is not changed. In the copy the output layer is new, for the classes of the data; all else
        starts from the trained weights, the normalisation of the old data among them, and all of it is trained, also
        what is frozen in the given model. Images are cropped and flipped as in all runs of this package. The test part
        is looked at once, after the last epoch; nothing is chosen by the validation part, which is measured after each
        epoch. The same seed gives the same weights on the same machine with the same number of threads, and torch's
        default generator is left as it was found.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits; it ends in a dense layer or a 1x1
            convolution. Any of torchvision's or timm's classifiers.
        data: of :func:`mixaug.train.data.load_data`, or a name for it with its defaults, such as ``"folder:PATH"``; for
            images of another size, give ``load_data(name, image_size=...)``.
        probe: train the new output layer alone, with all else frozen and in evaluation mode (a linear probe), which
            takes less than half of the time. It wants a higher ``lr``, 0.1 or so. Default False.
        epochs: passes over the training part, default 10; the paper's 100 where there is time.
        batch_size: images a step, at least 2, default 16.
        lr: highest learning rate, default 0.001.
        momentum: of SGD, in [0, 1), default 0.9; Nesterov's form when above 0, as in all runs of this package.
        weight_decay: 0 or more, default 0.0005.
        flip: horizontal flips; default: for all data but digits.
        workers: processes that load pictures of folders too large for memory, default 0.
        seed: of the new layer, order, crops and dropout, default 0.
        device: where it is trained; default where the model's first parameter is.
        progress: show progress on standard error, default False.

    Returns:
        A :class:`Transfer`, with the fine-tuned model.

    Raises:
        TypeError: an argument of the wrong kind; a model that cannot be copied.
        ValueError: a number out of range; a model that is wrapped or compiled, or ends in something else; data with one
            class, with no test part, or with images that the model does not take.
        FileNotFoundError: there is no such data.
        FloatingPointError: the loss is not finite.

    Note:
        The paper does not say how it crops its pictures nor which epoch it reports. The crops here are padded by an
        eighth of the side, and the epoch is the last. Caps of D-ReLU, where there are any, are trained without penalty.

    Example:
        >>> from mixaug.train.data import load_data
        >>> from mixaug.models import build_model
        >>> trained = build_model("resnet-small", num_classes=10, in_channels=1, image_size=32)
        >>> result = transfer(trained, load_data("digits", limit=100), epochs=1)
        >>> result.accuracy.n, len(result.history), result.history[0]["epoch"]
        (179, 1, 1)
    """
    # Not above: the training package brings in a thousand modules that the rest of an evaluation does without.
    from mixaug.train.record import EpochProgress
    from mixaug.train.settings import TrainSettings

    probe = check_flag("probe", probe)
    check_plain(model, "fine-tune it")
    parts = loaded(data)
    settings = TrainSettings(
        data=parts.name, method="standard", epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum,
        weight_decay=weight_decay, flip=flip, workers=workers, seed=seed,
    )  # fmt: skip
    target = home_of(model) if device is None else torch.device(device)
    started = time.perf_counter()
    with (
        torch.random.fork_rng(devices=[target] if target.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.manual_seed(seed)
        tuned, new = with_new_output(model, parts)
        tuning = Tuning(tuned.to(target).to(memory_format=torch.channels_last), new, parts, settings, target, probe)
        with EpochProgress(tuning.total_steps, 0, epochs, progress) as shown:
            history = tuple(tuning.one_epoch(epoch, started, shown) for epoch in range(epochs))
        _, right = tuning.measured(parts.test)
    count = len(cast(Any, parts.test))
    return Transfer(
        accuracy=wilson(round(right * count), count),
        history=history,
        seconds=time.perf_counter() - started,
        settings={**{name: getattr(settings, name) for name in _RECORDED}, "probe": probe},
        classes=tuple(parts.classes),
        model=tuning.finished(),
    )
