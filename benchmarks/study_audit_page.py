"""The page of the audit's study: verdicts, what every check saw, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study_page import markdown_table

from mixaug.evaluate.audit import Audit
from mixaug.evaluate.audit.attacks import LABELS
from mixaug.evaluate.audit.result import SHORT, cell_text, verdict_word
from mixaug.evaluate.audit.rules import RULES

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
        "`benchmarks/study_audit_models.py` makes of the plain one (or, so named, of PGD AT).",
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
