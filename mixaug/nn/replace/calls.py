"""The layers of several call sites of one ReLU, under the name that the ReLU had."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "HOOKS",
    "RELU_FUNCTIONS",
    "Call",
    "Channels",
    "Line",
    "ReLUSites",
    "Recorder",
    "take_over",
]


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


#: What counts as a call of ReLU, with its name and whether it is in place.
RELU_FUNCTIONS: dict[Any, tuple[str, bool]] = {
    F.relu: ("F.relu", False),
    F.relu6: ("F.relu6", False),
    torch.relu: ("torch.relu", False),
    torch.relu_: ("torch.relu_", True),
    Tensor.relu: ("Tensor.relu", False),
    Tensor.relu_: ("Tensor.relu_", True),
    torch.ops.aten.relu.default: ("aten.relu", False),
    torch.ops.aten.relu_.default: ("aten.relu_", True),
    torch.rnn_relu: ("nn.RNN", False),
    torch.rnn_relu_cell: ("nn.RNNCell", False),
}
_TORCH = os.path.dirname(torch.__file__) + os.sep
_MODULES = os.path.join(_TORCH, "nn", "modules", "")
_CALL = os.path.join(_MODULES, "module.py")


@dataclass(frozen=True)
class Line:
    """A call in the source of a method.

    Args:
        owner: the method's ``self``.
        method: its name.
        function: the method.
        code: of the call: the method's own, or that of a function in it.
        end: line and column where the call ends, of which no other call can.
    """

    owner: nn.Module
    method: str
    function: FunctionType
    code: CodeType
    end: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of ReLU.

    Args:
        kind: "nn.ReLU", "F.relu" and so on.
        six: whether it is ReLU6.
        inplace: whether it writes into its input.
        shape: of the input.
        dim: of the channels.
        module: the ``nn.ReLU``, its :class:`ReLUSites` or None.
        caller: the innermost module that runs, but for ``module``.
        position: what is the same for two calls from the same place.
        frame: what is the same for two calls within one run of the method.
        line: of the source, or why it cannot be changed.
    """

    kind: str
    six: bool
    inplace: bool
    shape: tuple[int, ...]
    dim: int
    module: nn.Module | None
    caller: nn.Module | None
    position: Any
    frame: Any
    line: Line | str


class Recorder(TorchFunctionMode):
    """Notes every call of ReLU within it.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
        >>> with Recorder() as recorder:
        ...     out = model(torch.zeros(2, 3))
        >>> [(call.kind, call.shape, call.module is model[1]) for call in recorder.calls]
        [('nn.ReLU', (2, 4), True)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._channels = Channels()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes the call and makes it."""
        kwargs = kwargs or {}
        if func in RELU_FUNCTIONS or func is F.hardtanh:
            x = args[0] if args else kwargs["input"]
            call = self._call(func, x, args[1:], kwargs)
            if call is not None:
                self.calls.append(call)
        out = func(*args, **kwargs)
        self._channels.after(func, args, out)
        return out

    def _call(self, func: Any, x: Tensor, more: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        frames = list(_frames(sys._getframe(2)))
        module = None
        own = _self(frames[0]) if frames else None
        if isinstance(own, (nn.ReLU, nn.ReLU6, ReLUSites)) and frames[0].f_code.co_name == "forward":
            module = own
            frames = frames[1:]
        elif func is F.hardtanh:
            return None
        kind, inplace = RELU_FUNCTIONS.get(func, ("F.relu6", False))
        six = kind == "F.relu6"
        if isinstance(module, ReLUSites):
            inplace, six = module.inplace, module.six
        elif module is not None:
            inplace, six = bool(module.inplace), isinstance(module, nn.ReLU6)
        elif kind.startswith(("F.", "torch.")):
            inplace = bool(kwargs.get("inplace", more[0] if more else inplace))
        if module is not None:
            kind = "nn.ReLU6" if six else "nn.ReLU"
        frame = frames[0] if frames else None
        code = frame.f_code if frame else None
        end = _end(frame) if frame else None
        method, line = _line(frames, end) if frame else (None, "it is called from outside of the model")
        return Call(
            kind=kind,
            six=six,
            inplace=inplace,
            shape=tuple(x.shape),
            dim=self._channels.of(x),
            module=module,
            caller=_caller(frame, module),
            position=(code, end if end else frame and frame.f_lasti),
            frame=method or frame,
            line=line,
        )


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames from here outwards without those of torch's machinery; torch's layers are no machinery."""
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith(_TORCH) or (path.startswith(_MODULES) and path != _CALL):
            yield frame
        frame = frame.f_back


def _self(frame: FrameType) -> Any:
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _caller(frame: FrameType | None, module: nn.Module | None) -> nn.Module | None:
    while frame is not None:
        if frame.f_code.co_filename == _CALL:
            running = frame.f_locals.get("self")
            if isinstance(running, nn.Module) and running is not module:
                return running
        frame = frame.f_back
    return None


def _end(frame: FrameType) -> tuple[int, int] | None:
    """Where the call that the frame is in ends, if its code knows."""
    positions = list(frame.f_code.co_positions())
    _, line, _, column = positions[frame.f_lasti // 2]
    return None if line is None or column is None else (line, column)


def _line(frames: list[FrameType], end: tuple[int, int] | None) -> tuple[FrameType | None, Line | str]:
    """The method that the innermost frame belongs to and the line, or why there is none."""
    code = frames[0].f_code
    if end is None:
        return None, "its code has no positions"
    for frame in frames:
        owner = _self(frame)
        if not isinstance(owner, nn.Module):
            continue
        name = frame.f_code.co_name
        found = next(
            (vars(kind)[name] for kind in type(owner).__mro__ if _is(vars(kind).get(name), frame.f_code)), None
        )
        if found is None:
            continue
        if not _within(code, frame.f_code):
            break
        if name in vars(owner):
            return frame, f"{type(owner).__name__}.{name} was replaced in this instance"
        if getattr(type(owner), name) is not found:
            return frame, f"{found.__qualname__} runs through super()"
        return frame, Line(owner, name, found, code, end)
    return None, f"it is in {code.co_qualname}, which is not a method of a module"


def _is(function: Any, code: CodeType) -> bool:
    return isinstance(function, FunctionType) and function.__code__ is code


def _within(code: CodeType, outer: CodeType) -> bool:
    return code is outer or any(isinstance(c, CodeType) and _within(code, c) for c in outer.co_consts)
