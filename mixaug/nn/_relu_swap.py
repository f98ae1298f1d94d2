"""Puts layers at the call sites of a model, and takes them out again if something goes wrong."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from mixaug.nn._relu_report import ReLUSite
from mixaug.nn._relu_sites import ReLUSites, take_over
from mixaug.nn._rewrite import Edit, edits_of, original_class, rewritten
from mixaug.nn.activations import DReLU, SReLU

__all__ = ["Group", "Swap"]


@dataclass
class Group:
    """Sites whose layers are put in together.

    Args:
        owner: name of the module that holds them.
        attribute: of the owner: the ReLU, or what holds one layer a site.
        sites: with the name of the site's layer in that container, None for the ReLU itself.
        edits: of source, each with the name of the module that it belongs to; what the container needs to be used.
        fresh: whether the container is to be made.
        six: of the ReLU that was there, for the container.
        inplace: of the same.
    """

    owner: str
    attribute: str
    sites: list[tuple[str | None, ReLUSite]] = field(default_factory=list)
    edits: list[tuple[str, Edit]] = field(default_factory=list)
    fresh: bool = False
    six: bool = False
    inplace: bool = False


class Swap:
    """The changes of one call, which can be taken back.

    Args:
        model: to change.
        groups: its sites.
    """

    def __init__(self, model: nn.Module, groups: list[Group]) -> None:
        self._groups = groups
        self._modules = dict(model.named_modules())
        self._model = model
        self._before: list[tuple[nn.Module, type[nn.Module], dict[str, Any], Any]] = []

    def apply(self, layers: dict[str, nn.Module]) -> None:
        """Puts the layers in.

        Args:
            layers: by the names of their sites.
        """
        edits: dict[str, set[Edit]] = {}
        for group in self._groups:
            if any(site.name in layers for _, site in group.sites):
                self._group(group, layers)
                for owner, edit in group.edits:
                    edits.setdefault(owner, set()).add(edit)
        for name, more in edits.items():
            module = self._modules[name]
            self._note(module)
            module.__class__ = rewritten(original_class(module), edits_of(module) | more)

    def undo(self) -> None:
        """Makes the model what it was."""
        for module, kind, children, flag in reversed(self._before):
            module.__class__ = kind
            module._modules.clear()
            module._modules.update(children)
            if flag is not None:
                module.activation_relu_or_gelu = flag

    def _note(self, module: nn.Module) -> None:
        flag = getattr(module, "activation_relu_or_gelu", None)
        self._before.append((module, type(module), dict(module._modules), flag))

    def _group(self, group: Group, layers: dict[str, nn.Module]) -> None:
        owner = self._modules[group.owner]
        self._note(owner)
        before = owner._modules.get(group.attribute)
        where = _device_and_dtype(owner, self._model)
        new: dict[str | None, nn.Module] = {}
        for key, site in group.sites:
            layer = layers.get(site.name)
            if layer is None:
                layer = nn.ReLU6(site.inplace) if site.six else nn.ReLU(site.inplace)
            elif isinstance(layer, (DReLU, SReLU)):
                layer.site = site.name
                layer.to(**where)
            if group.fresh or site.name in layers:
                new[key] = layer
        if None in new:
            owner._modules[group.attribute] = take_over(new[None], cast(nn.Module, before))
        elif group.fresh:
            sites = ReLUSites(group.six, group.inplace)
            for key, layer in new.items():
                sites[str(key)] = layer.train(owner.training) if before is None else take_over(layer, before)
            sites.train(owner.training)
            owner._modules[group.attribute] = sites
        else:
            sites = cast(ReLUSites, before)
            self._note(sites)
            for key, layer in new.items():
                sites._modules[str(key)] = take_over(layer, sites[str(key)])
        if getattr(owner, "activation_relu_or_gelu", 0):
            owner.activation_relu_or_gelu = 0  # or TransformerEncoderLayer calls a kernel with a ReLU of its own


def _device_and_dtype(owner: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Where a cap of the owner belongs; it is float32 beside half precision too."""
    values = itertools.chain(owner.parameters(), owner.buffers(), model.parameters(), model.buffers())
    first = next((value for value in values if value.is_floating_point()), None)
    if first is None:
        return {}
    return {"device": first.device, "dtype": torch.float64 if first.dtype == torch.float64 else torch.float32}
