"""Layers of a classifier whose output is a map of places: by name, by default, and brought to ``(B, C, h, w)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixaug.nn.trace import look_at

__all__ = ["as_map", "default_layer", "map_layers", "resolve_layer"]

#: Tokens before those of the places: of the class, of distillation, registers. No model known to us has more.
_MOST_PREFIX_TOKENS = 8
#: Strides of height and width may differ by rounding, not by more.
_MOST_MISMATCH = math.log(1.5)
_IMAGE_CHANNELS = 4
_LISTED = 24


def as_map(output: Any, size: tuple[int, int]) -> Tensor:
    """The output of a layer as a map of places.

    Convention:
        A map has more than one place, and about the same stride in height and width. ``(B, C, h, w)`` is kept;
        ``(B, h, w, C)``, as in Swin, is turned (of the two, the one whose strides agree better); tokens ``(B, L, C)``,
        as in ViT, are laid out in rows after leaving out those before the first place (of the class, registers).

    Args:
        output: of a layer.
        size: ``(H, W)`` of the images, in pixels.

    Shape:
        (B, C, h, w), a view of the output where that is possible.

    Raises:
        TypeError: the output is not a tensor.
        ValueError: it is no map of places for images of this size.

    Example:
        >>> as_map(torch.zeros(2, 197, 384), (224, 224)).shape, as_map(torch.zeros(2, 7, 7, 96), (224, 224)).shape
        (torch.Size([2, 384, 14, 14]), torch.Size([2, 96, 7, 7]))
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"the output of the layer must be a tensor, got {type(output).__name__}")
    if output.ndim == 4:
        _, first, second, third = output.shape
        kept, turned = _mismatch((second, third), size), _mismatch((first, second), size)
        if kept <= min(turned, _MOST_MISMATCH):
            return output
        if turned <= _MOST_MISMATCH:
            return output.permute(0, 3, 1, 2)
    elif output.ndim == 3:
        grid = _grid(output.shape[1], size)
        if grid is not None:
            tokens = output[:, output.shape[1] - grid[0] * grid[1] :]
            return tokens.transpose(1, 2).unflatten(2, grid)
    raise ValueError(
        f"the output of the layer must be a map of places (B, C, h, w), (B, h, w, C) or tokens (B, L, C) of images of "
        f"{size[0]}x{size[1]} pixels, with more than one place, got shape {tuple(output.shape)}"
    )


def _mismatch(grid: tuple[int, int], size: tuple[int, int]) -> float:
    """How far the strides of height and width are apart; infinite for what is no map of such images."""
    (h, w), (height, width) = grid, size
    if not (1 <= h <= height and 1 <= w <= width) or h * w < 2:
        return math.inf
    return abs(math.log(height * w / (h * width)))


