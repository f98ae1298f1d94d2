"""The masking audit's verdicts on models whose truth is known: honest ones, and ones that hide the way of a gradient.

    python benchmarks/study_audit.py

audits the models that the earlier studies trained and models made from them (``study/masking_models.py``), and writes
``docs/results/study_audit.md``, ``.json`` and ``.png``. An audit is kept in ``OUT/study_audit`` as it goes, so the same
command goes on after an interruption. ``--report-only`` writes the page from what is finished.

    --runs FOLDER ...       where the studies' runs are (default ``runs``); they are made again by
                            python benchmarks/study_adversarial.py --seeds 2
                            python benchmarks/study_drelu.py --seeds 1
                            python benchmarks/study_drelu.py --recipe paper --seeds 1
                            python benchmarks/study_adautomix.py --seeds 1
    --n 100                 other numbers of images
    --only ripple           just models with this in their name

Needs the extra ``attacks`` (APGD and Square). One process, one thread.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from study.command import ROOT, save_page
from study.masking_models import (
    Compressed,
    Decoy,
    NoisyInput,
    NoNumber,
    OneHot,
    Reversed,
    Rippled,
    Rounded,
    Scaled,
)
from study.measured import processor
from study.runs import say, write_text
from study.tables import markdown_table
from torch import Tensor, nn

from mixaug._files import atomic_path
from mixaug.evaluate.audit import Audit, audit_model
from mixaug.evaluate.audit.attacks import LABELS
from mixaug.evaluate.audit.result import SHORT, audit_grid, cell_text, verdict_word
from mixaug.evaluate.audit.rules import RULES
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import load_data

# --- the models ------------------------------------------------------------------------------------------------------

EPS = 0.1
_PLAIN, _PGD = "study_adversarial/standard-s0", "study_adversarial/pgd-at-s0"
_SURROGATE = "study_adversarial/standard-s1"


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class Case:
    """A model of the table.

    Args:
        name: in the table.
        run: folder of the trained model.
        expected: whether it must be masked; None where nobody knows before.
        make: the trained model to the one that is audited.
        eps: radius.
    """

    name: str
    run: str
    expected: bool | None
    make: Callable[[nn.Module], nn.Module] = _as_it_is
    eps: float = EPS

    def model(self, roots: Sequence[Path]) -> nn.Module:
        """The model, in evaluation mode."""
        return self.make(trained_model(self.run, roots)).eval()


CASES = (
    Case("plain", _PLAIN, False),
    Case("plain, 2/255", _PLAIN, False, eps=2 / 255),
    Case("PGD AT", _PGD, False),
    Case("TRADES", "study_adversarial/trades-s0", False),
    Case("Feature Scatter", "study_adversarial/feature-scatter-s0", None),
    Case("Dynamic MixCut", "study_adversarial/dynamic-mixcut-s0", None),
    Case("hybrid", "study_adversarial/hybrid-s0", None),
    Case("AdAutoMix", "study_adautomix/adautomix-s0", None),
    Case("AdAutoMix, 2/255", "study_adautomix/adautomix-s0", None, eps=2 / 255),
    Case("D-ReLU, nothing capped", "study_drelu/d-relu-head-lambda-0.03-s0", None),
    Case("D-ReLU, lambda 3", "study_drelu/d-relu-head-lambda-3-s0", None),
    Case("D-ReLU, paper's recipe, lambda 30", "study_drelu_paper/d-relu-head-lambda-30-s0", None),
    Case("rounding in front", _PLAIN, True, Rounded),
    Case("logits x 1000", _PLAIN, True, lambda model: Scaled(model, 1000.0)),
    Case("logits / 1000", _PLAIN, False, lambda model: Scaled(model, 1 / 1000)),
    Case("PGD AT, logits / 1000", _PGD, False, lambda model: Scaled(model, 1 / 1000)),
    Case("random noise on the input, 0.1", _PLAIN, None, lambda model: NoisyInput(model, 0.1)),
    Case("PGD AT, random noise on the input, 0.1", _PGD, None, lambda model: NoisyInput(model, 0.1)),
    Case("one-hot output", _PLAIN, True, OneHot),
    Case("ripple on the logits", _PLAIN, True, Rippled),
    Case("JPEG in front", _PLAIN, True, Compressed),
    Case("decoy gradient", _PLAIN, True, Decoy),
    Case("reversed gradient", _PLAIN, True, Reversed),
    Case("gradient not a number", _PLAIN, True, NoNumber),
)


def trained_model(run: str, roots: Sequence[Path]) -> nn.Module:
    """The model of a run of a study.

    Raises:
        FileNotFoundError: it is in none of the folders.
    """
    for root in roots:
        path = root / run / "last.pt"
        if path.exists():
            return load_checkpoint(path)[0].eval()
    raise FileNotFoundError(f"{run}/last.pt is in none of {', '.join(map(str, roots))}; --help says how it is made")


# --- one audit -------------------------------------------------------------------------------------------------------


class Store:
    """Pieces of an audit in one file, which is written after each of them.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pieces: dict[str, dict[str, Tensor]] = torch.load(path) if path.exists() else {}

    def __call__(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if name not in self.pieces:
            self.pieces[name] = compute()
            with atomic_path(self.path) as temporary:
                torch.save(self.pieces, temporary)
        return self.pieces[name]


def file_of(case: Case, out: Path) -> Path:
    """Where the finished audit of a model is."""
    return out / f"{case.name.lower().replace(' ', '-').replace('/', 'of').replace(',', '')}.json"


def audit_case(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Audits a model, or reads what is finished."""
    path = file_of(case, options.out)
    if path.exists():
        return json.loads(path.read_text())
    data = load_data("embedded")
    surrogate = trained_model(_SURROGATE, options.runs)
    started = time.process_time()
    audit = audit_model(
        case.model(options.runs),
        data.test,
        case.eps,
        n=options.n,
        surrogate=surrogate,
        square_queries=options.queries,
        keep=Store(path.with_suffix(".pt")),
    )
    row = {
        "name": case.name,
        "run": case.run,
        "expected": case.expected,
        "seconds": round(time.process_time() - started, 1),
        "machine": f"{processor()}, one thread, torch {torch.__version__}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "audit": audit.to_json(),
    }
    write_text(path, json.dumps(row) + "\n")
    path.with_suffix(".pt").unlink(missing_ok=True)
    return row


# --- the page --------------------------------------------------------------------------------------------------------

_SHOWN = tuple(name for name in LABELS if not name.startswith("radius") and name != "grey")

#: What the count of right verdicts does not say.
_CAVEAT = (
    "The rules and their limits were made while looking at these models: PGD AT with logits / 1000 was called "
    "masked at first, and a rule was added; the limit `far` was set with the gaps of TRADES and Feature "
    "Scatter in view. So this count says that the rules do what they are meant to, and is no estimate of how "
    "often they are right on other models. Feature Scatter is the doubtful case: PGD-20 reports 4.5 points "
    "more than APGD-DLR leaves, just below the limit, and [the study of adversarial "
    "training](study_adversarial.md) finds 9.7 points between PGD-20 and AutoAttack for it over three seeds."
)


def page(rows: Sequence[Mapping[str, Any]], audits: Mapping[str, Audit], missing: Sequence[str], command: str) -> str:
    """The page as Markdown.

    Args:
        rows: what is known of each audit beside itself.
        audits: model's name to audit.
        missing: models whose audit is not finished.
        command: that was typed.
    """
    known = [row for row in rows if row["expected"] is not None]
    wrong = [row["name"] for row in known if audits[row["name"]].masked != row["expected"]]
    first = next(iter(audits.values()))
    lines = [
        "# The masking audit: verdicts on models whose truth is known",
        "",
        f"Of {len(known)} models of which it is known whether they mask, the audit says the right thing of "
        f"{len(known) - len(wrong)}{'' if not wrong else '; wrong: ' + ', '.join(wrong)}. Masked are "
        f"{_listed([name for name, audit in audits.items() if audit.masked])}; not masked are "
        f"{_listed([name for name, audit in audits.items() if not audit.masked])}.",
        "",
        _CAVEAT,
        "",
        *([f"**Not finished: {_listed(missing)}.**", ""] if missing else []),
        f"Fashion-MNIST, the subset in the package: {first.n} test images, `resnet-small` (0.31 million parameters), "
        "radius 0.1 (l-infinity, images in [0, 1]) where no other is said. Every attack starts from all images that "
        "the model gets right. [What each check sees](../audit.md).",
        "",
        "![Models by checks](study_audit.png)",
        "",
        "## Verdicts",
        "",
        *_left(
            markdown_table(["", "expected", "found", "the figure that decides", "seconds"], _verdicts(rows, audits))
        ),
        "",
        "## What every check saw",
        "",
        "Points that another attack takes beyond the one that it is compared with (`rise` for the growing radius, "
        "accuracy at a radius of 0.5, percent of the images without gradient or with other logits at an equal call, "
        "mean cosine of near gradients); `!` warned, `x` failed, `-` not run.",
        "",
        *markdown_table(
            ["", *(SHORT[name] for name in RULES)],
            [[name, *(cell_text(check) for check in audit.checks)] for name, audit in audits.items()],
        ),
        "",
        "## Accuracy under each attack, %",
        "",
        "`-`: not run, since the strongest gradient attack had left nothing. All: an attacker who may choose for each "
        "image among the attacks of the row.",
        "",
        *markdown_table(
            ["", "clean", *(LABELS[name] for name in _SHOWN), "all"],
            [[name, *_accuracies(audit), f"{100 * audit.left.value:.1f}"] for name, audit in audits.items()],
        ),
        "",
        "## How it was made",
        "",
        f"`{command}`, {rows[0]['date']}, {rows[0]['machine']}; {sum(row['seconds'] for row in rows):.0f} s of "
        f"processor time in all. Square: {first.settings['square_queries']:,} queries. Averaged gradients: "
        f"{first.settings['draws']} draws. Transfer: from a plain model of another seed. Models: seed 0 of the studies "
        "[adversarial training](study_adversarial.md), [D-ReLU](study_drelu.md), "
        "[D-ReLU by the paper's recipe](study_drelu_paper.md) and [AdAutoMix](study_adautomix.md), and what "
        "`benchmarks/study/masking_models.py` makes of the plain one (or, so named, of PGD AT).",
        "",
    ]
    return "\n".join(lines)


def _verdicts(rows: Sequence[Mapping[str, Any]], audits: Mapping[str, Audit]) -> list[list[str]]:
    words = {True: "masked", False: "not masked", None: "-"}
    return [
        [
            row["name"],
            words[row["expected"]],
            f"**{verdict_word(audits[row['name']])[0]}**",
            audits[row["name"]].verdict.partition(": ")[2],
            f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]


def _accuracies(audit: Audit) -> list[str]:
    found = audit.accuracies
    return [f"{100 * found[name].value:.1f}" if name in found else "-" for name in ("clean", *_SHOWN)]


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names) or "none"


def _left(table: list[str]) -> list[str]:
    """All columns but the last to the left: they are words."""
    columns = table[1].count("|") - 1
    return [table[0], "|" + "---|" * (columns - 1) + "---:|", *table[2:]]


# --- the command -----------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Audits what is not finished, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=[ROOT / "runs"], help="folders of the studies' runs")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study_audit", help="folder of the audits")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder of the page")
    parser.add_argument("--n", type=int, default=200, help="images (default 200)")
    parser.add_argument("--queries", type=int, default=1000, help="of Square for each image (default 1,000)")
    parser.add_argument("--only", default="", metavar="TEXT", help="just models with this in their name")
    parser.add_argument("--report-only", action="store_true", help="write the page from what is finished")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if not options.report_only and options.only in case.name:
            row = audit_case(case, options)
            say(f"{case.name:42} {row['seconds']:5.0f} s  {row['audit']['verdict']}")
    rows = [json.loads(file_of(case, options.out).read_text()) for case in CASES if file_of(case, options.out).exists()]
    if not rows:
        raise ValueError(f"no audit is finished in {options.out}")
    missing = [case.name for case in CASES if case.name not in {row["name"] for row in rows}]
    audits = {row["name"]: Audit.from_json(row["audit"]) for row in rows}
    command = "python benchmarks/study_audit.py" + ("" if options.n == 200 else f" --n {options.n}")
    text = page(rows, audits, missing, shlex.join(shlex.split(command)))
    summary = {"command": command, "missing": missing, "rows": rows}

    def draw(path: Path) -> None:
        with atomic_path(path) as temporary:
            Path(temporary).write_bytes(audit_grid(audits).png)

    save_page(options.results, "study_audit", text, summary, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
