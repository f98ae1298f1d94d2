"""The figure of occlusion curves: accuracy against the hidden share, one line a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixaug._drawing import FigureImage, Look, add_legend, looks, new_figure, png_of
from mixaug.evaluate.drawing import BANDS, draw_curve
from mixaug.evaluate.occlusion import OcclusionCurve


def occlusion_figure(curves: Mapping[str, OcclusionCurve], styles: Sequence[Look] | None = None) -> FigureImage:
    """Accuracy against the share of each image that is hidden.

    Args:
        curves: each model's name to its curve, with one patch size; an empty name has no legend.
        styles: how each looks; default one after the other.

    Returns:
        The figure; bands are 95% intervals.

    Raises:
        ValueError: no curve, or curves with different patch sizes.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> curve = OcclusionCurve((0.0, 0.5), torch.tensor([[True, True], [True, False]]), patch_size=2)
        >>> occlusion_figure({"one": curve}).title
        'Accuracy under occlusion'
    """
    sides = {curve.patch_size for curve in curves.values()}
    if len(sides) != 1:
        raise ValueError(f"curves must be one or more of one patch size, got {sorted(sides) or 'none'}")
    figure, axes = new_figure(3.4)
    for (name, curve), look in zip(curves.items(), styles or looks(len(curves)), strict=True):
        draw_curve(axes, [100 * ratio for ratio in curve.ratios], curve.accuracy, name, look, len(curves) <= BANDS)
    axes.set_xlabel("hidden patches in %")
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(bottom=0)
    add_legend(figure, list(curves))
    count = max(len(curve.correct[0]) for curve in curves.values())
    caption = (
        f"Random patches of {sides.pop()} px hidden, the same for all; n = {count} images"
        + ("; bands are 95% intervals. " if len(curves) <= BANDS else ". ")
        + "Higher is better."
    )
    return FigureImage(png_of(figure), "Accuracy under occlusion", caption)
