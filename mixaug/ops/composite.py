"""Box compositing: partners shown inside the union of each image's boxes, the image itself outside.

Three forms with the same bits: one pass in C++ for CPU tensors, one in CUDA for GPU tensors (``mixaug_ext``), and
PyTorch operations for every other device and dtype and for machines without the compiled library.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixaug._records import reads_values
from mixaug_ext import _composite

__all__ = ["box_mask", "composite_boxes", "composite_boxes_torch", "union_area"]

#: Dtypes of images. float64 is computed in float64, by the PyTorch form; the others in float32.
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def composite_boxes(
    base: Tensor,
    a: Tensor,
    boxes: Tensor,
    *,
    b: Tensor | None = None,
    beta: Tensor | None = None,
    index_a: Tensor | None = None,
    index_b: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Composites one or two partners into the union of each image's boxes.

    .. math:: out_i = \begin{cases} \beta_i\, a_{\pi(i)} + (1 - \beta_i)\, b_{\rho(i)} & \text{inside the union of
        image } i\text{'s boxes} \\ base_i & \text{outside} \end{cases}

    With two views of the image this is steps 3 and 4 of Dynamic MixCut's Algorithm 1 in one pass; with ``b=None`` it is
    the cut and paste of CutMix (Yun et al., 2019, arXiv:1905.04899), where ``out = a`` inside.

    Convention:
        Boxes are XYXY, half-open, in pixels: ``(x0, y0, x1, y1)`` covers columns ``x0 .. x1 - 1``. They are clipped to
        the image; one without pixels covers nothing. Where boxes overlap a pixel counts, and is blended, once. The
        blend is ``beta a + (1 - beta) b`` in float32, rounded once to the images' dtype, for bytes half to even.
        Partners given by index are read where they lie: no permuted copy of the batch is made. Outside the boxes
        nothing of ``a`` and ``b`` is read, inside nothing of ``base``.

    Args:
        base: the images.
        a: first partner: image ``i`` takes ``a[index_a[i]]``, without an index ``a[i]``.
        boxes: boxes of each image; the same number for all, empty ones to have fewer. 0 is allowed.
        b: second partner; None (default): ``a`` alone.
        beta: weight of ``a`` in ``[0, 1]``, one for each image; needed with ``b`` and only then.
        index_a: row of ``a`` for each image, in ``[0, len(a))``. With it ``a`` may have any number of rows, and may be
            ``base`` itself.
        index_b: likewise for ``b``.

    Shape:
        base: ``(B, C, H, W)`` uint8, float16, bfloat16, float32 or float64, any strides. a, b: the same dtype and
        ``(C, H, W)``; ``B`` rows, or any number with an index. boxes: ``(B, N, 4)`` int64. beta: ``(B,)`` float32
        (float64 for float64 images). index: ``(B,)`` int64. All on one device.

    Returns:
        ``(out, area)``: ``out`` as ``base``, in its memory format (contiguous or channels_last); ``area (B,)`` int64,
        the exact number of pixels in each union.

    Raises:
        TypeError: an argument of another kind or dtype.
        ValueError: shapes or devices that do not fit, ``beta`` without ``b`` or ``b`` without ``beta``, or (read on the
            CPU) ``beta`` outside of ``[0, 1]``.
        IndexError: an index out of range (on a GPU the kernel traps, as torch's own indexing does).

    Note:
        Differentiable in ``base``, ``a``, ``b`` and ``beta``. Under ``torch.compile`` it is one node,
        ``mixaug::composite_boxes``; it waits for no device, so CUDA graphs capture it.

    Example:
        >>> base, partner = torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3)
        >>> out, area = composite_boxes(base, partner, torch.tensor([[[1, 0, 3, 1]]]))
        >>> out[0, 0].tolist(), area.tolist()
        ([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], [2])
    """
    _check(base, a, b, beta, boxes, index_a, index_b)
    differentiated = (
        base.requires_grad
        or a.requires_grad
        or (b is not None and beta is not None and (b.requires_grad or beta.requires_grad))
    )
    # Tensors of torch's own kinds, such as fake ones, have no data for a kernel: the operator knows what to do.
    special = type(base) is not Tensor or torch.compiler.is_compiling()
    if special or (differentiated and torch.is_grad_enabled()):
        return torch.ops.mixaug.composite_boxes(base, a, b, beta, boxes, index_a, index_b)
    return _forward(base, a, b, beta, boxes, index_a, index_b)


