"""The layers of several call sites of one ReLU, under the name that the ReLU had."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["HOOKS", "ReLUSites", "take_over"]

#: What ``nn.Module`` keeps hooks in: shared with a successor, a handle's ``remove()`` works there too.
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class ReLUSites(nn.ModuleDict):
    """One layer for each call site, named "0", "1" and so on; the code of the model picks them by name.

    Called itself, which is what code does that no pass has reached, it is the ReLU that it has replaced.

    Args:
        six: whether that was ReLU6.
        inplace: whether it wrote into its input.

    Example:
        >>> import torch
        >>> ReLUSites(six=True)(torch.tensor([-1.0, 3.0, 9.0]))
        tensor([0., 3., 6.])
    """

    def __init__(self, six: bool = False, inplace: bool = False) -> None:
        super().__init__()
        self.six = six
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """The ReLU that was here."""
        return F.relu6(x, inplace=self.inplace) if self.six else F.relu(x, inplace=self.inplace)

    def pick(self, first: int, last: int, call: int) -> nn.Module:
        """The layer of the given call of a line in a loop; of the last one, if there were fewer in the recording pass.

        Args:
            first: name of the layer of call 0.
            last: name of the last layer.
            call: from 0.
        """
        return self[str(min(first + call, last))]

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return ""


def take_over(layer: nn.Module, before: nn.Module) -> nn.Module:
    """Gives the layer the mode and the hooks of the one that it replaces.

    Args:
        layer: the new one.
        before: the old one.
    """
    layer.train(before.training)
    for name in HOOKS:
        if getattr(before, name, None):
            setattr(layer, name, getattr(before, name))
    return layer
