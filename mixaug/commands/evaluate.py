"""``mixaug evaluate``: the report of one checkpoint, or several side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixaug.commands._arguments import fraction

if TYPE_CHECKING:
    from mixaug.evaluate import Report

PRESETS = ("cifar", "imagenet", "none")
PARTS = ("test", "validation")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    parser.add_argument("--data", help="another data set than the checkpoint's")
    parser.add_argument("--root", type=Path, help="folder where data sets are kept")
    parser.add_argument("--part", choices=PARTS, default="test", help="which part is measured (default test)")
    parser.add_argument("--corruptions", choices=PRESETS, default="cifar", help="preset of corruptions (default cifar)")
    parser.add_argument("--n-corruption", type=int, help="images to corrupt (default all)")
    parser.add_argument("--n-attack", type=int, help="images to attack (default all)")
    parser.add_argument("--no-attack", action="store_true", help="leave PGD out")
    parser.add_argument(
        "--lipschitz", type=int, default=0, metavar="N", help="measure the local Lipschitz constant around N images"
    )
    parser.add_argument(
        "--surface",
        type=int,
        default=0,
        metavar="N",
        help="draw the loss around N images at radii 0.05, 0.1 and 0.15, along an attack and a random direction",
    )
    parser.add_argument(
        "--eps", type=fraction, default=8 / 255, help="radius of PGD-20 and --lipschitz (default 8/255)"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images in one pass (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="of subsets, corruptions and attack (default 0)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--out", type=Path, help="report, HTML (default: report.html beside the first checkpoint)")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace) -> int:
    """Measures each checkpoint, prints the table, writes the report."""
    from mixaug.evaluate import compare

    reports = [measure(path, options) for path in options.checkpoints]
    shown: Any = reports[0] if len(reports) == 1 else compare(reports)
    name = "report.html" if len(reports) == 1 else "compare.html"
    target = options.out or options.checkpoints[0].parent / name
    sys.stdout.write(f"{shown.to_table()}\n\nReport: {shown.save(target)}\n")
    return 0


def measure(path: Path, options: argparse.Namespace) -> Report:
    """The report of one checkpoint on its own data set, or on ``--data``.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint that cannot be read, or whose classes are not the data set's.
    """
    import torch

    from mixaug.evaluate import evaluate_model
    from mixaug.train.checkpoint import load_checkpoint
    from mixaug.train.data import load_data

    model, info = load_checkpoint(path)
    kept = info["data"]
    data = load_data(
        options.data or kept["name"],
        root=options.root or kept.get("root"),
        image_size=kept.get("image_size") if options.data is None else info["spec"].image_size,
        validation=info["settings"].get("validation", 0.1),
    )
    if len(data.classes) != info["spec"].num_classes:
        raise ValueError(
            f"the data set {data.name} has {len(data.classes)} classes, the model of {path} {info['spec'].num_classes}"
        )
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = info["settings"]
    return evaluate_model(
        model,
        getattr(data, options.part),
        attacks=None if options.no_attack else "pgd",
        corruptions=None if options.corruptions == "none" else options.corruptions,
        eps=options.eps,
        n_corruption=options.n_corruption,
        n_attack=options.n_attack,
        n_lipschitz=options.lipschitz,
        n_surface=options.surface,
        batch_size=options.batch_size,
        seed=options.seed,
        device=device,
        name=f"{settings.get('method', path.parent.name)}{'+jsd' if settings.get('jsd') else ''}",
        classes=data.classes,
        progress=not options.quiet and sys.stderr.isatty(),
    )
