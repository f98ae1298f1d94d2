"""What a run needs to go on to the bit where it stopped: taken from it, checked, and put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mixaug._checks import check_int, check_number, kind_of
from mixaug._tensor_files import finite_tensor, names, part, plain
from mixaug.train.checkpoint import describe_model, read_checkpoint
from mixaug.train.descent import load_optimiser
from mixaug.train.robust import score_of
from mixaug.train.settings import TrainSettings

if TYPE_CHECKING:
    from mixaug.train.processes import Processes
    from mixaug.train.run import Run

__all__ = ["model_content", "open_run", "refuse_existing", "restore", "training_state"]

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
        _load(run, stored)
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


def _load(run: Run, stored: dict[str, Any]) -> None:
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
