"""The passes of a model in which a swap finds and checks its call sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["Watch", "passes"]


def passes(view: nn.Module, inputs: tuple[Tensor, ...], run: Callable[[], Any], strict: bool) -> list[Any]:
    """What ``run()`` gives in an evaluation and in a training pass of a model.

    The two have batches of 2 and 3, so that what depends on the batch shows; of the given one where no other works.

    Args:
        view: a copy that may be changed.
        inputs: for it.
        run: a context manager around each pass.
        strict: whether an error in the training pass counts; a model may ask for targets there.
    """
    error: Exception | None = None
    for sizes in ((2, 3), (None, None)):
        results = []
        try:
            for training, size in zip((False, True), sizes, strict=True):
                for module in view.modules():
                    module.training = training
                values = inputs if size is None else tuple(_batch(value, size) for value in inputs)
                try:
                    with run() as result:
                        view(*(value.clone() for value in values))
                except Exception:
                    if training and not strict:
                        continue
                    raise
                results.append(result)
            return results
        except Exception as now:
            error = error or now
    raise cast(Exception, error)  # both rounds had one


def _batch(value: Tensor, size: int) -> Tensor:
    if not value.ndim or not len(value):
        return value
    return torch.cat([value] * size)[:size]


class Watch:
    """Notes which layers run.

    Args:
        layers: by name.

    Example:
        >>> layer = nn.ReLU()
        >>> with Watch({"relu": layer}) as watch:
        ...     out = layer(torch.zeros(2))
        >>> watch.reached
        {'relu'}
    """

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self.reached: set[str] = set()
        self._layers = layers

    def __enter__(self) -> Watch:
        self._handles = [
            layer.register_forward_pre_hook(lambda *_, name=name: self.reached.add(name))
            for name, layer in self._layers.items()
        ]
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
