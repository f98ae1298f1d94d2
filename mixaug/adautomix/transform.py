"""What GeneratedMix is given: draws that fit the images, and images that the teacher takes."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from mixaug._checks import check_number
from mixaug._random import drawn_by
from mixaug.adautomix.checkpoint import read_generator
from mixaug.adautomix.mixing import MixDraw, MixLaw, check_draw, mix_images, mix_targets, plain_masks, sample_mix
from mixaug.adautomix.teacher import Teacher
from mixaug.nn.mix_generator import MixGenerator
from mixaug.transforms import labels as _labels
from mixaug.transforms import sample as _sample
from mixaug.transforms.batch_mix import BatchMix, as_plain, check_images, check_one_size

__all__ = [
    "GeneratedMix",
    "fitting_draw",
    "per_frame",
    "teacher_takes",
]


def fitting_draw(params: Any, images: Tensor, check_values: bool = False) -> MixDraw:
    """The draw on the images' device, if it was drawn for so many images; ``check_values`` reads one on a GPU."""
    if not isinstance(params, MixDraw):
        raise TypeError(f"params must be a MixDraw, got {type(params).__name__}")
    if len(params.index) != len(images):
        raise ValueError(f"params were drawn for {len(params.index)} images, got images of shape {tuple(images.shape)}")
    return check_draw(params, len(images), images.device, check_values=check_values)


def per_frame(draw: MixDraw, images: Tensor) -> MixDraw:
    """The draw of a batch of clips (B, T, C, H, W) as that of the B T frames one after the other; of images, itself."""
    if images.ndim == 4:
        return draw
    frames = images.shape[1]
    place = torch.arange(frames, device=draw.index.device)
    index = draw.index[:, None] * frames + place[:, None]
    return MixDraw(
        index.flatten(0, 1), draw.ratios.repeat_interleave(frames, 0), draw.plain.repeat_interleave(frames, 0)
    )


