"""The parts of an evaluation one after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixaug.evaluate import _around
from mixaug.evaluate._judge import Judge
from mixaug.evaluate._parts import audit_of, feature_points, flips_of, occlusion_of
from mixaug.evaluate._plan import Plan
from mixaug.evaluate._under_attack import attacked
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.outcomes import Outcomes

if TYPE_CHECKING:
    from mixaug.evaluate.audit import Audit, Thresholds
    from mixaug.evaluate.corrupted_sets import CorruptedSet

# Images of this side and more are nearer to ImageNet's 224 px than to CIFAR's 32 px.
_LARGE = 96


@dataclass(frozen=True)
class Given:
    """What the parts get beside the model and its images.

    Args:
        source: a preset of corruptions, or a saved set; None without corruptions.
        other: out-of-distribution images.
        eps: radius.
        surrogate: a model whose attacks the audit transfers.
        thresholds: of the audit.
    """

    source: str | CorruptedSet | None
    other: LabelledImages | None
    eps: float
    surrogate: nn.Module | None
    thresholds: Thresholds | None


def flip_preset(given: Given, data: LabelledImages) -> str:
    """The steps of the perturbation sequences: the corruptions' preset, else by the size of the images."""
    if isinstance(given.source, str):
        return given.source
    return "imagenet" if min(data.take(torch.tensor([0]))[0].shape[-2:]) >= _LARGE else "cifar"


def measured(
    judge: Judge, plan: Plan, given: Given, correct: Tensor, confidence: Tensor
) -> tuple[Outcomes, Audit | None]:
    """Measures each part; pictures go to ``judge.examples``, what cannot be measured to ``plan.left_out``.

    Args:
        judge: of the model.
        plan: what to measure.
        given: with what.
        correct: (n,) right or wrong of the clean images.
        confidence: (n,) their confidence.
    """
    index = plan.index
    parts: dict[str, Any] = {"corruption_index": plan.corruption_index, "corrupted": {}}
    if given.source is not None:
        with judge.timed("corruptions"):
            parts["corrupted"] = {
                name: judge.corrupted(plan.corruption_index, name, given.source) for name in plan.corruptions
            }
    results: dict[str, dict[str, Tensor]] = {}
    for name, attack in plan.attacks.items():
        with judge.timed(name):
            results[name] = attacked(judge, plan.attack_index[name], name, attack, correct, confidence)
    parts |= {
        "attack_index": plan.attack_index,
        "attacked": {name: result["right"] for name, result in results.items()},
        "attack_change": {name: float(result["change"]) for name, result in results.items()},
        "attack_confidence": {name: result["confidence"] for name, result in results.items()},
    }
    if len(index["n_curve"]):
        with judge.timed("curve"):
            curve = _around.radius_curve(judge, index["n_curve"], given.eps, correct)
            parts |= {"curve_index": index["n_curve"], "curve": curve}
    if len(index["n_lipschitz"]):
        with judge.timed("lipschitz"):
            constants = _around.lipschitz(judge, index["n_lipschitz"], given.eps)
            parts |= {"lipschitz_index": index["n_lipschitz"], "lipschitz": constants}
    if len(index["n_flips"]):
        with judge.timed("flips"):
            flips = flips_of(judge, index["n_flips"], flip_preset(given, judge.data))
            parts |= {"flip_index": index["n_flips"], "flips": flips}
    if len(index["n_occlusion"]):
        with judge.timed("occlusion"):
            parts |= {"occlusion_index": index["n_occlusion"], "occlusion": occlusion_of(judge, index["n_occlusion"])}
    if given.other is not None:
        with judge.timed("ood"):
            parts["ood_confidence"] = judge.other(given.other)
    audit = None
    if len(index["n_audit"]):
        with judge.timed("audit"):
            audit = audit_of(judge, index["n_audit"], given.eps, given.surrogate, given.thresholds)
    _pictures(judge, plan)
    return Outcomes(correct, confidence, **parts), audit


def _pictures(judge: Judge, plan: Plan) -> None:
    """What is only looked at: loss surfaces, features, class activation maps."""
    index = plan.index
    found: dict[str, Any] = {}
    if len(index["n_surface"]):
        with judge.timed("surfaces"):
            found["surfaces"] = _around.surfaces(judge, index["n_surface"])
    if len(index["n_features"]):
        with judge.timed("features"):
            found["features"], reason = feature_points(judge, index["n_features"])
        if reason:
            plan.left_out["features"] = reason
    if len(index["n_maps"]):
        with judge.timed("maps"):
            found["maps"], reason = _around.maps(judge, index["n_maps"])
        if reason:
            plan.left_out["maps"] = reason
    judge.examples = replace(judge.examples, **found)
