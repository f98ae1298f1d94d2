"""Where a classifier looks for a class: Grad-CAM at any layer whose output is a map of places."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixaug._checks import MAX_COUNT, check_int
from mixaug._drawing import GREY, RIGHT, WRONG, FigureImage, as_rgb, new_figure, overlay, png_of
from mixaug._files import atomic_path
from mixaug._model_state import bare, check_logits, check_model, evaluation_mode, home_of, parameters_frozen
from mixaug._pictures import as_bytes, as_float
from mixaug.evaluate.drawing import show_image
from mixaug.evaluate.encoding import decode_pictures, encode_pictures
from mixaug.evaluate.labels import class_name, shortened
from mixaug.evaluate.measure import Drawn, Inputs, Measure, ModelInfo, ModelRunner, NotMeasurable
from mixaug.nn.feature_maps import as_map, map_layers, resolve_layer

__all__ = [
    "class_activation_maps",
    "draw_activation_maps",
]


#: How many layers are looked at from the last one back for the one that a transformer still reads places from: two
#: blocks of timm's transformers, which have 14 layers of the tokens' width each.
_LOOKED_BACK = 32


def class_activation_maps(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 64,
) -> Tensor:
    r"""Grad-CAM: how much each place of an image speaks for a class.

    .. math:: L_c = \text{relu}\Big(\sum_k \alpha_{ck} A_k\Big), \quad
        \alpha_{ck} = \frac{1}{hw} \sum_{ij} \frac{\partial y_c}{\partial A_{kij}}

    ``A`` the map of a layer, ``y`` the logits. Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, "Grad-CAM: visual
    explanations from deep networks via gradient-based localization", ICCV 2017 (arXiv:1610.02391); of mixed images in
    Fig. 11 of Qin et al., "Adversarial AutoMixup", ICLR 2024 (arXiv:2312.11954).

    Convention:
        Each map is resized to the images (bilinear) and then divided by its own largest value; one that is 0 everywhere
        stays so. Nothing is subtracted: 0 means no evidence for the class, or evidence against it. One forward pass
        serves all targets. The model runs in evaluation mode and is left as it was: modes, hooks, buffers,
        ``requires_grad`` and ``.grad``.

        Without ``layer`` it is the last one whose output is a map of more than one place. A transformer that classifies
        by its class token reads no other token after its last attention: there it is the last layer with such tokens
        that the logits still depend on, the first norm of the last block of ViT.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, K). Any of torchvision's or timm's
            classifiers.
        images: a batch; not written to.
        targets: the class of each image's map, or M classes for M maps; default the predicted class.
        layer: name of the layer, as in ``model.named_modules()`` or the end of one such name, such as ``"layer4"``;
            its output is (B, C, h, w), (B, h, w, C) as in Swin, or tokens (B, L, C).
        batch_size: images in one pass of the model, default 64.

    Shape:
        images: (B, C, H, W) uint8, or floating point in [0, 1]; targets: (B,) or (B, M) integers; result: (B, H, W), or
        (B, M, H, W) for targets (B, M), float32 in [0, 1], on the device of the images.

    Returns:
        the maps, detached.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a wrong shape, a target that is no class, no such layer (the message lists those that there are), a
            layer that gives no map or that the logits do not depend on.
        FloatingPointError: maps that are not finite.

    Note:
        Grad-CAM sees one layer: two places of one cell of its map have one value before it is resized. A layer of ViT
        after its last attention, if asked for, has maps of 0.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> images = torch.rand(2, 1, 8, 6)
        >>> class_activation_maps(model, images).shape
        torch.Size([2, 8, 6])
        >>> class_activation_maps(model, images, targets=[[0, 1, 2], [3, 1, 0]], layer="0").shape
        torch.Size([2, 3, 8, 6])
    """
    check_model(model)
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    _check_images(images)
    plain = bare(model)
    wanted = None if targets is None else _checked_targets(targets, images)
    layers = _chosen_layers(plain, images, layer)
    if len(images) == 0:
        many = () if wanted is None else wanted.shape[1:]
        return torch.empty(0, *many, *images.shape[2:], dtype=torch.float32, device=images.device)
    pieces = []
    with ExitStack() as stack:
        # A compiled model does not call hooks that it has not seen. Without this module nothing is compiled, and to
        # import it would take seconds.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(evaluation_mode(plain))
        stack.enter_context(parameters_frozen(plain))  # so that no graph is kept of what runs before the layer
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            pieces.append(_maps(plain, images[part], None if wanted is None else wanted[part], layers))
    maps = torch.cat(pieces)
    if not bool(maps.isfinite().all()):
        raise FloatingPointError("the model's activations or their gradients are not finite")
    return maps[:, 0] if wanted is None or wanted.ndim == 1 else maps


def _maps(model: nn.Module, images: Tensor, targets: Tensor | None, layers: list[str]) -> Tensor:
    """(B, M, H, W) at the last of the layers that the logits depend on."""
    points = as_float(images.detach()).to(home_of(model), copy=True)
    outputs, logits = _run(model, points, layers)
    if targets is None:
        targets = logits.argmax(1)
    elif int(targets.max()) >= logits.shape[1]:
        raise ValueError(f"targets must lie below the model's {logits.shape[1]} classes, got {int(targets.max())}")
    scores = logits.gather(1, targets.to(logits.device).view(len(points), -1)).sum(0)
    size = (points.shape[2], points.shape[3])
    output, gradients = _gradients(scores, outputs, size)
    wide = torch.float64 if output.dtype == torch.float64 else torch.float32
    activation = as_map(output.detach(), size).to(wide)
    # relu(sum_k alpha_k A_k) for each of the M classes.
    weights = torch.stack([as_map(gradient, size).to(wide).mean((2, 3)) for gradient in gradients], 1)
    coarse = torch.einsum("bmk,bkhw->bmhw", weights, activation).relu()
    maps = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    largest = maps.amax((2, 3), keepdim=True)
    return torch.where(largest == 0, maps, maps / largest).float().to(images.device)


def _run(model: nn.Module, points: Tensor, layers: list[str]) -> tuple[list[Tensor], Tensor]:
    """The outputs of those layers that give a map, in the order in which they ran, and the logits above them."""
    kept: dict[str, Tensor] = {}
    last = layers[-1]

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            if name != last and (not isinstance(output, Tensor) or output.ndim != 3):
                return None  # of what is no transformer the last layer is the one
            try:
                as_map(output, (points.shape[2], points.shape[3]))
            except (TypeError, ValueError) as error:
                raise type(error)(f"layer {name!r} does not serve: {error}") from error
            kept.pop(name, None)  # of a layer that runs several times the last run counts
            kept[name] = output if output.requires_grad else output.detach().requires_grad_()
            return kept[name].clone()  # what follows may write to it, and to a leaf it must not

        return hook

    with ExitStack() as hooks:
        for name in layers:
            hooks.callback(model.get_submodule(name).register_forward_hook(keep(name)).remove)
        logits = check_logits(model(points), len(points))
    if last not in kept:
        raise ValueError(f"layer must be one that runs, got {last!r}, which did not")
    return list(kept.values()), logits


def _gradients(scores: Tensor, outputs: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
    """The last output whose places the scores (M,) depend on, and the gradient of each score at it.

    If they depend on none of them, as far as the numbers tell, it is the last output.
    """

    def at(output: Tensor) -> list[Tensor]:
        found = [torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)[0] for score in scores]
        return [torch.zeros_like(output) if gradient is None else gradient for gradient in found]

    if not scores.requires_grad:
        raise ValueError("layer must be one that the logits depend on, got one beside the way to them")
    gradients = at(outputs[-1])
    if len(outputs) == 1 or any(bool((as_map(gradient, size) != 0).any()) for gradient in gradients):
        return outputs[-1], gradients
    used = [False] * len(outputs)

    def note(index: int) -> Any:
        def hook(gradient: Tensor) -> None:
            used[index] = bool((as_map(gradient, size) != 0).any())

        return hook

    # One pass that keeps no gradient: those of 32 layers of a transformer would take a gigabyte.
    with ExitStack() as hooks:
        for index, output in enumerate(outputs):
            hooks.callback(output.register_hook(note(index)).remove)
        torch.autograd.grad(scores.sum(), outputs[0], retain_graph=True, allow_unused=True)
    if not any(used):
        return outputs[-1], gradients
    output = outputs[max(index for index, found in enumerate(used) if found)]
    return output, at(output)


def _chosen_layers(model: nn.Module, images: Tensor, layer: str | None) -> list[str]:
    """The layer that was asked for; else the last one with a map, after those before it of the same shape."""
    if layer is not None:
        try:
            return [resolve_layer(model, layer)]
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("feature_layer", "layer", 1)) from error
    example = torch.zeros(2, *images.shape[1:], dtype=as_float(images[:0]).dtype, device=home_of(model))
    shapes = map_layers(model, example)
    if not shapes:
        raise ValueError("model must have a layer whose output is a map of more than one place, got none")
    names = list(shapes)
    return [name for name in names if shapes[name] == shapes[names[-1]]][-_LOOKED_BACK:]


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be uint8 or floating point in [0, 1], got {got}")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    if images.is_floating_point() and images.numel():
        low, high = (float(bound) for bound in images.detach().aminmax())
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise ValueError(
                f"images must lie in [0, 1], got values from {low:g} to {high:g}; "
                "normalise inside the model, as its first layer"
            )


def _checked_targets(targets: Any, images: Tensor) -> Tensor:
    found = targets if isinstance(targets, Tensor) else torch.as_tensor(targets)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"targets must be integers, got {found.dtype}")
    if found.ndim not in (1, 2) or len(found) != len(images) or (found.ndim == 2 and found.shape[1] == 0):
        raise ValueError(
            f"targets must have shape ({len(images)},), or ({len(images)}, M) for M maps of each image, "
            f"got {tuple(found.shape)}"
        )
    if found.numel() and int(found.min()) < 0:
        raise ValueError(f"targets must be 0 or more, got {int(found.min())}")
    return found.long()


_COLUMNS = 6  # pictures side by side, where an image with its maps is not wider
_WIDTH = 5.2  # inches of a figure
_TITLE = 0.18  # inches above a picture with a name


def draw_activation_maps(
    images: Tensor,
    maps: Tensor,
    names: Sequence[str] | Sequence[Sequence[str]] | None,
    path: str | os.PathLike[str],
) -> Path:
    """Draws images, each followed by its class activation maps laid over it, as a PNG file.

    Args:
        images: a batch.
        maps: of :func:`~mixaug.evaluate.class_activation_maps` for these images.
        names: of each map, such as the class; None: none.
        path: the file; it is written whole or not at all, and its folder is made if it is missing.

    Shape:
        images: (B, C, H, W) with B of 1 or more and C of 1 or 3, uint8 or floating point in [0, 1]; maps: (B, H, W), or
        (B, M, H, W) with M names for each image, in [0, 1].

    Returns:
        the path.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes or numbers of names that do not fit each other.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
        >>> draw_activation_maps(images, maps, ["cat", "dog"], "maps.png").name
        'maps.png'
    """
    _check(images, maps)
    maps = maps if maps.ndim == 4 else maps[:, None]
    count, many = maps.shape[:2]
    titles = _titles(names, count, many)
    groups = max(1, min(count, _COLUMNS // (1 + many)))  # images beside each other, each with its maps
    rows, columns = -(-count // groups), groups * (1 + many)
    cell = _WIDTH / columns * images.shape[2] / images.shape[3]
    figure, grid = new_figure(rows * (cell + (0 if names is None else _TITLE)), rows=rows, columns=columns)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for axes in grid.flat:
        axes.axis("off")
    bytes_ = as_bytes(images.detach().cpu().float() if images.is_floating_point() else images.detach().cpu())
    for index, image in enumerate(bytes_):
        row, group = divmod(index, groups)
        cells = grid[row, group * (1 + many) :][: 1 + many]
        pictures = [as_rgb(image), *(overlay(image, map_) for map_ in maps[index].detach().cpu())]
        for axes, picture, title in zip(cells, pictures, ("", *titles[index]), strict=True):
            smooth = "nearest" if max(picture.shape[:2]) <= 96 else "antialiased"
            axes.imshow(picture.numpy(), interpolation=smooth)
            axes.set_title(title, fontsize=7.5, pad=2)
    png = png_of(figure)
    with atomic_path(path) as temporary:
        temporary.write_bytes(png)
    return Path(path)


def _titles(names: Any, count: int, many: int) -> list[list[str]]:
    if names is None:
        return [[""] * many] * count
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"names must be a sequence of names, one for each map, or None, got {type(names).__name__}")
    rows = [[name] if isinstance(name, str) else list(name) for name in names]
    if len(rows) != count or any(len(row) != many for row in rows):
        raise ValueError(
            f"names must have {count} entries of {many} name{'s' * (many > 1)} each, got {[len(row) for row in rows]}"
        )
    return rows


def _check(images: Any, maps: Any) -> None:
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be uint8 or floating point in [0, 1], got {got}")
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must have shape (B, C, H, W) with B of 1 or more and C of 1 or 3, got {tuple(images.shape)}"
        )
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        got = maps.dtype if isinstance(maps, Tensor) else type(maps).__name__
        raise TypeError(f"maps must be a floating point tensor, got {got}")
    fits = maps.ndim in (3, 4) and len(maps) == len(images) and maps.shape[-2:] == images.shape[-2:] and maps.numel()
    if not fits:
        sizes = ", ".join(str(size) for size in images.shape[2:])
        raise ValueError(
            f"maps must have shape ({len(images)}, {sizes}) or ({len(images)}, M, {sizes}), got {tuple(maps.shape)}"
        )
    low, high = (float(bound) for bound in maps.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(f"maps must lie in [0, 1], got values from {low:g} to {high:g}")


@dataclass(frozen=True)
class MapExample:
    """An image with the class activation maps of its label and of the prediction: uint8 (C, H, W) and (H, W) each."""

    image: Tensor
    label_map: Tensor
    predicted_map: Tensor
    label: int
    predicted: int
    confidence: float


def activation_figure(examples: Sequence[MapExample], classes: Sequence[str] | None = None) -> FigureImage:
    """Images with the class activation maps of their label and of what the model predicts."""
    height = 5.2 / 3 * examples[0].image.shape[1] / examples[0].image.shape[2] + 0.3
    figure, grid = new_figure(height * len(examples), rows=len(examples), columns=3)
    for axes_row, example in zip(grid.reshape(-1, 3), examples, strict=True):
        right = example.predicted == example.label
        label, predicted = class_name(example.label, classes), class_name(example.predicted, classes)
        maps = [overlay(example.image, map_.float() / 255) for map_ in (example.label_map, example.predicted_map)]
        titles = ("image", f"label: {label}", f"predicted: {predicted} {100 * example.confidence:.0f}%")
        for axes in axes_row:
            axes.axis("off")
        show_image(axes_row[0], example.image)
        for axes, map_ in zip(axes_row[1:], maps, strict=True):
            show_image(axes, map_.permute(2, 0, 1))
        for axes, title, colour in zip(axes_row, titles, ("black", GREY, RIGHT if right else WRONG), strict=True):
            axes.set_title(shortened(title, 26), fontsize=8, pad=3, color=colour)
    caption = (
        "Class activation maps: the brighter, the more this place speaks for the class. Where the prediction is wrong, "
        "its title is red and the two maps show what each class was seen in."
    )
    return FigureImage(png_of(figure), "Class activation maps", caption)


class ActivationMaps(Measure[list[MapExample]]):
    """Images with the maps of their label and of the prediction, see :func:`class_activation_maps`."""

    name, order, usual = "maps", 80, 6
    needs_gradient = needs_layers = needs_pictures = True
    section = "examples"

    def work(self, n: int, eps: float) -> float:
        return 6.0 * n

    def compute(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> list[MapExample]:
        images, labels = runner.data.take(index)

        def maps() -> dict[str, Tensor]:
            _, sure, predicted = runner(as_float(images), labels, "clean images")
            targets = torch.stack([labels, predicted], 1)
            found = class_activation_maps(runner.model, as_float(images).to(runner.device), targets.to(runner.device))
            return {"maps": as_bytes(found.float().cpu()), "predicted": predicted, "confidence": sure}

        runner.bar.doing("class activation maps")
        try:
            piece = runner.journal.keep("maps", maps, index, runner.batch_size)
        except ValueError as error:  # no layer of the model gives a map
            raise NotMeasurable(str(error)) from error
        finally:
            runner.step("class activation maps", self.work(len(index), inputs.eps))
        return [
            MapExample(as_bytes(image), label_map, predicted_map, int(label), int(predicted), float(sure))
            for image, (label_map, predicted_map), label, predicted, sure in zip(
                images, piece["maps"], labels, piece["predicted"], piece["confidence"], strict=True
            )
        ]

    def to_json(self, result: list[MapExample] | None) -> dict[str, Any]:
        return {"maps": [encode_pictures(vars(example)) for example in result or []]}

    def from_json(self, data: Mapping[str, Any], clean: tuple[Tensor, Tensor]) -> list[MapExample] | None:
        found = []
        for fields in map(decode_pictures, data["maps"]):
            # A grey PNG comes back with a channel, which maps do not have.
            flat = {name: fields[name][0] for name in ("label_map", "predicted_map")}
            found.append(MapExample(**fields | flat))
        return found or None

    def figures(self, result: list[MapExample], model: ModelInfo) -> list[Drawn]:
        return [Drawn("maps", 80, activation_figure(result, model.classes))]


MEASURE = ActivationMaps()
