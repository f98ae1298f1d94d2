"""What an audit calls too much: every limit of its rules, as an argument."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from mixaug._checks import check_field, check_int, check_number


@dataclass(frozen=True)
class Thresholds:
    """The limits of the audit's rules; shares of the images unless said otherwise.

    Args:
        margin: an attack shows another one to be weak if it leaves less accuracy by more than this, and 0 lies outside
            of the paired bootstrap interval; default 0.02.
        far: the same where honest models differ too: between the cross-entropy and other losses, and between the
            strongest attack and all together; there the interval must lie above ``margin``; default 0.05.
        least_accuracy: at this accuracy or less under the strongest gradient attack there is no robustness to lose, and
            checks that need some are not run; default 0.02.
        near_zero: accuracy at a radius of 0.5 up to which nothing is said; default 0.05.
        zero_gradients: share of images without any gradient up to which nothing is said; default 0.02.
        roughness: mean cosine of the gradients of near points below which the loss surface is called rough, in
            [0, 1]; default 0.25.
        least_images: with fewer images that the model gets right nothing is compared; default 10.

    Raises:
        TypeError: a limit of the wrong kind.
        ValueError: a limit outside of [0, 1]; ``far`` below ``margin``; ``least_images`` below 1.

    Note:
        ``far`` is ours: models trained with PGD or TRADES are 0 to 3.5 points weaker under APGD-DLR than under PGD with
        the cross-entropy, published ones included, and nobody calls that masking.

    Example:
        >>> Thresholds(margin=0.05, far=0.1).margin
        0.05
    """

    margin: float = 0.02
    far: float = 0.05
    least_accuracy: float = 0.02
    near_zero: float = 0.05
    zero_gradients: float = 0.02
    roughness: float = 0.25
    least_images: int = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "least_images":
                check_field(self, field.name, check_number, 0.0, 1.0)
        check_field(self, "least_images", check_int, 1)
        if self.far < self.margin:
            raise ValueError(f"far must be margin={self.margin} or more, got {self.far}")

    def to_json(self) -> dict[str, Any]:
        """The limits by name."""
        return asdict(self)
