"""The tables of the D-ReLU study: accuracies, what is masked, caps, radii, single runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from study_adversarial_tables import Study, bold_highest, column, table
from study_drelu_plan import CURVES, GRADIENT_ATTACKS, DreluPlan
from study_page import Row, markdown_table, mean_text

#: Key of an accuracy, its heading.
ACCURACIES = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd-20": "PGD-20",
    "cw-20": "margin PGD-20",
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "cw-l2": "CW-L2",
    "square": "Square",
    "autoattack": "AutoAttack",
    "transfer": "transfer",
    "noise": "noise",
}
#: What the paper reports of D-ReLU in its Tables 2, 3 and 5.
REPORTED = [
    ["ResNet50, CIFAR-10, lambda 10,000", "78.9", "78.8", "78.7", "78.4", "62.9"],
    ["ResNet50, CIFAR-100, lambda 100", "52.3", "51.5", "52.5", "51.2", "28.4"],
]


def plan_of(study: Study) -> DreluPlan:
    """The page's plan.

    Raises:
        TypeError: it is another study's.
    """
    if not isinstance(study.plan, DreluPlan):
        raise TypeError(f"study must have a DreluPlan, got {type(study.plan).__name__}")
    return study.plan


def percent(rows: Mapping[int, Row], *keys: str) -> list[float]:
    """A share of each seed's result in percent, by the keys that lead to it."""
    return [100 * value_at(row, keys) for row in rows.values()]


def value_at(row: Row, keys: tuple[str, ...]) -> float:
    """What the keys lead to; the value of a figure with an interval."""
    found: Any = row
    for key in keys:
        found = found[key]
    return float(found["value"] if isinstance(found, dict) else found)


def means(study: Study, *keys: str, sign: str = "") -> list[str]:
    """A column: mean and standard deviation over the seeds of what the keys lead to, in percent."""
    return column(study, lambda rows: mean_text(percent(rows, *keys), sign))


def with_caps(study: Study) -> dict[str, Mapping[int, Row]]:
    """The rows of the models with D-ReLU."""
    return {name: rows for name, rows in study.rows.items() if "quantiles" in next(iter(rows.values()))["caps"]}


def short(value: float, digits: int = 3) -> str:
    """``0.0312``, with so many digits; what is below a two-thousandth is 0."""
    return f"{value:.{digits}g}" if abs(value) >= 5e-4 else "0"


def cap_cell(rows: Mapping[int, Row], place: int) -> str:
    """A quantile of the caps, mean and standard deviation over the seeds; a dash without caps."""
    if "quantiles" not in next(iter(rows.values()))["caps"]:
        return "-"
    values = [row["caps"]["quantiles"][place] for row in rows.values()]
    return short(statistics.mean(values)) + (f" ± {short(statistics.stdev(values), 2)}" if len(values) > 1 else "")


def share_cell(rows: Mapping[int, Row], key: str) -> str:
    """A share of the caps' figures; a dash without caps."""
    known = key in next(iter(rows.values()))["caps"]
    return mean_text(percent(rows, "caps", key)) if known else "-"


def main_table(study: Study) -> list[str]:
    """Accuracies, what all attacks leave, the caps."""
    first = study.every[0]
    columns = {
        f"{head} (n = {first['figures'][key]['n']:,})": bold_highest(study, key) for key, head in ACCURACIES.items()
    }
    held = first["same_images"]["all"]["n"]
    columns[f"all attacks (n = {held:,})"] = means(study, "same_images", "all")
    columns["final m, median"] = column(study, lambda rows: cap_cell(rows, 2))
    columns["capped"] = column(study, lambda rows: share_cell(rows, "capped_share"))
    columns["seeds"] = column(study, lambda rows: str(len(rows)))
    return table(study, columns)


def real_table(study: Study) -> list[str]:
    """All attacks on the same images, and what one attack alone overstates."""
    first = study.every[0]["same_images"]
    keys = {key: head for key, head in ACCURACIES.items() if key in first} | {"all": "all attacks"}
    columns = {head: means(study, "same_images", key) for key, head in keys.items()}
    columns["PGD-20 less all"] = means(study, "masked", "pgd-20", sign="+")
    columns["best gradient attack less all"] = means(study, "masked", "best", sign="+")
    columns["which it was"] = column(
        study, lambda rows: ", ".join(dict.fromkeys(ACCURACIES[row["best_gradient_attack"]] for row in rows.values()))
    )
    names = [ACCURACIES[key] for key in GRADIENT_ATTACKS]
    return [
        "", "## How much of it is real", "",
        f"The same {first['all']['n']} images under every attack of the radius (CW-L2 has another one). An image "
        'counts under "all attacks" if none of them fooled the model: that is what is left. Best gradient attack: the '
        f"one of {', '.join(names[:-1])} and {names[-1]} that fools most images. What all attacks together take beyond "
        "it was never robust: the gradient that the attack followed did not show the way.", "",
        *table(study, columns),
    ]  # fmt: skip


