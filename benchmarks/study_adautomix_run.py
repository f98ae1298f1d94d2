"""One run of the AdAutoMix study: trains a variant, measures it, keeps the result."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from study_adautomix_plan import MixPlan
from study_adversarial_plan import Job
from study_adversarial_run import figure, in_channels_last, settings_of
from study_ipmix import processor, write_text

from mixaug.attacks import FGSM
from mixaug.evaluate import evaluate_model, occlusion_curve
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import load_data
from mixaug.train.loop import train


def run_one(plan: MixPlan, job: Job, folder: Path, device: str) -> int:
    """Trains and measures; a run that was stopped goes on, a trained one is only measured. 130: Ctrl-C ended it."""
    started = time.perf_counter()
    data = load_data(plan.shared["data"], limit=plan.shared["limit"])
    settings = settings_of(job, device, folder)
    trained = train(settings, data, resume=(folder / "last.pt").exists(), progress=True)
    if trained.interrupted:
        return 130
    measuring = time.perf_counter()
    loaded, info = load_checkpoint(trained.last)
    model, n = in_channels_last(loaded), plan.sizes.n
    report = evaluate_model(
        model,
        data.test,
        attacks=[FGSM(eps=plan.eps)],
        corruptions="cifar",
        audit=False,
        n_corruption=n["corruptions"],
        n_attack=n["fgsm"],
        device=device,
        name=job.variant,
        classes=data.classes,
    )
    if report.mce is None:
        raise RuntimeError("the evaluation measured no corruption")
    curve = occlusion_curve(model, data.test, n=n["occlusion"], device=device)
    resolved = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["resolved"]
    (attacked,) = report.attacks.values()
    estimates = {
        "clean": report.clean_error,
        "mce": report.mce,
        "ece": report.ece,
        "rms": report.rms,
        "fgsm": attacked.error,
    }
    figures = {name: figure(estimate) for name, estimate in estimates.items()}
    hidden = figure(curve.area)
    # An error like the others.
    figures["occlusion"] = {
        **hidden,
        "value": 1 - hidden["value"],
        "low": 1 - hidden["high"],
        "high": 1 - hidden["low"],
    }
    seconds = {"training": trained.history[-1]["seconds"], "measuring": time.perf_counter() - measuring}
    result = {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "evaluation": plan.evaluation(),
        "figures": figures,
        "occlusion": {f"{ratio:g}": figure(one) for ratio, one in zip(curve.ratios, curve.accuracy, strict=True)},
        "patch_size": curve.patch_size,
        "last_epoch": {key: trained.history[-1].get(key) for key in ("mixed_loss", "adversarial_loss", "similarity")},
        "skipped": trained.history[-1].get("skipped_steps", 0.0),
        "best": best_epoch(trained.history),
        "steps": info["step"],
        "parameters": resolved["parameters"],
        "training_images": resolved["images"]["train"],
        "validation_images": resolved["images"]["validation"],
        "history": trained.history,
        # A resumed run's clock began anew: what it trained before is in its log.
        "seconds": {**seconds, "all": max(time.perf_counter() - started, sum(seconds.values()))},
        "environment": report.environment,
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return 0


def best_epoch(history: list[dict[str, float]]) -> dict[str, float]:
    """The epoch with the highest accuracy on the validation part, and the last one's there."""
    best = max(history, key=lambda row: row["validation_accuracy"])
    return {
        "epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "last_validation_accuracy": history[-1]["validation_accuracy"],
    }
