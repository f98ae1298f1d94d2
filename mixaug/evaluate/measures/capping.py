"""What the caps of D-ReLU do on some images: how large they are, what they cap, where no gradient is left."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixaug._checks import MAX_COUNT, check_int
from mixaug._model_state import bare, check_batch, check_class_range, check_logits, check_model, evaluation_mode
from mixaug._pictures import as_float
from mixaug.attacks.steps import CUT_OFF
from mixaug.evaluate.intervals import Estimate, share
from mixaug.evaluate.subject import home_of
from mixaug.nn.activations import DReLU
from mixaug.nn.caps import caps
from mixaug.ops.capped_relu import broadcast_cap

__all__ = ["CapFigures", "cap_figures", "zero_gradient_share", "zero_gradients"]

LEVELS = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class CapFigures:
    """The state of a model's D-ReLU layers, measured on some images.

    Args:
        quantiles: the 0%, 10%, 50%, 90% and 100% quantiles of all caps ``m`` of the model.
        capped_share: share of the activations of all images at or above their cap; 0 if no D-ReLU layer ran.
        capped_units: share of the caps that an activation of at least one image reaches.
        zero_gradient_share: share of the images whose input gradient is zero in every pixel.
        n: number of images.

    Example:
        >>> str(CapFigures((0.5, 1.0, 2.0, 3.0, 4.0), 0.25, 0.75, 0.1, 500))
        'm 0.5 to 4 (median 2), 25.0% of activations and 75.0% of units capped, no gradient on 10.0% of 500 images'
    """

    quantiles: tuple[float, ...]
    capped_share: float
    capped_units: float
    zero_gradient_share: float
    n: int

    def __str__(self) -> str:
        low, _, median, _, high = self.quantiles
        return (
            f"m {low:.3g} to {high:.3g} (median {median:.3g}), {100 * self.capped_share:.1f}% of activations and "
            f"{100 * self.capped_units:.1f}% of units capped, no gradient on "
            f"{100 * self.zero_gradient_share:.1f}% of {self.n} images"
        )


def zero_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images have an input gradient of the cross-entropy that is zero in every pixel.

    A gradient that is exactly zero everywhere is the textbook sign of gradient masking (Athalye, Carlini, Wagner,
    "Obfuscated gradients give a false sense of security", ICML 2018): attacks that follow gradients stand still there.

    Convention:
        The model runs once, in evaluation mode, and is left as it was: its modes, gradients and buffers.

    Args:
        model: gives logits (B, K).
        images: a batch.
        labels: their classes, or probabilities.

    Shape:
        images: (B, C, H, W) floating point in [0, 1], or uint8, which is divided by 255; labels: (B,) int64, or (B, K)
        probabilities; result: (B,) bool on the device of the images.

    Returns:
        True where no pixel has a gradient.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a wrong shape, a label that is no class; logits that are cut off from the images in the graph.
        FloatingPointError: logits or gradients that are not finite.

    Note:
        A network without capped units has such images too: those of which it is so sure that the softmax rounds to 0
        and 1, and those that no unit responds to. A loss of logit differences tells the first kind apart.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), DReLU(3, init=1e-6))
        >>> zero_gradients(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1])).tolist()
        [True, True]
    """
    images = _checked(model, images, labels)
    if len(images) == 0:
        return torch.empty(0, dtype=torch.bool, device=images.device)
    home = home_of(model)
    with evaluation_mode(model), torch.inference_mode(False), torch.enable_grad():
        points = images.detach().to(home, copy=True).requires_grad_()
        logits = check_logits(bare(model)(points), len(points))
        check_class_range("labels", labels, logits.shape[1])
        wide = logits if logits.dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(wide, labels.to(home), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, points, allow_unused=True) if loss.requires_grad else (None,)
        if gradient is None:
            raise ValueError(CUT_OFF)
    if not bool(logits.isfinite().all() & gradient.isfinite().all()):
        raise FloatingPointError("the model's logits or their gradient at the images were not finite")
    return (gradient == 0).flatten(1).all(1).to(images.device)


