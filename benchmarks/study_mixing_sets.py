"""Table 8 of the IPMix paper again, at CPU scale: IPMix with each source of pictures, and with pictures of nothing.

    python benchmarks/study_mixing_sets.py --cifar FOLDER

trains every variant with every seed, measures each (clean error, corruptions, calibration), and writes
``docs/results/study_mixing_sets.md``, ``.json`` and ``.png``. Each run is a process of its own with one thread, as many
at a time as there are cores, in its own folder; finished ones are skipped and stopped ones resumed, so the same command
goes on after an interruption. ``--report-only`` writes the page from what is finished and says what is missing.

    --cifar-only            just CIFAR-10, without the images in the package
    --quick                 a handful of images, to see that it works

Equal for all variants of a data set: first weights (per seed), optimiser, schedule, number of optimiser steps, crops
and flips, training images, evaluated images, corruptions. Every set has 512 pictures of 256 px; all five together have
512 of each.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from study import command, measured, tables
from study.figure import corruption_panel, data_parts, save, seed_panels
from study.page import batch_of, how_it_was_made, means_of, results_of, summary, title_lines
from study.plan import DataPlan, Job, Sizes, data_of, job_of, jobs_of
from study.tables import DataResults, Rows, Study
from study.variance import Contrast, Spread, contrast, holm, spread_of
from torch import Tensor

from mixaug._files import atomic_path
from mixaug.evaluate import evaluate_model
from mixaug.mixing_sets.named import mixing_set_of
from mixaug.train.settings import TrainSettings

# --- what is trained and measured ------------------------------------------------------------------------------------

#: Name of the page's files, and of the folder of its runs on the images in the package.
KEY = "study_mixing_sets"
#: Variant on the page, and its name for ``TrainSettings.mixing_set``.
SOURCES = {
    "fractals": "fractals",
    "IFS": "ifs",
    "contours": "contours",
    "dead leaves": "dead-leaves",
    "spectrum": "spectrum",
}
MIXTURE = "all five"
#: Pictures that show nothing, made by the study: white noise, and one colour each.
PLAIN = {"noise": "noise", "flat colours": "flat"}
IMAGE_LEVEL, REFERENCE = "no pictures", "standard"
#: What is compared with the mean of the sources.
CONTROLS = (MIXTURE, *PLAIN, IMAGE_LEVEL, REFERENCE)
VARIANTS: dict[str, dict[str, Any]] = {
    REFERENCE: {"method": "standard"},
    **{label: {"method": "ipmix", "mixing_set": name} for label, name in SOURCES.items()},
    MIXTURE: {"method": "ipmix", "mixing_set": ",".join(SOURCES.values())},
    **{label: {"method": "ipmix"} for label in PLAIN},  # their folder is known when a run starts
    IMAGE_LEVEL: {"method": "ipmix", "levels": ("image",)},
}
#: Heading of each metric by its key. All are errors: lower is better. The first three are the paper's.
METRICS = {
    "clean": "clean error",
    "mce": "corruption error",
    "rms": "RMS calibration error",
    "ece": "ECE",
}
TESTED = ("clean", "mce", "rms")
#: Table 8 of the paper: CIFAR-100, WRN-40-4, in percent, a run each.
PAPER = {
    "fractals": {"clean": 19.4, "mce": 28.6, "rms": 2.8},
    "IFS": {"clean": 20.0, "mce": 29.0, "rms": 5.4},
    "contours": {"clean": 19.5, "mce": 28.4, "rms": 3.2},
    "dead leaves": {"clean": 19.4, "mce": 29.1, "rms": 3.1},
    "spectrum": {"clean": 19.8, "mce": 29.2, "rms": 4.0},
}


def plans(options: argparse.Namespace) -> list[DataPlan]:
    """The data sets of this call: 12 epochs on 5,000 images, which keeps the whole below an hour on two cores."""
    small = 256 if options.quick else None
    sizes = Sizes({"corruptions": options.images or (20 if options.quick else 1_000)})

    def plan(key: str, cifar: Path | None, limit: int | None) -> DataPlan:
        label, data = data_of(cifar)
        epochs = options.epochs or (1 if options.quick else 12)
        shared = {"data": data, "limit": options.limit or small or limit, "epochs": epochs, "amp": options.amp}
        return DataPlan(key, label, shared, VARIANTS, sizes)

    found = [] if options.cifar_only else [plan(KEY, None, None)]
    return found + ([] if options.cifar is None else [plan(f"{KEY}_cifar10", options.cifar, 5_000)])


# --- one run ---------------------------------------------------------------------------------------------------------

#: Pictures of a plain set, as many as in the default set; side of a picture, and its cells of noise along a side. IPMix
#: shrinks pictures to 32 px for images of 28: noise of single pixels would reach it as grey.
COUNT, SIZE, CELLS = 512, 256, 32


def plain_pictures(kind: str, count: int = COUNT) -> Tensor:
    """White noise in cells of 8 px, or one colour each: uint8 (count, 3, 256, 256), the same at every call."""
    cells = {"noise": CELLS, "flat": 1}[kind]
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (count, 3, cells, cells), dtype=torch.uint8, generator=generator)
    scale = SIZE // cells
    return small.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def plain_folder(kind: str, out: Path, count: int = COUNT) -> Path:
    """The folder of a plain set below ``out``; what is missing in it is made by the first run that needs it."""
    from filelock import FileLock
    from PIL import Image

    folder = out / "plain_pictures" / kind
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        missing = [i for i in range(count) if not (folder / f"{i:04}.png").exists()]
        if missing:
            pictures = plain_pictures(kind, count)
            for i in missing:
                with atomic_path(folder / f"{i:04}.png") as temporary:
                    Image.fromarray(pictures[i].permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    return folder


def settings_in(folder: Path, job: Job, out: Path) -> TrainSettings:
    """The training settings of a run in a folder; the pictures of a plain set are made here, below ``out``."""
    settings = measured.settings_of(job, "cpu", folder)
    if job.variant in PLAIN:
        settings = replace(settings, mixing_set=str(plain_folder(PLAIN[job.variant], out)))
    return settings


def pictures_of(settings: TrainSettings) -> dict[str, object] | None:
    """Number and SHA-256 of the pictures that are mixed in, which makes them before the clock of training starts."""
    if settings.mixing_set is None:
        return None
    pictures = mixing_set_of(settings.mixing_set).pictures
    digest = hashlib.sha256(pictures.contiguous().numpy().data).hexdigest()
    return {"count": len(pictures), "sha256": digest}


def run_one(job: Job, folder: Path, options: argparse.Namespace) -> int:
    """Trains and measures; a run that was stopped goes on, a trained one is only measured. 130: Ctrl-C ended it."""
    started = time.perf_counter()
    data, settings = measured.images_of(job.plan), settings_in(folder, job, options.out)
    pictures = pictures_of(settings)
    trained = measured.trained_in(folder, settings, data)
    if trained is None:
        return 130
    measuring, images = time.perf_counter(), job.plan.sizes.n["corruptions"]
    report = evaluate_model(
        measured.in_channels_last(trained.model),
        data.test,
        attacks=None,
        audit=False,
        n_corruption=images,
        name=job.variant,
        classes=data.classes,
    )
    if report.mce is None:
        raise RuntimeError("the evaluation measured no corruption")
    estimates = {"clean": report.clean_error, "mce": report.mce, "rms": report.rms, "ece": report.ece}
    best = max(trained.run.history, key=lambda row: row["validation_accuracy"])
    measured.write_result(folder, {
        "variant": job.variant,
        "data": job.plan.key,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "images": images,
        "pictures": pictures,
        "figures": {key: measured.with_interval(estimates[key]) for key in METRICS},
        "corruptions": {name: estimate.value for name, estimate in report.corruption_means.items()},
        "best_epoch": best["epoch"],
        **measured.of_the_run(trained, report, started, measuring),
    })  # fmt: skip
    return 0


# --- the answer and the tables ---------------------------------------------------------------------------------------

#: p values below this, adjusted for the number of comparisons, tell sources apart.
LEVEL = 0.05


class Comparison(NamedTuple):
    """The sources on one data set in one metric."""

    data: DataResults
    key: str
    spread: Spread
    adjusted: float

    @property
    def differ(self) -> bool:
        """Whether the sources are further apart than the seeds explain."""
        return self.adjusted < LEVEL

    @property
    def label(self) -> str:
        """``clean error on CIFAR-10``."""
        return f"{METRICS[self.key]} on {short(self.data)}"

    @property
    def ends(self) -> str:
        """``spectrum 43.9, fractals 42.1: 1.8 ± 0.9 points``, the interval of the largest of all differences."""
        found = self.spread
        low, high = found.lowest, found.highest
        ends = f"{high} {found.means[high]:.1f}, {low} {found.means[low]:.1f}"
        return f"{ends}: {found.range:.1f} ± {found.half:.1f} points"


def short(data: DataResults) -> str:
    """``CIFAR-10`` of ``CIFAR-10 (JPEG copy)``."""
    return re.split(", | \\(", data.plan.label)[0]


def points_of(data: DataResults, key: str) -> dict[str, dict[int, float]]:
    """A metric in points by variant and seed."""
    return {
        name: {seed: 100 * row["figures"][key]["value"] for seed, row in rows.items()}
        for name, rows in data.rows.items()
    }


def comparisons(study: Study) -> list[Comparison]:
    """Every data set and tested metric in which all five sources have two common seeds."""
    found: list[tuple[DataResults, str, Spread]] = []
    for data in study.data.values():
        for key in TESTED:
            values = points_of(data, key)
            if all(source in values for source in SOURCES):
                one = spread_of({source: values[source] for source in SOURCES})
                if one is not None:
                    found.append((data, key, one))
    adjusted = holm([one.p for _, _, one in found])
    return [Comparison(data, key, one, p) for (data, key, one), p in zip(found, adjusted, strict=True)]


def paper_range(key: str) -> float:
    """Points between the best and the worst of the five sources in the paper."""
    values = [reported[key] for reported in PAPER.values()]
    return max(values) - min(values)


def answer(study: Study) -> list[str]:
    """Whether the sources differ, in how much, and what that is beside what IPMix changes."""
    found = comparisons(study)
    if not found:
        return ["Too few runs are finished to compare the sources: all five with two seeds are needed."]
    differ = [one for one in found if one.differ]
    alike = [one for one in found if not one.differ]
    smallest, seeds = min(one.adjusted for one in found), min(one.spread.seeds for one in found)
    counted = f"{len(found)} comparison{'s' * (len(found) > 1)}"
    if not differ:
        lines = [
            f"**Yes, as far as {seeds} seeds can tell:** in none of {counted} are the five sources further "
            f"apart than the seeds explain (smallest adjusted p {smallest:.2g}). What differs by less than the "
            "intervals below cannot be excluded."
        ]
    else:
        head = "No" if not alike else "Not in everything"
        lines = [
            f"**{head}:** in {len(differ)} of {counted} the five sources are further apart than the seeds explain.", "",
            *(f"- {one.label}: {one.ends} (adjusted p {one.adjusted:.2g})." for one in differ),
        ]  # fmt: skip
        if alike:
            lines += ["", f"Not told apart: {'; '.join(one.label for one in alike)}."]
    wider = [one for one in found if one.spread.range > paper_range(one.key)]
    lines += [
        "", f"Further apart than in the paper: {len(wider)} of {len(found)} ranges"
        f"{' (' + '; '.join(one.label for one in wider) + ')' if wider else ''}. The paper's are of single runs, so "
        "a seed's luck is in them.",
    ]  # fmt: skip
    for one in found:
        if one.key == "mce" and (gain := contrast(points_of(one.data, "mce"), REFERENCE, list(SOURCES))):
            lines += ["", worth(one, gain)]
    return lines


def worth(one: Comparison, gain: Contrast) -> str:
    """What the choice of the source is beside what IPMix changes in the corruption error."""
    text = f"{short(one.data)}: IPMix changes the corruption error by {-gain.value:+.1f} ± {gain.half:.1f} points"
    if not gain.clear:
        return f"{text}, which the seeds do not tell from nothing; the sources are {one.spread.range:.1f} apart."
    share = one.spread.range / abs(gain.value)
    return f"{text} (mean of the five sources); from the best to the worst source it is {one.spread.range:.1f}, " + (
        f"{share:.0%} of that."
    )


def spread_table(found: Sequence[Comparison]) -> list[str]:
    """Spread between sources against spread over seeds, and the paper's range."""
    lines = []
    for one in found:
        each = one.spread
        best, worst = (f"{name} {each.means[name]:.1f}" for name in (each.lowest, each.highest))
        lines.append([
            one.label, best, worst, f"{each.range:.1f} ± {each.half:.1f}", f"{each.by_chance:.1f}",
            f"{each.between:.2f}", f"{each.within:.2f}", f"{each.p:.2g}",
            f"**{one.adjusted:.2g}**" if one.differ else f"{one.adjusted:.2g}", f"{paper_range(one.key):.1f}",
        ])  # fmt: skip
    heads = [
        "", "best", "worst", "range", "range by chance", "between sources, sd", "over seeds, sd", "p", "adjusted p",
        "range in the paper",
    ]  # fmt: skip
    return tables.markdown_table(heads, lines)


