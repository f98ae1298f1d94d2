"""A trained generator as one file: its weights, the teacher whose features it reads, and the law of its mixtures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mixaug._checks import MAX_CLASSES, check_int
from mixaug._tensor_files import part, read_tensors, state_of_tensors, write_tensors
from mixaug.adautomix.mixing import MixLaw
from mixaug.adautomix.teacher import Teacher, bare_model
from mixaug.models import ModelSpec
from mixaug.nn.mix_generator import MixGenerator

__all__ = ["KIND", "SavedGenerator", "read_generator", "save_generator"]

#: Raised when the content changes so that older versions cannot read it.
FORMAT = 1
#: What tells such a file from the checkpoint of a model: the value of ``"kind"`` in it.
KIND = "adautomix-generator"
_PARTS = ("format", "generator", "channels", "teacher", "feature_layer", "num_classes", "law", "spec", "classes")


@dataclass(frozen=True)
class SavedGenerator:
    """What a generator's file holds.

    Attributes:
        generator: weights of the generator.
        channels: C of the feature maps that it reads.
        teacher: weights and buffers of the teacher, by the names of its model.
        feature_layer: of the teacher, full name.
        num_classes: K.
        law: of the draws in the training.
        spec: how the model is built; None: a model of the user's own.
        classes: names, or None.
        versions: of mixaug and torch that wrote it.
        path: of the file.
    """

    generator: dict[str, Tensor]
    channels: int
    teacher: dict[str, Tensor]
    feature_layer: str
    num_classes: int
    law: MixLaw
    spec: ModelSpec | None = None
    classes: tuple[str, ...] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    path: str = ""

    def build(self, model: nn.Module | None = None) -> tuple[MixGenerator, Teacher]:
        """The generator and its teacher, in evaluation mode, without gradients.

        Args:
            model: of the architecture that the generator was trained with; it is copied, and its own weights do not
                matter. None: built from ``spec``, on the CPU.

        Raises:
            TypeError: ``model`` is not a module.
            ValueError: the weights do not fit, or a model is needed.

        Example:
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.LazyLinear(2))
            >>> _ = model(torch.zeros(1, 1, 9, 9))
            >>> saved = SavedGenerator(MixGenerator(4).state_dict(), 4, model.state_dict(), "0", 2, MixLaw())
            >>> generator, teacher = saved.build(model)
            >>> teacher.features(torch.rand(3, 1, 9, 9)).shape
            torch.Size([3, 4, 4, 4])
        """
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module or None, got {type(model).__name__}")
        # Building draws weights that are overwritten at once: the caller's random numbers are left as they were.
        with torch.random.fork_rng(devices=[]):
            stored = next((value.dtype for value in self.generator.values() if isinstance(value, Tensor)), None)
            generator = MixGenerator(self.channels, dtype=stored)
            teacher = Teacher(self._architecture(model), self.feature_layer)
        try:
            teacher.model.load_state_dict(self.teacher)
            teacher.model.get_submodule(self.feature_layer)
            generator.load_state_dict(self.generator)
        except (RuntimeError, AttributeError) as error:
            reason = " ".join(line.strip() for line in str(error).strip().split("\n")[:2])
            raise ValueError(f"the weights of the generator {self.path} do not fit its model: {reason}") from error
        weight = next((p for p in teacher.parameters() if p.is_floating_point()), torch.empty(0, dtype=torch.float32))
        return generator.to(weight.device).requires_grad_(False).eval(), teacher

    def _architecture(self, model: nn.Module | None) -> nn.Module:
        if model is not None:
            return bare_model(model)
        if self.spec is not None:
            try:
                return self.spec.build()
            except ValueError as error:
                raise ValueError(f"the generator {self.path} is damaged, its spec has no model: {error}") from error
        raise ValueError(
            f"model must be given: the generator {self.path} was trained with a model of the user's own (features of "
            f"{self.feature_layer!r}, {self.num_classes} classes)"
        )


class Mixer(Protocol):
    """What is saved of an :class:`mixaug.AdAutoMix`."""

    generator: MixGenerator
    teacher: Teacher
    feature_layer: str
    num_classes: int
    law: MixLaw


def save_generator(
    path: str | os.PathLike[str],
    mixer: Mixer,
    *,
    spec: ModelSpec | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Writes a trained generator, with the teacher whose features it reads, whole or not at all.

    Args:
        path: file; its folder is made if it is missing.
        mixer: that trained it.
        spec: how to build the model; None: whoever reads the file hands the model over.
        classes: names of the classes.

    Raises:
        TypeError: an argument of another kind, or a model whose state is more than tensors.
        ValueError: ``spec`` or ``classes`` are for another number of classes.

    Example:
        >>> import tempfile
        >>> from mixaug import AdAutoMix
        >>> from mixaug.models import build_model
        >>> path = Path(tempfile.mkdtemp()) / "generator.pt"
        >>> save_generator(path, AdAutoMix(build_model("resnet-small", 10), 10, n_mix=2))
        >>> read_generator(path).law.n_mix
        2
    """
    if not isinstance(getattr(mixer, "generator", None), MixGenerator):
        raise TypeError(f"mixer must be an AdAutoMix, got {type(mixer).__name__}")
    if spec is not None and not isinstance(spec, ModelSpec):
        raise TypeError(f"spec must be a ModelSpec or None, got {type(spec).__name__}")
    if spec is not None and spec.num_classes != mixer.num_classes:
        raise ValueError(f"spec must be of the mixer's {mixer.num_classes} classes, got {spec.num_classes}")
    content = {
        "format": FORMAT,
        "kind": KIND,
        "generator": _state(mixer.generator, "generator"),
        "channels": mixer.generator.channels,
        "teacher": _state(mixer.teacher.model, "teacher"),
        "feature_layer": mixer.feature_layer,
        "num_classes": mixer.num_classes,
        "law": dataclasses.asdict(mixer.law),
        "spec": None if spec is None else spec.to_dict(),
        "classes": _names(classes, mixer.num_classes),
        "versions": {"mixaug": version("mixaug"), "torch": str(torch.__version__)},
    }
    write_tensors(path, content)


