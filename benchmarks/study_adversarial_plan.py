"""What the adversarial study trains and measures: data, model, sizes, and the variants of each of its pages."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

REFERENCE = "PGD AT"  # what gains are counted against
METHODS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    REFERENCE: {"method": "pgd"},
    "TRADES": {"method": "trades"},
    "Feature Scatter": {"method": "feature-scatter"},
    "Dynamic MixCut": {"method": "dynamic-mixcut"},
    "hybrid": {"method": "hybrid"},
}
BOXES: dict[str, dict[str, Any]] = {
    f"{count} box" + "es" * (count > 1): {"method": "dynamic-mixcut", "boxes": count} for count in range(1, 7)
}
# Without the cut the whole image is the attack's: adversarial training, with the same smoothing of the labels.
TARGETS: dict[str, dict[str, Any]] = {
    "whole image, untargeted": {"method": "pgd", "targeted": False, "smoothing": 0.1},
    "whole image, targeted": {"method": "pgd", "targeted": True, "smoothing": 0.1},
    "boxes, untargeted": {"method": "dynamic-mixcut", "targeted": False},
    "boxes, targeted": {"method": "dynamic-mixcut", "targeted": True},
}
ABLATIONS = {"boxes": BOXES, "targets": TARGETS}
#: What gains are counted against, by ablation.
REFERENCES = {None: REFERENCE, "boxes": "2 boxes", "targets": "whole image, untargeted"}
#: Methods whose attack has steps: FGSM and Feature Scatter's single one have none to choose.
_MANY_STEPS = ("pgd", "trades", "dynamic-mixcut")


@dataclass(frozen=True)
class Sizes:
    """How much is measured of each model.

    Args:
        n: test images by attack (and for the Lipschitz constant).
        directions: SPSA's, in each of its 20 steps.
        queries: Square's most forwards an image.
    """

    n: Mapping[str, int]
    directions: int = 128
    queries: int = 1_000


FULL = Sizes(
    {"fgsm": 500, "pgd-20": 500, "cw-20": 500, "spsa": 100, "square": 100, "autoattack": 100, "lipschitz": 500},
    directions=64,
)
GPU = Sizes(
    {"fgsm": 1000, "pgd-20": 1000, "cw-20": 1000, "spsa": 500, "square": 500, "autoattack": 500, "lipschitz": 1000},
    queries=5_000,
)
QUICK = Sizes(
    {"fgsm": 8, "pgd-20": 8, "cw-20": 8, "spsa": 4, "square": 4, "autoattack": 4, "lipschitz": 4},
    directions=2,
    queries=20,
)


@dataclass(frozen=True, eq=False)  # the same object is the same plan: hashable with its dicts
class Plan:
    """One page of the study.

    Args:
        key: name of the page's files and of the folder of its runs.
        title: heading of the page.
        label: name of the data on the page.
        shared: training settings that all variants have.
        variants: settings of each.
        reference: the variant that gains are counted against.
        eps: radius in training and evaluation.
        sizes: of the evaluation.
        adversary: further settings of attacks with steps.
    """

    key: str
    title: str
    label: str
    shared: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    reference: str
    eps: float
    sizes: Sizes
    adversary: dict[str, Any] = field(default_factory=dict)

    def settings(self, variant: str) -> dict[str, Any]:
        """Training settings of a variant, but for seed, device and folder."""
        chosen = {**self.shared, **self.variants[variant]}
        if chosen["method"] != "standard":
            chosen["eps"] = self.eps
        return {**chosen, **(self.adversary if chosen["method"] in _MANY_STEPS else {})}

    def evaluation(self) -> dict[str, Any]:
        """Everything that decides what is measured, for the record."""
        sizes = self.sizes
        return {"eps": self.eps, "n": dict(sizes.n), "directions": sizes.directions, "queries": sizes.queries}


class Job(NamedTuple):
    """One run: a variant trained and measured with a seed."""

    plan: Plan
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run below ``--out``: ``study_adversarial/pgd-at-s0``."""
        return "/".join([self.plan.key, "-".join([*self.variant.lower().replace(",", "").split(), f"s{self.seed}"])])

    @property
    def group(self) -> tuple[str, str]:
        """What runs that take the same time have in common."""
        return self.plan.key, self.variant


def plan_of(options: argparse.Namespace) -> Plan:
    """The page that the options ask for.

    10 epochs on 3,000 training images of the package, which keeps the whole page below an hour on two cores; 30 on the
    45,000 of CIFAR-10. The radius is the one that is usual for the data: 0.1 for Fashion-MNIST, 8/255 for CIFAR-10.
    """
    key, title, variants = "study_adversarial", "Adversarial training", METHODS
    if options.ablation is not None:
        key, variants = f"{key}_{options.ablation}", ABLATIONS[options.ablation]
        title = {"boxes": "Dynamic MixCut: number of boxes", "targets": "Dynamic MixCut: targets and the cut"}[
            options.ablation
        ]
    shared: dict[str, Any] = {"amp": options.amp, "limit": options.limit, "steps": options.steps}
    if options.cifar is None:
        label = "Fashion-MNIST, the subset in the package"
        shared |= {"data": "embedded", "model": "resnet-small", "epochs": options.epochs or 10}
        shared["limit"] = options.limit or 3_000
    else:
        key, label = f"{key}_cifar10", "CIFAR-10 (JPEG copy)"
        folder = options.cifar.expanduser().resolve()
        shared |= {"data": f"folder:{folder}", "model": "resnet18-cifar", "epochs": options.epochs or 30, "warmup": 1}
    sizes, adversary = GPU if options.gpu else FULL, {}
    if options.quick:
        shared |= {"epochs": options.epochs or 2, "limit": options.limit or 256, "robust_images": 20}
        sizes, adversary = QUICK, {"attack_steps": 2}
    eps = options.eps or (0.1 if options.cifar is None else 8 / 255)
    if shared["steps"] is not None:
        shared.pop("warmup", None)  # a run of a few steps may be shorter than an epoch
    scale = "on a GPU" if options.gpu else "at CPU scale"
    return Plan(key, f"{title} {scale}", label, shared, variants, REFERENCES[options.ablation], eps, sizes, adversary)


def jobs_of(plan: Plan, seeds: int) -> list[Job]:
    """All planned runs, the first seed of every variant first: what is finished early can be compared."""
    return [Job(plan, name, seed) for seed in range(seeds) for name in plan.variants]