def control_table(data: DataResults) -> list[str]:
    """Each control less the mean of the sources, bold where zero is outside of the interval; empty without one."""
    lines = []
    for name in CONTROLS:
        found = [contrast(points_of(data, key), name, list(SOURCES)) for key in METRICS]
        if all(one is not None for one in found):
            texts = [f"{one.value:+z.1f} ± {one.half:.1f}" for one in found if one is not None]
            marks = [one is not None and one.clear for one in found]
            cells = [f"**{text}**" if mark else text for text, mark in zip(texts, marks, strict=True)]
            lines.append([name, *cells])
    return (
        tables.markdown_table(["less the mean of the five sources, points", *METRICS.values()], lines) if lines else []
    )


def control_lines(data: DataResults) -> list[str]:
    """One sentence a control without a picture worth looking at: in what it is better, worse, or not told apart."""
    titles = {
        "noise": "Noise in place of pictures",
        "flat colours": "Flat colours in place of pictures",
        IMAGE_LEVEL: "No pictures (the image level alone)",
        MIXTURE: "All five together",
    }
    lines = []
    for name, title in titles.items():
        found = {key: contrast(points_of(data, key), name, list(SOURCES)) for key in TESTED}
        if any(one is None for one in found.values()):
            continue
        sides: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": []}
        for key, one in found.items():
            if one is not None:
                side = "not told apart" if not one.clear else "better" if one.value < 0 else "worse"
                sides[side].append(METRICS[key])
        parts = [f"{side} in {', '.join(keys)}" for side, keys in sides.items() if keys]
        lines.append(f"- {title}, against the mean of the five sources: {'; '.join(parts)}.")
    return lines


def metrics_table(rows: Mapping[str, Rows]) -> list[str]:
    """Variants by metrics: mean and standard deviation over the seeds, the lowest mean of each column in bold."""
    columns = {heading: tables.bold_lowest(rows, key) for key, heading in METRICS.items()}
    paper = [" / ".join(f"{PAPER[name][key]:.1f}" for key in TESTED) if name in PAPER else "-" for name in rows]
    return tables.table(rows, {**columns, "seeds": tables.seed_counts(rows), "paper: clean / corruption / RMS": paper})


# --- the figure ------------------------------------------------------------------------------------------------------

#: Of the sources, in their order; then of what they are compared with.
COLOURS = dict(zip(SOURCES, ("#1f5fa8", "#2a8a4a", "#b06a00", "#7a4fa3", "#b0304a"), strict=True))
OTHER = {MIXTURE: "#111111", "noise": "#777777", "flat colours": "#999999", IMAGE_LEVEL: "#666666"}
STYLE = {REFERENCE: "#444444", **COLOURS, **OTHER}
MARKERS = {REFERENCE: "s", MIXTURE: "D", "noise": "x", "flat colours": "_", IMAGE_LEVEL: "+"}


def style_of(name: str) -> tuple[str, str]:
    """Colour and marker of a variant."""
    return STYLE[name], MARKERS.get(name, "o")


def draw(study: Study, path: Path) -> None:
    """For each data set a row of panels, one a metric, above the error of each corruption."""
    figure, parts = data_parts(study, 0.28, 0.8, 3.5)
    for data, top, bottom in parts:
        axes = seed_panels(top, data.rows, METRICS, lambda name: (STYLE[name], "o"), margin=0.2)
        for axis, key in zip(axes, METRICS, strict=True):
            means = [statistics.mean(tables.values_of(rows, key)) for rows in data.finished(SOURCES).values()]
            if means:  # the band of the question: from the best to the worst source
                axis.axvspan(min(means), max(means), color="#1f5fa8", alpha=0.08, linewidth=0)
        axis = corruption_panel(bottom, data.rows, style_of, step=0.085, width=1, size=4)
        axis.legend(ncols=len(data.rows), fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.13))
    save(figure, path, dpi=100)


# --- the page --------------------------------------------------------------------------------------------------------


def section(data: DataResults) -> list[str]:
    """The part of the page on one data set."""
    label, row, epochs = data.plan.label, data.every[0], data.plan.shared["epochs"]
    lines = [
        "", f"## {label}", "",
        f"{row['training_images']:,} training images, {epochs} epochs, {row['steps']} optimiser steps each.", "",
        *metrics_table(data.rows), "",
        "Half width of the 95% interval of a single run over its images, in points: "
        f"{tables.half_widths(data.every, METRICS)}. The variants are measured on the same images, so that differences "
        "between them are surer than that.",
    ]  # fmt: skip
    controls = control_table(data)
    if controls:
        lines += ["", f"### Does the picture matter? ({label})", "", *controls, "", *control_lines(data)]
    lines += ["", f"### Error of each corruption ({label})", "", *tables.corruption_table(data.rows), ""]
    lines += ["A star marks a corruption whose pictures are ours, not the original benchmark's."]
    return [*lines, "", f"### Cost and best epochs ({label})", "", *tables.cost_table(data.rows)]


