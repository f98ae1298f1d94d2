"""The training loop: one for all methods, resumable to the bit.

A run's folder holds ``settings.json``, ``log.csv``, ``tensorboard/``, ``last.pt`` (everything to go on with) and
``best.pt`` (the model of the epoch with the highest accuracy on the validation part, under PGD for methods that
attack). Each file is whole or absent.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mixaug.train.activation import cap_columns, start_caps
from mixaug.train.augment import crop_flip, default_padding, sample_crop_flip
from mixaug.train.batches import accuracy, batches, derived_seed, epoch_order
from mixaug.train.checkpoint import ModelSpec, write_checkpoint
from mixaug.train.descent import Descent
from mixaug.train.devices import peak_memory, reset_peak_memory, run_device
from mixaug.train.extra import MixedPart, mixed_order, with_extra
from mixaug.train.interrupt import StopRequest
from mixaug.train.methods import build_step
from mixaug.train.progress import Progress
from mixaug.train.record import RunLog, RunResult, resolved, write_settings
from mixaug.train.resume import model_content, open_run, refuse_existing, restore, training_state
from mixaug.train.robust import is_better, overfitted, overfitting_notice, robust_accuracy, score_of
from mixaug.train.settings import TrainSettings
from mixaug.train.step import Setup, StepResult

if TYPE_CHECKING:
    from mixaug.train.data import DataParts

__all__ = ["RunResult", "train"]

#: Seconds after which a long epoch is saved in between.
SAVE_EVERY = 600.0
#: On a GPU the loss is read every so many steps to see whether it is finite: reading waits for the device.
CHECK_EVERY = 50


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
    if settings.extra_data is not None:
        data = with_extra(data, settings.extra_data)
    device = run_device(settings)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        run = Run(settings, data, device)
        if stored is not None:
            restore(run, stored)
        elif settings.drelu_quantile is not None:
            start_caps(run.model, data.train, run.prepare, settings.drelu_quantile)
        write_settings(folder / "settings.json", settings, resolved(run))
        with (
            StopRequest() as stop,
            RunLog(folder, run.step, fresh=stored is None) as log,
            Progress(run.total_steps, run.step, run.epochs, progress) as shown,
        ):
            if log.notice:
                shown.note(log.notice)
            while not run.ended and not stop.asked:
                run.one_epoch(stop, log, shown)
    return RunResult(
        folder=folder,
        last=folder / "last.pt",
        best=folder / "best.pt",
        log=folder / "log.csv",
        history=run.history,
        interrupted=not run.ended,
    )


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
            settings.model, len(data.classes), data.channels, data.image_size, tuple(data.mean), tuple(data.std),
            settings.changed_activation,
        )  # fmt: skip
        # The model's weights are the first numbers drawn: every method starts from the same ones.
        self.model: nn.Module = self.spec.build().to(device).to(memory_format=self.memory_format)
        self.descent = Descent(self.model, settings, self.total_steps, self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
        self.generators = {
            name: torch.Generator().manual_seed(derived_seed(settings.seed, name)) for name in ("crops", "method")
        }
        self.adversary = settings.adversary
        self.robust_images = min(settings.robust_images, self.counts["validation"])
        if settings.plateau and not self.counts["validation"]:
            raise ValueError("data must have a validation part for plateau, which follows its loss, got none")
        if settings.method == "hybrid" and not self.robust_images:
            raise ValueError("data must have a validation part for the method hybrid, whose alpha it decides, got none")
        self.take_step = build_step(
            Setup(
                settings,
                len(data.classes),
                self.generators["method"],
                self.model,
                self.epochs,
                self.spec,
                tuple(data.classes),
            )
        )
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.best = score_of({})
        self.totals = torch.zeros(3, dtype=torch.float64)  # loss, right answers, images of this epoch

    @property
    def ended(self) -> bool:
        """Whether the run has made its last step."""
        return self.step >= self.total_steps or self.descent.ended

    def one_epoch(self, stop: StopRequest, log: RunLog, shown: Progress) -> None:
        """From the current step to the end of its epoch (or of the run), then validation, log and checkpoints."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        here = min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)
        order = self._order(epoch)[: here * self.batch_size]
        totals = self.totals.to(self.device)
        first, before, started = self.step, self.seconds, time.perf_counter()
        saved = started
        reset_peak_memory(self.device)
        self.take_step.start_epoch(epoch)
        self.model.train()
        for images, labels in batches(
            self.data.train, order[done * self.batch_size :], self.batch_size, self.settings.workers
        ):
            totals += self._optimise(images, labels).counts().to(totals)
            self.step += 1
            self.seconds = before + time.perf_counter() - started
            if self.device.type == "cpu" or self.step % CHECK_EVERY == 0:
                self._check_finite(totals)
            if shown.due():
                loss, correct, seen = totals.tolist()
                speed = (self.step - first) * self.batch_size / max(self.seconds - before, 1e-9)
                shown.update(self.step, epoch + 1, loss / max(seen, 1), correct / max(seen, 1), speed)
            ended = self.step == epoch * self.steps_per_epoch + here
            if not ended and (stop.asked or time.perf_counter() - saved > SAVE_EVERY):
                self._check_finite(totals)  # a good last.pt is never replaced by a broken one
                self.totals = totals.cpu()
                self.save()
                saved = time.perf_counter()
                if stop.asked:
                    return
        self._check_finite(totals)
        self.seconds = before + time.perf_counter() - started  # a GPU has only now made the last steps
        self.totals = torch.zeros_like(self.totals)
        self._finish_epoch(epoch + 1, totals.tolist(), first, before, log, shown)

    def _finish_epoch(
        self, epoch: int, totals: list[float], first: int, before: float, log: RunLog, shown: Progress
    ) -> None:
        loss, correct, seen = totals
        row: dict[str, float] = {
            "epoch": epoch,
            "step": self.step,
            "lr": self.descent.rate,
            "train_loss": loss / max(seen, 1),
            "train_accuracy": correct / max(seen, 1),
        }
        row["images_per_second"] = (self.step - first) * self.batch_size / max(self.seconds - before, 1e-9)
        row["seconds"] = self.seconds
        row["epoch_seconds"] = self.seconds - (self.history[-1]["seconds"] if self.history else 0.0)
        memory = peak_memory(self.device)
        if memory is not None:
            row["peak_memory"] = memory
        row.update(self.take_step.columns())
        self._measure(row)
        # Without a validation part nothing is chosen: the best epoch is the last one.
        better = not self.counts["validation"] or is_better(row, self.best)
        self.history.append(row)
        if better:
            self.best = score_of(row)
            write_checkpoint(self.settings.folder / "best.pt", model_content(self))
        log.write(self.history)
        told = [self.take_step.end_epoch(row), self.descent.after_epoch(row)]
        # Last of all: a run killed before this line repeats the epoch and writes the same best.pt and log again.
        self.save()
        shown.epoch_end(row, self.step, better)
        if row.get("catastrophic_overfitting"):
            shown.note(overfitting_notice(row, best=int(self.best["epoch"])))
        for line in filter(None, told):
            shown.note(line)

    def _measure(self, row: dict[str, float]) -> None:
        """Adds what the validation part says of the epoch."""
        part = self.data.validation
        if not self.counts["validation"]:
            return
        started = time.perf_counter()
        workers = self.settings.workers
        row["validation_loss"], row["validation_accuracy"] = accuracy(
            self.model, part, self.prepare, workers=workers, autocast=self._autocast
        )
        if self.adversary is not None and self.robust_images:
            measured = robust_accuracy(
                self.model, part, self.prepare, self.adversary.eps, self.robust_images,
                batch_size=self.batch_size, workers=workers, autocast=self._autocast,
            )  # fmt: skip
            row |= {f"validation_{name}_accuracy": value for name, value in measured._asdict().items()}
            row["catastrophic_overfitting"] = float(overfitted(measured, len(self.data.classes)))
        row |= cap_columns(self.model, part, self.prepare, workers)
        row["validation_seconds"] = time.perf_counter() - started

    def _order(self, epoch: int) -> Tensor:
        part, seed = self.data.train, self.settings.seed
        if isinstance(part, MixedPart):
            share = cast(float, self.settings.extra_share)
            return mixed_order(self.counts["train"], part.extra_count, share, seed, epoch)
        return epoch_order(self.counts["train"], seed, epoch)

    def _optimise(self, images: Tensor, labels: Tensor) -> StepResult:
        draw = sample_crop_flip(len(images), self.padding, self.settings.flips, self.generators["crops"])
        moved = crop_flip(images.to(self.device, non_blocking=True), draw)
        self.descent.before_step(self.step)
        labels = labels.to(self.device, torch.int64, non_blocking=True)
        try:
            with self._autocast():
                result = self.take_step(self.model, self.prepare(moved), labels)
        except FloatingPointError as error:  # of an attack, which sees broken weights before the loss does
            if self.adversary is None:
                raise FloatingPointError(f"{error} (step {self.step + 1} of {self.total_steps})") from error
            raise FloatingPointError(self._broken(f"the attack failed in step {self.step + 1}")) from error
        optimiser = self.descent.optimiser
        if not result.skipped:
            optimiser.zero_grad(set_to_none=True)
            self.take_step.backward(result, self.scaler)
            self.scaler.step(optimiser)
            self.take_step.optimise(self.scaler, self.descent.rate / cast(float, self.settings.lr))
            self.scaler.update()
            self.descent.after_step()
            optimiser.zero_grad(set_to_none=True)  # or they would take memory through the next step's attack
        self.take_step.finish(self.step, self.total_steps)
        return result

    def prepare(self, images: Tensor) -> Tensor:
        """A batch of bytes on the run's device, as floats in [0, 1]."""
        images = images.to(self.device, torch.float32, non_blocking=True).div(255)
        return images.contiguous(memory_format=self.memory_format)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = torch.float16 if self.settings.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.settings.amp != "off")

    def _check_finite(self, totals: Tensor) -> None:
        if not math.isfinite(totals[0].item()):
            raise FloatingPointError(self._broken(f"the loss is not finite by step {self.step}"))

    def _broken(self, what: str) -> str:
        lower = "" if self.settings.amp != "fp16" else ", or --amp bf16"
        return f"{what} of {self.total_steps}: try a lower --lr (it is {self.settings.lr}){lower}"

    def save(self) -> None:
        """Writes ``last.pt``: the model, and all that the next step depends on."""
        write_checkpoint(self.settings.folder / "last.pt", {**model_content(self), "training": training_state(self)})
