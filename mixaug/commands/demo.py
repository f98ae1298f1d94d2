"""``mixaug demo``: standard training against IPMix on the images in the package, and a report of what that changed."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mixaug._files import sole_use

if TYPE_CHECKING:
    from mixaug.evaluate import Report
    from mixaug.evaluate.report.report import Comparison

N_CORRUPTION, N_ATTACK = 500, 200
# Small enough that a short training does not leave every attack at 100%.
EPS = 2 / 255


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--epochs", type=int, default=12, help="passes over the 4,500 training images (default 12)")
    parser.add_argument("--seed", type=int, default=0, help="of both trainings and the evaluation (default 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder, emptied first (default runs/demo)")


def run(options: argparse.Namespace) -> int:
    """Trains twice from the same weights with the same number of steps, measures both, writes the report."""
    from mixaug.train.processes import keep_freed_memory

    keep_freed_memory()
    out: Path = options.out
    # Beside the folder, which is emptied: what another demo is writing there would be lost.
    busy = f"another demo is at work in {out}: wait for its end, stop it, or choose another folder (--out)"
    with sole_use(out.parent / f".{out.name}.lock", busy):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from mixaug.evaluate import compare, evaluate_model
    from mixaug.train.checkpoint import load_checkpoint
    from mixaug.train.data import load_data
    from mixaug.train.loop import train
    from mixaug.train.settings import TrainSettings

    start = time.perf_counter()
    if options.out.exists():
        if any(options.out.iterdir()) and not (options.out / "demo").exists():
            raise ValueError(f"--out must be empty or the folder of an earlier demo, got {options.out}")
        shutil.rmtree(options.out)
    options.out.mkdir(parents=True)
    (options.out / "demo").write_text("Made by `mixaug demo`, which empties this folder when it runs again.\n")
    data = load_data("embedded")
    say(
        f"Fashion-MNIST, 28x28: {_count(data.train)} training, {_count(data.validation)} validation and "
        f"{_count(data.test)} test images; {options.epochs} epochs each, same first weights, same number of steps.\n"
    )
    reports: list[Report] = []
    for method in ("standard", "ipmix"):
        say(f"\nTraining: {method}\n")
        folder = options.out / method
        settings = TrainSettings(method=method, epochs=options.epochs, seed=options.seed, out=str(folder))
        result = train(settings, data, progress=True)
        if result.interrupted:
            raise KeyboardInterrupt
        model, _ = load_checkpoint(result.last)
        say(f"Measuring: {N_CORRUPTION} test images x 15 corruptions x 5 severities, PGD-20 on {N_ATTACK}\n")
        reports.append(
            evaluate_model(
                model,
                data.test,
                attacks="pgd",
                audit=False,
                eps=EPS,
                n_corruption=N_CORRUPTION,
                n_attack=N_ATTACK,
                seed=options.seed,
                name={"standard": "standard", "ipmix": "IPMix"}[method],
                classes=data.classes,
                progress=sys.stderr.isatty(),
            )
        )
    comparison = compare(reports)
    page = comparison.save(options.out / "report.html")
    say(f"\n{comparison.to_table()}\n\nReport: {page.resolve()}\n")
    say(f"{sentence(comparison)} ({time.perf_counter() - start:.0f} s in all)\n")
    return 0


def sentence(comparison: Comparison) -> str:
    """What the measured numbers show, in one sentence: each change with its size and whether it is clear.

    Args:
        comparison: of two reports; the second is compared with the first.

    Returns:
        a sentence such as "Against standard training, IPMix lowered the corruption error from 30.1% to 24.0%, ...".
    """
    from mixaug.evaluate.report.comparison import verdict

    names = {"mce": "the mean corruption error", "clean_error": "the clean error", "rms": "the calibration error (RMS)"}
    before, after = (report.figures for report in comparison.reports)
    parts = []
    for key, name in names.items():
        if key not in comparison.columns:
            continue
        old, new = 100 * before[key][1].value, 100 * after[key][1].value
        word = {"better": "lowered", "worse": "raised"}.get(verdict(comparison.differences[1][key]))
        change = f"from {old:.1f}% to {new:.1f}%"
        parts.append(f"{word} {name} {change}" if word else f"did not clearly change {name} ({change})")
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"Against {comparison.names[0]} training, {comparison.names[1]} {listed}."


def _count(part: object) -> int:
    return len(cast(Sized, part))


def say(text: str) -> None:
    """Writes to standard output at once, so that it keeps its place among the progress lines on standard error."""
    sys.stdout.write(text)
    sys.stdout.flush()
