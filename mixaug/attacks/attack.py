"""What the attacks share: checks of their settings, random starts, the base class and the goal that they climb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixaug._checks import ABOVE_ZERO, check_choice, check_field, check_length, check_number
from mixaug._model_state import (
    bare,
    check_batch,
    check_class_range,
    check_logits,
    check_targets,
    evaluation_mode,
    parameters_frozen,
    training_attack,
    warn_if_training,
)
from mixaug._random import drawn_by

NORMS = ("linf", "l2")
#: Whether an attack's passes leave the batch norms' running statistics as they are.
BATCH_NORMS = ("still", "moves")


def check_radius(attack: object) -> None:
    """Raises unless ``norm`` is known and ``eps`` a radius in it: at most 1 in l-infinity, any finite one in l2.

    An attack without ``norm`` has l-infinity's.

    Args:
        attack: while it is made; its fields become Python's own kinds.
    """
    if hasattr(attack, "norm"):
        check_field(attack, "norm", check_choice, NORMS)
    if getattr(attack, "norm", "linf") == "linf":
        check_field(attack, "eps", check_length)
    else:
        check_field(attack, "eps", check_number, 0.0)


def check_step_size(attack: object) -> None:
    """Raises unless ``step_size`` is above 0 (0 is allowed with ``eps=0``), in l-infinity at most 1, or None."""
    low = 0.0 if vars(attack)["eps"] == 0 else ABOVE_ZERO
    check = check_length if getattr(attack, "norm", "linf") == "linf" else check_number
    check_field(attack, "step_size", check, low, optional=True)


def check_objective(objective: object) -> None:
    """Raises unless ``objective`` can be called."""
    if not callable(objective):
        raise TypeError(f"objective must be a function (logits, labels) -> (B,), got {objective!r}")


_DRAWN = torch.float32  # the same numbers for images of any precision


def uniform_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1) of the images' shape, dtype and device, drawn in float32 where the generator is."""
    return torch.rand(images.shape, device=_home(images, generator), dtype=_DRAWN, **drawn_by(generator)).to(images)


def normal_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the images' shape, dtype and device, drawn in float32 where the generator is."""
    return torch.randn(images.shape, device=_home(images, generator), dtype=_DRAWN, **drawn_by(generator)).to(images)


def signs_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """-1 or 1 with equal chances, in the images' shape, dtype and device."""
    bits = torch.randint(0, 2, images.shape, device=_home(images, generator), dtype=torch.int8, **drawn_by(generator))
    return (2 * bits - 1).to(images)


def start_in_ball(images: Tensor, eps: float, norm: str, generator: torch.Generator | None) -> Tensor:
    """``images`` plus a uniform point of the ball of radius ``eps``; not yet clipped to [0, 1].

    In l2 the direction is that of normal numbers and the length ``eps * U^(1/n)`` with n the number of pixels, since
    the ball's volume within r grows as ``r^n``.
    """
    if norm == "linf":
        return images + eps * (2 * uniform_like(images, generator) - 1)
    home = _home(images, generator)
    direction = torch.randn(images.shape, device=home, dtype=_DRAWN, **drawn_by(generator)).to(images.device)
    lengths = torch.rand(len(images), 1, 1, 1, device=home, dtype=_DRAWN, **drawn_by(generator)).to(images.device)
    pixels = images[0].numel()
    unit = direction / direction.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return images + (eps * lengths ** (1 / pixels) * unit).to(images.dtype)


def other_classes(labels: Tensor, classes: int, generator: torch.Generator | None) -> Tensor:
    """For each label a uniformly random class of the ``classes - 1`` others."""
    if classes < 2:
        raise ValueError(f"targeted needs a model with 2 classes or more, got logits of {classes} class")
    offset = torch.randint(1, classes, labels.shape, device=_home(labels, generator), **drawn_by(generator))
    return (labels + offset.to(labels.device)) % classes


def _home(tensor: Tensor, generator: torch.Generator | None) -> torch.device:
    return tensor.device if generator is None else generator.device


