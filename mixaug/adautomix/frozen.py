"""A pass of a model that leaves its parameters without gradients and its buffers as they are."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["frozen_call"]


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
