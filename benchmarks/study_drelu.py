"""D-ReLU: what a lambda does to the caps and to the accuracy under each attack, and how much of it is real.

    python benchmarks/study_drelu.py

trains the plain model, the same with a new layer and ReLU before its output layer, and that layer with D-ReLU for five
values of lambda, with every seed; measures each; and writes ``docs/results/study_drelu.md``, ``.json`` and ``.png``.
Each run is a process of its own with one thread, as many at a time as there are cores, in its own folder; finished ones
are skipped and stopped ones resumed, so the same command goes on after an interruption. ``--report-only`` writes the
page from what is finished and says what is missing.

    --lambdas 0.1,1,10      other values of lambda
    --placement stem        a new convolution before the first one (the paper's Fig. 13); last-block, all: other ReLUs
    --recipe paper          Adam, halved on a plateau, stopped early, in place of SGD on a cosine
    --method pgd            with any training method
    --cifar FOLDER --gpu    ResNet-18 on CIFAR-10 in bf16
    --quick                 a handful of images, to see that it works

Each of the last five has a page of its own. Needs the extra ``attacks`` (APGD, Square and AutoAttack).

Equal for all variants: first weights (per seed; of the head, for all that have one), optimiser, schedule, number of
optimiser steps (but with a plateau), crops and flips, images, radius, the evaluation's random starts, and the images
that are transferred from a plain model of the next seed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from study import command, measured, tables
from study.figure import plain, save
from study.measured import Row
from study.page import batch_of, how_it_was_made, mean_of, over_seeds, results_of, summary, title_lines
from study.plan import Job, Plan, Sizes, data_of, jobs_of
from study.tables import Rows, Study
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
from mixaug.train.settings import ADVERSARIAL_METHODS, METHOD_NAMES

# --- what is trained and measured ------------------------------------------------------------------------------------

PLAIN = "no head"  # of other placements "no stem" would say the same: the model as it is
LAMBDAS = (0.03, 0.1, 0.3, 1.0, 3.0)
FEATURES = {"head": 256, "stem": 16}
PLACES = {
    "head": "a dense layer before the output layer",
    "stem": "a convolution before the first one",
    "last-block": "the ReLUs of the last block",
    "all": "all ReLUs",
}
#: Attacks within the radius: an image that one of them fools is not held under "all attacks".
GRADIENT_ATTACKS = ("fgsm", "pgd-20", "cw-20", "apgd-ce", "apgd-dlr")
OTHER_ATTACKS = ("square", "autoattack", "transfer", "noise")
#: Attacks of the curves of accuracy against the radius.
CURVES = ("pgd-20", "square", "transfer")


@dataclass(frozen=True)
class DreluSizes(Sizes):
    """How much is measured of each model.

    Args:
        n: test images by what is measured on them.
        queries: Square's most forwards an image.
        steps: of APGD.
        l2_steps: Adam's steps of CW-L2 for each weight.
        l2_weights: weights that CW-L2 tries.
        radii: of the curves.
        n_curve: test images of the curves.
        curve_queries: Square's most forwards an image in the curves.
    """

    queries: int = 1_000
    steps: int = 50
    l2_steps: int = 40
    l2_weights: int = 4
    radii: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    n_curve: int = 100
    curve_queries: int = 200


def _counts(many: int, few: int) -> dict[str, int]:
    wide = ("fgsm", "pgd-20", "cw-20", "transfer", "noise", "caps")
    return dict.fromkeys(wide, many) | dict.fromkeys(("apgd-ce", "apgd-dlr", "cw-l2", "square", "autoattack"), few)


FULL = DreluSizes(_counts(500, 100))
GPU = DreluSizes(
    _counts(1000, 500), queries=5_000, steps=100, l2_steps=100, l2_weights=9, n_curve=500, curve_queries=1_000
)
QUICK = DreluSizes(
    _counts(8, 4), queries=20, steps=2, l2_steps=2, l2_weights=1, radii=(0.1, 0.5), n_curve=4, curve_queries=5
)


@dataclass(frozen=True, eq=False)  # the same object is the same plan: hashable with its dicts
class DreluPlan(Plan):
    """One page of the study.

    Args:
        sizes: of the evaluation.
        pixels: numbers in an image.
        lambdas: in ascending order.
        placement: of the activation.
        names: of the D-ReLU variants, by lambda.
    """

    sizes: DreluSizes
    pixels: int = 28 * 28
    lambdas: tuple[float, ...] = ()
    placement: str = "head"
    names: Mapping[float, str] = field(default_factory=dict)

    def settings(self, variant: str) -> dict[str, Any]:
        """Training settings of a variant, but for seed, device and folder."""
        chosen = super().settings(variant)
        return chosen | ({"eps": self.eps} if chosen["method"] in ADVERSARIAL_METHODS else {})

    @property
    def baseline(self) -> str:
        """What D-ReLU is compared with: the same layer with ReLU, or the plain model where there is no new layer."""
        return next(reversed([name for name in self.variants if name not in self.names.values()]))

    @property
    def l2(self) -> float:
        """The longest change that counts for CW-L2: from an image to a corner of the l-infinity ball of the radius."""
        return self.eps * math.sqrt(self.pixels)

    def evaluation(self) -> dict[str, Any]:
        """Everything that decides what is measured, for the record."""
        sizes = self.sizes
        return {
            **super().evaluation(), "queries": sizes.queries, "steps": sizes.steps, "l2": self.l2,
            "l2_steps": sizes.l2_steps, "l2_weights": sizes.l2_weights, "radii": list(sizes.radii),
            "n_curve": sizes.n_curve, "curve_queries": sizes.curve_queries,
        }  # fmt: skip

    def source(self, seed: int) -> Job:
        """The plain model of the next seed, which the transferred images are made on."""
        return Job(self, PLAIN, seed + 1)


def names_of(placement: str, lambdas: tuple[float, ...]) -> dict[float, str]:
    """The D-ReLU variants' names: ``D-ReLU head, lambda 0.3``."""
    return {lam: f"D-ReLU {placement}, lambda {lam:g}" for lam in lambdas}


def variants_of(options: argparse.Namespace, lambdas: tuple[float, ...]) -> dict[str, dict[str, Any]]:
    """Settings by variant: the plain model, the new layer with ReLU (if it is one), with D-ReLU for each lambda."""
    layer: dict[str, Any] = {"placement": options.placement}
    found: dict[str, dict[str, Any]] = {PLAIN: {}}
    if options.placement in FEATURES:
        layer["extra_features"] = options.features or FEATURES[options.placement]
        found[f"ReLU {options.placement}"] = dict(layer)
    layer["activation"] = "drelu"
    for name in ("drelu_m_lr", "drelu_init", "drelu_quantile"):
        if getattr(options, name) is not None:
            layer[name] = getattr(options, name)
    return found | {name: {**layer, "drelu_lambda": lam} for lam, name in names_of(options.placement, lambdas).items()}


def plan_of(options: argparse.Namespace) -> DreluPlan:
    """The page that the options ask for.

    20 epochs on 3,000 training images of the package: with 10, no lambda left an accuracy that was worth attacking
    where the caps are tight, and the whole page stays below an hour on two free cores.
    """
    lambdas = options.lambdas or LAMBDAS
    key = "study_drelu" + "".join(
        f"_{part}"
        for part, default in ((options.placement, "head"), (options.recipe, "sgd"), (options.method, "standard"))
        if part != default
    )
    title = ", ".join(
        [
            "D-ReLU: accuracy against lambda",
            *([f"in {PLACES[options.placement]}"] if options.placement != "head" else []),
            *(["the paper's recipe"] if options.recipe == "paper" else []),
            *([f"method {options.method}"] if options.method != "standard" else []),
        ]
    )
    label, data = data_of(options.cifar)
    shared: dict[str, Any] = {"data": data, "method": options.method, "amp": options.amp, "limit": options.limit}
    if options.cifar is None:
        shared |= {"model": "resnet-small", "limit": options.limit or 3_000}
        epochs, eps, pixels = 20, 0.1, 28 * 28
    else:
        key = f"{key}_cifar10"
        shared |= {"model": "resnet18-cifar"}
        epochs, eps, pixels = 30, 0.01, 3 * 32 * 32
    if options.recipe == "paper":
        shared |= {"optimizer": "adam", "plateau": True}
        epochs = 100
    shared["epochs"] = options.epochs or epochs
    sizes = GPU if options.gpu else FULL
    if options.quick:
        shared |= {"epochs": options.epochs or 2, "limit": options.limit or 256, "robust_images": 20}
        sizes = QUICK
    return DreluPlan(
        key=key,
        title=f"{title}, {'on a GPU' if options.gpu else 'at CPU scale'}",
        label=label,
        shared=shared,
        variants=variants_of(options, lambdas),
        reference=PLAIN,
        eps=options.eps or eps,
        sizes=sizes,
        pixels=pixels,
        lambdas=lambdas,
        placement=options.placement,
        names=names_of(options.placement, lambdas),
    )


# --- one run ---------------------------------------------------------------------------------------------------------

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


def run_source(plan: DreluPlan, job: Job, folder: Path, device: str) -> int:
    """Trains a plain model and keeps the images that are transferred from it. 130: Ctrl-C ended it."""
    if read_pairs(plan, folder):
        return 0
    data = measured.images_of(plan)
    trained = measured.trained_in(folder, measured.settings_of(job, device, folder), data)
    if trained is None:
        return 130
    attacks, counts = attacks_of(plan, {})
    images = LabelledImages(data.test)
    model = measured.in_channels_last(trained.model).to(device)
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
    data, settings = measured.images_of(plan), measured.settings_of(job, device, folder)
    trained = measured.trained_in(folder, settings, data)
    if trained is None:
        return 130
    measuring, model = time.perf_counter(), measured.in_channels_last(trained.model)
    attacks, counts = attacks_of(plan, pairs)
    # Every attack draws from the seed and its own name: the same starts for all models.
    report = evaluate_model(
        model, data.test, attacks=attacks, corruptions=None, audit=False, n_attack=counts, device=device,
        name=job.variant,
    )  # fmt: skip
    measured.write_result(folder, {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "evaluation": plan.evaluation(),
        "attacks": report.settings["attacks"],
        **accuracies_of(report, plan),
        "caps": caps_of(model.to(device), data.test, plan.sizes.n["caps"]),
        "parameters": trained.resolved["parameters"],
        "validation_images": trained.resolved["images"]["validation"],
        **measured.of_the_run(trained, report, started, measuring, report.seconds),
    })  # fmt: skip
    return 0


def accuracies_of(report: Report, plan: DreluPlan) -> dict[str, Any]:
    """Accuracies; the curves; and all attacks of the radius on the images that every one was given."""
    outcomes = report.outcomes
    accuracies = {name: result.accuracy for name, result in report.attacks.items()}
    of_curve = {at(name, radius) for name in CURVES for radius in plan.sizes.radii}
    index = min(outcomes.attack_index.values(), key=len)
    held = {"clean": outcomes.correct[index]}
    for name in (*GRADIENT_ATTACKS, *OTHER_ATTACKS):
        held[name] = measured.on_images(outcomes.attack_index[name], outcomes.attacked[name], index)
    held["all"] = torch.stack(list(held.values())).all(0)
    # One attacker has one attack: the strongest of the gradient attacks, not the worst of them image by image.
    best = min(GRADIENT_ATTACKS, key=lambda name: int(held[name].sum()))
    masked = {name: held[key].double() - held["all"].double() for name, key in (("pgd-20", "pgd-20"), ("best", best))}
    gaps = bootstrap_means(torch.stack(list(masked.values()), 1))
    clean = {"clean": share(outcomes.correct)}
    return {
        "figures": {
            name: measured.with_interval(estimate)
            for name, estimate in (clean | accuracies).items()
            if name not in of_curve
        },
        "curves": {
            name: {f"{radius:g}": measured.with_interval(accuracies[at(name, radius)]) for radius in plan.sizes.radii}
            for name in CURVES
        },
        "same_images": {name: measured.with_interval(share(right)) for name, right in held.items()},
        "masked": {name: measured.with_interval(gap) for name, gap in zip(masked, gaps, strict=True)},
        "best_gradient_attack": best,
    }  # fmt: skip


def caps_of(model: nn.Module, test: Any, count: int) -> dict[str, Any]:
    """Quantiles of the caps and what they cap; images without a gradient, for models without caps too."""
    images, labels = LabelledImages(test).take(torch.arange(count))
    images = as_float(images)
    capped = cap_figures(model, images, labels)
    found = {} if capped is None else {
        "quantiles": list(capped.quantiles),
        "capped_share": capped.capped_share,
        "capped_units": capped.capped_units,
    }  # fmt: skip
    return {**found, "zero_gradient": measured.with_interval(zero_gradient_share(model, images, labels)), "n": count}


# --- tables ----------------------------------------------------------------------------------------------------------

#: Heading of each accuracy by its key.
ACCURACIES = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd-20": "PGD-20",
    "cw-20": "margin PGD-20",
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "cw-l2": "CW-L2",
    "square": "Square",
    "autoattack": "AutoAttack",
    "transfer": "transfer",
    "noise": "noise",
}
#: What the paper reports of D-ReLU in its Tables 2, 3 and 5.
REPORTED = [
    ["ResNet50, CIFAR-10, lambda 10,000", "78.9", "78.8", "78.7", "78.4", "62.9"],
    ["ResNet50, CIFAR-100, lambda 100", "52.3", "51.5", "52.5", "51.2", "28.4"],
]


def with_caps(study: Study) -> dict[str, Rows]:
    """The rows of the models with D-ReLU."""
    return {name: rows for name, rows in study.rows.items() if "quantiles" in next(iter(rows.values()))["caps"]}


def short(value: float, digits: int = 3) -> str:
    """``0.0312``, with so many digits; what is below a two-thousandth is 0."""
    return f"{value:.{digits}g}" if abs(value) >= 5e-4 else "0"


def cap_cell(rows: Rows, place: int) -> str:
    """A quantile of the caps, mean and standard deviation over the seeds; a dash without caps."""
    if "quantiles" not in next(iter(rows.values()))["caps"]:
        return "-"
    values = [row["caps"]["quantiles"][place] for row in rows.values()]
    return short(statistics.mean(values)) + (f" ± {short(statistics.stdev(values), 2)}" if len(values) > 1 else "")


def share_cell(rows: Rows, key: str) -> str:
    """A share that the caps have; a dash without caps."""
    known = key in next(iter(rows.values()))["caps"]
    return tables.mean_text(tables.percent(rows, "caps", key)) if known else "-"


def main_table(study: Study) -> list[str]:
    """Accuracies, what all attacks leave, the caps."""
    first = study.every[0]
    columns = {
        f"{head} (n = {first['figures'][key]['n']:,})": tables.bold_highest(study.rows, key)
        for key, head in ACCURACIES.items()
    }
    held = first["same_images"]["all"]["n"]
    columns[f"all attacks (n = {held:,})"] = tables.means(study.rows, "same_images", "all")
    columns["final m, median"] = tables.column(study.rows, lambda rows: cap_cell(rows, 2))
    columns["capped"] = tables.column(study.rows, lambda rows: share_cell(rows, "capped_share"))
    return tables.table(study.rows, {**columns, "seeds": tables.seed_counts(study.rows)})


def real_table(study: Study) -> list[str]:
    """All attacks on the same images, and what one attack alone overstates."""
    first = study.every[0]["same_images"]
    keys = {key: head for key, head in ACCURACIES.items() if key in first} | {"all": "all attacks"}
    columns = {head: tables.means(study.rows, "same_images", key) for key, head in keys.items()}
    columns["PGD-20 less all"] = tables.means(study.rows, "masked", "pgd-20", sign="+")
    columns["best gradient attack less all"] = tables.means(study.rows, "masked", "best", sign="+")
    columns["which it was"] = tables.column(
        study.rows,
        lambda rows: ", ".join(dict.fromkeys(ACCURACIES[row["best_gradient_attack"]] for row in rows.values())),
    )
    names = [ACCURACIES[key] for key in GRADIENT_ATTACKS]
    return [
        "", "## How much of it is real", "",
        f"The same {first['all']['n']} images under every attack of the radius (CW-L2 has another one). An image "
        'counts under "all attacks" if none of them fooled the model: that is what is left. Best gradient attack: the '
        f"one of {', '.join(names[:-1])} and {names[-1]} that fools most images. What all attacks together take beyond "
        "it was never robust: the gradient that the attack followed did not show the way.", "",
        *tables.table(study.rows, columns),
    ]  # fmt: skip


def signs_table(study: Study) -> list[str]:
    """What gives masking away, beside models that have no caps."""
    plan = study.plan
    largest = f"{max(plan.sizes.radii):g}"

    def less(first: str, second: str) -> list[str]:
        return tables.column(
            study.rows,
            lambda rows: tables.mean_text(
                [
                    100 * (tables.value_at(row, ("same_images", first)) - tables.value_at(row, ("same_images", second)))
                    for row in rows.values()
                ],
                "+",
            ),
        )

    columns = {
        "no gradient, % of images": tables.means(study.rows, "caps", "zero_gradient"),
        "PGD-20 less Square": less("pgd-20", "square"),
        "FGSM less transfer": less("fgsm", "transfer"),
        "PGD-20 less margin PGD-20": less("pgd-20", "cw-20"),
        f"PGD-20 at {largest}": tables.means(study.rows, "curves", "pgd-20", largest),
        f"Square at {largest}": tables.means(study.rows, "curves", "square", largest),
    }
    return [
        "", "## Signs of masking", "",
        "No gradient: the gradient of the cross-entropy is exactly zero in every pixel of a clean test image (n = "
        f"{study.every[0]['caps']['n']}). A search without gradients, or images made on another model, should fool no "
        "more images than a gradient attack, and the margin of the logits no more than the cross-entropy: above 0 is a "
        f"sign of masking. At a radius of {largest} every image can be made uniformly grey: an attack that leaves more "
        "than chance there has failed, not the model won.", "",
        *tables.table(study.rows, columns),
    ]  # fmt: skip


def caps_table(study: Study) -> list[str]:
    """Quantiles of the caps at the end, what they cap."""
    shown = with_caps(study)
    if not shown:
        return []
    lines = [
        [
            name,
            *(cap_cell(rows, place) for place in range(5)),
            share_cell(rows, "capped_share"),
            share_cell(rows, "capped_units"),
            tables.mean_text(tables.percent(rows, "caps", "zero_gradient")),
            ", ".join(f"{row['steps']:,}" for row in rows.values()),
        ]
        for name, rows in shown.items()
    ]  # fmt: skip
    heads = ["", "m, least", "10%", "median", "90%", "largest", "capped activations, %", "units ever capped, %"]
    return [
        "", "## Caps at the end of training", "",
        f"On {study.every[0]['caps']['n']} test images. A cap below 0 counts as 0: its unit is dead.", "",
        *tables.markdown_table([*heads, "images without gradient, %", "steps of each seed"], lines),
    ]  # fmt: skip


def radius_tables(study: Study) -> list[str]:
    """Accuracy by radius, a table for each attack."""
    plan = study.plan
    names = {**ACCURACIES, "square": f"Square, {plan.sizes.curve_queries} queries"}
    lines = ["", "## Accuracy against the radius", ""]
    lines.append(f"{plan.sizes.n_curve} test images (the paper's Figs. 25 to 27 are of APGD-CE).")
    for name in CURVES:
        columns = {
            f"{radius:g}": tables.means(study.rows, "curves", name, f"{radius:g}") for radius in plan.sizes.radii
        }
        lines += ["", f"### {names[name]}", "", *tables.table(study.rows, columns)]
    return lines


def reported_table() -> list[str]:
    """What the paper's own tables say of it."""
    return [
        "", "## What the paper reports", "",
        "Its D-ReLU head in Tables 2 and 3, and Square in Table 5 (radius 0.01 for the gradient attacks on CIFAR-10; "
        "it names none for the rest). A search without gradients takes 16 and 24 points that PGD does not, and PGD "
        "leaves *more* of CIFAR-100 right than no attack does: the signs of masking are in these tables too.", "",
        *tables.markdown_table(["", "clean", "FGSM", "PGD", "APGD-DLR", "Square"], REPORTED),
    ]  # fmt: skip


def interval_table(study: Study) -> list[str]:
    """Every run's accuracies with their intervals."""

    def cells(row: Row) -> list[str]:
        found = [row["figures"][key] for key in ACCURACIES]
        found += [row["same_images"]["all"], row["masked"]["best"], row["caps"]["zero_gradient"]]
        return [tables.interval_text(each) for each in found]

    first = study.every[0]
    heads = [f"{head} (n = {first['figures'][key]['n']:,})" for key, head in ACCURACIES.items()]
    held, seen = first["same_images"]["all"]["n"], first["caps"]["n"]
    heads += [f"all attacks (n = {held})", f"masked (n = {held})", f"no gradient (n = {seen})"]
    return [
        "", "## Every run, with its 95% interval over the images", "",
        "Masked: best gradient attack less all attacks.", "",
        *tables.markdown_table(["", *heads], tables.interval_lines(study.rows, cells)),
    ]  # fmt: skip


# --- the figure ------------------------------------------------------------------------------------------------------

BLUE, RED, GREEN, GREY, BLACK = "#1f5fa8", "#b3282d", "#2a8a4a", "#888888", "#222222"
#: Accuracies that have a panel, in the order of the panels.
SHOWN = ("clean", "fgsm", "pgd-20", "apgd-ce", "apgd-dlr", "cw-20", "cw-l2", "square", "transfer", "autoattack")


def draw(study: Study, path: Path) -> None:
    """Ten panels of accuracy against lambda (the paper's Figs. 11 to 15), three against the radius, two of the caps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 9.6), layout="constrained", facecolor="white")
    axes = figure.subplots(3, 5)
    for key, axis in zip(SHOWN, axes[:2].flat, strict=True):
        _against_lambda(axis, study, key)
    axes[0, 0].legend(fontsize=7, frameon=False, loc="lower left")
    for name, axis in zip(CURVES, axes[2, :3], strict=True):
        _against_radius(axis, study, name)
    axes[2, 0].legend(fontsize=7, frameon=False)
    _caps(axes[2, 3], study)
    _shares(axes[2, 4], study)
    save(figure, path, dpi=100)


def _against_lambda(axis: Any, study: Study, key: str) -> None:
    plan = study.plan
    _line(axis, study, lambda rows: tables.percent(rows, "figures", key), BLUE, "D-ReLU")
    if key not in ("clean", "cw-l2"):
        _line(axis, study, lambda rows: tables.percent(rows, "same_images", "all"), RED, "D-ReLU, all attacks")
    else:
        axis.plot([], [], "o-", color=RED, markersize=4, linewidth=1.2, label="D-ReLU, all attacks")
    for name, style in ((plan.baseline, "--"), (PLAIN, ":")):
        if name in study.rows and (name != PLAIN or style == ":"):
            level = statistics.mean(tables.percent(study.rows[name], "figures", key))
            axis.axhline(level, color=BLACK if style == "--" else GREY, linestyle=style, linewidth=1.2, label=name)
    axis.set_title(f"{ACCURACIES[key]}, accuracy in %", fontsize=9, loc="left")
    axis.set_ylim(-3, 100)
    _lambda_axis(axis, plan)


def _against_radius(axis: Any, study: Study, name: str) -> None:
    plan = study.plan
    finished = [variant for variant in plan.names.values() if variant in study.rows]
    chosen = {plan.baseline: (BLACK, "s--")}
    chosen |= dict(zip(_some(finished), ((GREEN, "^-"), (BLUE, "o-"), (RED, "D-")), strict=False))
    for variant, (colour, marker) in chosen.items():
        if variant not in study.rows:
            continue
        columns = [tables.percent(study.rows[variant], "curves", name, f"{radius:g}") for radius in plan.sizes.radii]
        _spread(axis, list(plan.sizes.radii), columns, colour, marker, variant)
    axis.set_title(f"{ACCURACIES[name]}, accuracy in % against the radius", fontsize=9, loc="left")
    axis.set_xlabel("eps", fontsize=8)
    axis.set_ylim(-3, 100)
    plain(axis, "y")


def _some(names: list[str]) -> list[str]:
    """The first, one before the last and the last: weakest to strongest."""
    return list(dict.fromkeys([*names[:1], *names[-2:]]))


def _caps(axis: Any, study: Study) -> None:
    plan = study.plan
    quantiles = {0: "10%", 1: "median", 2: "90%"}
    for (place, label), colour in zip(quantiles.items(), (GREEN, BLUE, RED), strict=True):

        def values(rows: Rows, place: int = place) -> list[float]:
            return [max(row["caps"]["quantiles"][place + 1], 0.0) for row in rows.values()]

        _line(axis, study, values, colour, label)
    axis.set_yscale("symlog", linthresh=0.01)
    axis.set_ylim(bottom=0)
    axis.set_title("quantiles of m at the end", fontsize=9, loc="left")
    axis.legend(fontsize=7, frameon=False)
    _lambda_axis(axis, plan)


def _shares(axis: Any, study: Study) -> None:
    shown = {"capped_share": "activations at their cap", "capped_units": "units that cap for some image"}
    for (key, label), colour in zip(
        {**shown, "zero_gradient": "images without a gradient"}.items(), (BLUE, GREEN, RED), strict=True
    ):
        _line(axis, study, partial(_caps_share, key=key), colour, label)
    axis.set_title("shares in %", fontsize=9, loc="left")
    axis.set_ylim(-3, 140)  # room for the legend
    axis.set_yticks(range(0, 101, 20))
    axis.legend(fontsize=7, frameon=False, loc="upper left")
    _lambda_axis(axis, study.plan)


def _caps_share(rows: Rows, key: str) -> list[float]:
    return tables.percent(rows, "caps", key)


def _line(axis: Any, study: Study, values: Callable[[Rows], list[float]], colour: str, label: str) -> None:
    """D-ReLU's values against lambda, at equal distances: lambda may be 0."""
    plan = study.plan
    places = [place for place, lam in enumerate(plan.lambdas) if plan.names[lam] in study.rows]
    columns = [values(study.rows[plan.names[plan.lambdas[place]]]) for place in places]
    if columns:
        _spread(axis, [float(place) for place in places], columns, colour, "o-", label)


def _spread(axis: Any, x: list[float], columns: list[list[float]], colour: str, style: str, label: str) -> None:
    """Means as a line, from the lowest to the highest seed as a band."""
    axis.plot(x, [statistics.mean(c) for c in columns], style, color=colour, markersize=4, linewidth=1.2, label=label)
    axis.fill_between(x, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15, linewidth=0)


def _lambda_axis(axis: Any, plan: DreluPlan) -> None:
    axis.set_xticks(range(len(plan.lambdas)), [f"{lam:g}" for lam in plan.lambdas])
    axis.set_xlabel("lambda", fontsize=8)
    plain(axis, "y")


# --- the page --------------------------------------------------------------------------------------------------------


def most_masked(study: Study) -> float | None:
    """The lambda of which PGD-20 overstates most; None if no model with D-ReLU is finished."""
    plan = study.plan
    found = {
        lam: statistics.mean(tables.percent(study.rows[name], "masked", "pgd-20"))
        for lam, name in plan.names.items()
        if name in study.rows
    }
    return max(found, key=lambda lam: found[lam]) if found else None


def reading(study: Study) -> list[str]:
    """Two sentences: what D-ReLU seems to give and what of it holds, and what gives the rest away.

    Of the lambda with which PGD-20 overstates most, against the model without caps, on the same images and seeds;
    empty without common seeds.
    """
    plan, lam = study.plan, most_masked(study)
    base = study.rows.get(plan.baseline, {})
    if lam is None or not base:
        return []
    ours = study.rows[plan.names[lam]]
    seeds = [seed for seed in ours if seed in base]
    if not seeds:
        return []
    capped, plain = ({seed: rows[seed] for seed in seeds} for rows in (ours, base))

    def mean(rows: Rows, *keys: str) -> float:
        return statistics.mean(tables.percent(rows, *keys))

    def gain(key: str) -> list[float]:
        pairs = [tables.percent(rows, "same_images", key) for rows in (capped, plain)]
        return [one - other for one, other in zip(*pairs, strict=True)]

    seeming, left = gain("pgd-20"), gain("all")
    of_pgd, of_all = statistics.mean(seeming), statistics.mean(left)
    unclear = len(left) > 1 and abs(of_all) <= (tables.spread(left) or 0.0)
    if of_pgd <= 0:
        verdict = "there is no gain to speak of, under PGD-20 neither"
    elif of_all <= 0 or unclear:
        verdict = (
            f"of the {of_pgd:.1f} points gained under PGD-20, none is left"
            + " beyond the spread of the seeds" * unclear
        )
    else:
        verdict = f"of the {of_pgd:.1f} points gained under PGD-20, {of_all:.1f} are left"
    n = study.every[0]["same_images"]["all"]["n"]
    names = {"fgsm": "FGSM", "pgd-20": "PGD-20", "apgd-dlr": "APGD-DLR"}
    seems = ", ".join(
        f"{mean(capped, 'same_images', key):.1f}% under {head} ({mean(plain, 'same_images', key):.1f}%)"
        for key, head in names.items()
    )
    ours_left, theirs_left = (tables.mean_text(tables.percent(rows, "same_images", "all")) for rows in (capped, plain))
    first = (
        f"With lambda {lam:g} the model seems robust, {seems}, in brackets {plan.baseline}; but an attacker who may "
        f"choose among all attacks leaves {ours_left}% of the same {n} images ({theirs_left}%): {verdict}."
    )
    zero, zero_plain = (mean(rows, "caps", "zero_gradient") for rows in (capped, plain))
    clean, clean_plain = (mean(rows, "figures", "clean") for rows in (capped, plain))
    best = mean(capped, "masked", "best")
    masked = zero > zero_plain + 1 and mean(capped, "masked", "pgd-20") > 1
    gradients = f"{zero:.1f}% of the test images have a gradient that is exactly zero ({zero_plain:.1f}%)"
    masking = "The difference is gradient masking" if masked else "Masking does not show"
    second = (
        f"{masking}: {gradients}, the strongest single gradient attack overstates what is left by {best:.1f} points"
    )
    return [first, f"{second}, and the clean accuracy is {clean:.1f}% ({clean_plain:.1f}%)."]


def page(study: Study) -> str:
    """The page in Markdown."""
    plan = study.plan
    lines = title_lines(study, plan.title)
    read = reading(study)
    if read:
        lines += [" ".join(read), ""]
    lines += [
        *made_of(study), "",
        f"Accuracy in percent on test images, {over_seeds(study)}; the highest mean of a column is bold. All figures "
        "are of the last epoch. Transfer: made on a plain model of the next seed. Noise: every pixel moved by the "
        f"radius, up or down at random. CW-L2: a change of at most {plan.l2:.3g} in l2, the length from an image to a "
        "corner of the l-infinity ball. Capped: the share of the activations at their cap.", "",
        f"![Accuracy against lambda for each attack; against the radius; the caps]({plan.key}.png)", "",
        *main_table(study), *real_table(study), *signs_table(study), *caps_table(study), *radius_tables(study),
        *(reported_table() if plan.placement == "head" else []), *attack_list(study), *interval_table(study),
        *how_it_was_made(study, plan.key),
    ]  # fmt: skip
    return "\n".join(lines)


def made_of(study: Study) -> list[str]:
    """Data, model, recipe, and how the caps are trained."""
    plan, first = study.plan, study.every[0]
    settings = first["settings"]
    capped = next((plan.settings(name) for name in plan.names.values()), {})
    steps = {row["steps"] for row in study.every}
    epochs = first["history"][-1]["epoch"]
    length = (
        f"{epochs:.0f} epochs, {steps.pop():,} optimiser steps for all"
        if len(steps) == 1
        else f"at most {settings['epochs']} epochs, {min(steps):,} to {max(steps):,} optimiser steps"
    )
    recipe = (
        f"Adam, lr {settings['lr']:g}"
        if settings["optimizer"] == "adam"
        else f"SGD with Nesterov momentum {settings['momentum']:g}, lr {settings['lr']:g}"
    )
    recipe += (
        ", halved after 5 epochs without a lower validation loss (penalty included), stopped after 10"
        if settings["plateau"]
        else " on a cosine"
    )
    start = (
        f"the {capped['drelu_quantile']:g} quantile of the pre-activations"
        if capped.get("drelu_quantile") is not None
        else f"{capped.get('drelu_init') or 100:g}" + (", the paper's value," if not capped.get("drelu_init") else "")
    )
    rate = "the weights' rate" if capped.get("drelu_m_lr") is None else f"a rate of {capped['drelu_m_lr']:g}"
    layer = f" ({capped['extra_features']} features)" if "extra_features" in capped else ""
    return [
        f"{plan.label}: {first['training_images']:,} training images, {length}; `{settings['model']}`, method "
        f"{settings['method']}, {recipe}, batch {batch_of(first)}, weight decay {settings['weight_decay']:g} (not of "
        f"m), crops and flips. D-ReLU in {PLACES[plan.placement]}{layer}, m starts at {start} and learns with {rate}; "
        f"after each step it is divided by 1 + 2 lr lambda, the penalty's proximal step. `{PLAIN}` is the model as it "
        "is"
        + (f", `{plan.baseline}` has the new layer, its first weights the same, and ReLU" * (plan.baseline != PLAIN))
        + f". Radius {plan.eps:g} (l-infinity, images in [0, 1])."
    ]


def attack_list(study: Study) -> list[str]:
    """The attacks of the radius with all their settings, as they were recorded."""
    attacks = study.every[0]["attacks"]
    shown = {name: attacks[name] for name in attacks if name in ACCURACIES and name not in ("transfer", "noise")}
    return [
        "", "## Attacks of the evaluation", "",
        "Untargeted, every image from the same random start for all models. Transferred images are those of margin "
        "PGD-20 on the plain model.", "",
        *tables.attack_lines(shown, ACCURACIES),
    ]  # fmt: skip


def content_of(study: Study) -> dict[str, Any]:
    """The content of the JSON: the reading, means, and the whole result of each run."""

    def shares(rows: Rows, *keys: str) -> dict[str, Any]:
        return mean_of([value / 100 for value in tables.percent(rows, *keys)])

    found = {}
    for name, rows in study.rows.items():
        found[name] = {key: shares(rows, "figures", key) for key in ACCURACIES}
        found[name]["all"] = shares(rows, "same_images", "all")
        found[name]["pgd-20 less all"] = shares(rows, "masked", "pgd-20")
        found[name]["best gradient attack less all"] = shares(rows, "masked", "best")
        found[name]["zero gradient"] = shares(rows, "caps", "zero_gradient")
    results = results_of(study.rows)
    return summary(
        study,
        reading=reading(study),
        attacks=study.every[0]["attacks"],  # the same of all runs
        means=found,
        results={
            name: [{key: row[key] for key in row if key != "attacks"} for row in rows] for name, rows in results.items()
        },
    )


# --- the command -----------------------------------------------------------------------------------------------------

SOURCE = "source"  # second word of --one for a plain model whose images are transferred


def run_locked(plan: DreluPlan, name: str, seed: int, options: argparse.Namespace) -> int:
    """One run, in this process.

    Raises:
        filelock.Timeout: another process is at this run.
        RuntimeError: the images that are transferred to it are not made yet.
    """
    device = "cuda" if options.gpu else "cpu"
    job = plan.source(seed - 1) if name == SOURCE else Job(plan, name, seed)
    with command.locked(job, options) as folder:
        if name == SOURCE:
            return run_source(plan, job, folder, device)
        source = plan.source(seed)
        pairs = read_pairs(plan, options.out / source.name)
        if not pairs:
            raise RuntimeError(f"{source.name} must have its transferred images first: --one {SOURCE} {source.seed}")
        return run_one(plan, job, folder, pairs, device)


def run_missing(plan: DreluPlan, options: argparse.Namespace) -> None:
    """Runs what is not finished and has ``--only`` in its name, after the plain models that it needs.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed.
        ValueError: ``--gpu`` without a GPU.
    """
    attacks_of(plan, {})  # what is missing is said now, not after the first training
    todo, known = command.runs_to_do(jobs_of([plan], options.seeds), measured.read_result, options)
    sources = list(dict.fromkeys(plan.source(job.seed) for job in todo))
    sources = [job for job in sources if not read_pairs(plan, options.out / job.name)]
    command.run_jobs(__file__, sources, options, {}, lambda job: [SOURCE, str(job.seed)])
    command.run_jobs(__file__, todo, options, known)


def collect(plan: DreluPlan, options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study.

    Raises:
        ValueError: a result was made with other settings, the runs differ in their steps, or there is none.
    """
    found = [(job, measured.read_result(job, options)) for job in jobs_of([plan], options.seeds)]
    words = ["python", "benchmarks/study_drelu.py", *shown_arguments(options)]
    # With a plateau a run ends when its loss does not fall.
    return command.study_of([plan], found, options, words, equal_steps=options.recipe == "sgd")


def save_study(study: Study, folder: Path) -> str:
    """Writes the page's ``.json``, ``.png`` and ``.md``, each whole or not at all; returns the page."""
    return command.save_page(folder, study.plan.key, page(study), content_of(study), lambda path: draw(study, path))


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    lambdas = [] if options.lambdas is None else ["--lambdas", ",".join(f"{lam:g}" for lam in options.lambdas)]
    defaults = {
        "placement": "head", "recipe": "sgd", "method": "standard", "features": None, "drelu_m_lr": None,
        "drelu_init": None, "drelu_quantile": None, "eps": None, "epochs": None, "limit": None,
    }  # fmt: skip
    return command.shown_arguments(options, defaults, *lambdas)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lambdas", type=_lambdas, help="values of lambda (default 0.03,0.1,0.3,1,3)")
    parser.add_argument("--placement", default="head", choices=tuple(PLACES), help="of D-ReLU (default head)")
    parser.add_argument("--features", type=int, help="of the new layer (default 256; of a stem 16)")
    parser.add_argument("--recipe", default="sgd", choices=("sgd", "paper"), help="sgd (default): SGD on a cosine")
    parser.add_argument("--method", default="standard", choices=METHOD_NAMES, help="of training (default standard)")
    parser.add_argument("--drelu-m-lr", type=float, help="learning rate of the caps (default: the weights')")
    parser.add_argument("--drelu-init", type=float, help="first value of the caps (default 100, the paper's)")
    parser.add_argument("--drelu-quantile", type=float, help="start at this quantile of the pre-activations instead")
    command.add_shared_options(
        parser,
        eps="the evaluation (default 0.1; CIFAR-10 the paper's 0.01)",
        epochs="default 20; paper 100",
        only="lambda-3",
    )
    return command.parsed(parser, arguments, "features")


def _lambdas(text: str) -> tuple[float, ...]:
    """Numbers with commas between them, in ascending order, each once."""
    values = tuple(sorted({float(part) for part in text.split(",")}))
    if not all(0 <= value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"must be numbers of 0 or more, got {text!r}")
    return values


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    plan = plan_of(options)
    return command.run_command(
        options,
        lambda: run_locked(plan, options.one[0], int(options.one[1]), options),
        lambda: run_missing(plan, options),
        lambda: save_study(collect(plan, options), options.results),
    )


if __name__ == "__main__":
    sys.exit(main())
