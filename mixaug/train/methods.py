"""One training step for each method: from model, images and labels to the loss to go down.

A method is made by a function here that takes :class:`Setup` and returns a :class:`Step`. A new one is a function more
in ``METHODS`` and its name in ``mixaug.train.settings.METHOD_NAMES``; the loop knows none of them. A method that makes
adversarial images does so within its step, where it may switch the model's mode; one that learns something itself
overrides :meth:`Step.finish` and the two state methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from mixaug.losses import jensen_shannon, soft_target_cross_entropy
from mixaug.train.settings import CONSISTENT_METHODS, METHOD_NAMES, TrainSettings
from mixaug.transforms import IPMix

__all__ = ["METHODS", "Setup", "Step", "StepResult", "build_step"]


@dataclass(frozen=True)
class StepResult:
    """What a step gives to the loop.

    Args:
        loss: scalar float32 with its graph.
        logits: ``(n, K)``, whose accuracy against ``labels`` is shown while training.
        labels: ``(n,)`` int64; for mixed labels the class with the most weight.
    """

    loss: Tensor
    logits: Tensor
    labels: Tensor


class Step:
    """One training step: ``step(model, images, labels)`` gives the loss, on whose gradient the loop steps the model.

    Args:
        compute: function of the model, images ``(B, C, H, W)`` float32 in [0, 1] and labels ``(B,)`` int64, on one
            device.

    Example:
        >>> def step_of(model, images, labels):
        ...     logits = model(images)
        ...     return StepResult(soft_target_cross_entropy(logits, labels), logits, labels)
        >>> Step(step_of)(nn.Flatten(), torch.zeros(3, 1, 1, 2), torch.tensor([0, 1, 1])).logits.shape
        torch.Size([3, 2])
    """

    def __init__(self, compute: Callable[[nn.Module, Tensor, Tensor], StepResult]) -> None:
        self._compute = compute

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        """The loss and what it was computed from."""
        return self._compute(model, images, labels)

    def finish(self, step: int, total_steps: int) -> None:
        """Called when the model has taken the step: for methods with an optimiser, teacher or schedule of their own.

        Args:
            step: number of the step, from 0.
            total_steps: of the run.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides the model and the generators; tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""


@dataclass(frozen=True)
class Setup:
    """What a method may need to make its step.

    Args:
        settings: of the run.
        num_classes: number of classes.
        generator: of torch on the CPU, the method's own: its state is part of the checkpoint. torchvision's transforms
            take none; they draw from torch's default one, whose state is part of the checkpoint too.
        model: the classifier on its device, for methods that keep a copy of it or reach into its layers.
    """

    settings: TrainSettings
    num_classes: int
    generator: torch.Generator
    model: nn.Module | None = None


def build_step(setup: Setup) -> Step:
    """The step of the method that the settings name.

    Args:
        setup: settings, number of classes and the method's generator.

    Returns:
        the step.

    Raises:
        ValueError: an unknown method; the message lists the right ones.

    Example:
        >>> step = build_step(Setup(TrainSettings(method="standard"), 2, torch.Generator()))
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> step(model, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1])).loss.ndim
        0
    """
    if setup.settings.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {setup.settings.method!r}")
    return METHODS[setup.settings.method](setup)


def standard(setup: Setup) -> Step:
    """Cross-entropy of the cropped and flipped images, nothing else."""

    def step(model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        logits = model(images)
        return StepResult(soft_target_cross_entropy(logits, labels), logits, labels)

    return Step(step)


def mixup(setup: Setup) -> Step:
    """torchvision's MixUp (Zhang et al., 2018, arXiv:1710.09412): one ``lam ~ Beta(alpha, alpha)`` a batch."""
    return _mixed_labels(v2.MixUp(alpha=setup.settings.alpha, num_classes=setup.num_classes))


def cutmix(setup: Setup) -> Step:
    """torchvision's CutMix (Yun et al., 2019, arXiv:1905.04899): one box a batch, the label weighted by its area."""
    return _mixed_labels(v2.CutMix(alpha=setup.settings.alpha, num_classes=setup.num_classes))


def _mixed_labels(transform: nn.Module) -> Step:
    def step(model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        mixed, targets = transform(images, labels)
        logits = model(mixed)
        return StepResult(soft_target_cross_entropy(logits, targets), logits, targets.argmax(1))

    return Step(step)


def augmix(setup: Setup) -> Step:
    """torchvision's AugMix (Hendrycks et al., 2020, arXiv:1912.02781), severity 3, width 3, depth 1 to 3.

    Applied image by image: on a batch torchvision draws the operations once for all images, which is another, weaker
    method. Without ``all_ops``, as in the paper, the operations that overlap with the corruptions of the evaluation
    are left out. Works on bytes, on the CPU.
    """
    transform = v2.AugMix(all_ops=setup.settings.all_ops)

    def view(images: Tensor) -> Tensor:
        pixels = images.mul(255).round().to("cpu", torch.uint8)
        views = torch.stack([transform(image) for image in pixels]).to(images.device)
        return views.to(images.dtype).div(255)

    return _views(setup, view)


def ipmix(setup: Setup) -> Step:
    """IPMix of the whole batch (Huang et al., 2023): every image draws its own chains, operations and pictures."""
    settings = setup.settings
    pictures = None
    if settings.mixing_set is not None:
        from mixaug.mixing_sets import MixingSet

        pictures = MixingSet.from_folder(settings.mixing_set)
    transform = IPMix(
        k=settings.k,
        t=settings.t,
        severity=settings.severity,
        structure=settings.structure,
        levels=settings.levels,
        all_ops=settings.all_ops,
        mixing_set=pictures,
        generator=setup.generator,
    )
    return _views(setup, transform)


def _views(setup: Setup, view: Callable[[Tensor], Tensor]) -> Step:
    """Cross-entropy of one view; with ``jsd``, ``CE(clean) + weight * JS(clean, view, view)`` in one forward pass."""
    weight = setup.settings.jsd_weight

    def plain(model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        logits = model(view(images))
        return StepResult(soft_target_cross_entropy(logits, labels), logits, labels)

    def consistent(model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        logits = model(torch.cat([images, view(images), view(images)]))
        clean, one, two = logits.chunk(3)
        loss = soft_target_cross_entropy(clean, labels) + weight * jensen_shannon(clean, one, two)
        return StepResult(loss, clean, labels)

    return Step(consistent if setup.settings.jsd else plain)


#: Name of a method, and the function that makes its step.
METHODS: dict[str, Callable[[Setup], Step]] = {
    "standard": standard,
    "mixup": mixup,
    "cutmix": cutmix,
    "augmix": augmix,
    "ipmix": ipmix,
}
if tuple(METHODS) != METHOD_NAMES or not set(CONSISTENT_METHODS) <= set(METHODS):
    raise RuntimeError("METHODS and mixaug.train.settings.METHOD_NAMES have come apart")
