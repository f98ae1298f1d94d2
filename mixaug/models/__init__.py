"""Models by name, and the plain values that one is built from again."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from mixaug._checks import ABOVE_ZERO, MAX_BATCH, MAX_CLASSES, MAX_SIDE, check_int, check_number, kind_of
from mixaug._model_state import float32_default
from mixaug._tensor_files import plain
from mixaug.models.activation import Activation
from mixaug.models.networks import LeNet5, ResidualNet, ResNeXt, WideResNet

__all__ = [
    "MODELS",
    "ModelSpec",
    "Normalize",
    "build_model",
    "torchvision_models",
]

#: Side of images at most.
MOST_PIXELS = 10**5


_TIMM = "timm:"

# name -> (num_classes, in_channels, image_size) -> network on normalised images
_OWN: dict[str, Callable[[int, int, int], nn.Module]] = {
    "lenet5": lambda classes, channels, side: LeNet5(classes, channels, side),
    # One block a stage and thin early stages: most of the time of a CPU goes into full resolution. 309,000 parameters.
    "resnet-small": lambda classes, channels, side: ResidualNet(classes, channels, (16, 32, 64, 128), blocks=1),
    "resnet18-cifar": lambda classes, channels, side: ResidualNet(classes, channels, (64, 128, 256, 512), blocks=2),
    "wrn-40-4": lambda classes, channels, side: WideResNet(classes, channels, depth=40, width=4),
    "wrn-28-10": lambda classes, channels, side: WideResNet(classes, channels, depth=28, width=10),
    "resnext29": lambda classes, channels, side: ResNeXt(classes, channels),
}
MODELS = tuple(_OWN)


class Normalize(nn.Module):
    """Normalisation of images in [0, 1] as a layer: ``(image - mean) / std`` per channel.

    Convention: as the first layer of every model of this package it lets augmentations, attacks and corruptions work in
    pixel space, where their strengths are defined. Mean and standard deviation are buffers: they move and are saved
    with the model and are no parameters. ``repeat`` turns a grey image into equal channels after normalising, for
    networks that take three.

    Args:
        mean: mean of each channel, in [0, 1].
        std: standard deviation of each channel, > 0.
        repeat: how often a single channel is repeated; default 1.

    Shape: (B, C, H, W) floating, C the number of means -> (B, C * repeat, H, W), the same dtype.

    Raises:
        ValueError: the lengths differ, a standard deviation is not positive, ``repeat`` with several channels, or at
            the call an image of another number of channels.
        TypeError: at the call, an image that is not floating.

    Example:
        >>> layer = Normalize([0.5], [0.25])
        >>> layer(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], repeat: int = 1) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean and std must have one value per channel each, got {len(mean)} and {len(std)}")
        if not len(mean):
            raise ValueError("mean must have at least one value, got none")
        if min(std) <= 0:
            raise ValueError(f"std must be greater than 0, got {list(std)}")
        if repeat < 1 or (repeat > 1 and len(mean) != 1):
            raise ValueError(f"repeat must be 1, or more for a single channel; got {repeat} for {len(mean)} channels")
        self.repeat = repeat
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The normalised images, a new tensor."""
        if not images.is_floating_point():
            raise TypeError(f"images must be floating in [0, 1], got {images.dtype}; divide 8-bit images by 255")
        channels = self.mean.shape[1]
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images must have the shape (B, {channels}, H, W), got {tuple(images.shape)}")
        normalised = (images - self.mean.to(images.dtype)) / self.std.to(images.dtype)
        return normalised.repeat(1, self.repeat, 1, 1) if self.repeat > 1 else normalised

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        mean, std = ([round(value, 4) for value in buffer.flatten().tolist()] for buffer in (self.mean, self.std))
        return f"mean={mean}, std={std}, repeat={self.repeat}"


def torchvision_models() -> tuple[str, ...]:
    """Names of torchvision's image classifiers, such as "resnet50", "convnext_tiny", "vit_b_16"."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


