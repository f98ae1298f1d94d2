"""What training does with the caps of D-ReLU: their penalty, its proximal step, their own group, a start from data."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mixaug._checks import MAX_COUNT, check_int, check_number, check_tensor
from mixaug._model_state import (
    bare,
    check_batch,
    check_class_range,
    check_logits,
    check_model,
    evaluation_mode,
    home_of,
)
from mixaug._pictures import as_float
from mixaug.attacks.steps import CUT_OFF
from mixaug.nn.activations import DReLU
from mixaug.ops.capped_relu import broadcast_cap

__all__ = [
    "CapFigures",
    "cap_figures",
    "caps",
    "drelu_penalty",
    "param_groups",
    "set_caps",
    "shrink_caps",
    "zero_gradients",
]


def caps(model: nn.Module) -> Iterator[tuple[str, DReLU]]:
    """The D-ReLU layers of a model with their names, each once.

    Args:
        model: any module.

    Example:
        >>> [name for name, _ in caps(nn.Sequential(nn.Linear(2, 3), DReLU(3)))]
        ['1']
    """
    for name, module in model.named_modules():
        if isinstance(module, DReLU):
            yield name, module


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    found = {id(layer.max_value): layer.max_value for _, layer in caps(model)}
    if not found:
        raise ValueError("model must have D-ReLU layers, got none: use replace_relu or add_drelu_head first")
    for name, layer in caps(model):
        if not layer.initialised:
            raise ValueError(f"model must have been called once: the D-ReLU layer {name or 'itself'} has no size yet")
    return list(found.values())


def drelu_penalty(model: nn.Module) -> Tensor:
    r"""The penalty of D-ReLU: the sum of the squares of all caps.

    .. math:: \sum_i m_i^2

    Equation (1) of Sooksatra and Rivas, Mathematics 12 (2024) 3551.

    Convention:
        Of ``m`` as it is: also a negative one, which caps at 0, is pulled to 0.

    Args:
        model: with at least one :class:`~mixaug.DReLU`.

    Returns:
        a scalar with its graph, in float32 (float64 if the caps are).

    Raises:
        TypeError: no module.
        ValueError: the model has no D-ReLU layer, or one whose size is not known yet.

    Note:
        In a loss it works with plain SGD for small ``lam`` only (``lam lr > 1`` diverges), and under Adam, which is
        invariant to scale, its size does not count. :func:`shrink_caps` has neither trouble.

    Example:
        >>> drelu_penalty(nn.Sequential(nn.Linear(2, 3), DReLU(3, init=2.0))).item()
        12.0
    """
    wide = [
        parameter.double() if parameter.dtype == torch.float64 else parameter.float()
        for parameter in _parameters(model)
    ]
    total = wide[0].square().sum()
    for parameter in wide[1:]:
        total = total + parameter.square().sum().to(total.device)
    return total


def shrink_caps(model: nn.Module, lam: float, lr: float) -> None:
    r"""The penalty's proximal step: moves each cap to the minimum of the penalty and the way there.

    .. math:: m \leftarrow \arg\min_u \lambda u^2 + \frac{(u - m)^2}{2\,lr} = \frac{m}{1 + 2\,lr\,\lambda}

    Proximal gradient method (Parikh and Boyd, "Proximal algorithms", 2014, section 4.2) for equation (1) of Sooksatra
    and Rivas, Mathematics 12 (2024) 3551, decoupled from the optimiser as weight decay is in AdamW.

    Convention:
        Call it after ``optimizer.step()``, with the rate of the caps in that step. It never changes a sign and is
        stable for every ``lam`` and ``lr``. With plain SGD it has the stationary points of the penalised loss; an
        optimiser that scales gradients weighs them against ``lam`` in its own units (momentum 0.9 makes them 10 times
        as large).

    Args:
        model: with at least one :class:`~mixaug.DReLU`.
        lam: weight of the penalty, at least 0.
        lr: the caps' learning rate, at least 0.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a number below 0 or not finite, or as :func:`drelu_penalty`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), DReLU(3, init=3.0))
        >>> shrink_caps(model, lam=1.0, lr=0.25)
        >>> model[1].max_value.tolist()
        [2.0, 2.0, 2.0]
    """
    factor = 1 + 2 * check_number("lr", lr, 0.0) * check_number("lam", lam, 0.0)
    with torch.no_grad():
        for parameter in _parameters(model):
            parameter.div_(factor)


def param_groups(model: nn.Module, weight_decay: float = 0.0, m_lr: float | None = None) -> list[dict[str, Any]]:
    """Groups of parameters for an optimiser: the caps have no weight decay and a rate of their own.

    Args:
        model: any; without D-ReLU layers there is one group.
        weight_decay: of all parameters but the caps, at least 0; default 0.
        m_lr: learning rate of the caps, at least 0; None (default): the optimiser's.

    Returns:
        one or two dicts for any ``torch.optim`` optimiser, the caps' last.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a number below 0 or not finite, or a D-ReLU layer whose size is not known yet.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), DReLU(3))
        >>> optimizer = torch.optim.SGD(param_groups(model, weight_decay=5e-4, m_lr=1.0), lr=0.1)
        >>> [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        [(0.1, 0.0005), (1.0, 0.0)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    decay = check_number("weight_decay", weight_decay, 0.0)
    rate = None if m_lr is None else check_number("m_lr", m_lr, 0.0)
    learnt = _parameters(model) if any(True for _ in caps(model)) else []
    known = {id(parameter) for parameter in learnt}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": decay}] if others else []
    if learnt:
        groups.append({"params": learnt, "weight_decay": 0.0} | ({} if rate is None else {"lr": rate}))
    return groups


@torch.no_grad()
def set_caps(model: nn.Module, images: Tensor, quantile: float) -> None:
    """Sets each cap to a quantile of its positive pre-activations on some images.

    The paper starts every cap at 100, from where a short training never reaches an activation; this starts them where a
    share of the activations is capped.

    Convention:
        The images pass once, in evaluation mode, with every cap out of the way: each quantile is of the plain model,
        between two values the linear interpolation. Infinite and NaN pre-activations do not count. A cap keeps its
        value where none is positive, and so does that of a layer that was not reached.

    Args:
        model: with at least one :class:`~mixaug.DReLU`; left in the mode it was in.
        images: a batch that the model takes.
        quantile: in [0, 1]; 0.5 is the median of the positive pre-activations.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: ``quantile`` out of range, the model is wrapped by DistributedDataParallel (its processes would set
            different caps), or as :func:`drelu_penalty`.

    Note:
        All pre-activations are held at once: the memory of a training step's forward pass on these images. A compiled
        model runs uncompiled here, since a compiled one does not call hooks that it has not seen.

    Example:
        >>> model = nn.Sequential(DReLU(1))
        >>> set_caps(model, torch.tensor([[-1.0], [1.0], [2.0], [9.0]]), 0.5)
        >>> model[0].max_value.tolist()
        [2.0]
    """
    quantile = check_number("quantile", quantile, 0.0, 1.0)
    if check_tensor("images", images).ndim == 0:
        raise ValueError("images must be a batch, got a tensor without dimensions")
    if images.is_meta:
        raise ValueError("images must hold values, got a tensor on the device meta")
    _parameters(model)
    if isinstance(model, DistributedDataParallel):
        raise ValueError("model must not be wrapped yet, got DistributedDataParallel: set the caps first")
    seen: dict[DReLU, list[Tensor]] = {layer: [] for _, layer in caps(model)}
    before = [(layer, layer.max_value.detach().clone()) for layer in seen]

    def keep(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[layer].append(_rows(layer, args[0] if args else kwargs["x"]))

    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it would take seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(evaluation_mode(model))
        for layer, values in before:
            stack.callback(layer.max_value.copy_, values)
            layer.max_value.fill_(math.inf)
            stack.callback(layer.register_forward_pre_hook(keep, with_kwargs=True).remove)
        model(images)
    for layer, calls in seen.items():
        if calls:
            found = _quantiles(torch.cat(calls), quantile).reshape(layer.max_value.shape).to(layer.max_value)
            layer.max_value.copy_(torch.where(found > 0, found, layer.max_value))


def _rows(layer: DReLU, x: Tensor) -> Tensor:
    """A copy of the pre-activations as (n, caps); a copy because later operations may write into ``x``."""
    count = layer.max_value.numel()
    if count == 1:
        return x.clone(memory_format=torch.contiguous_format).reshape(-1, 1)
    start, kept = layer.dim % x.ndim, layer.max_value.ndim
    last = x.movedim(list(range(start, start + kept)), list(range(x.ndim - kept, x.ndim)))
    return last.clone(memory_format=torch.contiguous_format).reshape(-1, count)


def _quantiles(rows: Tensor, quantile: float) -> Tensor:
    """The quantile of the positive finite values of each column, 0 where there is none.

    By sorting, some columns at a time: ``torch.nanquantile`` takes 16 million values at most, which one layer of a
    ResNet exceeds on a batch of 64.
    """
    if len(rows) == 0:
        return torch.zeros(rows.shape[1], dtype=torch.double, device=rows.device)
    found = []
    for block in rows.split(max(1, 2**22 // len(rows)), dim=1):
        counted = (block > 0) & block.isfinite()
        counts = counted.sum(0)
        ordered = block.where(counted, math.inf).sort(dim=0).values
        place = quantile * (counts - 1).clamp(min=0).double()
        low = place.floor().long()
        ends = torch.stack([low, torch.minimum(low + 1, (counts - 1).clamp(min=0))])
        below, above = ordered.gather(0, ends).double()
        found.append(torch.where(counts > 0, torch.lerp(below, above, place - low), 0))
    return torch.cat(found)


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
    images = as_float(images) if isinstance(images, Tensor) else images
    images = check_batch(model, images, labels)
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
        TypeError, ValueError, FloatingPointError: as :func:`zero_gradients`; ValueError also without images, and for a
            D-ReLU layer whose size is not known yet.

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
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    images = as_float(images) if isinstance(images, Tensor) else images
    images = check_batch(model, images, labels)
    if len(images) == 0:
        raise ValueError("images must be 1 or more, got 0")
    counters = {id(layer.max_value): _Counter(layer.max_value) for layer in layers}

    def count(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found = cast(DReLU, layer)
        counters[id(found.max_value)].note(found, args[0] if args else kwargs["x"])

    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it would take seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(count, with_kwargs=True).remove)
        pieces = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        zero = torch.cat([zero_gradients(model, batch, classes) for batch, classes in pieces])
    values = torch.cat([counter.values for counter in counters.values()])
    seen = sum(counter.seen for counter in counters.values())
    capped = sum(int(counter.capped.sum()) for counter in counters.values())
    reached = sum(int((counter.capped > 0).sum()) for counter in counters.values())
    return CapFigures(
        quantiles=tuple(_cap_quantiles(values)),
        capped_share=capped / seen if seen else 0.0,
        capped_units=reached / len(values),
        zero_gradient_share=zero.double().mean().item(),
        n=len(zero),
    )


_LEVELS = (0.0, 0.1, 0.5, 0.9, 1.0)


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


def _cap_quantiles(values: Tensor) -> list[float]:
    """By sorting: ``torch.quantile`` takes 16 million values at most."""
    ordered = values.sort().values
    place = torch.tensor(_LEVELS, dtype=torch.float64) * (len(ordered) - 1)
    low = place.floor().long()
    below, above = ordered[low], ordered[(low + 1).clamp(max=len(ordered) - 1)]
    return torch.lerp(below, above, place - low).tolist()  # type: ignore[no-any-return]
