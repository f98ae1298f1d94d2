"""The paper's placements of D-ReLU: a new dense layer before the output layer, a new convolution after the input."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from mixaug._checks import MAX_BATCH, check_int
from mixaug.nn.activations import DReLU, SReLU, above_zero
from mixaug.nn.trace import check_plain, look_at

__all__ = [
    "CONVOLUTIONS",
    "add_drelu_head",
    "add_drelu_stem",
    "calls_of",
    "new_output_layer",
    "output_layers",
    "put_layers",
]


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def output_layers(model: nn.Module, example_input: Any) -> dict[str, nn.Module]:
    """The layers that give the logits, by name: one, or two of a distilled model.

    Convention: the last layer with weights on the way to the outputs, found by a pass of a copy on the meta device.
    Heads that run in training only are none.

    Args:
        model: checked by :func:`mixaug.nn.trace.check_plain`.
        example_input: a batch that the model takes, or a tuple of its arguments; None: guessed from its layers.

    Raises:
        ValueError: the model ends in something else, or no input was found that it takes.

    Example:
        >>> output_layers(nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU()), None)
        {'1': Linear(in_features=12, out_features=3, bias=True)}
    """
    modules = dict(model.named_modules())
    heads = [
        {name for name, module in modules.items() if any(module is inner for inner in head.modules())}
        for head in _classifiers(model)
    ]

    def look(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[list[str], list[str]]:
        calls, outputs = calls_of(model, inputs)
        modules = dict(model.named_modules())
        # A parametrization runs while its layer does; the layer is what counts.
        weighted = [name for name in calls if _own(modules[name]) and ".parametrizations." not in f".{name}."]
        last = [_last(modules, [name for name in weighted if name in head], outputs) for head in heads]
        found = [name for name in last if name is not None]
        if not found:
            found = [name for name in (_last(modules, weighted, outputs),) if name is not None]
        return calls, found

    calls, found = look_at(model, example_input, look)
    if not found:
        seen = ", ".join(f"{type(modules[name]).__name__} at {name!r}" for name in calls[-3:])
        raise ValueError(f"model must end in a dense layer or a 1x1 convolution; what ran last: {seen or 'nothing'}")
    for name in found:
        if not _is_dense(modules[name]):
            raise ValueError(
                f"model must end in a dense layer or a 1x1 convolution, got {type(modules[name]).__name__} at "
                f"{name!r} as the last layer with weights"
            )
    return {name: modules[name] for name in found}


def new_output_layer(layer: Any, classes: int) -> nn.Module:
    """A layer like one of :func:`output_layers` for another number of classes.

    Args:
        layer: a dense layer or a 1x1 convolution.
        classes: number of logits.

    Returns:
        the layer with torch's initialisation, drawn from its global random state; a bias where the old one had one.

    Example:
        >>> new_output_layer(nn.Conv2d(8, 10, 1, bias=False), 3)
        Conv2d(8, 3, kernel_size=(1, 1), stride=(1, 1), bias=False)
    """
    more: dict[str, Any] = {"bias": layer.bias is not None, "device": layer.weight.device, "dtype": layer.weight.dtype}
    kind = next((kind for kind in CONVOLUTIONS if isinstance(layer, kind)), None)
    if kind is None:
        return nn.Linear(layer.in_features, classes, **more).train(layer.training)
    shape = {"stride": layer.stride, "padding": layer.padding, "padding_mode": layer.padding_mode}
    return kind(layer.in_channels, classes, 1, **shape, **more).train(layer.training)


def put_layers(model: nn.Module, swaps: Mapping[nn.Module, nn.Module], example_input: Any) -> nn.Module:
    """Puts new layers wherever the old ones stand; takes them out again if the model then does not run.

    Args:
        model: changed in place.
        swaps: each old layer to its new one.
        example_input: as in :func:`output_layers`.

    Returns:
        the same model; the new layer if the model itself is the old one.

    Raises:
        ValueError: the model does not run with the new layers; it is then as it was.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> put_layers(model, {model[1]: nn.Linear(12, 5)}, torch.zeros(2, 12))[1].out_features
        5
    """
    if model in swaps:
        return swaps[model]
    places = [(parent, key, child) for parent in model.modules() for key, child in parent._modules.items()]
    found = [(parent, key, child) for parent, key, child in places if child is not None and child in swaps]
    for parent, key, old in found:
        parent._modules[key] = swaps[old]
    try:
        look_at(model, example_input, lambda model, inputs: model(*inputs))
    except (TypeError, ValueError) as error:
        for parent, key, old in found:
            parent._modules[key] = old
        raise ValueError(f"model does not run with the new layers and was left as it was: {error}") from error
    return model


def calls_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[list[str], list[Tensor]]:
    """Names of the modules as they are called, and the outputs that a gradient may come from."""
    names: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            names.append(name)

        return hook

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()]
    try:
        outputs = model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return names, [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]


def _last(modules: dict[str, nn.Module], names: list[str], outputs: list[Tensor]) -> str | None:
    """The last of the modules that the outputs depend on: what ran beside the way to them does not count."""
    for name in reversed(names):
        for output in outputs:
            grads = torch.autograd.grad(output.sum(), _own(modules[name]), retain_graph=True, allow_unused=True)
            if any(grad is not None for grad in grads):
                return name
    return None


def _own(module: nn.Module) -> list[nn.Parameter]:
    """A module's own parameters; those that a parametrization computes its weights from count as its own."""
    found = list(module.parameters(recurse=is_parametrized(module)))
    return [parameter for parameter in found if parameter.is_floating_point()]


