"""The passes of one step of AdAutoMix: what each player is given, what it costs it, and where gradients end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixaug._model_state import gradients_off
from mixaug.adautomix.draws import MixDraw
from mixaug.adautomix.losses import share_gap, similarity
from mixaug.adautomix.mixing import mix_images, mix_targets, plain_masks
from mixaug.adautomix.shared import SharedPass
from mixaug.losses import soft_target_cross_entropy
from mixaug.transforms import _labels

if TYPE_CHECKING:
    from mixaug.adautomix.mixer import AdAutoMix

__all__ = ["AdAutoMixOutput", "Step", "nothing", "some"]


@dataclass(frozen=True)
class AdAutoMixOutput:
    """What a step of AdAutoMix gives.

    Attributes:
        classifier_loss: scalar float32, whose gradient goes to the classifier alone.
        generator_loss: scalar float32 to be minimised (the ascent's negative), whose gradient goes to the generator
            alone. In a step in which the generator does not play it is 0 and moves nothing: its parameters get no
            gradient, and optimisers leave them be.
        mixed: the generator player's mixtures, (n, C, H, W) in the images' dtype, detached; the classifier's in a step
            in which the generator does not play.
        masks: of ``mixed``, (n, N, H, W) float32, detached.
        draw: of ``mixed``: which images, with which ratios.
        logits: (m, K), detached: of the first m clean images, or of the classifier's mixtures if there is no clean
            term.
        targets: (m, K) float32, the labels of ``logits``.
        terms: value of each term of both losses, detached scalars: ``mixed``, ``clean``, ``plain`` of the classifier;
            ``adversarial``, ``teacher``, ``similarity`` and (with a ``share_weight``) ``share_gap`` of the generator.
        generator_turn: whether the generator plays in this step.
    """

    classifier_loss: Tensor
    generator_loss: Tensor
    mixed: Tensor
    masks: Tensor
    draw: MixDraw
    logits: Tensor
    targets: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    generator_turn: bool = True


def nothing(like: Tensor) -> Tensor:
    """A loss that moves nothing: a leaf of its own, so that ``backward()`` works and no parameter gets a gradient."""
    return torch.zeros((), dtype=torch.float32, device=like.device, requires_grad=True)


def some(share: float, count: int) -> int:
    """How many images of a batch of ``count`` a share is: two or more, since a batch norm takes no single value.

    Example:
        >>> some(0.25, 100), some(0.25, 3), some(1.0, 1)
        (25, 2, 1)
    """
    return max(min(2, count), math.ceil(share * count))


class Step:
    """The passes of one step.

    Args:
        mixer: whose step it is.
        images: of the batch.
        labels: of the batch.
        turn: whether the generator plays.
    """

    def __init__(self, mixer: AdAutoMix, images: Tensor, labels: Tensor, turn: bool) -> None:
        self.mixer, self.images, self.labels, self.turn = mixer, images, labels, turn
        self.size = (images.shape[-2], images.shape[-1])
        self.terms: dict[str, Tensor] = {}
        # One pass of the teacher for both: the features of the masks, and the logits that similarity compares with.
        self.source_logits: Tensor | None = None
        with gradients_off(images.device):
            if turn and mixer.similarity_term:
                self.features, self.source_logits = mixer.teacher.look(images)
            else:
                self.features = mixer.teacher.features(images)

    def apart(self, first: MixDraw, second: MixDraw) -> AdAutoMixOutput:
        """Each player with its own draw; the generator's pass of the classifier leaves it as it is."""
        mixer = self.mixer
        with gradients_off(self.images.device):
            masks = mixer.generator(self.features, first.ratios, self.size, first.index)
            masks = plain_masks(masks, first.ratios, first.plain)
            mixed = mix_images(self.images, first.index, masks)
        loss, _, logits, targets = self._classifier(first, mixed)
        if not self.turn:
            return self._output(loss, nothing(loss), mixed, masks, first, logits, targets)
        masks = mixer.masks(self.features, second, self.size)
        mixed = mix_images(self.images, second.index, masks)
        wanted = mix_targets(self.labels, second.index, second.ratios, mixer.num_classes)
        rise = soft_target_cross_entropy(mixer.frozen_logits(mixed), wanted, check_values=False)
        return self._output(
            loss, self._generator(rise, mixed, wanted, second, masks), mixed, masks, second, logits, targets
        )

    def shared(self, draw: MixDraw) -> AdAutoMixOutput:
        """One draw and one pass of the classifier for both."""
        mixer = self.mixer
        if not self.turn:
            return self.apart(draw, draw)
        masks = mixer.masks(self.features, draw, self.size)
        mixed = mix_images(self.images, draw.index, masks)
        with torch.no_grad():
            plain = mix_images(self.images, draw.index, draw.ratios[..., None, None])
            given = torch.where(draw.plain.view(-1, 1, 1, 1), plain, mixed)
        both = SharedPass(mixed, given, ~draw.plain)
        loss, amce, logits, targets = self._classifier(draw, both.leaf)
        wanted = mix_targets(self.labels, draw.index, draw.ratios, mixer.num_classes)
        both.watch(amce)
        return self._output(
            loss, self._generator(both.loss(), mixed, wanted, draw, masks), mixed, masks, draw, logits, targets
        )

    def _classifier(self, draw: MixDraw, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Its loss, the term of the mixtures, and what the accuracy is shown of."""
        mixer = self.mixer
        classes, rows = mixer.num_classes, some(mixer.terms_share, len(self.images))
        targets = [mix_targets(self.labels, draw.index, draw.ratios, classes)]
        batches, weights, names = [mixed], [1.0], ["mixed"]
        if mixer.clean_term:
            batches.append(self.images[:rows])
            targets.append(_labels.probabilities(self.labels[:rows], classes))
            weights.append(1 - mixer.alpha)
            names.append("clean")
        if mixer.plain_term:
            with torch.no_grad():
                batches.append(mix_images(self.images, draw.index[:rows], draw.ratios[:rows, :, None, None]))
            targets.append(targets[0][:rows])
            weights.append(mixer.alpha)
            names.append("plain")
        logits = mixer.logits_of(batches)
        losses = [soft_target_cross_entropy(z, y, check_values=False) for z, y in zip(logits, targets, strict=True)]
        self.terms |= {name: loss.detach() for name, loss in zip(names, losses, strict=True)}
        total = losses[0] * weights[0]
        for loss, weight in zip(losses[1:], weights[1:], strict=True):
            total = total + weight * loss
        shown = 1 if mixer.clean_term else 0
        return total, losses[0], logits[shown].detach(), targets[shown]

    def _generator(self, rise: Tensor, mixed: Tensor, wanted: Tensor, draw: MixDraw, masks: Tensor) -> Tensor:
        """Its loss: the negative of what it goes up."""
        mixer = self.mixer
        objective = rise if mixer.adversarial else -rise
        self.terms["adversarial"] = rise.detach()
        if mixer.teacher_term or mixer.similarity_term:
            seen = mixer.teacher(mixed)
            if mixer.teacher_term:
                kept = soft_target_cross_entropy(seen, wanted, check_values=False)
                objective = objective - mixer.beta * kept
                self.terms["teacher"] = kept.detach()
            if self.source_logits is not None:
                close = similarity(seen, self.source_logits, draw.index, draw.ratios)
                objective = objective + (1 - mixer.beta) * close
                self.terms["similarity"] = close.detach()
        if mixer.share_weight:
            gap = share_gap(masks, draw.ratios)
            objective = objective - mixer.share_weight * gap
            self.terms["share_gap"] = gap.detach()
        return -objective

    def _output(
        self,
        loss: Tensor,
        generator_loss: Tensor,
        mixed: Tensor,
        masks: Tensor,
        draw: MixDraw,
        logits: Tensor,
        targets: Tensor,
    ) -> AdAutoMixOutput:
        return AdAutoMixOutput(
            loss, generator_loss, mixed.detach(), masks.detach(), draw, logits, targets, self.terms, self.turn
        )
