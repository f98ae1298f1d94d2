"""The pages of a report and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from mixaug.evaluate.audit.result import SHORT_VERDICTS, SIGNS, verdict_look, verdict_reason
from mixaug.evaluate.corruptions.tables import SEVERITIES, corruption_label
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import attack_label, interval_text
from mixaug.evaluate.report.data import headline, listed, more_is_better, summary
from mixaug.evaluate.report.figures import figure_key
from mixaug.evaluate.report.html import (
    card,
    cell,
    chip,
    details,
    note,
    percent,
    pictures,
    row,
    section,
    table,
    table_of,
    whole_page,
)

if TYPE_CHECKING:
    from mixaug._drawing import FigureImage
    from mixaug.evaluate.audit.result import Audit
    from mixaug.evaluate.intervals import Estimate
    from mixaug.evaluate.measure import Section
    from mixaug.evaluate.report.comparison import ComparisonData
    from mixaug.evaluate.report.data import ReportData


def corruption_table(report: ReportData) -> str:
    """Error of each corruption at each severity."""
    rows = [
        row(
            corruption_label(name),
            [*(percent(each, heat=True) for each in errors), percent(report.corruption_means[name], heat=True)],
        )
        for name, errors in report.corruption_errors.items()
    ]
    last = [percent(each, heat=True) for each in report.severity_means]
    rows.append(row("mean", [*last, *([percent(report.mce, heat=True)] if report.mce is not None else [])], "total"))
    header = ["corruption", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
    count = f"n = {len(report.outcomes.corruption_index):,} images; small figures are 95% intervals."
    return table(header, rows) + note(count)


def attack_table(report: ReportData) -> str:
    """Each attack's figures, and the worst case over those within the radius."""
    rows = [
        row(
            attack_label(name),
            [
                percent(result.clean_accuracy),
                percent(result.accuracy),
                percent(result.error),
                percent(result.gap),
                percent(result.confidence),
                cell(f"{255 * report.outcomes.attack_change[name]:.1f} / 255"),
                cell(f"{result.error.n:,}"),
            ],
        )
        for name, result in report.attacks.items()
    ]
    case = report.worst_case
    if case is not None:
        figures = [percent(figure) for figure in (case.clean_accuracy, case.accuracy, case.error, case.gap)]
        label = f"worst case of {len(case.attacks)}" if len(case.attacks) > 1 else "worst case"
        rows.append(row(label, [*figures, cell("–"), cell("–"), cell(f"{case.error.n:,}")], "total"))
    header = [
        "attack", "accuracy before, %", "accuracy under it, %", "error, %", "gap, points", "confidence, %",
        "largest change", "n",
    ]  # fmt: skip
    worst, gap = report.robustness_gap or ("", None)
    text = (
        "Gap: accuracy before less accuracy under the attack on the same images"
        + ("" if gap is None else f"; the largest is that of {attack_label(worst)}")
        + ". Confidence: mean probability of the predicted class on the attacked images. "
        "Small figures are 95% intervals."
    )
    return table(header, rows) + note(text) + (note(worst_case_text(report)) if case is not None else "")


def worst_case_text(report: ReportData) -> str:
    """What the worst case is, and which attacks it does not count."""
    case = report.worst_case
    if case is None:
        return ""
    outside = [attack_label(name) for name in report.attacks if name not in case.attacks]
    left = f" Not counted, since it moves pixels by more than the radius: {', '.join(outside)}." if outside else ""
    return f"Worst case: an image is right if no attack within the radius turned it.{left}"


def settings_table(reports: Sequence[ReportData], names: Sequence[str]) -> str:
    """Settings, versions, hashes and times: all that is needed to repeat the evaluation."""
    columns = [
        {key: _plain(value) for key, value in report.settings.items()}
        | report.environment
        | {f"seconds: {part}": f"{seconds:.1f}" for part, seconds in report.seconds.items()}
        for report in reports
    ]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = []
    for key in keys:
        values = [column.get(key, "") for column in columns]
        # What all models share is written once: twelve copies of a long list are not read by anybody.
        if len(values) > 1 and len(set(values)) == 1:
            values, span = values[:1], len(values)
        else:
            span = 1
        rows.append(row(key.replace("_", " "), [cell(value, span=span) for value in values]))
    header = ["setting", *names] if len(reports) > 1 else []
    return details("How to repeat this: settings, versions, times", table(header, rows, "settings"))


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


_ORDER = ("fail", "warn", "pass", "not run")


def banner(report: ReportData) -> str:
    """The verdict of the audit; without one, that there was none, where something was attacked."""
    if report.audit is None:
        if not report.attacks:
            return ""
        return _banner("open", "?", "No audit", "Whether this robustness is real or masked was not checked.")
    kind, sign, word = verdict_look(report.audit)
    return _banner(kind, sign, word, verdict_reason(report.audit))


def short_verdict(audit: Audit | None) -> tuple[str, str]:
    """The verdict in a word or two with its sign, after the kind of check that looks like it."""
    if audit is None:
        return "not-run", "– no audit"
    _, sign, word = verdict_look(audit)
    kind = {"✗": "fail", "✓": "pass"}.get(sign, "not-run")
    return kind, f"{sign} {SHORT_VERDICTS.get(word, word.lower())}"


