"""A run: its settings, its training, what its result says of these and of the machine, and how it is read again."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from mixaug.evaluate import Report
from mixaug.evaluate.intervals import Estimate
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import load_data
from mixaug.train.loop import train
from mixaug.train.processes import peak_memory
from mixaug.train.record import RunResult
from mixaug.train.settings import TrainSettings
from study.plan import DataPlan, Job
from study.runs import write_text

#: What a run left in its ``result.json``.
Row: TypeAlias = dict[str, Any]


def settings_of(job: Job, device: str, out: Path) -> TrainSettings:
    """The training settings of a run."""
    return TrainSettings(**job.plan.settings(job.variant), seed=job.seed, device=device, out=str(out))


def images_of(plan: DataPlan) -> Any:
    """The plan's images, in their parts."""
    return load_data(plan.shared["data"], limit=plan.shared["limit"])


class Trained(NamedTuple):
    """A finished training: the model of its last epoch, the step and settings in its checkpoint."""

    run: RunResult
    model: nn.Module
    info: dict[str, Any]
    resolved: dict[str, Any]


def trained_in(folder: Path, settings: TrainSettings, data: Any) -> Trained | None:
    """Trains, or goes on where a run was stopped; one that is trained is only read. None: Ctrl-C ended it."""
    run = train(settings, data, resume=(folder / "last.pt").exists(), progress=True)
    if run.interrupted:
        return None
    model, info = load_checkpoint(run.last)
    resolved = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["resolved"]
    return Trained(run, model, info, resolved)


def in_channels_last(model: nn.Module) -> nn.Module:
    """The model in the memory format it was trained in: a quarter less time on a CPU than as it is loaded."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def memory_at_start(folder: Path) -> float | None:
    """The most memory of the process that began the run, in MiB, before it trained; None where it is not known."""
    path = folder / "memory.json"
    if not path.exists():  # a process that goes on with the run has another one, and the log is of the first
        write_text(path, json.dumps({"before_training": peak_memory(torch.device("cpu"))}) + "\n")
    before: float | None = json.loads(path.read_text(encoding="utf-8"))["before_training"]
    return before


def with_interval(estimate: Estimate) -> dict[str, Any]:
    """Value, interval and number of images, as plain numbers."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def on_images(index: Tensor, right: Tensor, wanted: Tensor) -> Tensor:
    """An attack's outcomes on some of its images.

    Raises:
        RuntimeError: it was not given all of them.
    """
    found = torch.isin(index, wanted)
    if int(found.sum()) != len(wanted):
        raise RuntimeError("the images of one attack must be among those of the others")
    return right[found]


def of_the_run(
    trained: Trained, report: Report, started: float, measuring: float, parts: Mapping[str, float] | None = None
) -> Row:
    """The end of every result: steps, images, log, seconds, versions and machine.

    Args:
        trained: the training.
        report: of the evaluation, for the versions.
        started: of the clock, when the run began,
        measuring: and when it was trained.
        parts: seconds of each part of the evaluation, where they are kept.
    """
    history = trained.run.history
    seconds = {"training": history[-1]["seconds"], "measuring": time.perf_counter() - measuring}
    return {
        "steps": trained.info["step"],
        "training_images": trained.resolved["images"]["train"],
        "history": history,
        # A resumed run's clock began anew: what it trained before is in its log.
        "seconds": {**seconds, **(parts or {}), "all": max(time.perf_counter() - started, sum(seconds.values()))},
        "environment": report.environment,
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_result(folder: Path, row: Row) -> None:
    """Keeps the result of a run, which is then finished."""
    write_text(folder / "result.json", json.dumps(row, indent=1) + "\n")


def result_of(job: Job, options: argparse.Namespace) -> tuple[Path, Row | None]:
    """Where the result of a run is, and what it says; None where there is none."""
    path = options.out / job.name / "result.json"
    return path, json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_result(job: Job, options: argparse.Namespace) -> Row | None:
    """The result of a run of a ``Plan``; None when it is not finished.

    Raises:
        ValueError: the result was made with other settings.
    """
    path, row = result_of(job, options)
    if row is None:
        return None
    wanted = settings_of(job, "cpu", path.parent)
    different = wanted.differences(TrainSettings.from_dict(row["settings"]))
    different += [name for name, value in job.plan.evaluation().items() if row["evaluation"].get(name) != value]
    if different:
        raise ValueError(
            f"{path} was made with other settings ({', '.join(different)}); choose another --out or remove it"
        )
    return row


def read_sized_result(job: Job, options: argparse.Namespace) -> Row | None:
    """The result of a run of a ``DataPlan``, of which the sizes alone are compared; None when it is not finished.

    Raises:
        ValueError: the result was made with other sizes.
    """
    path, row = result_of(job, options)
    if row is None:
        return None
    wanted = {name: job.plan.shared[name] for name in ("epochs", "limit", "amp")}
    images = row.get("images", job.plan.sizes.n["corruptions"])  # older results do not say it
    if images != job.plan.sizes.n["corruptions"] or any(row["settings"][name] != wanted[name] for name in wanted):
        raise ValueError(f"{path} was made with other sizes; choose another --out or remove it")
    return row