@contextmanager
def teacher_takes(images: Tensor) -> Iterator[None]:
    """A pass of the teacher whose failure names the images: what a convolution says does not."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"images must be such as the generator's teacher takes, got shape {tuple(images.shape)}: {reason}"
        ) from error


class GeneratedMix(BatchMix):
    r"""Mixes several images by masks that a trained generator of :class:`mixaug.AdAutoMix` makes for them.

    .. math:: \bar x = \sum_i M_i \odot x_i, \qquad \bar y = (1 - \alpha) \textstyle\sum_i r_i\, y_i + \alpha / K

    (Qin et al., ICLR 2024, Eq. 3 and 7), with masks ``M`` from the teacher's features of the N images and the ratios
    ``r``. Nothing is trained here: generator and teacher are frozen.

    Convention:
        Partners are the image's successors on one random cycle through the batch, never itself; a batch of fewer images
        than ``n_mix`` mixes all that it has, and a batch of one is unchanged. Ratios are one draw for the batch, or one
        an image (``per_image``); the first is the image's own. Mixtures with a ratio closer than 0.03 to 0 or 1 are
        plain, as in the training. ``p`` gates each image once: one that it skips is unchanged, with ratio 1, and still
        partner of others. Masks and mixtures are float32; bytes are rounded to the nearest. The weights are on one
        device, which ``.to(device)`` changes, and so must the images be.

    Args:
        mask_generator: trained; copied.
        teacher: whose features it reads; copied.
        num_classes: ``K`` of the labels, which need not be the teacher's.
        law: of partners and ratios. Default: three images, one draw for the batch.
        p: probability in ``[0, 1]`` that an image is mixed. Default 1.
        smoothing: ``alpha`` of the label smoothing, in ``[0, 1]``. Default 0.
        images_getter, labels_getter: ``"default"`` or a function of the sample, see :class:`mixaug.DynamicMixCut`.
        generator: of torch, for the draws; in loader workers and on several ranks as in :class:`mixaug.DynamicMixCut`.
        check_values: read every batch and its labels, not just the first, also on a GPU (which waits for the device).

    Shape:
        In: images ``(B, C, H, W)``, or clips ``(B, T, C, H, W)`` whose frames share the draw, each with its own masks;
        uint8 in ``0..255`` or float16, bfloat16, float32 in ``[0, 1]``; labels ``(B,)`` integers or ``(B, K)``
        probabilities. Out: images of the same kind, dtype, device and memory format; labels ``(B, K)`` float32, always.

    Raises:
        TypeError: an argument, image or label of another kind or dtype; a sample with PIL images, boxes, masks or key
            points.
        ValueError: an argument out of range; labels, shapes or devices that do not fit; images that the teacher does
            not take; images that are not finite.

    Note:
        A pass of the teacher up to its feature layer for each batch: after the loader, on the training's device, that
        is cheap; in loader workers it takes their time.

    Example:
        >>> from mixaug import AdAutoMix
        >>> from mixaug.models import build_model
        >>> mixer = AdAutoMix(build_model("resnet-small", 10), 10)
        >>> mix = GeneratedMix(mixer.generator, mixer.teacher, num_classes=10)
        >>> images, targets = mix(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> images.shape, targets.shape, targets.dtype
        (torch.Size([8, 3, 32, 32]), torch.Size([8, 10]), torch.float32)
    """

    _replayed = False

    def __init__(
        self,
        mask_generator: MixGenerator,
        teacher: Teacher,
        num_classes: int,
        law: MixLaw | None = None,
        p: float = 1.0,
        smoothing: float = 0.0,
        *,
        images_getter: str | _sample.Getter = "default",
        labels_getter: str | _sample.Getter = "default",
        generator: torch.Generator | None = None,
        check_values: bool = False,
    ) -> None:
        super().__init__(num_classes, smoothing, images_getter, labels_getter, generator, check_values)
        kinds = {"mask_generator": (mask_generator, MixGenerator), "teacher": (teacher, Teacher)}
        for name, (value, kind) in {**kinds, "law": (law or MixLaw(), MixLaw)}.items():
            if not isinstance(value, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
        self.law = law or MixLaw()
        self.p = check_number("p", p, 0.0, 1.0)
        self.mask_generator = copy.deepcopy(mask_generator).requires_grad_(False)
        self.teacher = copy.deepcopy(teacher).requires_grad_(False)
        self.eval()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        model: nn.Module | None = None,
        *,
        n_mix: int | None = None,
        p: float = 1.0,
        num_classes: int | None = None,
        smoothing: float = 0.0,
        per_image: bool | None = None,
        dirichlet: bool | None = None,
        concentration: float | None = None,
        images_getter: str | _sample.Getter = "default",
        labels_getter: str | _sample.Getter = "default",
        generator: torch.Generator | None = None,
        check_values: bool = False,
    ) -> GeneratedMix:
        """The generator of a file that a training wrote (``generator.pt``) or :meth:`mixaug.AdAutoMix.save`.

        Args:
            path: of the file.
            model: of the architecture that the generator was trained with, for a model of the user's own; copied, its
                own weights do not matter. None: built as the file says, on the CPU.
            n_mix, per_image, dirichlet, concentration: of the law, see :class:`~mixaug.adautomix.MixLaw`; None: as in
                the training.
            num_classes: of the labels; None: as in the training.
            p, smoothing, images_getter, labels_getter, generator, check_values: of the class.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file cannot be read, a model is needed, or the weights do not fit it.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from mixaug import AdAutoMix
            >>> from mixaug.models import build_model
            >>> model, path = build_model("resnet-small", 10), Path(tempfile.mkdtemp()) / "generator.pt"
            >>> AdAutoMix(model, num_classes=10).save(path)
            >>> GeneratedMix.from_checkpoint(path, model, n_mix=2)
            GeneratedMix(num_classes=10, n_mix=2, p=1.0, smoothing=0.0, per_image=False)
        """
        saved = read_generator(path)
        given = {"n_mix": n_mix, "per_image": per_image, "dirichlet": dirichlet, "concentration": concentration}
        changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return cls(
            *saved.build(model),
            saved.num_classes if num_classes is None else num_classes,
            dataclasses.replace(saved.law, **changed),
            p,
            smoothing,
            images_getter=images_getter,
            labels_getter=labels_getter,
            generator=generator,
            check_values=check_values,
        )

    def train(self, mode: bool = True) -> GeneratedMix:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, *inputs: Any) -> Any:
        """Mixes a batch: ``mix(images, labels)``, or any sample that holds one.

        Args:
            inputs: images and labels, or one sample (tuple, list, mapping, nested) with both. Labels may be a list,
                tuple or NumPy array of numbers.

        Returns:
            the sample with images and labels replaced; everything else as it was.
        """
        return self._mix(inputs)

    def sample(self, images: Tensor, *, generator: torch.Generator | None = None) -> MixDraw:
        """Draws for ``images`` without touching them; :meth:`replay` carries it out.

        Args:
            images: the batch.
            generator: of torch; None: the transform's own.

        Returns:
            the draw, on the generator's device (without one: on the images'); images that ``p`` skips have ratio 1.
        """
        check_images(images)
        generator = generator if generator is not None else self._random.current()
        draw = sample_mix(len(images), self.law, generator, images.device)
        device = draw.ratios.device
        mixed = torch.rand(len(images), device=device, dtype=torch.float32, **drawn_by(generator)) < self.p
        alone = torch.arange(draw.index.shape[1], device=device) == 0
        ratios = torch.where(mixed[:, None], draw.ratios, alone.to(draw.ratios.dtype))
        return MixDraw(draw.index, ratios, draw.plain | ~mixed)

    def replay(self, images: Tensor, labels: Tensor, params: MixDraw) -> tuple[Tensor, Tensor]:
        """Carries out a draw: no randomness.

        Args:
            images: the batch that ``params`` was drawn for.
            labels: of the batch.
            params: of :meth:`sample`.

        Returns:
            ``(mixed, targets)``.

        Raises:
            TypeError: the draw, or a field of it, is of another kind or dtype (compact ones are cast).
            ValueError: the draw does not fit the images, or a value of it is out of range (read on the CPU; on a GPU at
                the first replay, or with ``check_values``).
        """
        self._check_sample([images], labels)
        first = self.check_values or not self._replayed
        hook = {"labels": labels, "draw": fitting_draw(params, images, first)}
        self._replayed = True
        return self.transform(images, hook), self.transform(labels, hook)

    def masks(self, images: Tensor, params: MixDraw) -> Tensor:
        """The masks that :meth:`replay` mixes by.

        Args:
            images: ``(B, C, H, W)``.
            params: of :meth:`sample`.

        Returns:
            ``(B, N, H, W)`` float32, which sum to 1 over N.
        """
        check_images(images)
        self._check_device(images)
        if images.ndim != 4:
            raise ValueError(f"images must be (B, C, H, W), got shape {tuple(images.shape)}")
        return self._masks(as_plain(images), fitting_draw(params, images))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """torchvision's hook: draws once for the images of a sample (several batches of images share the draw)."""
        first = check_one_size(flat_inputs)
        draw = self.sample(first)
        return {"draw": draw if draw.ratios.device == first.device else draw.to(first.device)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """torchvision's hook: carries the draw out on the labels or on a batch of images."""
        draw, labels = params["draw"], params["labels"]
        if inpt is labels:
            classes = labels.shape[1] if self.num_classes is None else self.num_classes
            return _labels.smooth(mix_targets(as_plain(labels), draw.index, draw.ratios, classes), self.smoothing)
        images = as_plain(inpt)
        out = self._mixed(images.flatten(0, -4), per_frame(draw, images)).reshape(images.shape)
        return tv_tensors.wrap(out, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else out

    def extra_repr(self) -> str:
        """The arguments."""
        law = self.law
        return (
            f"num_classes={self.num_classes}, n_mix={law.n_mix}, p={self.p}, smoothing={self.smoothing}, "
            f"per_image={law.per_image}"
        )

    def __repr__(self) -> str:
        # Without the hundred lines of the teacher.
        return f"{type(self).__name__}({self.extra_repr()})"

    def _mixed(self, images: Tensor, draw: MixDraw) -> Tensor:
        if draw.index.shape[1] < 2 or len(images) == 0:
            return images.clone()
        mixed = mix_images(images.float(), draw.index, self._masks(images, draw))
        return (mixed if images.is_floating_point() else mixed.round()).to(images.dtype)

    @torch.no_grad()
    def _masks(self, images: Tensor, draw: MixDraw) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        if draw.index.shape[1] < 2 or len(images) == 0:
            return draw.ratios[..., None, None].expand(*draw.ratios.shape, *size)
        scaled = images.float() if images.is_floating_point() else images.float() / 255
        with teacher_takes(images):
            features = self.teacher.features(scaled.to(self.mask_generator.project.weight.dtype))
        masks = self.mask_generator(features, draw.ratios, size, draw.index)
        return plain_masks(masks, draw.ratios, draw.plain)

    def _check_sample(self, images: Sequence[Any], labels: Any) -> None:
        for value in images:
            check_images(value)
            self._check_device(value)
            self._check_labels(labels, value)

    def _check_device(self, images: Tensor) -> None:
        home = self.mask_generator.project.weight.device
        if images.device != home:
            raise ValueError(
                f"images must be on the transform's device {home}, got {images.device}: move one of them, such as by "
                f"mix.to({str(images.device)!r})"
            )
