"""A model that is measured or attacked: what is asked of it, and that it is left as it was.

Checks of models, their batches and their logits; contexts that restore modes, gradients and buffers.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mixaug._checks import check_dense, clipped

_in_training: ContextVar[bool] = ContextVar("mixaug_attack_in_training", default=False)
_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def evaluation_mode(model: nn.Module, *, batch_norm_moves: bool = False) -> Iterator[None]:
    """Puts every submodule in evaluation mode and restores each one's own mode at the end, also after an error.

    ``model.train(was_training)`` is not enough: a fine-tuned model may train its head while its batch norms are frozen
    in evaluation mode, and that call would thaw them. Evaluation mode keeps dropout off and batch-norm buffers still;
    with ``batch_norm_moves`` batch norms alone keep the mode they had, so those in training mode use and update batch
    statistics.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout().eval())
        >>> with evaluation_mode(model):
        ...     [module.training for module in model]
        [False, False]
        >>> [module.training for module in model]
        [True, False]
    """
    # A frozen module of TorchScript has no mode.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        model.eval()  # inside, since a model's own train() may raise halfway
        if batch_norm_moves:
            for module, training in modes:
                if isinstance(module, _BatchNorm):
                    module.training = training
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def float32_default() -> Iterator[None]:
    """Makes float32 torch's default dtype meanwhile: for the code of others, whose draws and modules state none.

    It is one setting of the whole process, as torch has it; code of ours states its dtypes instead.

    Example:
        >>> with float32_default():
        ...     torch.zeros(1).dtype
        torch.float32
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def parameters_frozen(model: nn.Module) -> Iterator[None]:
    """Switches ``requires_grad`` of the parameters off meanwhile: a ``backward()`` then leaves ``.grad`` as it is."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.is_leaf]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def gradients_off(device: torch.device) -> Iterator[None]:
    """No gradients, and under autocast no use of its cache of weights.

    Weights that were cast without gradients would stay in the cache until autocast ends, and the training step that
    follows there would train nothing (before torch 2.10).
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
            stack.enter_context(torch.autocast(device.type, dtype=dtype, cache_enabled=False))
        yield


@contextmanager
def training_attack() -> Iterator[None]:
    """Within it attacks are a part of training: a model in training mode is what they expect, and nothing is said."""
    token = _in_training.set(True)
    try:
        yield
    finally:
        _in_training.reset(token)


def warn_if_training(model: nn.Module) -> None:
    """Warns, once for each model, that a model in training mode is attacked in evaluation mode."""
    if not model.training or _in_training.get() or model in _warned:
        return
    _warned.add(model)
    warnings.warn(
        "the model is in training mode; the attack runs it in evaluation mode and puts it back as it was. To evaluate, "
        "call model.eval() first, or the accuracy is measured in another mode than the attack's; in a training loop "
        "this is right and needs no action",
        stacklevel=3,
    )


def bare(model: nn.Module) -> nn.Module:
    """The model itself if it is wrapped for distributed training, where a forward pass expects a backward pass."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def check_model(model: object) -> None:
    """Raises unless ``model`` is a module: its modes and parameters are looked after, which a function has none of."""
    if not isinstance(model, nn.Module):
        hint = "; wrap it in a torch.nn.Module" if callable(model) else ""
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}{hint}")


def check_batch(model: nn.Module, images: Tensor, labels: Tensor, *, values: bool = True) -> Tensor:
    """The images, if they are (B, C, H, W) floats in [0, 1] and ``labels`` fit them, on one device.

    Values outside by rounding (``RANGE_SLACK``) are clipped, so that the ball around them lies in [0, 1]. Labels are
    (B,) int64 from 0 or (B, K) floating point rows that sum to 1. Reading values makes a GPU wait, so those of tensors
    that are not on the CPU are read only with ``values``.
    """
    check_model(model)
    check_dense("images", images)
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}; divide uint8 images by 255")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    _check_labels("labels", labels, images, probabilities=True)
    if images.numel() == 0:
        return images
    if not (values or images.device.type == "cpu"):
        return images.detach().clamp(0, 1)
    images = clipped("images", images, "; normalise inside the model, as its first layer")
    _check_label_values("labels", labels)
    return images


def check_targets(targets: Tensor, images: Tensor, *, values: bool = True) -> None:
    """Raises unless ``targets`` are one class index per image, on the images' device."""
    _check_labels("targets", targets, images, probabilities=False)
    if targets.numel() and (values or targets.device.type == "cpu"):
        _check_label_values("targets", targets)


def check_logits(logits: object, count: int) -> Tensor:
    """The model's output, if it is logits for ``count`` images."""
    if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == count and logits.is_floating_point():
        return logits
    expected = f"model must return logits of shape ({count}, classes), a floating point tensor"
    if isinstance(logits, Tensor):
        raise ValueError(f"{expected}, got {logits.dtype} of shape {tuple(logits.shape)}")
    got = type(logits).__name__
    if isinstance(logits, tuple | list):
        got += f" of {len(logits)}; wrap the model in a module that returns the logits alone"
    raise ValueError(f"{expected}, got {got}")


def check_class_range(name: str, labels: Tensor, classes: int) -> None:
    """Raises unless class indices lie below ``classes``, or probabilities have that many columns. Reads values."""
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise ValueError(f"{name} must have the model's {classes} columns, got shape {tuple(labels.shape)}")
    elif int(labels.max()) >= classes:
        raise ValueError(f"{name} must lie below the model's {classes} classes, got {int(labels.max())}")


def _check_labels(name: str, labels: Any, images: Tensor, probabilities: bool) -> None:
    check_dense(name, labels, "an int64 tensor")
    rows = probabilities and labels.ndim == 2 and labels.is_floating_point()
    if not rows and labels.dtype != torch.int64:
        also = " (or probabilities of shape (B, classes))" if probabilities else ""
        raise TypeError(f"{name} must be an int64 tensor{also}, got {labels.dtype} of shape {tuple(labels.shape)}")
    if labels.shape[:1] != images.shape[:1] or (not rows and labels.ndim != 1):
        raise ValueError(f"{name} must have shape ({len(images)},), one per image, got {tuple(labels.shape)}")
    if labels.device != images.device:
        raise ValueError(f"{name} must be on the images' device {images.device}, got {labels.device}")


def _check_label_values(name: str, labels: Tensor) -> None:
    if labels.ndim == 1:
        if int(labels.min()) < 0:
            raise ValueError(f"{name} must be 0 or more, got {int(labels.min())}")
        return
    sums = labels.detach().float().sum(1)
    off = (sums - 1).abs()
    tolerance = 1e-3 if labels.dtype in (torch.float32, torch.float64) else 2e-2
    if not (float(labels.min()) >= 0 and float(off.max()) <= tolerance):  # also false for NaN
        raise ValueError(
            f"{name} must be probabilities, 0 or more, with rows that sum to 1; "
            f"got a least value of {float(labels.min()):g} and sums from {float(sums.min()):g} to {float(sums.max()):g}"
        )


def home_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer, the CPU for a model without any."""
    return next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
