"""The training loop: one for all methods, resumable to the bit, in one process or several.

A run's folder holds ``settings.json``, ``log.csv``, ``tensorboard/``, ``last.pt`` (everything to go on with) and
``best.pt`` (the model of the epoch with the highest accuracy on the validation part, under PGD for methods that
attack). Each file is whole or absent.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mixaug._checks import check_int, check_number, kind_of
from mixaug._files import remove_stale, sole_use
from mixaug._model_state import float32_default
from mixaug._random import RankGenerator
from mixaug._tensor_files import finite_tensor, names, part, plain
from mixaug.models import ModelSpec
from mixaug.train.activation import cap_columns, start_caps
from mixaug.train.batches import (
    accuracy,
    batches,
    crop_flip,
    dead_worker_named,
    default_padding,
    derived_seed,
    sample_crop_flip,
)
from mixaug.train.checkpoint import describe_model, read_checkpoint, write_checkpoint
from mixaug.train.descent import Descent, load_optimiser
from mixaug.train.extra import training_order, with_extra
from mixaug.train.methods import build_step
from mixaug.train.methods.step import Setup, StepResult
from mixaug.train.processes import (
    ALONE,
    Processes,
    peak_memory,
    reset_peak_memory,
    run_device,
    slow_precision,
    this_process,
)
from mixaug.train.record import EpochProgress, RunLog, RunResult, StopRequest, write_settings
from mixaug.train.robust import is_better, overfitted, overfitting_notice, robust_accuracy, score_of
from mixaug.train.settings import TrainSettings

if TYPE_CHECKING:
    from mixaug.train.data import DataParts
    from mixaug.train.processes import Processes

__all__ = [
    "Run",
    "RunResult",
    "model_content",
    "open_run",
    "refuse_existing",
    "resolved",
    "restore",
    "train",
    "training_state",
]


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

    def one_epoch(self, stop: StopRequest, log: RunLog, shown: EpochProgress) -> None:
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
        self, epoch: int, totals: list[float], first: int, before: float, log: RunLog, shown: EpochProgress
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


#: Fields of the training state that all versions wrote.
_FIELDS = (
    "optimiser", "scaler", "method", "generators", "default_generator", "cuda_generator", "images", "history", "best",
    "totals", "seconds",
)  # fmt: skip


def refuse_existing(settings: TrainSettings) -> None:
    """A new run never writes over another one.

    Raises:
        FileExistsError: the folder holds a run.

    Example:
        >>> refuse_existing(TrainSettings(out="/nowhere/new"))
    """
    if (settings.folder / "last.pt").exists():
        raise FileExistsError(
            f"{settings.folder} holds a run already: go on with it (--resume) or choose another folder (--out)"
        )


def open_run(settings: TrainSettings, processes: Processes) -> dict[str, Any]:
    """The content of the folder's ``last.pt``, of a run with these settings.

    Args:
        settings: of the run that goes on.
        processes: that go on with it.

    Returns:
        what :func:`restore` puts back.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: its checkpoint is damaged, holds no training state, or is of a run with other settings (named) or
            another number of processes.

    Example:
        >>> from mixaug.train.processes import Processes
        >>> open_run(TrainSettings(out="/nowhere"), Processes())
        Traceback (most recent call last):
        FileNotFoundError: there is no run to resume in /nowhere: /nowhere/last.pt is missing
    """
    last = settings.folder / "last.pt"
    if not last.exists():
        raise FileNotFoundError(f"there is no run to resume in {settings.folder}: {last} is missing")
    stored = read_checkpoint(last)
    if "training" not in stored:
        raise ValueError(f"{last} holds a model but no training state: it cannot be resumed")
    try:
        with part("settings"):
            before_settings = TrainSettings.from_dict(stored["settings"])
        with part("training"):
            missing = [name for name in _FIELDS if name not in names(stored["training"])]
            if missing:
                raise ValueError(f"it must have {', '.join(missing)}")
        with part("others"):
            others = stored["training"].get("others", [])
            if not isinstance(others, list):
                raise TypeError(f"it must be a list of the other processes' states, got {kind_of(others)}")
            for other in others:
                names(other)
    except ValueError as error:
        raise ValueError(f"{last} is damaged: its training state does not fit the run: {error}") from error
    different = settings.differences(before_settings)
    if different:
        raise ValueError(f"the run in {settings.folder} was started with other settings: {', '.join(different)}")
    before = 1 + len(others)
    if before != processes.count:
        # Each has random numbers of its own, and its own part of every batch.
        raise ValueError(
            f"the number of processes must be that of the run in {settings.folder}, {before}, got {processes.count}"
        )
    return stored


def model_content(run: Run) -> dict[str, Any]:
    """The model alone, as ``best.pt`` holds it.

    Args:
        run: the run; the content refers to its weights and must be written before they change.
    """
    data = run.data
    return describe_model(
        run.spec,
        run.model,
        data={
            "name": data.name,
            "root": run.settings.root,
            "classes": list(data.classes),
            "image_size": data.image_size,
            "validation": run.settings.validation,
        },
        settings=run.settings.to_dict(),
        epoch=len(run.history),
        step=run.step,
        metrics=run.history[-1] if run.history else {},
    )


def training_state(run: Run) -> dict[str, Any]:
    """All that the next step depends on besides the model, as tensors and plain values.

    Args:
        run: the run; the state refers to its tensors and must be written before they change. Of several processes all
            call it: the random states of the others are under ``"others"``.
    """
    own, *others = run.processes.gathered(_random_state(run))
    return {
        "optimiser": run.descent.optimiser.state_dict(),
        "descent": run.descent.state_dict(),
        "scaler": run.scaler.state_dict(),
        "method": run.take_step.state_dict(),
        **own,
        "others": others,
        "images": run.counts,
        "history": run.history,
        "best": run.best,
        "totals": run.totals,
        "seconds": run.seconds,
    }


def _random_state(run: Run) -> dict[str, Any]:
    cuda = run.device.type == "cuda"
    return {
        "generators": {name: generator.get_state() for name, generator in run.generators.items()},
        "default_generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state(run.device) if cuda else None,
    }


def restore(run: Run, stored: dict[str, Any]) -> None:
    """Puts a run where the one that was stored had stopped.

    Args:
        run: a new run with the same settings.
        stored: of :func:`open_run`.

    Raises:
        ValueError: the stored run was of other images or another model, or its state is damaged.
    """
    last = run.settings.folder / "last.pt"
    here = model_content(run)
    try:
        with part("data"):
            classes = stored["data"]["classes"]
        with part("images"):
            plain(stored["training"]["images"])
        pairs = {
            "model was": (stored["spec"], here["spec"]),
            "classes were": (classes, here["data"]["classes"]),
            "numbers of images were": (stored["training"]["images"], run.counts),
        }
        _same_data(run, pairs)
        _check_progress(run, stored)
        _load_state(run, stored)
    except ValueError as error:
        if str(error).startswith("its '"):
            raise ValueError(f"{last} is damaged: its training state does not fit the run: {error}") from error
        raise


def _same_data(run: Run, pairs: dict[str, tuple[Any, Any]]) -> None:
    for name, (before, now) in pairs.items():
        if before != now:
            raise ValueError(
                f"the run in {run.settings.folder} was started with other data: its {name} {before}, now {now}"
            )


def _check_progress(run: Run, stored: dict[str, Any]) -> None:
    """Raises unless the numbers of what was done are possible together."""
    training, step = stored["training"], stored["step"]
    with part("step"):
        check_int("step", step, 0, run.total_steps)
    with part("history"):
        for number, row in enumerate(training["history"], 1):
            _check_row(row, number, min(number * run.steps_per_epoch, run.total_steps))
        done = -(-step // run.steps_per_epoch) if step == run.total_steps else step // run.steps_per_epoch
        if len(training["history"]) != done or stored["epoch"] != done:
            raise ValueError(
                f"step {step} must be in epoch {done}, got {len(training['history'])} rows and epoch {stored['epoch']}"
            )
    with part("best"):
        if set(names(training["best"])) - set(run.best):
            raise ValueError(f"it must have {', '.join(run.best)}, got {', '.join(map(str, training['best']))}")
        for name, value in training["best"].items():
            check_number(name, value, -1.0)
        scores = [score_of(row) for row in training["history"]] or [run.best]
        # Earlier versions kept fewer numbers, and chose by others.
        if set(training["best"]) == set(run.best) and training["best"] not in scores:
            raise ValueError(f"it must be of an epoch of the history, got {training['best']}")
    with part("seconds"):
        check_number("seconds", training["seconds"], 0.0)
    with part("totals"):
        totals = finite_tensor("totals", training["totals"])
        if totals.shape != run.totals.shape or totals.dtype != run.totals.dtype or (totals < 0).any():
            raise ValueError(f"it must be 3 float64 numbers of at least 0, got {totals.tolist()}")


def _check_row(row: Any, epoch: int, step: int) -> None:
    missing = [name for name in ("epoch", "step", "seconds") if name not in names(row)]
    if missing:
        raise ValueError(f"each row must have {', '.join(missing)}")
    for name, value in row.items():
        if "accuracy" in name:
            check_number(name, value, 0.0, 1.0)
        elif name in ("epoch", "step") or "second" in name:
            check_number(name, value, 0.0)
        elif isinstance(value, bool) or not isinstance(value, int | float):  # a loss may be infinite, a cap negative
            raise TypeError(f"{name} must be a number, got {kind_of(value)}")
    if (row["epoch"], row["step"]) != (epoch, step):
        raise ValueError(f"epoch {epoch} must end with step {step}, got epoch {row['epoch']} and step {row['step']}")


def _load_state(run: Run, stored: dict[str, Any]) -> None:
    training = stored["training"]
    with part("model"):
        run.model.load_state_dict(stored["model"])
    with part("optimiser"):
        load_optimiser(run.descent.optimiser, training["optimiser"])
    with part("descent"):
        if "descent" in training:  # runs of before there was a plateau to follow have none
            run.descent.load_state_dict(names(training["descent"]))
    with part("scaler"):
        for name, value in names(training["scaler"]).items():
            check_number(name, value, 0.0)
        run.scaler.load_state_dict(training["scaler"])
    with part("method"):
        run.take_step.load_state_dict(names(training["method"]))
    # After the method, whose state has the first process's generator.
    with part("others"):
        own = training if run.processes.leads else training["others"][run.processes.rank - 1]
    with part("generators"):
        for name, generator in run.generators.items():
            generator.set_state(names(own["generators"])[name])
    with part("default_generator"):
        torch.set_rng_state(own["default_generator"])
    with part("cuda_generator"):
        # None: the run was on a CPU so far. It goes on, with other numbers than it would have had there.
        if run.device.type == "cuda" and own["cuda_generator"] is not None:
            torch.cuda.set_rng_state(own["cuda_generator"], run.device)
    run.step, run.seconds = stored["step"], training["seconds"]
    run.history, run.totals = training["history"], training["totals"]
    if not run.processes.leads:  # the totals are of all processes: the first one goes on from them
        run.totals = torch.zeros_like(run.totals)
    run.best = {**run.best, **training["best"]}  # runs of before the attacks kept no accuracy apart


@float32_default()
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
        was stopped and resumed in between. torch's default generator is left as it was found. Called in each of
        several processes that ``torchrun`` started, they make one run together, see
        :class:`mixaug.train.processes.Processes`. Weights are float32 whatever torch's default dtype is.

    Args:
        settings: all that decides the result.
        data: parts that are loaded already; None: ``load_data`` with the settings' names.
        resume: go on with the run in ``settings.folder``; False refuses a folder that holds one.
        progress: show progress on standard error.
        download: let ``load_data`` fetch data that are not there.

    Returns:
        the paths of the run's files, its log, and whether Ctrl-C or SIGTERM ended it early. ``best.pt`` exists from the
        end of the first epoch on.

    Raises:
        BlockingIOError: another training is at work in the folder.
        FileExistsError: the folder holds a run and ``resume`` is False.
        FileNotFoundError: there is nothing to resume.
        ValueError: the settings do not fit the device, the number of processes or the run that is resumed; a damaged
            checkpoint.
        FloatingPointError: the loss is not finite.
        OSError: a full disk (named, with its free space; the last checkpoint is kept); a loader worker that died.

    Example:
        >>> settings = TrainSettings(data="digits", model="lenet5", method="standard", epochs=1, limit=256, out="run")
        >>> result = train(settings, progress=False)
        >>> result.best.name, len(result.history)
        ('best.pt', 1)
    """
    processes = this_process()
    processes.check(settings)
    if resume and not settings.folder.is_dir():
        open_run(settings, processes)  # there is nothing to lock: it says so
    with _alone_in(settings.folder) if processes.leads else nullcontext():
        return _train(settings, data, processes, resume=resume, progress=progress, download=download)


