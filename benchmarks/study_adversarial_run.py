"""One run of the adversarial study: trains a variant, measures it, keeps the result."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from study_adversarial_plan import Job, Plan
from study_ipmix import processor, write_text
from torch import Tensor, nn

from mixaug.attacks import FGSM, PGD, SPSA, AutoAttack, CWLinf, Square
from mixaug.evaluate import Report, evaluate_model
from mixaug.evaluate.intervals import Estimate, bootstrap_means, share
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import load_data
from mixaug.train.loop import train
from mixaug.train.processes import peak_memory
from mixaug.train.record import RunResult
from mixaug.train.settings import TrainSettings

#: The attacks of the hybrid paper: the worst of them makes its robustness gap.
GRADIENT_ATTACKS = ("fgsm", "pgd-20", "cw-20")
BEST_ATTACK = "pgd-20"  # what the best epoch is measured with


def settings_of(job: Job, device: str, out: Path) -> TrainSettings:
    """The training settings of a run."""
    return TrainSettings(**job.plan.settings(job.variant), seed=job.seed, device=device, out=str(out))


def attacks_of(plan: Plan) -> list[Any]:
    """The attacks of the evaluation, each step a quarter of the radius.

    SPSA leaves an image alone once it is fooled: the accuracy is that of the strongest step, for fewer queries.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed.
    """
    eps, sizes = plan.eps, plan.sizes
    return [
        FGSM(eps=eps),
        PGD(eps=eps, step_size=eps / 4, steps=20),
        CWLinf(eps=eps, step_size=eps / 4, steps=20),
        SPSA(eps=eps, samples=sizes.directions, early_stop=True),
        Square(eps=eps, queries=sizes.queries, rescale=True),
        AutoAttack(eps=eps),
    ]


def run_one(job: Job, folder: Path, device: str) -> int:
    """Trains and measures; a run that was stopped goes on, a trained one is only measured. 130: Ctrl-C ended it."""
    plan = job.plan
    started = time.perf_counter()
    data = load_data(plan.shared["data"], limit=plan.shared["limit"])
    settings = settings_of(job, device, folder)
    before = memory_at_start(folder)
    trained = train(settings, data, resume=(folder / "last.pt").exists(), progress=True)
    if trained.interrupted:
        return 130
    measuring = time.perf_counter()
    model, info = load_checkpoint(trained.last)
    attacks = attacks_of(plan)
    report = evaluate_model(
        in_channels_last(model),
        data.test,
        attacks=attacks,
        corruptions=None,
        audit=False,
        eps=plan.eps,
        n_attack={attack.name: plan.sizes.n[attack.name] for attack in attacks},
        n_lipschitz=plan.sizes.n["lipschitz"],
        device=device,
        name=job.variant,
        classes=data.classes,
    )
    best_model, best = load_checkpoint(trained.best)
    best_report = evaluate_model(
        in_channels_last(best_model),
        data.test,
        attacks=[attack for attack in attacks if attack.name == BEST_ATTACK],
        corruptions=None,
        audit=False,
        n_attack=plan.sizes.n[BEST_ATTACK],
        device=device,
    )
    resolved = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["resolved"]
    seconds = {"training": trained.history[-1]["seconds"], "measuring": time.perf_counter() - measuring}
    result = {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "adversary": resolved["adversary"],
        "evaluation": plan.evaluation(),
        "attacks": report.settings["attacks"],
        **measured(report),
        "best": {"epoch": best["epoch"], **best_figures(best_report)},
        "cost": cost(trained, before),
        "steps": info["step"],
        "parameters": resolved["parameters"],
        "training_images": resolved["images"]["train"],
        "validation_images": resolved["images"]["validation"],
        "history": trained.history,
        # A resumed run's clock began anew: what it trained before is in its log.
        "seconds": {**seconds, **report.seconds, "all": max(time.perf_counter() - started, sum(seconds.values()))},
        "environment": report.environment,
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return 0


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


def figure(estimate: Estimate) -> dict[str, Any]:
    """Value, interval and number of images, as plain numbers."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def measured(report: Report) -> dict[str, Any]:
    """Accuracies, gap, confidence, Lipschitz constant; and all attacks on the images that every one was given."""
    if report.lipschitz is None:
        raise RuntimeError("the evaluation measured no Lipschitz constant")
    outcomes, attacks = report.outcomes, report.attacks
    figures = {"clean": share(outcomes.correct)}
    figures |= {name: result.accuracy for name, result in attacks.items()}
    figures["lipschitz"] = report.lipschitz
    gaps = {name: attacks[name].gap for name in GRADIENT_ATTACKS}
    worst = max(gaps, key=lambda name: gaps[name].value)
    index = min(outcomes.attack_index.values(), key=len)
    held = {"clean": outcomes.correct[index]}
    held |= {name: on_images(outcomes.attack_index[name], right, index) for name, right in outcomes.attacked.items()}
    held["all"] = torch.stack(list(held.values())).all(0)
    (lost,) = bootstrap_means((held["pgd-20"].double() - held["autoattack"].double())[:, None])
    return {
        "figures": {name: figure(estimate) for name, estimate in figures.items()},
        "gap": {**figure(gaps[worst]), "attack": worst},
        "confidence": figure(attacks[BEST_ATTACK].confidence),
        "same_images": {name: figure(share(right)) for name, right in held.items()},
        "pgd_less_autoattack": figure(lost),
    }


def on_images(index: Tensor, right: Tensor, wanted: Tensor) -> Tensor:
    """An attack's outcomes on some of its images.

    Raises:
        RuntimeError: it was not given all of them.
    """
    found = torch.isin(index, wanted)
    if int(found.sum()) != len(wanted):
        raise RuntimeError("the images of one attack must be among those of the others")
    return right[found]


def best_figures(report: Report) -> dict[str, Any]:
    """Accuracies of the best epoch's model."""
    return {
        "clean": figure(share(report.outcomes.correct)),
        BEST_ATTACK: figure(report.attacks[BEST_ATTACK].accuracy),
    }


def cost(trained: RunResult, before: float | None) -> dict[str, Any]:
    """Seconds of an epoch of training, without validation, and the most memory in MiB, from the run's log.

    The median over the epochs, since other work on the machine only ever adds time.
    """
    peaks = [row["peak_memory"] for row in trained.history if "peak_memory" in row]
    return {
        "epoch_seconds": statistics.median(row["epoch_seconds"] for row in trained.history),
        "peak_memory": max(peaks, default=None),
        "process_before_training": before,  # of the process, on a GPU too: the peak there is of the device
        "overfitted_epochs": [
            int(row["epoch"]) for row in trained.history if row.get("catastrophic_overfitting")
        ],
    }  # fmt: skip
