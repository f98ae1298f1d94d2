"""What the D-ReLU study trains and measures: placements, recipes, lambdas, sizes, and the page that each choice has."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from study_adversarial_plan import Job, Plan, Sizes

from mixaug.train.settings import ADVERSARIAL_METHODS

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
        steps: of APGD.
        l2_steps: Adam's steps of CW-L2 for each weight.
        l2_weights: weights that CW-L2 tries.
        radii: of the curves.
        n_curve: test images of the curves.
        curve_queries: Square's most forwards an image in the curves.
    """

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
        chosen = {**self.shared, **self.variants[variant]}
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
            "eps": self.eps, "n": dict(sizes.n), "queries": sizes.queries, "steps": sizes.steps, "l2": self.l2,
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
    shared: dict[str, Any] = {"method": options.method, "amp": options.amp, "limit": options.limit}
    if options.cifar is None:
        label = "Fashion-MNIST, the subset in the package"
        shared |= {"data": "embedded", "model": "resnet-small", "limit": options.limit or 3_000}
        epochs, eps, pixels = 20, 0.1, 28 * 28
    else:
        key, label = f"{key}_cifar10", "CIFAR-10 (JPEG copy)"
        folder = options.cifar.expanduser().resolve()
        shared |= {"data": f"folder:{folder}", "model": "resnet18-cifar"}
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
