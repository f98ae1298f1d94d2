"""The safety reports of the models that the other studies trained, side by side on one page.

Usage:
    python benchmarks/study_report.py --runs runs [--quick] [--only TEXT] [--jobs N]

Each model is the last checkpoint of a run of another study, seed 0, on the Fashion-MNIST subset in the package; where a
run is missing, the command is said that makes it. Each is measured by ``evaluate_model``: attacks, worst case, accuracy
against the radius, the masking audit, corruptions, calibration, flips, occlusion, Lipschitz constant, at one radius for
all. A killed run goes on where it was. Written are ``compare.html``, ``compare.json`` and ``compare.md`` in
``docs/results/report``; the page of every model stays in ``--work``.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from study.command import ROOT
from study.runs import say, write_text
from torch import nn

from mixaug._files import atomic_path
from mixaug.evaluate import Report, compare, evaluate_model
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import load_data

EPS = 0.1
_ADVERSARIAL = "python benchmarks/study_adversarial.py --seeds 1 --only"
_ADAUTOMIX = "python benchmarks/study_adautomix.py --seeds 1 --only"


@dataclass(frozen=True)
class Trained:
    """A model of an earlier study.

    Args:
        name: on the page.
        folder: of its run, below ``--runs``.
        command: that makes the run.
    """

    name: str
    folder: str
    command: str


MODELS = (
    Trained("standard", "study_adversarial/standard-s0", f"{_ADVERSARIAL} standard-s0"),
    Trained("IPMix", "ipmix", "mixaug train --data embedded --method ipmix --epochs 12 --out runs/ipmix"),
    Trained("CutMix", "study_adautomix/cutmix-s0", f"{_ADAUTOMIX} cutmix-s0"),
    Trained("AdAutoMix", "study_adautomix/adautomix-s0", f"{_ADAUTOMIX} adautomix-s0"),
    Trained("D-ReLU, lambda 3", "study_drelu/d-relu-head-lambda-3-s0",
            "python benchmarks/study_drelu.py --seeds 1 --only lambda-3-s0"),
    Trained("PGD AT", "study_adversarial/pgd-at-s0", f"{_ADVERSARIAL} pgd-at-s0"),
    Trained("TRADES", "study_adversarial/trades-s0", f"{_ADVERSARIAL} trades-s0"),
    Trained("Dynamic MixCut", "study_adversarial/dynamic-mixcut-s0", f"{_ADVERSARIAL} dynamic-mixcut-s0"),
    Trained("hybrid", "study_adversarial/hybrid-s0", f"{_ADVERSARIAL} hybrid-s0"),
)  # fmt: skip
#: Figures that the Markdown page shows; all are in the HTML page.
SHOWN = ("audit", "curve")
#: Images of each part.
FULL: dict[str, Any] = {
    "n_attack": 500, "n_corruption": 300, "n_audit": 200, "n_curve": 100, "n_flips": 100, "n_occlusion": 200,
    "n_lipschitz": 100, "n_surface": 2, "n_features": 500, "n_maps": 4,
}  # fmt: skip
QUICK: dict[str, Any] = {name: min(count, 6) for name, count in FULL.items()} | {"n_surface": 1}


def checkpoint_of(model: Trained, roots: list[Path]) -> Path:
    """The last checkpoint of a model's run.

    Raises:
        FileNotFoundError: no root has it; the message says the command that makes it.
    """
    for root in roots:
        path = root / model.folder / "last.pt"
        if path.exists():
            return path
    raise FileNotFoundError(
        f"no {model.folder}/last.pt below {', '.join(map(str, roots))}; make it with: {model.command}"
    )


def measured(model: Trained, path: Path, folder: Path, sizes: dict[str, Any], threads: int) -> Report:
    """The report of one model; its finished pieces are kept in ``folder`` until all models are measured."""
    torch.set_num_threads(threads)
    data = load_data("embedded")
    network: nn.Module = load_checkpoint(path)[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    others = load_data("digits")
    return evaluate_model(
        network,
        data.test,
        attacks="quick",
        eps=EPS,
        out_of_distribution=resized(others.test, data.image_size),
        name=model.name,
        classes=data.classes,
        state=folder / "state",
        **sizes,
    )


def resized(part: Any, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of another data set in the size of this one."""
    from torchvision.transforms.v2.functional import resize

    return resize(part.images, [side, side], antialias=True), part.labels


