"""Mixing images with masks and their labels with ratios: no randomness."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixaug._checks import MAX_BATCH, check_field, check_flag, check_generator, check_int, check_number, kind_of
from mixaug._random import drawn_by
from mixaug._records import Rule, Rules, check_record, kept, reads_values
from mixaug.transforms.labels import probabilities

__all__ = [
    "NEAR",
    "SLACK",
    "MixDraw",
    "MixLaw",
    "check_draw",
    "check_draws",
    "check_images",
    "check_logits",
    "mix_images",
    "mix_targets",
    "plain_masks",
    "sample_mix",
    "share_gap",
    "similarity",
]


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


_SUM_TOLERANCE = 1e-3


def check_images(images: Any) -> None:
    """Raises unless ``images`` are a floating batch of at least one. Reads no value."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating tensor in [0, 1], got {kind}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be (B, C, H, W) with at least one image, got shape {tuple(images.shape)}")


def check_logits(logits: Any, count: int, num_classes: int) -> Tensor:
    """The logits, if they are for so many images and classes."""
    if not isinstance(logits, Tensor) or logits.shape != (count, num_classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model must give logits of shape ({count}, num_classes = {num_classes}), got {got}")
    return logits


def check_draws(draws: Any, count: int) -> None:
    """Raises unless ``draws`` are a classifier's and a generator's for a batch of ``count`` images."""
    if not isinstance(draws, (tuple, list)) or len(draws) != 2 or not all(isinstance(d, MixDraw) for d in draws):
        raise TypeError(f"draws must be a pair of MixDraw, got {type(draws).__name__}")
    for draw in draws:
        check_draw(draw, count, draw.ratios.device, "draws")
    if len(draws[0].index) != count:
        raise ValueError(f"draws must be for the {count} images of the batch, got {len(draws[0].index)}")


def check_draw(
    draw: Any, count: int, device: torch.device, name: str = "params", check_values: bool = False
) -> MixDraw:
    """The draw on ``device``, if it is one of a batch of ``count`` images: rows of it, ratios that sum to 1.

    Args:
        draw: what was given as a draw.
        count: images of the batch.
        device: where it is used.
        name: of the argument, for messages.
        check_values: read the values on a GPU too, where the host waits for them.
    """
    if not isinstance(draw, MixDraw):
        raise TypeError(f"{name} must be a MixDraw, got {kind_of(draw)}")
    for field in ("index", "ratios"):
        if not isinstance(getattr(draw, field), Tensor):
            raise TypeError(f"{name}.{field} must be a tensor, got {kind_of(getattr(draw, field))}")
    values = reads_values(device, check_values)
    rows, n = draw.index.shape if draw.index.ndim == 2 else (0, -1)
    if n < min(2, count):
        raise ValueError(
            f"{name}.index must name at least {min(2, count)} of the {count} images of the batch, got shape "
            f"{tuple(draw.index.shape)}"
        )
    draw = check_record(draw, _rules(rows, n, count), device, values=values, move=True, name=name)
    ratios = draw.ratios
    if values and bool(((ratios.sum(1) - 1).abs() > _SUM_TOLERANCE).any()):
        wrong = int((ratios.sum(1) - 1).abs().argmax())
        raise ValueError(f"{name}.ratios must be 0 or more and sum to 1, got {ratios[wrong].tolist()}")
    return draw


@kept
def _rules(rows: int, n: int, count: int) -> Rules:
    return Rules(
        index=Rule(torch.int64, (rows, n), 0, count - 1),
        ratios=Rule(torch.float32, (rows, n), 0.0, 1.0),
        plain=Rule(torch.bool, (rows,)),
    )


def mix_images(images: Tensor, index: Tensor, masks: Tensor) -> Tensor:
    r"""The mixture of several images by masks.

    .. math:: x_{mix} = \sum_i M_i \odot x_i

    Qin et al., ICLR 2024 (arXiv:2312.11954), Eq. 7.

    Args:
        images: of the batch.
        index: rows of the images that are mixed.
        masks: weights that sum to 1 over N.

    Shape:
        images (B, C, H, W) floating; index (n, N) int64; masks (n, N, H, W), or (n, N, 1, 1) for plain ratios ->
        (n, C, H, W), of the images' dtype and memory format, with a gradient to the masks where they have one.

    Example:
        >>> images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
        >>> mix_images(images, torch.tensor([[0, 1]]), torch.tensor([0.25, 0.75]).view(1, 2, 1, 1)).item()
        0.75
    """
    masks = masks.to(images.dtype)
    mixed = None
    # One source after the other: (n, N, C, H, W) at once is N batches of memory, for no time.
    for source, mask in zip(index.unbind(1), masks.unbind(1), strict=True):
        part = images[source]
        mixed = part * mask[:, None] if mixed is None else torch.addcmul(mixed, part, mask[:, None])
    if mixed is None:
        raise ValueError("index must name at least one image for each mixture, got none")
    return mixed


def mix_targets(labels: Tensor, index: Tensor, ratios: Tensor, num_classes: int) -> Tensor:
    r"""The labels of mixtures.

    .. math:: y_{mix} = \sum_i r_i\, y_i

    The cross-entropy of these is the weighted sum of the cross-entropies of the images' labels (AMCE, Eq. 3 of Qin et
    al., ICLR 2024), since the cross-entropy is linear in the target.

    Args:
        labels: of the batch, class indices or probabilities.
        index: rows of the images that are mixed.
        ratios: their weights.
        num_classes: K.

    Shape:
        labels (B,) of an integer dtype or (B, K); index and ratios (n, N) -> (n, K) float32.

    Example:
        >>> mix_targets(torch.tensor([0, 2]), torch.tensor([[0, 1]]), torch.tensor([[0.25, 0.75]]), 3)
        tensor([[0.2500, 0.0000, 0.7500]])
    """
    return (probabilities(labels, num_classes)[index] * ratios[..., None]).sum(1)


def plain_masks(masks: Tensor, ratios: Tensor, plain: Tensor) -> Tensor:
    """The masks, with constant ones in the mixtures that take the plain ratios.

    Args:
        masks: (n, N, H, W).
        ratios: (n, N).
        plain: (n,) bool.

    Example:
        >>> plain_masks(torch.tensor([[[[0.9]], [[0.1]]]]), torch.tensor([[0.5, 0.5]]), torch.tensor([True])).flatten()
        tensor([0.5000, 0.5000])
    """
    return torch.where(plain[:, None, None, None], ratios[..., None, None].to(masks.dtype), masks)


#: How far the share of a mask may be from its ratio for nothing, as in AutoMix.
SLACK = 0.1


def similarity(mixed: Tensor, sources: Tensor, index: Tensor, ratios: Tensor) -> Tensor:
    r"""How close the teacher sees mixtures to their sources.

    .. math:: \frac1B \sum_b \sum_i r_i \cos\bigl(t(x_{mix}), t(x_i)\bigr)

    Qin et al., "Adversarial AutoMixup", ICLR 2024 (arXiv:2312.11954), Eq. 11, on the teacher's logits.

    Args:
        mixed: logits of the mixtures.
        sources: logits of the batch.
        index: rows of the images in each mixture.
        ratios: their weights.

    Shape:
        mixed (n, K), sources (B, K), index and ratios (n, N) -> a scalar in [-1, 1], float32 (float64 for float64).

    Example:
        >>> logits = torch.eye(2)
        >>> similarity(logits[:1], logits, torch.tensor([[0, 1]]), torch.tensor([[0.75, 0.25]])).item()
        0.75
    """
    mixed, sources = (z if z.dtype == torch.float64 else z.float() for z in (mixed, sources))
    cosines = (F.normalize(mixed, dim=1)[:, None] * F.normalize(sources, dim=1)[index]).sum(2)
    return (ratios.to(cosines.dtype) * cosines).sum(1).mean()


def share_gap(masks: Tensor, ratios: Tensor) -> Tensor:
    r"""How far the shares of the masks are from the ratios that the labels have.

    .. math:: \frac1B \sum_b \sum_i \max\Bigl(\bigl|\tfrac{1}{HW} \textstyle\sum M_i - r_i\bigr| - 0.1,\ 0\Bigr)

    The mask loss of AutoMix (Liu et al., ECCV 2022, arXiv:2103.13027), with its slack of 0.1.

    Args:
        masks: of the mixtures.
        ratios: of the sources.

    Shape:
        masks (n, N, H, W), ratios (n, N) -> a scalar, float32 (float64 for float64 masks).

    Example:
        >>> masks = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1)
        >>> round(share_gap(masks, torch.tensor([[0.5, 0.5]])).item(), 4)
        0.6
    """
    shares = masks.mean((2, 3))
    return ((shares - ratios.to(shares.dtype)).abs() - SLACK).clamp_min(0).sum(1).mean()
