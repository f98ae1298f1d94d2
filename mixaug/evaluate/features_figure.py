"""The figure of a feature map: images by what the model sees as alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mixaug._drawing import GREY, FigureImage, looks, new_figure, png_of
from mixaug.evaluate.features import FeatureMap

_NAMED = 12


def feature_figure(layout: FeatureMap, classes: Sequence[str] | None = None) -> FigureImage:
    """The points of a feature map, a colour and a marker a class; wrong predictions are ringed in black.

    Args:
        layout: of one model.
        classes: names of the classes; default their numbers. The 12 most frequent are named, others are grey dots.

    Returns:
        The figure.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> labels = torch.tensor([0, 1, 1])
        >>> feature_figure(FeatureMap(torch.rand(3, 2), labels, labels, "fc", 64, 0.67)).title
        'Features'
    """
    found, counts = layout.labels.unique(return_counts=True)
    named = found[counts.argsort(descending=True, stable=True)][:_NAMED].sort().values.tolist()
    figure, axes = new_figure(5.4 + 0.2 * ((len(named) + 2) // 3))
    rest = ~torch.isin(layout.labels, torch.tensor(named, dtype=torch.int64))
    size = 30 if len(layout.labels) <= 400 else 18
    if bool(rest.any()):
        x, y = layout.points[rest].T.tolist()
        axes.scatter(x, y, s=size / 3, color=GREY, alpha=0.5, linewidths=0, label=f"{len(found) - len(named)} others")
    for look, label in zip(looks(len(named)), named, strict=True):
        mine = layout.labels == label
        x, y = layout.points[mine].T.tolist()
        wrong = (layout.predicted != layout.labels)[mine].tolist()
        axes.scatter(
            x,
            y,
            s=size,
            marker=look.marker,
            color=look.colour,
            edgecolors=["black" if miss else "white" for miss in wrong],
            linewidths=[0.9 if miss else 0.3 for miss in wrong],
            label=str(label) if classes is None or label >= len(classes) else classes[label][:20],
        )
    axes.set_xticks([])
    axes.set_yticks([])
    legend = figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False, markerscale=1.3)
    for handle in legend.legend_handles:  # the first point of a class may be a wrong one
        handle.set_edgecolor("white")
    right = float((layout.predicted == layout.labels).double().mean())
    caption = (
        f"t-SNE of the {layout.dimensions} inputs of the model's last layer, n = {len(layout.labels)} images, "
        f"perplexity {layout.perplexity:.3g}. Ringed in black: wrong ({100 * (1 - right):.1f}%). Only "
        "who is close to whom has a meaning."
    )
    return FigureImage(png_of(figure), "Features", caption)
