"""Dynamic MixCut as a transform of whole batches, with two adversarial views or with partners from the batch.

Paper: Niu et al., "Enhancing the Robustness of Classification Against Adversarial Attacks through a Dual-Enhancement
Strategy", ICIC 2025.
"""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import v2

import mixaug_ext
from mixaug.ops.composite import composite_boxes
from mixaug.transforms import _labels
from mixaug.transforms._arguments import real
from mixaug.transforms._images import DTYPES, check_values
from mixaug.transforms._random import GeneratorState
from mixaug.transforms.dynamic_mixcut_params import DynamicMixCutParams, DynamicMixCutSettings, sample_dynamic_mixcut
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
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
        >>> params = sample_dynamic_mixcut(4, (8, 8), DynamicMixCutSettings())
        >>> mixed, targets = replay_dynamic_mixcut(images, labels, params, num_classes=3)
        >>> mixed.shape, targets.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """
    _check_images(images)
    if views is not None:
        _check_views(views, images)
    smoothing = real("smoothing", smoothing, 0.0, 1.0)
    classes = _labels.check_labels(labels, num_classes, images)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        _labels.check_label_values(labels, classes)
    params = _fitting(params, images)
    return _mixed(images, params, views), _targets(labels, params, classes, smoothing, views is not None)


class DynamicMixCut(v2.Transform):
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
        labels_getter: ``"default"``: labels are found as torchvision's ``CutMix`` finds them (the second entry of a
            tuple, or a key with ``label`` in it); or a function of the sample that returns them.
        generator: of torch. In loader workers its seed is combined with the worker's, so that workers and epochs
            differ (and with ``RANK``); the same run repeats under the same ``torch.manual_seed``.
        check_values: read every batch and its labels, not just the first, also on a GPU (which waits for the device).

    Shape:
        In: images and views ``(B, C, H, W)``, or clips ``(B, T, C, H, W)`` whose frames share the draw; uint8 in
        ``0..255`` or float16, bfloat16, float32 in ``[0, 1]``; labels ``(B,)`` integers or ``(B, K)`` probabilities.
        Out: images of the same kind, dtype, device and memory format; labels ``(B, K)`` float32, always.

    Raises:
        TypeError: an argument, image or label of another kind or dtype; a sample with PIL images, boxes, masks or key
            points.
        ValueError: an argument out of range; views, labels or shapes that do not fit; labels out of range or
            probabilities that do not sum to 1; images that are not finite.

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

    def __init__(
        self,
        num_classes: int | None = None,
        boxes: int | tuple[int, int] = 2,
        smoothing: float = 0.1,
        p: float = 1.0,
        *,
        area: tuple[float, float] | None = None,
        square: bool = True,
        labels_getter: str | _labels.LabelsGetter = "default",
        generator: torch.Generator | None = None,
        check_values: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = _labels.check_classes(num_classes)
        self.settings = DynamicMixCutSettings(boxes, p, area, square)
        self.smoothing = real("smoothing", smoothing, 0.0, 1.0)
        self.check_values = check_values
        self._labels_getter = _labels.parse_getter(labels_getter)
        self._random = GeneratorState(generator)
        self._checked = False

    def forward(self, *inputs: Any, views: Views | None = None) -> Any:
        """Mixes a batch: ``mix(images, labels)``, or any sample that holds one.

        Args:
            inputs: images and labels, or one sample (tuple, list, mapping, nested) with both.
            views: two views of the images, of their shape, dtype and device; the label is then kept (and smoothed).

        Returns:
            the sample with images and labels replaced; everything else as it was.
        """
        sample = inputs[0] if len(inputs) == 1 else inputs
        flat, spec = tree_flatten(sample)
        self.check_inputs(flat)
        labels = self._labels_getter(sample)
        at = _labels.place(labels, flat)
        chosen = _images_in(flat, at)
        images = [flat[i] for i in chosen]
        if views is not None and len(images) > 1:
            raise ValueError(f"views are of one batch of images, got a sample with {len(images)}")
        for value in images:
            self._check(value, labels, views)
        params = {"labels": labels, "views": views, **self.make_params(images)}
        changed = {at, *chosen}
        return tree_unflatten([self.transform(v, params) if i in changed else v for i, v in enumerate(flat)], spec)

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
        _check_images(images)
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
            ValueError: the record does not fit the images.

        Example:
            >>> mix, images, labels = DynamicMixCut(10), torch.rand(5, 3, 8, 8), torch.arange(5)
            >>> params = mix.sample(images)
            >>> mix.replay(images, labels, params)[0].equal(mix.replay(images, labels, params)[0])
            True
        """
        self._check(images, labels, views)
        hook = {"labels": labels, "views": views, "mixcut": _fitting(params, images)}
        return self.transform(images, hook), self.transform(labels, hook)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """torchvision's hook: refuses what cannot be mixed."""
        for value in flat_inputs:
            if isinstance(value, PIL.Image.Image):
                raise TypeError(f"images must be a batch of tensors, got a PIL image{_labels.COLLATED}")
            if isinstance(value, tv_tensors.TVTensor) and not isinstance(value, _KINDS):
                raise TypeError(f"DynamicMixCut mixes images but not their {type(value).__name__}; leave it out")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """torchvision's hook: draws once for the images of a sample (several batches of images share the draw)."""
        first = flat_inputs[0]
        for other in flat_inputs[1:]:
            if (len(other), other.shape[-2:]) != (len(first), first.shape[-2:]):
                raise ValueError(
                    "the images of one sample share their draw and must have one size, got "
                    f"{tuple(first.shape)} and {tuple(other.shape)}"
                )
        params = self.sample(first)
        return {"mixcut": params if params.lam.device == first.device else params.to(first.device)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """torchvision's hook: carries the record out on the labels or on a batch of images."""
        record, labels, views = params["mixcut"], params["labels"], params["views"]
        if inpt is labels:
            classes = labels.shape[1] if self.num_classes is None else self.num_classes
            return _targets(labels, record, classes, self.smoothing, views is not None)
        return _mixed(inpt, record, views)

    def extra_repr(self) -> str:
        """The arguments."""
        s, (low, high) = self.settings, self.settings.range
        boxes = low if low == high else (low, high)
        return (
            f"num_classes={self.num_classes}, boxes={boxes}, smoothing={self.smoothing}, p={s.p}, area={s.area}, "
            f"square={s.square}"
        )

    def get_extra_state(self) -> dict[str, Any]:
        """The given generator's state, so that a resumed run draws what the uninterrupted one would have drawn."""
        return self._random.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores :meth:`get_extra_state`."""
        self._random.load(state)

    def _check(self, images: Any, labels: Any, views: Views | None) -> None:
        _check_images(images)
        if views is not None:
            _check_views(views, images)
        classes = _labels.check_labels(labels, self.num_classes, images)
        if torch.compiler.is_compiling():
            return
        # A GPU is waited for at the first call only, unless asked for.
        first = self.check_values or not self._checked
        if first or labels.device.type == "cpu":
            _labels.check_label_values(labels, classes)
        if first or (images.device.type == "cpu" and images.shape[0] == 1):
            for name, value in (("images", images), *zip(("views[0]", "views[1]"), views or (), strict=False)):
                check_values(_plain(value), name, "mixed as they are")
            self._checked = True


_KINDS = (tv_tensors.Image, tv_tensors.Video)
_FLOAT, _INT = torch.float32, torch.int64


def _plain(value: Tensor) -> Tensor:
    """The tensor without torchvision's kind; torch's own kinds, such as fake tensors, stay."""
    return value.as_subclass(Tensor) if isinstance(value, tv_tensors.TVTensor) else value


def _mixed(images: Tensor, params: DynamicMixCutParams, views: Views | None) -> Tensor:
    """The images with their boxes filled, as the kind of tensor they were."""
    base = _plain(images)
    if views is None and base.shape[0] == 1:
        out = base.clone()
    else:
        # Frames of a clip share the draw: to the compositing they are more channels.
        base, *sources = (_plain(x).flatten(1, -3) for x in (images, *(views or ())))
        if views is None:
            first, second = params.index.unbind(1)
            out, _ = composite_boxes(base, base, params.boxes, b=base, beta=params.beta, index_a=first, index_b=second)
        else:
            out, _ = composite_boxes(base, sources[0], params.boxes, b=sources[1], beta=params.beta)
        out = out.reshape(images.shape) if images.ndim == 5 else out
    return tv_tensors.wrap(out, like=images) if isinstance(images, tv_tensors.TVTensor) else out


def _targets(labels: Tensor, params: DynamicMixCutParams, num_classes: int, smoothing: float, kept: bool) -> Tensor:
    """Mixed (unless ``kept``, with views) and smoothed labels; never the labels themselves."""
    labels = _plain(labels)
    whole = labels.dtype == torch.int64 and labels.ndim == 1 and labels.device.type == "cpu" and type(labels) is Tensor
    if whole and not torch.compiler.is_compiling() and mixaug_ext.library():
        mixed = None if kept else (params.lam, params.index, params.beta)
        return _mixcut.mix_labels(labels, num_classes, smoothing, mixed)
    targets = _labels.probabilities(labels, num_classes)
    if not kept:
        targets = _labels.mix_labels(targets, params.lam, params.index, params.beta)
    targets = _labels.smooth(targets, smoothing)
    return targets.clone() if targets is labels else targets


def _fitting(params: DynamicMixCutParams, images: Tensor) -> DynamicMixCutParams:
    """The record on the images' device, if it was drawn for such images."""
    if not isinstance(params, DynamicMixCutParams):
        raise TypeError(f"params must be DynamicMixCutParams, got {type(params).__name__}")
    h, w = params.size
    if params.lam.shape[0] != images.shape[0] or (h, w) != tuple(images.shape[-2:]):
        raise ValueError(
            f"params were drawn for {len(params.lam)} images of {h}x{w} pixels, got images of shape "
            f"{tuple(images.shape)}"
        )
    # The compiled label mixing reads them where they lie.
    batch = images.shape[0]
    for name, dtype, shape in (("lam", _FLOAT, (batch,)), ("index", _INT, (batch, 2)), ("beta", _FLOAT, (batch,))):
        value = getattr(params, name)
        if value.dtype != dtype or value.shape != shape:
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"params.{name} must be {kind} of shape {shape}, got {value.dtype} of {tuple(value.shape)}"
            )
    return params if all(x.device == images.device for x in params.tensors().values()) else params.to(images.device)


