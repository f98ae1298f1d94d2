"""What one call of IPMix draws: the settings and the sampler, the only place with randomness.

Paper: Huang et al., "IPMix: Label-Preserving Data Augmentation Method for Training Robust Classifiers", NeurIPS 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

import mixaug_ext
from mixaug._random import drawn_by
from mixaug.ops.ipmix_record import DISJOINT, IMAGE_OPERATIONS, MIXING_OPERATIONS, IPMixParams

Structure = Literal["chain", "linear", "mixed_input"]
Level = Literal["image", "patch", "pixel"]
STRUCTURES: tuple[str, ...] = get_args(Structure)
LEVELS: tuple[str, ...] = get_args(Level)

#: Strength of a step: ``L ~ U(LOWEST, severity)``.
LOWEST = 0.1


@dataclass(frozen=True)
class IPMixSettings:
    """Everything that :func:`sample_ipmix` needs besides the number of images: the resolved arguments of ``IPMix``.

    Args:
        k: number of chains, at least 1.
        t: most steps of a chain, at least 1; the depth is uniform on ``0..t``.
        severity: upper end of the strength ``L ~ U(0.1, severity)``, in ``[0.1, 10]``.
        beta: parameter of the mixing exponents, above 0.
        patch_sizes: sides of the patches in pixels, each at least 2 and at most ``min(H, W)``.
        self_mix: probability that a mixing step takes an augmented copy of the image instead of the picture.
        structure: ``"chain"``, ``"linear"`` or ``"mixed_input"``.
        levels: which of ``"image"``, ``"patch"``, ``"pixel"`` are in use.
        all_ops: image-level steps also draw from autocontrast, color, contrast, brightness and sharpness.
    """

    k: int
    t: int
    severity: float
    beta: float
    patch_sizes: tuple[int, ...]
    self_mix: float
    structure: str
    levels: tuple[str, ...]
    all_ops: bool


def sample_ipmix(
    batch: int,
    size: tuple[int, int],
    settings: IPMixSettings,
    *,
    views: int = 1,
    pictures: int,
    side: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> IPMixParams:
    """Draws everything that IPMix decides at random for a batch. The only place with randomness.

    Each chain has depth ``~ U{0..t}`` and is an image-level or a P-level (patch or pixel) chain with probability 1/2
    each; ``weight ~ Dirichlet(1, ..., 1)``, ``m ~ Beta(1, 1)``; an image-level step draws one operation and
    ``L ~ U(0.1, severity)``; a P-level step draws one side from ``patch_sizes`` and the whole image, a square or a scar
    (height and width from ``[2, side]``) with probability 1/2 each, a place, one of four operators, and their
    exponents (Huang et al., 2023, section 4; Hendrycks et al., PixMix, 2022, for the exponents).

    Convention:
        Everything is per image and view. With structure ``"linear"`` there is one chain, and each step (instead of
        each chain) is image- or P-level. All draws come from one generator, on its device, in one block of uniforms.

    Args:
        batch: number of images, 0 allowed.
        size: ``(H, W)`` in pixels.
        settings: the resolved settings.
        views: augmented views of each image.
        pictures: number of pictures in the mixing set.
        side: side in pixels of the resized pictures, at least ``max(H, W)``.
        generator: of torch; None: torch's default generator of ``device``.
        device: where the record is drawn and kept; ignored with a generator, whose device counts.

    Returns:
        the record, with ``batch * views`` rows.

    Raises:
        ValueError: no patch fits (levels has ``"patch"`` but not ``"pixel"``, and no size is left).

    Example:
        >>> sample_example(batch=4).depth.shape
        torch.Size([4, 3])
    """
    s = settings
    if generator is not None:
        device = generator.device
    h, w = size
    n = batch * views
    k = 1 if s.structure == "linear" else s.k
    sides = list(s.patch_sizes) if "patch" in s.levels else []
    whole = "pixel" in s.levels
    if "patch" in s.levels and not sides and not whole:
        raise ValueError(f"levels={s.levels} needs a patch size smaller than the image, got an image of {h}x{w} pixels")

    u = torch.rand(n, k * (s.t * _PER_STEP + _PER_CHAIN) + 4, device=device, dtype=torch.float32, **drawn_by(generator))
    seed = torch.randint(-(2**63), 2**63 - 1, (n, k, s.t), device=device, **drawn_by(generator))
    draw = _Draw(u, sides, whole, k, size, s, pictures, side)
    # Tensors of torch's own kinds, such as fake ones, have no data to point at.
    plain = type(u) is Tensor and u.device.type == "cpu" and not torch.compiler.is_compiling()
    compiled = plain and mixaug_ext.library() is not None
    drawn = _derive_compiled(draw) if compiled else _derive(draw)
    mixed_input = s.structure == "mixed_input"
    return IPMixParams(size=(h, w), batch=batch, views=views, side=side, mixed_input=mixed_input, seed=seed, **drawn)


#: Uniforms of a step and of a chain; four more for each row.
_PER_STEP, _PER_CHAIN = 16, 3


class _Draw(NamedTuple):
    """The uniforms of a call, and all that turns them into a record."""

    u: Tensor
    sides: list[int]
    whole: bool
    k: int
    size: tuple[int, int]
    settings: IPMixSettings
    pictures: int
    side: int


def _derive(draw: _Draw) -> dict[str, Any]:
    """The record from its uniforms, in PyTorch: any device. Powers and logarithms in double, so that every device
    rounds to the same float32."""
    u, sides, whole, k, (h, w), s, pictures, side = draw
    n, device = len(u), u.device
    mixes = bool(sides) or whole
    step = u[:, : k * s.t * _PER_STEP].view(n, k, s.t, _PER_STEP).unbind(-1)
    chain = u[:, k * s.t * _PER_STEP : -4].view(n, k, _PER_CHAIN).unbind(-1)
    m, u_picture, u_top, u_left = u[:, -4:].unbind(-1)

    # Which steps mix: a coin a chain ("chain", "mixed_input") or a step ("linear").
    coin = step[0] if s.structure == "linear" else chain[0][..., None].expand(n, k, s.t)
    if "image" not in s.levels:
        coin = torch.ones_like(coin)
    p_level = coin >= 0.5 if mixes else torch.zeros_like(coin, dtype=torch.bool)

    image_op = _below(step[1], _operations(s))
    mix_op = len(IMAGE_OPERATIONS) + _below(step[2], len(MIXING_OPERATIONS))
    level = LOWEST + (s.severity - LOWEST) * step[3]

    # Patches: the choice after the last side is the whole image.
    choices = torch.tensor([*sides, 0], device=device)
    choice = _below(step[5], len(sides) + whole) if mixes else torch.full_like(image_op, len(sides))
    edge = choices[choice]
    square = step[6] < 0.5
    height = torch.where(square, edge, 2 + _below(step[7], edge - 1))
    width = torch.where(square, edge, 2 + _below(step[8], edge - 1))
    full = choice == len(sides)
    height, width = torch.where(full, h, height), torch.where(full, w, width)
    y0, x0 = _below(step[9], h - height + 1), _below(step[10], w - width + 1)

    # Beta(b, 1) is U^(1/b); Beta(1, b) its complement.
    first = (step[11].double() ** (1.0 / s.beta)).float()
    second = (1.0 - step[12].double() ** (1.0 / s.beta)).float()
    plain = step[13] < 0.5
    exponential = (-torch.log1p(-chain[2].double())).float()
    # All-zero draws (probability 2^-24k) would divide by zero: the smallest positive float makes them uniform.
    exponential = exponential.clamp_min(torch.finfo(torch.float32).tiny).double()
    return {
        "depth": _below(chain[1], s.t + 1),
        "weight": (exponential / exponential.sum(1, keepdim=True)).float(),
        "m": m.contiguous(),
        "op": torch.where(p_level, mix_op, image_op),
        "level": level,
        "sign": torch.where(step[4] < 0.5, -1, 1),
        "box": torch.stack([x0, y0, x0 + width, y0 + height], -1),
        "a": torch.where(plain, first, 2.0 - first),  # else-branch: 1 + Beta(1, beta)
        "b": torch.where(plain, second, -second),
        "keep": step[15].contiguous(),
        "source": torch.where((step[14] < s.self_mix) & p_level, image_op, -1),
        "picture": _below(u_picture, pictures),
        "top": _below(u_top, side - h + 1),
        "left": _below(u_left, side - w + 1),
    }


def _derive_compiled(draw: _Draw) -> dict[str, Any]:
    """:func:`_derive` in C++, the same numbers from the same uniforms."""
    from mixaug_ext._ipmix import sample

    s = draw.settings
    sizes = {
        "k": draw.k,
        "t": s.t,
        "height": draw.size[0],
        "width": draw.size[1],
        "whole": draw.whole,
        "linear": s.structure == "linear",
        "image_level": "image" in s.levels,
        "operations": _operations(s),
        "pictures": draw.pictures,
        "side": draw.side,
    }
    return sample(draw.u, draw.sides, sizes, s.severity, s.beta, s.self_mix)


def _operations(s: IPMixSettings) -> int:
    return len(IMAGE_OPERATIONS) if s.all_ops else DISJOINT


def sample_example(batch: int = 2) -> IPMixParams:
    """A small record with the default settings at 32 px, for examples and docs.

    Args:
        batch: number of images.

    Example:
        >>> sample_example().batch
        2
    """
    settings = IPMixSettings(3, 3, 3.0, 3.0, (4, 8, 16), 0.0, "chain", LEVELS, False)
    generator = torch.Generator().manual_seed(0)
    return sample_ipmix(batch, (32, 32), settings, pictures=512, side=36, generator=generator)


def _below(u: Tensor, n: int | Tensor) -> Tensor:
    """Uniform integers in ``0..n-1`` from uniforms in ``[0, 1)``.

    float32 times n can round up to n itself (u = 1 - 2^-24), hence the clamp.
    """
    drawn = (u * n).long()
    if isinstance(n, Tensor):
        return torch.minimum(drawn, n - 1).clamp_min(0)
    return drawn.clamp_max(n - 1)
