"""The page and JSON of the D-ReLU study: its reading, its tables, and how everything was made."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from study_adversarial_page import how_it_was_made
from study_adversarial_tables import Study
from study_drelu_plan import PLACES, PLAIN
from study_drelu_tables import (
    ACCURACIES,
    caps_table,
    interval_table,
    main_table,
    percent,
    plan_of,
    radius_tables,
    real_table,
    reported_table,
    signs_table,
)
from study_page import Row, mean_text, spread, without_places


def most_masked(study: Study) -> float | None:
    """The lambda of which PGD-20 overstates most; None if no model with D-ReLU is finished."""
    plan = plan_of(study)
    found = {
        lam: statistics.mean(percent(study.rows[name], "masked", "pgd-20"))
        for lam, name in plan.names.items()
        if name in study.rows
    }
    return max(found, key=lambda lam: found[lam]) if found else None


def reading(study: Study) -> list[str]:
    """Two sentences: what D-ReLU seems to give and what of it holds, and what gives the rest away.

    Of the lambda with which PGD-20 overstates most, against the model without caps, on the same images and seeds;
    empty without common seeds.
    """
    plan, lam = plan_of(study), most_masked(study)
    base = study.rows.get(plan.baseline, {})
    if lam is None or not base:
        return []
    ours = study.rows[plan.names[lam]]
    seeds = [seed for seed in ours if seed in base]
    if not seeds:
        return []
    capped, plain = ({seed: rows[seed] for seed in seeds} for rows in (ours, base))

    def mean(rows: Mapping[int, Row], *keys: str) -> float:
        return statistics.mean(percent(rows, *keys))

    def gain(key: str) -> list[float]:
        pairs = [percent(rows, "same_images", key) for rows in (capped, plain)]
        return [one - other for one, other in zip(*pairs, strict=True)]

    seeming, left = gain("pgd-20"), gain("all")
    of_pgd, of_all = statistics.mean(seeming), statistics.mean(left)
    unclear = len(left) > 1 and abs(of_all) <= (spread(left) or 0.0)
    if of_pgd <= 0:
        verdict = "there is no gain to speak of, under PGD-20 neither"
    elif of_all <= 0 or unclear:
        verdict = (
            f"of the {of_pgd:.1f} points gained under PGD-20, none is left"
            + " beyond the spread of the seeds" * unclear
        )
    else:
        verdict = f"of the {of_pgd:.1f} points gained under PGD-20, {of_all:.1f} are left"
    n = study.every[0]["same_images"]["all"]["n"]
    names = {"fgsm": "FGSM", "pgd-20": "PGD-20", "apgd-dlr": "APGD-DLR"}
    seems = ", ".join(
        f"{mean(capped, 'same_images', key):.1f}% under {head} ({mean(plain, 'same_images', key):.1f}%)"
        for key, head in names.items()
    )
    first = (
        f"With lambda {lam:g} the model seems robust, {seems}, in brackets {plan.baseline}; but an attacker who may "
        f"choose among all attacks leaves {mean_text(percent(capped, 'same_images', 'all'))}% of the same {n} images "
        f"({mean_text(percent(plain, 'same_images', 'all'))}%): {verdict}."
    )
    zero, zero_plain = (mean(rows, "caps", "zero_gradient") for rows in (capped, plain))
    clean, clean_plain = (mean(rows, "figures", "clean") for rows in (capped, plain))
    best = mean(capped, "masked", "best")
    masked = zero > zero_plain + 1 and mean(capped, "masked", "pgd-20") > 1
    gradients = f"{zero:.1f}% of the test images have a gradient that is exactly zero ({zero_plain:.1f}%)"
    masking = "The difference is gradient masking" if masked else "Masking does not show"
    second = (
        f"{masking}: {gradients}, the strongest single gradient attack overstates what is left by {best:.1f} points"
    )
    return [first, f"{second}, and the clean accuracy is {clean:.1f}% ({clean_plain:.1f}%)."]


def page(study: Study) -> str:
    """The page in Markdown.

    Raises:
        ValueError: no run is finished.
    """
    if not study.rows:
        raise ValueError("the study must have at least one finished run, got none")
    plan = plan_of(study)
    lines = [f"# {plan.title}", ""]
    if study.missing:
        done = study.planned - len(study.missing)
        lines += [f"**Partial: {done} of {study.planned} runs are finished.** Missing: {', '.join(study.missing)}.", ""]
    read = reading(study)
    if read:
        lines += [" ".join(read), ""]
    seeds = f"mean ± standard deviation over {study.seeds} seeds" if study.seeds > 1 else "of one seed"
    lines += [
        *made_of(study), "",
        f"Accuracy in percent on test images, {seeds}; the highest mean of a column is bold. All figures are of the "
        "last epoch. Transfer: made on a plain model of the next seed. Noise: every pixel moved by the radius, up or "
        f"down at random. CW-L2: a change of at most {plan.l2:.3g} in l2, the length from an image to a corner of the "
        "l-infinity ball. Capped: the share of the activations at their cap.", "",
        f"![Accuracy against lambda for each attack; against the radius; the caps]({plan.key}.png)", "",
        *main_table(study), *real_table(study), *signs_table(study), *caps_table(study), *radius_tables(study),
        *(reported_table() if plan.placement == "head" else []), *attack_list(study), *interval_table(study),
        *how_it_was_made(study),
    ]  # fmt: skip
    return "\n".join(lines)


def made_of(study: Study) -> list[str]:
    """Data, model, recipe, and how the caps are trained."""
    plan, first = plan_of(study), study.every[0]
    settings = first["settings"]
    capped = next((plan.settings(name) for name in plan.names.values()), {})
    steps = {row["steps"] for row in study.every}
    epochs = first["history"][-1]["epoch"]
    batch = min(settings["batch_size"], first["training_images"])
    length = (
        f"{epochs:.0f} epochs, {steps.pop():,} optimiser steps for all"
        if len(steps) == 1
        else f"at most {settings['epochs']} epochs, {min(steps):,} to {max(steps):,} optimiser steps"
    )
    recipe = (
        f"Adam, lr {settings['lr']:g}"
        if settings["optimizer"] == "adam"
        else f"SGD with Nesterov momentum {settings['momentum']:g}, lr {settings['lr']:g}"
    )
    recipe += (
        ", halved after 5 epochs without a lower validation loss (penalty included), stopped after 10"
        if settings["plateau"]
        else " on a cosine"
    )
    start = (
        f"the {capped['drelu_quantile']:g} quantile of the pre-activations"
        if capped.get("drelu_quantile") is not None
        else f"{capped.get('drelu_init') or 100:g}" + (", the paper's value," if not capped.get("drelu_init") else "")
    )
    rate = "the weights' rate" if capped.get("drelu_m_lr") is None else f"a rate of {capped['drelu_m_lr']:g}"
    layer = f" ({capped['extra_features']} features)" if "extra_features" in capped else ""
    return [
        f"{plan.label}: {first['training_images']:,} training images, {length}; `{settings['model']}`, method "
        f"{settings['method']}, {recipe}, batch {batch}, weight decay {settings['weight_decay']:g} (not of m), crops "
        f"and flips. D-ReLU in {PLACES[plan.placement]}{layer}, m starts at {start} and learns with {rate}; after each "
        f"step it is divided by 1 + 2 lr lambda, the penalty's proximal step. `{PLAIN}` is the model as it is"
        + (f", `{plan.baseline}` has the new layer, its first weights the same, and ReLU" * (plan.baseline != PLAIN))
        + f". Radius {plan.eps:g} (l-infinity, images in [0, 1])."
    ]


def attack_list(study: Study) -> list[str]:
    """The attacks of the radius with all their settings, as they were recorded."""
    lines = []
    for name, settings in study.every[0]["attacks"].items():
        if name not in ACCURACIES or name in ("transfer", "noise"):
            continue
        shown = {key: value for key, value in settings.items() if key not in ("kind", "targeted", "batch_size")}
        parts = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()]
        lines.append(f"- {ACCURACIES[name]}: {', '.join(parts)}")
    return [
        "", "## Attacks of the evaluation", "",
        "Untargeted, every image from the same random start for all models. Transferred images are those of margin "
        "PGD-20 on the plain model.", "",
        *lines,
    ]  # fmt: skip


def summary(study: Study) -> dict[str, Any]:
    """The content of the JSON: how it was made, means, and the whole result of each run."""

    def statistics_of(values: list[float]) -> dict[str, Any]:
        shares = [value / 100 for value in values]
        return {"mean": statistics.mean(shares), "sd": spread(shares), "seeds": len(shares)}

    means = {}
    for name, rows in study.rows.items():
        means[name] = {key: statistics_of(percent(rows, "figures", key)) for key in ACCURACIES}
        means[name]["all"] = statistics_of(percent(rows, "same_images", "all"))
        means[name]["pgd-20 less all"] = statistics_of(percent(rows, "masked", "pgd-20"))
        means[name]["best gradient attack less all"] = statistics_of(percent(rows, "masked", "best"))
        means[name]["zero gradient"] = statistics_of(percent(rows, "caps", "zero_gradient"))
    return {
        "command": study.command,
        "date": study.date,
        "conditions": study.conditions,
        "planned": study.planned,
        "missing": list(study.missing),
        "reading": reading(study),
        "attacks": study.every[0]["attacks"],  # the same of all runs
        "means": means,
        "results": {
            name: [without_places({key: row[key] for key in row if key != "attacks"}) for row in rows.values()]
            for name, rows in study.rows.items()
        },
    }