def composite_boxes_torch(
    base: Tensor,
    a: Tensor,
    boxes: Tensor,
    *,
    b: Tensor | None = None,
    beta: Tensor | None = None,
    index_a: Tensor | None = None,
    index_b: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The PyTorch form of :func:`composite_boxes`, for every device: same arguments, same result bit for bit.

    Args:
        base: as in :func:`composite_boxes`.
        a: as there.
        boxes: as there.
        b: as there.
        beta: as there.
        index_a: as there.
        index_b: as there.

    Returns:
        as there.

    Example:
        >>> base, boxes = torch.rand(2, 3, 8, 8), torch.tensor([[[1, 2, 5, 9]], [[0, 0, 0, 0]]])
        >>> out, area = composite_boxes_torch(base, base, boxes, index_a=torch.tensor([1, 0]))
        >>> area.tolist()
        [24, 0]
    """
    _check(base, a, b, beta, boxes, index_a, index_b)
    return _forward_torch(base, a, b, beta, boxes, index_a, index_b)


def _forward_torch(
    base: Tensor,
    a: Tensor,
    b: Tensor | None,
    beta: Tensor | None,
    boxes: Tensor,
    index_a: Tensor | None,
    index_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _check_numbers(a, b, beta, index_a, index_b)
    mask = box_mask(boxes, (base.shape[2], base.shape[3]))
    inside = _blend(_partner(a, index_a), None if b is None else _partner(b, index_b), beta)
    return _composite.like(base, torch.where(mask, inside, base)), mask.sum((1, 2, 3))


def box_mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The union of each image's boxes as a mask.

    Args:
        boxes: ``(B, N, 4)`` integers, XYXY half-open; clipped, may overlap and may be empty.
        size: ``(H, W)`` in pixels.

    Returns:
        ``(B, 1, H, W)`` bool, True inside.

    Example:
        >>> box_mask(torch.tensor([[[0, 0, 2, 1], [1, 0, 3, 1]]]), (2, 4))[0, 0].int().tolist()
        [[1, 1, 1, 0], [0, 0, 0, 0]]
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    y = torch.arange(size[0], device=boxes.device)
    x = torch.arange(size[1], device=boxes.device)
    rows = (y >= y0[..., None]) & (y < y1[..., None])
    columns = (x >= x0[..., None]) & (x < x1[..., None])
    # A product counts the boxes over a pixel: one (B, H, W) array however many boxes there are.
    return (rows.transpose(1, 2).float() @ columns.float() > 0).unsqueeze(1)


def union_area(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Number of pixels in the union of each image's boxes, exact under clipping and overlap.

    Args:
        boxes: ``(B, N, 4)`` integers, XYXY half-open.
        size: ``(H, W)`` in pixels.

    Returns:
        ``(B,)`` int64.

    Example:
        >>> union_area(torch.tensor([[[0, 0, 2, 1], [1, 0, 9, 1]]]), (2, 4)).tolist()
        [4]
    """
    return box_mask(boxes, size).sum((1, 2, 3))


def _partner(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x[index]


def _blend(a: Tensor, b: Tensor | None, beta: Tensor | None) -> Tensor:
    if b is None or beta is None:
        return a
    wide = torch.float64 if a.dtype == torch.float64 else torch.float32
    weight = beta.to(wide).view(-1, 1, 1, 1)
    mixed = weight * a.to(wide) + (1 - weight) * b.to(wide)
    return (mixed.round() if a.dtype == torch.uint8 else mixed).to(a.dtype)


def _forward(
    base: Tensor,
    a: Tensor,
    b: Tensor | None,
    beta: Tensor | None,
    boxes: Tensor,
    index_a: Tensor | None,
    index_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if _composite.usable(base, boxes.shape[1]):
        return _composite.composite(base, a, b, beta, boxes, index_a, index_b)
    return _forward_torch(base, a, b, beta, boxes, index_a, index_b)


# The same function as an operator, so that torch.compile and autograd see one node. Eager calls without a gradient skip
# it: the dispatcher's Python layers cost more than compositing a small batch.
@torch.library.custom_op("mixaug::composite_boxes", mutates_args=())
def _composite_op(
    base: Tensor,
    a: Tensor,
    b: Tensor | None,
    beta: Tensor | None,
    boxes: Tensor,
    index_a: Tensor | None,
    index_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _check(base, a, b, beta, boxes, index_a, index_b)  # called by its name nobody has looked at these
    return _forward(base, a, b, beta, boxes, index_a, index_b)


@_composite_op.register_fake
def _(
    base: Tensor,
    a: Tensor,
    b: Tensor | None,
    beta: Tensor | None,
    boxes: Tensor,
    index_a: Tensor | None,
    index_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return _composite.empty_like(base), boxes.new_empty(base.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    base, a, b, beta, boxes, index_a, index_b = inputs
    weight_moves = beta is not None and beta.requires_grad
    # The partners are needed for beta's gradient alone.
    ctx.save_for_backward(boxes, index_a, index_b, beta, a if weight_moves else None, b if weight_moves else None)
    ctx.size = (base.shape[2], base.shape[3])
    ctx.counts = (len(a), 0 if b is None else len(b))
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    boxes, index_a, index_b, beta, a, b = ctx.saved_tensors
    to_base, to_a, to_b, to_beta = ctx.needs_input_grad[:4]
    mask = box_mask(boxes, ctx.size)
    inside = grad * mask
    weight = None if beta is None else beta.to(grad.dtype).view(-1, 1, 1, 1)
    grad_base = grad * ~mask if to_base else None
    grad_a = grad_b = grad_beta = None
    if to_a:
        grad_a = _scatter(inside if weight is None else weight * inside, index_a, ctx.counts[0])
    if to_b and weight is not None:
        grad_b = _scatter(inside - weight * inside, index_b, ctx.counts[1])
    if to_beta:
        wide = beta.dtype
        difference = _partner(a, index_a).to(wide) - _partner(b, index_b).to(wide)
        grad_beta = (inside.to(wide) * difference).sum((1, 2, 3))
    return grad_base, grad_a, grad_b, grad_beta, None, None, None


def _scatter(grad: Tensor, index: Tensor | None, rows: int) -> Tensor:
    """Gradient of ``x[index]`` for ``x``: two images may share a partner."""
    if index is None:
        return grad
    return grad.new_zeros((rows, *grad.shape[1:])).index_add(0, index, grad)


_composite_op.register_autograd(_backward, setup_context=_setup_context)


def _check(
    base: Tensor,
    a: Tensor,
    b: Tensor | None,
    beta: Tensor | None,
    boxes: Tensor,
    index_a: Tensor | None,
    index_b: Tensor | None,
) -> None:
    if not isinstance(base, Tensor):
        raise TypeError(f"base must be a tensor, got {type(base).__name__}")
    if base.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"base must be of {names}, got {base.dtype}")
    if base.ndim != 4:
        raise ValueError(f"base must have shape (B, C, H, W), got {tuple(base.shape)}")
    batch = base.shape[0]
    for name, partner, index in (("a", a, index_a), ("b", b, index_b)):
        if partner is None and name == "b":
            if index is not None:
                raise ValueError("index_b must be None without b")
            continue
        if not isinstance(partner, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(partner).__name__}")
        if partner.dtype != base.dtype:
            raise TypeError(f"{name} must have base's dtype {base.dtype}, got {partner.dtype}")
        if partner.ndim != 4 or partner.shape[1:] != base.shape[1:] or (index is None and partner.shape[0] != batch):
            rows = batch if index is None else "any"
            wanted = (rows, *base.shape[1:])
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(partner.shape)}".replace("'any'", "any"))
        if index is not None:
            _check_small(f"index_{name}", index, (batch,), torch.int64, base)
        _check_device(name, partner, base)
    if (b is None) != (beta is None):
        raise ValueError("b and beta must be given together: beta weighs a against b")
    if beta is not None:
        _check_small("beta", beta, (batch,), torch.float64 if base.dtype == torch.float64 else torch.float32, base)
    if not isinstance(boxes, Tensor) or boxes.dtype != torch.int64:
        got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"boxes must be an int64 tensor (round and convert other boxes), got {got}")
    if boxes.ndim != 3 or boxes.shape[0] != batch or boxes.shape[2] != 4:
        raise ValueError(f"boxes must have shape ({batch}, N, 4), got {tuple(boxes.shape)}")
    _check_device("boxes", boxes, base)


def _check_numbers(
    a: Tensor, b: Tensor | None, beta: Tensor | None, index_a: Tensor | None, index_b: Tensor | None
) -> None:
    """What the C++ form refuses itself: an index out of range, which torch's indexing counts from the end, and beta."""
    if not reads_values(a.device) or type(a) is not Tensor:
        return
    for index, partner in ((index_a, a), (index_b, b)):
        if index is not None and partner is not None and bool(((index < 0) | (index >= len(partner))).any()):
            raise _composite.bad_index(a, b)
    if beta is not None and not bool(((beta >= 0) & (beta <= 1)).all()):
        raise _composite.bad_beta(beta)


def _check_small(name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype, base: Tensor) -> None:
    if not isinstance(value, Tensor) or value.dtype != dtype:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a {str(dtype).removeprefix('torch.')} tensor, got {got}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, one for each image, got {tuple(value.shape)}")
    _check_device(name, value, base)


def _check_device(name: str, value: Tensor, base: Tensor) -> None:
    if value.device != base.device:
        raise ValueError(f"{name} must be on base's device {base.device}, got {value.device}")
