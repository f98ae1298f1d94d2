"""IPMix on the CPU: what it changes against standard training and AugMix, and what each of its three levels is worth.

    python benchmarks/study_ipmix.py --cifar FOLDER

trains every variant with every seed, measures each, and writes ``docs/results/study_ipmix.md``, ``.json`` and ``.png``.
Without ``--cifar`` just the images in the package are used. Each training is a process with one thread, as many at a
time as there are cores, in its own folder; finished ones are skipped and stopped ones resumed, so the same command goes
on after an interruption. ``--quick`` runs everything on a handful of images, to see that it works.

Equal for all variants of a data set: first weights (per seed), optimiser, schedule, number of optimiser steps, crops
and flips, training images, evaluated images, corruptions and random starts of the attack. The Jensen-Shannon loss makes
three forward passes a step where the others make one; its column of seconds says what that costs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mixaug._files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
METHODS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    "AugMix": {"method": "augmix"},
    "IPMix": {"method": "ipmix"},
    "IPMix + JSD": {"method": "ipmix", "jsd": True},
}
ABLATION: dict[str, dict[str, Any]] = {
    "IPMix without image level": {"method": "ipmix", "levels": ("patch", "pixel")},
    "IPMix without patch level": {"method": "ipmix", "levels": ("image", "pixel")},
    "IPMix without pixel level": {"method": "ipmix", "levels": ("image", "patch")},
}
#: Of one data set: the result of each seed by variant.
Results: TypeAlias = dict[str, list[dict[str, Any]]]
#: Key of a figure, its heading. All are errors (or calibration errors): lower is better.
FIGURES = {
    "clean": "clean error",
    "clean_best": "clean error, best epoch",
    "mce": "corruption error",
    "rms": "RMS calibration error",
    "pgd_2": "error under PGD-20, 2/255",
    "pgd_8": "error under PGD-20, 8/255",
}
SHOWN = ("clean", "mce", "rms", "pgd_2")


@dataclass(frozen=True)
class DataPlan:
    """What is done on one data set."""

    key: str
    label: str
    data: str
    limit: int | None
    epochs: int
    variants: dict[str, dict[str, Any]]


def plans(options: argparse.Namespace) -> list[DataPlan]:
    """The data sets of this call, with sizes that keep the whole under 45 minutes on two cores."""
    quick = options.quick
    found = [
        DataPlan(
            "embedded", "Fashion-MNIST, the subset in the package", "embedded",
            256 if quick else None, 1 if quick else 12, {**METHODS, **ABLATION},
        )
    ]  # fmt: skip
    if options.cifar is not None:
        found.append(
            DataPlan(
                "cifar10-jpeg", "CIFAR-10 (JPEG copy)", f"folder:{options.cifar.expanduser().resolve()}",
                256 if quick else 5_000, 1 if quick else 12, METHODS,
            )
        )  # fmt: skip
    return found


def folder_name(variant: str, seed: int) -> str:
    """Folder of a run below its data set's: ``ipmix-jsd-s0``."""
    words = variant.lower().replace("+", " ").split()
    return "-".join([*words, f"s{seed}"])


def run_one(plan: DataPlan, variant: str, seed: int, options: argparse.Namespace) -> int:
    """Trains and measures one variant with one seed, in this process; 130 when Ctrl-C ended it."""
    import torch

    from mixaug.attacks import PGD
    from mixaug.evaluate import evaluate_model
    from mixaug.train.checkpoint import load_checkpoint
    from mixaug.train.data import load_data
    from mixaug.train.loop import train
    from mixaug.train.settings import TrainSettings

    torch.set_num_threads(1)
    folder = options.out / plan.key / folder_name(variant, seed)
    settings = TrainSettings(
        data=plan.data,
        limit=plan.limit,
        epochs=plan.epochs,
        amp=options.amp,
        seed=seed,
        device="cpu",
        out=str(folder),
        **plan.variants[variant],
    )
    data = load_data(plan.data, limit=plan.limit)
    started = time.perf_counter()
    trained = train(settings, data, resume=(folder / "last.pt").exists(), progress=True)
    if trained.interrupted:
        return 130
    measuring = time.perf_counter()
    few = 20 if options.quick else 500
    model, info = load_checkpoint(trained.last)
    # The radii of this package's robustness tables and of the IPMix paper; one seed, so that all models meet one start.
    radii = {"pgd_8": (8 / 255, 2 / 255), "pgd_2": (2 / 255, 0.5 / 255)}
    attacks = {
        name: PGD(eps=eps, step_size=step, steps=20, generator=torch.Generator().manual_seed(0))
        for name, (eps, step) in radii.items()
    }
    report = evaluate_model(
        model, data.test, attacks=attacks, n_corruption=few, n_attack=few, name=variant, classes=data.classes
    )
    best_model, best = load_checkpoint(trained.best)
    best_report = evaluate_model(best_model, data.test, attacks=None, corruptions=None, name=variant)
    if report.mce is None:
        raise RuntimeError("the evaluation measured no corruption")
    estimates = {
        "clean": report.clean_error,
        "clean_best": best_report.clean_error,
        "mce": report.mce,
        "rms": report.rms,
        **{name: report.attacks[name].error for name in radii},
    }
    result = {
        "variant": variant,
        "data": plan.key,
        "seed": seed,
        "settings": settings.to_dict(),
        "figures": {name: {"value": e.value, "low": e.low, "high": e.high, "n": e.n} for name, e in estimates.items()},
        "corruptions": {name: estimate.value for name, estimate in report.corruption_means.items()},
        "best_epoch": best["epoch"],
        "steps": info["step"],
        "training_images": json.loads((folder / "settings.json").read_text())["resolved"]["images"]["train"],
        "history": trained.history,
        "seconds": {
            "training": trained.history[-1]["seconds"],
            "measuring": time.perf_counter() - measuring,
            "all": time.perf_counter() - started,
        },
        "environment": report.environment,
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }
    write_json(folder / "result.json", result)
    return 0


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run_all(found: list[DataPlan], options: argparse.Namespace) -> None:
    """Runs what is not finished, ``--jobs`` processes at a time; the first seed of every variant first.

    Raises:
        RuntimeError: a run failed; the others are finished first, and its log is named.
    """
    todo = [
        (plan, variant, seed)
        for seed in range(options.seeds)
        for plan in found
        for variant in plan.variants
        if not (options.out / plan.key / folder_name(variant, seed) / "result.json").exists()
    ]
    running: set[subprocess.Popen[bytes]] = set()
    stopping = False

    def start(job: tuple[DataPlan, str, int]) -> str | None:
        plan, variant, seed = job
        if stopping:
            return None
        folder = options.out / plan.key / folder_name(variant, seed)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, *sys.argv[1:], "--one", plan.key, variant, str(seed)]
        began = time.perf_counter()
        # One thread each: two runs side by side use two cores better than one run with two threads.
        with (folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C reaches a run once, from here; a second one would end it at once
            )
            running.add(process)
            code = process.wait()
            running.discard(process)
        if code != 0:
            return f"{plan.key}, {variant}, seed {seed} ended with code {code}: see {folder / 'output.txt'}"
        say(f"{plan.key:13} {variant:27} seed {seed}  {time.perf_counter() - began:4.0f} s")
        return None

    say(f"{len(todo)} runs to do, {options.jobs} at a time, in {options.out}")
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            failures = [message for message in pool.map(start, todo) if message]
        except KeyboardInterrupt:
            stopping = True
            for process in list(running):  # they save their state and end; the same command goes on with it
                process.send_signal(signal.SIGINT)
            raise
    if failures:
        raise RuntimeError("\n".join(failures))


def say(line: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def collect(found: list[DataPlan], options: argparse.Namespace) -> dict[str, Results]:
    """The results by data set and variant, checked to be of one and the same study.

    Raises:
        ValueError: a result in the folder was made with other settings.
    """
    results: dict[str, Results] = {}
    for plan in found:
        results[plan.key] = {}
        for variant in plan.variants:
            rows = []
            for seed in range(options.seeds):
                path = options.out / plan.key / folder_name(variant, seed) / "result.json"
                row = json.loads(path.read_text(encoding="utf-8"))
                kept = row["settings"]
                if (kept["epochs"], kept["limit"], kept["amp"]) != (plan.epochs, plan.limit, options.amp):
                    raise ValueError(f"{path} was made with other sizes; choose another --out or remove it")
                rows.append(row)
            results[plan.key][variant] = rows
        steps = {row["steps"] for rows in results[plan.key].values() for row in rows}
        if len(steps) != 1:
            raise ValueError(f"the runs on {plan.label} must have equal optimiser steps, got {sorted(steps)}")
    return results


def spread(values: list[float]) -> float:
    """Sample standard deviation, 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def values_of(rows: list[dict[str, Any]], figure: str) -> list[float]:
    """A figure of each seed, in percent."""
    return [100 * row["figures"][figure]["value"] for row in rows]


def table(results: Results) -> list[str]:
    """Markdown rows: mean and standard deviation over the seeds, the lowest mean of each column in bold."""
    heads = ["", *FIGURES.values(), "training, s"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    means = {key: {name: statistics.mean(values_of(rows, key)) for name, rows in results.items()} for key in FIGURES}
    for name, rows in results.items():
        cells = [name]
        for key in FIGURES:
            text = f"{means[key][name]:.1f} ± {spread(values_of(rows, key)):.1f}"
            lowest = min(means[key].values())
            best = math.isclose(means[key][name], lowest) and lowest < max(means[key].values())
            cells.append(f"**{text}**" if best else text)
        cells.append(f"{statistics.mean(row['seconds']['training'] for row in rows):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def against(results: Results, variant: str, reference: str) -> str:
    """What changed against a reference, seed by seed; against standard training also whether the goals are reached."""
    first, second = results[reference], results[variant]
    changes = {
        key: [b - a for a, b in zip(values_of(first, key), values_of(second, key), strict=True)] for key in FIGURES
    }
    before, after = (statistics.mean(values_of(rows, "mce")) for rows in (first, second))
    cut = 100 * (1 - after / before) if before else 0.0
    means = {key: statistics.mean(values) for key, values in changes.items()}
    texts = {key: f"{means[key]:+.1f} ± {spread(values):.1f} points" for key, values in changes.items()}
    goals = {
        "mce": ("a third", cut >= 100 / 3),
        "clean": ("at most +0.5", means["clean"] <= 0.5),
        "rms": ("lower", means["rms"] < 0),
    }

    def goal(key: str) -> str:
        wanted, reached = goals[key]
        return f" (goal, {wanted}: {'reached' if reached else 'missed'})" if reference == "standard" else ""

    parts = [
        f"corruption error {before:.1f} to {after:.1f}, {'cut' if cut >= 0 else 'raised'} by {abs(cut):.0f}%"
        f"{goal('mce')}",
        f"clean error {texts['clean']}{goal('clean')}",
        f"RMS {texts['rms']}{goal('rms')}",
        f"error under PGD-20 at 2/255 {texts['pgd_2']}",
    ]
    return f"- {variant} against {reference}: {'; '.join(parts)}."


def page(found: list[DataPlan], results: dict[str, Results], options: argparse.Namespace) -> str:
    """The study's page in Markdown."""
    any_row = next(iter(next(iter(results.values())).values()))[0]
    counts = {key: any_row["figures"][key]["n"] for key in FIGURES}
    total = sum(row["seconds"]["all"] for rows in results.values() for runs in rows.values() for row in runs)
    command = shlex.join(["python", "benchmarks/study_ipmix.py", *shown_arguments(options)])
    corruptions = len(any_row["corruptions"])
    introduction = f"""# IPMix at CPU scale

Mean ± standard deviation over {options.seeds} seeds, in percent; lower is better everywhere; the lowest mean of a
column is bold. Errors are of the last epoch; "best epoch" is the epoch with the highest accuracy on the validation
part, never on the test part. The model is `resnet-small` (0.31 million parameters), SGD with Nesterov momentum,
batch 128, lr 0.1 on a cosine, crops and flips for all.

Corruption error: mean over {corruptions} corruptions at 5 severities on {counts["mce"]} test images. PGD: 20 steps on
{counts["pgd_8"]} test images; 8/255 in steps of 2/255, and the paper's 2/255 in steps of 0.5/255. AugMix is
torchvision's, applied image by image, without the operations that overlap with the corruptions (`all_ops=False`).
JSD: cross-entropy of the clean image plus 12 times the Jensen-Shannon divergence over it and two views: three times
the forward passes for the same number of steps.

![The figures below as dots with their means](study_ipmix.png)"""
    lines = [introduction]
    for plan in found:
        rows = results[plan.key]
        row = next(iter(rows.values()))[0]
        methods = {name: rows[name] for name in METHODS}
        lines += [
            "", f"## {plan.label}", "",
            f"{row['training_images']:,} training images, {plan.epochs} epochs, {row['steps']} optimiser steps each; "
            f"clean error on {row['figures']['clean']['n']:,} test images.",
            "", *table(methods), "",
            *(against(rows, variant, "standard") for variant in ("IPMix", "IPMix + JSD")),
            *(against(rows, variant, "AugMix") for variant in ("IPMix", "IPMix + JSD")),
        ]  # fmt: skip
        if all(name in rows for name in ABLATION):
            kept = {name: rows[name] for name in ("standard", "IPMix", *ABLATION)}
            lines += ["", f"### What each level is worth ({plan.label})", "", *table(kept)]
    named = {name: value for name, value in any_row["environment"].items() if name not in ("time", "threads")}
    environment = ", ".join(f"{name} {value}" for name, value in named.items())
    machine = any_row.get("processor", f"{processor()}, {os.cpu_count()} cores")
    lines.append(
        f"""
## How it was made

    {command}

{machine}; {environment}; {options.jobs} processes of one thread at a time; precision of the forward pass
in training: {options.amp}. Training and measuring took {total / 60:.0f} minutes of processes, {options.jobs} at a time.
The figures of every run and of each corruption are in [study_ipmix.json](study_ipmix.json).
"""
    )
    return "\n".join(lines)


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    arguments = [] if options.cifar is None else ["--cifar", "CIFAR10_FOLDER"]
    if options.seeds != 3:
        arguments += ["--seeds", str(options.seeds)]
    if options.amp != "bf16":
        arguments += ["--amp", options.amp]
    return [*arguments, "--quick"] if options.quick else arguments


def draw(found: list[DataPlan], results: dict[str, Results], path: Path) -> None:
    """A row of panels for each data set: each seed a dot, the mean a line."""
    from matplotlib.figure import Figure

    heights = [0.34 * len(plan.variants) + 0.7 for plan in found]
    figure = Figure(figsize=(3.1 * len(SHOWN) + 1.6, sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(found), len(SHOWN), squeeze=False, sharey="row", height_ratios=heights)
    colours = {"standard": "#555555", "AugMix": "#b06a00"}
    for row, plan in zip(axes, found, strict=True):
        names = list(plan.variants)
        for axis, key in zip(row, SHOWN, strict=True):
            for place, name in enumerate(names):
                values = values_of(results[plan.key][name], key)
                colour = colours.get(name, "#1f5fa8")
                mean = statistics.mean(values)
                axis.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, linewidth=2)
                axis.plot(values, [place] * len(values), "o", color=colour, markersize=4, alpha=0.6)
                axis.annotate(
                    f"{mean:.1f}", (max(values), place), (6, 0), textcoords="offset points", va="center", fontsize=8
                )
            axis.set_title(f"{FIGURES[key]}, %", fontsize=9, loc="left")
            axis.set_yticks(range(len(names)), names, fontsize=9)
            axis.invert_yaxis() if axis is row[0] else None
            axis.margins(x=0.22)
            axis.grid(axis="x", color="#dddddd", linewidth=0.6)
            axis.tick_params(labelsize=8, length=0)
            axis.spines[["top", "right", "left"]].set_visible(False)
        row[0].set_ylabel(plan.label.replace(", ", ",\n"), fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as a tree of pictures: train/CLASS and test/CLASS")
    parser.add_argument("--out", type=Path, help="folder of the runs (default runs/study_ipmix)")
    parser.add_argument("--results", type=Path, help="folder of the page (default docs/results)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: the cores)")
    parser.add_argument("--amp", default="bf16", choices=("off", "bf16"), help="precision in training (default bf16)")
    parser.add_argument("--quick", action="store_true", help="a handful of images, into runs/study_ipmix_quick")
    parser.add_argument("--one", nargs=3, metavar=("DATA", "VARIANT", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.jobs < 1:
        parser.error(f"--seeds and --jobs must be at least 1, got {options.seeds} and {options.jobs}")
    name = "study_ipmix_quick" if options.quick else "study_ipmix"
    options.out = options.out or ROOT / "runs" / name
    # A quick run says nothing about the methods: its page stays with its runs.
    options.results = options.results or (options.out if options.quick else ROOT / "docs" / "results")
    return options


def main() -> int:
    """Runs the study, or one of its runs."""
    options = parse()
    found = plans(options)
    if options.one:
        key, variant, seed = options.one
        plan = next(plan for plan in found if plan.key == key)
        return run_one(plan, variant, int(seed), options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit stops it as cleanly as Ctrl-C
    try:
        run_all(found, options)
    except KeyboardInterrupt:
        say("Stopped; the same command goes on.")
        return 130
    results = collect(found, options)
    text = page(found, results, options)
    write_json(options.results / "study_ipmix.json", {"seeds": options.seeds, "results": results})
    draw(found, results, options.results / "study_ipmix.png")
    with atomic_path(options.results / "study_ipmix.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
