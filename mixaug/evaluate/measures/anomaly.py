"""Anomaly detection: does a model's confidence tell images of its classes from images of something else?"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mixaug._checks import MAX_COUNT, check_int, check_seed, optional_import
from mixaug._drawing import COLOURS, FigureImage, new_figure, png_of
from mixaug._model_state import bare, check_logits, evaluation_mode, home_of
from mixaug._pictures import as_float
from mixaug.evaluate.encoding import pack, unpack
from mixaug.evaluate.images import LabelledImages, of_classes
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.journal import Progress
from mixaug.evaluate.measure import PAIRED, Drawn, Inputs, Measure, ModelInfo, ModelRunner, Section
from mixaug.evaluate.seeds import subset
from mixaug.evaluate.subject import on_device, subject_of
from mixaug.evaluate.tables import Row, Table

__all__ = [
    "AnomalyScores",
    "anomaly",
]


_RESAMPLES = 1000
_CHUNK = 50  # bootstrap draws made at once: 5 MB at 12,000 images


@dataclass(frozen=True)
class AnomalyScores:
    """The confidences of a model on images of its classes and on others, and how well they are told apart.

    The score of an image is minus the largest softmax probability; out of distribution is the positive class. Hendrycks
    and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks", ICLR 2017,
    as in the tables of PixMix and IPMix.

    Convention: figures are scikit-learn's, so images of one confidence share a threshold; intervals are 95% bootstrap
    intervals, both groups of images resampled, each to its own size.

    Args:
        confidence_in: (n,) float, largest softmax probability of each image of the data set.
        confidence_out: (m,) float, that of each image out of distribution.

    Raises:
        TypeError: not tensors of floating point numbers.
        ValueError: an empty or not one-dimensional tensor, a confidence outside of [0, 1].

    Note:
        The AUPR depends on how many of the images are out of distribution: it is :attr:`base_rate` for a score that
        knows nothing. PixMix and IPMix have one in six of them, a fifth of the data set's size.

    Example:
        >>> scores = AnomalyScores(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.5, 0.75]))
        >>> round(scores.auroc.value, 4), round(scores.aupr.value, 4), round(scores.fpr95.value, 4), scores.base_rate
        (0.8333, 0.8333, 0.3333, 0.4)
    """

    confidence_in: Tensor
    confidence_out: Tensor

    def __post_init__(self) -> None:
        for name in ("confidence_in", "confidence_out"):
            _check_confidence(name, getattr(self, name))

    @property
    def base_rate(self) -> float:
        """The share of the images that is out of distribution: the AUPR of a score that knows nothing."""
        return len(self.confidence_out) / (len(self.confidence_in) + len(self.confidence_out))

    @cached_property
    def auroc(self) -> Estimate:
        """The probability that an image out of distribution is less confident than one of the data set."""
        return self._estimates["auroc"]

    @cached_property
    def aupr(self) -> Estimate:
        """The average precision in finding images out of distribution."""
        return self._estimates["aupr"]

    @cached_property
    def fpr95(self) -> Estimate:
        """The share of the data set's images that is flagged where 95% (or just more) of the others are."""
        return self._estimates["fpr95"]

    @cached_property
    def _estimates(self) -> dict[str, Estimate]:
        values = _by_sklearn(self.confidence_in.detach().cpu(), self.confidence_out.detach().cpu())
        draws = resampled_scores(self.confidence_in.detach().cpu(), self.confidence_out.detach().cpu())
        low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).tolist()
        total = len(self.confidence_in) + len(self.confidence_out)
        return {
            name: Estimate(value, min(bottom, value), max(top, value), total, "bootstrap")
            for name, value, bottom, top in zip(("auroc", "aupr", "fpr95"), values, low, high, strict=True)
        }

    def to_json(self) -> dict[str, Any]:
        """JSON values: the confidences, exactly, and the figures to read."""
        return {
            "confidence_in": _pack(self.confidence_in),
            "confidence_out": _pack(self.confidence_out),
            "base_rate": self.base_rate,
            "n_in": len(self.confidence_in),
            "n_out": len(self.confidence_out),
        } | {name: dict(vars(figure)) for name, figure in self._estimates.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AnomalyScores:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(_unpack(data["confidence_in"]), _unpack(data["confidence_out"]))


def anomaly(
    model: Any,
    dataset: Any,
    out_of_distribution: Any,
    *,
    n: int | None = None,
    n_out: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
    keep: Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]] | None = None,
    advance: Callable[[str], None] | None = None,
) -> AnomalyScores:
    """The confidence of a classifier on its data set and on images of something else.

    Args:
        model: as for :func:`~mixaug.evaluate.evaluate_model`: a module, or any callable from images to logits.
        dataset: as there.
        out_of_distribution: images of something else, of the size and channels of the data set's: a data set in any of
            these forms, whose labels are not used, or a tensor or array of images alone. For a folder of pictures see
            :class:`~mixaug.evaluate.images.PictureFolder`.
        n: number of images of the data set, drawn from the seed as for ``evaluate_model``; default all.
        n_out: number of images out of distribution; default all, but at most a fifth of the data set's images (or 1),
            as in the papers' tables.
        batch_size: images in one pass of the model, default 256.
        seed: of the subsets, default 0.
        device: where the model runs; default where its first parameter is.
        progress: show a progress bar; default False.
        keep: computes a piece of the work or finds it, ``(name, compute) -> tensors``; default computes it.
        advance: told of each batch that is done.

    Returns:
        :class:`AnomalyScores`. The model is left as it was.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range; images of two sizes; logits of a wrong shape.
        FloatingPointError: logits that are not finite.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> data = (torch.rand(10, 1, 4, 4), torch.arange(10) % 2)
        >>> scores = anomaly(model, data, torch.rand(6, 1, 4, 4))
        >>> len(scores.confidence_in), len(scores.confidence_out)
        (10, 2)
    """
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    seed = check_seed("seed", seed)
    module = subject_of(model, of_classes(dataset, "model_classes")).module
    inside, outside = _images(dataset), _images(out_of_distribution)
    index = subset("n", n, len(inside), seed)
    if n_out is None:
        n_out = min(len(outside), max(1, len(index) // 5))
    other = subset("n_out", n_out, len(outside), seed)
    shapes = [tuple(data.take(which[:1])[0].shape[1:]) for data, which in ((inside, index), (outside, other))]
    if shapes[0] != shapes[1]:
        raise ValueError(f"out_of_distribution must have the data set's shape of images {shapes[0]}, got {shapes[1]}")
    home = home_of(module)
    target = home if device is None else torch.device(device)
    steps = sum(math.ceil(len(which) / batch_size) for which in (index, other))
    found = []
    with Progress(steps, "model", progress) as bar, on_device(module, home, target), evaluation_mode(module):
        for kind, data, which in (("in", inside, index), ("out", outside, other)):
            rows = []
            for block, positions in enumerate(which.split(batch_size)):
                compute = partial(_confidence, module, target, data, positions)
                piece = compute() if keep is None else keep(f"anomaly/{kind}/{block}", compute)
                rows.append(piece["confidence"])
                bar.advance("anomaly")
                if advance is not None:
                    advance("anomaly")
            found.append(torch.cat(rows))
    return AnomalyScores(*found)


def _images(dataset: Any) -> LabelledImages:
    if isinstance(dataset, Tensor | np.ndarray):
        dataset = (dataset, torch.zeros(dataset.shape[:1], dtype=torch.int64))
    return LabelledImages(dataset)


def _confidence(module: nn.Module, device: torch.device, data: LabelledImages, positions: Tensor) -> dict[str, Tensor]:
    images, _ = data.take(positions)
    with torch.no_grad():
        logits = check_logits(bare(module)(as_float(images).to(device)), len(images))
    confidence = logits.float().softmax(1).amax(1)
    if not bool(confidence.isfinite().all()):
        raise FloatingPointError("the model's logits are not finite on images in or out of distribution")
    return {"confidence": confidence.clamp(0, 1).cpu()}


def _by_sklearn(confidence_in: Tensor, confidence_out: Tensor) -> tuple[float, float, float]:
    """AUROC, AUPR and FPR at 95% TPR."""
    metrics = optional_import("sklearn.metrics")
    scores = -torch.cat([confidence_in, confidence_out]).double().numpy()
    outside = torch.arange(len(scores)).numpy() >= len(confidence_in)
    false_rate, true_rate, _ = metrics.roc_curve(outside, scores, drop_intermediate=False)
    found = (true_rate * len(confidence_out)).round()
    return (
        float(metrics.roc_auc_score(outside, scores)),
        float(metrics.average_precision_score(outside, scores)),
        # In whole images: 0.95 of 20 is 19, whatever a division makes of it.
        float(false_rate[(20 * found >= 19 * len(confidence_out)).argmax()]),
    )


def resampled_scores(confidence_in: Tensor, confidence_out: Tensor) -> Tensor:
    """AUROC, AUPR and FPR at 95% TPR on bootstrap draws of both groups: (draws, 3).

    By how often each image was drawn, at the thresholds of all images, many draws at once: scikit-learn would sort
    again for each draw and figure.
    """
    n, m = len(confidence_in), len(confidence_out)
    levels, level = torch.cat([confidence_in, confidence_out]).double().unique(return_inverse=True)
    generator = torch.Generator().manual_seed(0)
    draws = []
    for start in range(0, _RESAMPLES, _CHUNK):
        rows = min(_CHUNK, _RESAMPLES - start)
        # Images flagged at each threshold, from the least confident level up.
        false, true = (
            torch.zeros(rows, len(levels), dtype=torch.float64)
            .scatter_add_(
                1,
                level[first + torch.randint(count, (rows, count), generator=generator)],
                torch.ones((), dtype=torch.float64).expand(rows, count),
            )
            .cumsum(1)
            for first, count in ((0, n), (n, m))
        )
        step = true.diff(dim=1, prepend=torch.zeros(rows, 1, dtype=torch.float64))
        # Pairs in the right order, half of those with one confidence.
        before = false.diff(dim=1, prepend=torch.zeros(rows, 1, dtype=torch.float64))
        auroc = (step * (n - false + before / 2)).sum(1) / (n * m)
        aupr = (step * true / (true + false).clamp_min(1)).sum(1) / m
        reached = (20 * true >= 19 * m).double().argmax(1)
        fpr95 = false.gather(1, reached[:, None])[:, 0] / n
        draws.append(torch.stack([auroc, aupr, fpr95], 1))
    return torch.cat(draws)


def _check_confidence(name: str, confidence: Any) -> None:
    if not isinstance(confidence, Tensor) or not confidence.is_floating_point():
        got = confidence.dtype if isinstance(confidence, Tensor) else type(confidence).__name__
        raise TypeError(f"{name} must be a floating point tensor, got {got}")
    if confidence.ndim != 1 or len(confidence) == 0:
        raise ValueError(f"{name} must have shape (n,) with n of 1 or more, got {tuple(confidence.shape)}")
    low, high = (float(bound) for bound in confidence.aminmax())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(f"{name} must lie in [0, 1], got {low:g} to {high:g}")


def _pack(values: Tensor) -> dict[str, str]:
    values = values.detach().cpu()
    return {
        "dtype": str(values.dtype).removeprefix("torch."),
        "data": base64.b64encode(values.contiguous().view(torch.uint8).numpy().tobytes()).decode(),
    }


def _unpack(data: Mapping[str, str]) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(data["data"])), dtype=getattr(torch, data["dtype"]))


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


