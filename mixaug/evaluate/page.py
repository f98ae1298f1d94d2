"""The HTML pages: one self-contained file each, for screens, phones and paper, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from mixaug.evaluate._style import CSS
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import attack_label, corruption_label, interval_text
from mixaug.evaluate.outcomes import SEVERITIES
from mixaug.evaluate.report import Report

if TYPE_CHECKING:
    from mixaug.evaluate.comparison import Comparison
    from mixaug.evaluate.figures import FigureImage


def report_page(report: Report, figures: Mapping[str, FigureImage]) -> str:
    """The page of one model."""
    counts = [f"{len(report.outcomes.correct):,} clean images"]
    if report.outcomes.corrupted:
        counts.append(f"corruptions on {len(report.outcomes.corruption_index):,}")
    counts += [f"{attack_label(name)} on {result.error.n:,}" for name, result in report.attacks.items()]
    if report.lipschitz is not None:
        counts.append(f"Lipschitz constant on {report.lipschitz.n:,}")
    body = [
        f"<h1>{escape(report.name)}</h1>",
        f'<p class="soft">{escape(", ".join(counts))}. Errors, lower is better; [95% interval].</p>',
        '<div class="cards">',
        *(_card(label, figure) for label, figure in report.figures.values()),
        "</div>",
    ]
    if report.mce_alexnet is not None:
        body.append(f"<p>mCE relative to AlexNet: <b>{100 * report.mce_alexnet:.1f}%</b></p>")
    body += ['<div class="figures">', *(_figure(figure) for figure in figures.values()), "</div>"]
    if report.corruption_errors:
        body += ["<h2>Corruptions, error in %</h2>", _corruption_table(report)]
    if report.attacks:
        body += ["<h2>Attacks</h2>", _attack_table(report)]
    if report.loss_rises:
        body += ["<h2>Loss around images</h2>", _rise_table(report)]
    body += ["<h2>Calibration</h2>", _calibration_table(report)]
    body += [f'<p class="note">{escape(note)}</p>' for note in report.notes]
    body.append(_settings([report], [report.name]))
    return _page(f"{report.name}: evaluation", body)


def comparison_page(comparison: Comparison, figures: Mapping[str, FigureImage]) -> str:
    """The page of several models side by side."""
    body = [
        f"<h1>{escape(' against '.join(comparison.names))}</h1>",
        '<p class="soft">The same images for each model. Errors, lower is better; the best of a column is marked.</p>',
        "<h2>Main figures</h2>",
        _main_table(comparison),
        f"<h2>Differences to {escape(comparison.names[0])}, {comparison.unit}</h2>",
        _difference_table(comparison),
        '<h2>Figures</h2><div class="figures">',
        *(_figure(figure) for figure in figures.values()),
        "</div>",
    ]
    if comparison.radii:
        body += ["<h2>Rise of the loss along the attack</h2>", _rise_comparison(comparison)]
    if comparison.corruptions:
        body += ["<h2>Corruptions, mean error of five severities in %</h2>", _corruption_comparison(comparison)]
    body += [f'<p class="note">{escape(note)}</p>' for note in comparison.notes]
    body.append(_settings(comparison.reports, comparison.names))
    return _page(" against ".join(comparison.names), body)


def _page(title: str, body: Sequence[str]) -> str:
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{CSS}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def _card(label: str, figure: Estimate) -> str:
    return (
        f'<div class="card"><span class="label">{escape(label)}</span><b>{figure.text}</b>'
        f"<span>[{interval_text(figure)}]</span><span>n = {figure.n:,}</span></div>"
    )


def _figure(figure: FigureImage) -> str:
    data = base64.b64encode(figure.png).decode()
    return (
        f'<figure><h3>{escape(figure.title)}</h3><img alt="{escape(figure.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _table(header: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    thead = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll"><table class="{kind}">{thead}<tbody>{"".join(rows)}</tbody></table></div>'


def _row(label: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>'


def _cell(text: str, small: str = "", kind: str = "", style: str = "", verdict: str = "") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (f' style="{style}"' if style else "")
    return (
        f"<td{attributes}>{escape(text)}"
        + "".join(f"<small>{escape(line)}</small>" for line in (small, verdict) if line)
        + "</td>"
    )


def _percent(figure: Estimate, kind: str = "", heat: bool = False) -> str:
    style = f"background: rgba(var(--heat), {0.5 * figure.value:.3f})" if heat else ""
    return _cell(figure.text.removesuffix("%"), "–".join(figure.ends), kind, style)


def _corruption_table(report: Report) -> str:
    rows = [
        _row(
            corruption_label(name),
            [*(_percent(cell, heat=True) for cell in errors), _percent(report.corruption_means[name], heat=True)],
        )
        for name, errors in report.corruption_errors.items()
    ]
    last = [_percent(cell, heat=True) for cell in report.severity_means]
    rows.append(_row("mean", [*last, *([_percent(report.mce, heat=True)] if report.mce is not None else [])]))
    header = ["corruption", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
    count = (
        f'<p class="note">n = {len(report.outcomes.corruption_index):,} images; small figures are 95% intervals.</p>'
    )
    return _table(header, rows) + count


def _attack_table(report: Report) -> str:
    rows = [
        _row(
            attack_label(name),
            [
                _percent(result.clean_accuracy),
                _percent(result.accuracy),
                _percent(result.error),
                _percent(result.gap),
                _percent(result.confidence),
                _cell(f"{255 * report.outcomes.attack_change[name]:.1f} / 255"),
                _cell(f"{result.error.n:,}"),
            ],
        )
        for name, result in report.attacks.items()
    ]
    header = [
        "attack", "accuracy before, %", "accuracy under it, %", "error, %", "gap, points", "confidence, %",
        "largest change", "n",
    ]  # fmt: skip
    worst, gap = report.robustness_gap or ("", None)
    note = (
        "Gap: accuracy before less accuracy under the attack on the same images"
        + ("" if gap is None else f"; the largest is that of {attack_label(worst)}")
        + ". Confidence: mean probability of the predicted class on the attacked images. "
        "Small figures are 95% intervals."
    )
    return _table(header, rows) + f'<p class="note">{escape(note)}</p>'


def _rise_table(report: Report) -> str:
    rows = [
        _row(
            f"{radius:g}",
            [
                _cell(rise.attack.text, interval_text(rise.attack)),
                _cell(rise.random.text, interval_text(rise.random)),
                _cell(f"{rise.attack.n:,}"),
            ],
        )
        for radius, rise in report.loss_rises.items()
    ]
    note = (
        '<p class="note">Rise of the cross entropy, mean over the images: at the end of PGD-20 of the same radius, and '
        "at both ends of a random direction. Small figures are 95% intervals.</p>"
    )
    return _table(["radius, pixels in [0, 1]", "attack", "random", "n"], rows) + note


def _rise_comparison(comparison: Comparison) -> str:
    rises = [[report.loss_rises[radius].attack for radius in comparison.radii] for report in comparison.reports]
    rows = [
        _row(name, [_cell(rise.text, interval_text(rise)) for rise in row])
        for name, row in zip(comparison.names, rises, strict=True)
    ]
    note = (
        f'<p class="note">Rise of the cross entropy at the end of PGD-20 of the same radius, n = {rises[0][0].n:,} '
        "images; small figures are 95% intervals.</p>"
    )
    return _table(["model", *(f"radius {radius:g}" for radius in comparison.radii)], rows) + note


def _calibration_table(report: Report) -> str:
    labels = {
        "rms": "RMS, equal-count bins of 100",
        "rms_ipmix_papers": "the same without the last bin, as the IPMix papers' code",
        "rms_equal_width": "RMS, 15 equal-width bins",
        "ece": "ECE, 15 equal-width bins",
    }
    rows = [
        _row(labels[name], [_percent(figure), _cell(f"{figure.n:,}")]) for name, figure in report.calibration.items()
    ]
    return _table(["calibration error", "%", "n"], rows)


def _main_table(comparison: Comparison) -> str:
    rows = []
    for index, report in enumerate(comparison.reports):
        cells = [
            _cell(figure.text, "–".join(figure.ends), "best" if index in comparison.best[key] else "")
            for key in comparison.columns
            for figure in [report.figures[key][1]]
        ]
        rows.append(_row(comparison.names[index], cells))
    first = comparison.reports[0].figures
    rows.append(_row("n", [_cell(f"{first[key][1].n:,}") for key in comparison.columns]))
    return _table(["model", *comparison.columns.values()], rows)


def _difference_table(comparison: Comparison) -> str:
    from mixaug.evaluate.comparison import verdict

    rows = []
    for name, difference in zip(comparison.names, comparison.differences, strict=True):
        if difference:
            cells = [
                _cell(
                    difference[key].change,
                    interval_text(difference[key]),
                    verdict(difference[key]) if difference[key].excludes_zero else "",
                    verdict=verdict(difference[key]),
                )
                for key in comparison.columns
            ]
            rows.append(_row(name, cells))
    note = '<p class="note">Paired bootstrap over the images: 95% intervals of the difference itself.</p>'
    return _table(["model", *comparison.columns.values()], rows) + note


def _corruption_comparison(comparison: Comparison) -> str:
    rows = [
        _row(
            corruption_label(name),
            [
                _percent(report.corruption_means[name], "best" if index in comparison.best[name] else "")
                for index, report in enumerate(comparison.reports)
            ],
        )
        for name in comparison.corruptions
    ]
    return _table(["corruption", *comparison.names], rows)


def _settings(reports: Sequence[Report], names: Sequence[str]) -> str:
    columns = [
        {key: _plain(value) for key, value in report.settings.items()}
        | report.environment
        | {f"seconds: {part}": f"{seconds:.1f}" for part, seconds in report.seconds.items()}
        for report in reports
    ]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = [_row(key.replace("_", " "), [_cell(column.get(key, "")) for column in columns]) for key in keys]
    header = ["setting", *names] if len(reports) > 1 else []
    table = _table(header, rows, "settings")
    return f"<details><summary>How to repeat this: settings, versions, times</summary>{table}</details>"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