def _alone_in(folder: Path) -> AbstractContextManager[None]:
    return sole_use(
        folder / ".lock",
        f"another training is at work in {folder}: wait for its end, stop it, or choose another folder (--out)",
    )


def _train(
    settings: TrainSettings,
    data: DataParts | None,
    processes: Processes,
    *,
    resume: bool,
    progress: bool,
    download: bool,
) -> RunResult:
    # Read under the lock: nobody writes to the folder now.
    stored = open_run(settings, processes) if resume else None
    if not resume:
        refuse_existing(settings)
    device = run_device(settings, processes)
    if processes.leads:
        for folder in (settings.folder, settings.folder / "mixtures"):
            remove_stale(folder)
    with processes.connected(device), dead_worker_named():
        if data is None:
            data = _load_parts(settings, download, processes)
        if settings.extra_data is not None:
            data = with_extra(data, settings.extra_data)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            run = Run(settings, data, device, processes)
            if stored is not None:
                restore(run, stored)
            elif settings.drelu_quantile is not None:
                start_caps(run.model, data.train, run.prepare, settings.drelu_quantile)
            _follow(run, fresh=stored is None, progress=progress)
        processes.any(False)  # the files are whole when this returns, in every process
    folder = settings.folder
    return RunResult(
        folder=folder,
        last=folder / "last.pt",
        best=folder / "best.pt",
        log=folder / "log.csv",
        history=run.history,
        interrupted=not run.ended,
    )


