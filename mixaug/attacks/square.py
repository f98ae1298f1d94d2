"""Square Attack: robustness measured without gradients."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from mixaug._checks import MAX_COUNT, check_field, check_flag, check_generator, check_int, check_number
from mixaug.attacks.adapter import NORM_NAMES, Logits, require_pyautoattack
from mixaug.attacks.adapter import AdaptedAttack as ForeignAttack
from mixaug.attacks.attack import check_radius

_TILES_OVERRUN = (12, 14, 18, 19, 24)  # sides of which the first tiles, a fifth each, need more than there are


@dataclass(frozen=True)
class Square(ForeignAttack):
    """Square Attack: random search over square patches at the ball's border; black box, it only asks for logits.

    Each query sets a random square of every image to ``x +- eps`` per channel and keeps it if the margin falls; squares
    shrink on a schedule. Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box
    adversarial attack via random search", ECCV 2020 (arXiv:1912.00049). Run by the package ``pyautoattack``.

    Convention: only correctly classified images are attacked, each until it is fooled; one that is not comes back
    unchanged. It needs no gradient, so a model that resists gradient attacks but not this one masks its gradients.

    Args:
        eps: radius in pixel units of images in [0, 1]; 0 or more, default 8/255.
        queries: most forwards an image (and restart), default 5,000, AutoAttack's.
        restarts: number of random starts for images that were not fooled, default 1.
        generator: source of the seed; default: a seed from torch's global state, which is not moved, so that a second
            call in a row repeats the first.
        norm: ``"linf"`` (default) or ``"l2"``, there for square images only, 5 pixels or more a side and not 12, 14,
            18, 19 or 24, where pyautoattack's first tiles would overrun the image.
        p_init: share of an image's pixels in the first squares; in (0, 1], default 0.8.
        rescale: squeeze the schedule of sizes, made for 10,000 queries, into ``queries``; default False, as in
            AutoAttack.
        batch_size: most images in one pass of the model; default all.

    Shape:
        images: (B, C, H, W) floating point in [0, 1]; labels: (B,) int64; result: as images.

    Returns:
        Adversarial images, detached; the model and every global random state are left as they were.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed (``pip install 'mixaug[attacks]'``).
        TypeError: an argument of the wrong kind.
        ValueError: a setting, shape or value out of range.
        FloatingPointError: logits were not finite; raised after the attack with the forward pass.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10)).eval()
        >>> Square(eps=8 / 255, queries=20)(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1])).shape
        torch.Size([2, 3, 8, 8])
    """

    eps: float = 8 / 255
    queries: int = 5000
    restarts: int = 1
    generator: torch.Generator | None = None
    _: KW_ONLY
    norm: str = "linf"
    p_init: float = 0.8
    rescale: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_radius(self)
        check_field(self, "queries", check_int, 1, MAX_COUNT)
        check_field(self, "restarts", check_int, 1, MAX_COUNT)
        check_generator(self.generator)
        check_field(self, "p_init", check_number, 1e-9, 1.0)
        check_field(self, "rescale", check_flag)
        check_field(self, "batch_size", check_int, 1, MAX_COUNT, optional=True)
        require_pyautoattack("Square")

    @property
    def name(self) -> str:
        """The attack's name in reports, ``square``."""
        return "square" + ("" if self.norm == "linf" else f"-{self.norm}")

    def _run(self, logits: Logits, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        from pyautoattack.square import SquareAttack

        check_tiles(self.norm, images)
        attack = SquareAttack(
            logits,
            norm=NORM_NAMES[self.norm],
            n_queries=self.queries,
            eps=self.eps,
            p_init=self.p_init,
            n_restarts=self.restarts,
            seed=seed,
            resc_schedule=self.rescale,
            device=images.device,
        )
        return attack.perturb(images, labels)


def check_tiles(norm: str, images: Tensor) -> None:
    """Raises if pyautoattack's Square in l2 would fail on the images' size."""
    height, width = images.shape[2:]
    if norm == "l2" and (height != width or height < 5 or height in _TILES_OVERRUN):
        raise ValueError(
            "images must be square for Square in l2, 5 pixels or more a side and not of "
            f"{', '.join(map(str, _TILES_OVERRUN))}, got {tuple(images.shape)}"
        )
