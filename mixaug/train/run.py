"""A run: its state, a step, an epoch and what is measured after it."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mixaug._random import RankGenerator
from mixaug.models import ModelSpec
from mixaug.train.activation import cap_columns
from mixaug.train.augment import crop_flip, default_padding, sample_crop_flip
from mixaug.train.batches import accuracy, batches, derived_seed
from mixaug.train.checkpoint import write_checkpoint
from mixaug.train.descent import Descent
from mixaug.train.devices import peak_memory, reset_peak_memory
from mixaug.train.extra import training_order
from mixaug.train.interrupt import StopRequest
from mixaug.train.methods import build_step
from mixaug.train.processes import ALONE, Processes
from mixaug.train.progress import Progress
from mixaug.train.record import RunLog
from mixaug.train.resume import model_content, training_state
from mixaug.train.robust import is_better, overfitted, overfitting_notice, robust_accuracy, score_of
from mixaug.train.settings import TrainSettings
from mixaug.train.step import Setup, StepResult

if TYPE_CHECKING:
    from mixaug.train.data import DataParts

__all__ = ["Run"]

#: Seconds after which a long epoch is saved in between.
SAVE_EVERY = 600.0
#: On a GPU the loss is read every so many steps to see whether it is finite: reading waits for the device.
CHECK_EVERY = 50


def _parts(data: DataParts) -> dict[str, Any]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


class Run:
    """A run's state: everything that changes from step to step, and how it is saved and loaded.

    Args:
        settings: of the run.
        data: its parts.
        device: of this process.
        processes: that make the run together; each holds the same model.

    Raises:
        ValueError: the data are too few, or have no validation part where the settings need one.
    """

    def __init__(
        self, settings: TrainSettings, data: DataParts, device: torch.device, processes: Processes = ALONE
    ) -> None:
        self.counts = {name: len(part) for name, part in _parts(data).items()}
        count = self.counts["train"]
        if count < 2:
            raise ValueError(f"data must have at least 2 training images, got {count}")
        self.settings, self.data, self.device, self.processes = settings, data, device, processes
        self.batch_size = min(settings.batch_size, count)
        processes.check_batch(self.batch_size, " (all training images)" if self.batch_size == count else "")
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
        rank = () if processes.leads else (processes.rank,)
        self.generators: dict[str, torch.Generator] = {
            name: RankGenerator().manual_seed(derived_seed(settings.seed, name, *rank)) for name in ("crops", "method")
        }
        self.adversary = settings.adversary
        self.robust_images = min(settings.robust_images, self.counts["validation"])
        if settings.plateau and not self.counts["validation"]:
            raise ValueError("data must have a validation part for plateau, which follows its loss, got none")
        if settings.method == "hybrid" and not self.robust_images:
            raise ValueError("data must have a validation part for the method hybrid, whose alpha it decides, got none")
        #: What the steps are taken on: the model, wrapped where there are several processes.
        self.trained = processes.wrapped(self.model, device)
        setup = Setup(
            settings, len(data.classes), self.generators["method"], self.trained, self.epochs, self.spec,
            tuple(data.classes), processes,
        )  # fmt: skip
        self.take_step = build_step(setup)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.best = score_of({})
        self.totals = torch.zeros(3, dtype=torch.float64)  # loss, right answers, images of this epoch
        self.stopped = False  # Ctrl-C, in any process
        if not processes.leads:  # all have drawn the same weights; dropout and torchvision's transforms shall differ
            torch.manual_seed(derived_seed(settings.seed, "process", *rank))

    @property
    def ended(self) -> bool:
        """Whether the run has made its last step."""
        return self.step >= self.total_steps or self.descent.ended

    def one_epoch(self, stop: StopRequest, log: RunLog, shown: Progress) -> None:
        """From the current step to the end of its epoch (or of the run), then validation, log and checkpoints."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        here = min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)
        order = training_order(self.data.train, self.counts["train"], self.settings, epoch)[: here * self.batch_size]
        totals = self.totals.to(self.device)
        first, before, started = self.step, self.seconds, time.perf_counter()
        saved = started
        reset_peak_memory(self.device)
        self.take_step.start_epoch(epoch)
        self.model.train()
        share = self.processes.share(order[done * self.batch_size :], self.batch_size)
        each = self.batch_size // self.processes.count
        for images, labels in batches(self.data.train, share, each, self.settings.workers):
            totals += self._optimise(images, labels).counts().to(totals)
            self.step += 1
            self.seconds = before + time.perf_counter() - started
            read = self.device.type == "cpu" or self.step % CHECK_EVERY == 0
            # Of several processes all do the same after the same step, whichever was asked to. It costs one message.
            stop_now, save_now, broken = self.processes.any(
                stop.asked, time.perf_counter() - saved > SAVE_EVERY, read and not math.isfinite(totals[0].item())
            )
            if broken:
                raise FloatingPointError(self._not_finite())
            if shown.due():
                loss, correct, seen = totals.tolist()
                speed = (self.step - first) * self.batch_size / max(self.seconds - before, 1e-9)
                shown.update(self.step, epoch + 1, loss / max(seen, 1), correct / max(seen, 1), speed)
            ended = self.step == epoch * self.steps_per_epoch + here
            if not ended and (stop_now or save_now):
                self.totals = self._finite_total(totals).cpu()  # a good last.pt is never replaced by a broken one
                self.save()
                saved = time.perf_counter()
                if stop_now:
                    self.stopped = True
                    return
        totals = self._finite_total(totals)
        self.seconds = before + time.perf_counter() - started  # a GPU has only now made the last steps
        self.totals = torch.zeros_like(self.totals)
        self._finish_epoch(epoch + 1, totals.tolist(), first, before, log, shown)
        (self.stopped,) = self.processes.any(stop.asked)

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
        if self.processes.leads:
            self._measure(row)
        row = self.processes.from_first(row)
        # Without a validation part nothing is chosen: the best epoch is the last one.
        better = not self.counts["validation"] or is_better(row, self.best)
        self.history.append(row)
        if better:
            self.best = score_of(row)
            self._write("best.pt", model_content(self))
        told = [log.write(self.history), self.take_step.end_epoch(row), self.descent.after_epoch(row)]
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

    def _optimise(self, images: Tensor, labels: Tensor) -> StepResult:
        draw = sample_crop_flip(len(images), self.padding, self.settings.flips, self.generators["crops"])
        moved = crop_flip(images.to(self.device, non_blocking=True), draw)
        self.descent.before_step(self.step)
        labels = labels.to(self.device, torch.int64, non_blocking=True)
        try:
            with self._autocast():
                result = self.take_step(self.trained, self.prepare(moved), labels)
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
            self.processes.average_statistics(self.model)
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

    def _finite_total(self, totals: Tensor) -> Tensor:
        """The totals of all processes; raises if the loss is not finite in one."""
        totals = self.processes.total(totals)
        if not math.isfinite(totals[0].item()):
            raise FloatingPointError(self._not_finite())
        return totals

    def _not_finite(self) -> str:
        return self._broken(f"the loss is not finite by step {self.step}")

    def _broken(self, what: str) -> str:
        lower = "" if self.settings.amp != "fp16" else ", or --amp bf16"
        return f"{what} of {self.total_steps}: try a lower --lr (it is {self.settings.lr}){lower}"

    def save(self) -> None:
        """Writes ``last.pt``: the model, and all that the next step depends on, in each process."""
        self._write("last.pt", {**model_content(self), "training": training_state(self)})

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if self.processes.leads:
            write_checkpoint(self.settings.folder / name, content)
