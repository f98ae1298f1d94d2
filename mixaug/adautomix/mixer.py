"""AdAutoMix as one object over the user's model: both players' losses of a step, and the teacher that follows it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixaug._checks import (
    ABOVE_ZERO,
    MAX_CLASSES,
    check_flag,
    check_int,
    check_label_values,
    check_number,
    check_tensor,
)
from mixaug._model_state import gradients_off
from mixaug._random import Drawing, GeneratorState
from mixaug.adautomix.checkpoint import save_generator
from mixaug.adautomix.mixing import (
    MixDraw,
    MixLaw,
    check_draws,
    check_images,
    check_logits,
    mix_images,
    mix_targets,
    plain_masks,
    sample_mix,
    share_gap,
    similarity,
)
from mixaug.adautomix.passes import SharedPass, frozen_call
from mixaug.adautomix.teacher import Teacher, bare_model, momentum_at
from mixaug.losses import soft_target_cross_entropy
from mixaug.models import ModelSpec
from mixaug.nn.feature_maps import default_layer, map_layers, resolve_layer
from mixaug.nn.mix_generator import MixGenerator
from mixaug.nn.trace import check_plain
from mixaug.transforms import labels as _labels
from mixaug.transforms import sample as _sample
from mixaug.transforms.images import check_values

__all__ = [
    "AdAutoMix",
    "AdAutoMixOutput",
    "Passes",
    "image_count",
    "zero_loss",
]


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


def zero_loss(like: Tensor) -> Tensor:
    """A loss that moves nothing: a leaf of its own, so that ``backward()`` works and no parameter gets a gradient."""
    return torch.zeros((), dtype=torch.float32, device=like.device, requires_grad=True)


def image_count(share: float, count: int) -> int:
    """How many images of a batch of ``count`` a share is: two or more, since a batch norm takes no single value.

    Example:
        >>> image_count(0.25, 100), image_count(0.25, 3), image_count(1.0, 1)
        (25, 2, 1)
    """
    return max(min(2, count), math.ceil(share * count))


class Passes:
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

    def separate_draws(self, first: MixDraw, second: MixDraw) -> AdAutoMixOutput:
        """Each player with its own draw; the generator's pass of the classifier leaves it as it is."""
        mixer = self.mixer
        with gradients_off(self.images.device):
            masks = mixer.generator(self.features, first.ratios, self.size, first.index)
            masks = plain_masks(masks, first.ratios, first.plain)
            mixed = mix_images(self.images, first.index, masks)
        loss, _, logits, targets = self._classifier(first, mixed)
        if not self.turn:
            return self._output(loss, zero_loss(loss), mixed, masks, first, logits, targets)
        masks = mixer.masks(self.features, second, self.size)
        mixed = mix_images(self.images, second.index, masks)
        wanted = mix_targets(self.labels, second.index, second.ratios, mixer.num_classes)
        rise = soft_target_cross_entropy(mixer.frozen_logits(mixed), wanted, check_values=False)
        return self._output(
            loss, self._generator(rise, mixed, wanted, second, masks), mixed, masks, second, logits, targets
        )

    def shared_draw(self, draw: MixDraw) -> AdAutoMixOutput:
        """One draw and one pass of the classifier for both."""
        mixer = self.mixer
        if not self.turn:
            return self.separate_draws(draw, draw)
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
        classes, rows = mixer.num_classes, image_count(mixer.terms_share, len(self.images))
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


