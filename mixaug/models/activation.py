"""What is changed in a model's activations when it is built, as plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mixaug._checks import ABOVE_ZERO, check_choice, check_int, check_number

__all__ = [
    "ACTIVATIONS",
    "GRANULARITIES",
    "NEW_LAYERS",
    "PLACEMENTS",
    "Activation",
]


ACTIVATIONS = ("relu", "drelu")
#: Where the activation goes: into a new layer (the first two), or in place of the model's own ReLUs.
PLACEMENTS = ("head", "stem", "last-block", "all")
NEW_LAYERS = {"head": 256, "stem": 16}  # with the features they have by default
GRANULARITIES = ("channel", "layer", "neuron")


@dataclass(frozen=True)
class Activation:
    """What is changed in a model when it is built, as plain values that a checkpoint keeps.

    Args:
        name: ``"relu"``, for a new layer without a cap, or ``"drelu"``.
        placement: one of ``PLACEMENTS``.
        features: of the new layer; None where there is none.
        granularity: of the caps in place of ReLUs: ``"channel"``, ``"layer"`` or ``"neuron"``; None elsewhere.
        init: first value of every cap.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> Activation("drelu", "head", 8).put_into(model, (1, 1, 2, 2))[1].activation
        DReLU(8, init=100, dim=-1)
    """

    name: str
    placement: str
    features: int | None = None
    granularity: str | None = None
    init: float = 100.0

    def checked(self) -> Activation:
        """This change, if its values are possible.

        Raises:
            TypeError: a value of another kind.
            ValueError: a value out of range or an unknown name.

        Example:
            >>> Activation("drelu", "tail").checked()
            Traceback (most recent call last):
            ValueError: placement must be one of head, stem, last-block, all, got 'tail'
        """
        check_choice("name", self.name, ACTIVATIONS)
        check_choice("placement", self.placement, PLACEMENTS)
        if self.features is not None:
            check_int("features", self.features, 1, 10**6)
        if self.granularity is not None:
            check_choice("granularity", self.granularity, GRANULARITIES)
        check_number("init", self.init, ABOVE_ZERO)
        return self

    def put_into(self, model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
        """The model with it; new weights come from torch's default generator.

        Args:
            model: the classifier, which is changed.
            shape: of its images, ``(B, C, H, W)``.
        """
        from mixaug import nn as capped

        images = torch.zeros(shape, dtype=torch.float32)
        if self.features is None:
            last = "block" if self.placement == "last-block" else None
            granularity = self.granularity or "channel"
            shapes = images.to("meta")  # no values: that caps cut at the start is what the settings ask for
            return capped.replace_relu(model, granularity=granularity, init=self.init, last=last, example_input=shapes)
        add = capped.add_drelu_head if self.placement == "head" else capped.add_drelu_stem
        kind = capped.DReLU if self.name == "drelu" else nn.ReLU
        return add(model, self.features, init=self.init, activation=kind, example_input=images)

    def to_dict(self) -> dict[str, Any]:
        """For JSON and checkpoints; ``Activation(**values)`` reads it."""
        return dataclasses.asdict(self)
