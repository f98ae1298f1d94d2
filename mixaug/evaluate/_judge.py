"""Runs a model on clean, corrupted and attacked images and notes, image by image, what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixaug.evaluate._choices import Attack, describe, repeats, seed_of, seeded
from mixaug.evaluate._journal import Journal
from mixaug.evaluate._place import gradients_kept
from mixaug.evaluate._progress import Progress
from mixaug.evaluate._subject import Subject
from mixaug.evaluate.corruptions import corrupt
from mixaug.evaluate.images import LabelledImages, as_bytes, as_float
from mixaug.evaluate.outcomes import SEVERITIES, AdversarialExample, CorruptedExample, Examples

if TYPE_CHECKING:
    from mixaug.evaluate.corrupted_sets import CorruptedSet

# Images are corrupted in blocks of this size whatever the model's batch size is: the same seed gives the same pictures.
CORRUPTION_BLOCK = 256
_SHOWN_SEVERITY = 3
_SHOWN_ATTACKED = 4
_PROBED = 16


class Judge:
    """One model with the data set it is measured on.

    Args:
        subject: the model, on ``device`` and in evaluation mode.
        device: where images are sent.
        batch_size: images in one pass.
        data: the images.
        seed: of corruptions and attacks.
        bar: told of each piece of work that is done.
    """

    def __init__(
        self, subject: Subject, device: torch.device, batch_size: int, data: LabelledImages, seed: int, bar: Progress
    ) -> None:
        self.model = subject.module
        self.device = device
        self.batch_size = batch_size
        self.data = data
        self.seed = seed
        self.bar = bar
        self.journal = Journal(None, "")
        self.num_classes = 0
        self.examples = Examples()

    def __call__(self, images: Tensor, labels: Tensor | None, what: str) -> tuple[Tensor, Tensor, Tensor]:
        """Right or wrong, confidence and prediction of float32 images in [0, 1], on the CPU.

        Raises:
            ValueError: no logits, or labels above the model's classes.
            FloatingPointError: logits that are not finite.
        """
        logits = torch.cat([self.logits(batch, what) for batch in images.split(self.batch_size)])
        confidence, predicted = logits.softmax(1).max(1)
        if labels is None:
            labels = predicted
        self._check_labels(labels)
        return predicted == labels, confidence.clamp(0, 1), predicted

    def _check_labels(self, labels: Tensor) -> None:
        if int(labels.max()) >= self.num_classes:
            raise ValueError(f"labels must lie below the model's {self.num_classes} classes, got {int(labels.max())}")

    def logits(self, images: Tensor, what: str) -> Tensor:
        """(B, K) float32 logits of one batch, checked, on the CPU."""
        with torch.no_grad():
            logits = self.model(images.to(self.device))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"model must return logits of shape ({len(images)}, classes), got {got}")
        # A NaN or an infinite logit makes the confidence NaN.
        if not bool(logits.float().softmax(1).isfinite().all()):
            raise FloatingPointError(f"the model's logits are not finite on {what}")
        self.num_classes = logits.shape[1]
        return logits.float().cpu()

    def predict(self, images: Tensor) -> Tensor:
        """(B,) predictions of float32 images in [0, 1], on the CPU."""
        return self(images, None, "perturbed images")[2]

    def probe(self) -> Tensor:
        """The logits of the first images: what the model is, beside its weights."""
        images, labels = self.data.take(torch.arange(min(_PROBED, len(self.data))))
        logits = torch.cat([self.logits(batch, "clean images") for batch in as_float(images).split(self.batch_size)])
        self._check_labels(labels)
        return logits

    def clean(self) -> tuple[Tensor, Tensor]:
        """Right or wrong and confidence of all images."""

        def compute() -> dict[str, Tensor]:
            correct, confidence = [], []
            for images, labels in self.data.blocks(torch.arange(len(self.data)), self.batch_size):
                right, sure, _ = self(as_float(images), labels, "clean images")
                correct.append(right)
                confidence.append(sure)
                self.bar.advance("clean images")
            return {"right": torch.cat(correct), "confidence": torch.cat(confidence)}

        piece = self.journal.keep("clean", compute)
        return piece["right"], piece["confidence"]

    def other(self, data: LabelledImages) -> Tensor:
        """Confidence on the images of another data set, whose labels mean nothing here."""

        def compute() -> dict[str, Tensor]:
            confidence = []
            for images, _ in data.blocks(torch.arange(len(data)), self.batch_size):
                confidence.append(self(as_float(images), None, "out-of-distribution images")[1])
                self.bar.advance("out-of-distribution images")
            return {"confidence": torch.cat(confidence)}

        return self.journal.keep("ood", compute, data.sha256 if self.journal.on else None)["confidence"]

    def corrupted(self, index: Tensor, name: str, source: str | CorruptedSet) -> Tensor:
        """(5, n) right or wrong of the images at ``index`` under one corruption; one is kept as an example."""
        return torch.stack([self._corrupted(index, name, severity, source) for severity in SEVERITIES])

    def _corrupted(self, index: Tensor, name: str, severity: int, source: str | CorruptedSet) -> Tensor:
        def compute() -> dict[str, Tensor]:
            rights, shown = [], {}
            for block, positions in enumerate(index.split(CORRUPTION_BLOCK)):
                if isinstance(source, str):
                    images, labels = self.data.take(positions)
                    generator = torch.Generator().manual_seed(seed_of(self.seed, name, severity, block))
                    corrupted = corrupt(as_bytes(images), name, severity, preset=source, generator=generator)
                else:
                    corrupted, labels = source.take(name, severity, positions)
                right, sure, predicted = self(as_float(corrupted), labels, f"{name} of severity {severity}")
                rights.append(right)
                if block == 0 and severity == _SHOWN_SEVERITY and corrupted.shape[1] in (1, 3):
                    at = seed_of(name) % len(corrupted)  # another image for each corruption
                    shown = {
                        "image": as_bytes(corrupted[at]).clone(),
                        "numbers": torch.stack([labels[at].double(), predicted[at].double(), sure[at].double()]),
                    }
            return {"right": torch.cat(rights), **shown}

        kind = source if isinstance(source, str) else sorted(source.description().items())
        piece = self.journal.keep(f"{name} {severity}", compute, kind, index)
        self.bar.advance(f"{name.replace('_', ' ')} {severity}")
        if "image" in piece:
            label, predicted, sure = piece["numbers"].tolist()
            self.examples.corrupted.append(
                CorruptedExample(name, severity, piece["image"], int(label), int(predicted), sure)
            )
        return piece["right"]

    def attacked(self, index: Tensor, name: str, attack: Attack, correct: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """What an attack makes of those of the images at ``index`` that are right without it.

        Args:
            index: positions of the images.
            name: of the attack.
            attack: the attack.
            correct: (n,) right or wrong of all images without an attack.
            clean: (n,) their confidence.

        Returns:
            ``right`` and ``confidence``, image by image, and the largest ``change`` of a pixel.
        """
        pieces = []
        shown: list[dict[str, Tensor]] = []
        for block, positions in enumerate(index.split(self.batch_size)):
            piece = self.journal.keep(
                f"{name} {block}",
                lambda block=block, positions=positions: self._attacked(  # type: ignore[misc]
                    positions, name, attack, block, correct, clean
                ),
                describe(attack), positions, self.batch_size,
                stored=repeats(attack),
            )  # fmt: skip
            pieces.append(piece)
            self.bar.advance(name)
            if "images" in piece and not shown:
                shown.append(piece)
        for piece in shown:
            self._show(name, piece)
        return {
            "right": torch.cat([piece["right"] for piece in pieces]),
            "confidence": torch.cat([piece["confidence"] for piece in pieces]),
            "change": torch.stack([piece["change"] for piece in pieces]).max(),
        }

    def _attacked(
        self, positions: Tensor, name: str, attack: Attack, block: int, correct: Tensor, clean: Tensor
    ) -> dict[str, Tensor]:
        kept = correct[positions]
        piece = {"right": kept.clone(), "confidence": clean[positions].clone(), "change": torch.tensor(0.0)}
        if not bool(kept.any()):
            return piece
        images, labels = self.data.take(positions[kept])
        images = as_float(images)
        with gradients_kept(self.model):
            found = seeded(attack, self.seed, name, block)(self.model, images.to(self.device), labels.to(self.device))
        adversarial = _checked_adversarial(found, images, name)
        right, sure, predicted = self(adversarial, labels, f"images of the attack {name}")
        piece["right"][kept] = right
        piece["confidence"][kept] = sure
        piece["change"] = (adversarial - images).abs().max()
        if images.shape[1] in (1, 3):
            # First the images that the attack turned: they show what an attack is.
            order = torch.argsort((~right).int(), descending=True, stable=True)[:_SHOWN_ATTACKED]
            before = clean[positions[kept]][order].double()
            piece["images"] = torch.stack([as_bytes(images[order]), as_bytes(adversarial[order])], 1).clone()
            piece["numbers"] = torch.stack(
                [labels[order].double(), before, predicted[order].double(), sure[order].double()], 1
            )
        return piece

    def _show(self, name: str, piece: dict[str, Tensor]) -> None:
        for (clean, adversarial), numbers in zip(piece["images"], piece["numbers"].tolist(), strict=True):
            label, before, predicted, sure = numbers
            self.examples.adversarial.append(
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
            )


def _checked_adversarial(adversarial: Tensor, clean: Tensor, name: str) -> Tensor:
    if not isinstance(adversarial, Tensor) or adversarial.shape != clean.shape:
        got = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial).__name__
        raise ValueError(f"the attack {name!r} must return images of shape {tuple(clean.shape)}, got {got}")
    adversarial = adversarial.detach().float().cpu()
    low, high = (float(bound) for bound in adversarial.aminmax())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # also false for NaN
        raise ValueError(f"the attack {name!r} must return images in [0, 1], got values from {low:g} to {high:g}")
    return adversarial.clamp(0, 1)
