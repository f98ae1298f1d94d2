"""S-ReLU and D-ReLU: ReLU with a fixed and with a learnt cap."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedParameter

from mixaug._checks import MAX_COUNT, check_flag, check_number
from mixaug.ops.capped_relu import cap_checked, capped_relu_torch, check_cap

__all__ = ["DReLU", "SReLU"]

fx.wrap("cap_checked")  # it stands in each module whose code is traced


class SReLU(nn.Module):
    r"""S-ReLU: ReLU with a fixed cap.

    .. math:: y = \max(0, \min(m, x))

    Sooksatra and Rivas, "Dynamic-Max-Value ReLU Functions for Adversarially Robust Machine Learning Models",
    Mathematics 12 (2024) 3551, section 3. By its Theorem 1 two outputs are never further apart than ReLU's, and by its
    Corollary 1 the distance does not grow when :math:`m` falls.

    Convention:
        ``m`` is a constant: it is no parameter and is not saved, so that a model's ``state_dict`` has the keys it had
        with ``nn.ReLU``. It is held in float32 (float64 where that is torch's default dtype), never in a half, and
        compared in the input's. ``SReLU(6)`` is ``nn.ReLU6``, with a backward pass from the output alone.

    Args:
        max_value: the cap ``m``, above 0, in the units of the activations; ``math.inf`` is ReLU.
        inplace: write into the input, as ``nn.ReLU(inplace=True)`` does; default False.

    Shape:
        input ``(...)`` floating point of any range; output the same shape, dtype and memory format, in ``[0, m]``.

    Raises:
        TypeError: ``max_value`` is no number; at the call, the input is no floating point tensor.
        ValueError: ``max_value`` is not above 0, or cannot be held.

    Note:
        The gradient at ``x >= m`` is exactly 0: a capped unit hides from attacks that follow gradients. Robustness has
        to be measured with attacks that do not, see the card of D-ReLU.

    Example:
        >>> SReLU(2.0)(torch.tensor([-1.0, 1.0, 3.0]))
        tensor([0., 1., 2.])
    """

    def __init__(self, max_value: float, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = check_flag("inplace", inplace)
        #: Name of the layer in its model, for messages.
        self.site = ""
        self._cap = above_zero("max_value", max_value)
        self.register_buffer("max_value", torch.tensor(self._cap, dtype=_cap_dtype()), persistent=False)

    if TYPE_CHECKING:  # TorchScript would read the annotation, and does not know the name
        max_value: Tensor

    def reset_parameters(self) -> None:
        """Sets the cap again: it is not in a ``state_dict``, so after ``to_empty()`` nothing else would."""
        self.max_value.fill_(self._cap)

    def forward(self, x: Tensor) -> Tensor:
        """The capped activations."""
        if torch.jit.is_scripting():
            out = capped_relu_torch(x, self.max_value, 0)
            out = x.copy_(out) if self.inplace else out
        else:  # TorchScript does not read this branch
            out = cap_checked(x, self.max_value, 0, self.inplace, self.site)
        return out

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        cap = self._cap if self.max_value.is_meta else self.max_value.item()
        return f"max_value={cap:g}" + ", inplace=True" * self.inplace


class DReLU(nn.Module):
    r"""D-ReLU: ReLU with a learnt cap for each neuron, channel or layer.

    .. math:: y_i = \max(0, \min(m_i, x_i)), \qquad \mathcal{L} = \ell(F(x), y) + \lambda \sum_i m_i^2

    Sooksatra and Rivas, "Dynamic-Max-Value ReLU Functions for Adversarially Robust Machine Learning Models",
    Mathematics 12 (2024) 3551, section 4. The penalty is not part of the layer: see
    :func:`mixaug.drelu_penalty` for plain loops and :func:`mixaug.nn.shrink_caps` for its proximal form.

    Convention:
        The cap used is ``max(m, 0)``; the forward pass never writes to ``m``. ``m`` follows torch's default dtype as
        all parameters do, but for the halves, in which a cap near 100 would lose its updates: there it is made in
        float32, and may stay so where the activations are half precision. The output has the input's dtype.

    Args:
        num_features: number of caps: the size of ``dim`` (one a channel or feature), 1 (one for the layer), or the
            shape of the dimensions from ``dim`` on (one a neuron). None (default): as many as ``dim`` has in the first
            call, as torch's lazy modules do; call the layer once before DDP, a compiler or an exporter sees it.
        init: first value of every cap, above 0; default 100, the paper's.
        dim: dimension of the input that the caps belong to, default 1; -1 for ``(..., features)``.
        inplace: write into the input, as ``nn.ReLU(inplace=True)`` does; default False.

    Attributes:
        max_value: the caps ``m``, an ``nn.Parameter``.

    Shape:
        input ``(...)`` floating point of any range; output the same shape, dtype and memory format, in ``[0, m]``.

    Raises:
        TypeError: an argument of the wrong kind; at the call, an input that is not floating point.
        ValueError: ``init`` not above 0 or too large, fewer than one feature; at the call, another number of features.
        IndexError: at the call, ``dim`` out of range.
        RuntimeError: the first call of a layer without ``num_features`` is compiled or exported as a whole.

    Note:
        The backward pass needs the output and ``m`` alone: saved memory is ``nn.ReLU``'s and ``m``'s. Weight decay must
        not act on ``m``: see :func:`mixaug.nn.param_groups`.

    Example:
        >>> layer = DReLU(3, init=1.0)
        >>> layer(torch.tensor([[-1.0, 0.5, 3.0]])).tolist()
        [[0.0, 0.5, 1.0]]
        >>> DReLU()(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    if TYPE_CHECKING:  # as in SReLU
        max_value: nn.Parameter
    __jit_unused_properties__: ClassVar = ["initialised"]

    def __init__(
        self,
        num_features: int | Sequence[int] | None = None,
        init: float = 100.0,
        dim: int = 1,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        self.init = above_zero("init", init)
        if not _is(dim, numbers.Integral):
            raise TypeError(f"dim must be an int, got {type(dim).__name__}")
        self.dim = int(dim)
        self.inplace = check_flag("inplace", inplace)
        #: Name of the layer in its model, for messages.
        self.site = ""
        if num_features is None:
            self.max_value = UninitializedParameter(dtype=_cap_dtype())  # type: ignore[assignment,call-arg]
        else:
            self.max_value = nn.Parameter(torch.full(_shape(num_features), self.init, dtype=_cap_dtype()))

    @property
    def initialised(self) -> bool:
        """Whether the number of caps is known."""
        return not isinstance(self.max_value, UninitializedParameter)

    def reset_parameters(self) -> None:
        """Sets every cap to ``init`` again."""
        if self.initialised:
            with torch.no_grad():
                self.max_value.fill_(self.init)

    def forward(self, x: Tensor) -> Tensor:
        """The capped activations."""
        if torch.jit.is_scripting():
            out = capped_relu_torch(x, self.max_value, self.dim)
            out = x.copy_(out) if self.inplace else out
        else:  # TorchScript does not read this branch
            caps = self.max_value
            if type(caps) is UninitializedParameter:
                self._materialize(x)
                caps = self.max_value
            out = cap_checked(x, caps, self.dim, self.inplace, self.site)
        return out

    def _materialize(self, x: Tensor) -> None:
        check_cap(x, torch.ones(1, dtype=torch.float32), self.dim, self.site)
        where = f" of {self.site}" if self.site else ""
        if not -x.ndim <= self.dim < x.ndim:
            raise IndexError(
                f"dim{where} must lie in [{-x.ndim}, {x.ndim}) for x of shape {tuple(x.shape)}, got {self.dim}"
            )
        if torch.compiler.is_compiling():  # a graph cannot make parameters
            raise RuntimeError(
                f"max_value{where} has no size yet: call the model once before compiling or exporting it"
            )
        if x.shape[self.dim] == 0:
            raise ValueError(f"x{where} must have at least 1 feature, got the shape {tuple(x.shape)}")
        # A parameter made in inference mode could never be trained.
        with torch.inference_mode(False), torch.no_grad():
            self.max_value.materialize((x.shape[self.dim],), device=x.device)  # type: ignore[attr-defined]
            self.max_value.fill_(self.init)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.initialised:
            super()._save_to_state_dict(destination, prefix, keep_vars)
        elif keep_vars:
            destination[prefix + "max_value"] = self.max_value
        else:  # no values to save: an empty tensor, since torch.load(weights_only=True) refuses torch's lazy ones
            destination[prefix + "max_value"] = torch.empty(0, dtype=self.max_value.dtype, device=self.max_value.device)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "max_value"
        stored = state_dict.get(key)
        sized = isinstance(stored, Tensor) and not isinstance(stored, UninitializedParameter) and stored.numel() > 0
        if sized and isinstance(self.max_value, UninitializedParameter):
            self.max_value.materialize(stored.shape)
        if isinstance(stored, Tensor) and not sized:  # saved before its first call
            state_dict = {name: value for name, value in state_dict.items() if name != key}
            if self.initialised:
                size = tuple(self.max_value.shape)
                error_msgs.append(f"{key} was saved before its first call and has no size, the model's has {size}.")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if stored is not None and key in missing_keys:
            missing_keys.remove(key)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        size = "None" if not self.initialised else "x".join(str(side) for side in self.max_value.shape)
        return f"{size}, init={self.init:g}, dim={self.dim}" + ", inplace=True" * self.inplace


def _cap_dtype() -> torch.dtype:
    """Of new caps: torch's default dtype as of any module, but at least float32, so that 6.1 is never 6.1016."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def above_zero(name: str, value: Any) -> float:
    """``value`` as a cap: above 0 and such as the caps' dtype holds, or infinite."""
    if isinstance(value, float | np.floating) and value == math.inf:
        return math.inf
    held = torch.finfo(_cap_dtype())
    return check_number(name, value, held.tiny, held.max, lambda _: "; infinity is allowed")


def _shape(num_features: Any) -> tuple[int, ...]:
    sides = (num_features,) if isinstance(num_features, numbers.Integral) else num_features
    if not isinstance(sides, (tuple, list)) or not all(_is(side, numbers.Integral) for side in sides):
        raise TypeError(f"num_features must be an int, a shape or None, got {num_features!r}")
    if not sides or min(sides) < 1:
        raise ValueError(f"num_features must be at least 1, got {num_features!r}")
    if math.prod(int(side) for side in sides) > MAX_COUNT:
        raise ValueError(f"num_features must be at most {MAX_COUNT} in all, got {num_features!r}")
    return tuple(int(side) for side in sides)


def _is(value: Any, kind: type) -> bool:
    """Whether it is a number of Python or NumPy of that kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)
