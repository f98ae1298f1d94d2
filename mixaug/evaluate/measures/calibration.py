"""Calibration: how far a model's confidence is from its accuracy."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mixaug._checks import MAX_BATCH, MAX_COUNT, check_choice, check_int, optional_import
from mixaug._drawing import COLOURS, GREY, FigureImage, add_legend, looks, new_figure, png_of
from mixaug.evaluate.intervals import Estimate, centred, resample
from mixaug.evaluate.measure import PAIRED, Drawn, Measure, ModelInfo, Section
from mixaug.evaluate.tables import Row, Table

#: Equal-width bins, and images in an equal-count one, unless stated.
_BINS, _BIN_SIZE = 15, 100


@dataclass(frozen=True)
class ReliabilityCurve:
    """The data of a reliability diagram: ``bins`` equal-width bins of the confidence.

    Args:
        edges: bins + 1 edges from 0 to 1.
        counts: images in each bin.
        confidence: mean confidence in each bin; NaN where a bin is empty.
        accuracy: share of correct images in each bin; NaN where a bin is empty.
    """

    edges: list[float]
    counts: list[int]
    confidence: list[float]
    accuracy: list[float]


def ece(confidence: Tensor, correct: Tensor, bins: int = _BINS) -> float:
    """Expected calibration error over equal-width bins.

    ``sum_b (n_b / n) |accuracy_b - confidence_b|``; Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural
    networks", ICML 2017. Computed by torchmetrics.

    Convention: the confidence is the probability of the predicted class; an image on an edge belongs to the bin above.

    Args:
        confidence: probability of the predicted class, in [0, 1].
        correct: whether the prediction is right.
        bins: number of equal-width bins, default 15.

    Shape:
        confidence: (n,) float; correct: (n,) bool; n is 1 or more.

    Returns:
        The error, in [0, 1].

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that differ or are not (n,), no image, a confidence outside of [0, 1], bins below 1.
        ModuleNotFoundError: torchmetrics is not installed.

    Example:
        >>> round(ece(torch.tensor([0.9, 0.9, 0.9, 0.9]), torch.tensor([True, True, True, False])), 4)
        0.15
    """
    return _torchmetrics(confidence, correct, bins, "l1")


def rms_equal_width(confidence: Tensor, correct: Tensor, bins: int = _BINS) -> float:
    """Root-mean-square calibration error over equal-width bins, computed by torchmetrics.

    ``sqrt(sum_b (n_b / n) (accuracy_b - confidence_b)^2)``. Convention, arguments and errors as :func:`ece`.

    Example:
        >>> round(rms_equal_width(torch.tensor([0.9, 0.9, 0.1, 0.1]), torch.tensor([True, False, False, False])), 4)
        0.2915
    """
    return _torchmetrics(confidence, correct, bins, "l2")


def rms(confidence: Tensor, correct: Tensor, bin_size: int = _BIN_SIZE, variant: str = "all-bins") -> float:
    """Root-mean-square calibration error over equal-count bins of the sorted confidence.

    ``sqrt(sum_b (n_b / n) (accuracy_b - confidence_b)^2)``; Hendrycks, Mazeika, Dietterich, "Deep anomaly detection
    with outlier exposure", ICLR 2019, as used by PixMix and IPMix. Equal-count bins suit a confident model, whose
    images would nearly all fall into the last equal-width bin.

    Convention: images are sorted by confidence (stable: equal ones keep their order), cut into ``n // bin_size`` bins;
    the last bin takes the remainder; fewer than ``bin_size`` images make one bin.

    Args:
        confidence: probability of the predicted class, in [0, 1].
        correct: whether the prediction is right.
        bin_size: images in a bin, default 100.
        variant: ``"all-bins"`` (default), or ``"ipmix-papers"``: the published code of PixMix and IPMix sums over all
            bins but the last, the most confident one, while it still divides by all n. Its figures compare with the
            papers' tables; it is blind to over-confidence at the top, and 0 where there is one bin.

    Shape:
        confidence: (n,) float; correct: (n,) bool; n is 1 or more.

    Returns:
        The error, in [0, 1].

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: as :func:`ece`; bin_size below 1; an unknown variant.

    Note:
        It is biased upwards by sampling noise (about ``sqrt(p(1-p) / bin_size)`` for a perfect model), so it compares
        models on the same number of images only.

    Example:
        >>> confidence = torch.tensor([0.6, 0.6, 0.9, 0.9])
        >>> correct = torch.tensor([True, False, True, False])
        >>> round(rms(confidence, correct, bin_size=2), 4)
        0.2915
        >>> round(rms(confidence, correct, bin_size=2, variant="ipmix-papers"), 4)
        0.0707
    """
    bin_size = check_int("bin_size", bin_size, 1, MAX_COUNT)
    variant = check_choice("variant", variant, ("all-bins", "ipmix-papers"))
    confidence, correct = _checked(confidence, correct)
    order = torch.argsort(confidence, stable=True)
    gap = confidence[order] - correct[order].to(torch.float64)
    n = len(gap)
    bins = max(1, n // bin_size)
    bin_of = (torch.arange(n) // bin_size).clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, gap)
    counts = torch.bincount(bin_of, minlength=bins)
    squares = sums**2 / counts / n  # n_b / n * (sum_b / n_b)^2
    return float((squares if variant == "all-bins" else squares[:-1]).sum().sqrt())


def reliability_curve(confidence: Tensor, correct: Tensor, bins: int = _BINS) -> ReliabilityCurve:
    """Mean confidence and accuracy in equal-width bins: the data of a reliability diagram.

    Arguments, shapes and errors as :func:`ece`, with the same bins.

    Example:
        >>> reliability_curve(torch.tensor([0.2, 0.8, 0.9]), torch.tensor([False, True, False]), bins=2).accuracy
        [0.0, 0.5]
    """
    bins = check_int("bins", bins, 1, MAX_BATCH)
    confidence, correct = _checked(confidence, correct)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    bin_of = torch.bucketize(confidence, edges[1:-1].contiguous(), right=True)
    counts = torch.bincount(bin_of, minlength=bins)
    mean = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, confidence) / counts
    share = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, correct.to(torch.float64)) / counts
    return ReliabilityCurve(edges.tolist(), counts.tolist(), mean.tolist(), share.tolist())


def _torchmetrics(confidence: Tensor, correct: Tensor, bins: int, norm: str) -> float:
    bins = check_int("bins", bins, 1, MAX_BATCH)
    confidence, correct = _checked(confidence, correct)
    confidence = _below_one(confidence)
    # The binary form takes "confidence in the event" and "did it happen"; with event = "the prediction is right" it is
    # the multi-class error, without keeping the (n, classes) probabilities. What it would check was checked here.
    return float(_library()(confidence, correct.long(), n_bins=bins, norm=norm, validate_args=False))


@functools.cache
def _library() -> Callable[..., Tensor]:
    with warnings.catch_warnings():  # other parts of torchmetrics may warn about libraries that we do not use
        warnings.simplefilter("ignore")
        functional = optional_import("torchmetrics.functional.classification")
    function: Callable[..., Tensor] = functional.binary_calibration_error
    return function


def _checked(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(confidence, Tensor) or not confidence.is_floating_point():
        got = confidence.dtype if isinstance(confidence, Tensor) else type(confidence).__name__
        raise TypeError(f"confidence must be a floating point tensor, got {got}")
    if not isinstance(correct, Tensor) or correct.dtype != torch.bool:
        got = correct.dtype if isinstance(correct, Tensor) else type(correct).__name__
        raise TypeError(f"correct must be a bool tensor, got {got}")
    if confidence.ndim != 1 or len(confidence) == 0 or correct.shape != confidence.shape:
        raise ValueError(
            "confidence and correct must both have shape (n,) with n of 1 or more, "
            f"got {tuple(confidence.shape)} and {tuple(correct.shape)}"
        )
    confidence = confidence.detach().to("cpu", torch.float64)
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):  # also catches NaN
        raise ValueError(
            f"confidence must lie in [0, 1], got {confidence.min().item():g} to {confidence.max().item():g}"
        )
    return confidence, correct.detach().cpu()


#: The calibration errors of a report: name to function of confidence and correctness.
CALIBRATION = {
    "rms": rms,
    "rms_ipmix_papers": lambda confidence, correct: rms(confidence, correct, variant="ipmix-papers"),
    "rms_equal_width": rms_equal_width,
    "ece": ece,
}


def resampled_calibration(confidence: Tensor, correct: Tensor, resamples: int = 500) -> dict[str, Tensor]:
    """The errors of ``CALIBRATION`` on resamples of the images, all at once, a quarter of the time of one by one.

    Args:
        confidence: as :func:`ece`.
        correct: as there.
        resamples: number of draws, which depend on the number of images alone; default 500.

    Returns:
        ``(resamples,)`` float64 of each.

    Example:
        >>> draws = resampled_calibration(torch.tensor([0.6, 0.9]), torch.tensor([False, True]), resamples=3)
        >>> draws["ece"].shape
        torch.Size([3])
    """
    confidence, correct = _checked(confidence, correct)
    n, size, bins = len(correct), _BIN_SIZE, max(1, len(correct) // _BIN_SIZE)
    gap = confidence - correct.to(torch.float64)
    # Of torchmetrics, which works in float32.
    below_one, edges = _below_one(confidence), torch.linspace(0, 1, _BINS + 1, dtype=torch.float32)
    width_bin = torch.bucketize(below_one, edges, right=True) - 1
    count_bin = (torch.arange(n) // size).clamp(max=bins - 1)
    counts = torch.bincount(count_bin, minlength=bins)
    pieces: list[list[Tensor]] = []
    for index in resample(n, resamples):
        gaps, rows = gap[index], len(index)
        order = confidence[index].argsort(dim=1, stable=True)
        sums = torch.zeros(rows, bins, dtype=torch.float64).index_add_(1, count_bin, gaps.gather(1, order))
        squares = sums**2 / counts / n
        here = width_bin[index]
        wide = torch.zeros(rows, _BINS, dtype=torch.float64).scatter_add_(1, here, gaps)
        held = torch.zeros(rows, _BINS, dtype=torch.float64).scatter_add_(1, here, torch.ones_like(gaps))
        wide_squares = (wide**2 / held.clamp_min(1)).sum(1) / n
        pieces.append(
            [squares.sum(1).sqrt(), squares[:, :-1].sum(1).sqrt(), wide_squares.sqrt(), wide.abs().sum(1) / n]
        )
    return dict(zip(CALIBRATION, map(torch.cat, zip(*pieces, strict=True)), strict=True))


def _below_one(confidence: Tensor) -> Tensor:
    # torchmetrics gives a confidence of exactly 1, common in saturated models, a bin of its own beside the last one.
    return confidence.float().clamp_max(1.0 - 2.0**-24)


@dataclass(frozen=True)
class Calibration:
    """The calibration errors of a model on its clean images.

    Args:
        confidence: (n,) float, probability of the predicted class.
        correct: (n,) bool, whether it is right.

    Example:
        >>> Calibration(torch.tensor([0.75, 0.75]), torch.tensor([True, False])).errors["ece"].value
        0.25
    """

    confidence: Tensor
    correct: Tensor

    @cached_property
    def errors(self) -> dict[str, Estimate]:
        """Each error of :data:`CALIBRATION` with its 95% bootstrap interval."""
        return {
            name: centred(error(self.confidence, self.correct), self.resampled[name], len(self.correct), lower=0.0)
            for name, error in CALIBRATION.items()
        }

    @cached_property
    def resampled(self) -> dict[str, Tensor]:
        """The errors on the same 500 resamples for every model of as many images."""
        return resampled_calibration(self.confidence, self.correct)

    @cached_property
    def curve(self) -> ReliabilityCurve:
        """Confidence and accuracy in 15 equal-width bins."""
        return reliability_curve(self.confidence, self.correct)


_FEW = 5  # images below which a bin's accuracy is noise
_TOGETHER = 4  # models up to which lines in one diagram can be followed
_COLUMNS = 3


def reliability_diagram(calibration: Calibration) -> FigureImage:
    """Accuracy against confidence in equal-width bins, over a histogram of the confidence."""
    curve = calibration.curve
    figure, (axes, histogram) = new_figure(4.6, rows=2, ratios=[3.2, 1])
    filled = [index for index, count in enumerate(curve.counts) if count]
    width = 1 / len(curve.counts)
    centres = [curve.edges[index] + width / 2 for index in filled]
    accuracy = [curve.accuracy[index] for index in filled]
    confidence = [curve.confidence[index] for index in filled]
    bars = axes.bar(centres, accuracy, width=0.92 * width, color=COLOURS[0], alpha=0.85, label="accuracy")
    for bar, index in zip(bars, filled, strict=True):
        if curve.counts[index] < _FEW:
            bar.set_alpha(0.3)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="calibrated")
    axes.plot(confidence, accuracy, "o", color="black", markersize=3, label="mean of the bin")
    axes.set_ylabel("accuracy")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.tick_params(labelbottom=False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    share = [100 * curve.counts[index] / len(calibration.correct) for index in filled]
    histogram.bar(centres, share, width=0.92 * width, color=GREY)
    histogram.set(xlim=(0, 1), xlabel="confidence", ylabel="images in %")
    caption = (
        f"Bars below the dashed line: the model is too sure. Pale bars hold fewer than {_FEW} images. "
        f"RMS {calibration.errors['rms']}, ECE {calibration.errors['ece']}, "
        f"n = {len(calibration.correct)}."
    )
    return FigureImage(png_of(figure), "Confidence and accuracy", caption)


def reliability_lines(calibrations: Sequence[Calibration], names: Sequence[str]) -> FigureImage:
    """Accuracy against confidence of several models; bins of few images are left out.

    With many models each has a diagram of its own, the others pale behind it.
    """
    together = len(calibrations) <= _TOGETHER
    rows = 1 if together else -(-len(calibrations) // _COLUMNS)
    figure, grid = new_figure(4.4 if together else 1.95 * rows, rows=rows, columns=1 if together else _COLUMNS)
    every = [grid] if together else list(grid.flat)
    curves = [calibration.curve for calibration in calibrations]
    labels = [
        f"{name} (ECE {100 * calibration.errors['ece'].value:.1f}%)"
        for name, calibration in zip(names, calibrations, strict=True)
    ]
    styles = looks(len(calibrations))
    for axes in every[len(calibrations) :]:
        axes.remove()
    for axes in every[: len(calibrations)]:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    for index, (label, curve, look) in enumerate(zip(labels, curves, styles, strict=True)):
        axes = every[0] if together else every[index]
        if not together:
            axes.set_title("\n(ECE".join(label.rsplit(" (ECE", 1)), fontsize=7.5)
            axes.tick_params(labelsize=7.5)
            for other in curves:
                axes.plot(*_line(other), color="#cccccc", linewidth=0.8, zorder=1)
        axes.plot(
            *_line(curve),
            look.line if together else "-",
            marker=look.marker,
            color=look.colour,
            markersize=4,
            label=label,
        )
    if together:
        every[0].set(xlabel="confidence", ylabel="accuracy")
        add_legend(figure, labels)
    else:
        figure.supxlabel("confidence", fontsize=9)
        figure.supylabel("accuracy", fontsize=9)
    return FigureImage(
        png_of(figure),
        "Confidence and accuracy",
        f"Below the dashed line a model is too sure. Bins with fewer than {_FEW} images are left out."
        + ("" if together else " Grey: the other models."),
    )


def _line(curve: ReliabilityCurve) -> tuple[list[Any], list[Any]]:
    filled = [index for index, count in enumerate(curve.counts) if count >= _FEW]
    return [curve.confidence[index] for index in filled], [curve.accuracy[index] for index in filled]


_LABELS = {
    "rms": "RMS, equal-count bins of 100",
    "rms_ipmix_papers": "the same without the last bin, as the IPMix papers' code",
    "rms_equal_width": "RMS, 15 equal-width bins",
    "ece": "ECE, 15 equal-width bins",
}
_BIASED = 1000  # images below which sampling noise is a good part of the errors


class CalibrationErrors(Measure[Calibration]):
    """Calibration on the clean images."""

    name, order = "calibration", 20
    counted = False
    of_clean = True

    def of_outcomes(self, correct: Tensor, confidence: Tensor) -> Calibration:
        return Calibration(confidence, correct)

    def summary(self, result: Calibration | None) -> dict[str, Any]:
        return {} if result is None else {"calibration": {name: vars(error) for name, error in result.errors.items()}}

    def rows(self, result: Calibration) -> dict[str, tuple[str, Estimate]]:
        return {"rms": ("RMS calibration error", result.errors["rms"]), "ece": ("ECE", result.errors["ece"])}

    def tables(self, result: Calibration) -> list[Section]:
        rows = [Row(_LABELS[name], [error, f"{error.n:,}"]) for name, error in result.errors.items()]
        return [Section("Calibration", 40, Table(["calibration error", "%", "n"], rows))]

    def figures(self, result: Calibration, model: ModelInfo) -> list[Drawn]:
        return [Drawn("reliability", 40, reliability_diagram(result))]

    def notes(self, result: Calibration) -> list[str]:
        if len(result.correct) >= _BIASED:
            return []
        return [
            f"RMS and ECE on {len(result.correct)} images are biased upwards by sampling noise; "
            "compare them on the same images only."
        ]

    def difference(self, one: Calibration, other: Calibration, key: str) -> Estimate:
        value = one.errors[key].value - other.errors[key].value
        draws = one.resampled[key] - other.resampled[key]
        return centred(value, draws, len(one.correct), lower=-1.0, method=PAIRED)

    def compared_figures(self, results: Sequence[Calibration], models: Sequence[ModelInfo]) -> list[Drawn]:
        return [Drawn("reliability", 40, reliability_lines(results, [model.name for model in models]))]


MEASURE = CalibrationErrors()
