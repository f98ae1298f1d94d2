"""The training loop: one for all methods, resumable to the bit.

A run's folder holds ``settings.json``, ``log.csv``, ``tensorboard/``, ``last.pt`` (everything to go on with) and
``best.pt`` (the model of the epoch with the highest accuracy on the validation part). Each file is whole or absent.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixaug.train.augment import crop_flip, default_padding, sample_crop_flip
from mixaug.train.batches import accuracy, batches, derived_seed, epoch_order
from mixaug.train.checkpoint import ModelSpec, describe_model, write_checkpoint
from mixaug.train.interrupt import StopRequest
from mixaug.train.methods import Setup, StepResult, build_step
from mixaug.train.progress import Progress
from mixaug.train.record import RunLog, write_settings
from mixaug.train.resume import open_run, refuse_existing, restore, training_state
from mixaug.train.settings import TrainSettings

if TYPE_CHECKING:
    from mixaug.train.data import DataParts

__all__ = ["RunResult", "train"]

#: Seconds after which a long epoch is saved in between.
SAVE_EVERY = 600.0
#: On a GPU the loss is read every so many steps to see whether it is finite: reading waits for the device.
CHECK_EVERY = 50


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Args:
        folder: of the run.
        last: checkpoint of the last epoch.
        best: checkpoint of the best epoch on the validation part.
        log: the CSV log, a row an epoch.
        history: the rows of the log.
        interrupted: Ctrl-C ended the run after a step; it is saved, and ``train(..., resume=True)`` goes on.
    """

    folder: Path
    last: Path
    best: Path
    log: Path
    history: list[dict[str, float]]
    interrupted: bool = False


def train(
    settings: TrainSettings,
    data: DataParts | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    download: bool = False,
) -> RunResult:
    """Trains a classifier and writes its run folder.

    Convention:
        The same settings give the same weights on the same machine with the same number of threads, also when the run
        was stopped and resumed in between. torch's default generator is left as it was found.

    Args:
        settings: all that decides the result.
        data: parts that are loaded already; None: ``load_data`` with the settings' names.
        resume: go on with the run in ``settings.folder``; False refuses a folder that holds one.
        progress: show progress on standard error.
        download: let ``load_data`` fetch data that are not there.

    Returns:
        the paths of the run's files, its log, and whether Ctrl-C ended it early. ``best.pt`` exists from the end of the
        first epoch on.

    Raises:
        FileExistsError: the folder holds a run and ``resume`` is False.
        FileNotFoundError: there is nothing to resume.
        ValueError: the settings do not fit the device or the run that is resumed; a damaged checkpoint.
        FloatingPointError: the loss is not finite.

    Example:
        >>> settings = TrainSettings(data="digits", model="lenet5", method="standard", epochs=1, limit=256, out="run")
        >>> result = train(settings, progress=False)
        >>> result.best.name, len(result.history)
        ('best.pt', 1)
    """
    folder = settings.folder
    stored = open_run(settings) if resume else None
    if not resume:
        refuse_existing(settings)
    if data is None:
        from mixaug.train.data import load_data

        data = load_data(
            settings.data,
            root=settings.root,
            download=download,
            validation=settings.validation,
            image_size=settings.image_size,
            limit=settings.limit,
        )
    device = _device(settings)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        run = Run(settings, data, device)
        if stored is not None:
            restore(run, stored)
        write_settings(folder / "settings.json", settings, run.resolved())
        with (
            StopRequest() as stop,
            RunLog(folder, run.step, fresh=stored is None) as log,
            Progress(run.total_steps, run.step, run.epochs, progress) as shown,
        ):
            if log.notice:
                shown.note(log.notice)
            while run.step < run.total_steps and not stop.asked:
                run.one_epoch(stop, log, shown)
    return RunResult(
        folder=folder,
        last=folder / "last.pt",
        best=folder / "best.pt",
        log=folder / "log.csv",
        history=run.history,
        interrupted=run.step < run.total_steps,
    )


def _device(settings: TrainSettings) -> torch.device:
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be a name such as cpu or cuda:0, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be present, got {name!r} and no GPU that this torch can use")
    if settings.amp == "fp16" and device.type == "cpu":
        raise ValueError("amp must be bf16 or off on a CPU, got 'fp16'")
    return device


def _parts(data: DataParts) -> dict[str, Any]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


