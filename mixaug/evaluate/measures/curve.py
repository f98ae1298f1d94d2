"""The accuracy against the radius of the attack: where it does not fall to zero, gradients are masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mixaug._drawing import FigureImage, Look, add_legend, looks, new_figure, png_of
from mixaug._pictures import as_float
from mixaug.attacks import PGD, CWLinf
from mixaug.evaluate.drawing import BANDS, draw_curve
from mixaug.evaluate.encoding import pack, pack_bits, unpack, unpack_bits
from mixaug.evaluate.intervals import Estimate, share
from mixaug.evaluate.labels import radius_text
from mixaug.evaluate.measure import Drawn, Inputs, Measure, ModelInfo, ModelRunner, Section
from mixaug.evaluate.seeds import seed_of
from mixaug.evaluate.subject import gradients_kept
from mixaug.evaluate.tables import Row, Table

#: Radii of the curve, in units of ``eps``.
_CURVE_RADII = (0.25, 0.5, 1.0, 2.0, 4.0)


def curve_radii(eps: float) -> list[float]:
    """The radii of the accuracy against the radius: multiples of ``eps``, at most 1.

    Example:
        >>> curve_radii(0.4)
        [0.1, 0.2, 0.4, 0.8, 1.0]
    """
    return list(dict.fromkeys(min(1.0, factor * eps) for factor in _CURVE_RADII))


_STEPS = 20


@dataclass(frozen=True)
class AccuracyCurve:
    """Which images are right under the strongest attack of each radius.

    Args:
        index: (n,) int64, positions of the images.
        clean: (n,) bool, whether each is right without an attack.
        right: radius in [0, 1] to (n,) bool, whether each is still right.

    Example:
        >>> both = torch.tensor([True, True])
        >>> curve = AccuracyCurve(torch.arange(2), both, {0.1: torch.tensor([True, False])})
        >>> {eps: accuracy.value for eps, accuracy in curve.accuracy.items()}
        {0.0: 1.0, 0.1: 0.5}
    """

    index: Tensor
    clean: Tensor
    right: dict[float, Tensor]

    @cached_property
    def accuracy(self) -> dict[float, Estimate]:
        """Accuracy by radius, from 0 (no attack) on, with Wilson's 95% interval."""
        return {0.0: share(self.clean)} | {eps: share(right) for eps, right in sorted(self.right.items())}


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


class RadiusCurve(Measure[AccuracyCurve]):
    """Right or wrong under PGD-20 with the margin, then with cross-entropy, at multiples of the radius.

    Each radius starts from all images that are right without an attack; only inside a radius the second attack gets
    what the first one left.
    """

    name, order = "curve", 10
    needs_gradient = True
    of_radius = "the accuracy against the radius"
    #: Both attacks of an image at a radius; about half of their steps are not needed.
    _cost = 3.0 * _STEPS

    def images(self, everything: bool, attacks: str | None) -> int | None:
        return 100 if attacks in ("quick", "standard", "autoattack") else None

    def work(self, n: int, eps: float) -> float:
        return self._cost * len(curve_radii(eps)) * n

    def compute(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> AccuracyCurve:
        curve = {}
        for radius in curve_radii(inputs.eps):
            rights = []
            runner.bar.doing(f"radius {radius:.3g}")
            for block, positions in enumerate(index.split(runner.batch_size)):
                piece = runner.journal.keep(
                    f"curve {radius} {block}",
                    lambda radius=radius, block=block, positions=positions: {  # type: ignore[misc]
                        "right": self._left(runner, positions, radius, block, inputs.correct)
                    },
                    positions, runner.batch_size,
                )  # fmt: skip
                rights.append(piece["right"])
                runner.step(f"radius {radius:.3g}", self._cost * len(positions))
            curve[radius] = torch.cat(rights)
        return AccuracyCurve(index, inputs.correct[index], curve)

    def _left(self, runner: ModelRunner, positions: Tensor, radius: float, block: int, correct: Tensor) -> Tensor:
        """Which of the images are right under both attacks."""
        right = correct[positions].clone()
        for kind in (CWLinf, PGD):
            if not bool(right.any()):
                break
            # The same start at every radius, scaled: where no gradient leads away from it, the curve has no noise.
            generator = torch.Generator().manual_seed(seed_of(runner.seed, "curve", kind.__name__, block))
            attack = kind(eps=radius, step_size=radius / 4, steps=_STEPS, early_stop=True, generator=generator)
            images, labels = runner.data.take(positions[right])
            with gradients_kept(runner.model):
                found = attack(runner.model, as_float(images).to(runner.device), labels.to(runner.device))
            what = f"images at radius {radius:.3g}"
            right[right.clone()] = runner(found.detach().float().cpu(), labels, what)[0]
        return right

    def to_json(self, result: AccuracyCurve | None) -> dict[str, Any]:
        index = torch.empty(0, dtype=torch.int64) if result is None else result.index
        rows = {} if result is None else result.right
        return {
            "curve_index": pack(index.int()),
            "curve": [{"eps": eps, "right": pack_bits(bits)} for eps, bits in rows.items()],
        }

    def from_json(self, data: Mapping[str, Any], clean: tuple[Tensor, Tensor]) -> AccuracyCurve | None:
        if not data["curve"]:
            return None
        index = unpack(data["curve_index"], torch.int32).long()
        return AccuracyCurve(index, clean[0][index], {row["eps"]: unpack_bits(row["right"]) for row in data["curve"]})

    def summary(self, result: AccuracyCurve | None) -> dict[str, Any]:
        accuracy = {} if result is None else result.accuracy
        return {"accuracy_curve": [vars(each) | {"eps": eps} for eps, each in accuracy.items()]}

    def compared_summary(self, result: AccuracyCurve | None) -> dict[str, Any]:
        return self.summary(result)

    def tables(self, result: AccuracyCurve) -> list[Section]:
        accuracy = result.accuracy
        header = ["radius", *(radius_text(eps) if eps else "0" for eps in accuracy)]
        note = (
            f"Accuracy under the strongest attack of each radius, n = {len(result.index):,} images; small figures are "
            "95% intervals."
        )
        return [Section("Attacks", 15, Table(header, [Row("accuracy, %", list(accuracy.values()))], note))]

    def figures(self, result: AccuracyCurve, model: ModelInfo) -> list[Drawn]:
        figure = curve_figure({model.name: result.accuracy}, model.settings["eps"], model.attacks)
        return [Drawn("curve", 20, figure)]

    def same(self, one: AccuracyCurve, other: AccuracyCurve, models: tuple[ModelInfo, ModelInfo]) -> bool:
        return torch.equal(one.index, other.index) and list(one.right) == list(other.right)

    def compared_figures(self, results: Sequence[AccuracyCurve], models: Sequence[ModelInfo]) -> list[Drawn]:
        curves = {model.marked_name: result.accuracy for model, result in zip(models, results, strict=True)}
        return [Drawn("curve", 20, curve_figure(curves, models[0].settings["eps"]))]


MEASURE = RadiusCurve()
