"""The difference of two models with its interval, paired image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixaug.evaluate.anomaly import resampled_figures as resampled_anomaly
from mixaug.evaluate.calibration import CALIBRATION
from mixaug.evaluate.headline import HIGHER
from mixaug.evaluate.intervals import Estimate, Quantity, bootstrap_means, centred
from mixaug.evaluate.robustness import all_right

if TYPE_CHECKING:
    from mixaug.evaluate.report import Report

_METHOD = "paired bootstrap"
_OTHER = "out_of_distribution_sha256"


def same_images(one: Report, two: Report, key: str) -> bool:
    """Whether both reports measured the figure ``key`` on the same images and in the same way.

    Convention: only of the parts that ``compare`` does not insist on; it refuses other images for the rest.
    """
    first, second = one.outcomes, two.outcomes
    if key == "lipschitz":
        return torch.equal(first.lipschitz_index, second.lipschitz_index)
    if key == "flip_rate":
        return torch.equal(first.flip_index, second.flip_index) and _kind_of_flips(one) == _kind_of_flips(two)
    if key == "occlusion":
        same = torch.equal(first.occlusion_index, second.occlusion_index)
        return same and _kind_of_occlusion(one) == _kind_of_occlusion(two)
    if key == "curve":
        return torch.equal(first.curve_index, second.curve_index) and list(first.curve) == list(second.curve)
    if key in HIGHER:
        same = len(first.ood_confidence) == len(second.ood_confidence)
        return same and one.settings.get(_OTHER) == two.settings.get(_OTHER)
    return True


def difference(report: Report, reference: Report, key: str, worst: Sequence[str] = ()) -> Estimate:
    """The figure ``key`` of ``report`` less that of ``reference``.

    Args:
        report: the one model.
        reference: the other, on the same images, see :func:`same_images`.
        key: of :func:`~mixaug.evaluate.headline.headline`.
        worst: names of the attacks that the worst case counts.

    Returns:
        The difference with a 95% bootstrap interval; each draw takes the same images of both.
    """
    if key in CALIBRATION:
        return _calibration(report, reference, key)
    if key in HIGHER:
        return _anomaly(report, reference, key)
    change = by_image(report, key, worst) - by_image(reference, key, worst)
    (estimate,) = bootstrap_means(change[:, None], method=_METHOD)
    return Quantity(**vars(estimate)) if key == "lipschitz" else estimate


def by_image(report: Report, key: str, worst: Sequence[str] = ()) -> Tensor:
    """(n,) float64, of which the figure ``key`` is the mean: an error, flip rate or constant for each image.

    Raises:
        KeyError: the report has no such figure.
    """
    outcomes = report.outcomes
    if key == "clean_error":
        return (~outcomes.correct).double()
    if key == "mce":
        return outcomes.failures()
    if key == "worst_case":
        return (~all_right(outcomes, list(worst))[1]).double()
    if key == "lipschitz":
        return outcomes.lipschitz.double()
    if key == "flip_rate" and outcomes.flips is not None:
        counts = torch.stack([count.double() for count in outcomes.flips.flips.values()])
        return counts.mean(0) / outcomes.flips.pairs
    if key == "occlusion" and outcomes.occlusion is not None:
        return (~outcomes.occlusion.correct).double().mean(0)
    return (~outcomes.attacked[key]).double()


def _calibration(report: Report, reference: Report, key: str) -> Estimate:
    value = report.calibration[key].value - reference.calibration[key].value
    draws = report.resampled_calibration[key] - reference.resampled_calibration[key]
    return centred(value, draws, len(report.outcomes.correct), lower=-1.0, method=_METHOD)


def _anomaly(report: Report, reference: Report, key: str) -> Estimate:
    one, two = report.anomaly, reference.anomaly
    if one is None or two is None:
        raise KeyError(key)
    # The draws depend on the numbers of images alone, which agree: each takes the same images of both models.
    draws = [resampled_anomaly(each.confidence_in, each.confidence_out)[:, HIGHER.index(key)] for each in (one, two)]
    ends = torch.quantile(draws[0] - draws[1], torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    figures = [getattr(each, key) for each in (one, two)]
    value = figures[0].value - figures[1].value
    return Estimate(value, min(ends[0], value), max(ends[1], value), figures[0].n, _METHOD)


def _kind_of_flips(report: Report) -> Any:
    flips = report.outcomes.flips
    return None if flips is None else (list(flips.flips), flips.pairs)


def _kind_of_occlusion(report: Report) -> Any:
    curve = report.outcomes.occlusion
    return None if curve is None else (curve.ratios, curve.patch_size, curve.fill)