@float32_default()
def build_model(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """A new classifier with random weights that takes images in [0, 1] and normalises them itself.

    Convention: the result is ``nn.Sequential(Normalize, network)``. Of our own networks the first convolution has
    ``in_channels`` channels. torchvision's take three, so grey images are normalised and then repeated to three
    channels; timm builds its first layer for ``in_channels``. Weights come from torch's global random state: call
    ``torch.manual_seed`` first.

    Args:
        name: one of ``MODELS``; a torchvision classifier (``torchvision_models()``), whose output layer has
            ``num_classes`` logits and which has no auxiliary heads; or "timm:NAME" where timm is installed.
        num_classes: number of logits, at least 2.
        in_channels: channels of the images, default 3. torchvision's networks: 1 or 3.
        image_size: side of the square images in pixels, default 32. LeNet-5 and transformers are built for it; every
            network is checked to take it.
        mean: mean of each channel of the training images in [0, 1]; default 0.5.
        std: standard deviation of each channel; default 0.5.

    Shape: images (B, in_channels, image_size, image_size) float in [0, 1] -> logits (B, num_classes). Networks with
        global pooling take other sizes too.

    Returns:
        nn.Sequential: the model, in training mode, on the current default device (``with torch.device("meta")`` builds
        without memory).

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown name (the message has the close ones), a number out of range, or a network that cannot
            take images of this size.
        ImportError: a timm name where timm is not installed; the message says what to type.

    Note:
        Dropout and stochastic depth are the library's defaults. Pre-trained weights are not loaded here. Weights are
        float32 whatever torch's default dtype is; ``.to(dtype)`` makes them something else.

    Example:
        >>> model = build_model("resnet-small", num_classes=10, in_channels=1, image_size=28, mean=[0.29], std=[0.35])
        >>> model(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    num_classes = check_int("num_classes", num_classes, 2, MAX_BATCH)
    in_channels = check_int("in_channels", in_channels, 1, MAX_SIDE)
    image_size = check_int("image_size", image_size, 1, MAX_SIDE)
    mean = [0.5] * in_channels if mean is None else list(mean)
    std = [0.5] * in_channels if std is None else list(std)
    if len(mean) != in_channels:
        raise ValueError(f"mean must have one value per channel, {in_channels}; got {len(mean)}")
    repeat = 1
    if name in _OWN:
        network = _OWN[name](num_classes, in_channels, image_size)
    elif name.startswith(_TIMM):
        network = _timm_network(name.removeprefix(_TIMM), num_classes, in_channels, image_size)
    elif name in torchvision_models():
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 or 3 for torchvision's {name}, got {in_channels}")
        repeat = 3 // in_channels
        network = _torchvision_network(name, num_classes, image_size)
    else:
        raise ValueError(_unknown(name))
    model = nn.Sequential(Normalize(mean, std, repeat), network)
    _check_image_size(model, name, (1, in_channels, image_size, image_size))
    return model


def _torchvision_network(name: str, num_classes: int, image_size: int) -> nn.Module:
    options: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        # One tensor of logits also in training mode; and the papers' initialisation (unset, it warns).
        options |= {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    try:
        return torchvision.models.get_model(name, **options)
    except (AssertionError, ValueError) as error:  # transformers refuse sizes that their patches do not divide
        raise ValueError(f"{name} cannot be built for images of {image_size}x{image_size} pixels: {error}") from error


def _timm_network(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm's own deprecations are nothing the caller can act on
            import timm
    except ImportError as error:
        raise ImportError(f"the model 'timm:{name}' needs timm: pip install 'mixaug[timm]'") from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5)
        hint = f"did you mean {', '.join(_TIMM + match for match in close)}?" if close else "see timm.list_models()"
        raise ValueError(f"name must be a timm model after 'timm:', got {name!r}; {hint}")
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels}
    try:
        return timm.create_model(name, img_size=image_size, **options)
    except TypeError:  # convolutional networks have no img_size: they take any
        return timm.create_model(name, **options)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"timm:{name} cannot be built for images of {image_size}x{image_size} pixels: {error}"
        ) from error


def _unknown(name: str) -> str:
    known = [*MODELS, *torchvision_models()]
    close = difflib.get_close_matches(name, known, n=3)
    # difflib weighs case and separators as heavily as letters; "ResNet 18" should still find resnet18.
    plain = {"".join(filter(str.isalnum, candidate.lower())): candidate for candidate in reversed(known)}
    close += [
        plain[match]
        for match in difflib.get_close_matches("".join(filter(str.isalnum, name.lower())), list(plain), n=3)
        if plain[match] not in close
    ]
    hint = f"did you mean {' or '.join(close[:3])}? " if close else ""
    return (
        f"name must be a known model, got {name!r}; {hint}Ours: {', '.join(MODELS)}. "
        f"torchvision: {', '.join(torchvision_models())}. With timm: timm:NAME"
    )


def _check_image_size(model: nn.Module, name: str, shape: tuple[int, int, int, int]) -> None:
    """One pass without data or memory: a network that cannot take the images fails here, not in the first step."""
    state = {key: torch.empty_like(value, device="meta") for key, value in model.state_dict(keep_vars=True).items()}
    state |= {key: torch.empty_like(value, device="meta") for key, value in model.named_buffers()}
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            torch.func.functional_call(model, state, (torch.empty(shape, dtype=torch.float32, device="meta"),))
    except NotImplementedError:  # an operation without a shape rule says nothing about the size
        return
    except (RuntimeError, ValueError, AssertionError) as error:
        side = shape[-1]
        raise ValueError(f"{name} cannot take images of {side}x{side} pixels: {error}") from error
    finally:
        model.train(training)


@dataclass(frozen=True)
class ModelSpec:
    """The arguments of :func:`mixaug.models.build_model`, as plain values, and what is changed in its model.

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
