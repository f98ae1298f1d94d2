"""Methods that attack the model in each step: PGD, TRADES, Feature Scatter, Dynamic MixCut and the hybrid method.

The attack sees the model in evaluation mode, the step trains it in training mode. What a step costs is the attack's
passes and one forward and backward pass of the images that the loss is of, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixaug._checks import check_number
from mixaug.attacks import FGSM, KLPGD, PGD, FeatureScatter, two_views
from mixaug.attacks.attack import call_in_training
from mixaug.losses import AdaptiveLoss, EpsSchedule, soft_target_cross_entropy, trades_loss
from mixaug.train.methods.step import Setup, Step, StepResult
from mixaug.train.settings import Adversary
from mixaug.transforms import DynamicMixCut, smooth_labels

__all__ = ["AdversarialStep", "Attack", "dynamic_mixcut", "feature_scatter", "hybrid", "pgd", "pgd_attack", "trades"]

#: Model, images and labels to adversarial images.
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


class AdversarialStep(Step):
    """A step with an attack whose radius follows the run's schedule.

    Args:
        setup: of the method.
        make: the attack of a radius, of this package or another.
        compute: function of the attack, the model, images and labels, as in :class:`~mixaug.train.methods.step.Step`.
    """

    def __init__(
        self,
        setup: Setup,
        make: Callable[[float], Attack],
        compute: Callable[[Attack, nn.Module, Tensor, Tensor], StepResult],
    ) -> None:
        adversary = adversary_of(setup)
        self._make = make
        self._schedule = EpsSchedule(adversary.eps, setup.epochs, shape=adversary.eps_schedule)
        #: The radius of this epoch.
        self.radius = self._schedule(0)
        self._attack = make(self.radius)
        super().__init__(lambda model, images, labels: compute(self._run, model, images, labels))

    def _run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attacked = call_in_training(self._attack, model, images, labels)
        # Before torch 2.10 autocast keeps weights that it cast without gradients, as some attacks' clean pass makes it,
        # and the step's own pass would get these: no gradient would reach the weights.
        torch.clear_autocast_cache()
        return attacked

    def start_epoch(self, epoch: int) -> None:
        """Attacks with the epoch's radius from here on."""
        radius = self._schedule(epoch)
        if radius != self.radius:
            self.radius, self._attack = radius, self._make(radius)

    def columns(self) -> dict[str, float]:
        """The epoch's radius."""
        return {"radius": self.radius}


def adversary_of(setup: Setup) -> Adversary:
    """The adversary of the run.

    Raises:
        ValueError: the run has none.
    """
    adversary = setup.settings.adversary
    if adversary is None:
        raise ValueError(f"settings must be of a run with an adversary, got the method {setup.settings.method!r}")
    return adversary


def pgd_attack(setup: Setup) -> Callable[[float], PGD]:
    """The settings' PGD for a radius; its step keeps its share of the radius."""
    adversary = adversary_of(setup)
    generator = setup.attack_generator

    def make(radius: float) -> PGD:
        return PGD(
            eps=radius,
            step_size=adversary.step_size * (radius / adversary.eps),
            steps=adversary.steps,
            targeted=adversary.targeted,
            generator=generator,
        )

    return make


