"""The figure of one model under each attack and in the worst case."""

from __future__ import annotations

from mixaug._drawing import COLOURS, GREY, WRONG, FigureImage, new_figure, png_of
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import attack_label, radius_text
from mixaug.evaluate.report import Report


def attack_bars(report: Report) -> FigureImage:
    """Accuracy without an attack, under each attack, and in the worst case of those within the radius.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    case = report.worst_case
    inside = () if case is None else case.attacks
    first = next(iter(report.attacks.values()))
    rows: list[tuple[str, Estimate, str, float]] = [("no attack", first.clean_accuracy, GREY, 1.0)]
    for name, result in sorted(report.attacks.items(), key=lambda item: -item[1].accuracy.value):
        # Pale: it is not held to the radius, and not to be compared with the others.
        mark, strength = ("", 1.0) if name in inside else (" †", 0.4)
        rows.append((attack_label(name) + mark, result.accuracy, COLOURS[0], strength))
    if case is not None and len(case.attacks) > 1:
        rows.append(("worst case", case.accuracy, WRONG, 1.0))
    figure, axes = new_figure(0.8 + 0.3 * len(rows))
    for place, (_, estimate, colour, strength) in enumerate(rows):
        reach = [[100 * (estimate.value - estimate.low)], [100 * (estimate.high - estimate.value)]]
        axes.barh(
            place, 100 * estimate.value, height=0.68, color=colour, alpha=strength, xerr=reach,
            error_kw={"ecolor": "#333333", "elinewidth": 0.9},
        )  # fmt: skip
        axes.annotate(
            f"{100 * estimate.value:.1f}", (100 * estimate.high, place), (4, 0), textcoords="offset points",
            va="center", fontsize=8.5,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlabel("accuracy in %")
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="y", visible=False)
    counts = sorted({estimate.n for _, estimate, *_ in rows})
    caption = (
        f"Radius {radius_text(report.settings.get('eps', 0.0))}, n = {' or '.join(f'{n:,}' for n in counts)} images; "
        "lines are 95% intervals."
        + (" Worst case: right under every attack within the radius." if rows[-1][0] == "worst case" else "")
        + (
            " † moves pixels by more than the radius; not counted in the worst case."
            if len(inside) < len(report.attacks)
            else ""
        )
    )
    return FigureImage(png_of(figure), "Accuracy under each attack", caption)