class Attack:
    """Base of the attacks: ``attack(model, images, labels)`` gives adversarial images.

    A subclass is a frozen dataclass with a ``name`` and :meth:`_attack`, which sees checked detached tensors, gradients
    switched on and the model in evaluation mode.
    """

    _for_training: ClassVar[bool] = False  # an adversary of training expects a model in training mode
    # What an attack without such a setting does.
    targeted: bool = False
    generator: torch.Generator | None = None
    batch_norm: str = "still"

    @property
    def name(self) -> str:
        """The attack's name in reports."""
        raise NotImplementedError

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, targets: Tensor | None = None) -> Tensor:
        """Attacks ``model`` on a batch; see the class for shapes and errors.

        Args:
            model: gives logits (B, K) for images in [0, 1].
            images: (B, C, H, W) floating point in [0, 1].
            labels: (B,) int64; where the class says so also (B, K) probabilities.
            targets: (B,) int64 classes to go to, in place of random ones; needs ``targeted=True``.

        Returns:
            Adversarial images of the same shape, dtype, device and memory format, detached.
        """
        first = not getattr(self, "_called", False)
        images = check_batch(model, images, labels, values=first)
        if targets is not None:
            if not self.targeted:
                raise ValueError(f"targets need targeted=True, got them for {self.name}")
            check_targets(targets, images, values=first)
        if len(images) == 0:
            return images.detach().clone()
        if not self._for_training:
            warn_if_training(model)
        model = bare(model)
        moves = self.batch_norm == "moves"
        with evaluation_mode(model, batch_norm_moves=moves), torch.inference_mode(False), torch.enable_grad():
            goal = Goal(labels, targets, self.targeted, self.generator, first)
            adversarial = self._attack(model, _plain(images), goal)
        object.__setattr__(self, "_called", True)  # frozen: not a setting, only whether values were read once
        return adversarial

    def _attack(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        raise NotImplementedError


def call_in_training(
    attack: Callable[[nn.Module, Tensor, Tensor], Tensor], model: nn.Module, images: Tensor, labels: Tensor
) -> Tensor:
    """Calls an attack within a training step, where a model in training mode is right.

    An attack of this package guards the model by itself. Around one of another library it is done here, since those
    run the model in the mode they find and some call ``backward()``: evaluation mode, parameters without gradients, a
    detached result.
    """
    with training_attack():
        if isinstance(attack, Attack):
            return attack(model, images, labels)
        inner = bare(model)
        with evaluation_mode(inner), parameters_frozen(inner), torch.enable_grad():
            return attack(inner, images, labels).detach()


class Goal:
    """The labels to leave or the targets to reach, known once the model has said how many classes there are."""

    def __init__(
        self, labels: Tensor, targets: Tensor | None, targeted: bool, generator: torch.Generator | None, first: bool
    ) -> None:
        if targeted and targets is None and labels.ndim == 2:
            raise ValueError(
                "targeted with random classes needs labels that are class indices, got probabilities; give targets= or "
                "attack untargeted"
            )
        self.targeted = targeted
        self.direction = -1 if targeted else 1
        self.labels = _plain(labels)
        self._targets = None if targets is None else _plain(targets)
        self._generator = generator
        self._unread = first or labels.device.type == "cpu"
        self._classes = 0

    def logits(self, output: object, count: int) -> Tensor:
        """The model's output checked, the first time also against the labels; half precision becomes float32."""
        logits = check_logits(output, count)
        if self._unread:
            self._unread = False
            check_class_range("labels", self.labels, logits.shape[1])
            if self._targets is not None:
                check_class_range("targets", self._targets, logits.shape[1])
        self._classes = logits.shape[1]
        return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()

    def classes(self) -> Tensor:
        """What the objective gets as labels: labels or targets; random targets are drawn once, for the whole batch."""
        if not self.targeted:
            return self.labels
        if self._targets is None:
            self._targets = other_classes(self.labels, self._classes, self._generator)
        return self._targets

    def reached(self, logits: Tensor, goal: Tensor) -> Tensor:
        """Which images are where the attack wants them: not at their label, or at their target."""
        predicted = logits.argmax(1)
        wanted = goal.argmax(1) if goal.ndim == 2 else goal
        return predicted == wanted if self.targeted else predicted != wanted


def parts(count: int, batch_size: int | None) -> Iterator[slice]:
    """Slices of at most ``batch_size`` images."""
    size = count if batch_size is None else batch_size
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _plain(tensor: Tensor) -> Tensor:
    """Detached, and no inference tensor: autograd could not save one."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
