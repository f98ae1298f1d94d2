"""What an audit runs: each attack on all images that the model gets right, never only on those that another left."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixaug._model_state import bare, check_logits, evaluation_mode, home_of
from mixaug.attacks import APGD, FGSM, PGD, SPSA, Square, cross_entropy, margin
from mixaug.attacks.adapter import LOG
from mixaug.attacks.attack import signs_like
from mixaug.evaluate.seeds import seed_of
from mixaug.evaluate.subject import gradients_kept

#: How often a model that draws random numbers is asked about each image; it is right if it is right every time.
REPEATS = 4
# Two calls differ if a logit does by more than this share of the largest one: a GPU's sums are not exact.
_SAME = 1e-4


class _Finite(torch.autograd.Function):
    """The identity, whose gradient is 0 where it would not be finite."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.nan_to_num(gradients[0], nan=0.0, posinf=0.0, neginf=0.0)


class Followed(nn.Module):
    """A model whose logits depend on the images in the graph, whatever it does inside.

    Where the model cuts its logits off from the images (``no_grad``, numpy, a look-up) the gradient is 0 in place of an
    error, and where a gradient is not finite it is 0: attacks that follow gradients then stand still there, which is
    what such a model does to them.

    Args:
        model: gives logits (B, K).

    Example:
        >>> images = torch.rand(2, 1, 1, 3, requires_grad=True)
        >>> cut = Followed(nn.Sequential(nn.Flatten(), nn.Threshold(0.5, 0.0)))
        >>> cut(images).shape
        torch.Size([2, 3])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False  # the model's own mode is looked after elsewhere
        self.cut_off = False  # set by the audit for a model that fails on images with a gradient

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the images."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            return check_logits(self.model(images), len(images))
        if self.cut_off:
            with torch.no_grad():
                logits = check_logits(self.model(images.detach()), len(images))
        else:
            logits = check_logits(self.model(_Finite.apply(images)), len(images))
        if logits.is_inference():
            logits = logits.clone()
        return logits + (images.flatten(1).sum(1, keepdim=True) * 0).to(logits)  # never cut off, never another value


class AuditedModel:
    """A model with the images that it gets: what every attack of an audit is run on.

    Args:
        model: in evaluation mode, on the images' device.
        images: (n, C, H, W) float32 in [0, 1].
        labels: (n,) int64.
        seed: of all that is drawn.
        batch_size: most images in one pass of the model.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, seed: int, batch_size: int) -> None:
        self.model = Followed(bare(model))
        self.images = images
        self.labels = labels
        self.seed = seed
        self.batch_size = batch_size
        self.repeats = 1

    def logits(self, images: Tensor) -> Tensor:
        """Logits in float32, on the device of the images.

        Raises:
            FloatingPointError: logits that are not finite.
        """
        with torch.no_grad():
            logits = torch.cat([self.model(batch).float() for batch in images.split(self.batch_size)])
        if not bool(logits.isfinite().all()):
            raise FloatingPointError("the model's logits are not finite on the images of the audit")
        return logits

    def scored(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the model is right on each image, every time it is asked, and its mean confidence; on the CPU."""
        right = torch.ones(len(images), dtype=torch.bool, device=images.device)
        sure = torch.zeros(len(images), dtype=torch.float32, device=images.device)
        for _ in range(self.repeats):
            confidence, predicted = self.logits(images).softmax(1).max(1)
            right &= predicted == labels
            sure += confidence / self.repeats
        return right.cpu(), sure.clamp(0, 1).cpu()

    def differences(self) -> tuple[Tensor, Tensor]:
        """Image by image whether equal calls gave different logits, and different predictions; on the CPU."""
        first = self.logits(self.images)
        changed = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        turned = changed.clone()
        for _ in range(REPEATS - 1):
            again = self.logits(self.images)
            changed |= ((again - first).abs() > _SAME * first.abs().amax().clamp_min(1e-30)).any(1)
            turned |= again.argmax(1) != first.argmax(1)
        return changed.cpu(), turned.cpu()

    def gradients(self, images: Tensor, labels: Tensor, objective: Any) -> Tensor:
        """The gradient of the objective at each image."""
        found = []
        for batch, classes in zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True):
            with torch.enable_grad():
                points = batch.detach().clone().requires_grad_()
                logits = self.model(points)
                wide = logits if logits.dtype == torch.float64 else logits.float()
                found.append(torch.autograd.grad(objective(wide, classes).sum(), points)[0])
        return torch.cat(found)

    def find_cut(self) -> None:
        """Notes whether the model fails on images with a gradient, though it does not on those without."""
        few = self.images[:2].clone().requires_grad_()
        self.model(few.detach())
        try:
            with torch.enable_grad():
                torch.autograd.grad(self.model(few).sum(), few)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a detour through numpy, a custom operation without a backward pass
            self.model.cut_off = True

    @contextmanager
    def drawing(self, what: str) -> Iterator[torch.Generator]:
        """Seeds what the model itself draws, and gives a generator for the attack."""
        seed = seed_of(self.seed, "audit", what)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed devices that are not restored
        if self.images.device.type == "cuda":
            torch.cuda.default_generators[self.images.device.index or 0].manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield torch.Generator().manual_seed(seed)


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards modes, buffers and every global random state are what they were, also on an error."""
    home = home_of(model)
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([home] if home.type == "cuda" else []), evaluation_mode(model):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


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
ADAPTED = ("apgd-ce", "apgd-dlr", "square")  # run by pyautoattack
LARGE = 0.5  # every image can be made grey
STEPS = 20
_AUTO_STEPS = 30
_NOISE_DRAWS = 8


@dataclass(frozen=True)
class AttackSettings:
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


def attacked(audited: AuditedModel, name: str, settings: AttackSettings, right: Tensor) -> dict[str, Tensor]:
    """Right or wrong and confidence of all images after an attack on those that were right before.

    Args:
        subject: the model and the images.
        name: of the attack.
        plan: its settings.
        right: (n,) bool, on the CPU; an image that was wrong stays wrong.

    Returns:
        ``right`` (n,) bool and ``confidence`` (n,) float32, on the CPU; 0 for an image that was not attacked.
    """
    images, labels = audited.images[right.to(audited.images.device)], audited.labels[right.to(audited.labels.device)]
    still = torch.ones(len(images), dtype=torch.bool)
    sure: list[Tensor] = []
    with audited.drawing(name) as generator, _quiet(), gradients_kept(audited.model):
        for adversarial in _adversarial(audited, name, settings, images, labels, generator):
            kept, confidence = audited.scored(adversarial, labels)
            still &= kept
            sure.append(confidence)
    everywhere = torch.zeros(len(right), dtype=torch.bool)
    everywhere[right] = still
    confidences = torch.zeros(len(right), dtype=torch.float32)
    confidences[right] = torch.stack(sure).mean(0)
    return {"right": everywhere, "confidence": confidences}


def _adversarial(
    audited: AuditedModel,
    name: str,
    settings: AttackSettings,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """The images that an attack makes, one or more for each; an image counts as fooled if one of them fools."""
    model, eps, size = audited.model, settings.radius(name), audited.batch_size
    steady = audited.repeats == 1  # one lucky draw of a random model is no reason to stop
    if name == "noise":
        for _ in range(_NOISE_DRAWS):
            yield (images + eps * signs_like(images, generator)).clamp(0, 1)
    elif name == "grey":
        yield torch.full_like(images, 0.5)
    elif name == "transfer" and settings.surrogate is not None:
        attack = PGD(eps, eps / 4, STEPS, generator=generator, objective=margin, batch_size=size)
        yield attack(settings.surrogate, images, labels)
    elif name.startswith("radius"):
        for objective in (cross_entropy, margin):
            yield _pgd(eps, size, generator, objective, steady)(model, images, labels)
    elif name == "averaged":
        attack = PGD(eps, eps / 4, STEPS, generator=generator, objective=margin, batch_size=size)
        yield attack(Averaged(model, settings.draws), images, labels)
    else:
        yield {
            "fgsm": lambda: FGSM(eps, batch_size=size),
            "pgd-ce": lambda: _pgd(eps, size, generator, cross_entropy, steady),
            "pgd-stretched": lambda: _pgd(eps, size, generator, _Stretched(settings.stretch), steady),
            "pgd-margin": lambda: _pgd(eps, size, generator, margin, steady),
            "apgd-ce": lambda: APGD(eps, _AUTO_STEPS, generator=generator, batch_size=size),
            "apgd-dlr": lambda: APGD(eps, _AUTO_STEPS, "dlr", generator=generator, batch_size=size),
            "square": lambda: Square(eps, settings.square_queries, generator=generator, rescale=True, batch_size=size),
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
