"""The figures of consistency: sequences with what a model says of them, and flip rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixaug._drawing import COLOURS, FigureImage, new_figure, png_of
from mixaug.evaluate.bar_figures import grouped
from mixaug.evaluate.consistency import FlipExample, FlipRates, pairs
from mixaug.evaluate.perturbations import FRAMES

_SEQUENCES = 5
_GAP = 0.06  # between pictures, of their height
_RIBBON = (-0.42, -0.26)  # its lower and upper end


def flip_sequences(rates: FlipRates, classes: Sequence[str] | None = None) -> FigureImage:
    """The sequences whose prediction changes most, a strip of pictures each.

    Args:
        rates: of one model, with examples.
        classes: names of the classes; default their numbers.

    Returns:
        The figure: up to five perturbations; below the pictures a ribbon of all 31 frames.

    Raises:
        ValueError: no examples.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> example = FlipExample("scale", 3, torch.tensor([3] * 30 + [4]), (0, 30), torch.zeros(2, 1, 4, 4).byte())
        >>> flip_sequences(FlipRates({"scale": torch.tensor([1])}, examples=(example,))).title
        'Predictions that change'
    """
    examples = sorted(rates.examples, key=lambda example: -example.flips)[:_SEQUENCES]
    if not examples:
        raise ValueError("rates must hold examples, got none")
    figure, _ = new_figure(1.5 * len(examples), rows=len(examples))
    for axes, example in zip(figure.axes, examples, strict=True):
        _strip(axes, example, classes)
    caption = (
        "Of each perturbation the image whose prediction changes most often. The ribbon shows the predicted class of "
        f"all {FRAMES} frames, with a black line where it changes; white dots are the frames of the pictures."
    )
    return FigureImage(png_of(figure), "Predictions that change", caption)


def flip_bars(rates: Mapping[str, FlipRates]) -> FigureImage:
    """The flip rate of each perturbation and their mean, a bar or a point a model.

    Args:
        rates: each model's name to its rates; perturbations that not all of them have are left out.

    Returns:
        The figure, with 95% intervals.

    Raises:
        ValueError: no model, or no perturbation that all have.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> flip_bars({"one": FlipRates({"scale": torch.tensor([1, 0, 2])})}).title
        'Flip rates'
    """
    models = list(rates.values())
    shared = [name for name in (models[0].flips if models else ()) if all(name in model.flips for model in models)]
    if not shared:
        raise ValueError("rates must hold one model or more with a perturbation that all have")
    rows = (
        [("mean", [model.mean for model in models])] if all(len(model.flips) == len(shared) for model in models) else []
    )
    rows += [(name.replace("_", " "), [model.rates[name] for model in models]) for name in shared]
    caption = (
        f"Share of the pairs of frames whose predictions differ, n = {models[0].mean.n} images with "
        f"{models[0].pairs} pairs each; lines are 95% intervals. Lower is better."
    )
    return FigureImage(grouped(rows, list(rates), "flips in %"), "Flip rates", caption)


def _strip(axes: Any, example: FlipExample, classes: Sequence[str] | None) -> None:
    """The pictures of one sequence in a row, names below them, and below these the ribbon; a picture is 1 high."""
    predictions = example.predictions.tolist()
    order = list(dict.fromkeys(predictions))
    colour_of = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(order)}
    height, width = example.images.shape[-2:]
    step = width / height + _GAP
    whole = len(example.shown) * step - _GAP
    axes.axis("off")
    for place, (number, image) in enumerate(zip(example.shown, example.images, strict=True)):
        left = place * step
        axes.imshow(
            image.permute(1, 2, 0).numpy(),
            cmap="gray",
            vmin=0,
            vmax=255,
            interpolation="nearest" if max(height, width) <= 96 else "antialiased",
            extent=(left, left + width / height, 0, 1),
        )
        label, middle = predictions[number], left + width / height / 2
        axes.text(
            middle, -0.03, _name(label, classes), ha="center", va="top", fontsize=7.5, color=colour_of[label],
            fontweight="bold",
        )  # fmt: skip
    cell = whole / len(predictions)
    for number, label in enumerate(predictions):
        axes.fill_between([number * cell, (number + 1) * cell], *_RIBBON, color=colour_of[label], linewidth=0)
        if number and label != predictions[number - 1]:
            axes.plot([number * cell] * 2, _RIBBON, color="black", linewidth=1.5)
    axes.plot([(number + 0.5) * cell for number in example.shown], [sum(_RIBBON) / 2] * len(example.shown), "w.")
    axes.set(xlim=(0, whole), ylim=(_RIBBON[0] - 0.02, 1))
    changes = "1 change" if example.flips == 1 else f"{example.flips} changes"
    if pairs(example.perturbation)[-1][0] == 0:
        changes = f"{example.flips} of {len(predictions) - 1} differ from the first"
    axes.set_title(
        f"{example.perturbation.replace('_', ' ')}: {changes}; is: {_name(example.label, classes, 30)}",
        loc="left",
        fontsize=9,
        pad=3,
    )


def _name(label: int, classes: Sequence[str] | None, longest: int = 13) -> str:
    name = str(label) if classes is None or label >= len(classes) else classes[label]
    return name if len(name) <= longest else name[: longest - 1] + "…"
