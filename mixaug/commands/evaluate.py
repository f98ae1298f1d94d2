"""``mixaug evaluate``: the safety report of one checkpoint, or several side by side."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixaug._files import sole_use
from mixaug._terminal import tell
from mixaug.commands._arguments import fraction

if TYPE_CHECKING:
    from torch import nn

    from mixaug.evaluate import CorruptedSet, Report
    from mixaug.train.data import DataParts

PARTS = ("test", "validation")
ATTACKS = ("none", "pgd", "quick", "standard", "autoattack")
#: Libraries without which the report cannot be written, asked for before any work.
_NEEDED = ("matplotlib", "rich.progress", "torchmetrics.functional.classification", "sklearn.manifold")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", help="another data set than the checkpoint's")
    add("--root", type=Path, help="folder where data sets are kept")
    add("--part", choices=PARTS, default="test", help="which part is measured (default test)")
    add("--attacks", choices=ATTACKS, default="quick", help="preset of attacks (default quick)")
    add("--eps", type=fraction, default=8 / 255, help="radius of attacks, audit and --lipschitz (default 8/255)")
    add("--no-audit", action="store_true", help="leave the masking audit out")
    add("--surrogate", type=Path, metavar="CHECKPOINT", help="another model: the audit transfers its attacks")
    add(
        "--corruptions",
        default="cifar",
        metavar="PRESET",
        help="cifar, imagenet, none, or a folder with CIFAR-C, ImageNet-C or a saved set (default cifar)",
    )
    add(
        "--ood",
        metavar="DATA",
        help="another data set or a folder with pictures: does the confidence tell its images apart?",
    )
    add("--brief", action="store_true", help="leave out flips, occlusion, the Lipschitz constant and the pictures")
    for name, what in (
        ("n-attack", "to attack (default 1000 for quick, 500 for standard and autoattack)"),
        ("n-audit", "of the audit (default 200)"),
        ("n-corruption", "to corrupt (default all)"),
        ("curve", "of the accuracy against the radius (default 100)"),
        ("flips", "of the perturbation sequences (default 100)"),
        ("occlusion", "to hide parts of (default 200)"),
        ("lipschitz", "around which the Lipschitz constant is measured (default 100)"),
        ("surface", "around which the loss is drawn (default 2)"),
    ):
        add(f"--{name}", type=int, metavar="N", help=f"images {what}")
    add("--batch-size", type=int, default=256, help="images in one pass (default 256)")
    add("--seed", type=int, default=0, help="of subsets, corruptions and attacks (default 0)")
    add("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    add("--out", type=Path, help="report, HTML (default: report.html beside the first checkpoint)")
    add("--quiet", action="store_true", help="no progress")


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that was read and fits its data."""

    model: nn.Module
    data: DataParts
    settings: dict[str, Any]
    name: str


@dataclass(frozen=True)
class Extras:
    """What all checkpoints are measured with."""

    corruptions: str | CorruptedSet | None
    surrogate: nn.Module | None
    out_of_distribution: Any


def run(options: argparse.Namespace) -> int:
    """Measures each checkpoint, prints the table, writes the report; a killed one goes on where it was."""
    from mixaug._checks import optional_import
    from mixaug.evaluate import clear_state, compare
    from mixaug.evaluate.journal import check_writable
    from mixaug.train.processes import keep_freed_memory

    keep_freed_memory()
    name = "report.html" if len(options.checkpoints) == 1 else "compare.html"
    target: Path = options.out or options.checkpoints[0].parent / name
    if target.suffix != ".html":
        raise ValueError(f"--out must end in .html, got {target}")
    for library in _NEEDED:
        optional_import(library)
    candidates = [candidate(path, options) for path in options.checkpoints]
    extras = Extras(
        corruptions(options.corruptions),
        None if options.surrogate is None else candidate(options.surrogate, options).model,
        None if options.ood is None else out_of_distribution(options, candidates[0].data),
    )
    check_comparable(candidates, options.part)
    check_writable("--out", target.parent)
    state = target.with_suffix(".partial")
    busy = f"another evaluation is writing {target}: wait for its end, stop it, or choose another file (--out)"
    with sole_use(target.parent / f".{target.stem}.lock", busy):
        try:
            reports = [measure(each, options, extras, state) for each in candidates]
        except KeyboardInterrupt:
            tell("mixaug evaluate: interrupted; the same command goes on where it was\n")
            return 130
        shown: Any = reports[0] if len(reports) == 1 else compare(reports)
        page = shown.save(target)
        sys.stdout.write(f"{shown.to_table()}\n\nReport: {page}\n")
        clear_state(state)
    return 0


