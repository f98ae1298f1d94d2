"""The tables of the adversarial study: means over seeds and single runs, from the results of its runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from study_adversarial_papers import REPORTED, SOURCES
from study_adversarial_plan import Plan
from study_page import Row, markdown_table, mean_text

#: Key of a figure, its heading. Accuracies: higher is better.
ACCURACIES = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd-20": "PGD-20",
    "cw-20": "CW-20",
    "spsa": "SPSA",
    "square": "Square",
    "autoattack": "AutoAttack",
}
FIGURES = {**ACCURACIES, "lipschitz": "Lipschitz"}


@dataclass(frozen=True)
class Study:
    """The finished runs of a page and how they were made.

    Args:
        plan: of the page.
        rows: by variant and seed; what is not finished is absent.
        command: what was typed.
        missing: runs that are planned and not finished.
        planned: number of runs that are planned.
        conditions: sentences on processes, threads and precision.
        seeds: number of seeds that are planned.
        gpu: whether memory is that of tensors on a GPU.
    """

    plan: Plan
    rows: Mapping[str, Mapping[int, Row]]
    command: str
    planned: int
    missing: Sequence[str] = ()
    conditions: str = ""
    seeds: int = 3
    gpu: bool = False
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))

    @property
    def every(self) -> list[Row]:
        """All rows."""
        return [row for seeds in self.rows.values() for row in seeds.values()]


def values_of(rows: Mapping[int, Row], key: str) -> list[float]:
    """A figure of each seed: accuracies in percent, the Lipschitz constant as it is."""
    factor = 1 if key == "lipschitz" else 100
    return [factor * row["figures"][key]["value"] for row in rows.values()]


def column(study: Study, texts: Callable[[Mapping[int, Row]], str]) -> list[str]:
    """A cell for each variant."""
    return [texts(rows) for rows in study.rows.values()]


def bold_highest(study: Study, key: str) -> list[str]:
    """A column of accuracies, the highest mean in bold."""
    values = [values_of(rows, key) for rows in study.rows.values()]
    means = [statistics.mean(each) for each in values]
    marked = max(means) > min(means)
    return [
        f"**{mean_text(each)}**" if marked and mean == max(means) else mean_text(each)
        for mean, each in zip(means, values, strict=True)
    ]


def table(study: Study, columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Variants by columns."""
    return markdown_table(["", *columns], list(zip(study.rows, *columns.values(), strict=True)))


def main_table(study: Study) -> list[str]:
    """Accuracies, Lipschitz constant and cost: mean and standard deviation over the seeds."""
    n = {key: figure["n"] for key, figure in study.every[0]["figures"].items()}
    columns = {f"{ACCURACIES[key]} (n = {n[key]:,})": bold_highest(study, key) for key in ACCURACIES}
    columns[f"Lipschitz (n = {n['lipschitz']})"] = column(study, lambda rows: mean_text(values_of(rows, "lipschitz")))
    columns["s/epoch"] = column(study, lambda rows: mean_text(costs(rows, "epoch_seconds")))
    columns["peak memory, MiB"] = column(study, lambda rows: whole(costs(rows, "peak_memory")))
    columns["seeds"] = column(study, lambda rows: str(len(rows)))
    return table(study, columns)


def costs(rows: Mapping[int, Row], key: str) -> list[float]:
    """A part of the cost of each seed that has it."""
    return [row["cost"][key] for row in rows.values() if row["cost"][key] is not None]


def whole(values: Sequence[float]) -> str:
    """``812``, or a dash where nothing is known."""
    return f"{statistics.mean(values):,.0f}" if values else "-"


def differences(study: Study, variant: str, key: str) -> list[float]:
    """A variant's figure less the reference's, for the seeds that both have."""
    ours, theirs = study.rows.get(variant, {}), study.rows.get(study.plan.reference, {})
    seeds = [seed for seed in ours if seed in theirs]
    pairs = [[values_of({seed: rows[seed]}, key)[0] for rows in (ours, theirs)] for seed in seeds]
    return [one - other for one, other in pairs]


