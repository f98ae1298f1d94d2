"""What one mixture of AdAutoMix draws: the partners and the ratios. The only place with randomness."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from mixaug._checks import MAX_BATCH, check_field, check_flag, check_generator, check_int, check_number
from mixaug._random import drawn_by

__all__ = ["NEAR", "MixDraw", "MixLaw", "sample_mix"]

#: Mixtures with a ratio closer than this to 0 or 1 are made with the plain ratios, as in the authors' code.
NEAR = 0.03
_MOST = 16


@dataclass(frozen=True)
class MixDraw:
    """One draw, as tensors: replay it, look at it, store it.

    Attributes:
        index: ``(B, N)`` int64, the images of each mixture: itself and its N - 1 successors on one random cycle through
            the batch, all different.
        ratios: ``(B, N)`` float32 in [0, 1], their weights in the label; rows sum to 1. The first is the image's own.
        plain: ``(B,)`` bool, whether a ratio is so close to 0 or 1 that the classifier's mixture takes the ratios in
            place of the masks.
    """

    index: Tensor
    ratios: Tensor
    plain: Tensor

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
        if self.index.shape != self.ratios.shape or self.plain.shape != self.index.shape[:1]:
            raise ValueError(
                f"index, ratios and plain must have the shapes (B, N), (B, N) and (B,), got {tuple(self.index.shape)}, "
                f"{tuple(self.ratios.shape)} and {tuple(self.plain.shape)}"
            )

    def to(self, device: torch.device | str) -> MixDraw:
        """The same draw on ``device``; on the way to a GPU the host does not wait for it."""
        later = torch.device(device).type != "cpu"
        return dataclasses.replace(
            self, **{name: value.to(device, non_blocking=later) for name, value in vars(self).items()}
        )

    def describe(self, row: int) -> str:
        """One mixture in words.

        Example:
            >>> MixDraw(torch.tensor([[0, 3]]), torch.tensor([[0.75, 0.25]]), torch.tensor([False])).describe(0)
            '0.75 of image 0, 0.25 of image 3'
        """
        pairs = zip(self.ratios[row].tolist(), self.index[row].tolist(), strict=True)
        return ", ".join(f"{ratio:.2f} of image {image}" for ratio, image in pairs)


@dataclass(frozen=True)
class MixLaw:
    """The law of the draws.

    Args:
        n_mix: N, images of a mixture, at least 2. Default 3.
        concentration: a of ``Beta(a, a)`` or of the Dirichlet distribution, above 0. Default 1.
        per_image: each mixture has its own ratios; False (default): one draw for the batch.
        dirichlet: ratios of a Dirichlet distribution; False (default): for N = 2 ``Beta(a, a)`` and its complement, for
            more N draws of ``Beta(a, a)`` divided by their sum.

    Raises:
        TypeError: an argument of another kind.
        ValueError: an argument out of range.

    Example:
        >>> MixLaw(n_mix=2).n_mix
        2
    """

    n_mix: int = 3
    concentration: float = 1.0
    per_image: bool = False
    dirichlet: bool = False

    def __post_init__(self) -> None:
        check_field(self, "n_mix", check_int, 2, _MOST)
        check_field(self, "concentration", check_number, 1e-3, 1e6)
        for name in ("per_image", "dirichlet"):
            check_field(self, name, check_flag)


def sample_mix(
    batch_size: int,
    law: MixLaw,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    rows: int | None = None,
) -> MixDraw:
    r"""Draws partners and ratios for a batch.

    .. math:: N = 2: r = (\lambda, 1 - \lambda),\ \lambda \sim \mathrm{Beta}(a, a); \qquad
        N > 2: r_i = \lambda_i / \textstyle\sum_j \lambda_j,\ \lambda_i \sim \mathrm{Beta}(a, a)

    Convention:
        Partners are the image's successors on one random cycle through the batch: never the image itself, all
        different, and every image is used N times. A batch of fewer than N images mixes all that it has. Ratios are one
        draw for the batch, or one an image (``per_image``).

    Args:
        batch_size: number of images B, 0 allowed.
        law: of the draws.
        generator: of torch; None: torch's default generator of ``device``.
        device: where the draw is made and kept; ignored with a generator, whose device counts.
        rows: draw for the first so many images only; None: for all.

    Returns:
        the draw, of ``min(N, B)`` images a mixture.

    Raises:
        TypeError, ValueError: ``batch_size`` is not a whole number of 0 or more.

    Example:
        >>> draw = sample_mix(5, MixLaw(3), torch.Generator().manual_seed(0))
        >>> draw.index.shape, draw.index[:, 0].tolist(), draw.ratios.sum(1).allclose(torch.ones(5))
        (torch.Size([5, 3]), [0, 1, 2, 3, 4], True)
    """
    batch_size = check_int("batch_size", batch_size, 0, MAX_BATCH)
    check_generator(generator)
    if rows is not None:
        rows = check_int("rows", rows, 0, batch_size)
    if generator is not None:
        device = generator.device
    n, rows = min(law.n_mix, max(batch_size, 1)), batch_size if rows is None else rows
    order = torch.randperm(batch_size, device=device, **drawn_by(generator))
    place = torch.empty_like(order)
    place[order] = torch.arange(batch_size, device=device)
    index = order[(place[:rows, None] + torch.arange(n, device=device)) % max(batch_size, 1)]
    ratios = _ratios(rows if law.per_image else 1, n, law, generator, device).expand(rows, n).contiguous()
    plain = ((ratios < NEAR) | (ratios > 1 - NEAR)).any(1) if n > 1 else torch.ones(rows, dtype=torch.bool)
    return MixDraw(index, ratios, plain.to(ratios.device))


def _ratios(rows: int, n: int, law: MixLaw, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """Rows of n ratios, float32; drawn in double, so that every device rounds to the same."""
    if n == 1:
        return torch.ones(rows, 1, dtype=torch.float32, device=device)
    per_ratio = 1 if law.dirichlet else 2
    shape = torch.full((rows, n, per_ratio), law.concentration, dtype=torch.float64, device=device)
    # A draw of a small concentration underflows: the smallest double makes it a ratio of almost 0, not of 0/0.
    gamma = torch._standard_gamma(shape, **drawn_by(generator)).clamp_min(torch.finfo(torch.float64).tiny)
    drawn = gamma[..., 0] if law.dirichlet else gamma[..., 0] / gamma.sum(-1)
    if n == 2 and not law.dirichlet:
        drawn = torch.stack([drawn[:, 0], 1 - drawn[:, 0]], 1)
    return (drawn / drawn.sum(1, keepdim=True)).float()
