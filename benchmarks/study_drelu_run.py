"""One run of the D-ReLU study: trains a variant, measures it, keeps the result; and the images that are transferred."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from study_adversarial_plan import Job
from study_adversarial_run import figure, in_channels_last, on_images, settings_of
from study_drelu_plan import CURVES, GRADIENT_ATTACKS, OTHER_ATTACKS, DreluPlan
from study_ipmix import processor, write_text
from torch import Tensor, nn

from mixaug._files import atomic_path
from mixaug._model_state import evaluation_mode
from mixaug._pictures import as_float
from mixaug.attacks import APGD, CWL2, FGSM, PGD, AutoAttack, CWLinf, Square
from mixaug.evaluate import Report, evaluate_model
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.intervals import bootstrap_means, share
from mixaug.evaluate.measures.zero_gradients import zero_gradient_share
from mixaug.evaluate.plan import seeded
from mixaug.evaluate.seeds import subset
from mixaug.nn.caps import cap_figures
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import load_data
from mixaug.train.loop import train

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
#: Images that were attacked, and what became of them, by the attack's name.
Pairs = dict[str, tuple[Tensor, Tensor]]


def at(name: str, radius: float) -> str:
    """Name of an attack of a curve: ``pgd-20 at 0.3``."""
    return f"{name} at {radius:g}"


class Transferred:
    """An attack that was made on another model: it looks up what became of an image there.

    Args:
        clean: the images (N, C, H, W) that were attacked.
        made: what became of them.
    """

    def __init__(self, clean: Tensor, made: Tensor) -> None:
        self._places = {image.contiguous().numpy().tobytes(): place for place, image in enumerate(clean)}
        self._made = made

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        places = [self._places[image.contiguous().numpy().tobytes()] for image in images.cpu()]
        return self._made[places].to(images)


def noise(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float) -> Tensor:
    """Every pixel moved by the radius, up or down: the most that noise can do; the same for all models."""
    signs = torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(0)).to(images) * 2 - 1
    return (images + eps * signs).clamp(0, 1)


def transferred_attack(eps: float) -> CWLinf:
    """What is transferred: the margin of the logits does not saturate, as the plain model's cross-entropy does."""
    return CWLinf(eps=eps, step_size=eps / 4, steps=20)


def attacks_of(plan: DreluPlan, pairs: Pairs) -> tuple[dict[str, Attack], dict[str, int]]:
    """The attacks of the evaluation with the number of images that each is given.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed.
    """
    eps, sizes = plan.eps, plan.sizes
    found: dict[str, Attack] = {
        "fgsm": FGSM(eps=eps),
        "pgd-20": PGD(eps=eps, step_size=eps / 4, steps=20),
        "cw-20": CWLinf(eps=eps, step_size=eps / 4, steps=20),
        "apgd-ce": APGD(eps=eps, steps=sizes.steps),
        "apgd-dlr": APGD(eps=eps, steps=sizes.steps, loss="dlr"),
        "cw-l2": CWL2(
            eps=plan.l2, steps=sizes.l2_steps, search_steps=sizes.l2_weights, step_size=0.03, initial_const=0.1
        ),
        "square": Square(eps=eps, queries=sizes.queries, rescale=True),
        "autoattack": AutoAttack(eps=eps),
        "transfer": Transferred(*pairs["transfer"]) if pairs else transferred_attack(eps),
        "noise": partial(noise, eps=eps),
    }
    counts = {name: sizes.n[name] for name in found}
    for radius in sizes.radii:
        curve: tuple[Attack, ...] = (
            PGD(eps=radius, step_size=radius / 4, steps=20),
            Square(eps=radius, queries=sizes.curve_queries, rescale=True),
            Transferred(*pairs[at("transfer", radius)]) if pairs else transferred_attack(radius),
        )
        for name, attack in zip(CURVES, curve, strict=True):
            found[at(name, radius)] = attack
            counts[at(name, radius)] = sizes.n_curve
    return found, counts


def trained_model(job: Job, folder: Path, device: str) -> tuple[Any, Any, nn.Module, dict[str, Any]] | None:
    """Trains or goes on with a run; data, result, model and what is known of it. None: Ctrl-C ended it."""
    plan = job.plan
    data = load_data(plan.shared["data"], limit=plan.shared["limit"])
    settings = settings_of(job, device, folder)
    trained = train(settings, data, resume=(folder / "last.pt").exists(), progress=True)
    if trained.interrupted:
        return None
    model, info = load_checkpoint(trained.last)
    return data, trained, in_channels_last(model), info


