"""The parts of an evaluation: what is measured around clean images, under attack and by each measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixaug._pictures import as_bytes, as_float
from mixaug.attacks import PGD, CWLinf
from mixaug.evaluate import parts as _around
from mixaug.evaluate import plan as _costs
from mixaug.evaluate.corruptions.perturbations import PERTURBATIONS
from mixaug.evaluate.images import LabelledImages, fingerprint
from mixaug.evaluate.measures.activation_maps import class_activation_maps
from mixaug.evaluate.measures.consistency import FlipRates, flip_rates
from mixaug.evaluate.measures.features import FeatureMap, feature_map
from mixaug.evaluate.measures.lipschitz import lipschitz_constants
from mixaug.evaluate.measures.occlusion import RATIOS, OcclusionCurve, occlusion_curve
from mixaug.evaluate.measures.surface import RADII, LossSurface, loss_surface
from mixaug.evaluate.plan import Attack, Plan, curve_radii, describe, repeats, seeded
from mixaug.evaluate.results import AdversarialExample, MapExample, Outcomes
from mixaug.evaluate.runner import Judge
from mixaug.evaluate.seeds import seed_of
from mixaug.evaluate.subject import gradients_kept

if TYPE_CHECKING:
    from mixaug.evaluate.audit import Audit, Thresholds
    from mixaug.evaluate.corruptions.sets import CorruptedSet
    from mixaug.evaluate.runner import Judge


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


_CURVE_STEPS = 20


def radius_curve(judge: Judge, index: Tensor, eps: float, correct: Tensor) -> dict[float, Tensor]:
    """Radius to right or wrong of the images at ``index``: under PGD-20 with the margin, then with cross-entropy.

    Each radius starts from all images that are right without an attack; only inside a radius the second attack gets
    what the first one left. Radii are those of :func:`~mixaug.evaluate.plan.curve_radii`.
    """
    curve = {}
    for radius in curve_radii(eps):
        rights = []
        judge.bar.doing(f"radius {radius:.3g}")
        for block, positions in enumerate(index.split(judge.batch_size)):
            piece = judge.journal.keep(
                f"curve {radius} {block}",
                lambda radius=radius, block=block, positions=positions: {  # type: ignore[misc]
                    "right": _left(judge, positions, radius, block, correct)
                },
                positions, judge.batch_size,
            )  # fmt: skip
            rights.append(piece["right"])
            judge.step(f"radius {radius:.3g}", _costs.RADIUS * len(positions))
        curve[radius] = torch.cat(rights)
    return curve


def _left(judge: Judge, positions: Tensor, radius: float, block: int, correct: Tensor) -> Tensor:
    """Which of the images are right under both attacks."""
    right = correct[positions].clone()
    for kind in (CWLinf, PGD):
        if not bool(right.any()):
            break
        # The same start at every radius, scaled: where no gradient leads away from it, the curve has no noise.
        generator = torch.Generator().manual_seed(seed_of(judge.seed, "curve", kind.__name__, block))
        attack = kind(eps=radius, step_size=radius / 4, steps=_CURVE_STEPS, early_stop=True, generator=generator)
        images, labels = judge.data.take(positions[right])
        with gradients_kept(judge.model):
            found = attack(judge.model, as_float(images).to(judge.device), labels.to(judge.device))
        right[right.clone()] = judge(found.detach().float().cpu(), labels, f"images at radius {radius:.3g}")[0]
    return right


def lipschitz(judge: Judge, index: Tensor, eps: float) -> Tensor:
    """The local Lipschitz constant at each of the images at ``index``."""

    def compute() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed_of(judge.seed, "lipschitz"))
        constants = []
        for images, _ in judge.data.blocks(index, judge.batch_size):
            batch = as_float(images).to(judge.device)
            constants.append(lipschitz_constants(judge.model, batch, eps, generator=generator).float().cpu())
        return {"constants": torch.cat(constants)}

    judge.bar.doing("Lipschitz constant")
    piece = judge.journal.keep("lipschitz", compute, index, eps, judge.batch_size)
    judge.step("Lipschitz constant", _costs.LIPSCHITZ * len(index))
    return piece["constants"]


def surfaces(judge: Judge, index: Tensor) -> list[LossSurface]:
    """The loss around each of the images at ``index``, at each radius."""
    found = []
    images, labels = judge.data.take(index)
    for at, image, label in zip(index.tolist(), as_float(images), labels.tolist(), strict=True):
        judge.bar.doing("loss surface")
        piece = judge.journal.keep(
            f"surface {at}",
            lambda at=at, image=image, label=label: _surface(judge, at, image, label),  # type: ignore[misc]
            RADII, judge.batch_size,
        )  # fmt: skip
        found += [
            LossSurface(losses, offsets, radius, label, at)
            for losses, offsets, radius in zip(piece["losses"], piece["offsets"], RADII, strict=True)
        ]
        judge.step("loss surface", _costs.SURFACE)
    return found


def _surface(judge: Judge, at: int, image: Tensor, label: int) -> dict[str, Tensor]:
    found = []
    for radius in RADII:
        # The same random direction for every model.
        generator = torch.Generator().manual_seed(seed_of(judge.seed, "surface", at))
        found.append(
            loss_surface(
                judge.model, image.to(judge.device), label, radius, generator=generator,
                batch_size=judge.batch_size, index=at,
            )
        )  # fmt: skip
    return {
        "losses": torch.stack([each.losses for each in found]),
        "offsets": torch.stack([each.offsets for each in found]),
    }


def maps(judge: Judge, index: Tensor) -> tuple[list[MapExample], str]:
    """Where the images at ``index`` speak for their class, and where for the predicted one; or none, and why."""
    images, labels = judge.data.take(index)

    def compute() -> dict[str, Tensor]:
        _, sure, predicted = judge(as_float(images), labels, "clean images")
        targets = torch.stack([labels, predicted], 1)
        found = class_activation_maps(judge.model, as_float(images).to(judge.device), targets.to(judge.device))
        return {"maps": as_bytes(found.float().cpu()), "predicted": predicted, "confidence": sure}

    judge.bar.doing("class activation maps")
    try:
        piece = judge.journal.keep("maps", compute, index, judge.batch_size)
    except ValueError as error:  # no layer of the model gives a map
        return [], str(error)
    finally:
        judge.step("class activation maps", _costs.MAPS * len(index))
    return [
        MapExample(as_bytes(image), label_map, predicted_map, int(label), int(predicted), float(sure))
        for image, (label_map, predicted_map), label, predicted, sure in zip(
            images, piece["maps"], labels, piece["predicted"], piece["confidence"], strict=True
        )
    ], ""


_SHOWN = 4


def attacked(
    judge: Judge, index: Tensor, name: str, attack: Attack, correct: Tensor, clean: Tensor
) -> dict[str, Tensor]:
    """What an attack makes of those of the images at ``index`` that are right without it.

    Args:
        judge: of the model; it gets some of the images as examples.
        index: positions of the images.
        name: of the attack.
        attack: the attack.
        correct: (n,) right or wrong of all images without an attack.
        clean: (n,) their confidence.

    Returns:
        ``right`` and ``confidence``, image by image, and the largest ``change`` of a pixel.

    Raises:
        ValueError: the attack leaves [0, 1] or changes the shape.
    """
    pieces = []
    for block, positions in enumerate(index.split(judge.batch_size)):
        judge.bar.doing(name)
        piece = judge.journal.keep(
            f"attack {name} {block}",
            lambda block=block, positions=positions: _block(  # type: ignore[misc]
                judge, positions, name, attack, block, correct, clean
            ),
            describe(attack), positions, judge.batch_size,
            stored=repeats(attack),
        )  # fmt: skip
        pieces.append(piece)
        judge.step(name, _costs.of_attack(attack) * len(positions))
    shown = next((piece for piece in pieces if "images" in piece), None)
    if shown is not None:
        judge.examples.adversarial.extend(_examples(name, shown))
    return {
        "right": torch.cat([piece["right"] for piece in pieces]),
        "confidence": torch.cat([piece["confidence"] for piece in pieces]),
        "change": torch.stack([piece["change"] for piece in pieces]).max(),
    }


def _block(
    judge: Judge, positions: Tensor, name: str, attack: Attack, block: int, correct: Tensor, clean: Tensor
) -> dict[str, Tensor]:
    kept = correct[positions]
    still = torch.zeros((), dtype=torch.float32)
    piece = {"right": kept.clone(), "confidence": clean[positions].clone(), "change": still}
    if not bool(kept.any()):
        return piece
    images, labels = judge.data.take(positions[kept])
    images = as_float(images)
    with gradients_kept(judge.model), torch.enable_grad():
        # Copies: a foreign attack may write to what it is given.
        given = images.to(judge.device, copy=True), labels.to(judge.device, copy=True)
        found = seeded(attack, judge.seed, name, block)(judge.model, *given)
    adversarial = _checked(found, images, name)
    right, sure, predicted = judge(adversarial, labels, f"images of the attack {name}")
    piece["right"][kept] = right
    piece["confidence"][kept] = sure
    piece["change"] = (adversarial - images).abs().max()
    if images.shape[1] in (1, 3):
        # First the images that the attack turned: they show what an attack is.
        order = torch.argsort((~right).int(), descending=True, stable=True)[:_SHOWN]
        before = clean[positions[kept]][order].double()
        piece["images"] = torch.stack([as_bytes(images[order]), as_bytes(adversarial[order])], 1).clone()
        piece["numbers"] = torch.stack(
            [labels[order].double(), before, predicted[order].double(), sure[order].double()], 1
        )
    return piece


def _checked(adversarial: object, clean: Tensor, name: str) -> Tensor:
    if not isinstance(adversarial, Tensor) or adversarial.shape != clean.shape:
        got = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial).__name__
        raise ValueError(f"the attack {name!r} must return images of shape {tuple(clean.shape)}, got {got}")
    adversarial = adversarial.detach().float().cpu()
    low, high = (float(bound) for bound in adversarial.aminmax())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # also false for NaN
        raise ValueError(f"the attack {name!r} must return images in [0, 1], got values from {low:g} to {high:g}")
    return adversarial.clamp(0, 1)


def _examples(name: str, piece: dict[str, Tensor]) -> list[AdversarialExample]:
    return [
        AdversarialExample(
            attack=name,
            clean=clean,
            adversarial=adversarial,
            label=int(label),
            predicted_clean=int(label),  # only images that are right are attacked
            confidence_clean=before,
            predicted=int(predicted),
            confidence=sure,
        )
        for (clean, adversarial), (label, before, predicted, sure) in zip(
            piece["images"], piece["numbers"].tolist(), strict=True
        )
    ]


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
