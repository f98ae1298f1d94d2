"""What is evaluated: a module, or any callable that gives logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """A model as the evaluation calls it.

    Args:
        module: gives logits for float32 images; modes, device and gradients are looked after on it.
        name: of its kind, for the record.
        no_gradient: why there are no gradients through it; None where there are.
    """

    module: nn.Module
    name: str
    no_gradient: str | None = None


def subject_of(model: Any, model_classes: Any = None) -> Subject:
    """The model as a module, whatever it is.

    Args:
        model: a module; a session of ONNX Runtime with one image input, whose first output is the logits; or a
            function from images (B, C, H, W), float32 in [0, 1], to logits (B, K), a tensor or an array.
        model_classes: (K,) int64, the model's classes that the data set has; None: all.

    Raises:
        TypeError: something else.

    Example:
        >>> subject = subject_of(lambda images: images.flatten(1).numpy())
        >>> subject.name, subject.module(torch.zeros(1, 1, 1, 2)).tolist()
        ('function', [[0.0, 0.0]])
    """
    if isinstance(model, nn.Module):
        module, name, reason = model, type(model).__name__, None
    elif hasattr(model, "run") and hasattr(model, "get_inputs"):
        module, name = _Called(_session(model)), "ONNX Runtime session"
        reason = "an ONNX Runtime session gives no gradients"
    elif callable(model):
        module, name = _Called(model), getattr(model, "__name__", type(model).__name__)
        name = "function" if name == "<lambda>" else name
        reason = "a model that is no torch.nn.Module gives no gradients"
    else:
        raise TypeError(
            "model must be a torch.nn.Module, an ONNX Runtime session or a function from images to logits, "
            f"got {type(model).__name__}"
        )
    if model_classes is not None:
        module = _SomeClasses(module, torch.as_tensor(model_classes))
    return Subject(module, name, reason)


class _Called(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self._function(images.detach())
        return logits if isinstance(logits, Tensor) else torch.as_tensor(logits).to(images.device)


class _SomeClasses(nn.Module):
    """The logits of some of a model's classes, as for ImageNet-R, which has 200 of the 1,000."""

    def __init__(self, model: nn.Module, classes: Tensor) -> None:
        super().__init__()
        self.model = model
        self._classes = classes.long()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        if int(self._classes.max()) >= logits.shape[1]:
            raise ValueError(
                f"model_classes must lie below the model's {logits.shape[1]} classes, got {int(self._classes.max())}"
            )
        return logits[:, self._classes.to(logits.device)]


def _session(session: Any) -> Callable[[Tensor], Tensor]:
    (first, *others) = session.get_inputs()
    if others:
        raise TypeError(f"model must take one input, the session takes {1 + len(others)}; wrap it in a function")

    def run(images: Tensor) -> Tensor:
        return torch.as_tensor(session.run(None, {first.name: images.cpu().numpy()})[0]).to(images.device)

    return run