class Run:
    """A run's state: everything that changes from step to step, and how it is saved and loaded."""

    def __init__(self, settings: TrainSettings, data: DataParts, device: torch.device) -> None:
        self.counts = {name: len(part) for name, part in _parts(data).items()}
        count = self.counts["train"]
        if count < 2:
            raise ValueError(f"data must have at least 2 training images, got {count}")
        self.settings, self.data, self.device = settings, data, device
        self.batch_size = min(settings.batch_size, count)
        self.steps_per_epoch = count // self.batch_size
        self.total_steps = settings.steps or settings.epochs * self.steps_per_epoch
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        self.padding = default_padding(data.image_size) if settings.padding is None else settings.padding
        self.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.spec = ModelSpec(
            settings.model, len(data.classes), data.channels, data.image_size, tuple(data.mean), tuple(data.std)
        )
        # The model's weights are the first numbers drawn: every method starts from the same ones.
        self.model: nn.Module = self.spec.build().to(device).to(memory_format=self.memory_format)
        self.optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
        self.generators = {
            name: torch.Generator().manual_seed(derived_seed(settings.seed, name)) for name in ("crops", "method")
        }
        self.take_step = build_step(Setup(settings, len(data.classes), self.generators["method"], self.model))
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.best = {"accuracy": -1.0, "epoch": 0.0}
        self.totals = torch.zeros(3, dtype=torch.float64)  # loss, right answers, images of this epoch; see _count

    def one_epoch(self, stop: StopRequest, log: RunLog, shown: Progress) -> None:
        """From the current step to the end of its epoch (or of the run), then validation, log and checkpoints."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        here = min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)
        order = epoch_order(self.counts["train"], self.settings.seed, epoch)[: here * self.batch_size]
        totals = self.totals.to(self.device)
        first, before, started = self.step, self.seconds, time.perf_counter()
        saved = started
        self.model.train()
        for images, labels in batches(
            self.data.train, order[done * self.batch_size :], self.batch_size, self.settings.workers
        ):
            self._count(totals, self._optimise(images, labels))
            self.step += 1
            self.seconds = before + time.perf_counter() - started
            if self.device.type == "cpu" or self.step % CHECK_EVERY == 0:
                self._check_finite(totals)
            if shown.due():
                loss, correct, seen = totals.tolist()
                speed = (self.step - first) * self.batch_size / max(self.seconds - before, 1e-9)
                shown.update(self.step, epoch + 1, loss / seen, correct / seen, speed)
            ended = self.step == epoch * self.steps_per_epoch + here
            if not ended and (stop.asked or time.perf_counter() - saved > SAVE_EVERY):
                self._check_finite(totals)  # a good last.pt is never replaced by a broken one
                self.totals = totals.cpu()
                self.save()
                saved = time.perf_counter()
                if stop.asked:
                    return
        self._check_finite(totals)
        self.totals = torch.zeros_like(self.totals)
        self._finish_epoch(epoch + 1, totals.tolist(), first, before, log, shown)

    def _finish_epoch(
        self, epoch: int, totals: list[float], first: int, before: float, log: RunLog, shown: Progress
    ) -> None:
        loss, correct, seen = totals
        row: dict[str, float] = {
            "epoch": epoch,
            "step": self.step,
            "lr": self._rate(self.step - 1),
            "train_loss": loss / seen,
            "train_accuracy": correct / seen,
        }
        better = True  # without a validation part nothing is chosen: the best epoch is the last one
        if self.counts["validation"]:
            row["validation_loss"], row["validation_accuracy"] = accuracy(
                self.model, self.data.validation, self._prepare, workers=self.settings.workers, autocast=self._autocast
            )
            better = row["validation_accuracy"] > self.best["accuracy"]
        row["images_per_second"] = (self.step - first) * self.batch_size / max(self.seconds - before, 1e-9)
        row["seconds"] = self.seconds
        self.history.append(row)
        if better:
            self.best = {"accuracy": row.get("validation_accuracy", -1.0), "epoch": float(epoch)}
            write_checkpoint(self.settings.folder / "best.pt", self.content())
        log.write(self.history)
        # Last of all: a run killed before this line repeats the epoch and writes the same best.pt and log again.
        self.save()
        shown.epoch_end(row, self.step, better)

    def _optimise(self, images: Tensor, labels: Tensor) -> StepResult:
        draw = sample_crop_flip(len(images), self.padding, self.settings.flips, self.generators["crops"])
        moved = crop_flip(images.to(self.device, non_blocking=True), draw)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(self.step)
        with self._autocast():
            result = self.take_step(
                self.model, self._prepare(moved), labels.to(self.device, torch.int64, non_blocking=True)
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(result.loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.take_step.finish(self.step, self.total_steps)
        return result

    def _rate(self, step: int) -> float:
        return self.settings.lr * 0.5 * (1 + math.cos(math.pi * step / self.total_steps))

    def _prepare(self, images: Tensor) -> Tensor:
        images = images.to(self.device, torch.float32, non_blocking=True).div(255)
        return images.contiguous(memory_format=self.memory_format)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = torch.float16 if self.settings.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.settings.amp != "off")

    def _count(self, totals: Tensor, result: StepResult) -> None:
        with torch.no_grad():
            right = (result.logits.argmax(1) == result.labels).sum()
            seen = torch.full_like(right, len(result.labels))
            totals += torch.stack([result.loss.detach() * len(result.labels), right, seen]).to(totals)

    def _check_finite(self, totals: Tensor) -> None:
        if not math.isfinite(totals[0].item()):
            lower = "" if self.settings.amp != "fp16" else ", or --amp bf16"
            raise FloatingPointError(
                f"the loss is not finite by step {self.step} of {self.total_steps}: try a lower --lr "
                f"(it is {self.settings.lr}){lower}"
            )

    def content(self) -> dict[str, Any]:
        """The model alone, as ``best.pt`` holds it."""
        data = self.data
        return describe_model(
            self.spec,
            self.model,
            data={
                "name": data.name,
                "root": self.settings.root,
                "classes": list(data.classes),
                "image_size": data.image_size,
                "validation": self.settings.validation,
            },
            settings=self.settings.to_dict(),
            epoch=len(self.history),
            step=self.step,
            metrics=self.history[-1] if self.history else {},
        )

    def save(self) -> None:
        """Writes ``last.pt``: the model, and all that the next step depends on."""
        write_checkpoint(self.settings.folder / "last.pt", {**self.content(), "training": training_state(self)})

    def resolved(self) -> dict[str, Any]:
        """What the settings left open, for ``settings.json``."""
        return {
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "padding": self.padding,
            "flip": self.settings.flips,
            "batch_size": self.batch_size,
            "steps": self.total_steps,
            "epochs": self.epochs,
            "images": self.counts,
            "classes": list(self.data.classes),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }
