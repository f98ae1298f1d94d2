"""What the AdAutoMix study trains and measures: methods, cheaper settings, the ablation, the number of images."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from study_adversarial_plan import Job, Plan, Sizes

OURS = "AdAutoMix"
_OURS: dict[str, Any] = {"method": "adautomix", "picture_every": 0}
#: The cheaper settings: what each costs is counted in docs/methods/adautomix.md.
CHEAP: dict[str, dict[str, Any]] = {
    "shared draws": {"shared_draws": True},
    "generator every 4 steps, on half": {"generator_every": 4, "generator_share": 0.5},
    "the same, terms on a quarter": {"generator_every": 4, "generator_share": 0.5, "terms_share": 0.25},
}
#: Not the paper's: see "Does a mask have its ratio's share?" in docs/methods/adautomix.md.
TIED: dict[str, dict[str, Any]] = {"shares tied to the ratios": {"share_weight": 10.0}}
#: Table 8 of the paper, from below: terms that are left out.
ABLATION: dict[str, dict[str, Any]] = {
    "without the clean term": {"without": ("clean",)},
    "without the plain term": {"without": ("plain",)},
    "without the teacher term": {"without": ("teacher",)},
    "without the similarity": {"without": ("similarity",)},
    "none of the four": {"without": ("clean", "plain", "teacher", "similarity")},
}
NUMBERS: dict[str, dict[str, Any]] = {f"N = {n}": {"n_mix": n} for n in (2, 4, 5)}
METHODS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    "Mixup": {"method": "mixup"},
    "CutMix": {"method": "cutmix"},
    "co-operative": {**_OURS, "cooperative": True},
    OURS: _OURS,
}
#: Heading of each part of the page, and its variants.
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "Shares of the masks tied to the ratios": TIED,
    "Cheaper settings": CHEAP,
    "Ablation": ABLATION,
    "Number of images in a mixture": NUMBERS,
}


FULL = Sizes({"fgsm": 500, "corruptions": 200, "occlusion": 300})
GPU = Sizes({"fgsm": 5000, "corruptions": 1000, "occlusion": 5000})
QUICK = Sizes({"fgsm": 8, "corruptions": 4, "occlusion": 8})


@dataclass(frozen=True, eq=False)
class MixPlan(Plan):
    """One page of the study."""

    def settings(self, variant: str) -> dict[str, Any]:
        """Training settings of a variant, but for seed, device and folder."""
        return {**self.shared, **self.variants[variant]}

    def evaluation(self) -> dict[str, Any]:
        """Everything that decides what is measured, for the record."""
        return {"eps": self.eps, "n": dict(self.sizes.n)}


def jobs_of(plan: MixPlan, seeds: int) -> list[Job]:
    """All planned runs: the methods with every seed, then the rest, the first seed of each first."""
    rest = [name for name in plan.variants if name not in METHODS]
    return [Job(plan, name, seed) for names in (METHODS, rest) for seed in range(seeds) for name in names]


def plan_of(options: argparse.Namespace) -> MixPlan:
    """The page that the options ask for.

    15 epochs on 2,000 images of the package, 10 on 3,000 of CIFAR-10: a step costs five plain ones, and both pages
    together stay below an hour and a half on two free cores. On CIFAR-10 the methods, the tied shares
    and the cheapest setting alone.

    The teacher's momentum starts at 0.99 on a CPU: the 0.999 of the paper averages over a thousand steps, and a run of
    a few hundred would keep the teacher, whose features make the masks, near its random start.
    """
    short = not options.gpu
    momentum = (0.99 if short else 0.999) if options.momentum is None else options.momentum
    ours = {"teacher_momentum": momentum, "generator_lr": options.generator_lr}
    variants = dict(METHODS)
    cheapest = dict(list(CHEAP.items())[-1:])
    parts = [TIED, cheapest] if options.cifar is not None else list(PARTS.values())
    for part in parts:
        variants |= {name: {**_OURS, **more} for name, more in part.items()}
    variants = {name: {**v, **ours} if v["method"] == "adautomix" else v for name, v in variants.items()}
    shared: dict[str, Any] = {"amp": options.amp, "batch_size": 100, "weight_decay": 1e-4}
    key = "study_adautomix"
    if options.cifar is None:
        label = "Fashion-MNIST, the subset in the package"
        shared |= {"data": "embedded", "model": "resnet-small"}
        shared |= {"limit": options.limit or 2_000, "epochs": options.epochs or 15}
    else:
        key, label = f"{key}_cifar10", "CIFAR-10 (JPEG copy)"
        folder = options.cifar.expanduser().resolve()
        shared |= {"data": f"folder:{folder}", "model": "resnet-small" if short else "resnet18-cifar"}
        shared |= {
            "limit": options.limit or (3_000 if short else None),
            "epochs": options.epochs or (10 if short else 30),
        }
    sizes = FULL if short else GPU
    if options.quick:
        shared |= {"epochs": options.epochs or 1, "limit": options.limit or 250}
        sizes = QUICK
    title = f"AdAutoMix {'at CPU scale' if short else 'on a GPU'}"
    return MixPlan(key, title, label, shared, variants, "standard", options.eps or 8 / 255, sizes)
