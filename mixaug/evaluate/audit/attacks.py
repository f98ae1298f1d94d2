"""What an audit runs: each attack on all images that the model gets right, never only on those that another left."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixaug.attacks import APGD, FGSM, PGD, SPSA, Square, cross_entropy, margin
from mixaug.attacks.adapter import LOG
from mixaug.attacks.attack import signs_like
from mixaug.evaluate._place import gradients_kept
from mixaug.evaluate.audit.subject import Subject

#: Name of an attack, how it is written.
LABELS = {
    "fgsm": "FGSM",
    "pgd-ce": "PGD-20",
    "pgd-margin": "margin PGD-20",
    "pgd-stretched": "PGD-20 on stretched logits",
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "square": "Square",
    "spsa": "SPSA",
    "noise": "random noise",
    "transfer": "transfer",
    "averaged": "PGD-20 with averaged gradients",
    "radius-half": "PGD-20 at half the radius",
    "radius-double": "PGD-20 at twice the radius",
    "radius-large": "PGD-20 at 0.5",
    "grey": "a grey picture",
}
ONE_STEP = "fgsm"
REPORTED = "pgd-ce"
# What the cross-entropy can do: by itself, and where the softmax is so flat that it aims at no class in particular.
ENTROPIES = ("pgd-ce", "pgd-stretched")
MANY_STEPS = (*ENTROPIES, "pgd-margin", "apgd-ce", "apgd-dlr")
WHITE_BOX = (ONE_STEP, *MANY_STEPS)
BLACK_BOX = ("square", "spsa")
FOREIGN = ("apgd-ce", "apgd-dlr", "square")  # run by pyautoattack
LARGE = 0.5  # every image can be made grey
STEPS = 20
_AUTO_STEPS = 30
_NOISE_DRAWS = 8


@dataclass(frozen=True)
class Plan:
    """The settings of an audit's attacks.

    Args:
        eps: radius in [0, 1], above 0.
        square_queries: of Square, for each image.
        draws: forwards that a gradient is averaged over where the model draws random numbers.
        surrogate: another model whose attacks are tried on this one.
        stretch: factor on flat logits for ``pgd-stretched``.
    """

    eps: float
    square_queries: int = 1000
    draws: int = 8
    surrogate: nn.Module | None = None
    stretch: float = 1.0

    @property
    def installed(self) -> bool:
        """Whether APGD and Square can run."""
        return importlib.util.find_spec("pyautoattack") is not None

    def radius(self, name: str) -> float:
        """Of a piece of the curve over the radius."""
        return {"radius-half": self.eps / 2, "radius-double": 2 * self.eps, "radius-large": LARGE}.get(name, self.eps)


class Averaged(nn.Module):
    """A model that draws random numbers, its logits averaged over several draws: so is the gradient.

    ``z(x) = mean_i f(x; r_i)``, whose gradient is the expectation over transformation of Athalye, Carlini, Wagner,
    "Obfuscated gradients give a false sense of security", ICML 2018 (arXiv:1802.00420), for a margin of the logits.

    Args:
        model: gives logits (B, K), different ones each time.
        draws: forwards of each image.

    Example:
        >>> Averaged(nn.Sequential(nn.Flatten(), nn.Dropout()), draws=64)(torch.ones(1, 1, 2, 2)).shape
        torch.Size([1, 4])
    """

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model = model
        self.draws = draws
        self.training = False  # the model's own mode is looked after elsewhere

    def forward(self, images: Tensor) -> Tensor:
        """Mean logits."""
        return torch.stack([self.model(images) for _ in range(self.draws)]).mean(0)


def attacked(subject: Subject, name: str, plan: Plan, right: Tensor) -> dict[str, Tensor]:
    """Right or wrong and confidence of all images after an attack on those that were right before.

    Args:
        subject: the model and the images.
        name: of the attack.
        plan: its settings.
        right: (n,) bool, on the CPU; an image that was wrong stays wrong.

    Returns:
        ``right`` (n,) bool and ``confidence`` (n,) float32, on the CPU; 0 for an image that was not attacked.
    """
    images, labels = subject.images[right.to(subject.images.device)], subject.labels[right.to(subject.labels.device)]
    still = torch.ones(len(images), dtype=torch.bool)
    sure: list[Tensor] = []
    with subject.drawing(name) as generator, _quiet(), gradients_kept(subject.model):
        for adversarial in _adversarial(subject, name, plan, images, labels, generator):
            kept, confidence = subject.judged(adversarial, labels)
            still &= kept
            sure.append(confidence)
    everywhere = torch.zeros(len(right), dtype=torch.bool)
    everywhere[right] = still
    confidences = torch.zeros(len(right), dtype=torch.float32)
    confidences[right] = torch.stack(sure).mean(0)
    return {"right": everywhere, "confidence": confidences}


def _adversarial(
    subject: Subject, name: str, plan: Plan, images: Tensor, labels: Tensor, generator: torch.Generator
) -> Iterator[Tensor]:
    """The images that an attack makes, one or more for each; an image counts as fooled if one of them fools."""
    model, eps, size = subject.model, plan.radius(name), subject.batch_size
    steady = subject.repeats == 1  # one lucky draw of a random model is no reason to stop
    if name == "noise":
        for _ in range(_NOISE_DRAWS):
            yield (images + eps * signs_like(images, generator)).clamp(0, 1)
    elif name == "grey":
        yield torch.full_like(images, 0.5)
    elif name == "transfer" and plan.surrogate is not None:
        attack = PGD(eps, eps / 4, STEPS, generator=generator, objective=margin, batch_size=size)
        yield attack(plan.surrogate, images, labels)
    elif name.startswith("radius"):
        for objective in (cross_entropy, margin):
            yield _pgd(eps, size, generator, objective, steady)(model, images, labels)
    elif name == "averaged":
        attack = PGD(eps, eps / 4, STEPS, generator=generator, objective=margin, batch_size=size)
        yield attack(Averaged(model, plan.draws), images, labels)
    else:
        yield {
            "fgsm": lambda: FGSM(eps, batch_size=size),
            "pgd-ce": lambda: _pgd(eps, size, generator, cross_entropy, steady),
            "pgd-stretched": lambda: _pgd(eps, size, generator, _Stretched(plan.stretch), steady),
            "pgd-margin": lambda: _pgd(eps, size, generator, margin, steady),
            "apgd-ce": lambda: APGD(eps, _AUTO_STEPS, generator=generator, batch_size=size),
            "apgd-dlr": lambda: APGD(eps, _AUTO_STEPS, "dlr", generator=generator, batch_size=size),
            "square": lambda: Square(eps, plan.square_queries, generator=generator, rescale=True, batch_size=size),
            "spsa": lambda: SPSA(
                eps,
                eps / 5,
                10,
                generator=generator,
                samples=16,
                delta=eps / 2,  # so far that a step of a rounded input is crossed
                early_stop=steady,
                batch_size=size,
            ),
        }[name]()(model, images, labels)


@dataclass(frozen=True)
class _Stretched:
    factor: float

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits * self.factor, labels)


def _pgd(eps: float, size: int, generator: torch.Generator, objective: Callable[..., Tensor], steady: bool) -> PGD:
    return PGD(eps, eps / 4, STEPS, generator=generator, objective=objective, early_stop=steady, batch_size=size)


@contextmanager
def _quiet() -> Iterator[None]:
    """pyautoattack's words on zero gradients are not shown: the audit has a check of its own for them."""
    before, LOG.disabled = LOG.disabled, True
    try:
        yield
    finally:
        LOG.disabled = before
