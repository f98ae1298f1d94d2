"""One run of the study of mixing sets: trains a variant, measures it, keeps the result."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

import torch
from study_adversarial_run import figure, in_channels_last
from study_ipmix import Job, processor, write_text
from study_mixing_sets_plan import FIGURES, PLAIN
from study_page import Row
from torch import Tensor

from mixaug._files import atomic_path
from mixaug.evaluate import evaluate_model
from mixaug.mixing_sets.named import mixing_set_of
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import load_data
from mixaug.train.loop import train
from mixaug.train.settings import TrainSettings

#: Pictures of a plain set, as many as in the default set; side of a picture, and its cells of noise along a side. IPMix
#: shrinks pictures to 32 px for images of 28: noise of single pixels would reach it as grey.
COUNT, SIZE, CELLS = 512, 256, 32


def plain_pictures(kind: str, count: int = COUNT) -> Tensor:
    """White noise in cells of 8 px, or one colour each: uint8 (count, 3, 256, 256), the same at every call."""
    cells = {"noise": CELLS, "flat": 1}[kind]
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (count, 3, cells, cells), dtype=torch.uint8, generator=generator)
    scale = SIZE // cells
    return small.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def plain_folder(kind: str, out: Path, count: int = COUNT) -> Path:
    """The folder of a plain set below ``out``; what is missing in it is made by the first run that needs it."""
    from filelock import FileLock
    from PIL import Image

    folder = out / "plain_pictures" / kind
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        missing = [i for i in range(count) if not (folder / f"{i:04}.png").exists()]
        if missing:
            pictures = plain_pictures(kind, count)
            for i in missing:
                with atomic_path(folder / f"{i:04}.png") as temporary:
                    Image.fromarray(pictures[i].permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    return folder


def settings_of(job: Job, folder: Path, options: argparse.Namespace) -> TrainSettings:
    """The training settings of a run; the pictures of a plain set are made here."""
    plan = job.plan
    chosen = dict(plan.variants[job.variant])
    if job.variant in PLAIN:
        chosen["mixing_set"] = str(plain_folder(PLAIN[job.variant], options.out))
    return TrainSettings(
        data=plan.data,
        limit=plan.limit,
        epochs=plan.epochs,
        amp=options.amp,
        seed=job.seed,
        device="cpu",
        out=str(folder),
        **chosen,
    )


def pictures_of(settings: TrainSettings) -> dict[str, object] | None:
    """Number and SHA-256 of the pictures that are mixed in, which makes them before the clock of training starts."""
    if settings.mixing_set is None:
        return None
    pictures = mixing_set_of(settings.mixing_set).pictures
    digest = hashlib.sha256(pictures.contiguous().numpy().data).hexdigest()
    return {"count": len(pictures), "sha256": digest}


def run_one(job: Job, folder: Path, options: argparse.Namespace) -> int:
    """Trains and measures; a run that was stopped goes on, a trained one is only measured. 130: Ctrl-C ended it."""
    started = time.perf_counter()
    plan = job.plan
    data = load_data(plan.data, limit=plan.limit)
    settings = settings_of(job, folder, options)
    pictures = pictures_of(settings)
    trained = train(settings, data, resume=(folder / "last.pt").exists(), progress=True)
    if trained.interrupted:
        return 130
    measuring = time.perf_counter()
    loaded, info = load_checkpoint(trained.last)
    report = evaluate_model(
        in_channels_last(loaded),
        data.test,
        attacks=None,
        audit=False,
        n_corruption=plan.images,
        name=job.variant,
        classes=data.classes,
    )
    if report.mce is None:
        raise RuntimeError("the evaluation measured no corruption")
    estimates = {"clean": report.clean_error, "mce": report.mce, "rms": report.rms, "ece": report.ece}
    resolved = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["resolved"]
    seconds = {"training": trained.history[-1]["seconds"], "measuring": time.perf_counter() - measuring}
    result: Row = {
        "variant": job.variant,
        "data": plan.key,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "images": plan.images,
        "pictures": pictures,
        "figures": {key: figure(estimates[key]) for key in FIGURES},
        "corruptions": {name: estimate.value for name, estimate in report.corruption_means.items()},
        "best_epoch": max(trained.history, key=lambda row: row["validation_accuracy"])["epoch"],
        "steps": info["step"],
        "training_images": resolved["images"]["train"],
        "history": trained.history,
        # A resumed run's clock began anew: what it trained before is in its log.
        "seconds": {**seconds, "all": max(time.perf_counter() - started, sum(seconds.values()))},
        "environment": report.environment,
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return 0


def read_result(job: Job, options: argparse.Namespace) -> Row | None:
    """The result of a run; None when it is not finished.

    Raises:
        ValueError: the result was made with other settings.
    """
    path = options.out / job.name / "result.json"
    if not path.exists():
        return None
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    kept, plan = row["settings"], job.plan
    found = (kept["epochs"], kept["limit"], kept["amp"], row["images"])
    if found != (plan.epochs, plan.limit, options.amp, plan.images):
        raise ValueError(f"{path} was made with other sizes; choose another --out or remove it")
    return row