def _classifiers(model: nn.Module) -> list[nn.Module]:
    """The heads of a timm model that has several."""
    for module in model.modules():
        get_classifier = getattr(module, "get_classifier", None)
        if callable(get_classifier):
            heads = get_classifier()
            if isinstance(heads, (tuple, list)):
                return [head for head in heads if isinstance(head, nn.Module)]
    return []


def _is_dense(layer: Any) -> bool:
    if isinstance(layer, CONVOLUTIONS):
        return set(layer.kernel_size) == {1} and layer.groups == 1
    return isinstance(layer, nn.Linear)


_HEAD = ("dense", "activation", "output")
_STEM = ("extra", "activation", "conv")


def add_drelu_head(
    model: nn.Module,
    features: int,
    *,
    init: float = 100.0,
    activation: Callable[..., nn.Module] = DReLU,
    example_input: Tensor | tuple[Tensor, ...] | None = None,
) -> nn.Module:
    r"""Puts a dense layer with D-ReLU before the output layer of a classifier.

    .. math:: F(x) = W_2 \, \text{D-ReLU}(W_1 h(x) + b_1; m) + b_2

    Sooksatra and Rivas, "Dynamic-Max-Value ReLU Functions for Adversarially Robust Machine Learning Models",
    Mathematics 12 (2024) 3551, section 5: where D-ReLU works best. ``activation=nn.ReLU`` is the baseline beside it.

    Convention:
        The output layer ``Linear(in, K)`` becomes ``Sequential(dense=Linear(in, features), activation,
        output=Linear(features, K))``; both are 1x1 convolutions, with a cap for each channel, where it is one, as in
        SqueezeNet. It is found by a pass of a copy on the meta device: the last layer with weights on the way to the
        outputs. Heads that run in training only (GoogLeNet's, Inception's) are untouched; of a distilled transformer of
        timm both heads get the layer.

    Args:
        model: any classifier that ends in a dense layer or a 1x1 convolution; it is changed in place. Its other
            parameters keep their names and values.
        features: width of the new layer, at least 1.
        init: first value of every cap, above 0; default 100, the paper's.
        activation: ``DReLU`` (default); ``SReLU``, with ``init`` as its cap; or what makes an activation when it is
            called without arguments, such as ``nn.ReLU``.
        example_input: a batch that the model takes, or a tuple of its arguments; default None: guessed from its layers.

    Returns:
        the same model (a new ``Sequential`` if ``model`` itself is the output layer).

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a number out of range; no output layer found; the model has such a head; it is wrapped or compiled;
            no input was found that it takes. The model is then as it was.

    Note:
        New weights are torch's initialisation, drawn from its global random state; pretrained weights of the output
        layer are lost, so the head has to be trained. The bias is there if the output layer had one.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> model = add_drelu_head(model, features=32)
        >>> print(model[3])
        Sequential(
          (dense): Linear(in_features=64, out_features=32, bias=True)
          (activation): DReLU(32, init=100, dim=-1)
          (output): Linear(in_features=32, out_features=10, bias=True)
        )
    """
    features, init = _check(model, features, init, activation, "add the head")
    heads = output_layers(model, example_input)
    for name, layer in heads.items():
        _check_new(model, name, layer, _HEAD, "head")
    with torch.inference_mode(False):  # what is made in inference mode could not be trained
        swaps = {layer: _head(layer, features, init, activation) for layer in heads.values()}
    return put_layers(model, swaps, example_input)


def add_drelu_stem(
    model: nn.Module,
    features: int,
    *,
    init: float = 100.0,
    activation: Callable[..., nn.Module] = DReLU,
    example_input: Tensor | tuple[Tensor, ...] | None = None,
) -> nn.Module:
    """Puts a 3x3 convolution with D-ReLU before the first convolution of a classifier.

    The early placement of Sooksatra and Rivas, Mathematics 12 (2024) 3551, Fig. 13, which they find worse than
    :func:`add_drelu_head`.

    Convention:
        The first convolution that runs, of C channels, becomes ``Sequential(extra=Conv2d(C, features, 3, padding=1),
        activation, conv)``, where ``conv`` is of the kind it was and takes ``features`` channels. There is a cap for
        each channel.

    Args:
        model: any classifier whose first convolution is a ``Conv2d`` without groups; it is changed in place.
        features: channels of the new convolution, at least 1.
        init: as in :func:`add_drelu_head`.
        activation: as there.
        example_input: as there.

    Returns:
        the same model (a new ``Sequential`` if ``model`` itself is the convolution).

    Raises:
        TypeError, ValueError: as :func:`add_drelu_head`.

    Note:
        The weights of both convolutions are new.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 28 * 28, 10))
        >>> list(add_drelu_stem(model, features=16)[0].state_dict())
        ['extra.weight', 'extra.bias', 'activation.max_value', 'conv.weight', 'conv.bias']
    """
    features, init = _check(model, features, init, activation, "add the stem")
    name, layer = _first_convolution(model, example_input)
    _check_new(model, name, layer, _STEM, "stem")
    with torch.inference_mode(False):
        swaps: dict[nn.Module, nn.Module] = {layer: _stem(layer, features, init, activation)}
    return put_layers(model, swaps, example_input)