def _images_in(flat: list[Any], labels: int) -> list[int]:
    """Which entries are images: all ``Image`` and ``Video`` tensors, else the first plain tensor besides the labels."""
    explicit = [i for i, value in enumerate(flat) if isinstance(value, _KINDS)]
    plain = [i for i, value in enumerate(flat) if isinstance(value, Tensor) and i != labels]
    if not (explicit or plain):
        kinds = sorted({type(value).__name__ for i, value in enumerate(flat) if i != labels}) or ["nothing"]
        raise TypeError(f"images must be a tensor of shape (B, C, H, W) in the sample, got {', '.join(kinds)}")
    return explicit or plain[:1]


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor of shape (B, C, H, W), got {type(images).__name__}")
    if images.dtype not in DTYPES:
        raise TypeError(f"images must be uint8, float16, bfloat16 or float32, got {images.dtype}")
    if images.ndim not in (4, 5):
        hint = _labels.COLLATED if images.ndim == 3 else ""
        raise ValueError(f"images must be (B, C, H, W) or clips (B, T, C, H, W), got shape {tuple(images.shape)}{hint}")
    if 0 in images.shape[1:]:
        raise ValueError(f"images must have at least one pixel and channel, got shape {tuple(images.shape)}")


def _check_views(views: Any, images: Tensor) -> None:
    if not isinstance(views, tuple | list) or len(views) != 2:
        count = f" of {len(views)}" if isinstance(views, tuple | list) else ""
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
