"""Checkpoints: files of tensors, numbers and names only, so that opening one never runs code.

A checkpoint holds what is needed to build its model again: ``mixaug evaluate`` gets by with the path.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from mixaug._checks import ABOVE_ZERO, MAX_CLASSES, check_int, check_number, kind_of
from mixaug._tensor_files import part, plain, read_tensors, state_of_tensors, write_tensors
from mixaug.adautomix.checkpoint import KIND as GENERATOR
from mixaug.train.activation import Activation

__all__ = ["ModelSpec", "load_checkpoint", "read_checkpoint", "write_checkpoint"]

#: Raised when the content changes so that older versions cannot read it.
FORMAT = 1
_MOST_STEPS = 10**12
MOST_PIXELS = 10**5
_PARTS = ("format", "spec", "model", "data", "settings", "epoch", "step")


@dataclass(frozen=True)
class ModelSpec:
    """The arguments of :func:`mixaug.train.models.build_model`, as plain values, and what is changed in its model.

    Example:
        >>> ModelSpec("lenet5", 10, 1, 28, (0.5,), (0.25,)).num_classes
        10
    """

    name: str
    num_classes: int
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    activation: Activation | None = None

    def build(self) -> nn.Module:
        """A new model with fresh weights from torch's default generator."""
        from mixaug.train.models import build_model

        side = self.image_size
        model: nn.Module = build_model(self.name, self.num_classes, self.in_channels, side, self.mean, self.std)
        return model if self.activation is None else self.activation.put_into(model, (2, self.in_channels, side, side))

    def checked(self) -> ModelSpec:
        """This specification, if its values are possible; :meth:`build` asks the model for the rest.

        Raises:
            TypeError: a value of another kind.
            ValueError: a value out of range.

        Example:
            >>> ModelSpec("lenet5", 10**12, 1, 28, (0.5,), (0.25,)).checked()
            Traceback (most recent call last):
            ValueError: num_classes must be from 2 to 10000000, got 1000000000000
        """
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {kind_of(self.name)}")
        check_int("num_classes", self.num_classes, 2, MAX_CLASSES)
        channels = check_int("in_channels", self.in_channels, 1, 10**4)
        check_int("image_size", self.image_size, 1, MOST_PIXELS)
        for name, low in (("mean", -math.inf), ("std", ABOVE_ZERO)):
            values = getattr(self, name)
            for value in values:
                check_number(name, value, low)
            if len(values) != channels:
                raise ValueError(f"{name} must have a value for each of the {channels} channels, got {len(values)}")
        if self.activation is not None:
            self.activation.checked()
        return self

    def to_dict(self) -> dict[str, Any]:
        """For JSON and checkpoints, read by :meth:`from_dict`."""
        values = {**vars(self), "mean": list(self.mean), "std": list(self.std)}
        # Left out where nothing is changed, as in checkpoints of before there was anything to change.
        more = {} if self.activation is None else {"activation": self.activation.to_dict()}
        return {name: value for name, value in values.items() if name != "activation"} | more

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSpec:
        """Reads :meth:`to_dict`."""
        plain(values)
        changed = values.get("activation")
        return cls(
            **{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])}
            | ({} if changed is None else {"activation": Activation(**changed)})
        )


def write_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all.

    Args:
        path: file; its folder is made if it is missing.
        content: tensors, numbers, strings, lists and dicts.

    Raises:
        OSError: the disk is full; the message names the file and the free space, and the file before it is kept.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "last.pt"
        >>> write_checkpoint(path, {"format": FORMAT})
        >>> path.exists()
        True
    """
    write_tensors(path, content)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint of this package, with ``weights_only=True``.

    Args:
        path: file that a run wrote (``last.pt`` or ``best.pt``).

    Returns:
        its content, tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged, of another program or of a newer version.

    Example:
        >>> read_checkpoint("/nowhere/best.pt")
        Traceback (most recent call last):
        FileNotFoundError: no checkpoint at /nowhere/best.pt
    """
    content = read_tensors(path, "checkpoint", "best.pt")
    if isinstance(content, dict) and content.get("kind") == GENERATOR:
        raise ValueError(
            f"{path} holds the generator of an adautomix run, not a model: the models are beside it, as best.pt"
        )
    if not isinstance(content, dict) or any(part not in content for part in _PARTS):
        raise ValueError(f"the checkpoint {path} was not written by mixaug: it must have {', '.join(_PARTS)}")
    stored = content["format"]
    if isinstance(stored, int) and stored != FORMAT:
        raise ValueError(f"the checkpoint {path} has format {stored}, this version of mixaug reads {FORMAT}")
    try:
        _check_content(content)
    except ValueError as error:
        raise ValueError(f"the checkpoint {path} is damaged or was not written by mixaug: {error}") from error
    return content