def page(study: Study) -> str:
    """The study's page in Markdown."""
    every = study.every
    first, found = every[0], comparisons(study)
    batch = batch_of(first)
    sets = [row["pictures"]["count"] for row in every if row["pictures"]]
    corruptions, corrupted = len(first["corruptions"]), f"{first['figures']['mce']['n']:,}"
    lines = title_lines(study, "Does it matter which pictures IPMix mixes in?")
    lines += ["""\
Table 8 of the IPMix paper (NeurIPS 2023) says that it hardly does (CIFAR-100, WRN-40-4, a run
each). Here IPMix is trained with each of our five sources (its FractalDB is our IFS, its RCDB our contours), with all
of them together, and with controls: pictures of noise, pictures of one colour each, no pictures at all (the image level
alone), and standard training.

## Is IPMix as insensitive to its source as the paper says?
""", *answer(study)]  # fmt: skip
    if found:
        lines += ["", *spread_table(found), "", f"""\
*Range*: points from the best to the worst mean, with Tukey's 95% interval, which holds for the largest difference of
all pairs; *by chance*: what equal sources would show on average. *Between sources*: standard deviation of the sources'
true means, what the seeds' luck adds taken off. *Over seeds*: that of one run's luck, the part that all runs of a seed
share taken off. *p*: how often equal sources would be as far apart (Tukey's studentized range); adjusted by Holm for
{len(found)} comparisons."""]  # fmt: skip
    lines += ["", f"""\
![Every seed a dot, means as lines; below, the error of each corruption](study_mixing_sets.png)

Errors in percent, mean ± standard deviation over {study.seeds} seeds, of the last epoch; lower is better; the lowest
mean of a column is bold. The model is `resnet-small` (0.31 million parameters), SGD with Nesterov momentum, batch
{batch}, lr 0.1 on a cosine, crops and flips for all; the same first weights and the same number of optimiser steps.
Corruption error: the mean over {corruptions} corruptions at 5 severities on {corrupted} test images, the same for all.
Pictures: {pictures_text(sets)}, of 256 px, seed 0. The images of Fashion-MNIST are grey: of the pictures they see the
luma alone."""]  # fmt: skip
    for data in study.data.values():
        lines += section(data)
    lines += how_it_was_made(
        study,
        KEY,
        "Training and measuring took {:.0f} minutes of processes.",
        "intervals, its log, the error of each corruption and the SHA-256 of the pictures",
    )
    return "\n".join(lines)


