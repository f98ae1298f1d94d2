"""The methods of training: one step for each, from model, images and labels to the loss to go down.

A method is made by a function that takes :class:`Setup` and returns a :class:`Step`: those that augment are here, those
that attack in ``methods/adversarial.py``, the one that learns to mix in ``methods/adautomix.py``. A new one is a
function more in ``METHODS`` and its name in ``mixaug.train.settings.METHOD_NAMES``; the loop knows none of them. One
that learns something itself overrides :meth:`Step.backward`, :meth:`Step.optimise`, :meth:`Step.finish` and the two
state methods.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from mixaug.losses import jensen_shannon, soft_target_cross_entropy
from mixaug.train.methods import adversarial
from mixaug.train.methods.adautomix import adautomix
from mixaug.train.methods.step import Setup, Step, StepResult
from mixaug.train.settings import CONSISTENT_METHODS, METHOD_NAMES
from mixaug.transforms import IPMix

__all__ = ["METHODS", "Setup", "Step", "StepResult", "build_step"]


def build_step(setup: Setup) -> Step:
    """The step of the method that the settings name.

    Args:
        setup: settings, number of classes and the method's generator.

    Returns:
        the step.

    Raises:
        ValueError: an unknown method; the message lists the right ones.

    Example:
        >>> from mixaug.train.settings import TrainSettings
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
        return StepResult(soft_target_cross_entropy(logits, labels, check_values=False), logits, labels)

    return Step(step)


def mixup(setup: Setup) -> Step:
    """torchvision's MixUp (Zhang et al., 2018, arXiv:1710.09412): one ``lam ~ Beta(alpha, alpha)`` a batch."""
    return _batch_step(setup, v2.MixUp(alpha=setup.settings.alpha, num_classes=setup.num_classes))


def cutmix(setup: Setup) -> Step:
    """torchvision's CutMix (Yun et al., 2019, arXiv:1905.04899): one box a batch, the label weighted by its area."""
    return _batch_step(setup, v2.CutMix(alpha=setup.settings.alpha, num_classes=setup.num_classes))


def _batch_step(setup: Setup, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Step:
    """Cross-entropy of the changed images and labels; with ``adversarial``, of the attack on the changed images."""

    def step(model: nn.Module, images: Tensor, targets: Tensor) -> StepResult:
        logits = model(images)
        labels = targets.argmax(1) if targets.is_floating_point() else targets
        return StepResult(soft_target_cross_entropy(logits, targets, check_values=False), logits, labels)

    def attacked(attack: adversarial.Attack, model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        changed, targets = change(images, labels)
        return step(model, attack(model, changed, targets), targets)

    if setup.settings.adversarial:
        return adversarial.AdversarialStep(setup, adversarial.pgd_attack(setup), attacked)
    return Step(lambda model, images, labels: step(model, *change(images, labels)))


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
        from mixaug.mixing_sets.named import mixing_set_of

        pictures = mixing_set_of(settings.mixing_set)
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

    def consistent(model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        logits = model(torch.cat([images, view(images), view(images)]))
        clean, one, two = logits.chunk(3)
        agreement = jensen_shannon(clean, one, two, check_values=False)
        loss = soft_target_cross_entropy(clean, labels, check_values=False) + weight * agreement
        return StepResult(loss, clean, labels)

    return Step(consistent) if setup.settings.jsd else _batch_step(setup, lambda images, labels: (view(images), labels))


#: Name of a method, and the function that makes its step.
METHODS: dict[str, Callable[[Setup], Step]] = {
    "standard": standard,
    "mixup": mixup,
    "cutmix": cutmix,
    "augmix": augmix,
    "ipmix": ipmix,
    "dynamic-mixcut": adversarial.dynamic_mixcut,
    "pgd": adversarial.pgd,
    "trades": adversarial.trades,
    "feature-scatter": adversarial.feature_scatter,
    "hybrid": adversarial.hybrid,
    "adautomix": adautomix,
}
if tuple(METHODS) != METHOD_NAMES or not set(CONSISTENT_METHODS) <= set(METHODS):
    raise RuntimeError("METHODS and mixaug.train.settings.METHOD_NAMES have come apart")
