"""What training does with the caps of D-ReLU: their penalty, its proximal step, their own group, a start from data."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixaug._checks import check_number, check_tensor
from mixaug.nn.activations import DReLU

__all__ = ["caps", "drelu_penalty", "param_groups", "set_caps", "shrink_caps"]


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
    from mixaug._model_state import evaluation_mode

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