def notices(report: ReportData) -> list[str]:
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
                cell(check.reason, _estimates_text(check.figures), kind="text"),
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


def _banner(kind: str, sign: str, word: str, text: str) -> str:
    return (
        f'<section class="banner {kind}"><span class="sign" aria-hidden="true">{sign}</span>'
        f"<div><b>{escape(word)}</b><p>{escape(text)}</p></div></section>"
    )


def _estimates_text(estimates: Mapping[str, Estimate]) -> str:
    return "; ".join(f"{key.replace('_', ' ')} {figure}" for key, figure in estimates.items())


def _threshold_text(threshold: Any) -> str:
    return "–" if threshold is None else _number(threshold)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def report_page(report: ReportData, figures: Mapping[str, FigureImage]) -> str:
    """The page of one model."""
    higher = more_is_better()
    body = [
        f"<h1>{escape(report.name)}</h1>",
        f'<p class="soft">{escape(what_was_measured(report))}</p>',
        banner(report),
        *notices(report),
        '<div class="cards">',
        *(card(label, figure, "higher is better" if key in higher else "") for key, (label, figure) in cards(report)),
        "</div>",
        f'<p class="soft">{escape(reading(report))}</p>',
    ]
    if report.mce_alexnet is not None:
        body.append(f"<p>mCE relative to AlexNet: <b>{100 * report.mce_alexnet:.1f}%</b></p>")
    if report.audit is not None:
        body += section("Audit: is this robustness real?", audit_table(report.audit))
    first, more = shown_first(report, figures)
    body += section("Figures", pictures(first), details("Attacked images of the other attacks", pictures(more), "more"))
    body += _sections(
        [
            (10, "Attacks", attack_table(report) if report.attacks else ""),
            (20, "Corruptions, error in %", corruption_table(report) if report.corruption_errors else ""),
        ],
        [each for measure, result in report.measures for each in measure.tables(result)],
    )
    body += [note(text) for text in report.notes]
    body.append(settings_table([report], [report.name]))
    return whole_page(f"{report.name}: evaluation", body)


def _sections(own: Sequence[tuple[int, str, str]], measured: Sequence[Section]) -> list[str]:
    """Headings with their tables in the order of their places; tables of one title share a heading."""
    parts = [*own, *((each.position, each.title, table_of(each.table)) for each in measured)]
    by_title: dict[str, list[str]] = {}
    for _, title, content in sorted(parts, key=lambda part: part[0]):
        by_title.setdefault(title, []).append(content)
    return [line for title, contents in by_title.items() for line in section(title, *contents)]


def cards(report: ReportData) -> list[tuple[str, tuple[str, Estimate]]]:
    """The headline figures."""
    return list(summary(report).items())


def shown_first(report: ReportData, figures: Mapping[str, FigureImage]) -> tuple[list[FigureImage], list[FigureImage]]:
    """The figures of the page, and those that open on a touch: attacked images of all but the strongest attack.

    Nine attacks make nine pictures of the same images.
    """
    attacked = [key for key in figures if key.startswith("adversarial-")]
    strongest = figure_key(report.robustness_gap[0]) if report.robustness_gap is not None else ""
    later = [key for key in attacked if key != (strongest if strongest in attacked else attacked[0])]
    return [figures[key] for key in figures if key not in later], [figures[key] for key in later]


def what_was_measured(report: ReportData) -> str:
    """The model, the data and how many images each part was measured on."""
    settings, outcomes = report.settings, report.outcomes
    model = settings.get("model", "")
    parameters = f" of {settings['parameters']:,} parameters" if settings.get("parameters") else ""
    counts = [f"{len(outcomes.correct):,} clean images"]
    if outcomes.corrupted:
        counts.append(f"{len(outcomes.corrupted)} corruptions on {len(outcomes.corruption_index):,}")
    by_number: dict[int, list[str]] = {}
    for name, result in report.attacks.items():
        by_number.setdefault(result.error.n, []).append(attack_label(name))
    counts += [f"{', '.join(names)} on {number:,}" for number, names in by_number.items()]
    counts += [count for measure, result in report.measures if (count := measure.count(result))]
    data = f" on {settings['data']}" if settings.get("data") else ""
    return (f"{model}{parameters}{data}: " if model else "") + "; ".join(counts) + "."


def reading(report: ReportData) -> str:
    """How the cards are read."""
    rows = headline(report)
    higher = [word for key, word in more_is_better().items() if key in rows]
    return f"Errors, lower is better; {f'{listed(higher)}, higher is better; ' if higher else ''}[95% interval]."


_TITLE = 3  # models up to which the title names them all


def comparison_page(comparison: ComparisonData, figures: Mapping[str, FigureImage]) -> str:
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
    body += _sections(
        [(80, "Corruptions, mean error of five severities in %", _corruption_comparison(comparison))],
        [
            each
            for measure, results in comparison.shared
            for each in measure.compared_tables(results, comparison.models)
        ],
    )
    body += [note(text) for text in comparison.notes]
    body.append(settings_table(comparison.reports, comparison.names))
    return whole_page(title, body)


def _verdicts(comparison: ComparisonData) -> str:
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


def _main_table(comparison: ComparisonData, columns: Sequence[str]) -> str:
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


def _difference_table(comparison: ComparisonData, columns: Sequence[str]) -> str:
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


def _corruption_comparison(comparison: ComparisonData) -> str:
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
