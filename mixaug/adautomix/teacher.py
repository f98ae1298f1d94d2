"""The teacher of AdAutoMix: a moving average of the classifier, which is also the generator's encoder."""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mixaug.nn.feature_maps import as_map

__all__ = ["Teacher", "bare_model", "momentum_at"]


def bare_model(model: nn.Module) -> nn.Module:
    """The classifier itself, where it is wrapped for distributed training or compiled.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> bare_model(model) is model
        True
    """
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def momentum_at(step: int, total_steps: int, start: float = 0.999) -> float:
    r"""The teacher's momentum: ``start`` at step 0, rising to 1 on a cosine.

    .. math:: m_s = 1 - (1 - m_0)\, \tfrac12 \bigl(\cos(\pi s / S) + 1\bigr)

    Example:
        >>> momentum_at(0, 100), momentum_at(100, 100)
        (0.999, 1.0)
    """
    progress = min(max(step / total_steps, 0.0), 1.0) if total_steps > 0 else 1.0
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class _Seen(Exception):
    """Ends a pass at the layer whose features are wanted."""


class Teacher(nn.Module):
    """A copy of a classifier that follows it, in evaluation mode, without gradients of its own.

    Convention: features and logits come from one pass, by a hook on the copy. The copied model is never changed.

    Args:
        model: the classifier, not wrapped.
        layer: full name of the layer whose features are taken.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Flatten(), nn.Linear(128, 2))
        >>> features, logits = Teacher(model, "0").look(torch.rand(5, 3, 8, 8))
        >>> features.shape, logits.shape
        (torch.Size([5, 8, 4, 4]), torch.Size([5, 2]))
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        # Models that keep a result as an attribute (attention maps, features): with its graph it cannot be copied.
        held = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
        memo = {id(value): value.detach().clone() for value in held if not value.is_leaf}
        self.model = copy.deepcopy(model, memo).requires_grad_(False)
        self.layer = layer
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """The logits; gradients flow to the images where these want them."""
        logits: Tensor = self.model(images)
        return logits

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, h, w) and logits of one pass, without gradients."""
        seen: list[Any] = []
        with torch.no_grad(), _Hook(self.model.get_submodule(self.layer), seen, stop=False):
            logits = self.model(images)
        return self._map(seen, images), logits

    def features(self, images: Tensor) -> Tensor:
        """The features alone: the pass ends at their layer."""
        seen: list[Any] = []
        with torch.no_grad(), _Hook(self.model.get_submodule(self.layer), seen, stop=True), suppress(_Seen):
            self.model(images)
        return self._map(seen, images)

    @torch.no_grad()
    def follow(self, model: nn.Module, momentum: float) -> None:
        r"""One step of the moving average, ``t <- m t + (1 - m) f``, of parameters and floating buffers.

        Counters, and other buffers that have no average, are copied.

        Args:
            model: the classifier, not wrapped.
            momentum: m in [0, 1].
        """
        own = [*self.model.parameters(), *self.model.buffers()]
        new = [*model.parameters(), *model.buffers()]
        if len(own) != len(new):
            raise ValueError(
                f"model must be what the teacher was copied from: it has {len(new)} parameters and buffers, the "
                f"teacher {len(own)}"
            )
        pairs = [(mine, its.detach()) for mine, its in zip(own, new, strict=True) if mine.is_floating_point()]
        if pairs:
            get_ema_multi_avg_fn(momentum)([mine for mine, _ in pairs], [its for _, its in pairs], None)
        for mine, its in zip(own, new, strict=True):
            if not mine.is_floating_point():
                mine.copy_(its)

    def _map(self, seen: list[Any], images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if not seen:
            raise ValueError(f"feature_layer must run in every pass of the model, but {self.layer!r} did not")
        try:
            return as_map(seen[-1], (height, width))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"feature_layer must give a map of places for images of {height}x{width} pixels, and {self.layer!r} "
                f"does not (images smaller than its stride? take an earlier layer): {error}"
            ) from error


class _Hook:
    """Notes a layer's output meanwhile."""

    def __init__(self, layer: nn.Module, seen: list[Any], *, stop: bool) -> None:
        self._layer, self._seen, self._stop = layer, seen, stop

    def __enter__(self) -> None:
        self._handle = self._layer.register_forward_hook(self._note)

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._stop:
            self._seen.append(output)
            raise _Seen
        # A copy: what follows may write to the output, as ReLU in place, and here the pass goes on.
        self._seen.append(output.clone() if isinstance(output, Tensor) else output)
