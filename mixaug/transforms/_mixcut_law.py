"""What Dynamic MixCut makes of its uniforms, in PyTorch: boxes, union, partners. The compiled form has its bits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixaug.ops.composite import union_area

if TYPE_CHECKING:
    from mixaug.transforms.dynamic_mixcut_params import DynamicMixCutSettings

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
