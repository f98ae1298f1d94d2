"""Dynamic MixCut carried out from a record: the pure function, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors

import mixaug_ext
from mixaug._checks import check_label_values, check_number
from mixaug.ops.composite import composite_boxes
from mixaug.transforms import _labels
from mixaug.transforms._batch_mix import as_plain, check_images
from mixaug.transforms._mixcut_checks import check_views, fitting_record
from mixaug.transforms.dynamic_mixcut_params import DynamicMixCutParams
from mixaug_ext import _mixcut

Views = tuple[Tensor, Tensor]


def replay_dynamic_mixcut(
    images: Tensor,
    labels: Tensor,
    params: DynamicMixCutParams,
    *,
    views: Views | None = None,
    num_classes: int | None = None,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""Carries out a record: no randomness, any device, nothing is written to.

    .. math:: \bar x_i = x_i \text{ outside the union of the boxes},\quad
        \beta_i\, a_i + (1 - \beta_i)\, b_i \text{ inside}

    with ``a, b`` the two views of the image, or its two partners in the batch (Niu et al., 2025, Algorithm 1, steps 3
    and 4 in one pass). The label is :math:`y_i` with views, else :math:`\lambda_i y_i + (1 - \lambda_i)(\beta_i y_{a} +
    (1 - \beta_i) y_{b})`; then smoothed.

    Convention:
        ``lam`` weighs the image itself. Bytes are rounded to the nearest, halves to even. A batch of one has no
        partner: without views its image is returned unchanged, and its label only smoothed.

    Args:
        images: the batch.
        labels: class indices or probabilities, on the images' device.
        params: of :func:`~mixaug.transforms.dynamic_mixcut_params.sample_dynamic_mixcut` for this batch; moved to the
            images' device.
        views: two tensors like ``images``; None: partners from the batch.
        num_classes: ``K``, needed with class indices.
        smoothing: in ``[0, 1]``. Default 0.

    Shape:
        images, views: ``(B, C, H, W)`` or clips ``(B, T, C, H, W)`` (frames share the draw), uint8 in ``0..255`` or
        float16, bfloat16, float32 in ``[0, 1]``. labels: ``(B,)`` integers or ``(B, K)``.

    Returns:
        ``(mixed, targets)``: ``mixed`` as ``images``; ``targets (B, K)`` float32, rows sum to 1.

    Raises:
        TypeError: an argument of another kind or dtype.
        ValueError: shapes or devices that do not fit together; labels out of range (read on the CPU only).

    Example:
        >>> from mixaug.transforms.dynamic_mixcut_params import DynamicMixCutSettings, sample_dynamic_mixcut
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
        >>> params = sample_dynamic_mixcut(4, (8, 8), DynamicMixCutSettings())
        >>> mixed, targets = replay_dynamic_mixcut(images, labels, params, num_classes=3)
        >>> mixed.shape, targets.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """
    check_images(images)
    if views is not None:
        check_views(views, images)
    smoothing = check_number("smoothing", smoothing, 0.0, 1.0)
    classes = _labels.check_labels(labels, num_classes, images)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        check_label_values(labels, classes)
    params = fitting_record(params, images)
    return fill_boxes(images, params, views), final_labels(labels, params, classes, smoothing, views is not None)


def fill_boxes(images: Tensor, params: DynamicMixCutParams, views: Views | None) -> Tensor:
    """The images with their boxes filled, as the kind of tensor they were."""
    base = as_plain(images)
    if views is None and base.shape[0] == 1:
        out = base.clone()
    else:
        # Frames of a clip share the draw: to the compositing they are more channels.
        base, *sources = (as_plain(x).flatten(1, -3) for x in (images, *(views or ())))
        if views is None:
            first, second = params.index.unbind(1)
            out, _ = composite_boxes(base, base, params.boxes, b=base, beta=params.beta, index_a=first, index_b=second)
        else:
            out, _ = composite_boxes(base, sources[0], params.boxes, b=sources[1], beta=params.beta)
        out = out.reshape(images.shape) if images.ndim == 5 else out
    return tv_tensors.wrap(out, like=images) if isinstance(images, tv_tensors.TVTensor) else out


def final_labels(labels: Tensor, params: DynamicMixCutParams, num_classes: int, smoothing: float, kept: bool) -> Tensor:
    """Mixed (unless ``kept``, with views) and smoothed labels; never the labels themselves."""
    labels = as_plain(labels)
    whole = labels.dtype == torch.int64 and labels.ndim == 1 and labels.device.type == "cpu" and type(labels) is Tensor
    if whole and not torch.compiler.is_compiling() and mixaug_ext.library():
        mixed = None if kept else (params.lam, params.index, params.beta)
        return _mixcut.mix_labels(labels, num_classes, smoothing, mixed)
    targets = _labels.probabilities(labels, num_classes)
    if not kept:
        targets = _labels.mix_labels(targets, params.lam, params.index, params.beta)
    targets = _labels.smooth(targets, smoothing)
    return targets.clone() if targets is labels else targets