def signs_table(study: Study) -> list[str]:
    """What gives masking away, beside models that have no caps."""
    plan = plan_of(study)
    largest = f"{max(plan.sizes.radii):g}"

    def less(first: str, second: str) -> list[str]:
        return column(
            study,
            lambda rows: mean_text(
                [
                    100 * (value_at(row, ("same_images", first)) - value_at(row, ("same_images", second)))
                    for row in rows.values()
                ],
                "+",
            ),
        )

    columns = {
        "no gradient, % of images": means(study, "caps", "zero_gradient"),
        "PGD-20 less Square": less("pgd-20", "square"),
        "FGSM less transfer": less("fgsm", "transfer"),
        "PGD-20 less margin PGD-20": less("pgd-20", "cw-20"),
        f"PGD-20 at {largest}": means(study, "curves", "pgd-20", largest),
        f"Square at {largest}": means(study, "curves", "square", largest),
    }
    return [
        "", "## Signs of masking", "",
        "No gradient: the gradient of the cross-entropy is exactly zero in every pixel of a clean test image (n = "
        f"{study.every[0]['caps']['n']}). A search without gradients, or images made on another model, should fool no "
        "more images than a gradient attack, and the margin of the logits no more than the cross-entropy: above 0 is a "
        f"sign of masking. At a radius of {largest} every image can be made uniformly grey: an attack that leaves more "
        "than chance there has failed, not the model won.", "",
        *table(study, columns),
    ]  # fmt: skip


def caps_table(study: Study) -> list[str]:
    """Quantiles of the caps at the end, what they cap."""
    shown = with_caps(study)
    if not shown:
        return []
    lines = [
        [
            name,
            *(cap_cell(rows, place) for place in range(5)),
            share_cell(rows, "capped_share"),
            share_cell(rows, "capped_units"),
            mean_text(percent(rows, "caps", "zero_gradient")),
            ", ".join(f"{row['steps']:,}" for row in rows.values()),
        ]
        for name, rows in shown.items()
    ]  # fmt: skip
    heads = ["", "m, least", "10%", "median", "90%", "largest", "capped activations, %", "units ever capped, %"]
    return [
        "", "## Caps at the end of training", "",
        f"On {study.every[0]['caps']['n']} test images. A cap below 0 counts as 0: its unit is dead.", "",
        *markdown_table([*heads, "images without gradient, %", "steps of each seed"], lines),
    ]  # fmt: skip


def radius_tables(study: Study) -> list[str]:
    """Accuracy by radius, a table for each attack."""
    plan = plan_of(study)
    names = {**ACCURACIES, "square": f"Square, {plan.sizes.curve_queries} queries"}
    lines = ["", "## Accuracy against the radius", ""]
    lines.append(f"{plan.sizes.n_curve} test images (the paper's Figs. 25 to 27 are of APGD-CE).")
    for name in CURVES:
        columns = {f"{radius:g}": means(study, "curves", name, f"{radius:g}") for radius in plan.sizes.radii}
        lines += ["", f"### {names[name]}", "", *table(study, columns)]
    return lines


def reported_table() -> list[str]:
    """What the paper's own tables say of it."""
    return [
        "", "## What the paper reports", "",
        "Its D-ReLU head in Tables 2 and 3, and Square in Table 5 (radius 0.01 for the gradient attacks on CIFAR-10; "
        "it names none for the rest). A search without gradients takes 16 and 24 points that PGD does not, and PGD "
        "leaves *more* of CIFAR-100 right than no attack does: the signs of masking are in these tables too.", "",
        *markdown_table(["", "clean", "FGSM", "PGD", "APGD-DLR", "Square"], REPORTED),
    ]  # fmt: skip


def interval_table(study: Study) -> list[str]:
    """Every run's figures with their intervals."""
    lines = []
    for name, seeds in study.rows.items():
        for seed, row in seeds.items():
            figures = [row["figures"][key] for key in ACCURACIES]
            figures += [row["same_images"]["all"], row["masked"]["best"], row["caps"]["zero_gradient"]]
            cells = [f"{100 * f['value']:.1f} [{100 * f['low']:.1f}, {100 * f['high']:.1f}]" for f in figures]
            lines.append([f"{name}, seed {seed}", *cells])
    first = study.every[0]
    heads = [f"{head} (n = {first['figures'][key]['n']:,})" for key, head in ACCURACIES.items()]
    held, seen = first["same_images"]["all"]["n"], first["caps"]["n"]
    heads += [f"all attacks (n = {held})", f"masked (n = {held})", f"no gradient (n = {seen})"]
    return [
        "", "## Every run, with its 95% interval over the images", "",
        "Masked: best gradient attack less all attacks.", "",
        *markdown_table(["", *heads], lines),
    ]  # fmt: skip
