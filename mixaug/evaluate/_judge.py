"""Runs a model on clean, corrupted and attacked images and notes, image by image, what came of it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixaug.evaluate._choices import Attack, seed_of
from mixaug.evaluate._place import gradients_kept
from mixaug.evaluate._progress import Progress
from mixaug.evaluate.corruptions import corrupt
from mixaug.evaluate.images import LabelledImages, as_bytes, as_float
from mixaug.evaluate.lipschitz import lipschitz_constants
from mixaug.evaluate.outcomes import AdversarialExample, CorruptedExample, Examples
from mixaug.evaluate.surface import RADII, LossSurface, loss_surface

# Images are corrupted in blocks of this size whatever the model's batch size is: the same seed gives the same pictures.
CORRUPTION_BLOCK = 256
_SHOWN_SEVERITY = 3
_SHOWN_ATTACKED = 4


class Attacked(NamedTuple):
    """Image by image after an attack: right or wrong, confidence; and the largest change of a pixel of all of them."""

    right: Tensor
    confidence: Tensor
    change: float


class Judge:
    """One model with the data set it is measured on.

    Args:
        model: on ``device``, in evaluation mode.
        device: where images are sent.
        batch_size: images in one pass.
        data: the images.
        seed: of corruptions, the ascents' starts and the surfaces' directions.
        bar: told of each piece of work that is done.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, batch_size: int, data: LabelledImages, seed: int, bar: Progress
    ) -> None:
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.data = data
        self.seed = seed
        self.bar = bar
        self.num_classes = 0
        self.examples = Examples()

    def __call__(self, images: Tensor, labels: Tensor, what: str) -> tuple[Tensor, Tensor, Tensor]:
        """Right or wrong, confidence and prediction of float32 images in [0, 1], on the CPU.

        Raises:
            ValueError: no logits, or labels above the model's classes.
            FloatingPointError: logits that are not finite.
        """
        predictions, confidences = [], []
        for batch in images.split(self.batch_size):
            with torch.no_grad():
                logits = self.model(batch.to(self.device))
            if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(batch):
                got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(f"model must return logits of shape ({len(batch)}, classes), got {got}")
            confidence, predicted = logits.float().softmax(1).max(1)
            if not bool(confidence.isfinite().all()):  # a NaN or an infinite logit makes the confidence NaN
                raise FloatingPointError(f"the model's logits are not finite on {what}")
            self.num_classes = logits.shape[1]
            predictions.append(predicted.cpu())
            confidences.append(confidence.cpu().clamp(0, 1))
        if int(labels.max()) >= self.num_classes:
            raise ValueError(f"labels must lie below the model's {self.num_classes} classes, got {int(labels.max())}")
        predicted = torch.cat(predictions)
        return predicted == labels, torch.cat(confidences), predicted

    def clean(self) -> tuple[Tensor, Tensor, str]:
        """Right or wrong and confidence of all images, and the SHA-256 of images and labels."""
        digest = hashlib.sha256()
        correct, confidence = [], []
        for images, labels in self.data.blocks(torch.arange(len(self.data)), self.batch_size):
            right, sure, _ = self(as_float(images), labels, "clean images")
            digest.update(images.contiguous().numpy().tobytes())
            digest.update(labels.numpy().tobytes())
            correct.append(right)
            confidence.append(sure)
            self.bar.advance("clean images")
        digest.update(str(tuple(images.shape[1:])).encode())
        return torch.cat(correct), torch.cat(confidence), digest.hexdigest()

    def corrupted(self, index: Tensor, name: str, severity: int, preset: str) -> Tensor:
        """Right or wrong of the images at ``index`` under one corruption; one of them is kept as an example."""
        rights = []
        for block, (images, labels) in enumerate(self.data.blocks(index, CORRUPTION_BLOCK)):
            generator = torch.Generator().manual_seed(seed_of(self.seed, name, severity, block))
            corrupted = corrupt(as_bytes(images), name, severity, preset=preset, generator=generator)
            right, sure, predicted = self(as_float(corrupted), labels, f"{name} of severity {severity}")
            rights.append(right)
            if block == 0 and severity == _SHOWN_SEVERITY and images.shape[1] in (1, 3):
                at = len(self.examples.corrupted) % len(images)  # another image for each corruption
                self.examples.corrupted.append(
                    CorruptedExample(
                        name,
                        severity,
                        as_bytes(corrupted[at]).clone(),
                        int(labels[at]),
                        int(predicted[at]),
                        float(sure[at]),
                    )
                )
        self.bar.advance(f"{name.replace('_', ' ')} {severity}")
        return torch.cat(rights)

    def attacked(self, index: Tensor, name: str, attack: Attack) -> Attacked:
        """What an attack makes of the images at ``index``; some of them are kept as examples."""
        rights, sures, change = [], [], 0.0
        for block, (images, labels) in enumerate(self.data.blocks(index, self.batch_size)):
            clean = as_float(images)
            with gradients_kept(self.model):
                adversarial = attack(self.model, clean.to(self.device), labels.to(self.device))
            adversarial = _checked_adversarial(adversarial, clean, name)
            right, sure, predicted = self(adversarial, labels, f"images of the attack {name}")
            rights.append(right)
            sures.append(sure)
            change = max(change, float((adversarial - clean).abs().max()))
            if block == 0 and images.shape[1] in (1, 3):
                before, sure_before, predicted_before = self(clean, labels, "clean images")
                # First the images that the attack turned: they show what an attack is.
                order = torch.argsort((before & ~right).int() * 2 + before.int(), descending=True, stable=True)
                self.examples.adversarial.extend(
                    AdversarialExample(
                        attack=name,
                        clean=as_bytes(clean[at]).clone(),
                        adversarial=as_bytes(adversarial[at]).clone(),
                        label=int(labels[at]),
                        predicted_clean=int(predicted_before[at]),
                        confidence_clean=float(sure_before[at]),
                        predicted=int(predicted[at]),
                        confidence=float(sure[at]),
                    )
                    for at in order[:_SHOWN_ATTACKED].tolist()
                )
            self.bar.advance(name)
        return Attacked(torch.cat(rights), torch.cat(sures), change)

    def lipschitz(self, index: Tensor, eps: float) -> Tensor:
        """The local Lipschitz constant at each of the images at ``index``."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "lipschitz"))
        constants = []
        for images, _ in self.data.blocks(index, self.batch_size):
            batch = as_float(images).to(self.device)
            constants.append(lipschitz_constants(self.model, batch, eps, generator=generator).float().cpu())
            self.bar.advance("Lipschitz constant")
        return torch.cat(constants)

    def surfaces(self, index: Tensor) -> list[LossSurface]:
        """The loss around each of the images at ``index``, at each radius."""
        found = []
        images, labels = self.data.take(index)
        for at, image, label in zip(index.tolist(), as_float(images).to(self.device), labels.tolist(), strict=True):
            for radius in RADII:
                # The same random direction for every model.
                generator = torch.Generator().manual_seed(seed_of(self.seed, "surface", at))
                surface = loss_surface(
                    self.model, image, label, radius, generator=generator, batch_size=self.batch_size, index=at
                )
                found.append(surface)
            self.bar.advance("loss surface")
        return found


def _checked_adversarial(adversarial: Tensor, clean: Tensor, name: str) -> Tensor:
    if not isinstance(adversarial, Tensor) or adversarial.shape != clean.shape:
        got = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial).__name__
        raise ValueError(f"the attack {name!r} must return images of shape {tuple(clean.shape)}, got {got}")
    adversarial = adversarial.detach().float().cpu()
    low, high = (float(bound) for bound in adversarial.aminmax())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # also false for NaN
        raise ValueError(f"the attack {name!r} must return images in [0, 1], got values from {low:g} to {high:g}")
    return adversarial.clamp(0, 1)
