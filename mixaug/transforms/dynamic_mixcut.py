"""Dynamic MixCut as a transform of whole batches, with two adversarial views or with partners from the batch.

Paper: Niu et al., "Enhancing the Robustness of Classification Against Adversarial Attacks through a Dual-Enhancement
Strategy", ICIC 2025.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

import mixaug_ext
from mixaug._checks import (
    MAX_BOXES,
    check_count_range,
    check_flag,
    check_generator,
    check_int,
    check_label_values,
    check_number,
    check_range,
    check_size,
    kind_of,
)
from mixaug._random import drawn_by
from mixaug._records import Rule, Rules, check_record, kept, reads_values
from mixaug.ops.composite import composite_boxes, union_area
from mixaug.transforms import labels as _labels
from mixaug.transforms import sample as _sample
from mixaug.transforms.batch_mix import BatchMix, as_plain, check_images, check_one_size
from mixaug_ext import _mixcut


@dataclass(frozen=True)
class DynamicMixCutParams:
    """One draw of Dynamic MixCut, as tensors: replay it, look at it, store it.

    Attributes:
        size: ``(H, W)`` of the images it was drawn for, in pixels.
        boxes: ``(B, N, 4)`` int64, XYXY, half-open, inside the image; may overlap; without pixels where an image has
            fewer than ``N`` or is skipped.
        lam: ``(B,)`` float32 in ``[0, 1]``, weight of the un-permuted image: one minus the exact share of the pixels
            in the union of its boxes. 1 for a skipped image.
        index: ``(B, 2)`` int64, the two partners of each image in the batch: its first and second successor on one
            random cycle. Not used with given views.
        beta: ``(B,)`` float32 in ``[0, 1)``, weight of the first partner (or view) inside the boxes.
    """

    size: tuple[int, int]
    boxes: Tensor
    lam: Tensor
    index: Tensor
    beta: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the record by name.

        Example:
            >>> sorted(sample_dynamic_mixcut(2, (8, 8), DynamicMixCutSettings()).tensors())
            ['beta', 'boxes', 'index', 'lam']
        """
        return {"boxes": self.boxes, "lam": self.lam, "index": self.index, "beta": self.beta}

    def to(self, device: torch.device | str) -> DynamicMixCutParams:
        """The same record with its tensors on ``device``; on the way to a GPU the host does not wait for it.

        Example:
            >>> sample_dynamic_mixcut(2, (8, 8), DynamicMixCutSettings()).to("cpu").lam.device.type
            'cpu'
        """
        # Only towards a GPU: a copy to the host that is not waited for could be read before it is there.
        later = torch.device(device).type != "cpu"
        moved: dict[str, Any] = {name: value.to(device, non_blocking=later) for name, value in self.tensors().items()}
        return dataclasses.replace(self, **moved)

    def describe(self, row: int) -> list[str]:
        """What happens to one image, a line for the weight and one for each box that has pixels.

        Args:
            row: position in the batch.

        Returns:
            such as ``["lam 0.72, beta 0.31 of image 4, 0.69 of image 0", "box 9x12 at (3, 14)"]`` (height x width, at
            ``(x, y)``).

        Example:
            >>> record = sample_dynamic_mixcut(3, (8, 8), DynamicMixCutSettings(p=0.0))
            >>> record.describe(0)[0].startswith("lam 1.00")
            True
        """
        beta, (first, second) = float(self.beta[row]), self.index[row].tolist()
        lines = [f"lam {float(self.lam[row]):.2f}, beta {beta:.2f} of image {first}, {1 - beta:.2f} of image {second}"]
        for x0, y0, x1, y1 in self.boxes[row].tolist():
            if x1 > x0 and y1 > y0:
                lines.append(f"box {y1 - y0}x{x1 - x0} at ({x0}, {y0})")
        return lines


