"""The HTML page of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from mixaug.evaluate._html import cell, chip, note, percent, pictures, row, section, table, whole_page
from mixaug.evaluate.labels import corruption_label, interval_text
from mixaug.evaluate.page_audit import short_verdict, verdict_reason
from mixaug.evaluate.page_tables import settings_table

if TYPE_CHECKING:
    from mixaug._drawing import FigureImage
    from mixaug.evaluate.comparison import Comparison

_TITLE = 3  # models up to which the title names them all


def comparison_page(comparison: Comparison, figures: Mapping[str, FigureImage]) -> str:
    """The page of several models side by side."""
    names = comparison.names
    title = " against ".join(names) if len(names) <= _TITLE else f"{names[0]} and {len(names) - 1} other models"
    attacks = comparison.attack_columns
    others = [key for key in comparison.columns if key not in attacks]
    body = [
        f"<h1>{escape(title)}</h1>",
        '<p class="soft">The same images for each model. Errors, lower is better; the best of a column is marked '
        "with &lt; and a green ground; [95% interval].</p>",
    ]
    body += section("Is this robustness real?", _verdicts(comparison))
    body += section("Main figures", _main_table(comparison, others))
    body += section("Under attack, error", _main_table(comparison, attacks))
    body += section(
        f"Differences to {names[0]}, {comparison.unit}",
        _difference_table(comparison, others),
        _difference_table(comparison, attacks),
        note("Paired bootstrap over the images: 95% intervals of the difference itself."),
    )
    body += section("Figures", pictures(figures.values()))
    body += section("Flip rates", _flip_comparison(comparison))
    body += section("Rise of the loss along the attack", _rise_comparison(comparison))
    body += section("Corruptions, mean error of five severities in %", _corruption_comparison(comparison))
    body += [note(text) for text in comparison.notes]
    body.append(settings_table(comparison.reports, comparison.names))
    return whole_page(title, body)


def _verdicts(comparison: Comparison) -> str:
    if all(report.audit is None for report in comparison.reports):
        return ""
    rows = [
        row(
            name,
            [
                chip(*short_verdict(report.audit)),
                cell("–" if report.audit is None else verdict_reason(report.audit), kind="text"),
            ],
        )
        for name, report in zip(comparison.names, comparison.reports, strict=True)
    ]
    return table(["model", "verdict", "what decides it"], rows, "audit")


def _main_table(comparison: Comparison, columns: Sequence[str]) -> str:
    if not columns:
        return ""
    rows = []
    for index, name in enumerate(comparison.names):
        cells = []
        for key in columns:
            figure, best = comparison.values[key][index], index in comparison.best[key]
            mark = "\u00a0†" if comparison.distrusted(index, key) else "\u00a0<" if best else ""
            kind = "best" if best else "distrusted" if mark else ""
            cells.append(cell(figure.text + mark, "–".join(figure.ends), kind=kind))
        rows.append(row(name, cells))
    rows.append(row("n", [cell(f"{comparison.values[key][0].n:,}") for key in columns]))
    return table(["model", *(comparison.columns[key] for key in columns)], rows)


def _difference_table(comparison: Comparison, columns: Sequence[str]) -> str:
    if not columns:
        return ""
    rows = []
    for index, (name, found) in enumerate(zip(comparison.names, comparison.differences, strict=True)):
        if found:
            cells = []
            for key in columns:
                verdict = comparison.verdict(index, key)
                kind = {"better": "better", "worse": "worse", "masked": "distrusted"}.get(verdict, "")
                cells.append(cell(found[key].change, interval_text(found[key]), verdict, kind=kind))
            rows.append(row(name, cells))
    return table(["model", *(comparison.columns[key] for key in columns)], rows, "differences")


def _flip_comparison(comparison: Comparison) -> str:
    if not comparison.shares("flip_rate"):
        return ""
    rates = [report.outcomes.flips.rates for report in comparison.reports if report.outcomes.flips is not None]
    rows = []
    for name in rates[0]:
        values = [each[name].value for each in rates]
        kinds = ["best" if value <= min(values) + 1e-12 else "" for value in values]
        cells = [percent(each[name], kind) for each, kind in zip(rates, kinds, strict=True)]
        rows.append(row(corruption_label(name), cells))
    return table(["flip rate, %", *comparison.names], rows)


def _rise_comparison(comparison: Comparison) -> str:
    if not comparison.radii:
        return ""
    rises = [[report.loss_rises[radius].attack for radius in comparison.radii] for report in comparison.reports]
    rows = [
        row(name, [cell(rise.text, interval_text(rise)) for rise in found])
        for name, found in zip(comparison.marked_names, rises, strict=True)
    ]
    return table(["model", *(f"radius {radius:g}" for radius in comparison.radii)], rows) + note(
        f"Rise of the cross entropy at the end of PGD-20 of the same radius, n = {rises[0][0].n:,} "
        "images; small figures are 95% intervals."
    )


def _corruption_comparison(comparison: Comparison) -> str:
    rows = [
        row(
            corruption_label(name),
            [
                percent(report.corruption_means[name], "best" if index in comparison.best[name] else "")
                for index, report in enumerate(comparison.reports)
            ],
        )
        for name in comparison.corruptions
    ]
    return table(["corruption", *comparison.names], rows) if rows else ""