def _check_content(content: dict[str, Any]) -> None:
    """Raises a ValueError that names the field unless each has the kind and range that a run writes."""
    with part("format"):
        check_int("format", content["format"])
    with part("model"):
        model = state_of_tensors("model", content["model"])
    with part("spec"):
        spec = ModelSpec.from_dict(content["spec"]).checked()
        # Before a model is built: absurd numbers would allocate terabytes.
        if not any(value.shape[:1] == (spec.num_classes,) for value in model.values()):
            raise ValueError(f"num_classes must be that of the weights, got {spec.num_classes}")
    for name in ("data", "settings", "metrics", "versions"):
        with part(name):
            plain(content.get(name, {}))
    with part("data"):
        _check_data(content["data"], spec)
    with part("metrics"):
        for name, value in content.get("metrics", {}).items():
            _check_figure(name, value)
    for name in ("epoch", "step"):
        with part(name):
            check_int(name, content[name], 0, _MOST_STEPS)


def _check_data(data: dict[str, Any], spec: ModelSpec) -> None:
    for name in ("name", "root"):
        value = data.get(name)
        if not isinstance(value, str) and (name == "name" or value is not None):
            raise TypeError(f"{name} must be a string, got {kind_of(value)}")
    if "classes" in data:
        classes = data["classes"]
        if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
            raise TypeError(f"classes must be a list of names, got {kind_of(classes)}")
        if len(classes) != spec.num_classes:
            raise ValueError(f"classes must be the {spec.num_classes} of the model, got {len(classes)}")
    if data.get("image_size") is not None:
        check_int("image_size", data["image_size"], 1, MOST_PIXELS)
    if data.get("validation") is not None:
        check_number("validation", data["validation"], 0.0, 1.0)


def _check_figure(name: str, value: Any) -> None:
    # Not finite is possible: the loss of a validation part, of a model that has just broken.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {kind_of(value)}")


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a checkpoint, ready for evaluation, and what is known of it.

    Args:
        path: file that a run wrote (``last.pt`` or ``best.pt``).

    Returns:
        the model on the CPU in evaluation mode, images in ``[0, 1]`` in, logits out; and a dict with ``spec``
        (:class:`ModelSpec`), ``data`` (name, root, classes, image_size), ``settings`` (dict), ``epoch``, ``step``,
        ``metrics`` (of the last finished epoch, with ``validation_accuracy``), ``versions`` (of mixaug and torch
        that wrote it) and ``path``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or its weights do not fit its model.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> spec = ModelSpec("lenet5", 10, 1, 28, (0.5,), (0.25,))
        >>> path = Path(tempfile.mkdtemp()) / "best.pt"
        >>> write_checkpoint(path, describe_model(spec, spec.build(), data={"name": "embedded"}, settings={}))
        >>> model, info = load_checkpoint(path)
        >>> model(torch.rand(2, 1, 28, 28)).shape, info["spec"].name
        (torch.Size([2, 10]), 'lenet5')
    """
    content = read_checkpoint(path)
    try:
        spec = ModelSpec.from_dict(content["spec"])
        # Building draws weights that are overwritten at once: the caller's random numbers are left as they were.
        with torch.random.fork_rng(devices=[]):
            model = spec.build()
        model.load_state_dict(content["model"])
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"the weights of the checkpoint {path} do not fit its model: {reason}; its spec: {content['spec']}"
        ) from error
    known = {name: content[name] for name in ("data", "settings", "epoch", "step")}
    more = {name: content.get(name, {}) for name in ("metrics", "versions")}
    return model.eval(), {**known, **more, "spec": spec, "path": str(path)}


def describe_model(
    spec: ModelSpec,
    model: nn.Module,
    *,
    data: dict[str, Any],
    settings: dict[str, Any],
    epoch: int = 0,
    step: int = 0,
    metrics: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The content of a checkpoint of a model alone, as ``best.pt`` holds it.

    Args:
        spec: how the model is built.
        model: the weights; the checkpoint refers to them, it must be written before they change.
        data: what is known of the data: name, root, classes, image_size.
        settings: of the run, as a dict.
        epoch: finished epochs.
        step: finished optimiser steps.
        metrics: of the last finished epoch.

    Returns:
        plain values for :func:`write_checkpoint`.
    """
    return {
        "format": FORMAT,
        "spec": spec.to_dict(),
        # A compiled or wrapped model would prefix its names; contiguous copies make files independent of memory format.
        "model": {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()},
        "data": data,
        "settings": settings,
        "epoch": epoch,
        "step": step,
        "metrics": metrics or {},
        "versions": {"mixaug": version("mixaug"), "torch": str(torch.__version__)},
    }
