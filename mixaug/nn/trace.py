"""One pass of a copy of a model, without data or memory where that works: what it executes, and in which order."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedParameter

_T = TypeVar("_T")
_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}
_BATCH = 2  # not 1: a model that squeezes its output would lose the batch
# Sides of square images, the usual ones first: 224 and 299 of ImageNet, 32 of CIFAR, 28 of MNIST.
_SIDES = (224, 299, 32, 28, 64, 96, 128, 256, 384, 48, 16, 8, 112, 160, 192, 240, 288, 300, 320, 336, 448, 512)
_PER_DIMENSION: dict[type[nn.Module], tuple[tuple[int, ...], ...]] = {
    nn.Conv1d: tuple((length,) for length in (1024, 128, 64, 32, 16)),
    nn.Conv2d: tuple((side, side) for side in _SIDES),
    nn.Conv3d: tuple((16, side, side) for side in (112, 224, 64, 32)),
}


def check_plain(model: Any, verb: str, *, scripted: bool = False) -> None:
    """Raises unless the model is a module that can be changed: not wrapped, compiled or of unknown sizes.

    Args:
        model: anything.
        verb: what comes first, for the message, such as "add the head".
        scripted: whether TorchScript submodules are accepted.

    Example:
        >>> check_plain(torch.nn.DataParallel(torch.nn.Linear(2, 2)), "add the head")
        Traceback (most recent call last):
        ...
        ValueError: model must not be wrapped, got a DataParallel: add the head first, then wrap
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        kind = type(module).__name__
        bases = {base.__name__ for base in type(module).__mro__}
        where = f" at {name!r}" if name else ""
        if isinstance(module, (DataParallel, DistributedDataParallel)) or _SHARDED & bases:
            raise ValueError(f"model must not be wrapped, got a {kind}{where}: {verb} first, then wrap")
        if kind == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError(f"model must not be compiled, got a {kind}{where}: {verb} first, then compile")
        if isinstance(module, torch.jit.ScriptModule) and not (scripted and name):
            raise ValueError(f"model must not be scripted, got a {kind}{where}: {verb} first, then script")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"model must have been called once: the size of {name} is not known yet")


def look_at(
    model: nn.Module,
    example_input: Tensor | tuple[Tensor, ...] | None,
    look: Callable[[nn.Module, tuple[Tensor, ...]], _T],
    *,
    values: bool = False,
) -> _T:
    """Hands a copy of the model in evaluation mode and inputs for it to ``look``, and gives what that returns.

    First on the meta device, where a pass needs no data, memory or noticeable time; if an operation has no shape rule
    there, with real numbers: then the copy's parameters share the memory of the model's, its buffers do not. The model
    itself is never called, so its modes, buffers, hooks and caches stay as they are; parameters of the copy require a
    gradient. Modules of the copy have the names of the model's.

    Args:
        model: checked by :func:`check_plain`.
        example_input: what the model takes, or a tuple of its arguments; None: guessed.
        look: runs ``copy(*inputs)`` and collects; an exception in it means that these inputs do not fit.
        values: whether it reads the values of activations: then never on the meta device.

    Raises:
        TypeError: ``example_input`` is of another kind, or the model cannot be copied.
        ValueError: the pass fails on ``example_input``, or on all that was guessed.

    Example:
        >>> look_at(nn.Linear(4, 3), None, lambda copy, inputs: copy(*inputs).shape)
        torch.Size([2, 3])
    """
    if example_input is not None:
        given = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
        if not given or not all(isinstance(value, Tensor) for value in given):
            raise TypeError(f"example_input must be a tensor or a tuple of tensors, got {type(example_input).__name__}")
        candidates: list[tuple[Tensor, ...]] = [tuple(given)]
    else:
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        candidates = [(torch.empty(shape, dtype=dtype, device="meta"),) for shape in guessed_shapes(model)]
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    last: Exception | None = None
    for device in (home,) if values else dict.fromkeys((torch.device("meta"), home)):
        with torch.inference_mode(False):  # as in plain use, also if the caller is in inference mode
            view = _view(model, device)
        for inputs in candidates:
            try:
                with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]), device:
                    return look(view, tuple(_on(value, device) for value in inputs))
            except Exception as error:  # whatever a model raises says that it does not take this input
                last = last or error
    if example_input is not None:
        shapes = ", ".join(str(tuple(value.shape)) for value in candidates[0])
        raise ValueError(f"model cannot take example_input of shape {shapes}: {last}") from last
    raise ValueError(f"no input that the model takes was found: give example_input=, a batch for it ({last})") from last


def guessed_shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes of inputs that the model may take, the most likely first, each once.

    Example:
        >>> next(guessed_shapes(nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU())))
        (2, 1, 224, 224)
    """
    for shape in dict.fromkeys(_guesses(model)):
        yield (_BATCH, *shape)


def _guesses(model: nn.Module) -> Iterator[tuple[int, ...]]:
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, *_PER_DIMENSION))]
    sizes = list(_stated_sizes(model))
    first = layers[0] if layers else None
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
        for channels in (3, 1):  # an image that is flattened first
            side = math.isqrt(first.in_features // channels)
            if channels * side**2 == first.in_features:
                yield channels, side, side
    convolution = next((layer for layer in layers if not isinstance(layer, nn.Linear)), None)
    kind = next((kind for kind in _PER_DIMENSION if isinstance(convolution, kind)), nn.Conv2d)
    wanted = getattr(convolution, "in_channels", 3)
    for channels in (wanted, 1, 3):  # a grey image may be repeated, a colour one made grey, before the first layer
        for size in (*(size for size in sizes if kind is nn.Conv2d), *_PER_DIMENSION[kind]):
            yield channels, *size


def _stated_sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """What torchvision's and timm's networks say of themselves."""
    for module in model.modules():
        for name in ("image_size", "img_size"):
            size = getattr(module, name, None)
            if isinstance(size, int):
                yield size, size
            elif isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(side, int) for side in size):
                yield size[0], size[1]
        for name in ("pretrained_cfg", "default_cfg"):
            stated = getattr(module, name, None)
            size = stated.get("input_size") if isinstance(stated, dict) else getattr(stated, "input_size", None)
            if isinstance(size, (tuple, list)) and len(size) == 3:
                yield int(size[1]), int(size[2])


def _view(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy in evaluation mode: on meta without any memory, elsewhere with the memory of the model's parameters."""

    def seen(value: Tensor) -> Tensor:
        return torch.empty_like(value, device="meta") if device.type == "meta" else value.detach()

    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(seen(parameter.detach()), parameter.is_floating_point())
    for buffer in model.buffers():
        memo[id(buffer)] = seen(buffer) if device.type == "meta" else buffer.detach().clone()
    for module in model.modules():  # tensors kept as plain attributes, some of them results that cannot be copied
        memo |= {id(v): seen(v) for v in vars(module).values() if isinstance(v, Tensor) and id(v) not in memo}
    try:
        view: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:
        raise TypeError(f"model must be one that copy.deepcopy copies: {error}") from error
    for module in view.modules():
        module.training = False
    return view


def _on(value: Tensor, device: torch.device) -> Tensor:
    if device.type == "meta":
        return torch.empty_like(value, device="meta")
    return torch.zeros(value.shape, dtype=value.dtype, device=device) if value.is_meta else value.detach().to(device)
