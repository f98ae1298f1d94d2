"""The pictures of a report: corrupted and attacked images with what models say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mixaug._drawing import GREY, RIGHT, WRONG, FigureImage, new_figure, overlay, png_of
from mixaug.evaluate.labels import attack_label, corruption_label
from mixaug.evaluate.outcomes import CorruptedExample
from mixaug.evaluate.report import Report

_NAMED = 4  # models up to which each one's prediction stands below a picture


def corrupted_examples(reports: Sequence[Report], names: Sequence[str]) -> FigureImage:
    """One corrupted image for each corruption with what each model says; with many models, who is right."""
    columns = 3
    few = len(names) <= _NAMED
    marks = [chr(ord("A") + index) for index in range(len(names))]  # names are too long to stand below a picture
    rows = -(-len(reports[0].examples.corrupted) // columns)
    lines_below = len(reports) if few else 2
    figure, grid = new_figure((2.0 + 0.25 * lines_below) * rows, rows=rows, columns=columns)
    for axes in grid.flat:
        axes.axis("off")
    for axes, *examples in zip(grid.flat, *(report.examples.corrupted for report in reports), strict=False):
        first = examples[0]
        _show(axes, first.image)
        axes.set_title(corruption_label(first.corruption), fontsize=9, pad=3)
        lines = _each_model(reports, marks, examples) if few else _who_is_right(marks, examples)
        _below(axes, lines, reports[0].class_name(first.label))
    severity = reports[0].examples.corrupted[0].severity
    legend = "" if len(names) == 1 else " " + ", ".join(f"{m}: {n}" for m, n in zip(marks, names, strict=True)) + "."
    what = "the prediction with its confidence" if few else "the models that are right, and those that are wrong"
    caption = f"Severity {severity} of 5, one image each; below it {what}, green if right, red if not.{legend}"
    return FigureImage(png_of(figure), "Corrupted images and predictions", caption)


def _each_model(
    reports: Sequence[Report], marks: Sequence[str], examples: Sequence[CorruptedExample]
) -> list[tuple[str, bool]]:
    return [
        (
            (f"{mark}: " if len(marks) > 1 else "")
            + f"{report.class_name(example.predicted)} {100 * example.confidence:.0f}%",
            example.predicted == example.label,
        )
        for report, mark, example in zip(reports, marks, examples, strict=True)
    ]


def _who_is_right(marks: Sequence[str], examples: Sequence[CorruptedExample]) -> list[tuple[str, bool]]:
    """Two lines for any number of models."""
    lines = []
    for right, word in ((True, "right"), (False, "wrong")):
        found = [mark for mark, each in zip(marks, examples, strict=True) if (each.predicted == each.label) == right]
        if found:
            lines.append((f"{word}: {''.join(found)}", right))
    return lines


def adversarial_examples(report: Report, attack: str) -> FigureImage:
    """Images before and after an attack, and their difference, amplified."""
    examples = [example for example in report.examples.adversarial if example.attack == attack]
    figure, grid = new_figure(2.15 * len(examples), rows=len(examples), columns=3)
    largest = max(1, *(_difference(example.clean, example.adversarial).abs().max().item() for example in examples))
    for row, (axes_row, example) in enumerate(zip(grid.reshape(-1, 3), examples, strict=True)):
        amplified = (127.5 + _difference(example.clean, example.adversarial) * (127.5 / largest)).round().clamp(0, 255)
        for axes, image in zip(axes_row, (example.clean, example.adversarial, amplified.to(torch.uint8)), strict=True):
            axes.axis("off")
            _show(axes, image)
        if row == 0:
            for axes, title in zip(axes_row, ("clean", "attacked", f"change x {127.5 / largest:.0f}"), strict=True):
                axes.set_title(title, fontsize=10, pad=4)
        truth = report.class_name(example.label)
        before = f"{report.class_name(example.predicted_clean)} {100 * example.confidence_clean:.0f}%"
        after = f"{report.class_name(example.predicted)} {100 * example.confidence:.0f}%"
        _below(axes_row[0], [(before, example.predicted_clean == example.label)], truth)
        _below(axes_row[1], [(after, example.predicted == example.label)], truth)
    change = 255 * report.outcomes.attack_change[attack]
    caption = (
        f"{attack_label(attack)}; no pixel changes by more than {change:.1f} of 255 grey levels. Grey means no change. "
        "The images that the attack turned are shown first."
    )
    return FigureImage(png_of(figure), f"Attacked images ({attack_label(attack)})", caption)


def activation_examples(report: Report) -> FigureImage:
    """Images with the class activation maps of their label and of what the model predicts."""
    examples = report.examples.maps
    height = 5.2 / 3 * examples[0].image.shape[1] / examples[0].image.shape[2] + 0.3
    figure, grid = new_figure(height * len(examples), rows=len(examples), columns=3)
    for axes_row, example in zip(grid.reshape(-1, 3), examples, strict=True):
        right = example.predicted == example.label
        label, predicted = report.class_name(example.label), report.class_name(example.predicted)
        maps = [overlay(example.image, map_.float() / 255) for map_ in (example.label_map, example.predicted_map)]
        titles = ("image", f"label: {label}", f"predicted: {predicted} {100 * example.confidence:.0f}%")
        for axes in axes_row:
            axes.axis("off")
        _show(axes_row[0], example.image)
        for axes, map_ in zip(axes_row[1:], maps, strict=True):
            _show(axes, map_.permute(2, 0, 1))
        for axes, title, colour in zip(axes_row, titles, ("black", GREY, RIGHT if right else WRONG), strict=True):
            axes.set_title(_short(title, 26), fontsize=8, pad=3, color=colour)
    caption = (
        "Class activation maps: the brighter, the more this place speaks for the class. Where the prediction is wrong, "
        "its title is red and the two maps show what each class was seen in."
    )
    return FigureImage(png_of(figure), "Class activation maps", caption)


def _show(axes: Any, image: Tensor) -> None:
    smooth = "nearest" if max(image.shape[1:]) <= 96 else "antialiased"
    if image.shape[0] == 1:
        axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    else:
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation=smooth)


def _below(axes: Any, lines: Sequence[tuple[str, bool]], truth: str) -> None:
    """Predictions under a picture, each green or red, and the truth where one is wrong."""
    texts = [(_short(text), RIGHT if right else WRONG) for text, right in lines]
    if not all(right for _, right in lines):
        texts.append((_short(f"is: {truth}"), GREY))
    for place, (text, colour) in enumerate(texts):
        # An invisible line above each keeps the layout's room for all of them.
        axes.text(
            0.5, -0.03, "\n" * place + text, transform=axes.transAxes, ha="center", va="top", fontsize=8, color=colour
        )


def _short(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 9] + "…" + text[-8:]


def _difference(clean: Tensor, adversarial: Tensor) -> Tensor:
    return adversarial.float() - clean.float()