def _load_parts(settings: TrainSettings, download: bool, processes: Processes) -> DataParts:
    from mixaug.train.data import load_data

    # One process of a machine fetches what the others then find.
    with processes.first_here() if download else nullcontext():
        return load_data(
            settings.data,
            root=settings.root,
            download=download,
            validation=settings.validation,
            image_size=settings.image_size,
            limit=settings.limit,
        )


def _follow(run: Run, fresh: bool, progress: bool) -> None:
    """Epoch after epoch, to the end of the run or to Ctrl-C, with log and progress from the first process."""
    folder, leads = run.settings.folder, run.processes.leads
    if leads:
        write_settings(folder / "settings.json", run.settings, resolved(run))
    with (
        StopRequest() as stop,
        RunLog(folder, run.step, fresh, active=leads) as log,
        EpochProgress(run.total_steps, run.step, run.epochs, progress and leads) as shown,
    ):
        for notice in (log.notice, slow_precision(run.device, run.settings.amp)):
            if notice:
                shown.note(notice)
        while not run.ended and not run.stopped:
            run.one_epoch(stop, log, shown)


def resolved(run: Run) -> dict[str, Any]:
    """What the settings left open, for ``settings.json``.

    Args:
        run: the run.
    """
    return {
        "device": str(run.device),
        "threads": torch.get_num_threads(),
        "processes": run.processes.count,
        "padding": run.padding,
        "flip": run.settings.flips,
        "batch_size": run.batch_size,
        "steps": run.total_steps,
        "epochs": run.epochs,
        "images": run.counts,
        "classes": list(run.data.classes),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "adversary": None if run.adversary is None else asdict(run.adversary),
    }
