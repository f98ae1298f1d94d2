"""The audit on the page: the verdict as a banner, the table of the checks, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from mixaug.evaluate._html import cell, chip, note, row, table

if TYPE_CHECKING:
    from mixaug.evaluate.audit import Audit
    from mixaug.evaluate.intervals import Estimate
    from mixaug.evaluate.report import Report

#: A sign and a word for each outcome: told apart without colour, on grey paper too.
SIGNS = {"pass": "✓", "warn": "!", "fail": "✗", "not run": "–"}
_ORDER = ("fail", "warn", "pass", "not run")
_LOOKS = {
    True: ("masked", "✗", "Masked: this robustness is not real"),
    False: ("clear", "✓", "Not masked"),
    None: ("open", "?", "Not decided"),
}
_NOT_ROBUST = ("open", "–", "Not masked, and not robust")  # a green tick would be read as safe
_SHORT = {_LOOKS[True][2]: "masked", _NOT_ROBUST[2]: "not robust"}
_PREFIXES = ("Masked", "Not masked", "No verdict")


def banner(report: Report) -> str:
    """The verdict of the audit; without one, that there was none, where something was attacked."""
    if report.audit is None:
        if not report.attacks:
            return ""
        return _banner("open", "?", "No audit", "Whether this robustness is real or masked was not checked.")
    kind, sign, word = _look(report.audit)
    return _banner(kind, sign, word, verdict_reason(report.audit))


def outcome(audit: Audit | None) -> bool | None:
    """Whether robustness is masked; None where there was no audit, or none of its checks could compare anything."""
    if audit is None or (not audit.masked and audit.verdict.startswith("No verdict")):
        return None
    return audit.masked


def verdict_text(audit: Audit) -> str:
    """The verdict with its sign, a word and the figure that decides it."""
    _, sign, word = _look(audit)
    return f"{sign} {word}. {verdict_reason(audit)}"


def short_verdict(audit: Audit | None) -> tuple[str, str]:
    """The verdict in a word or two with its sign, after the kind of check that looks like it."""
    if audit is None:
        return "not-run", "– no audit"
    _, sign, word = _look(audit)
    kind = {"✗": "fail", "✓": "pass"}.get(sign, "not-run")
    return kind, f"{sign} {_SHORT.get(word, word.lower())}"


def notices(report: Report) -> list[str]:
    """What was noticed of the model, and what was left out and why."""
    parts = [f'<p class="notice"><b>Note.</b> {escape(text)}</p>' for text in report.notices]
    if report.left_out:
        items = "".join(
            f"<li><b>{escape(part.replace('_', ' '))}</b>: {escape(why)}</li>" for part, why in report.left_out.items()
        )
        parts.append(f'<div class="notice"><b>Left out</b><ul>{items}</ul></div>')
    return parts


def audit_table(audit: Audit) -> str:
    """Each check with its outcome, what it saw, its threshold and the source of the rule."""
    rows = [
        row(
            check.label,
            [
                chip(check.status.replace(" ", "-"), f"{SIGNS[check.status]} {check.status}"),
                cell(check.reason, _figures_text(check.figures), kind="text"),
                cell(_threshold_text(check.threshold), kind="limit"),
                cell(check.source, kind="text source"),
            ],
        )
        for check in sorted(audit.checks, key=lambda check: _ORDER.index(check.status))
    ]
    counts = [f"{sum(each.status == status for each in audit.checks)} {status}" for status in SIGNS]
    return table(["check", "outcome", "what it saw", "threshold", "source"], rows, "audit") + note(
        f"{', '.join(counts)}. A check that warns does not decide; one that was not run says why."
    )


def _look(audit: Audit) -> tuple[str, str, str]:
    found = outcome(audit)
    robust = audit.left.value > audit.thresholds.least_accuracy
    return _LOOKS[found] if robust or found is not False else _NOT_ROBUST


def verdict_reason(audit: Audit) -> str:
    """The verdict without the word that stands before it."""
    word, colon, reason = audit.verdict.partition(": ")
    return reason[:1].upper() + reason[1:] if colon and word in _PREFIXES else audit.verdict


def _banner(kind: str, sign: str, word: str, text: str) -> str:
    return (
        f'<section class="banner {kind}"><span class="sign" aria-hidden="true">{sign}</span>'
        f"<div><b>{escape(word)}</b><p>{escape(text)}</p></div></section>"
    )


def _figures_text(figures: Mapping[str, Estimate]) -> str:
    return "; ".join(f"{key.replace('_', ' ')} {figure}" for key, figure in figures.items())


def _threshold_text(threshold: Any) -> str:
    return "–" if threshold is None else _number(threshold)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
