"""Dynamic MixCut as a transform of whole batches, with two adversarial views or with partners from the batch.

Paper: Niu et al., "Enhancing the Robustness of Classification Against Adversarial Attacks through a Dual-Enhancement
Strategy", ICIC 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mixaug.transforms import _sample
from mixaug.transforms._batch_mix import BatchMix, check_images, check_one_size
from mixaug.transforms._mixcut_checks import check_views, fitting_record
from mixaug.transforms.dynamic_mixcut_params import DynamicMixCutParams, DynamicMixCutSettings, sample_dynamic_mixcut
from mixaug.transforms.dynamic_mixcut_replay import Views, fill_boxes, final_labels


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