def _check(model: Any, features: Any, init: Any, activation: Any, verb: str) -> tuple[int, float]:
    features, init = check_int("features", features, 1, MAX_BATCH), above_zero("init", init)
    if isinstance(activation, nn.Module) or not callable(activation):
        got = f"the module {activation}" if isinstance(activation, nn.Module) else type(activation).__name__
        raise TypeError(f"activation must make a new module, as nn.ReLU does, got {got}")
    check_plain(model, verb)
    return features, init


def _first_convolution(model: nn.Module, example_input: Any) -> tuple[str, nn.Conv2d]:
    def look(model: nn.Module, inputs: tuple[Tensor, ...]) -> str | None:
        modules = dict(model.named_modules())
        return next((name for name in calls_of(model, inputs)[0] if isinstance(modules[name], CONVOLUTIONS)), None)

    name = look_at(model, example_input, look)
    if name is None:
        raise ValueError("model must have a convolution, got none that runs")
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        raise ValueError(f"the first convolution must be a Conv2d without groups, got {layer} at {name!r}")
    return name, layer


def _check_new(model: nn.Module, name: str, layer: nn.Module, keys: tuple[str, ...], what: str) -> None:
    if is_parametrized(layer):
        raise ValueError(f"the layer {name!r} has a parametrization, which a new layer would not have: remove it first")
    for parent_name, parent in model.named_modules():
        if isinstance(parent, nn.Sequential) and tuple(parent._modules) == keys and layer in parent.children():
            raise ValueError(f"model already has a D-ReLU {what}, at {parent_name!r}")


def _head(layer: Any, features: int, init: float, activation: Callable[..., nn.Module]) -> nn.Sequential:
    more: dict[str, Any] = {"bias": layer.bias is not None, "device": layer.weight.device, "dtype": layer.weight.dtype}
    kind = next((kind for kind in CONVOLUTIONS if isinstance(layer, kind)), None)
    pair: tuple[nn.Module, nn.Module]
    if kind is None:
        pair = nn.Linear(layer.in_features, features, **more), nn.Linear(features, layer.out_features, **more)
    else:
        shape = {"stride": layer.stride, "padding": layer.padding, "padding_mode": layer.padding_mode}
        pair = kind(layer.in_channels, features, 1, **shape, **more), kind(features, layer.out_channels, 1, **more)
    # Counted from the end: right for (B, n), for (B, tokens, n), and for images without a batch.
    dim = -1 if kind is None else -1 - len(layer.kernel_size)
    return _sequence(_HEAD, (pair[0], _activation(activation, features, init, dim, layer.weight), pair[1]), layer)


def _stem(layer: nn.Conv2d, features: int, init: float, activation: Callable[..., nn.Module]) -> nn.Sequential:
    weight = layer.weight
    more: dict[str, Any] = {"bias": layer.bias is not None, "device": weight.device, "dtype": weight.dtype}
    extra = nn.Conv2d(layer.in_channels, features, 3, padding=1, **more)
    conv = copy.deepcopy(layer)  # a library's own kind, such as one with another padding, stays what it is
    conv.in_channels = features
    conv.weight = nn.Parameter(weight.new_empty(layer.out_channels, features, *layer.kernel_size))
    if layer.bias is not None:
        conv.bias = nn.Parameter(torch.empty_like(layer.bias))
    conv.reset_parameters()
    return _sequence(_STEM, (extra, _activation(activation, features, init, -3, weight), conv), layer)


def _activation(make: Callable[..., nn.Module], features: int, init: float, dim: int, weight: Tensor) -> nn.Module:
    if isinstance(make, type) and issubclass(make, DReLU):
        layer: Any = make(features, init=init, dim=dim)
    elif isinstance(make, type) and issubclass(make, SReLU):
        layer = make(init)
    else:
        layer = make()
    if not isinstance(layer, nn.Module):
        raise TypeError(f"activation must make an nn.Module, got {type(layer).__name__}")
    if isinstance(layer, DReLU) and not layer.initialised:
        raise ValueError("activation must make layers of known size: give the class DReLU itself")
    # A cap near 100 would lose its updates in half precision, so caps stay float32 where the weights are narrower.
    narrow = torch.float32 if isinstance(layer, (DReLU, SReLU)) else None
    return layer.to(weight.device, torch.float64 if weight.dtype == torch.float64 else narrow)


def _sequence(keys: tuple[str, ...], layers: tuple[nn.Module, ...], old: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(zip(keys, layers, strict=True))).train(old.training)
