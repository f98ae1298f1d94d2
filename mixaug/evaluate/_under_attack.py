"""A model under one attack, image by image."""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug._pictures import as_bytes, as_float
from mixaug.evaluate import _costs
from mixaug.evaluate._choices import Attack, describe, repeats, seeded
from mixaug.evaluate._judge import Judge
from mixaug.evaluate._place import gradients_kept
from mixaug.evaluate.outcomes import AdversarialExample

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
