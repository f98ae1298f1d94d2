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
from mixaug.ops._select import update
from mixaug.ops.color import luma
from mixaug.ops.image import image_operation
from mixaug.ops.ipmix_record import IMAGE_OPERATIONS, IPMixParams
from mixaug.ops.mixing import mix, quantise
from mixaug.ops.warp import UNIT, taps

#: Rows of the PyTorch form that are worked on at once, in elements: its int64 index tensors are 8 times the images.
_CHUNK = {"cpu": 1 << 20, "cuda": 1 << 26}
#: Below this many elements a second thread costs more than it saves (20 us to start one, 3 ns an element and step).
_ELEMENTS_PER_THREAD = 1 << 14
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
        params: a record drawn for this ``B`` and ``(H, W)``.
        pictures: ``(P, 3, S, S)`` uint8 on the images' device, the mixing set resized to ``params.side``; a
            smaller ``S`` is enlarged (bilinear) where a patch needs it.

    Returns:
        ``(B * views, C, H, W)``, same dtype, device and memory format. Halves are computed in float32.

    Raises:
        ValueError: the record was drawn for another batch or image size, or ``pictures`` do not fit it.

    Example:
        >>> from mixaug.transforms.ipmix_params import sample_example
        >>> images, pictures = torch.rand(2, 3, 32, 32), torch.zeros(512, 3, 36, 36, dtype=torch.uint8)
        >>> replay_ipmix(images, sample_example(batch=2), pictures).shape
        torch.Size([2, 3, 32, 32])
    """
    if (images.shape[0], *images.shape[2:]) != (params.batch, *params.size):
        raise ValueError(
            f"params was drawn for {params.batch} images of {params.size[0]}x{params.size[1]} pixels, "
            f"got images of shape {tuple(images.shape)}"
        )
    bank = pictures.shape[-1]
    if pictures.shape[1:] != (3, bank, bank) or bank > params.side or pictures.dtype != torch.uint8:
        raise ValueError(
            f"pictures must be uint8 of shape (P, 3, S, S) with S at most {params.side}, "
            f"got {pictures.dtype} of shape {tuple(pictures.shape)}"
        )
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
        >>> from mixaug.transforms.ipmix_params import sample_example
        >>> images, pictures = torch.rand(2, 3, 32, 32), torch.zeros(512, 3, 36, 36, dtype=torch.uint8)
        >>> params = sample_example(batch=2)
        >>> ipmix_torch(images, params, pictures).equal(replay_ipmix(images, params, pictures))
        True
    """
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
        >>> from mixaug.transforms.ipmix_params import sample_example
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

    if usable_on_gpu(images):
        result = _empty_rows(images.detach(), params.views)
        if result.numel():
            record = _record_of(params, images.dtype)
            side, mixed_input = params.side, params.mixed_input
            ipmix_cuda(images.detach(), result, pictures.contiguous(), record, side=side, mixed_input=mixed_input)
        return result
    if images.device.type != "cpu" or not _compiled_cpu():
        return ipmix_torch(images, params, pictures)
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
    return _replay(images, _params_of(images, record, views, side, mixed_input), pictures)


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
