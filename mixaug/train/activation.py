"""The activation of a run: D-ReLU in a new layer or in place of ReLUs, its start, and what the log says of its caps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixaug.train.batches import batches

__all__ = [
    "CAP_COLUMNS",
    "cap_columns",
    "start_caps",
]


#: Columns of the log, of runs with D-ReLU: quantiles of the caps; shares of activations at their cap, of caps that some
#: image reaches, and of images whose whole input gradient is zero.
CAP_COLUMNS = (
    "cap_min", "cap_q10", "cap_median", "cap_q90", "cap_max", "capped_share", "capped_units", "zero_gradient_share",
)  # fmt: skip
#: Images that the start of the caps is measured on, and that the log's figures are of.
IMAGES = 500


def start_caps(model: nn.Module, part: Any, prepare: Callable[[Tensor], Tensor], quantile: float) -> None:
    """Starts each cap at a quantile of its positive pre-activations on the first training images.

    Args:
        model: with D-ReLU.
        part: the training images, as for :func:`~mixaug.train.batches.batches`.
        prepare: brings a batch of bytes to the model's device, as floats in [0, 1].
        quantile: in [0, 1].
    """
    from mixaug.nn import set_caps

    ((images, _),) = batches(part, torch.arange(min(IMAGES, len(part))), IMAGES)
    set_caps(model, prepare(images), quantile)


def cap_columns(model: nn.Module, part: Any, prepare: Callable[[Tensor], Tensor], workers: int) -> dict[str, float]:
    """The log's figures of the caps, on the first validation images; empty for a model without D-ReLU.

    Args:
        model: the classifier.
        part: the validation images, at least one.
        prepare: as in :func:`start_caps`.
        workers: processes that load a map-style data set.
    """
    from mixaug.nn import caps

    if not any(True for _ in caps(model)):
        return {}
    from mixaug.nn.caps import cap_figures

    ((images, labels),) = batches(part, torch.arange(min(IMAGES, len(part))), IMAGES, workers)
    images = prepare(images)
    figures = cap_figures(model, images, labels.to(images.device))
    if figures is None:
        return {}
    values = (*figures.quantiles, figures.capped_share, figures.capped_units, figures.zero_gradient_share)
    return dict(zip(CAP_COLUMNS, map(float, values), strict=True))