def _grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of so many tokens of square patches, the one with the fewest tokens before them."""
    found = []
    for patch in range(1, min(size) + 1):
        h, w = size[0] // patch, size[1] // patch
        if h * w > 1 and 0 <= tokens - h * w <= _MOST_PREFIX_TOKENS:
            found.append((tokens - h * w, (h, w)))
    return min(found)[1] if found else None


def map_layers(model: nn.Module, example_input: Tensor | None = None) -> dict[str, tuple[int, int, int]]:
    """The layers of a model whose output is a map of places, in the order in which they end.

    Convention: found by one pass of a copy on the meta device; the model itself is never called.

    Args:
        model: a classifier of images.
        example_input: a batch of images that it takes; None: guessed, the usual sizes first.

    Returns:
        name to ``(C, h, w)`` for the images of that pass; a layer that runs several times counts with its last run.

    Raises:
        TypeError, ValueError: the model cannot be copied, or does not take the images.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
        >>> _ = model(torch.zeros(1, 3, 32, 32))
        >>> map_layers(model, torch.zeros(2, 3, 32, 32))
        {'0': (8, 16, 16), '1': (8, 16, 16)}
    """

    def look(copy: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, tuple[int, int, int]]:
        found: dict[str, tuple[int, int, int]] = {}
        size = (inputs[0].shape[-2], inputs[0].shape[-1])

        def note(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                found.pop(name, None)
                try:
                    seen = as_map(output, size)
                except (TypeError, ValueError):
                    return
                found[name] = (seen.shape[1], seen.shape[2], seen.shape[3])

            return hook

        for name, module in copy.named_modules():
            if name:
                module.register_forward_hook(note(name))
        with torch.no_grad():
            copy(*inputs)
        return found

    return look_at(model, example_input, look)


def default_layer(layers: dict[str, tuple[int, int, int]]) -> str:
    """The layer that a paper would call the third stage.

    Convention:
        With four resolutions or more, the last layer of the second coarsest one (ResNet's ``layer3``); with two or
        three, of the coarsest; where all have one (ViT), the one three quarters down the list of blocks: numbered
        layers side by side. Of layers within each other the outermost. A map of 4 channels or fewer counts only where
        there is no other: it is an image, such as one that a first layer normalises.

    Args:
        layers: of :func:`map_layers`.

    Raises:
        ValueError: there are none.

    Example:
        >>> default_layer({"stem": (8, 32, 32), "1": (8, 32, 32), "2": (16, 16, 16), "3": (32, 8, 8), "4": (64, 4, 4)})
        '3'
    """
    if not layers:
        raise ValueError("model must have a layer whose output is a map of places, got none")
    layers = {name: shape for name, shape in layers.items() if shape[0] > _IMAGE_CHANNELS} or layers
    places = sorted({h * w for _, h, w in layers.values()}, reverse=True)
    if len(places) == 1:
        blocks = _blocks(list(layers))
        return blocks[math.ceil(0.75 * len(blocks)) - 1]
    wanted = places[-2] if len(places) >= 4 else places[-1]
    names = [name for name, (_, h, w) in layers.items() if h * w == wanted]
    depth = min(name.count(".") for name in names)
    return [name for name in names if name.count(".") == depth][-1]


def _blocks(names: list[str]) -> list[str]:
    """The longest of the outermost lists of numbered layers; without one, all that are outermost."""
    lists: dict[str, list[str]] = {}
    for name in names:
        if name[-1].isdigit():
            lists.setdefault(name.rpartition(".")[0], []).append(name)
    found = [listed for listed in lists.values() if len(listed) > 1] or [names]
    depth = min(name.count(".") for listed in found for name in listed)
    return max(([name for name in listed if name.count(".") == depth] for listed in found), key=len)


def resolve_layer(model: nn.Module, name: str) -> str:
    """The full name of a layer.

    Args:
        model: that has it.
        name: as in ``model.named_modules()``, or the end of one such name alone, such as ``"layer3"`` for
            ``"1.layer3"``.

    Raises:
        TypeError: the name is not a string.
        ValueError: no layer, or more than one, has this name; the message lists those that there are.

    Example:
        >>> resolve_layer(nn.Sequential(nn.Sequential(nn.ReLU())), "0.0")
        '0.0'
    """
    if not isinstance(name, str):
        raise TypeError(f"feature_layer must be the name of a layer, got {type(name).__name__}")
    names = [known for known, _ in model.named_modules() if known]
    if name in names:
        return name
    ends = [known for known in names if known.endswith(f".{name}")] if name else []
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ValueError(f"feature_layer must be the name of one layer, got {name!r}, which may be {_listed(ends)}")
    raise ValueError(
        f"feature_layer must be the name of a layer of the model: {_candidates(model, names)}, got {name!r}"
    )


def _candidates(model: nn.Module, names: list[str]) -> str:
    """The layers with a map of places; where the model cannot be looked at, all."""
    try:
        known = list(map_layers(model))
    except (TypeError, ValueError):
        known = names
    return _listed(sorted(known or names, key=lambda name: name.count(".")))


def _listed(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
