"""A model that is looked at and given back exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts every submodule in evaluation mode and restores each one's own mode at the end, also after an error.

    ``model.train(was_training)`` is not enough: a fine-tuned model may train its head while its batch norms are frozen
    in evaluation mode, and that call would thaw them. Evaluation mode keeps dropout off and batch-norm buffers still.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout().eval())
        >>> with evaluation_mode(model):
        ...     [module.training for module in model]
        [False, False]
        >>> [module.training for module in model]
        [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()  # inside, since a model's own train() may raise halfway
        yield
    finally:
        for module, training in modes:
            module.training = training