def gain_table(study: Study) -> list[str]:
    """Paired differences to the reference in points, each followed by what its paper reports; empty without pairs."""
    reference, lines = study.plan.reference, []
    for name in study.rows:
        if name == reference or not differences(study, name, "clean"):
            continue
        lines.append([name, *(mean_text(differences(study, name, key), "+") for key in ACCURACIES)])
        reported = REPORTED.get(name)
        if reported:
            cells = [
                f"{reported[key] - REPORTED[reference][key]:+.1f}" if key in reported else "-" for key in ACCURACIES
            ]
            lines.append([f"{name}, reported", *cells])
    if not lines:
        return []
    return [
        "", f"## Points more than {reference}", "",
        f"Differences of the same seeds, mean ± standard deviation. Reported: {SOURCES[reference]}.", "",
        *markdown_table(["", *ACCURACIES.values()], lines),
    ]  # fmt: skip


def same_images_table(study: Study) -> list[str]:
    """All attacks on the images of the most expensive one: how much of the accuracy under PGD holds."""
    n = study.every[0]["same_images"]["clean"]["n"]
    keys = {**ACCURACIES, "all": "all attacks"}
    columns = {
        head: column(
            study, lambda rows, key=key: mean_text([100 * row["same_images"][key]["value"] for row in rows.values()])
        )
        for key, head in keys.items()
    }
    columns["PGD-20 less AutoAttack"] = column(
        study, lambda rows: mean_text([100 * row["pgd_less_autoattack"]["value"] for row in rows.values()], "+")
    )
    return [
        "", "## How much of it is real", "",
        f'The same {n} images under every attack. An image counts under "all attacks" if none of them fooled the '
        "model. Where AutoAttack, or Square (which sees no gradient), takes much more than PGD-20, gradients are "
        "masked and the accuracy under PGD-20 says little.", "",
        *table(study, columns),
    ]  # fmt: skip


def gap_table(study: Study) -> list[str]:
    """Robustness gap, confidence on adversarial images, and the best epoch beside the last."""

    def best(rows: Mapping[int, Row]) -> str:
        return mean_text([100 * row["best"]["pgd-20"]["value"] for row in rows.values()])

    columns = {
        "gap": column(study, lambda rows: mean_text([100 * row["gap"]["value"] for row in rows.values()])),
        "confidence under PGD-20": column(
            study, lambda rows: mean_text([100 * row["confidence"]["value"] for row in rows.values()])
        ),
        "PGD-20, last epoch": column(study, lambda rows: mean_text(values_of(rows, "pgd-20"))),
        "PGD-20, best epoch": column(study, best),
        "best epoch of each seed": column(
            study, lambda rows: ", ".join(str(row["best"]["epoch"]) for row in rows.values())
        ),
        "epochs of catastrophic overfitting": column(
            study, lambda rows: "; ".join(numbers(row["cost"]["overfitted_epochs"]) for row in rows.values())
        ),
    }
    return [
        "", "## Gap, confidence, best epoch", "",
        "Gap: clean accuracy less that under the worst of FGSM, PGD-20 and CW-20. Confidence: mean probability of the "
        "predicted class, right or wrong. The best epoch is the one with the highest accuracy under PGD-10 on the "
        "validation part (`standard`: without an attack), never on the test part. Catastrophic overfitting: in the "
        "log, FGSM leaves half of the clean accuracy and PGD less than a quarter of that.", "",
        *table(study, columns),
    ]  # fmt: skip


def numbers(values: Sequence[int]) -> str:
    """``3, 4``, or ``none``."""
    return ", ".join(map(str, values)) or "none"


def interval_table(study: Study) -> list[str]:
    """Every run's figures with their intervals."""
    lines = []
    for name, seeds in study.rows.items():
        for seed, row in seeds.items():
            cells = []
            for key in FIGURES:
                figure, factor = row["figures"][key], 1 if key == "lipschitz" else 100
                value, low, high = (factor * figure[part] for part in ("value", "low", "high"))
                cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
            lines.append([f"{name}, seed {seed}", *cells])
    heads = [f"{head} (n = {study.every[0]['figures'][key]['n']:,})" for key, head in FIGURES.items()]
    return [
        "", "## Every run, with its 95% interval over the images", "",
        *markdown_table(["", *heads], lines),
    ]  # fmt: skip
