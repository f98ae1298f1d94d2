"""What the attacks left of a model, image by image, as the rules of the audit read it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mixaug.evaluate.audit.attacks import LABELS, WHITE_BOX
from mixaug.evaluate.audit.result import strongest_of
from mixaug.evaluate.audit.thresholds import Thresholds
from mixaug.evaluate.intervals import Estimate, bootstrap_means, share


@dataclass(frozen=True)
class Evidence:
    """What the attacks left, for the rules.

    Args:
        right: attack's name (``"clean"`` for none) to (n,) bool.
        measures: as :class:`~mixaug.evaluate.audit.Audit` keeps them.
        left_out: attack's name to the reason why it was not run.
        eps: radius.
        thresholds: limits.
        seed: of the bootstrap's draws.
    """

    right: dict[str, Tensor]
    measures: dict[str, Tensor]
    left_out: dict[str, str]
    eps: float
    thresholds: Thresholds
    seed: int = 0

    def accuracy(self, name: str) -> Estimate:
        """Accuracy over all images."""
        return share(self.right[name])

    def difference(self, first: Tensor, second: Tensor) -> Estimate:
        """Accuracy in ``first`` less that in ``second``, on the same images, with its paired bootstrap interval."""
        columns = (first.double() - second.double())[:, None]
        return bootstrap_means(columns, seed=self.seed, method="paired bootstrap")[0]

    @property
    def strongest(self) -> str:
        """The gradient attack that leaves the least."""
        name = strongest_of(self.right, WHITE_BOX)
        if name is None:
            raise ValueError("right must hold a gradient attack, got none")
        return name

    @property
    def too_few(self) -> str | None:
        """Why nothing can be compared, if so."""
        least, found = self.thresholds.least_images, int(self.right["clean"].sum())
        if found >= least:
            return None
        return f"The model gets {found} of the {len(self.right['clean'])} images right, and {least} are needed."

    @property
    def nothing_left(self) -> str | None:
        """Why no robustness can be lost, if so."""
        if self.too_few:
            return self.too_few
        left = self.accuracy(self.strongest)
        if left.value > self.thresholds.least_accuracy:
            return None
        return f"{LABELS[self.strongest]} leaves {left.text} of the images: there is no robustness to lose."