class AdAutoMix(Drawing):
    r"""Trains a classifier on mixtures that a generator makes hard for it, and the generator with it.

    .. math::
        L_f &= AMCE(f(x_{mix})) + (1 - \alpha)\, CE(f(x), y) + \alpha\, AMCE(f(\textstyle\sum_i r_i x_i)) \\
        J_G &= AMCE(f(x_{mix})) - \beta\, AMCE(t(x_{mix})) + (1 - \beta) \textstyle\sum_i r_i
            \cos\bigl(t(x_{mix}), t(x_i)\bigr)

    Qin et al., "Adversarial AutoMixup", ICLR 2024 (arXiv:2312.11954), Eq. 10 and 11: the classifier f goes down
    :math:`L_f`, the generator G up :math:`J_G`; :math:`AMCE(z) = \sum_i r_i\, CE(z, y_i)`; the teacher t is a moving
    average of f, whose features G makes its masks from.

    Convention:
        *Gradients.* ``classifier_loss`` reaches the classifier's parameters alone, ``generator_loss`` those of
        ``mixer.generator`` alone; the teacher's never get one. Both backward passes come before either optimiser steps.

        *Batch norm.* The running statistics of f move once for each term of :math:`L_f` (three times a step), never for
        the generator's loss, although f runs in its own mode there too. The teacher's are averaged with its weights.

        *Draws.* The two players draw partners and ratios of their own in each step. Partners are the successors on a
        random cycle through the batch. Mixtures with a ratio closer than 0.03 to 0 or 1 are, for the classifier, plain.

        *Small batches.* A batch of fewer images than ``n_mix``, as the last of an epoch, mixes all that it has; one of
        a single image is plain cross-entropy. The first batch must have ``n_mix``.

        *Model.* It is held, not owned: its parameters are not among the mixer's, its modes, hooks and buffers are never
        touched. Put it on its device, and wrap it, before the mixer is made.

    Args:
        model: any classifier, images in [0, 1] in and logits out; it owns its normalisation. Also wrapped in
            ``DistributedDataParallel`` (the generator's gradients are then averaged as well) or compiled.
        num_classes: K, at least 2.
        feature_layer: layer whose output the generator sees, as in ``model.named_modules()`` or its unique end, such as
            ``"layer3"``: a map (B, C, h, w) or (B, h, w, C), or tokens. None: the third stage, see
            :func:`mixaug.nn.feature_maps.default_layer`.
        n_mix: N, images of a mixture, at least 2. Default 3.
        alpha: weight in [0, 1] of the plain mixture's term against the clean one. Default 0.5.
        beta: weight in [0, 1] of the teacher's cross-entropy against the similarity. Default 0.3.
        adversarial: the generator goes up the classifier's loss; False: down, the co-operative AutoMix (Liu et al.,
            ECCV 2022, arXiv:2103.13027).
        clean_term, plain_term: of :math:`L_f`; False leaves the term and its passes out.
        teacher_term, similarity_term: of :math:`J_G`, likewise.
        share_weight: weight w, 0 or more, of a term that :math:`J_G` loses: how far the shares of the masks are from
            their ratios, beyond 0.1, AutoMix's mask loss. Default 0, the paper: see the note.
        concentration: a of the ratios' ``Beta(a, a)``. Default 1.
        per_image: ratios for each image; False (default): one draw for the batch.
        dirichlet: ratios of a Dirichlet distribution, see :class:`~mixaug.adautomix.MixLaw`.
        generator_every: the generator plays every so many steps. Default 1.
        generator_share: share of the batch in (0, 1] that the generator plays with, at least two images. Default 1.
        terms_share: share of the batch in (0, 1] that the clean and the plain term are of, likewise. Default 1.
        shared_draws: one draw and one pass of the classifier for both players, whose losses then go backward by
            ``backward()``, in any order, and not by ``torch.autograd.grad``. Default False.
        momentum: of the teacher at the start, in [0, 1]. Default 0.999.
        max_skipped: steps in a row with a loss that is not finite, after which :meth:`is_finite` raises. Default 10.
        example_input: a batch of images that the model takes, to look at its layers; None: guessed.
        generator: of torch, for the draws; see :class:`mixaug.DynamicMixCut`.

    Shape:
        images (B, C, H, W) floating in [0, 1]; labels (B,) integers or (B, K) probabilities -> see
        :class:`AdAutoMixOutput`.

    Raises:
        TypeError: an argument, image or label of another kind.
        ValueError: an argument out of range; a layer that does not exist or gives no map; a first batch smaller than
            ``n_mix``; a model whose number of logits is not ``num_classes``; draws that do not fit.

    Note:
        The authors' code alternates this with co-operative updates and has the opposite sign at the cosine; this is the
        paper. Nothing in :math:`J_G` ties the share of a mask to its ratio, and the surest way to a high loss is a
        mixture that shows least of the image with the largest ratio: this is what the generator learnt in our runs. A
        ``share_weight`` keeps it from that. ``mixer.generator`` is the :class:`~mixaug.nn.MixGenerator`,
        ``mixer.teacher`` a copy of the model. Counted in forward passes of the model, a backward pass as two, a step
        costs 14 against 3 of a plain one; the options that save some are in ``docs/methods/adautomix.md``.

    Example:
        >>> from mixaug.models import build_model
        >>> model = build_model("resnet-small", 10)
        >>> mixer = AdAutoMix(model, num_classes=10, n_mix=3)
        >>> opt = torch.optim.SGD(model.parameters(), 0.1)
        >>> generator_opt = torch.optim.SGD(mixer.generator.parameters(), 0.1)
        >>> out = mixer(torch.rand(4, 3, 32, 32), torch.tensor([1, 7, 0, 3]))
        >>> out.classifier_loss.backward()
        >>> out.generator_loss.backward()
        >>> opt.step(), generator_opt.step(), mixer.update_teacher(step=0, total_steps=100)
        (None, None, 0.999)
        >>> out.mixed.shape, out.masks.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 3, 32, 32]))
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        feature_layer: str | None = None,
        n_mix: int = 3,
        alpha: float = 0.5,
        beta: float = 0.3,
        *,
        adversarial: bool = True,
        clean_term: bool = True,
        plain_term: bool = True,
        teacher_term: bool = True,
        similarity_term: bool = True,
        share_weight: float = 0.0,
        concentration: float = 1.0,
        per_image: bool = False,
        dirichlet: bool = False,
        generator_every: int = 1,
        generator_share: float = 1.0,
        terms_share: float = 1.0,
        shared_draws: bool = False,
        momentum: float = 0.999,
        max_skipped: int = 10,
        example_input: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        self.num_classes = check_int("num_classes", num_classes, 2, MAX_CLASSES)
        self.law = MixLaw(n_mix, concentration, per_image, dirichlet)
        self.alpha, self.beta = check_number("alpha", alpha, 0.0, 1.0), check_number("beta", beta, 0.0, 1.0)
        self.share_weight = check_number("share_weight", share_weight, 0.0, 1e6)
        self.momentum = check_number("momentum", momentum, 0.0, 1.0)
        self.generator_every = check_int("generator_every", generator_every, 1)
        self.generator_share = check_number("generator_share", generator_share, ABOVE_ZERO, 1.0)
        self.terms_share = check_number("terms_share", terms_share, ABOVE_ZERO, 1.0)
        self.max_skipped = check_int("max_skipped", max_skipped, 1)
        switches = {
            "adversarial": adversarial, "clean_term": clean_term, "plain_term": plain_term,
            "teacher_term": teacher_term, "similarity_term": similarity_term, "shared_draws": shared_draws,
        }  # fmt: skip
        for name, value in switches.items():
            setattr(self, name, check_flag(name, value))
        if self.shared_draws and self.generator_share < 1:
            raise ValueError(
                f"generator_share must be 1 with shared_draws, whose one pass both players have, got {generator_share}"
            )
        bare = bare_model(model)
        check_plain(bare, "make the mixer")
        layers = map_layers(bare, example_input)
        layer = default_layer(layers) if feature_layer is None else resolve_layer(bare, feature_layer)
        if layer not in layers:
            raise ValueError(
                f"feature_layer must give a map of places (B, C, h, w), and {layer!r} does not; these do: "
                f"{', '.join(list(layers)[:24])}"
            )
        self.feature_layer = layer
        # Not a submodule: its parameters are the user's to train, its mode the user's to set.
        self.__dict__["_model"] = model
        self.teacher = Teacher(bare, layer)
        weight = next((p for p in bare.parameters() if p.is_floating_point()), torch.empty(0, dtype=torch.float32))
        # float32 beside a model in half precision too, and whatever torch's default dtype is.
        self.generator = MixGenerator(layers[layer][0], dtype=torch.float32).to(weight.device)
        #: Steps that were skipped in all, and in a row.
        self.skipped = self.skipped_in_a_row = 0
        self._calls = 0
        self._checked = False
        self._kept: list[Tensor] = []
        self._random = GeneratorState(generator)
        # Averages the generator's gradients over the processes, as the wrapped model does its own.
        self.__dict__["_masks_of"] = self.generator
        if isinstance(model, DistributedDataParallel):
            self.__dict__["_masks_of"] = DistributedDataParallel(
                self.generator, device_ids=model.device_ids, process_group=model.process_group
            )

    @property
    def model(self) -> nn.Module:
        """The classifier as it was given."""
        model: nn.Module = self.__dict__["_model"]
        return model

    def train(self, mode: bool = True) -> AdAutoMix:
        """The mode of the mixer; the teacher stays in evaluation mode, the model is left alone."""
        return super().train(mode)

    def sample(self, images: Tensor) -> tuple[MixDraw, MixDraw]:
        """Draws for both players, to be given to a call: the classifier's and the generator's.

        Args:
            images: the batch.
        """
        generator, count = self._random.current(), len(images)
        draw = sample_mix(count, self.law, generator, images.device).to(images.device)
        if self.shared_draws:
            return draw, draw
        rows = image_count(self.generator_share, count)
        return draw, sample_mix(count, self.law, generator, images.device, rows).to(images.device)

    def forward(self, images: Tensor, labels: Tensor, draws: tuple[MixDraw, MixDraw] | None = None) -> AdAutoMixOutput:
        """Both players' losses of a batch.

        Args:
            images: the batch.
            labels: of the images; also a list, tuple or NumPy array of numbers.
            draws: of :meth:`sample`, in place of new ones.
        """
        check_images(images)
        labels = _sample.as_labels(labels, images.device)
        self._check(images, labels, draws)
        turn = self._calls % self.generator_every == 0
        self._calls += 1
        # What is_finite() puts back: batch statistics of a broken batch would stay in the running ones.
        self._kept = [buffer.detach().clone() for buffer in bare_model(self.model).buffers()]
        if len(images) == 1:
            return self._single(images, labels)
        draws = self.sample(images) if draws is None else draws
        step = Passes(self, images, labels, turn)
        return step.shared_draw(draws[0]) if self.shared_draws else step.separate_draws(*draws)

    def update_teacher(self, step: int, total_steps: int) -> float:
        """Moves the teacher towards the model; to be called after the optimisers' steps.

        Args:
            step: of the training, from 0.
            total_steps: of the training.

        Returns:
            the momentum that was used, see :func:`~mixaug.adautomix.momentum_at`.
        """
        momentum = momentum_at(step, total_steps, self.momentum)
        self.teacher.follow(bare_model(self.model), momentum)
        return momentum

    def is_finite(self, out: AdAutoMixOutput) -> bool:
        """Whether a step may be taken. False: skip it; it is counted, and the model's buffers are put back.

        On a GPU this waits for the device. Of several processes all skip a step that is broken in one.

        Args:
            out: of the step.

        Raises:
            FloatingPointError: ``max_skipped`` steps in a row were broken.
        """
        losses = {"classifier": out.classifier_loss.detach(), "generator": out.generator_loss.detach()}
        flags = torch.stack([loss.isfinite() for loss in losses.values()]).to(torch.int32)
        if isinstance(self.model, DistributedDataParallel):
            dist.all_reduce(flags, dist.ReduceOp.MIN, group=self.model.process_group)
        fine = flags.tolist()
        if all(fine):
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        with torch.no_grad():
            for buffer, kept in zip(bare_model(self.model).buffers(), self._kept, strict=True):
                buffer.copy_(kept)
        if self.skipped_in_a_row >= self.max_skipped:
            broken = " and the ".join(f"{name}'s" for name, ok in zip(losses, fine, strict=True) if not ok)
            raise FloatingPointError(
                f"the {broken} loss has not been finite for {self.skipped_in_a_row} steps in a row: "
                "try a lower learning rate of the one whose loss it is"
            )
        return False

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        spec: ModelSpec | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Writes the generator and its teacher as one file, for :class:`mixaug.GeneratedMix`.

        Args:
            path: file, ``generator.pt`` by custom, written whole or not at all.
            spec: how to build the model, for a model of ``mixaug.models``; None: whoever reads the file hands
                over a model of this architecture.
            classes: names of the classes.
        """
        save_generator(path, self, spec=spec, classes=classes)

    def get_extra_state(self) -> Tensor:
        """Counters for a run that goes on: calls, skipped steps in all and in a row."""
        return torch.tensor([self._calls, self.skipped, self.skipped_in_a_row], dtype=torch.int64)

    def set_extra_state(self, state: Tensor | Mapping[str, Any]) -> None:
        """Restores :meth:`get_extra_state`; earlier versions kept a dict."""
        if isinstance(state, Mapping):
            state = torch.tensor([state["calls"], state["skipped"], state["in_a_row"]], dtype=torch.int64)
        if check_tensor("_extra_state", state, 1, floating=False).shape != (3,) or (state < 0).any():
            raise ValueError(f"_extra_state must be 3 counts of at least 0, got {state.tolist()}")
        self._calls, self.skipped, self.skipped_in_a_row = state.tolist()

    def extra_repr(self) -> str:
        """The main arguments."""
        return (
            f"num_classes={self.num_classes}, feature_layer={self.feature_layer!r}, n_mix={self.law.n_mix}, "
            f"alpha={self.alpha}, beta={self.beta}"
        )

    def logits_of(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """The classifier's logits of several batches, one pass each, for one backward pass.

        Under ``DistributedDataParallel`` the buffers are sent once before the first pass and the gradients are averaged
        once after the last: sent again in between, they would be changed under the passes that are waiting to go back.
        """
        model = self.model
        found = []
        for position, batch in enumerate(batches):
            last = position == len(batches) - 1
            wait = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
            with wait:
                found.append(check_logits(model(batch), len(batch), self.num_classes))
        return found

    def frozen_logits(self, images: Tensor) -> Tensor:
        """The classifier's logits with a gradient to the images alone; its parameters and buffers stay as they are."""
        return frozen_call(bare_model(self.model), images)

    def masks(self, features: Tensor, draw: MixDraw, size: tuple[int, int]) -> Tensor:
        """The generator's masks, with its graph (of the wrapped one, where there is one)."""
        masks: Tensor = self.__dict__["_masks_of"](features, draw.ratios, size, draw.index)
        return masks

    def _single(self, images: Tensor, labels: Tensor) -> AdAutoMixOutput:
        (logits,) = self.logits_of([images])
        targets = _labels.probabilities(labels, self.num_classes)
        loss = soft_target_cross_entropy(logits, targets, check_values=False)
        draw = sample_mix(1, self.law, device=images.device)
        masks = torch.ones(1, 1, *images.shape[-2:], dtype=torch.float32, device=images.device)
        terms = {"clean": loss.detach()}
        return AdAutoMixOutput(loss, zero_loss(loss), images, masks, draw, logits.detach(), targets, terms, False)

    def _check(self, images: Tensor, labels: Tensor, draws: Any) -> None:
        classes = _labels.check_labels(labels, self.num_classes, images)
        if not self._checked and len(images) < self.law.n_mix:
            raise ValueError(
                f"n_mix must be at most the batch size, got {self.law.n_mix} for a first batch of {len(images)}"
            )
        if draws is not None:
            check_draws(draws, len(images))
        if torch.compiler.is_compiling():
            return
        # A GPU is waited for at the first call only.
        if not self._checked or labels.device.type == "cpu":
            check_label_values(labels, classes)
        if not self._checked:
            check_values(images, "images", "mixed as they are")
        self._checked = True