def read_generator(path: str | os.PathLike[str]) -> SavedGenerator:
    """Reads what :func:`save_generator` wrote, with ``weights_only=True``.

    Args:
        path: the file, ``generator.pt`` of a run.

    Returns:
        its content, tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged, of a model, of another program or of a newer version.

    Example:
        >>> read_generator("/nowhere/generator.pt")
        Traceback (most recent call last):
        FileNotFoundError: no generator at /nowhere/generator.pt
    """
    content = read_tensors(path, "generator", "generator.pt")
    if not isinstance(content, dict):
        content = {}
    if "model" in content and "kind" not in content:
        raise ValueError(
            f"{path} is the checkpoint of a model: the generator of a run with adautomix is in "
            f"{Path(path).with_name('generator.pt')} beside it"
        )
    newer = content.get("format")
    if content.get("kind") == KIND and isinstance(newer, int) and newer != FORMAT:
        raise ValueError(f"the generator {path} has format {newer}, this version of mixaug reads {FORMAT}")
    if content.get("kind") != KIND or any(part not in content for part in _PARTS):
        raise ValueError(f"the generator {path} was not written by mixaug: it must have kind, {', '.join(_PARTS)}")
    try:
        return _parse(content, str(path))
    except ValueError as error:
        raise ValueError(f"the generator {path} is damaged or was not written by mixaug: {error}") from error


def _parse(content: dict[str, Any], path: str) -> SavedGenerator:
    spec, classes, versions = content["spec"], content["classes"], content.get("versions", {})
    with part("format"):
        check_int("format", content["format"])
    for name in ("generator", "teacher"):
        with part(name):
            state_of_tensors(name, content[name])
    with part("channels"):
        check_int("channels", content["channels"], 1, 10**5)
    with part("num_classes"):
        count = check_int("num_classes", content["num_classes"], 2, MAX_CLASSES)
    with part("feature_layer"):
        if not isinstance(content["feature_layer"], str):
            raise TypeError(f"it must be a name, got {type(content['feature_layer']).__name__}")
    with part("law"):
        law = MixLaw(**content["law"])
    with part("spec"):
        built = None if spec is None else ModelSpec.from_dict(spec).checked()
        if built is not None and built.num_classes != count:
            raise ValueError(f"it must be of {count} classes, got {built.num_classes}")
    with part("classes"):
        if classes is not None and not isinstance(classes, list | tuple):
            raise TypeError(f"classes must be names, got {type(classes).__name__}")
        names = _names(classes, count)
    with part("versions"):
        if not isinstance(versions, dict):
            raise TypeError(f"it must be names with versions, got {type(versions).__name__}")
    return SavedGenerator(
        **{name: content[name] for name in ("generator", "channels", "teacher", "feature_layer", "num_classes")},
        law=law,
        spec=built,
        classes=None if names is None else tuple(names),
        versions=versions,
        path=path,
    )


def _state(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Contiguous copies on the CPU: a file does not depend on the device or the memory format."""
    found = {}
    for key, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must have a state of tensors to be saved, got {type(value).__name__} at {key!r}")
        found[key] = value.detach().cpu().contiguous()
    return found


def _names(classes: Sequence[str] | None, count: int) -> list[str] | None:
    if classes is None:
        return None
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise TypeError(f"classes must be names, got {classes!r}")
    if len(classes) != count:
        raise ValueError(f"classes must be {count} names, one for each class, got {len(classes)}")
    return list(classes)
