"""Checkpoints: files of tensors, numbers and names only, so that opening one never runs code.

A checkpoint holds what is needed to build its model again: ``mixaug evaluate`` gets by with the path.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from mixaug._checks import check_int, check_number, kind_of
from mixaug._tensor_files import part, plain, read_tensors, state_of_tensors, write_tensors
from mixaug.adautomix.checkpoint import KIND as GENERATOR
from mixaug.models import MOST_PIXELS, ModelSpec

__all__ = [
    "ModelSpec",
    "load_checkpoint",
    "read_checkpoint",
    "write_checkpoint",
]


#: Raised when the content changes so that older versions cannot read it.
FORMAT = 1
_MOST_STEPS = 10**12
_PARTS = ("format", "spec", "model", "data", "settings", "epoch", "step")


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
            _check_number(name, value)
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


def _check_number(name: str, value: Any) -> None:
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
