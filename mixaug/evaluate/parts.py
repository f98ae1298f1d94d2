"""The parts of an evaluation: corruptions, attacks, the audit, and whatever measures there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixaug._pictures import as_bytes, as_float
from mixaug.evaluate.audit import Audit, Thresholds, audit_images, audit_pieces
from mixaug.evaluate.images import LabelledImages, fingerprint
from mixaug.evaluate.measure import Inputs, Measure, NotMeasurable
from mixaug.evaluate.measures import all_measures
from mixaug.evaluate.plan import Attack, Plan, describe, of_attack, of_audit, repeats, seeded
from mixaug.evaluate.results import AdversarialExample, Outcomes
from mixaug.evaluate.runner import Runner
from mixaug.evaluate.subject import gradients_kept

if TYPE_CHECKING:
    from mixaug.evaluate.corruptions.sets import CorruptedSet


@dataclass(frozen=True)
class Conditions:
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

    def inputs(self, correct: Tensor, confidence: Tensor) -> Inputs:
        """What measures get of it, with the clean images' outcomes."""
        return Inputs(correct, confidence, self.eps, self.source if isinstance(self.source, str) else None, self.other)


def measure_parts(
    runner: Runner, plan: Plan, conditions: Conditions, correct: Tensor, confidence: Tensor
) -> tuple[Outcomes, dict[str, Any], Audit | None]:
    """Measures each part; pictures go to ``runner.examples``, what cannot be measured to ``plan.left_out``.

    Args:
        runner: of the model.
        plan: what to measure.
        given: with what.
        correct: (n,) right or wrong of the clean images.
        confidence: (n,) their confidence.

    Returns:
        the outcomes, what each measure found by its name, and the audit if there is one.
    """
    corrupted: dict[str, Tensor] = {}
    if conditions.source is not None:
        with runner.timed("corruptions"):
            corrupted = {
                name: runner.corrupted(plan.corruption_index, name, conditions.source) for name in plan.corruptions
            }
    results: dict[str, dict[str, Tensor]] = {}
    for name, attack in plan.attacks.items():
        with runner.timed(name):
            results[name] = attacked(runner, plan.attack_index[name], name, attack, correct, confidence)
    found: dict[str, Any] = {}
    inputs = conditions.inputs(correct, confidence)
    for measure in all_measures():
        if measure in plan.measures or (not measure.counted and not measure.of_clean and measure.possible(inputs)):
            with runner.timed(measure.timed_as):
                try:
                    found[measure.name] = measure.compute(runner, _index(plan, measure), inputs)
                except NotMeasurable as reason:
                    plan.left_out[measure.name] = str(reason)
    audit = None
    if len(plan.index["audit"]):
        with runner.timed("audit"):
            audit = audit_of(runner, plan.index["audit"], conditions)
    outcomes = Outcomes(
        correct=correct,
        confidence=confidence,
        corruption_index=plan.corruption_index,
        corrupted=corrupted,
        attack_index=plan.attack_index,
        attacked={name: result["right"] for name, result in results.items()},
        attack_change={name: float(result["change"]) for name, result in results.items()},
        attack_confidence={name: result["confidence"] for name, result in results.items()},
    )
    return outcomes, found, audit


def _index(plan: Plan, measure: Measure[Any]) -> Tensor:
    return plan.index[measure.name] if measure.counted else torch.empty(0, dtype=torch.int64)


def audit_of(runner: Runner, index: Tensor, conditions: Conditions) -> Audit:
    """The masking audit on the images at ``index``."""
    images, labels = runner.data.take(index)
    thresholds = Thresholds() if conditions.thresholds is None else conditions.thresholds
    other = None if conditions.surrogate is None else fingerprint(dict(conditions.surrogate.state_dict()))
    names = audit_pieces(conditions.surrogate is not None)
    following = dict(zip(names, [*names[1:], "checks"], strict=True))

    def done(name: str) -> None:
        runner.step(f"audit, {following[name]}", of_audit(name) * len(index))

    runner.bar.doing(f"audit, {names[0]}")
    return audit_images(
        runner.model,
        as_float(images).to(runner.device),
        labels.to(runner.device),
        conditions.eps,
        surrogate=conditions.surrogate,
        thresholds=thresholds,
        seed=runner.seed,
        batch_size=runner.batch_size,
        keep=runner.journal.keeping(index, conditions.eps, thresholds, other, runner.batch_size),
        advance=done,
    )


_SHOWN = 4


def attacked(
    runner: Runner, index: Tensor, name: str, attack: Attack, correct: Tensor, clean: Tensor
) -> dict[str, Tensor]:
    """What an attack makes of those of the images at ``index`` that are right without it.

    Args:
        runner: of the model; it gets some of the images as examples.
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
    for block, positions in enumerate(index.split(runner.batch_size)):
        runner.bar.doing(name)
        piece = runner.journal.keep(
            f"attack {name} {block}",
            lambda block=block, positions=positions: _block(  # type: ignore[misc]
                runner, positions, name, attack, block, correct, clean
            ),
            describe(attack), positions, runner.batch_size,
            stored=repeats(attack),
        )  # fmt: skip
        pieces.append(piece)
        runner.step(name, of_attack(attack) * len(positions))
    shown = next((piece for piece in pieces if "images" in piece), None)
    if shown is not None:
        runner.examples.adversarial.extend(_examples(name, shown))
    return {
        "right": torch.cat([piece["right"] for piece in pieces]),
        "confidence": torch.cat([piece["confidence"] for piece in pieces]),
        "change": torch.stack([piece["change"] for piece in pieces]).max(),
    }


def _block(
    runner: Runner, positions: Tensor, name: str, attack: Attack, block: int, correct: Tensor, clean: Tensor
) -> dict[str, Tensor]:
    kept = correct[positions]
    still = torch.zeros((), dtype=torch.float32)
    piece = {"right": kept.clone(), "confidence": clean[positions].clone(), "change": still}
    if not bool(kept.any()):
        return piece
    images, labels = runner.data.take(positions[kept])
    images = as_float(images)
    with gradients_kept(runner.model), torch.enable_grad():
        # Copies: another library's attack may write to what it is given.
        inputs = images.to(runner.device, copy=True), labels.to(runner.device, copy=True)
        found = seeded(attack, runner.seed, name, block)(runner.model, *inputs)
    adversarial = _checked(found, images, name)
    right, sure, predicted = runner(adversarial, labels, f"images of the attack {name}")
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
