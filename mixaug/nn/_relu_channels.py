"""Which dimension of an activation holds the channels, followed from the layer that made it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Channels"]

_SECOND = {F.batch_norm, F.instance_norm, F.group_norm}
_SECOND |= {getattr(F, f"conv{transposed}{n}d") for n in (1, 2, 3) for transposed in ("", "_transpose")}
_LAST = {F.linear, F.layer_norm, F.rms_norm, F.embedding, F.multi_head_attention_forward}
_MOVES = {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"}
_RESHAPES = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze"}
# Their channels are not those of an input, even where the shapes agree.
_MIXES = {"matmul", "bmm", "einsum", "baddbmm", "__matmul__", "scaled_dot_product_attention", "shape", "size"}


class Channels:
    """Follows the dimension of the channels through the operations of a pass.

    A convolution or batch norm puts them into dimension 1, a linear layer or layer norm into the last one, and most
    other operations leave them where they are.

    Example:
        >>> channels = Channels()
        >>> x = torch.zeros(2, 5, 5, 3)
        >>> channels.after(F.linear, (), x)
        >>> channels.of(x), channels.of(torch.zeros(2, 3, 5, 5))
        (-1, 1)
    """

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def of(self, x: Tensor) -> int:
        """The dimension in ``x``, -1 for the last of more than two; where nothing is known, the usual one.

        Args:
            x: the activation.
        """
        dim = self._known.get(x)
        if dim is None:  # (N, C), (N, L, C) of transformers, (N, C, H, W)
            dim = 2 if x.ndim == 3 else min(1, x.ndim - 1)
        return -1 if dim > 1 and dim == x.ndim - 1 else dim

    def after(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        """Notes one operation.

        Args:
            func: as a ``TorchFunctionMode`` sees it.
            args: its arguments.
            out: its result.
        """
        outs = [value for value in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(value, Tensor)]
        name = getattr(func, "__name__", "")
        if name in _MIXES or not outs:
            return
        source = next((x for x in _tensors(args) if x in self._known), None)
        for value in outs:
            dim = None
            if func in _SECOND:
                dim = 1
            elif func in _LAST:
                dim = value.ndim - 1
            elif source is not None:
                dim = self._moved(func, name, args, source, value)
            if dim is not None and 0 < dim < value.ndim:
                self._known[value] = dim

    def _moved(self, func: Any, name: str, args: tuple[Any, ...], source: Tensor, out: Tensor) -> int | None:
        dim: int = self._known[source]
        if name in _MOVES:
            # Each side names its dimension.
            sides = torch.empty([n + 1 for n in range(source.ndim)], dtype=torch.float32, device="meta")
            try:
                return list(func(sides, *args[1:]).shape).index(dim + 1)
            except (RuntimeError, TypeError, ValueError, IndexError):
                return None
        if name in _RESHAPES:
            if source.shape[: dim + 1] == out.shape[: dim + 1]:
                return dim
            return out.ndim - 1 if dim == source.ndim - 1 and source.shape[-1] == out.shape[-1] else None
        return dim if source.ndim == out.ndim else None


def _tensors(args: tuple[Any, ...]) -> Iterator[Tensor]:
    for value in args:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from (item for item in value if isinstance(item, Tensor))