def candidate(path: Path, options: argparse.Namespace) -> Candidate:
    """A checkpoint with its own data set, or ``--data``.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint that cannot be read, or whose classes are not the data set's.
    """
    from mixaug.train.checkpoint import load_checkpoint
    from mixaug.train.data import load_data

    model, info = load_checkpoint(path)
    kept, settings = info["data"], info["settings"]
    data = load_data(
        options.data or kept["name"],
        root=options.root or kept.get("root"),
        image_size=kept.get("image_size") if options.data is None else info["spec"].image_size,
        validation=settings.get("validation", 0.1),
    )
    if len(data.classes) != info["spec"].num_classes:
        raise ValueError(
            f"the data set {data.name} has {len(data.classes)} classes, the model of {path} {info['spec'].num_classes}"
        )
    name = f"{settings.get('method', path.parent.name)}{'+jsd' if settings.get('jsd') else ''}"
    return Candidate(model, data, settings, name)


def out_of_distribution(options: argparse.Namespace, data: DataParts) -> Any:
    """The images of ``--ood``, in the size of the data set's: a data set, or a folder with pictures."""
    from mixaug.evaluate import PictureFolder
    from mixaug.train.data import load_data

    if Path(options.ood).is_dir():
        return PictureFolder(options.ood, image_size=data.image_size, channels=data.channels)
    return getattr(load_data(options.ood, root=options.root, image_size=data.image_size), options.part)


def check_comparable(candidates: list[Candidate], part: str) -> None:
    """Raises, before any work, for checkpoints of different data sets.

    Raises:
        ValueError: they are not measured on the same images.
    """
    from mixaug.evaluate.images import LabelledImages

    hashes = [LabelledImages(getattr(each.data, part)).sha256 for each in candidates]
    for each, other in zip(candidates, hashes, strict=True):
        if other != hashes[0]:
            raise ValueError(
                f"the checkpoints must be measured on the same images to be compared, got {candidates[0].data.name} "
                f"and {each.data.name}; give one with --data"
            )


def measure(each: Candidate, options: argparse.Namespace, extras: Extras, state: Path) -> Report:
    """The report of one checkpoint."""
    import torch

    from mixaug.evaluate import evaluate_model

    return evaluate_model(
        each.model,
        getattr(each.data, options.part),
        attacks=None if options.attacks == "none" else options.attacks,
        corruptions=extras.corruptions,
        audit=not options.no_audit,
        eps=options.eps,
        surrogate=extras.surrogate,
        out_of_distribution=extras.out_of_distribution,
        everything=not options.brief,
        n_corruption=options.n_corruption,
        n_attack=options.n_attack,
        n_audit=options.n_audit,
        n_curve=options.curve,
        n_flips=options.flips,
        n_occlusion=options.occlusion,
        n_lipschitz=options.lipschitz,
        n_surface=options.surface,
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        name=each.name,
        classes=each.data.classes,
        state=state,
        progress=not options.quiet,
    )


def corruptions(word: str) -> str | CorruptedSet | None:
    """What ``--corruptions`` names.

    Raises:
        ValueError: neither a preset nor a folder.

    Example:
        >>> corruptions("imagenet"), corruptions("none")
        ('imagenet', None)
    """
    from mixaug.evaluate import CorruptedSet

    if word == "none":
        return None
    if word in ("cifar", "imagenet"):
        return word
    if not Path(word).is_dir():
        raise ValueError(f"--corruptions must be cifar, imagenet, none or a folder, got {word!r}")
    return CorruptedSet(word)
