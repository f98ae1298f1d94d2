"""The parts of an evaluation that have functions of their own, run on a judge's model and images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mixaug.evaluate.consistency import FlipRates, flip_rates
from mixaug.evaluate.images import as_float
from mixaug.evaluate.occlusion import RATIOS, OcclusionCurve, occlusion_curve
from mixaug.evaluate.perturbations import PERTURBATIONS

if TYPE_CHECKING:
    from mixaug.evaluate._judge import Judge
    from mixaug.evaluate._plan import Plan
    from mixaug.evaluate.audit import Audit, Thresholds
    from mixaug.evaluate.features import FeatureMap


def steps_of(plan: Plan, batch_size: int, surrogate: bool) -> int:
    """How many steps of progress flips and audit take."""
    steps = len(PERTURBATIONS) * math.ceil(len(plan.index["n_flips"]) / batch_size)
    if len(plan.index["n_audit"]):
        from mixaug.evaluate.audit import audit_pieces

        steps += len(audit_pieces(surrogate))
    return steps


def flips_of(judge: Judge, index: Tensor, preset: str) -> FlipRates:
    """The flip rates on the images at ``index``."""
    return flip_rates(
        judge.model,
        judge.data,
        preset=preset,
        n=len(index),
        batch_size=judge.batch_size,
        seed=judge.seed,
        device=judge.device,
        keep=judge.journal.keeping(preset, index, judge.batch_size),
        advance=judge.bar.advance,
    )


def occlusion_of(judge: Judge, index: Tensor) -> OcclusionCurve:
    """The occlusion curve on the images at ``index``."""

    def measure() -> OcclusionCurve:
        return occlusion_curve(
            judge.model,
            judge.data,
            n=len(index),
            batch_size=judge.batch_size,
            seed=judge.seed,
            device=judge.device,
        )

    def compute() -> dict[str, Tensor]:
        curve = measure()
        return {"correct": curve.correct, "patch_size": torch.tensor(curve.patch_size)}

    piece = judge.journal.keep("occlusion", compute, index)
    for _ in index.split(judge.batch_size):
        judge.bar.advance("occlusion")
    return OcclusionCurve(RATIOS, piece["correct"], int(piece["patch_size"]))


def audit_of(
    judge: Judge, index: Tensor, eps: float, surrogate: nn.Module | None, thresholds: Thresholds | None
) -> Audit:
    """The masking audit on the images at ``index``."""
    from mixaug.evaluate.audit import Thresholds, audit_images
    from mixaug.evaluate.images import fingerprint

    images, labels = judge.data.take(index)
    thresholds = Thresholds() if thresholds is None else thresholds
    other = None if surrogate is None else fingerprint(dict(surrogate.state_dict()))
    return audit_images(
        judge.model,
        as_float(images).to(judge.device),
        labels.to(judge.device),
        eps,
        surrogate=surrogate,
        thresholds=thresholds,
        seed=judge.seed,
        batch_size=judge.batch_size,
        keep=judge.journal.keeping(index, eps, thresholds, other, judge.batch_size),
        advance=judge.bar.advance,
    )


def feature_points(judge: Judge, index: Tensor) -> tuple[FeatureMap | None, str]:
    """The map of the features of the images at ``index``, or why there is none."""
    from mixaug.evaluate.features import feature_map

    images, labels = judge.data.take(index)
    judge.bar.advance("features")
    try:
        return feature_map(judge.model, as_float(images).to(judge.device), labels, seed=judge.seed), ""
    except ValueError as error:
        return None, str(error)