def run_source(plan: DreluPlan, job: Job, folder: Path, device: str) -> int:
    """Trains a plain model and keeps the images that are transferred from it. 130: Ctrl-C ended it."""
    if read_pairs(plan, folder):
        return 0
    found = trained_model(job, folder, device)
    if found is None:
        return 130
    data, _, model, _ = found
    attacks, counts = attacks_of(plan, {})
    images = LabelledImages(data.test)
    model = model.to(device)
    pairs = {}
    for name, attack in attacks.items():
        if name.startswith("transfer"):
            # All of them, also those that this model gets wrong: another one may get them right.
            clean, labels = images.take(subset("counts", counts[name], len(images), seed=0))
            clean = as_float(clean)
            with evaluation_mode(model):
                made = seeded(attack, 0, name)(model, clean.to(device), labels.to(device))
            pairs[name] = (clean, made.cpu())
    with atomic_path(folder / "transfer.pt") as temporary:
        torch.save({"evaluation": plan.evaluation(), "pairs": pairs}, temporary)
    return 0


def read_pairs(plan: DreluPlan, folder: Path) -> Pairs:
    """The transferred images of a source; empty when they are not made, or were made for another evaluation."""
    path = folder / "transfer.pt"
    kept = torch.load(path, weights_only=True) if path.exists() else {}
    pairs: Pairs = kept["pairs"] if kept.get("evaluation") == plan.evaluation() else {}
    return pairs


def run_one(plan: DreluPlan, job: Job, folder: Path, pairs: Pairs, device: str) -> int:
    """Trains and measures; a run that was stopped goes on, a trained one is only measured. 130: Ctrl-C ended it."""
    started = time.perf_counter()
    found = trained_model(job, folder, device)
    if found is None:
        return 130
    data, trained, model, info = found
    measuring = time.perf_counter()
    attacks, counts = attacks_of(plan, pairs)
    # Every attack draws from the seed and its own name: the same starts for all models.
    report = evaluate_model(
        model, data.test, attacks=attacks, corruptions=None, audit=False, n_attack=counts, device=device,
        name=job.variant,
    )  # fmt: skip
    resolved = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["resolved"]
    seconds = {"training": trained.history[-1]["seconds"], "measuring": time.perf_counter() - measuring}
    result = {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings_of(job, device, folder).to_dict(),
        "evaluation": plan.evaluation(),
        "attacks": report.settings["attacks"],
        **measured(report, plan),
        "caps": caps_of(model.to(device), data.test, plan.sizes.n["caps"]),
        "steps": info["step"],
        "parameters": resolved["parameters"],
        "training_images": resolved["images"]["train"],
        "validation_images": resolved["images"]["validation"],
        "history": trained.history,
        # A resumed run's clock began anew: what it trained before is in its log.
        "seconds": {**report.seconds, **seconds, "all": max(time.perf_counter() - started, sum(seconds.values()))},
        "environment": report.environment,
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return 0


def measured(report: Report, plan: DreluPlan) -> dict[str, Any]:
    """Accuracies; the curves; and all attacks of the radius on the images that every one was given."""
    outcomes = report.outcomes
    accuracies = {name: result.accuracy for name, result in report.attacks.items()}
    of_curve = {at(name, radius) for name in CURVES for radius in plan.sizes.radii}
    index = min(outcomes.attack_index.values(), key=len)
    held = {"clean": outcomes.correct[index]}
    for name in (*GRADIENT_ATTACKS, *OTHER_ATTACKS):
        held[name] = on_images(outcomes.attack_index[name], outcomes.attacked[name], index)
    held["all"] = torch.stack(list(held.values())).all(0)
    # One attacker has one attack: the strongest of the gradient attacks, not the worst of them image by image.
    best = min(GRADIENT_ATTACKS, key=lambda name: int(held[name].sum()))
    masked = {name: held[key].double() - held["all"].double() for name, key in (("pgd-20", "pgd-20"), ("best", best))}
    gaps = bootstrap_means(torch.stack(list(masked.values()), 1))
    clean = {"clean": share(outcomes.correct)}
    return {
        "figures": {
            name: figure(estimate) for name, estimate in (clean | accuracies).items() if name not in of_curve
        },
        "curves": {
            name: {f"{radius:g}": figure(accuracies[at(name, radius)]) for radius in plan.sizes.radii}
            for name in CURVES
        },
        "same_images": {name: figure(share(right)) for name, right in held.items()},
        "masked": {name: figure(gap) for name, gap in zip(masked, gaps, strict=True)},
        "best_gradient_attack": best,
    }  # fmt: skip


def caps_of(model: nn.Module, test: Any, count: int) -> dict[str, Any]:
    """Quantiles of the caps and what they cap; images without a gradient, for models without caps too."""
    images, labels = LabelledImages(test).take(torch.arange(count))
    images = as_float(images)
    figures = cap_figures(model, images, labels)
    found = {} if figures is None else {
        "quantiles": list(figures.quantiles),
        "capped_share": figures.capped_share,
        "capped_units": figures.capped_units,
    }  # fmt: skip
    return {**found, "zero_gradient": figure(zero_gradient_share(model, images, labels)), "n": count}
