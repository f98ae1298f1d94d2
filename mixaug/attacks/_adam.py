"""Adam's step for attacks that follow a noisy or badly scaled gradient."""

from __future__ import annotations

import torch
from torch import Tensor


class Adam:
    """The step ``rate * m / (sqrt(v) + 1e-8)`` of Kingma, Ba (arXiv:1412.6980), with bias-corrected averages m, v.

    torch's optimiser is not used since it wants leaf tensors that it writes to, and cannot drop finished images.
    """

    def __init__(self, like: Tensor, rate: float) -> None:
        self._rate = rate
        self._mean = torch.zeros_like(like)
        self._square = torch.zeros_like(like)
        self._count = 0

    def step(self, gradient: Tensor) -> Tensor:
        """What to subtract from the variable."""
        self._count += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        mean = self._mean / (1 - 0.9**self._count)
        square = self._square / (1 - 0.999**self._count)
        return self._rate * mean / (square.sqrt() + 1e-8)

    def keep(self, index: Tensor) -> None:
        """Goes on with some of the rows."""
        self._mean, self._square = self._mean[index], self._square[index]
