"""The figure of accuracy against the radius of the attack, one line a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixaug._drawing import FigureImage, Look, add_legend, looks, new_figure, png_of
from mixaug.evaluate.drawing import BANDS, draw_curve
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import radius_text


def curve_figure(
    curves: Mapping[str, Mapping[float, Estimate]],
    eps: float,
    attacks: Mapping[str, Estimate] | None = None,
    styles: Sequence[Look] | None = None,
) -> FigureImage:
    """Accuracy against the radius, with the radius of the evaluation marked.

    Args:
        curves: each model's name to its accuracy by radius in [0, 1].
        eps: the radius of the evaluation.
        attacks: accuracy under single attacks of that radius, drawn as points: for one model.
        styles: how each model looks; default one after the other.

    Returns:
        The figure; bands are 95% intervals.

    Raises:
        ValueError: no curve.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> curve_figure({"one": {0.0: Estimate(0.9, 0.8, 1.0, 10), 0.1: Estimate(0.1, 0.0, 0.2, 10)}}, 0.1).title
        'Accuracy by radius of the attack'
    """
    if not curves:
        raise ValueError("curves must be one or more, got none")
    figure, axes = new_figure(3.6 + 0.1 * len(curves))
    for (name, curve), look in zip(curves.items(), styles or looks(len(curves)), strict=True):
        draw_curve(axes, list(curve), list(curve.values()), name, look, len(curves) <= BANDS)
    if eps > 0:
        axes.axvline(eps, color="#333333", linestyle=":", linewidth=1.2)
        axes.annotate(
            f"eps {radius_text(eps)}", (eps, 1), (4, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8.5, color="#333333",
        )  # fmt: skip
    if attacks:
        axes.plot(
            [eps] * len(attacks), [100 * figure.value for figure in attacks.values()], "_", color="#B3400A",
            markersize=13, markeredgewidth=1.8, clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set_xlabel("radius, pixels in [0, 1]")
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    add_legend(figure, list(curves))
    counts = sorted({estimate.n for curve in curves.values() for estimate in curve.values()})
    points = f" Red marks: each attack at eps, {', '.join(attacks)}." if attacks else ""
    caption = (
        f"Right under the strongest attack of each radius, n = {' or '.join(f'{n:,}' for n in counts)} images"
        + ("; bands are 95% intervals." if len(curves) <= BANDS else ".")
        + f"{points} A curve that does not fall to zero is a sign of masking."
        + (" † masked: the attack sees little." if any(name.endswith("†") for name in curves) else "")
    )
    return FigureImage(png_of(figure), "Accuracy by radius of the attack", caption)