@dataclass(frozen=True)
class DynamicMixCutSettings:
    """Everything that :func:`sample_dynamic_mixcut` needs besides the batch: the checked arguments of the transform.

    Args:
        boxes: number of boxes of each image, at least 1, or a range ``(low, high)``, drawn for each image with both
            ends included. Kept as a range. Default 2.
        p: probability in ``[0, 1]`` that an image is mixed at all. Default 1.
        area: None (default): boxes follow CutMix. Else the range ``(low, high)`` in ``[0, 1]`` of a box's share of the
            image.
        square: height and width are the same share of the image's (a square on a square image). False: aspect ratios
            from 1/3 to 3. Default True.

    Raises:
        TypeError: an argument of another kind.
        ValueError: an argument out of range.

    Example:
        >>> DynamicMixCutSettings(boxes=3).boxes, DynamicMixCutSettings(boxes=(1, 6)).boxes
        ((3, 3), (1, 6))
    """

    boxes: int | tuple[int, int] = 2
    p: float = 1.0
    area: tuple[float, float] | None = None
    square: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", check_count_range("boxes", self.boxes, MAX_BOXES))
        object.__setattr__(self, "p", check_number("p", self.p, 0.0, 1.0))
        object.__setattr__(self, "area", None if self.area is None else check_range("area", self.area, 0.0, 1.0))
        object.__setattr__(self, "square", check_flag("square", self.square))

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest number of boxes of an image."""
        return (self.boxes, self.boxes) if isinstance(self.boxes, int) else self.boxes

    @property
    def per_box(self) -> int:
        """Uniforms of a box: its share of the image, two for its place, its aspect where that is free."""
        return 3 if self.square else 4


def sample_dynamic_mixcut(
    batch_size: int,
    size: tuple[int, int],
    settings: DynamicMixCutSettings,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> DynamicMixCutParams:
    """Draws everything that Dynamic MixCut decides at random for a batch. The only place with randomness.

    Boxes as :func:`sample_boxes` draws them, ``beta ~ U(0, 1)``, and for each image two partners from the batch (Niu et
    al., 2025, Algorithm 1; the partners stand in for its two adversarial views where there is no adversary).

    Convention:
        Everything is per image. ``p`` gates each image once: a skipped image has boxes without pixels and ``lam`` 1.
        Partners are the first and second successor on one random cycle through the batch: never the image itself, two
        different images from three on; of two images each is the other's only partner; one image has none but itself.
        ``lam`` is what was realised: clipping, overlap and rounding to whole pixels are in it.

    Args:
        batch_size: number of images, 0 allowed.
        size: ``(H, W)`` in pixels.
        settings: the checked arguments.
        generator: of torch; None: torch's default generator of ``device``.
        device: where the record is drawn and kept; ignored with a generator, whose device counts.

    Returns:
        the record.

    Raises:
        TypeError: ``batch_size`` or ``size`` is not whole.
        ValueError: they are out of range.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> params = sample_dynamic_mixcut(4, (32, 32), DynamicMixCutSettings(), generator=g)
        >>> params.boxes.shape, bool((params.index != torch.arange(4)[:, None]).all())
        (torch.Size([4, 2, 4]), True)
    """
    batch_size, size = check_int("batch_size", batch_size, 0), check_size("size", size)
    check_generator(generator)
    if generator is not None:
        device = generator.device
    # All uniforms in one draw: at 32 px the time of a call is the number of its operations.
    columns = PER_IMAGE + settings.range[1] * settings.per_box
    u = torch.rand(batch_size, columns, device=device, dtype=torch.float32, **drawn_by(generator))
    # torch's own kinds of tensor, such as fake ones, have no data to point at.
    plain = type(u) is Tensor and u.device.type == "cpu"
    compiled = settings.square and plain and not torch.compiler.is_compiling()
    if compiled and mixaug_ext.library():
        return DynamicMixCutParams(size, *_mixcut.sample(u, size, settings.range, settings.p, settings.area))
    return DynamicMixCutParams(size, *derive(u, size, settings))


def sample_boxes(
    batch_size: int,
    size: tuple[int, int],
    *,
    count: int | tuple[int, int] = 2,
    area: tuple[float, float] | None = None,
    square: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Draws boxes for a batch of images.

    .. math:: h = H \sqrt{1 - \lambda}, \quad w = W \sqrt{1 - \lambda}, \quad \lambda \sim U(0, 1), \quad
        \text{centre} \sim U([0, W) \times [0, H))

    rounded to whole pixels and clipped to the image (CutMix, Yun et al., 2019, with its Beta(1, 1)). With ``area`` the
    share of the image ``1 - \lambda`` is drawn from that range instead, and the place uniformly among those where the
    box lies inside the image, so that nothing is clipped.

    Convention:
        Everything is per image and box. Boxes are XYXY, half-open, in pixels: ``(x0, y0, x1, y1)`` covers columns
        ``x0 .. x1 - 1``. Sides are rounded to the nearest pixel, and the law is the same from left and right.

    Args:
        batch_size: number of images, 0 allowed.
        size: ``(H, W)`` in pixels.
        count: boxes of each image, at least 1, or a range ``(low, high)`` drawn for each image, both ends included.
            Default 2.
        area: None (default): CutMix's law; else ``(low, high)`` in ``[0, 1]``.
        square: height and width are the same share of the image's (a square on a square image). False: their ratio is
            log-uniform from 1/3 to 3, as far as the share fits into the image. Default True.
        generator: of torch; None: torch's default generator of ``device``.
        device: where the boxes are drawn and kept; None: the CPU; ignored with a generator, whose device counts.

    Returns:
        ``(batch_size, N, 4)`` int64 with ``N`` the largest count, inside the image; boxes that an image does not have
        are ``(0, 0, 0, 0)``. A box of CutMix's law may be without pixels.

    Raises:
        TypeError: an argument of another kind.
        ValueError: an argument out of range.

    Note:
        torchvision and timm halve the side and round down before they lay it around the centre, so that boxes lose up
        to two pixels a side and odd sides never occur; here a side is what was drawn.

    Example:
        >>> sample_boxes(5, (32, 48), count=(1, 3), area=(0.1, 0.2)).shape
        torch.Size([5, 3, 4])
    """
    settings = DynamicMixCutSettings(check_count_range("count", count, MAX_BOXES), 1.0, area, square)
    return sample_dynamic_mixcut(batch_size, size, settings, generator, device or "cpu").boxes


