"""The radius of an adversary as it grows over the epochs of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mixaug._checks import MAX_COUNT, check_choice, check_field, check_int, check_number

__all__ = ["SHAPES", "EpsSchedule"]

#: How the radius rises; ``constant`` is the full radius from the first epoch on.
SHAPES = ("linear", "cosine", "step", "constant")


@dataclass(frozen=True)
class EpsSchedule:
    r"""The adversary's radius for each epoch: from a tenth of ``eps`` in the first one to ``eps`` in the last.

    .. math:: eps_e = start + (eps - start)\,s(t), \qquad t = e / (epochs - 1)

    with :math:`s(t) = t` (linear), :math:`(1 - \cos \pi t) / 2` (cosine) or :math:`\lfloor 5 e / epochs \rfloor / 4`
    (step: five equal stairs). Delviz et al., "Advanced techniques for strengthening adversarial robustness in deep
    learning models", 2024, Algorithm 1, which starts at ``eps / 10`` and leaves the shape open.

    Convention: one value an epoch, in the units of ``eps`` (pixels of images in [0, 1]); the first epoch is 0. From
    epoch ``epochs - 1`` on it is ``eps`` exactly; a schedule of a single epoch is ``eps``.

    Args:
        eps: the full radius, 0 or more.
        epochs: over which the radius rises, at least 1.
        start: radius of the first epoch, in [0, eps]; default None: ``eps / 10``.
        shape: ``"linear"`` (default), ``"cosine"``, ``"step"``, or ``"constant"`` for ``eps`` in every epoch.

    Returns:
        Calling the object with the number of an epoch, from 0, gives its radius, a float.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a value out of range or an unknown shape.

    Note:
        With fewer than five epochs ``step`` has as many stairs as epochs.

    Example:
        >>> schedule = EpsSchedule(eps=0.03, epochs=10)
        >>> [round(schedule(epoch), 4) for epoch in (0, 1, 9, 20)]
        [0.003, 0.006, 0.03, 0.03]
    """

    eps: float
    epochs: int
    start: float | None = None
    shape: str = "linear"

    def __post_init__(self) -> None:
        check_field(self, "epochs", check_int, 1, MAX_COUNT)
        check_field(self, "eps", check_number, 0.0)
        check_field(self, "start", check_number, 0.0, self.eps, optional=True)
        check_field(self, "shape", check_choice, SHAPES)

    def __call__(self, epoch: int) -> float:
        """The radius of an epoch, from 0."""
        epoch = check_int("epoch", epoch, 0)
        if self.shape == "constant" or epoch >= self.epochs - 1:
            return float(self.eps)
        if self.shape == "linear":
            rise = epoch / (self.epochs - 1)
        elif self.shape == "cosine":
            rise = (1 - math.cos(math.pi * epoch / (self.epochs - 1))) / 2
        else:
            stairs = min(5, self.epochs)
            rise = (stairs * epoch // self.epochs) / (stairs - 1)
        start = self.eps / 10 if self.start is None else self.start
        return start + (self.eps - start) * rise
