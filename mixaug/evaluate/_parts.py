"""The parts of an evaluation that have functions of their own, run on a judge's model and images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mixaug._pictures import as_float
from mixaug.evaluate import _costs
from mixaug.evaluate.consistency import FlipRates, flip_rates
from mixaug.evaluate.features import FeatureMap, feature_map
from mixaug.evaluate.images import fingerprint
from mixaug.evaluate.occlusion import RATIOS, OcclusionCurve, occlusion_curve
from mixaug.evaluate.perturbations import PERTURBATIONS

if TYPE_CHECKING:
    from mixaug.evaluate._judge import Judge
    from mixaug.evaluate.audit import Audit, Thresholds


def flips_of(judge: Judge, index: Tensor, preset: str) -> FlipRates:
    """The flip rates on the images at ``index``, a subset of the judge's seed."""
    sizes = iter([len(positions) for positions in index.split(judge.batch_size)] * len(PERTURBATIONS))
    judge.bar.doing("perturbation sequences")
    return flip_rates(
        judge.model,
        judge.data,
        preset=preset,
        n=len(index),
        batch_size=judge.batch_size,
        seed=judge.seed,
        device=judge.device,
        keep=judge.journal.keeping(preset, index, judge.batch_size),
        advance=lambda name: judge.step(f"sequences of {name}", _costs.SEQUENCE * next(sizes)),
    )


def occlusion_of(judge: Judge, index: Tensor) -> OcclusionCurve:
    """The occlusion curve on the images at ``index``, a subset of the judge's seed."""

    def compute() -> dict[str, Tensor]:
        curve = occlusion_curve(
            judge.model,
            judge.data,
            n=len(index),
            batch_size=judge.batch_size,
            seed=judge.seed,
            device=judge.device,
        )
        return {"correct": curve.correct, "patch_size": torch.tensor(curve.patch_size)}

    judge.bar.doing("occlusion")
    piece = judge.journal.keep("occlusion", compute, index, judge.batch_size)
    judge.step("occlusion", _costs.OCCLUDED * len(index))
    return OcclusionCurve(RATIOS, piece["correct"], int(piece["patch_size"]))


def audit_of(
    judge: Judge, index: Tensor, eps: float, surrogate: nn.Module | None, thresholds: Thresholds | None
) -> Audit:
    """The masking audit on the images at ``index``."""
    from mixaug.evaluate.audit import Thresholds, audit_images, audit_pieces

    images, labels = judge.data.take(index)
    thresholds = Thresholds() if thresholds is None else thresholds
    other = None if surrogate is None else fingerprint(dict(surrogate.state_dict()))
    names = audit_pieces(surrogate is not None)
    following = dict(zip(names, [*names[1:], "checks"], strict=True))

    def done(name: str) -> None:
        judge.step(f"audit, {following[name]}", _costs.of_audit(name) * len(index))

    judge.bar.doing(f"audit, {names[0]}")
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
        advance=done,
    )


def feature_points(judge: Judge, index: Tensor) -> tuple[FeatureMap | None, str]:
    """The map of the features of the images at ``index``; or none, and why."""
    images, labels = judge.data.take(index)

    def compute() -> dict[str, Tensor]:
        found = feature_map(
            judge.model,
            as_float(images).to(judge.device),
            labels,
            batch_size=judge.batch_size,
            seed=judge.seed,
        )
        return {
            "points": found.points,
            "predicted": found.predicted,
            "layer": torch.tensor(list(found.layer.encode()), dtype=torch.uint8),
            "numbers": torch.tensor([found.dimensions, found.perplexity], dtype=torch.float64),
        }

    judge.bar.doing("features")
    try:
        piece = judge.journal.keep("features", compute, index, judge.batch_size)
    except ValueError as error:  # too few images, or a model without layers that can be looked into
        return None, str(error)
    finally:
        judge.step("features", _costs.FEATURES * len(index))
    dimensions, perplexity = piece["numbers"].tolist()
    layer = bytes(piece["layer"].tolist()).decode()
    return FeatureMap(piece["points"], labels, piece["predicted"], layer, int(dimensions), perplexity), ""
