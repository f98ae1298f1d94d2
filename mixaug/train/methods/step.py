"""What a method of training is: a step from model, images and labels to the loss, and what it may keep of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixaug.train.processes import ALONE, Processes
from mixaug.train.settings import TrainSettings

if TYPE_CHECKING:
    from mixaug.models import ModelSpec

__all__ = ["Setup", "Step", "StepResult"]


@dataclass(frozen=True)
class StepResult:
    """What a step gives to the loop.

    Args:
        loss: scalar float32 with its graph.
        logits: ``(n, K)``, whose accuracy against ``labels`` is shown while training: of the images that the
            cross-entropy is of (augmented, mixed or adversarial), of the clean ones where there are both.
        labels: ``(n,)`` int64; for mixed labels the class with the most weight.
        skipped: the loss is broken and the method says that no step is taken.
    """

    loss: Tensor
    logits: Tensor
    labels: Tensor
    skipped: bool = False

    @torch.no_grad()
    def counts(self) -> Tensor:
        """Loss times images, right answers and images, ``(3,)`` on the device of the loss.

        Example:
            >>> logits, labels = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1])
            >>> StepResult(torch.tensor(0.5), logits, labels).counts()
            tensor([1., 1., 2.])
        """
        if self.skipped:
            return torch.zeros(3, dtype=torch.float32, device=self.loss.device)
        right = (self.logits.argmax(1) == self.labels).sum()
        seen = torch.full_like(right, len(self.labels))
        return torch.stack([self.loss.detach() * len(self.labels), right, seen])


class Step:
    """One training step: ``step(model, images, labels)`` gives the loss, on whose gradient the loop steps the model.

    Args:
        compute: function of the model, images ``(B, C, H, W)`` float32 in [0, 1] and labels ``(B,)`` int64, on one
            device.

    Example:
        >>> def step_of(model, images, labels):
        ...     logits = model(images)
        ...     return StepResult(nn.functional.cross_entropy(logits, labels), logits, labels)
        >>> Step(step_of)(nn.Flatten(), torch.zeros(3, 1, 1, 2), torch.tensor([0, 1, 1])).logits.shape
        torch.Size([3, 2])
    """

    def __init__(self, compute: Callable[[nn.Module, Tensor, Tensor], StepResult]) -> None:
        self._compute = compute

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        """The loss and what it was computed from."""
        return self._compute(model, images, labels)

    def start_epoch(self, epoch: int) -> None:
        """Called before the first step of an epoch, and again when a run goes on within it.

        Args:
            epoch: from 0.
        """

    def backward(self, result: StepResult, scaler: torch.amp.GradScaler) -> None:
        """The backward pass of the loss, and of any others that the method has; before anything steps.

        Args:
            result: of the step.
            scaler: that losses are scaled with.
        """
        scaler.scale(result.loss).backward()

    def optimise(self, scaler: torch.amp.GradScaler, rate: float) -> None:
        """Called after the model's optimiser has stepped: for methods with an optimiser of their own.

        Args:
            scaler: that steps it.
            rate: of the model's optimiser, as a share of the run's highest.
        """

    def finish(self, step: int, total_steps: int) -> None:
        """Called when the model has taken the step: for methods with an optimiser, teacher or schedule of their own.

        Args:
            step: number of the step, from 0.
            total_steps: of the run.
        """

    def columns(self) -> dict[str, float]:
        """What the epoch's steps depended on, for the log; the names are in ``mixaug.train.record.COLUMNS``."""
        return {}

    def end_epoch(self, row: Mapping[str, float]) -> str:
        """Called when an epoch was measured on the validation part.

        Args:
            row: of the log.

        Returns:
            a line that the user should see; empty for nothing.
        """
        return ""

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides the model and the generators; tensors and plain values.

        Of several processes the first one's is stored, and restored in all.
        """
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
        model: the classifier on its device, for methods that keep a copy of it or reach into its layers; wrapped in
            ``DistributedDataParallel`` where there are several processes, as the one that steps are given.
        epochs: of the run.
        spec: how the model is built, for methods that write a file of their own.
        classes: names of the classes.
        processes: that make the run together: the first one writes files.
    """

    settings: TrainSettings
    num_classes: int
    generator: torch.Generator
    model: nn.Module | None = None
    epochs: int = 1
    spec: ModelSpec | None = None
    classes: tuple[str, ...] = ()
    processes: Processes = ALONE

    @property
    def attack_generator(self) -> torch.Generator | None:
        """The method's generator; None, torch's default one of the device, for attacks on a CUDA GPU.

        An attack draws a number for each pixel: on the host they would take longer than the rest of a small step.
        """
        weight = next(self.model.parameters(), None) if self.model is not None else None
        return self.generator if weight is None or weight.device.type != "cuda" else None