def pictures_text(counts: Sequence[int]) -> str:
    """``512 a set``, or from the smallest to the largest set."""
    if not counts:
        return "none"
    low, high = min(counts), max(counts)
    return f"{low} a set" if low == high else f"{low} to {high} a set"


def content_of(study: Study) -> dict[str, Any]:
    """The content of the JSON: means, the comparisons, and the whole result of each run."""
    results = {key: results_of(data.rows) for key, data in study.data.items()}
    for rows in results.values():
        for name in PLAIN.keys() & rows.keys():
            for row in rows[name]:
                row["settings"]["mixing_set"] = PLAIN[name]  # its folder is of the machine that made it
    return summary(
        study,
        means={key: means_of(data.rows, METRICS) for key, data in study.data.items()},
        comparisons=[
            {"data": one.data.plan.label, "figure": one.key, **vars(one.spread), "adjusted_p": one.adjusted}
            for one in comparisons(study)
        ],
        paper=PAPER,
        results=results,
    )


# --- the command -----------------------------------------------------------------------------------------------------


def collect(found: list[DataPlan], options: argparse.Namespace) -> Study:
    """The finished runs, checked to be of one and the same study.

    Raises:
        ValueError: a result was made with other settings, runs differ in their steps or pictures, or there is none.
    """
    rows = [(job, measured.read_sized_result(job, options)) for job in jobs_of(found, options.seeds)]
    study = command.study_of(found, rows, options, ["python", f"benchmarks/{KEY}.py", *shown_arguments(options)])
    for variant in VARIANTS:
        pictures = {(row["pictures"] or {}).get("sha256") for job, row in rows if row and job.variant == variant}
        if len(pictures) > 1:
            raise ValueError(f"the runs of {variant} must have mixed in the same pictures, got {len(pictures)} sets")
    return replace(study, conditions=f"{study.conditions} {options.remark}".rstrip())


def shown_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that decide the result, without this machine's paths."""
    more = ["--cifar-only"] * options.cifar_only
    return command.shown_arguments(options, dict.fromkeys(("epochs", "limit", "images")), *more)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as a tree of pictures: train/CLASS and test/CLASS")
    parser.add_argument("--cifar-only", action="store_true", help="leave the images in the package out")
    parser.add_argument("--out", type=Path, help="folder of the runs (default runs)")
    parser.add_argument("--results", type=Path, help="folder of the page (default docs/results)")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default 12)")
    parser.add_argument("--limit", type=int, help="training images (default 5,000, a tenth of them for validation)")
    parser.add_argument("--images", type=int, help="test images that are corrupted (default 1,000)")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run (default 1)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: the cores over --threads)")
    parser.add_argument("--amp", default="bf16", choices=("off", "bf16"), help="precision in training (default bf16)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="just runs with this in their name: study_mixing_sets/spectrum-s"
    )
    parser.add_argument("--remark", default="", metavar="TEXT", help="what a reader of the page has to know besides")
    parser.add_argument("--report-only", action="store_true", help="write the page from the finished runs, run nothing")
    parser.add_argument("--quick", action="store_true", help="a handful of images, into runs/quick")
    parser.add_argument("--one", nargs=3, metavar=("DATA", "VARIANT", "SEED"), help=argparse.SUPPRESS)
    options = command.parsed(parser, arguments, "images")
    if options.cifar_only and options.cifar is None:
        parser.error("--cifar-only must be used with --cifar")
    return options


def main() -> int:
    """Runs the study, or one of its runs, or writes its page."""
    options = parse()
    found = plans(options)
    jobs = jobs_of(found, options.seeds)

    def one() -> int:
        job = job_of(jobs, options.one)
        with command.locked(job, options) as folder:
            return run_one(job, folder, options)

    def write() -> str:
        study = collect(found, options)
        return command.save_page(options.results, KEY, page(study), content_of(study), lambda path: draw(study, path))

    return command.run_command(
        options, one, lambda: command.run_missing(__file__, jobs, measured.read_sized_result, options), write
    )


if __name__ == "__main__":
    sys.exit(main())
