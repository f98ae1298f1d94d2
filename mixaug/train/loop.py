"""The training loop: one for all methods, resumable to the bit, in one process or several.

A run's folder holds ``settings.json``, ``log.csv``, ``tensorboard/``, ``last.pt`` (everything to go on with) and
``best.pt`` (the model of the epoch with the highest accuracy on the validation part, under PGD for methods that
attack). Each file is whole or absent.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mixaug._files import remove_stale, sole_use
from mixaug._model_state import float32_default
from mixaug.train.activation import start_caps
from mixaug.train.batches import dead_worker_named
from mixaug.train.devices import run_device
from mixaug.train.extra import with_extra
from mixaug.train.interrupt import StopRequest
from mixaug.train.processes import Processes, this_process
from mixaug.train.progress import Progress
from mixaug.train.record import RunLog, RunResult, resolved, write_settings
from mixaug.train.resume import open_run, refuse_existing, restore
from mixaug.train.run import Run
from mixaug.train.settings import TrainSettings

if TYPE_CHECKING:
    from mixaug.train.data import DataParts

__all__ = ["RunResult", "train"]


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
        for place in (settings.folder, settings.folder / "mixtures"):
            remove_stale(place)
    with processes.connected(device), dead_worker_named():
        if data is None:
            data = _load(settings, download, processes)
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


def _load(settings: TrainSettings, download: bool, processes: Processes) -> DataParts:
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
        Progress(run.total_steps, run.step, run.epochs, progress and leads) as shown,
    ):
        if log.notice:
            shown.note(log.notice)
        while not run.ended and not run.stopped:
            run.one_epoch(stop, log, shown)
