"""The model that is audited: with a gradient in any case, and given back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixaug._model_state import bare, check_logits, evaluation_mode
from mixaug.evaluate._choices import seed_of
from mixaug.evaluate._place import home_of

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


class Subject:
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

    def judged(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
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
