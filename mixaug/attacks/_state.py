"""A model that is looked at and given back exactly as it was."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

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
    """Switches ``requires_grad`` of the parameters off meanwhile: a foreign ``backward()`` then leaves ``.grad`` be."""
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