def run_one(model: Trained, options: argparse.Namespace) -> int:
    """Measures one model and writes its page."""
    path = checkpoint_of(model, options.runs)
    report = measured(model, path, options.work, QUICK if options.quick else FULL, options.threads)
    report.settings["checkpoint_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    report.settings["rebuild"] = model.command
    report.save(page_of(model, options.work))
    return 0


def page_of(model: Trained, folder: Path) -> Path:
    """Where the page of a model is."""
    return folder / ("-".join(model.name.lower().replace(",", "").split()) + ".html")


def run_missing(options: argparse.Namespace) -> None:
    """One process a model, some at a time."""
    todo = [each for each in MODELS if options.only in each.name and not page_of(each, options.work).exists()]
    say(f"{len(todo)} of {len(MODELS)} models to measure, {options.jobs} at a time, in {options.work}")
    running: list[tuple[Trained, subprocess.Popen[bytes]]] = []
    for model in todo:
        checkpoint_of(model, options.runs)  # all are there before any work
    while todo or running:
        while todo and len(running) < options.jobs:
            model = todo.pop(0)
            words = [sys.executable, str(Path(__file__).resolve()), *options.typed, "--one", model.name]
            running.append((model, subprocess.Popen(words, cwd=ROOT)))
        model, process = running.pop(0)
        if process.wait():
            raise RuntimeError(f"measuring {model.name} failed with exit code {process.returncode}")
        say(f"{model.name}: {page_of(model, options.work)}")


def write_page(options: argparse.Namespace) -> None:
    """The comparison of all models that are measured, and how to make it again."""
    found = [page_of(model, options.work) for model in MODELS if page_of(model, options.work).exists()]
    reports = [Report.load(path.with_suffix(".json")) for path in found]
    comparison = compare(reports)
    made = comparison.save(options.work / "compare.html")
    target = options.results / made.name
    for name in (made.name, "compare.json", *(f"compare-{figure}.png" for figure in SHOWN)):
        with atomic_path(options.results / name) as temporary:
            shutil.copyfile(options.work / name, temporary)
    words = ["python", "benchmarks/study_report.py", *(["--quick"] if options.quick else [])]
    lines = [
        "# The models of the studies, side by side",
        "",
        f"Made by `{shlex.join(words)}`; all figures and tables are on one page, [compare.html](compare.html), "
        "to be opened from disk. Each model is the last checkpoint of a run with seed 0; they differ in epochs and "
        "images, as their studies say, so this is no ranking of methods: see the studies for that.",
        "",
        "![What each check of the audit says of each model](compare-audit.png)",
        "",
        "![Accuracy against the radius](compare-curve.png)",
        "",
        "```text",
        comparison.to_table(),
        "```",
        "",
        "| model | made by | SHA-256 of the checkpoint | masked | verdict |",
        "|---|---|---|---|---|",
    ]
    for report in reports:
        audit, settings = report.audit, report.settings
        lines.append(
            f"| {report.name} | `{settings['rebuild']}` | {settings['checkpoint_sha256'][:16]} | "
            + ("- | - |" if audit is None else f"{'yes' if audit.masked else 'no'} | {audit.verdict} |")
        )
    environment = reports[0].environment
    lines += ["", f"{', '.join(f'{key} {value}' for key, value in environment.items())}.", ""]
    write_text(options.results / "compare.md", "\n".join(lines))
    say(f"{comparison.to_table()}\n\n{target}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--runs", type=Path, nargs="+", default=[ROOT / "runs"], help="folders of the studies' runs (default runs)")
    add("--work", type=Path, default=ROOT / "runs" / "report", help="folder of the single pages (default runs/report)")
    add("--results", type=Path, help="folder of the comparison (default docs/results/report)")
    add("--threads", type=int, default=1, help="of each process (default 1)")
    add("--jobs", type=int, default=2, help="processes at a time (default 2)")
    add("--only", default="", metavar="TEXT", help="just models with this in their name")
    add("--quick", action="store_true", help="a handful of images; the page stays in --work")
    add("--one", help=argparse.SUPPRESS)
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(typed)
    options.typed = typed
    options.results = options.results or (options.work if options.quick else ROOT / "docs" / "results" / "report")
    return options


def main() -> int:
    """Measures what is missing and writes the page."""
    options = parse()
    if options.one is not None:
        (model,) = (each for each in MODELS if each.name == options.one)
        return run_one(model, options)
    run_missing(options)
    write_page(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
