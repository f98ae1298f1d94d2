"""What is evaluated: a module, a function or an ONNX session, on its device, left as it was."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixaug._model_state import bare


@contextmanager
def on_device(model: nn.Module, home: torch.device, target: torch.device) -> Iterator[None]:
    """Moves the model to ``target``, and back ``home`` at the end."""
    if target == home:
        yield
        return
    model.to(target)
    try:
        yield
    finally:
        model.to(home)


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Keeps an attack's ``loss.backward()`` out of the model's own gradients."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Notes how long the block took."""
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 3)


# What figures may depend on: pictures, filters and attacks of other libraries.
_PACKAGES = ("torchvision", "numpy", "pillow", "kornia", "pyautoattack", "scikit-learn")


def environment(device: torch.device) -> dict[str, str]:
    """Versions, machine and time of an evaluation."""
    import mixaug

    return {
        "mixaug": mixaug.__version__,
        "torch": torch.__version__,
        **{name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


_LAYERS_UNSEEN = "TorchScript does not let its layers be looked into"
# What ONNX calls its types, as far as images have them.
_ONNX_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


@dataclass(frozen=True)
class Subject:
    """A model as the evaluation calls it.

    Args:
        module: gives logits for float32 images; modes, device and gradients are looked after on it.
        name: of its kind, for the record.
        no_gradient: why there are no gradients through it; None where there may be.
        no_layers: why its layers cannot be looked into; None where they may be.
    """

    module: nn.Module
    name: str
    no_gradient: str | None = None
    no_layers: str | None = None


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
    reason: str | None = None
    unseen: str | None = None
    if isinstance(model, nn.Module):
        module, name = model, type(model).__name__
        if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
            unseen = _LAYERS_UNSEEN
    elif hasattr(model, "run") and hasattr(model, "get_inputs"):
        module, name = _Called(_session(model)), "ONNX Runtime session"
        reason = "an ONNX Runtime session gives no gradients"
        unseen = "the layers of an ONNX Runtime session cannot be looked into"
    elif callable(model) and not isinstance(model, type):
        module, name = _Called(model), getattr(model, "__name__", type(model).__name__)
        name = "function" if name == "<lambda>" else name
        reason = "a model that is no torch.nn.Module gives no gradients"
        unseen = "a model that is no torch.nn.Module has no layers that can be looked into"
    else:
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(
            f"model must be a torch.nn.Module, an ONNX Runtime session or a function from images to logits, got {got}"
        )
    if model_classes is not None:
        module = _SomeClasses(module, torch.as_tensor(model_classes))
    return Subject(module, name, reason, unseen)


def cut_off(module: nn.Module, images: Tensor) -> str | None:
    """Why no gradient gets through a module to the images; None if one does, be it 0.

    Example:
        >>> images = torch.rand(2, 1, 2, 2)
        >>> cut_off(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), images) is None
        True
        >>> cut_off(nn.Sequential(nn.Flatten(), nn.Threshold(2.0, 0.0)), images) is None  # a gradient of 0 is one
        True
    """
    reason = "no gradient gets through the model: its logits are cut off from the images"
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a model says of gradients is not what is asked
        points = images.detach().clone().requires_grad_()
        try:
            logits = bare(module)(points)
            if not logits.requires_grad:
                return reason
            (gradient,) = torch.autograd.grad(logits.sum(), points, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a detour through numpy, an operation without a way back
            return f"no gradient gets through the model ({str(error).strip().splitlines()[0]})"
    return reason if gradient is None else None


class _Called(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            found = self._function(images.detach())
        if isinstance(found, tuple | dict | str) or found is None:
            return found  # type: ignore[return-value]  # no logits: said by whoever checks them
        # Numbers of Python have no dtype of their own.
        logits = torch.as_tensor(found, dtype=torch.float32 if isinstance(found, list) else None)
        logits = logits if logits.is_floating_point() else logits.float()
        # One from inference mode could not be used where there are gradients, one on the way to them must not be.
        return logits.detach().clone().to(images.device)


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
    """A function that runs a session; one that was exported for a fixed number of images gets as many at a time."""
    (first, *others) = session.get_inputs()
    if others:
        raise TypeError(f"model must take one input, the session takes {1 + len(others)}; wrap it in a function")
    dtype = _ONNX_DTYPES.get(first.type, np.float32)
    fixed = first.shape[0] if first.shape and isinstance(first.shape[0], int) else None

    def run(images: Tensor) -> Tensor:
        rows = []
        for batch in images.split(fixed or max(1, len(images))):
            missing = (fixed or len(batch)) - len(batch)
            whole = torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])]) if missing else batch
            logits = session.run(None, {first.name: whole.cpu().numpy().astype(dtype, copy=False)})[0]
            rows.append(torch.as_tensor(logits)[: len(batch)])
        return torch.cat(rows)

    return run
