"""Runs a model on images: batches, checked logits, resumable pieces; warns of images that look normalised."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mixaug._model_state import bare, check_class_range, check_logits
from mixaug._pictures import as_bytes, as_float
from mixaug.evaluate.corruptions import corrupt
from mixaug.evaluate.corruptions.tables import SEVERITIES
from mixaug.evaluate.images import LabelledImages, fingerprint
from mixaug.evaluate.journal import Journal, Progress
from mixaug.evaluate.plan import CLEAN, CORRUPTED
from mixaug.evaluate.results import CorruptedExample, Examples
from mixaug.evaluate.seeds import seed_of
from mixaug.evaluate.subject import Subject, timed

if TYPE_CHECKING:
    from mixaug.evaluate.corruptions.sets import CorruptedSet


_IMAGES = 256
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_POINTS, _SIGMAS = 0.1, 4.0


def expects_normalised(runner: Runner, correct: Tensor) -> str | None:
    """A sentence if the model does much better on normalised images; None if it does not.

    Up to 256 images, evenly spread over the data, are given to it as they are, and as ``(x - mean) / sd`` with the mean
    and standard deviation of the images themselves and with those of ImageNet. It is said where accuracy rises by more
    than 10 points and by more than 4 standard deviations of that difference: false for 1 model of 15,000. So 17 images
    are the fewest.

    Args:
        runner: of the model.
        correct: (n,) right or wrong of all images as they are.
    """
    # Spread over the data: the first ones of a folder are of one class, which a change of brightness may favour.
    count = min(_IMAGES, len(runner.data))
    index = torch.arange(count) * len(runner.data) // count
    images, labels = runner.data.take(index)
    images = as_float(images)
    channels = images.shape[1]
    runner.draw("normalised")
    own = (images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0).clamp_min(1e-3))
    choices = {"of the data set": own}
    if channels == 3:
        imagenet = torch.tensor(_IMAGENET, dtype=torch.float32)
        choices["of ImageNet"] = (imagenet[0], imagenet[1])
    plain = correct[index]
    best, found = _POINTS, None
    for whose, (mean, deviation) in choices.items():
        normalised = (images - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
        try:
            right = runner(normalised, labels, "normalised images")[0]
        except Exception:  # it takes no values outside of [0, 1]: it was not made for normalised images
            continue
        gained, lost = int((right & ~plain).sum()), int((plain & ~right).sum())
        change = (gained - lost) / len(images)
        if change > best and gained - lost > _SIGMAS * math.sqrt(gained + lost):
            best = change
            before, after = (100 * float(each.double().mean()) for each in (plain, right))
            found = (
                f"the model seems to expect normalised images: it is right on {before:.1f}% of {len(images)} images in "
                f"[0, 1], and on {after:.1f}% after (x - mean) / sd with mean and standard deviation {whose}; put the "
                "normalisation into the model, as its first layer"
            )
    return found


# Images are corrupted in blocks of this size whatever the model's batch size is: the same seed gives the same pictures.
CORRUPTION_BLOCK = 256
_SHOWN_SEVERITY = 3
_PROBED = 16
# Of a saved corrupted set so many images say whether its pictures are still the same.
_COMPARED = 4


class Runner:
    """One model with the data set it is measured on.

    Args:
        subject: the model, on ``device`` and in evaluation mode.
        device: where images are sent.
        batch_size: images in one pass.
        data: the images.
        seed: of corruptions and attacks, and of what the model itself draws.

    Attributes:
        journal: where finished pieces are; keeps none until it is given one.
        bar: told of each piece of work that is done.
        num_classes: of the model, known after its first pass.
        examples: the pictures so far.
        seconds: how long each part took.
    """

    def __init__(
        self, subject: Subject, device: torch.device, batch_size: int, data: LabelledImages, seed: int
    ) -> None:
        self.model = subject.module
        self.device = device
        self.batch_size = batch_size
        self.data = data
        self.seed = seed
        self.bar = Progress(0, "", shown=False)
        self.num_classes = 0
        self.examples = Examples()
        self.seconds: dict[str, float] = {}
        self.keep_in(None, "")

    def keep_in(self, folder: str | os.PathLike[str] | None, key: str) -> None:
        """Keeps pieces in a folder from now on."""
        self.journal = Journal(folder, key, self.draw)
        self._found = 0

    def draw(self, piece: str) -> None:
        """Seeds what a model or another library's attack draws from the global states: each piece repeats by itself."""
        seed = seed_of(self.seed, "piece", piece)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def step(self, done: str, work: float) -> None:
        """Tells the bar of work that is done, or was found."""
        self.bar.advance(done, work, found=self.journal.found > self._found)
        self._found = self.journal.found

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Notes how long a part took, what was found with the time that it took before."""
        earlier, found = self.seconds.get(part, 0.0), self.journal.spent
        with timed(self.seconds, part):
            yield
        self.seconds[part] = round(earlier + self.seconds[part] + self.journal.spent - found, 3)

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
        check_class_range("labels", labels, self.num_classes)
        return predicted == labels, confidence.clamp(0, 1), predicted

    def logits(self, images: Tensor, what: str) -> Tensor:
        """(B, K) float32 logits of one batch, checked, on the CPU."""
        with torch.no_grad():
            # A copy: a model may write to what it is given.
            logits = check_logits(bare(self.model)(images.to(self.device, copy=True)), len(images)).float().cpu()
        if not bool(logits.isfinite().all()):
            raise FloatingPointError(f"the model's logits are not finite on {what}")
        self.num_classes = logits.shape[1]
        return logits

    def probe(self) -> Tensor:
        """The logits of the first images: what the model is, beside its weights.

        Raises:
            ValueError: fewer than two classes, or labels above them.
        """
        self.draw("probe")
        images, labels = self.data.take(torch.arange(min(_PROBED, len(self.data))))
        logits = torch.cat([self.logits(batch, "clean images") for batch in as_float(images).split(self.batch_size)])
        if self.num_classes < 2:
            raise ValueError(
                f"model must give logits of 2 classes or more, got {self.num_classes}; a single logit z of one of two "
                "classes is the pair (0, z)"
            )
        check_class_range("labels", labels, self.num_classes)
        return logits

    def clean(self) -> tuple[Tensor, Tensor]:
        """Right or wrong and confidence of all images."""
        return self.scored(self.data, "clean images", labelled=True)

    def scored(self, data: LabelledImages, what: str, *, labelled: bool) -> tuple[Tensor, Tensor]:
        """Right or wrong and confidence of all images of a data set; without labels all are right."""
        pieces = []
        self.bar.doing(what)
        for block, positions in enumerate(torch.arange(len(data)).split(self.batch_size)):

            def compute(positions: Tensor = positions) -> dict[str, Tensor]:
                images, labels = data.take(positions)
                right, sure, _ = self(as_float(images), labels if labelled else None, what)
                return {"right": right, "confidence": sure}

            pieces.append(self.journal.keep(f"{what} {block}", compute, data.sha256, self.batch_size))
            self.step(what, CLEAN * len(positions))
        return torch.cat([piece["right"] for piece in pieces]), torch.cat([piece["confidence"] for piece in pieces])

    def corrupted(self, index: Tensor, name: str, source: str | CorruptedSet) -> Tensor:
        """(5, n) right or wrong of the images at ``index`` under one corruption; one is kept as an example."""
        return torch.stack([self._corrupted(index, name, severity, source) for severity in SEVERITIES])

    def _corrupted(self, index: Tensor, name: str, severity: int, source: str | CorruptedSet) -> Tensor:
        what = f"{name.replace('_', ' ')} of severity {severity}"

        def compute() -> dict[str, Tensor]:
            rights, shown = [], {}
            for block, positions in enumerate(index.split(CORRUPTION_BLOCK)):
                if isinstance(source, str):
                    images, labels = self.data.take(positions)
                    generator = torch.Generator().manual_seed(seed_of(self.seed, name, severity, block))
                    corrupted = corrupt(as_bytes(images), name, severity, preset=source, generator=generator)
                else:
                    corrupted, labels = source.take(name, severity, positions)
                right, sure, predicted = self(as_float(corrupted), labels, what)
                rights.append(right)
                if block == 0 and severity == _SHOWN_SEVERITY and corrupted.shape[1] in (1, 3):
                    at = seed_of(name) % len(corrupted)  # another image for each corruption
                    shown = {
                        "image": as_bytes(corrupted[at]).clone(),
                        "numbers": torch.stack([labels[at].double(), predicted[at].double(), sure[at].double()]),
                    }
            return {"right": torch.cat(rights), **shown}

        self.bar.doing(what)
        piece = self.journal.keep(f"{name} {severity}", compute, self._pictures(index, name, severity, source), index)
        self.step(what, CORRUPTED * len(index))
        if "image" in piece:
            label, predicted, sure = piece["numbers"].tolist()
            self.examples.corrupted.append(
                CorruptedExample(name, severity, piece["image"], int(label), int(predicted), sure)
            )
        return piece["right"]

    def _pictures(self, index: Tensor, name: str, severity: int, source: str | CorruptedSet) -> object:
        """What tells a source of corrupted images from another one."""
        if isinstance(source, str):
            return source
        some, _ = source.take(name, severity, index[:: max(1, len(index) // _COMPARED)])
        return sorted(source.description().items()), fingerprint({"some": some})