def zero_gradient_share(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> Estimate:
    """The share of the images whose input gradient of the cross-entropy is zero in every pixel.

    Convention:
        See :func:`zero_gradients`.

    Args:
        model: gives logits (B, K).
        images: any number, at least 1.
        labels: their classes, or probabilities.
        batch_size: images in one pass of the model, default 256.

    Shape:
        as :func:`zero_gradients`.

    Returns:
        the share with Wilson's 95% interval.

    Raises:
        TypeError, ValueError, FloatingPointError: as :func:`zero_gradients`; ValueError also without images.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> zero_gradient_share(model, torch.rand(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64)).value
        0.0
    """
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    images = _checked(model, images, labels)
    if len(images) == 0:
        raise ValueError("images must be 1 or more, got 0")
    pieces = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return share(torch.cat([zero_gradients(model, batch, classes) for batch, classes in pieces]))


def cap_figures(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> CapFigures | None:
    """How large the caps of a model are, what they cap on some images, and on how many no gradient is left.

    Convention:
        One forward and one backward pass in evaluation mode; the model is left as it was. An activation is capped where
        the pre-activation is at least ``max(m, 0)``, in the dtype of the pre-activation, as D-ReLU compares them. A
        layer that is called several times counts with all its calls.

    Args:
        model: gives logits (B, K).
        images: any number, at least 1.
        labels: their classes, or probabilities.
        batch_size: images in one pass of the model, default 256.

    Shape:
        as :func:`zero_gradients`.

    Returns:
        the figures; None for a model without D-ReLU layers.

    Raises:
        TypeError, ValueError, FloatingPointError: as :func:`zero_gradient_share`; ValueError also for a D-ReLU layer
            whose size is not known yet.

    Note:
        A compiled model runs uncompiled here, since a compiled one does not call hooks that it has not seen.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), DReLU(4, init=0.5), nn.Linear(4, 3))
        >>> images = torch.tensor([0.1, 0.2, 0.7, 0.9]).reshape(1, 1, 2, 2)
        >>> figures = cap_figures(model, images, torch.tensor([0]))
        >>> figures.capped_share, figures.capped_units, figures.zero_gradient_share, figures.n
        (0.5, 0.5, 0.0, 1)
    """
    check_model(model)
    layers = [layer for _, layer in caps(model)]
    if not layers:
        return None
    for name, layer in caps(model):
        if not layer.initialised:
            raise ValueError(f"model must have been called once: the D-ReLU layer {name or 'itself'} has no size yet")
    counters = {id(layer.max_value): _Counter(layer.max_value) for layer in layers}

    def count(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found = cast(DReLU, layer)
        counters[id(found.max_value)].note(found, args[0] if args else kwargs["x"])

    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it would take seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(count, with_kwargs=True).remove)
        zero = zero_gradient_share(model, images, labels, batch_size=batch_size)
    values = torch.cat([counter.values for counter in counters.values()])
    seen = sum(counter.seen for counter in counters.values())
    capped = sum(int(counter.capped.sum()) for counter in counters.values())
    reached = sum(int((counter.capped > 0).sum()) for counter in counters.values())
    return CapFigures(
        quantiles=tuple(_quantiles(values)),
        capped_share=capped / seen if seen else 0.0,
        capped_units=reached / len(values),
        zero_gradient_share=zero.value,
        n=zero.n,
    )


class _Counter:
    """How often the activations of one parameter's caps were seen and capped."""

    def __init__(self, max_value: Tensor) -> None:
        self.values = max_value.detach().flatten().double().cpu()
        self.seen = 0
        self.capped = torch.zeros(max_value.shape, dtype=torch.int64, device=max_value.device)

    @torch.no_grad()
    def note(self, layer: DReLU, x: Tensor) -> None:
        capped = x >= broadcast_cap(layer.max_value, x.ndim, layer.dim).relu().to(x.dtype)
        self.seen += x.numel()
        start, kept = layer.dim % x.ndim, self.capped.ndim
        whole = self.capped.numel() == 1
        others = [dim for dim in range(x.ndim) if whole or not start <= dim < start + kept]
        self.capped = self.capped + (capped.sum(others).reshape(self.capped.shape) if others else capped)


def _checked(model: Any, images: Any, labels: Any) -> Tensor:
    """The images as floats, if they and the labels are what an attack takes."""
    images = as_float(images) if isinstance(images, Tensor) else images
    return check_batch(model, images, labels)


def _quantiles(values: Tensor) -> list[float]:
    """By sorting: ``torch.quantile`` takes 16 million values at most."""
    ordered = values.sort().values
    place = torch.tensor(LEVELS, dtype=torch.float64) * (len(ordered) - 1)
    low = place.floor().long()
    below, above = ordered[low], ordered[(low + 1).clamp(max=len(ordered) - 1)]
    return torch.lerp(below, above, place - low).tolist()  # type: ignore[no-any-return]
