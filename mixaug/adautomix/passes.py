"""One forward pass of the classifier for both players: each gets the gradient of its own part alone."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = [
    "SharedPass",
    "frozen_call",
]


class SharedPass:
    """A mixture whose loss goes down in the classifier and up (or down) in the generator, for one pass.

    The classifier is given the mixture as a leaf: its backward pass ends there, and leaves the gradient of the mixture,
    which the generator's backward pass takes over. If the generator's comes first, it computes that gradient itself.

    Args:
        mixed: the generator's mixture, with its graph.
        given: what the classifier is given: the mixture, or something else in some rows.
        same: (B,) bool, the rows that are the mixture.

    Example:
        >>> weight = torch.tensor([2.0], requires_grad=True)
        >>> mixed = weight * torch.tensor([[3.0]])
        >>> one = SharedPass(mixed, mixed, torch.tensor([True]))
        >>> down = one.watch((one.leaf * 5).sum())
        >>> up = -one.loss()
        >>> down.backward()
        >>> weight.grad is None
        True
        >>> up.backward()
        >>> weight.grad
        tensor([-15.])
    """

    def __init__(self, mixed: Tensor, given: Tensor, same: Tensor) -> None:
        self.leaf = given.detach().requires_grad_()
        self._mixed, self._same = mixed, same
        self._loss: Tensor | None = None
        self._gradient: Tensor | None = None
        self._scale: Tensor | None = None

    def watch(self, loss: Tensor) -> Tensor:
        """Notes the gradient of the leaf when the loss, scaled or not, goes backward.

        Args:
            loss: scalar, of the classifier's pass of the leaf.
        """
        self._loss = loss
        # Hooks that hold this object, which holds what they hang on, would keep a step's memory until Python collects.
        scale, gradient = weakref.WeakMethod(self._note_scale), weakref.WeakMethod(self._note_gradient)
        loss.register_hook(lambda value: _tell(scale, value))
        self.leaf.register_hook(lambda value: _tell(gradient, value))
        return loss

    def loss(self) -> Tensor:
        """The same loss, with a gradient to the mixture's graph and to nothing else."""
        if self._loss is None:
            raise RuntimeError("watch() must come before loss()")
        value: Tensor = _Routed.apply(self._mixed, self._loss.detach(), self)
        return value

    def gradient(self) -> Tensor:
        """Of the mixture."""
        if self._gradient is not None and self._scale is not None:
            found = self._gradient / self._scale
        elif self._loss is not None:
            (found,) = torch.autograd.grad(self._loss, self.leaf, retain_graph=True)
        else:
            raise RuntimeError("the loss must have gone backward, or be there still")
        rows = self._same.view(-1, *[1] * (found.ndim - 1))
        return torch.where(rows, found, torch.zeros_like(found))

    def _note_scale(self, scale: Tensor) -> None:
        self._scale = scale

    def _note_gradient(self, gradient: Tensor) -> None:
        self._gradient, self._loss = gradient, None


def _tell(note: weakref.WeakMethod[Any], value: Tensor) -> None:
    """Calls the method, if there is still somebody to be told."""
    if (method := note()) is not None:
        method(value)


class _Routed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixed: Tensor, loss: Tensor, shared: SharedPass) -> Tensor:
        ctx.shared = shared
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *scale: Tensor) -> tuple[Tensor, None, None]:
        return scale[0] * ctx.shared.gradient(), None, None


def frozen_call(model: nn.Module, images: Tensor) -> Tensor:
    """What the model gives, in its own mode, with a gradient to the images alone.

    Each place of a parameter or buffer is replaced meanwhile, and once: ``functional_call`` with ``tie_weights`` puts
    the replacement, not the parameter, back into a module that has two names.

    Args:
        model: not wrapped.
        images: what it is called with.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 2)
        >>> frozen_call(model, torch.rand(1, 2)).requires_grad, model.weight.requires_grad
        (False, True)
    """
    parameters = {id(value): value.detach() for value in model.parameters()}
    buffers = {id(value): value.detach().clone() for value in model.buffers()}
    places: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        for kept, stand_ins in ((module._parameters, parameters), (module._buffers, buffers)):
            for name, value in kept.items():
                if value is not None:
                    places[f"{prefix}.{name}" if prefix else name] = stand_ins[id(value)]
    out: Tensor = functional_call(model, places, (images,), tie_weights=False)
    return out
