"""The HTML page of one model: one self-contained file for screens, phones and paper, light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from mixaug.evaluate._html import card, details, note, pictures, section, whole_page
from mixaug.evaluate.figures import figure_key
from mixaug.evaluate.headline import HIGHER, summary
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import attack_label
from mixaug.evaluate.page_audit import audit_table, banner, notices
from mixaug.evaluate.page_parts import anomaly_table, curve_table, flip_table, occlusion_table
from mixaug.evaluate.page_tables import attack_table, calibration_table, corruption_table, rise_table, settings_table

if TYPE_CHECKING:
    from mixaug._drawing import FigureImage
    from mixaug.evaluate.report import Report


def report_page(report: Report, figures: Mapping[str, FigureImage]) -> str:
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


def cards(report: Report) -> list[tuple[str, tuple[str, Estimate]]]:
    """The headline figures."""
    return list(summary(report).items())


def shown_first(report: Report, figures: Mapping[str, FigureImage]) -> tuple[list[FigureImage], list[FigureImage]]:
    """The figures of the page, and those that open on a touch: attacked images of all but the strongest attack.

    Nine attacks make nine pictures of the same images.
    """
    attacked = [key for key in figures if key.startswith("adversarial-")]
    strongest = figure_key(report.robustness_gap[0]) if report.robustness_gap is not None else ""
    later = [key for key in attacked if key != (strongest if strongest in attacked else attacked[0])]
    return [figures[key] for key in figures if key not in later], [figures[key] for key in later]


def what_was_measured(report: Report) -> str:
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


def reading(report: Report) -> str:
    """How the cards are read."""
    if report.anomaly is None:
        return "Errors, lower is better; [95% interval]."
    return "Errors, lower is better; AUROC and AUPR, higher is better; [95% interval]."
