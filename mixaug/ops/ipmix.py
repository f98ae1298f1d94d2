"""IPMix's pure function: images and a record in, augmented images out. No randomness, nothing written to.

Three forms with the same bits: one call into C++ for CPU tensors and one CUDA launch for those on a GPU
(``mixaug_ext``), and PyTorch operations for every other device and for machines without the compiled libraries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import mixaug_ext
from mixaug._checks import check_flag, check_int, kind_of
from mixaug._records import Rule, Rules, check_record, holds_values, kept, reads_values
from mixaug.ops._select import update
from mixaug.ops.color import luma
from mixaug.ops.image import image_operation
from mixaug.ops.ipmix_record import IMAGE_OPERATIONS, OPERATIONS, IPMixParams
from mixaug.ops.mixing import mix, quantise
from mixaug.ops.warp import UNIT, taps

#: Rows of the PyTorch form that are worked on at once, in elements: its int64 index tensors are 8 times the images.
_CHUNK = {"cpu": 1 << 20, "cuda": 1 << 26}
#: Below this many elements a second thread costs more than it saves (20 us to start one, 3 ns an element and step).
_ELEMENTS_PER_THREAD = 1 << 14
#: Dtypes of images.
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)
#: Strength of an operation at most, side of an enlarged picture (whose coordinates fit 64 bits: 2^32 side^2), views.
_LEVEL, _SIDE, _VIEWS = 10.0, 46_340, 10_000
#: Names of the record's tensors, in order.
_RECORD = tuple(field.name for field in dataclasses.fields(IPMixParams) if field.type == "Tensor")


def replay_ipmix(images: Tensor, params: IPMixParams, pictures: Tensor) -> Tensor:
    r"""Carries out a record.

    .. math:: out = (1 - m)\, x + m \sum_i w_i\, chain_i(x)

    (Huang et al., 2023, Fig. 3). Chains work on bytes, ``round(255 x)``, rounded again after each step; the skip
    connection, and a chain without a step, use ``x`` as it is.

    Convention:
        Row ``r`` of the result is image ``r % B`` under row ``r`` of the record. Differentiable in ``images`` through
        the skip connection alone, since the chains quantise.

    Args:
        images: ``(B, C, H, W)``, C 1 or 3; uint8, or float16, bfloat16, float32 in ``[0, 1]``. Not written.
        params: a record drawn for this ``B`` and ``(H, W)``, on the images' device. Its values are checked on the CPU.
        pictures: ``(P, 3, S, S)`` uint8 on the images' device, the mixing set resized to ``params.side``; a
            smaller ``S`` is enlarged (bilinear) where a patch needs it.

    Returns:
        ``(B * views, C, H, W)``, same dtype, device and memory format. Halves are computed in float32.

    Raises:
        TypeError: images, pictures or a field of the record are of another kind or dtype (compact ints and floats of a
            record are cast, where that is exact).
        ValueError: the record was drawn for another batch or image size, ``pictures`` do not fit it, or a value of it
            is out of range. Those of a record on a GPU are not read: the kernel traps where it cannot use them.

    Example:
        >>> from mixaug.transforms.ipmix import sample_example
        >>> images, pictures = torch.rand(2, 3, 32, 32), torch.zeros(512, 3, 36, 36, dtype=torch.uint8)
        >>> replay_ipmix(images, sample_example(batch=2), pictures).shape
        torch.Size([2, 3, 32, 32])
    """
    params = _checked(images, params, pictures)
    return carry_out(images, params, pictures)


def carry_out(images: Tensor, params: IPMixParams, pictures: Tensor) -> Tensor:
    """:func:`replay_ipmix` of a record that is checked, or that the sampler has just made.

    Args:
        images: as there.
        params: as there.
        pictures: as there.
    """
    # Tensors of torch's own kinds, such as fake ones, have no data for a kernel: the operator knows what to do.
    if torch.compiler.is_compiling() or type(images) is not Tensor or images.requires_grad:
        record = [getattr(params, name) for name in _RECORD]
        return torch.ops.mixaug.ipmix(images, pictures, record, params.views, params.side, params.mixed_input)
    return _replay(images, params, pictures)


def ipmix_torch(images: Tensor, params: IPMixParams, pictures: Tensor) -> Tensor:
    """The PyTorch form of :func:`replay_ipmix`, for every device: same arguments, same result bit for bit.

    Args:
        images: as in :func:`replay_ipmix`.
        params: as there.
        pictures: as there.

    Returns:
        as there.

    Example:
        >>> from mixaug.transforms.ipmix import sample_example
        >>> images, pictures = torch.rand(2, 3, 32, 32), torch.zeros(512, 3, 36, 36, dtype=torch.uint8)
        >>> params = sample_example(batch=2)
        >>> ipmix_torch(images, params, pictures).equal(replay_ipmix(images, params, pictures))
        True
    """
    return _carry_out_torch(images, _checked(images, params, pictures), pictures)


def check_ipmix(
    params: Any, batch: int, size: tuple[int, int], pictures: int | None, device: torch.device, values: bool
) -> IPMixParams:
    """The record as it may be used, see :func:`mixaug._records.check_record`; moved to ``device``.

    Args:
        params: what was given as a record.
        batch: number of images.
        size: ``(H, W)`` of them.
        pictures: in the mixing set; None: the record takes none.
        device: of the images.
        values: read the values.

    Raises:
        TypeError: the record, or a field of it, is of another kind or dtype.
        ValueError: it does not fit the images, or a value is out of range.

    Example:
        >>> from mixaug.transforms.ipmix import sample_example
        >>> check_ipmix(sample_example(), 2, (32, 32), 512, torch.device("cpu"), True).batch
        2
    """
    side = _side(params)
    h, w = size
    if not isinstance(params.size, (tuple, list, torch.Size)) or (params.batch, *params.size) != (batch, h, w):
        raise ValueError(
            f"params was drawn for {params.batch} images of size {params.size}, got {batch} images of {h}x{w} pixels"
        )
    views = check_int("params.views", params.views, 1, _VIEWS)
    check_int("params.side", side, max(h, w), _SIDE)
    check_flag("params.mixed_input", params.mixed_input)
    op = params.op
    if not isinstance(op, Tensor):
        raise TypeError(f"params.op must be a tensor, got {kind_of(op)}")
    if op.ndim != 3 or op.shape[0] != batch * views:
        raise ValueError(f"params.op must have shape ({batch * views}, k, t), got {tuple(op.shape)}")
    n, k, t = op.shape
    return check_record(params, _rules(n, k, t, h, w, side, pictures), device, values=values, move=True)


@kept
def _rules(n: int, k: int, t: int, h: int, w: int, side: int, pictures: int | None) -> Rules:
    ints, floats, step = torch.int64, torch.float32, (n, k, t)
    return Rules(
        depth=Rule(ints, (n, k), 0, t),
        weight=Rule(floats, (n, k), 0.0, 1.0),
        m=Rule(floats, (n,), 0.0, 1.0),
        op=Rule(ints, step, 0, len(OPERATIONS) - 1),
        level=Rule(floats, step, 0.0, _LEVEL),
        sign=Rule(ints, step, kind="sign"),
        box=Rule(ints, (*step, 4), h, w, kind="box"),
        a=Rule(floats, step, 0.0, 2.0),
        b=Rule(floats, step, -1.0, 1.0),
        keep=Rule(floats, step, 0.0, 1.0),
        seed=Rule(ints, step),
        source=Rule(ints, step, -1, len(IMAGE_OPERATIONS) - 1),
        picture=Rule(ints, (n,), 0, 2**62 if pictures is None else pictures - 1),
        top=Rule(ints, (n,), 0, side - h),
        left=Rule(ints, (n,), 0, side - w),
    )


def _checked(images: Any, params: Any, pictures: Any) -> IPMixParams:
    """The record as it may be used on these images and with these pictures; everything is checked."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {kind_of(images)}")
    if images.dtype not in DTYPES:
        raise TypeError(f"images must be uint8, float16, bfloat16 or float32, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:] or images.layout != torch.strided:
        raise ValueError(f"images must be (B, C, H, W) with C 1 or 3, got shape {tuple(images.shape)}")
    if not isinstance(pictures, Tensor):
        raise TypeError(f"pictures must be a tensor, got {kind_of(pictures)}")
    bank, side = pictures.shape[-1] if pictures.ndim else 0, _side(params)
    if pictures.shape[1:] != (3, bank, bank) or not 0 < bank <= side or pictures.dtype != torch.uint8:
        raise ValueError(
            f"pictures must be uint8 of shape (P, 3, S, S) with S at most {side}, "
            f"got {pictures.dtype} of shape {tuple(pictures.shape)}"
        )
    if pictures.device != images.device:
        raise ValueError(f"pictures must be on the images' device {images.device}, got {pictures.device}")
    size = images.shape[2], images.shape[3]
    values = reads_values(images.device) and holds_values(images)
    return check_ipmix(params, images.shape[0], size, len(pictures), images.device, values)


def _side(params: Any) -> int:
    if not isinstance(params, IPMixParams):
        raise TypeError(f"params must be IPMixParams, got {kind_of(params)}")
    return check_int("params.side", params.side, 1, _SIDE)


def _carry_out_torch(images: Tensor, params: IPMixParams, pictures: Tensor) -> Tensor:
    out = _empty_rows(images, params.views)
    if out.numel() == 0:
        return out
    skip, coef = mixture_coefficients(params, images.dtype)
    elements = images[0].numel()
    chunk = max(1, _CHUNK.get(images.device.type, _CHUNK["cuda"]) // elements)
    for view in range(params.views):
        for first in range(0, params.batch, chunk):
            count = min(chunk, params.batch - first)
            row = slice(view * params.batch + first, view * params.batch + first + count)
            out[row] = _replay_rows(images[first : first + count], params, row, skip[row], coef[row], pictures)
    return out


def mixture_coefficients(params: IPMixParams, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights of the image and of each chain's bytes in the sum: ``out = skip x + sum_i coef_i chain_i``.

    A chain that has taken no step is the image itself, so its weight is part of ``skip``, which is exactly 1 when no
    chain takes a step.

    Args:
        params: a record.
        dtype: of the images: for float images ``coef`` holds the factor 1/255 of the chains' bytes.

    Returns:
        ``skip (N,)`` and ``coef (N, k)``, float32.

    Example:
        >>> from mixaug.transforms.ipmix import sample_example
        >>> skip, coef = mixture_coefficients(sample_example(), torch.uint8)
        >>> torch.allclose(skip + coef.sum(1), torch.ones(2))
        True
    """
    started = params.depth > 0
    if params.mixed_input:
        started = started.cumsum(1) > 0
    coef = params.m[:, None] * params.weight * started
    skip = (1.0 - coef.sum(1)).clamp_min(0.0)
    return skip, coef if dtype == torch.uint8 else coef / 255.0


def _replay(images: Tensor, params: IPMixParams, pictures: Tensor) -> Tensor:
    from mixaug_ext._ipmix import ipmix, ipmix_cuda, usable_on_gpu

    images = images.resolve_neg()  # a view of complex numbers may owe its sign
    if usable_on_gpu(images):
        result = _empty_rows(images.detach(), params.views)
        if result.numel():
            record = _record_of(params, images.dtype)
            side, mixed_input = params.side, params.mixed_input
            ipmix_cuda(images.detach(), result, pictures.contiguous(), record, side=side, mixed_input=mixed_input)
        return result
    if images.device.type != "cpu" or not _compiled_cpu():
        return _carry_out_torch(images, params, pictures)
    half = images.dtype in (torch.float16, torch.bfloat16)
    source = images.detach().float() if half else images.detach()
    out = _empty_rows(source, params.views)
    if out.numel() == 0:
        return out.to(images.dtype)
    record = _record_of(params, images.dtype)
    threads = max(1, min(torch.get_num_threads(), out.numel() // _ELEMENTS_PER_THREAD))
    ipmix(source, out, pictures.contiguous(), record, side=params.side, mixed_input=params.mixed_input, threads=threads)
    return out.to(images.dtype)


def _record_of(params: IPMixParams, dtype: torch.dtype) -> dict[str, Tensor]:
    """The record's tensors as the kernels take them: contiguous, with the weights as the two kinds of coefficients."""
    skip, coef = mixture_coefficients(params, dtype)
    record = {name: tensor.contiguous() for name, tensor in params.tensors().items() if name not in ("weight", "m")}
    return record | {"skip": skip.contiguous(), "coef": coef.contiguous()}


def _compiled_cpu() -> bool:
    """Whether the C++ form can be used; says so once when it cannot."""
    if mixaug_ext.library() is not None:
        return True
    mixaug_ext.warn_without()
    return False


def _replay_rows(
    images: Tensor, params: IPMixParams, row: slice, skip: Tensor, coef: Tensor, pictures: Tensor
) -> Tensor:
    """One chunk of one view: a loop over chains and steps, each step over all images of the chunk."""
    base = quantise(images)
    depth, op, level, sign = params.depth[row], params.op[row], params.level[row], params.sign[row]
    crops = _crops(pictures, params.picture[row], params.top[row], params.left[row], params)
    if images.shape[1] == 1:
        crops = luma(crops)
    per_image = (1, 1, 1)
    total = skip.view(-1, *per_image) * images.float()
    start = base
    for i in range(depth.shape[1]):
        current = start
        for j in range(op.shape[2]):
            active = depth[:, i] > j
            image_level = op[:, i, j] < len(IMAGE_OPERATIONS)
            step = (op[:, i, j], level[:, i, j], sign[:, i, j])
            own = params.source[row][:, i, j]

            def augmented_self(_: Tensor, x: Tensor, own: Tensor, level: Tensor, sign: Tensor) -> Tensor:
                return image_operation(x, own, level, sign)

            sources = update(crops, active & ~image_level & (own >= 0), augmented_self, base, own, *step[1:])
            mixing = [getattr(params, name)[row][:, i, j] for name in ("a", "b", "keep", "seed", "box")]
            mixed = update(current, active & ~image_level, mix, sources, step[0], *mixing)
            current = update(mixed, active & image_level, image_operation, *step)
        if params.mixed_input:
            start = current
        total = total + coef[:, i].view(-1, *per_image) * current.float()
    if images.dtype == torch.uint8:
        return total.clamp(0.0, 255.0).round().to(torch.uint8)
    return total.clamp(0.0, 1.0).to(images.dtype)


def _crops(pictures: Tensor, picture: Tensor, top: Tensor, left: Tensor, params: IPMixParams) -> Tensor:
    """``(n, 3, H, W)`` crops of the pictures, enlarged to ``params.side`` if they are smaller, by gathers."""
    (h, w), bank = params.size, pictures.shape[-1]
    y = top[:, None, None] + torch.arange(h, device=top.device)[:, None]
    x = left[:, None, None] + torch.arange(w, device=left.device)
    picture = picture[:, None, None]
    if bank == params.side:
        return pictures[picture, :, y, x].permute(0, 3, 1, 2)
    # Fixed point as in a warp: centres aligned, 11 bits of weight, rounded.
    y0, y1, fy, _ = taps((((2 * y + 1) * bank) << 31) // params.side, bank)
    x0, x1, fx, _ = taps((((2 * x + 1) * bank) << 31) // params.side, bank)
    fy, fx = fy[..., None], fx[..., None]
    high = pictures[picture, :, y0, x0] * (UNIT - fx) + pictures[picture, :, y0, x1] * fx
    low = pictures[picture, :, y1, x0] * (UNIT - fx) + pictures[picture, :, y1, x1] * fx
    value = (high * (UNIT - fy) + low * fy + UNIT * UNIT // 2) // (UNIT * UNIT)
    return value.to(torch.uint8).permute(0, 3, 1, 2)


def _empty_rows(images: Tensor, views: int) -> Tensor:
    """Uninitialised ``(B * views, C, H, W)`` with the images' memory format."""
    if views == 1:
        return torch.empty_like(images)
    channels_last = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return images.new_empty((images.shape[0] * views, *images.shape[1:])).contiguous(memory_format=memory_format)


# The same function as an operator, so that torch.compile and autograd see one node. Eager calls skip it: the
# dispatcher's Python layers cost 60 us a call, a tenth of a single 32-px image.
@torch.library.custom_op("mixaug::ipmix", mutates_args=())
def _ipmix_op(
    images: Tensor, pictures: Tensor, record: Sequence[Tensor], views: int, side: int, mixed_input: bool
) -> Tensor:
    # Called by its name, or with another record than its graph was traced with: nobody has looked at this one.
    return _replay(images, _checked(images, _params_of(images, record, views, side, mixed_input), pictures), pictures)


@_ipmix_op.register_fake
def _(images: Tensor, pictures: Tensor, record: Sequence[Tensor], views: int, side: int, mixed_input: bool) -> Tensor:
    return _empty_rows(images, views)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, _, record, views, side, mixed_input = inputs
    params = _params_of(images, record, views, side, mixed_input)
    ctx.save_for_backward(mixture_coefficients(params, images.dtype)[0])
    ctx.views = views


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (skip,) = ctx.saved_tensors
    through = (grad * skip.view(-1, 1, 1, 1).to(grad.dtype)).unflatten(0, (ctx.views, -1)).sum(0)
    return through, None, [None] * len(_RECORD), None, None, None


_ipmix_op.register_autograd(_backward, setup_context=_setup_context)


def _params_of(images: Tensor, record: Sequence[Tensor], views: int, side: int, mixed_input: bool) -> IPMixParams:
    tensors = dict(zip(_RECORD, record, strict=True))
    size = (images.shape[2], images.shape[3])
    return IPMixParams(size, len(images), views, side, mixed_input, **tensors)
