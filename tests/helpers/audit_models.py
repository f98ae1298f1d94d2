"""Models whose robust accuracy is known by arithmetic, ways to hide it, and outcomes made by hand for the rules."""

from __future__ import annotations

import torch
from study.masking_models import (
    Compressed,
    Confident,
    Decoy,
    NoisyInput,
    NoNumber,
    OneHot,
    Reversed,
    Rippled,
    Rounded,
    Scaled,
)
from torch import nn

from mixaug.evaluate.audit.result import Thresholds
from mixaug.evaluate.audit.rules import Evidence

__all__ = [
    "Blocks",
    "Compressed",
    "Confident",
    "Decoy",
    "NoNumber",
    "NoisyInput",
    "OneHot",
    "Reversed",
    "Rippled",
    "Rounded",
    "Scaled",
    "blocks_data",
    "evidence",
]

EPS = 0.1
SIDE = 8


class Blocks(nn.Module):
    """Four classes, four quarters of the image: a logit is ten times the mean of its quarter.

    The label is beaten by at most ``2 eps`` in the mean, and any attack on the ball's border along the gradient takes
    all of it: an image whose quarter is brighter by ``s`` than the others is robust if and only if ``s > 2 eps``.
    """

    def __init__(self) -> None:
        super().__init__()
        weight = torch.zeros(4, SIDE, SIDE)
        half = SIDE // 2
        for quarter, (row, column) in enumerate(((0, 0), (0, half), (half, 0), (half, half))):
            weight[quarter, row : row + half, column : column + half] = 10 / half**2
        self.linear = nn.Linear(SIDE * SIDE, 4, bias=False)
        self.linear.weight.data = weight.flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))


def blocks_data(n: int = 60, robust: float = 0.5, eps: float = EPS) -> tuple[torch.Tensor, torch.Tensor]:
    """n images that :class:`Blocks` gets right, of which the share ``robust`` is so at the radius ``eps``."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 4
    strong = torch.arange(n) < round(n * robust)
    lift = torch.where(strong, 2.6 * eps, 1.2 * eps)
    pattern = Blocks().linear.weight.detach().view(4, 1, SIDE, SIDE)[labels].sign()
    noise = 0.02 * (torch.rand(n, 1, SIDE, SIDE, generator=generator) - 0.5)
    return (0.35 + lift.view(-1, 1, 1, 1) * pattern + noise).clamp(0, 1), labels


def evidence(
    n: int = 200,
    thresholds: Thresholds | None = None,
    left_out: dict[str, str] | None = None,
    cosine: float = 0.9,
    counts: dict[str, int] | None = None,
    **measures: int,
) -> Evidence:
    """Outcomes made by hand: each attack leaves the first images right, as many as ``counts`` says.

    What is not given: an honest model, clean 80%, all gradient attacks 50% but FGSM with 60%, black box 55%, noise 75%.
    """
    honest = {
        "clean": 160,
        "fgsm": 120,
        "pgd-ce": 100,
        "pgd-margin": 100,
        "apgd-ce": 100,
        "apgd-dlr": 100,
        "square": 110,
        "spsa": 120,
        "noise": 150,
        "transfer": 140,
        "radius-half": 120,
        "radius-double": 20,
        "radius-large": 0,
        "grey": 20,
    }
    found = {name: count for name, count in {**honest, **(counts or {})}.items() if count >= 0}
    right = {name: torch.arange(n) < count for name, count in found.items()}
    flags = {name: torch.arange(n) < measures.get(name.replace("-", "_"), 0) for name in _FLAGS}
    default = {"averaged": "Equal calls give equal logits: there is nothing to average."}
    return Evidence(
        right,
        {**flags, "cosine": torch.full((n,), cosine)},
        default if left_out is None else left_out,
        EPS,
        thresholds or Thresholds(),
    )


_FLAGS = ("zero-ce", "zero-margin", "changed", "turned")
