"""The layers of a classifier that give its logits: found by one pass of a copy, and other layers put in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from mixaug.nn._trace import look_at

__all__ = ["CONVOLUTIONS", "calls_of", "new_output_layer", "output_layers", "put_layers"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def output_layers(model: nn.Module, example_input: Any) -> dict[str, nn.Module]:
    """The layers that give the logits, by name: one, or two of a distilled model.

    Convention: the last layer with weights on the way to the outputs, found by a pass of a copy on the meta device.
    Heads that run in training only are none.

    Args:
        model: checked by :func:`mixaug.nn._trace.check_plain`.
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
