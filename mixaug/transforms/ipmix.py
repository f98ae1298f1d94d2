"""IPMix as a transform: in a pipeline on one image, or after the loader on a batch.

Paper: Huang et al., "IPMix: Label-Preserving Data Augmentation Method for Training Robust Classifiers", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torchvision.transforms import v2

import mixaug_ext
from mixaug._checks import (
    MAX_CHAINS,
    MAX_SIDE,
    check_choice,
    check_choices,
    check_flag,
    check_int,
    check_ints,
    check_number,
)
from mixaug._random import Drawing, GeneratorState, drawn_by
from mixaug._records import reads_values
from mixaug.ops.ipmix import carry_out, check_ipmix
from mixaug.ops.ipmix_record import DISJOINT, IMAGE_OPERATIONS, MIXING_OPERATIONS, IPMixParams
from mixaug.transforms import sample as _sample
from mixaug.transforms.images import DTYPES, ImageBatch, check_values, is_image, to_batch

if TYPE_CHECKING:
    from mixaug.mixing_sets.pictures import PictureBank


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


#: Images with a shorter side take the defaults of 32-px images, others those of 224-px images.
_SMALL = 64


class IPMix(Drawing, v2.Transform):
    r"""Label-preserving mixing of image-, patch- and pixel-level augmentations with synthetic pictures.

    .. math:: out = (1 - m)\, x + m \sum_{i=1}^{k} w_i\, chain_i(x), \ w \sim Dirichlet(1, .., 1),\ m \sim Beta(1, 1)

    (Huang et al., NeurIPS 2023, Fig. 3). Each chain takes 0 to ``t`` steps. An image-level chain applies random PIL
    operations; a P-level chain mixes patches or the whole image with a synthetic picture by one of four operators.

    Convention:
        Everything is drawn anew for each image (for each clip of a video: its frames share the draw). Labels are
        untouched. Chains work on bytes; the skip connection uses the image as it is. The result depends on one image
        and one picture only, so batched and one-by-one results are equal for the same record.

    Args:
        k: number of chains, at least 1. Default 3.
        t: most steps of a chain, at least 1; depth ``~ U{0..t}``. Default 3.
        severity: strengths are ``L ~ U(0.1, severity)``, in ``[0.1, 10]``. Default by size: 3 when the shorter side is
            under 64 pixels, else 1.
        beta: parameter of the mixing exponents, above 0. Default by size: 3 or 4.
        patch_sizes: sides of the patches in pixels, each at least 2. Default by size: those of 4, 8, 16 (from 64
            pixels on also 32, 64) that are smaller than the image.
        self_mix: probability in ``[0, 1]`` that a mixing step takes an augmented copy of the image itself instead of
            the picture. Default by size: 0 or 0.5.
        structure: ``"chain"`` (default), ``"linear"`` (one chain in which each step is image- or P-level) or
            ``"mixed_input"`` (each chain starts from the result of the one before).
        levels: which of ``"image"``, ``"patch"``, ``"pixel"`` are used, for ablations. Default all.
        all_ops: image-level steps also draw autocontrast, color, contrast, brightness, sharpness, which overlap with
            the ImageNet-C corruptions. Default False.
        n_views: 1 returns the augmented images; ``n >= 2`` returns the tuple ``(clean, view_1, ..., view_n)`` for
            :func:`mixaug.losses.jensen_shannon`.
        mixing_set: a :class:`mixaug.MixingSet`, or a stream of one; None: ``MixingSet.default()``, 512 fractals, each
            made when an image is first mixed with it (for images of 32 px they come with the package).
        generator: of torch. In loader workers its seed is combined with the worker's, so that workers and epochs
            differ (and with ``RANK``); the same run repeats under the same ``torch.manual_seed``.
        check_values: check every batch for NaN and range, not just the first (on a GPU this waits for the device).
        images_getter: where the images of a sample are. ``"default"``: all PIL images, ``tv_tensors.Image`` and
            ``Video``; if there are none, the first plain tensor that can be an image or a batch, an entry under
            ``image`` or ``pixel_values`` before others, and never one under a key that names something else (``mask``,
            ``depth``, ``label``, ``id``). Or a function of the sample that returns the entry, or several.

    Shape:
        In: PIL image (RGB or L; P becomes RGB), ``(C, H, W)``, ``(B, C, H, W)``, or clips ``(..., T, C, H, W)``; C 1 or
        3; uint8 in ``0..255`` or float16, bfloat16, float32 in ``[0, 1]``; ``tv_tensors.Image`` and ``Video``.
        Out: the same kind, shape, dtype, device and memory format.

    Raises:
        TypeError: an argument or input of another kind or dtype; a sample without images, or with torchvision's boxes,
            masks or key points while ``"image"`` is in ``levels`` (its geometric operations would make them wrong).
        ValueError: an argument out of range, a wrong shape, a patch larger than the image, images that are not finite.

    Note:
        The authors' code works on one PIL image at a time. Differences and the decisions where the paper is silent are
        in ``docs/methods/ipmix.md``.

    Example:
        >>> from mixaug import MixingSet
        >>> pictures = MixingSet.from_tensor(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
        >>> ipmix = IPMix(mixing_set=pictures, generator=torch.Generator().manual_seed(0))
        >>> ipmix(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self,
        k: int = 3,
        t: int = 3,
        severity: float | None = None,
        beta: float | None = None,
        patch_sizes: Sequence[int] | None = None,
        self_mix: float | None = None,
        structure: str = "chain",
        levels: Sequence[str] = LEVELS,
        all_ops: bool = False,
        n_views: int = 1,
        mixing_set: PictureBank | None = None,
        generator: torch.Generator | None = None,
        *,
        check_values: bool = False,
        images_getter: str | _sample.Getter = "default",
    ) -> None:
        super().__init__()
        self.k = check_int("k", k, 1, MAX_CHAINS)
        self.t = check_int("t", t, 1, MAX_CHAINS)
        self.n_views = check_int("n_views", n_views, 1, MAX_CHAINS)
        self.severity = None if severity is None else check_number("severity", severity, LOWEST, 10.0)
        self.beta = None if beta is None else check_number("beta", beta, 1e-3, 1e3)
        self.self_mix = None if self_mix is None else check_number("self_mix", self_mix, 0.0, 1.0)
        self.patch_sizes = None if patch_sizes is None else check_ints("patch_sizes", patch_sizes, 2, MAX_SIDE)
        self.structure = check_choice("structure", structure, STRUCTURES)
        chosen = check_choices("levels", levels, LEVELS)
        self.levels = tuple(level for level in LEVELS if level in chosen)
        self.all_ops = check_flag("all_ops", all_ops)
        if mixing_set is not None and not hasattr(mixing_set, "resized"):
            raise TypeError(f"mixing_set must be a MixingSet or None, got {type(mixing_set).__name__}")
        self._mixing_set = mixing_set
        self._random = GeneratorState(generator)
        self.check_values = check_flag("check_values", check_values)
        self._images_getter = _sample.parse_getter("images_getter", images_getter)
        self._checked = self._replayed = False

    @property
    def mixing_set(self) -> PictureBank:
        """The pictures that are mixed in; the default set is the same object in all transforms."""
        if self._mixing_set is None:
            from mixaug.mixing_sets import MixingSet

            self._mixing_set = MixingSet.default()
        return self._mixing_set

    def settings(self, size: tuple[int, int]) -> IPMixSettings:
        """The arguments with the defaults for images of ``size`` filled in.

        Args:
            size: ``(H, W)`` in pixels.

        Raises:
            ValueError: a given patch size is larger than the image.

        Example:
            >>> IPMix().settings((32, 32)).patch_sizes
            (4, 8, 16)
        """
        short = min(size)
        small = short < _SMALL
        if self.patch_sizes is None:
            patch_sizes = tuple(side for side in ((4, 8, 16) if small else (4, 8, 16, 32, 64)) if side < short)
        else:
            patch_sizes = self.patch_sizes
            if "patch" in self.levels and max(patch_sizes) > short:
                raise ValueError(
                    f"patch_sizes must be at most the shorter side of the image ({short} pixels), "
                    f"got {max(patch_sizes)}"
                )
        return IPMixSettings(
            k=self.k,
            t=self.t,
            severity=(3.0 if small else 1.0) if self.severity is None else self.severity,
            beta=(3.0 if small else 4.0) if self.beta is None else self.beta,
            patch_sizes=patch_sizes,
            self_mix=(0.0 if small else 0.5) if self.self_mix is None else self.self_mix,
            structure=self.structure,
            levels=self.levels,
            all_ops=self.all_ops,
        )

    def sample(self, images: Any, *, generator: torch.Generator | None = None) -> IPMixParams:
        """Draws a record for ``images`` without touching them; :meth:`replay` carries it out.

        Args:
            images: any input of the transform.
            generator: of torch; None: the transform's own.

        Returns:
            the record, on the generator's device (without one: on the images').

        Example:
            >>> IPMix(levels=("image",)).sample(torch.rand(5, 3, 32, 32)).depth.shape
            torch.Size([5, 3])
        """
        return self._sample(to_batch(images), generator)

    def replay(self, images: Any, params: IPMixParams) -> Any:
        """Carries out a record: no randomness.

        The record's values are checked on the CPU; on a GPU at the first replay, or with ``check_values`` (the host
        waits then; a transform without P-level steps also waits for a GPU to learn whether the record takes pictures).

        Args:
            images: of the batch size and image size that ``params`` was drawn for.
            params: of :meth:`sample`, of this transform or of another one whose mixing set has as many pictures or
                fewer; its pictures come from this transform's set. Moved to the images' device; compact dtypes (int32,
                uint8, float16) are cast.

        Returns:
            as the transform itself: the images, or ``(clean, view_1, ..., view_n)`` when ``n_views > 1``.

        Raises:
            TypeError: the record, or a field of it, is of another kind or dtype.
            ValueError: the record does not fit the images or the mixing set, or a value of it is out of range.

        Example:
            >>> ipmix, images = IPMix(levels=("image",)), torch.rand(5, 3, 32, 32)
            >>> params = ipmix.sample(images)
            >>> ipmix.replay(images, params).equal(ipmix.replay(images, params))
            True
        """
        batch = to_batch(images)
        device, size = batch.images.device, (batch.images.shape[2], batch.images.shape[3])
        values = reads_values(device, self.check_values or not self._replayed)
        # A record of another transform may take pictures where this one draws none.
        pictures = len(self.mixing_set) if self._needs_pictures else None
        params = check_ipmix(params, batch.batch, size, pictures, device, values)
        if pictures is None and _takes_pictures(params):
            if self._mixing_set is None:
                raise ValueError(
                    f"params takes pictures, which levels={self.levels} does not draw: give IPMix its mixing_set"
                )
            pictures = len(self.mixing_set)
            params = check_ipmix(params, batch.batch, size, pictures, device, values)
        self._replayed = True
        return self._carry_out(batch, params, pictures is not None)

    def forward(self, *inputs: Any) -> Any:
        """Augments an image, a batch, or the images of a sample.

        Args:
            inputs: the images, or one sample (tuple, list, mapping, nested) with what belongs to them.

        Returns:
            the sample with the images replaced; everything else as it was.
        """
        sample = inputs[0] if len(inputs) == 1 else inputs
        entries = _sample.entries_of(sample, _sample.PICTURES)
        if "image" in self.levels:
            _sample.check_fixed(
                entries,
                "IPMix moves the image",
                ", which would no longer fit. Leave it out of the sample, or use levels=('patch', 'pixel'), which move "
                "nothing.",
            )
        found = _sample.find_images(sample, entries, self._images_getter, _can_be_images, "a PIL image or a tensor")
        try:
            params = self.make_params([entry.value for entry in found])
            out = {entry.path: self.transform(entry.value, params) for entry in found}
        except (TypeError, ValueError) as error:
            raise _sample.named_entries(error, sample, found) from error
        return _sample.replaced(sample, out)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """torchvision's hook: draws once for the images of a sample (several images of one sample share the draw)."""
        batches = [to_batch(value) for value in flat_inputs if is_image(value)]
        first = batches[0]
        for other in batches[1:]:
            if (other.batch, other.images.shape[-2:]) != (first.batch, first.images.shape[-2:]):
                raise ValueError(
                    "the images of one sample share their draw and must have one size, got "
                    f"{tuple(first.images.shape)} and {tuple(other.images.shape)}"
                )
        return {"ipmix": self._sample(first, None)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """torchvision's hook: carries the record out on one input."""
        return self._carry_out(to_batch(inpt), params["ipmix"], self._needs_pictures) if is_image(inpt) else inpt

    def extra_repr(self) -> str:
        """The arguments that are not at their defaults by size."""
        names = ("k", "t", "severity", "beta", "patch_sizes", "self_mix", "structure", "levels", "all_ops", "n_views")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _sample(self, batch: ImageBatch, generator: torch.Generator | None) -> IPMixParams:
        images = batch.images
        size = (images.shape[2], images.shape[3])
        return sample_ipmix(
            batch.batch,
            size,
            self.settings(size),
            views=self.n_views,
            pictures=len(self.mixing_set) if self._needs_pictures else 1,
            side=max(1, 8 * max(size) // 7),
            generator=generator if generator is not None else self._random.current(),
            device=images.device,
        )

    def _carry_out(self, batch: ImageBatch, params: IPMixParams, takes_pictures: bool) -> Any:
        """The result of a record that is checked, or just drawn."""
        images = batch.images
        self._check(images)
        if params.m.device != images.device:
            params = params.to(images.device)
        params = params.repeat_interleave(batch.frames)
        out = carry_out(images, params, self._pictures(params, images.device, takes_pictures))
        if params.views == 1:
            return batch.restore(out)
        views = out.unflatten(0, (params.views, images.shape[0])).unbind(0)
        return (batch.source, *(batch.restore(view) for view in views))

    def _check(self, images: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        single = images.device.type == "cpu" and len(images) == 1
        if single or self.check_values or not self._checked:
            check_values(images)
            self._checked = True

    @property
    def _needs_pictures(self) -> bool:
        return "patch" in self.levels or "pixel" in self.levels

    def _pictures(self, params: IPMixParams, device: torch.device, takes_pictures: bool) -> Tensor:
        """The mixing set on ``device``, shrunk to the record's side; a smaller set is enlarged as patches need it."""
        if not takes_pictures:
            return torch.zeros(1, 3, 1, 1, dtype=torch.uint8, device=device)
        side = min(params.side, self.mixing_set.size)
        serving = getattr(self.mixing_set, "serving", None)  # a set of the user's own may have resized() alone
        if serving is None or params.picture.device != device:
            return self.mixing_set.resized(side, device)
        served: Tensor = serving(side, params.picture)
        return served


def _can_be_images(value: Tensor) -> bool:
    return value.dtype in DTYPES and 3 <= value.ndim <= 6 and value.shape[-3] in (1, 3)


def _takes_pictures(params: IPMixParams) -> bool:
    """Whether a step of the record mixes with a picture. Reads it, so a GPU makes the host wait."""
    if params.op.device.type == "meta" or torch.compiler.is_compiling():
        return True
    steps = torch.arange(params.op.shape[2], device=params.op.device) < params.depth[..., None]
    return bool((steps & (params.op >= len(IMAGE_OPERATIONS)) & (params.source < 0)).any())