def pgd(setup: Setup) -> Step:
    """Adversarial training (Madry et al., 2018, arXiv:1706.06083): cross-entropy of PGD's images, no clean ones."""
    smoothing = adversary_of(setup).smoothing

    def step(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        logits = model(attack(model, images, labels))
        return StepResult(_smoothed(logits, labels, smoothing), logits, labels)

    return AdversarialStep(setup, pgd_attack(setup), step)


def trades(setup: Setup) -> Step:
    """TRADES (Zhang et al., 2019, arXiv:1901.08573): clean cross-entropy plus the divergence to PGD's images on it.

    Clean and adversarial images pass the model one after the other, as in the authors' code: each has its own batch
    statistics.
    """
    adversary, generator = adversary_of(setup), setup.attack_generator
    beta = cast(float, setup.settings.trades_beta)  # never None for its own method

    def make(radius: float) -> Attack:
        step_size = adversary.step_size * (radius / adversary.eps)
        return KLPGD(eps=radius, step_size=step_size, steps=adversary.steps, generator=generator)

    def step(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        attacked = attack(model, images, labels)
        clean = model(images)
        return StepResult(trades_loss(clean, model(attacked), labels, beta, check_values=False), clean, labels)

    return AdversarialStep(setup, make, step)


def feature_scatter(setup: Setup) -> Step:
    """Feature Scatter (Zhang and Wang, 2019, arXiv:1907.10764): one step up a transport cost, smoothed labels."""
    generator, smoothing = setup.attack_generator, adversary_of(setup).smoothing

    def step(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        logits = model(attack(model, images, labels))
        return StepResult(_smoothed(logits, labels, smoothing), logits, labels)

    return AdversarialStep(setup, lambda radius: FeatureScatter(eps=radius, generator=generator), step)


def dynamic_mixcut(setup: Setup) -> Step:
    """Dynamic MixCut: two targeted attacks of each image, made in one loop, cut and blended into it in boxes."""
    mix = DynamicMixCut(
        num_classes=setup.num_classes,
        boxes=cast("int | tuple[int, int]", setup.settings.boxes),  # never None for its own method
        smoothing=adversary_of(setup).smoothing,
        generator=setup.generator,
    )

    def step(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        mixed, targets = mix(images, labels, views=two_views(attack, model, images, labels))
        logits = model(mixed)
        return StepResult(soft_target_cross_entropy(logits, targets, check_values=False), logits, labels)

    return AdversarialStep(setup, pgd_attack(setup), step)


class _Hybrid(AdversarialStep):
    """The union of clean and adversarial images, weighed by the accuracies on both after each epoch.

    Both accuracies are of the same validation images, the at most ``robust_images`` that are attacked: the weight would
    otherwise also follow which images were taken.
    """

    def __init__(self, setup: Setup, make: Callable[[float], Attack]) -> None:
        super().__init__(setup, make, self._union)
        self._criterion = AdaptiveLoss()
        self._told = False

    def _union(self, attack: Attack, model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        # One pass of both: the batch statistics are those of the union.
        clean, attacked = model(torch.cat([images, attack(model, images, labels)])).chunk(2)
        return StepResult(self._criterion(clean, attacked, labels), clean, labels)

    def columns(self) -> dict[str, float]:
        """The epoch's radius and weight of the clean loss."""
        return {**super().columns(), "alpha": self._criterion.alpha}

    def end_epoch(self, row: Mapping[str, float]) -> str:
        """Sets the next epoch's weight; says, the first time, that it leaves the clean images out."""
        if self._criterion.update(row["validation_clean_accuracy"], row["validation_pgd_accuracy"]) or self._told:
            return ""
        self._told = True
        return (
            f"Note: no validation image is right under PGD after epoch {row['epoch']:.0f}, so alpha is 0: until one "
            "is, only adversarial images are trained on. A smaller --eps or a lower --lr helps. (Said once.)"
        )

    def state_dict(self) -> dict[str, Any]:
        """The weight, and whether its being 0 was told."""
        return {"alpha": self._criterion.alpha, "told": self._told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self._criterion.alpha = check_number("alpha", state["alpha"], 0.0, 1.0)
        self._told = bool(state.get("told", False))  # runs of earlier versions kept alpha alone


def hybrid(setup: Setup) -> Step:
    """The hybrid method (Delviz et al., 2024): growing radius, clean and adversarial images, adaptive loss."""
    if setup.settings.hybrid_attack == "pgd":
        return _Hybrid(setup, pgd_attack(setup))
    return _Hybrid(setup, lambda radius: FGSM(eps=radius))


def _smoothed(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with smoothed labels."""
    if not smoothing:
        return soft_target_cross_entropy(logits, labels, check_values=False)
    return soft_target_cross_entropy(logits, smooth_labels(labels, logits.shape[1], smoothing), check_values=False)