class Anomaly(Measure[AnomalyScores]):
    """How well the confidence tells the images of another data set apart, see :func:`anomaly`."""

    name, order = "ood", 50
    counted = False
    higher: ClassVar[Mapping[str, str]] = {"auroc": "AUROC", "aupr": "AUPR"}

    def possible(self, inputs: Inputs) -> bool:
        return inputs.other is not None

    def compute(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> AnomalyScores:
        if inputs.other is None:
            raise ValueError("inputs must have other images, got none")
        _, confidence = runner.scored(inputs.other, "out-of-distribution images", labelled=False)
        return AnomalyScores(inputs.confidence, confidence)

    def to_json(self, result: AnomalyScores | None) -> dict[str, Any]:
        confidence = torch.empty(0, dtype=torch.float32) if result is None else result.confidence_out.float()
        return {"ood_confidence": pack(confidence)}

    def from_json(self, data: Mapping[str, Any], clean: tuple[Tensor, Tensor]) -> AnomalyScores | None:
        confidence = unpack(data["ood_confidence"], torch.float32)
        return AnomalyScores(clean[1], confidence) if len(confidence) else None

    def summary(self, result: AnomalyScores | None) -> dict[str, Any]:
        if result is None:
            return {"anomaly": None}
        figures = {name: vars(getattr(result, name)) for name in ("auroc", "aupr", "fpr95")}
        return {"anomaly": figures | {"base_rate": result.base_rate}}

    def rows(self, result: AnomalyScores) -> dict[str, tuple[str, Estimate]]:
        return {"auroc": ("anomaly AUROC", result.auroc), "aupr": ("anomaly AUPR", result.aupr)}

    def count(self, result: AnomalyScores) -> str:
        return f"{len(result.confidence_out):,} images of another data set"

    def tables(self, result: AnomalyScores) -> list[Section]:
        rows = [
            Row("AUROC", [result.auroc]),
            Row("AUPR", [result.aupr]),
            Row("false alarms at 95% found", [result.fpr95]),
        ]
        note = (
            f"{len(result.confidence_out):,} images of another data set are to be found among "
            f"{len(result.confidence_in):,} clean ones. A score that knows nothing has an AUROC of 50% and an AUPR of "
            f"{100 * result.base_rate:.1f}%; of these two higher is better. Small figures are 95% intervals."
        )
        return [Section("Anomalies", 50, Table(["by the confidence", "%"], rows, note))]

    def figures(self, result: AnomalyScores, model: ModelInfo) -> list[Drawn]:
        return [Drawn("anomaly", 100, anomaly_figure(result))]

    def same(self, one: AnomalyScores, other: AnomalyScores, models: tuple[ModelInfo, ModelInfo]) -> bool:
        hashes = [model.settings.get("out_of_distribution_sha256") for model in models]
        return len(one.confidence_out) == len(other.confidence_out) and hashes[0] == hashes[1]

    def difference(self, one: AnomalyScores, other: AnomalyScores, key: str) -> Estimate:
        # The draws depend on the numbers of images alone, which agree: each takes the same images of both models.
        column = list(self.higher).index(key)
        draws = [resampled_scores(each.confidence_in, each.confidence_out)[:, column] for each in (one, other)]
        ends = torch.quantile(draws[0] - draws[1], torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        figures: list[Estimate] = [getattr(each, key) for each in (one, other)]
        value = figures[0].value - figures[1].value
        return Estimate(value, min(ends[0], value), max(ends[1], value), figures[0].n, PAIRED)


MEASURE = Anomaly()
