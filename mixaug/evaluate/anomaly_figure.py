"""The figure of anomaly detection: confidences on a model's own images and on others."""

from __future__ import annotations

import torch

from mixaug._drawing import COLOURS, FigureImage, new_figure, png_of
from mixaug.evaluate.anomaly import AnomalyScores

_BINS = 25


def anomaly_figure(scores: AnomalyScores) -> FigureImage:
    """Two histograms of the confidence: images of the data set, images of something else.

    Args:
        scores: of one model.

    Returns:
        The figure, each histogram in shares of its own images.

    Raises:
        ModuleNotFoundError: matplotlib or scikit-learn is not installed.

    Example:
        >>> anomaly_figure(AnomalyScores(torch.tensor([0.9, 0.8]), torch.tensor([0.3]))).title
        'Confidence on other images'
    """
    figure, axes = new_figure(3.2)
    edges = torch.linspace(0, 1, _BINS + 1, dtype=torch.float32).tolist()
    n, m = len(scores.confidence_in), len(scores.confidence_out)
    groups = (
        (scores.confidence_in, COLOURS[0], f"the data set (n = {n})", "", 0.55),
        (scores.confidence_out, COLOURS[5], f"something else (n = {m})", "////", 0.35),
    )
    for confidence, colour, label, hatch, alpha in groups:
        counts = torch.histc(confidence.float(), _BINS, 0, 1) / len(confidence) * 100
        # Told apart in grey print too: one is filled, the other hatched.
        axes.stairs(counts.tolist(), edges, fill=True, facecolor=colour, alpha=alpha, hatch=hatch, edgecolor=colour)
        axes.stairs(counts.tolist(), edges, color=colour, linewidth=1.6, label=label)
    axes.set(xlim=(0, 1), xlabel="confidence", ylabel="images in %")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    caption = (
        f"Told apart by the confidence: AUROC {scores.auroc}, AUPR {scores.aupr} (a blind score has "
        f"{100 * scores.base_rate:.1f}%), FPR at 95% TPR {scores.fpr95}."
    )
    return FigureImage(png_of(figure), "Confidence on other images", caption)