#: A free aspect ratio, relative to the image's own, is log-uniform between 1/3 and 3.
_LOG_ASPECT = math.log(3.0)
#: Uniforms of an image (place on the cycle, skipped or not, number of boxes, beta) besides those of its boxes.
PER_IMAGE = 4


def derive(u: Tensor, size: tuple[int, int], settings: DynamicMixCutSettings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, ``lam``, partners and ``beta`` from the uniforms, in PyTorch: any device, and the compiled form's bits."""
    low, high = settings.range
    place, skip, count, beta = u[:, :PER_IMAGE].unbind(1)
    boxes = _boxes(u[:, PER_IMAGE:].unflatten(1, (high, settings.per_box)), size, settings)
    shown = (skip < settings.p)[:, None]
    if low < high:
        # float32 can round the product up to the number of counts, hence the clamp.
        counts = low + (count * (high - low + 1)).long().clamp_max_(high - low)
        shown = shown & (torch.arange(high, device=u.device) < counts[:, None])
    boxes = boxes * shown[..., None]
    pixels = size[0] * size[1]
    lam = (pixels - _union(boxes, size)).to(torch.float32) / pixels
    # A copy of beta: a view would keep all the uniforms alive with the record.
    return boxes, lam, _partners(place), beta.clone()


def _boxes(u: Tensor, size: tuple[int, int], settings: DynamicMixCutSettings) -> Tensor:
    """Boxes ``(B, N, 4)`` from uniforms ``(B, N, 3 or 4)``: share of the image, two for the place, aspect."""
    height, width = size
    share = u[..., 0]
    if settings.area is not None:
        low, high = settings.area
        share = low + (high - low) * share
    if settings.square:
        tall = wide = share.sqrt()
    else:
        # h/H = sqrt(share ratio) and w/W = sqrt(share / ratio) stay at most 1, so that the share is kept. In double:
        # every device rounds to the same float32.
        share = share.double()
        limit = (-share.log()).clamp_max(_LOG_ASPECT)
        stretch = ((u[..., 3].double() - 0.5) * limit).exp()
        tall = (share.sqrt() * stretch).float().clamp_max(1.0)
        wide = (share.sqrt() / stretch).float().clamp_max(1.0)
    x0, x1 = _spans(wide, u[..., 1], width, settings.area is not None)
    y0, y1 = _spans(tall, u[..., 2], height, settings.area is not None)
    return torch.stack([x0, y0, x1, y1], -1).long()


def _spans(share: Tensor, place: Tensor, length: int, inside: bool) -> tuple[Tensor, Tensor]:
    """First and last-but-one pixels of a side: ``share`` of ``length`` at a uniform place."""
    side = (share * length).round_()
    if inside:
        side = side.clamp_min_(1.0)
        # float32 can round the product up to the number of places, hence the minimum.
        start = torch.minimum((place * (length + 1 - side)).floor_(), length - side)
        return start, start + side
    # The nearest whole pixels to [centre - side / 2, centre + side / 2]: the law is the same when mirrored.
    start = torch.sub(place * length + 0.5, side, alpha=0.5).floor_()
    return start.clamp_min(0.0), (start + side).clamp_max_(length)


def _partners(place: Tensor) -> Tensor:
    """First and second successor of each image on the cycle that orders the images by ``place``: ``(B, 2)``."""
    cycle = place.argsort(stable=True)
    first = cycle.roll(-1)
    # Of two images the second successor would be the image itself.
    successors = torch.stack([first, first if len(place) == 2 else cycle.roll(-2)])
    # Column by column in memory: each column is read as one index.
    return torch.empty_like(successors).index_copy_(1, cycle, successors).T


def _union(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels in each union of boxes inside the image: two boxes by inclusion and exclusion, more by counting."""
    if boxes.shape[1] > 2:
        return union_area(boxes, size)
    low, high = boxes[..., :2], boxes[..., 2:]
    area = (high - low).prod(-1).sum(1)
    if boxes.shape[1] == 2:
        area = area - (high.amin(1) - low.amax(1)).clamp_min_(0).prod(-1)
    return area


def fitting_record(params: DynamicMixCutParams, images: Tensor, check_values: bool = False) -> DynamicMixCutParams:
    """The record on the images' device, if it was drawn for such images; ``check_values`` reads one on a GPU."""
    if not isinstance(params, DynamicMixCutParams):
        raise TypeError(f"params must be DynamicMixCutParams, got {type(params).__name__}")
    batch, (h, w) = images.shape[0], images.shape[-2:]
    for name, value, ndim in (("lam", params.lam, 1), ("boxes", params.boxes, 3)):
        if not isinstance(value, Tensor) or value.ndim != ndim:
            raise TypeError(f"params.{name} must be a tensor of {ndim} dimensions, got {kind_of(value)}")
    other = len(params.lam) == len(params.boxes) != batch
    if other or not isinstance(params.size, (tuple, list)) or tuple(params.size) != (h, w):
        raise ValueError(
            f"params were drawn for {len(params.lam)} images of size {params.size}, got images of shape "
            f"{tuple(images.shape)}"
        )
    rules, values = _rules(batch, params.boxes.shape[1], h, w), reads_values(images.device, check_values)
    return check_record(params, rules, images.device, values=values, move=True)


@kept
def _rules(batch: int, boxes: int, h: int, w: int) -> Rules:
    return Rules(
        boxes=Rule(torch.int64, (batch, boxes, 4), h, w, kind="box"),
        lam=Rule(torch.float32, (batch,), 0.0, 1.0),
        index=Rule(torch.int64, (batch, 2), 0, batch - 1),
        beta=Rule(torch.float32, (batch,), 0.0, 1.0),
    )


def check_views(views: Any, images: Tensor) -> None:
    """Raises unless ``views`` are two batches like ``images``."""
    if not isinstance(views, (tuple, list)) or len(views) != 2:
        count = f" of {len(views)}" if isinstance(views, (tuple, list)) else ""
        raise TypeError(f"views must be a pair of tensors, got {type(views).__name__}{count}")
    for i, view in enumerate(views):
        if not isinstance(view, Tensor):
            raise TypeError(f"views[{i}] must be a tensor, got {type(view).__name__}")
        if view.dtype != images.dtype:
            raise TypeError(f"views[{i}] must have the images' dtype {images.dtype}, got {view.dtype}")
        if view.shape != images.shape:
            raise ValueError(f"views[{i}] must have the images' shape {tuple(images.shape)}, got {tuple(view.shape)}")
        if view.device != images.device:
            raise ValueError(f"views[{i}] must be on the images' device {images.device}, got {view.device}")


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
        params: of :func:`~mixaug.transforms.dynamic_mixcut.sample_dynamic_mixcut` for this batch; moved to the
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
        >>> from mixaug.transforms.dynamic_mixcut import DynamicMixCutSettings, sample_dynamic_mixcut
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


class DynamicMixCut(BatchMix):
    r"""Shows two blended views, or partners, of each image inside random boxes.

    .. math:: \bar x = (1 - M)\, x + M\, (\beta\, p_1 + (1 - \beta)\, p_2), \qquad
        \bar y = (1 - \alpha)\, y + \alpha / K, \qquad \beta \sim U(0, 1)

    (Niu et al., 2025, Algorithm 1), with ``M`` the union of the image's boxes and ``p1, p2`` two adversarial views of
    it. Without views the partners are two other images of the batch, and the label is weighted by the realised area:
    :math:`y \leftarrow \lambda y + (1 - \lambda)(\beta y_a + (1 - \beta) y_b)`, ``1 - lam`` the share of the union.

    Convention:
        Boxes, ``beta``, partners and ``p`` are drawn for each image. ``lam`` is the weight of the image itself. An
        image that ``p`` skips is unchanged and still gets its smoothed label, and so does a batch of one, which has no
        partner, without views. Partners are the image's two successors on one random cycle through the batch, never
        itself. Bytes are rounded to the nearest.

    Args:
        num_classes: ``K``; needed when labels are class indices.
        boxes: boxes of each image, at least 1, or a range ``(low, high)`` drawn for each image, both ends included.
            Default 2.
        smoothing: ``alpha`` of the label smoothing, in ``[0, 1]``. Default 0.1 (ours: the paper names none).
        p: probability in ``[0, 1]`` that an image is mixed. Default 1.
        area: None (default): CutMix's law, the share of a box is ``U(0, 1)`` before clipping; else the range ``(low,
            high)`` in ``[0, 1]`` that it is drawn from, for boxes that lie inside the image.
        square: height and width are the same share of the image's. False: aspect ratios from 1/3 to 3. Default True.
        images_getter: where the images of a sample are. ``"default"``: all ``tv_tensors.Image`` and ``Video``; if there
            are none, the first plain tensor that can be a batch of images, an entry under ``image`` or ``pixel_values``
            before others, and never one under a key that names something else (``mask``, ``depth``, ``id``). Or a
            function of the sample that returns the entry, or several.
        labels_getter: where the labels are. ``"default"``: the second entry of a tuple; in a mapping the entry under
            ``labels``, ``label``, ``targets`` or ``target``, else under a key with ``label`` in it. Or a function of
            the sample that returns them.
        generator: of torch. In loader workers its seed is combined with the worker's, so that workers and epochs
            differ (and with ``RANK``); the same run repeats under the same ``torch.manual_seed``.
        check_values: read every batch and its labels, not just the first, also on a GPU (which waits for the device).

    Shape:
        In: images and views ``(B, C, H, W)``, or clips ``(B, T, C, H, W)`` whose frames share the draw; uint8 in
        ``0..255`` or float16, bfloat16, float32 in ``[0, 1]``; labels ``(B,)`` integers or ``(B, K)`` probabilities.
        Out: images of the same kind, dtype, device and memory format; labels ``(B, K)`` float32, always.

    Raises:
        TypeError: an argument, image or label of another kind or dtype; a sample without images, or with PIL images or
            torchvision's boxes, masks or key points.
        ValueError: an argument out of range; labels that are not found; views, labels or shapes that do not fit; labels
            out of range or probabilities that do not sum to 1; images that are not finite.

    Note:
        Algorithm 1 as printed overwrites the result with each box; the paper's text and its Table 2 mean the union,
        which is what this computes. Differences from torchvision's and timm's CutMix are in
        ``docs/methods/dynamic_mixcut.md``.

    Example:
        >>> mix = DynamicMixCut(num_classes=10, generator=torch.Generator().manual_seed(0))
        >>> images, targets = mix(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> images.shape, targets.shape, targets.dtype
        (torch.Size([8, 3, 32, 32]), torch.Size([8, 10]), torch.float32)
    """

    _replayed = False

    def __init__(
        self,
        num_classes: int | None = None,
        boxes: int | tuple[int, int] = 2,
        smoothing: float = 0.1,
        p: float = 1.0,
        *,
        area: tuple[float, float] | None = None,
        square: bool = True,
        images_getter: str | _sample.Getter = "default",
        labels_getter: str | _sample.Getter = "default",
        generator: torch.Generator | None = None,
        check_values: bool = False,
    ) -> None:
        super().__init__(num_classes, smoothing, images_getter, labels_getter, generator, check_values)
        self.settings = DynamicMixCutSettings(boxes, p, area, square)

    def forward(self, *inputs: Any, views: Views | None = None) -> Any:
        """Mixes a batch: ``mix(images, labels)``, or any sample that holds one.

        Args:
            inputs: images and labels, or one sample (tuple, list, mapping, nested) with both. Labels may be a list,
                tuple or NumPy array of numbers.
            views: two views of the images, of their shape, dtype and device; the label is then kept (and smoothed).

        Returns:
            the sample with images and labels replaced; everything else as it was.
        """
        return self._mix(inputs, views=views)

    def sample(self, images: Tensor, *, generator: torch.Generator | None = None) -> DynamicMixCutParams:
        """Draws a record for ``images`` without touching them; :meth:`replay` carries it out.

        Args:
            images: the batch.
            generator: of torch; None: the transform's own.

        Returns:
            the record, on the generator's device (without one: on the images').

        Example:
            >>> DynamicMixCut(boxes=3).sample(torch.rand(5, 3, 32, 32)).boxes.shape
            torch.Size([5, 3, 4])
        """
        check_images(images)
        return sample_dynamic_mixcut(
            images.shape[0],
            (images.shape[-2], images.shape[-1]),
            self.settings,
            generator if generator is not None else self._random.current(),
            images.device,
        )

    def replay(
        self, images: Tensor, labels: Tensor, params: DynamicMixCutParams, views: Views | None = None
    ) -> tuple[Tensor, Tensor]:
        """Carries out a record: no randomness.

        Args:
            images: the batch that ``params`` was drawn for.
            labels: of the batch.
            params: of :meth:`sample`.
            views: as in a call.

        Returns:
            ``(mixed, targets)``.

        Raises:
            TypeError: the record, or a field of it, is of another kind or dtype (compact ones are cast).
            ValueError: the record does not fit the images, or a value of it is out of range (read on the CPU; on a GPU
                at the first replay, or with ``check_values``).

        Example:
            >>> mix, images, labels = DynamicMixCut(10), torch.rand(5, 3, 8, 8), torch.arange(5)
            >>> params = mix.sample(images)
            >>> mix.replay(images, labels, params)[0].equal(mix.replay(images, labels, params)[0])
            True
        """
        self._check(images, labels, views)
        first = self.check_values or not self._replayed
        hook = {"labels": labels, "views": views, "mixcut": fitting_record(params, images, first)}
        self._replayed = True
        return self.transform(images, hook), self.transform(labels, hook)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """torchvision's hook: draws once for the images of a sample (several batches of images share the draw)."""
        first = check_one_size(flat_inputs)
        params = self.sample(first)
        return {"mixcut": params if params.lam.device == first.device else params.to(first.device)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """torchvision's hook: carries the record out on the labels or on a batch of images."""
        record, labels, views = params["mixcut"], params["labels"], params["views"]
        if inpt is labels:
            classes = labels.shape[1] if self.num_classes is None else self.num_classes
            return final_labels(labels, record, classes, self.smoothing, views is not None)
        return fill_boxes(inpt, record, views)

    def extra_repr(self) -> str:
        """The arguments."""
        s, (low, high) = self.settings, self.settings.range
        boxes = low if low == high else (low, high)
        return (
            f"num_classes={self.num_classes}, boxes={boxes}, smoothing={self.smoothing}, p={s.p}, area={s.area}, "
            f"square={s.square}"
        )

    def _check_sample(self, images: Sequence[Any], labels: Any, views: Views | None = None) -> None:
        if views is not None and len(images) > 1:
            raise ValueError(f"views are of one batch of images, got a sample with {len(images)}")
        for value in images:
            self._check(value, labels, views)

    def _check(self, images: Any, labels: Any, views: Views | None) -> None:
        check_images(images)
        if views is not None:
            check_views(views, images)
        self._check_labels(labels, images, [*zip(("views[0]", "views[1]"), views or (), strict=False)])
