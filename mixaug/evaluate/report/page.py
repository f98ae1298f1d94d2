"""The pages of a report and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from mixaug.evaluate.audit.result import SHORT_VERDICTS, SIGNS, verdict_look, verdict_reason
from mixaug.evaluate.corruptions.tables import SEVERITIES
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import attack_label, corruption_label, interval_text, radius_text
from mixaug.evaluate.report.data import HIGHER, summary
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
    whole_page,
)

if TYPE_CHECKING:
    from mixaug._drawing import FigureImage
    from mixaug.evaluate.audit.result import Audit
    from mixaug.evaluate.intervals import Estimate
    from mixaug.evaluate.report.comparison import ComparisonData
    from mixaug.evaluate.report.data import ReportData


def curve_table(report: ReportData) -> str:
    """Accuracy by radius."""
    curve = report.accuracy_curve
    if not curve:
        return ""
    header = ["radius", *(radius_text(eps) if eps else "0" for eps in curve)]
    n = next(iter(curve.values())).n
    return table(header, [row("accuracy, %", [percent(each) for each in curve.values()])]) + note(
        f"Accuracy under the strongest attack of each radius, n = {n:,} images; small figures are 95% intervals."
    )


def flip_table(report: ReportData) -> str:
    """The flip rate of each perturbation and their mean."""
    flips = report.outcomes.flips
    if flips is None:
        return ""
    rows = [row(corruption_label(name), [percent(rate), cell(f"{rate.n:,}")]) for name, rate in flips.rates.items()]
    rows.append(row("mean", [percent(flips.mean), cell(f"{flips.mean.n:,}")], "total"))
    return table(["perturbation", "flip rate, %", "n"], rows) + note(
        f"Share of {flips.pairs} pairs of frames of a sequence between which the prediction changes: with the frame "
        "before, for noise with the first. Small figures are 95% intervals."
    )


def anomaly_table(report: ReportData) -> str:
    """How well the confidence tells the images of another data set apart."""
    scores = report.anomaly
    if scores is None:
        return ""
    rows = [
        row("AUROC", [percent(scores.auroc)]),
        row("AUPR", [percent(scores.aupr)]),
        row("false alarms at 95% found", [percent(scores.fpr95)]),
    ]
    known, other = len(scores.confidence_in), len(scores.confidence_out)
    return table(["by the confidence", "%"], rows) + note(
        f"{other:,} images of another data set are to be found among {known:,} clean ones. A score that knows nothing "
        f"has an AUROC of 50% and an AUPR of {100 * scores.base_rate:.1f}%; of these two higher is better. Small "
        "figures are 95% intervals."
    )


def occlusion_table(report: ReportData) -> str:
    """Accuracy by hidden share."""
    curve = report.outcomes.occlusion
    if curve is None:
        return ""
    header = ["hidden", *(f"{100 * ratio:.0f}%" for ratio in curve.ratios), "mean"]
    cells = [percent(each) for each in (*curve.accuracy, curve.area)]
    return table(header, [row("accuracy, %", cells)]) + note(
        f"Random patches of {curve.patch_size} px hidden, n = {curve.area.n:,} images; small figures are 95% intervals."
    )


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


def rise_table(report: ReportData) -> str:
    """How far the loss rises at each radius."""
    rows = [
        row(
            f"{radius:g}",
            [
                cell(rise.attack.text, interval_text(rise.attack)),
                cell(rise.random.text, interval_text(rise.random)),
                cell(f"{rise.attack.n:,}"),
            ],
        )
        for radius, rise in report.loss_rises.items()
    ]
    return table(["radius, pixels in [0, 1]", "attack", "random", "n"], rows) + note(
        "Rise of the cross entropy, mean over the images: at the end of PGD-20 of the same radius, and at both ends of "
        "a random direction. Small figures are 95% intervals."
    )


def calibration_table(report: ReportData) -> str:
    """The calibration errors by each definition."""
    labels = {
        "rms": "RMS, equal-count bins of 100",
        "rms_ipmix_papers": "the same without the last bin, as the IPMix papers' code",
        "rms_equal_width": "RMS, 15 equal-width bins",
        "ece": "ECE, 15 equal-width bins",
    }
    rows = [row(labels[name], [percent(figure), cell(f"{figure.n:,}")]) for name, figure in report.calibration.items()]
    return table(["calibration error", "%", "n"], rows)


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


def report_page(report: ReportData, figures: Mapping[str, FigureImage]) -> str:
    """The page of one model."""
    body = [
        f"<h1>{escape(report.name)}</h1>",
        f'<p class="soft">{escape(what_was_measured(report))}</p>',
        banner(report),
        *notices(report),
        '<div class="cards">',
        *(card(label, figure, "higher is better" if key in HIGHER else "") for key, (label, figure) in cards(report)),
        "</div>",
        f'<p class="soft">{escape(reading(report))}</p>',
    ]
    if report.mce_alexnet is not None:
        body.append(f"<p>mCE relative to AlexNet: <b>{100 * report.mce_alexnet:.1f}%</b></p>")
    if report.audit is not None:
        body += section("Audit: is this robustness real?", audit_table(report.audit))
    first, more = shown_first(report, figures)
    body += section("Figures", pictures(first), details("Attacked images of the other attacks", pictures(more), "more"))
    body += section("Attacks", attack_table(report) if report.attacks else "", curve_table(report))
    body += section("Corruptions, error in %", corruption_table(report) if report.corruption_errors else "")
    body += section("Flip rates", flip_table(report))
    body += section("Calibration", calibration_table(report))
    body += section("Anomalies", anomaly_table(report))
    body += section("Occlusion", occlusion_table(report))
    body += section("Loss around images", rise_table(report) if report.loss_rises else "")
    body += [note(text) for text in report.notes]
    body.append(settings_table([report], [report.name]))
    return whole_page(f"{report.name}: evaluation", body)


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
    if outcomes.flips is not None:
        counts.append(f"perturbation sequences on {len(outcomes.flip_index):,}")
    if outcomes.occlusion is not None:
        counts.append(f"occlusion on {len(outcomes.occlusion_index):,}")
    if report.anomaly is not None:
        counts.append(f"{len(outcomes.ood_confidence):,} images of another data set")
    if report.lipschitz is not None:
        counts.append(f"Lipschitz constant on {report.lipschitz.n:,}")
    data = f" on {settings['data']}" if settings.get("data") else ""
    return (f"{model}{parameters}{data}: " if model else "") + "; ".join(counts) + "."


def reading(report: ReportData) -> str:
    """How the cards are read."""
    if report.anomaly is None:
        return "Errors, lower is better; [95% interval]."
    return "Errors, lower is better; AUROC and AUPR, higher is better; [95% interval]."


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
    body += section("Flip rates", _flip_comparison(comparison))
    body += section("Rise of the loss along the attack", _rise_comparison(comparison))
    body += section("Corruptions, mean error of five severities in %", _corruption_comparison(comparison))
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


def _flip_comparison(comparison: ComparisonData) -> str:
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


def _rise_comparison(comparison: ComparisonData) -> str:
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
