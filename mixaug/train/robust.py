"""Accuracy under attack on the validation part after each epoch: which epoch is best, and whether the attack won."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mixaug._model_state import evaluation_mode
from mixaug.attacks import FGSM, PGD
from mixaug.train.batches import batches, derived_seed

__all__ = ["RobustAccuracy", "is_better", "overfitted", "overfitting_notice", "robust_accuracy", "score_of"]

#: Of the attack that chooses the epoch, each a quarter of the radius: training's own PGD.
STEPS = 10
#: A model that learns is right this much more often than by chance.
_ABOVE_CHANCE = 0.1


class RobustAccuracy(NamedTuple):
    """Share of right answers on the same images: as they are, under FGSM, and under PGD with 10 steps."""

    clean: float
    fgsm: float
    pgd: float


def robust_accuracy(
    model: nn.Module,
    part: Any,
    prepare: Callable[[Tensor], Tensor],
    eps: float,
    limit: int,
    *,
    batch_size: int = 250,
    workers: int = 0,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> RobustAccuracy:
    """Share of right answers without an attack, under FGSM and under PGD with 10 steps, untargeted, in evaluation mode.

    Convention: the images and the random starts are the same at every call, so that epochs and methods compare. No
    generator moves.

    Args:
        model: the classifier.
        part: as for :func:`~mixaug.train.batches.batches`, at least one image.
        prepare: brings a batch of bytes to the model's device, as floats in [0, 1].
        eps: radius of both attacks.
        limit: at most so many images.
        batch_size: images a batch.
        workers: processes that load a map-style data set.
        autocast: makes the context of a forward pass.

    Returns:
        the three accuracies, all of the same images.

    Example:
        >>> from contextlib import nullcontext
        >>> from torch.utils.data import TensorDataset
        >>> part = TensorDataset(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64))
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
        >>> robust_accuracy(model, part, lambda images: images / 255, 0.1, limit=4, autocast=nullcontext)
        RobustAccuracy(clean=1.0, fgsm=1.0, pgd=1.0)
    """
    draws = torch.Generator().manual_seed(derived_seed(0, "robust"))
    order = torch.randperm(len(part), generator=draws)[:limit]
    attacks = (FGSM(eps=eps), PGD(eps=eps, step_size=eps / 4, steps=STEPS, generator=draws))
    right = [0, 0, 0]
    with evaluation_mode(model):
        for images, labels in batches(part, order, batch_size, workers):
            clean = prepare(images)
            labels = labels.to(clean.device)
            with autocast():
                seen = [clean, *(attack(model, clean, labels) for attack in attacks)]
            with torch.no_grad(), autocast():
                for which, images_of in enumerate(seen):
                    right[which] += int((model(images_of).argmax(1) == labels).sum())
    return RobustAccuracy(*(count / len(order) for count in right))


def overfitted(measured: RobustAccuracy, classes: int) -> bool:
    """Whether a model resists one step and not ten: catastrophic overfitting (Wong, Rice, Kolter, 2020).

    Convention: FGSM leaves at least half of the clean accuracy and PGD less than a quarter of what FGSM leaves; or FGSM
    at least 0.4 of it, and PGD less than a tenth. FGSM must also be ten points above PGD and the clean accuracy ten
    above chance, so that a few images and a model that has learnt nothing yet raise no alarm. Neither does a model that
    was never trained against attacks, which loses under both (a fifth of its accuracy is left under FGSM on CIFAR-10),
    nor a good run's first epoch (measured, Feature Scatter: 50% clean, 16% under FGSM, 1% under PGD).

    Args:
        measured: accuracies of :func:`robust_accuracy`.
        classes: number of classes.

    Example:
        >>> overfitted(RobustAccuracy(0.8, 0.35, 0.02), 10), overfitted(RobustAccuracy(0.8, 0.5, 0.4), 10)
        (True, False)
        >>> overfitted(RobustAccuracy(0.9, 0.2, 0.0), 10)
        False
    """
    clean, fgsm, pgd = measured
    if clean < 1 / classes + _ABOVE_CHANCE or fgsm - pgd < 0.1:
        return False
    return (fgsm >= clean / 2 and pgd < fgsm / 4) or (fgsm >= 0.4 * clean and pgd < fgsm / 10)


def overfitting_notice(row: Mapping[str, float], best: int) -> str:
    """What the user is told of it, and what helps.

    Args:
        row: of the log.
        best: epoch of the best checkpoint.

    Example:
        >>> row = {"epoch": 7, "validation_fgsm_accuracy": 0.8, "validation_pgd_accuracy": 0.02}
        >>> overfitting_notice(row, best=5).splitlines()[0]
        'Warning: catastrophic overfitting in epoch 7: 80.0% right under FGSM, 2.0% under PGD. best.pt is of epoch 5.'
    """
    return (
        f"Warning: catastrophic overfitting in epoch {row['epoch']:.0f}: {row['validation_fgsm_accuracy']:.1%} right "
        f"under FGSM, {row['validation_pgd_accuracy']:.1%} under PGD. best.pt is of epoch {best}.\n"
        "What helps: an attack of more steps (--attack-steps 10, --hybrid-attack pgd), a smaller --eps, or "
        "--eps-schedule linear."
    )


def score_of(row: Mapping[str, float]) -> dict[str, float]:
    """What an epoch is chosen by: the accuracy under PGD, where it was measured, and that of the clean images.

    Args:
        row: of the log; empty: an epoch that every other one is better than.

    Example:
        >>> score_of({"epoch": 3, "validation_accuracy": 0.8, "validation_pgd_accuracy": 0.4})
        {'accuracy': 0.4, 'clean': 0.8, 'epoch': 3.0}
    """
    clean = row.get("validation_accuracy", -1.0)
    return {
        "accuracy": row.get("validation_pgd_accuracy", clean),
        "clean": clean,
        "epoch": float(row.get("epoch", 0.0)),
    }


def is_better(row: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Whether an epoch is better than the best so far.

    Epochs that are equal under PGD, as the first ones may be at 0, are told apart by their clean images.

    Args:
        row: of the log.
        best: of :func:`score_of`.

    Example:
        >>> is_better({"epoch": 2, "validation_accuracy": 0.9}, score_of({"epoch": 1, "validation_accuracy": 0.9}))
        False
    """
    score = score_of(row)
    return (score["accuracy"], score["clean"]) > (best["accuracy"], best["clean"])
