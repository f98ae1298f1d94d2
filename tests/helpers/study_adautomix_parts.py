"""Made-up results of the AdAutoMix study, for the tests of its page and of its runs."""

from __future__ import annotations

import json
from pathlib import Path

import study_adautomix
import study_adversarial_run
import study_command

RATIOS = ("0", "0.5", "0.9")


def figure(value, n):
    return {"value": value, "low": value - 0.1, "high": value + 0.2, "n": n}


def result(job, *, steps=3, left=(0.9, 0.5, 0.1), losses=None, skipped=0.0, **errors):
    """A result whose errors are 50% but for those that are named."""
    settings = study_adversarial_run.settings_of(job, "cpu", Path("/home/somebody"))
    counts = {"clean": 1000, "ece": 1000, "rms": 1000, "fgsm": 8, "mce": 4, "occlusion": 8}
    columns = ("mixed_loss", "adversarial_loss", "similarity")
    if losses is None:
        losses = (2.0, 2.5, 0.25) if settings.method == "adautomix" else (None, None, None)
    return {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "evaluation": job.plan.evaluation(),
        "figures": {key: figure(errors.get(key, 0.5), n) for key, n in counts.items()},
        "occlusion": {ratio: figure(value, 8) for ratio, value in zip(RATIOS, left, strict=True)},
        "patch_size": 2,
        "last_epoch": dict(zip(columns, losses, strict=True)),
        "skipped": skipped,
        "best": {"epoch": 2.0, "validation_accuracy": 0.75, "last_validation_accuracy": 0.7},
        "steps": steps,
        "parameters": 309_000,
        "training_images": 250,
        "validation_images": 500,
        "history": [{"epoch": 1}, {"epoch": 2}],
        "seconds": {"training": 4.0, "measuring": 1.0, "all": 60.0},
        "environment": {"torch": "2", "time": "now", "device": "CPU, 1 threads"},
        "processor": "abacus, 2 cores",
    }


def write(job, options, row):
    study_command.write_text(options.out / job.name / "result.json", json.dumps(row))


def study_of(tmp_path, *arguments):
    options = study_adautomix.parse(["--quick", "--seeds", "2", "--out", str(tmp_path), *arguments])
    plan = study_adautomix.plan_of(options)
    return options, plan, study_adautomix.jobs_of(plan, options.seeds)
