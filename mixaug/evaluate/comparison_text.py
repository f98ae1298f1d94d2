"""A comparison as plain text for the terminal, and what a reader must know of its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixaug.evaluate.corruptions import OURS
from mixaug.evaluate.headline import HIGHER
from mixaug.evaluate.labels import corruption_label, interval_text
from mixaug.evaluate.page_audit import verdict_text
from mixaug.evaluate.tables import cut, fitted_tables, text_table, wrapped

if TYPE_CHECKING:
    from mixaug.evaluate.comparison import Comparison

_FULL = 3  # models up to which each difference has a line of its own


def comparison_text(comparison: Comparison) -> str:
    """Verdicts, figures, differences, corruptions and notes; ``<`` marks the best of a column."""
    blocks = [
        _verdicts(comparison),
        _main(comparison),
        *(_differences(comparison) if len(comparison.names) <= _FULL else [_all_differences(comparison)]),
        _corruptions(comparison),
        _rises(comparison),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n" + "\n".join(map(wrapped, comparison.notes))


def comparison_notes(comparison: Comparison) -> list[str]:
    """What a reader must know about the figures, a sentence each."""
    columns = comparison.columns
    notes = [
        f"All figures{' in %' if 'lipschitz' in columns else ''} are errors: lower is better; < marks the best. "
        "Intervals are paired bootstraps over images."
    ]
    if any(key in columns for key in HIGHER):
        notes.append("AUROC and AUPR are no errors: higher is better.")
    if any(comparison.masked):
        notes.append(
            "† Masked: the model hides its gradients, so that one attack, or a Lipschitz constant found by gradients, "
            "says little of it. Such a figure is never the best; the worst case is, if it holds an attack without "
            "gradients."
        )
    if "worst_case" in columns:
        notes.append(f"Worst case: over the attacks that all models share, {', '.join(comparison.worst_labels)}.")
    ours = [name for name in comparison.corruptions if name in OURS]
    if ours:
        notes.append(
            f"* {', '.join(ours)}: our own texture, not the original benchmark's; compare it with our figures only."
        )
    if any(report.missing for report in comparison.reports):
        missing = sorted({name for report in comparison.reports for name in report.missing})
        notes.append(f"Not measured for every model: {', '.join(missing)}; the mean is over those measured.")
    if comparison.not_shared:
        notes.append(f"Not compared, since not measured of all models on the same images: "
                     f"{', '.join(comparison.not_shared)}.")  # fmt: skip
    return notes


def _verdicts(comparison: Comparison) -> str:
    rows = [
        wrapped(f"{name}: {verdict_text(report.audit)}")
        for name, report in zip(comparison.names, comparison.reports, strict=True)
        if report.audit is not None
    ]
    return "\n".join(rows)


def _main(comparison: Comparison) -> str:
    rows = []
    for index, name in enumerate(comparison.names):
        cells = [name]
        for key in comparison.columns:
            best = " <" if index in comparison.best[key] else "  "
            cells.append(comparison.values[key][index].text + (" †" if comparison.distrusted(index, key) else best))
        rows.append(cells)
    rows.append(["n", *(f"{comparison.values[key][0].n}  " for key in comparison.columns)])
    return fitted_tables(["model", *(f"{cut(label)}  " for label in comparison.columns.values())], rows)


def _differences(comparison: Comparison) -> list[str]:
    """A table for each model."""
    tables = []
    for index, found in enumerate(comparison.differences):
        if found:
            rows = [
                [cut(label), found[key].change, interval_text(found[key]), comparison.verdict(index, key)]
                for key, label in comparison.columns.items()
            ]
            title = f"{comparison.names[index]} against {comparison.names[0]}, {comparison.unit}"
            tables.append(f"{wrapped(title)}\n" + text_table(["figure", "change", "95% interval", ""], rows))
    return tables


def _all_differences(comparison: Comparison) -> str:
    """One table for all models: intervals stand on the page and in the JSON."""
    rows = []
    for index, found in enumerate(comparison.differences):
        if found:
            marks = {"better": " ✓", "worse": " ✗"}
            cells = [found[key].change + marks.get(comparison.verdict(index, key), "  ") for key in comparison.columns]
            rows.append([comparison.names[index], *cells])
    title = f"Differences to {comparison.names[0]}, {comparison.unit}; ✓ clearly better, ✗ clearly worse"
    header = ["model", *(f"{cut(label)}  " for label in comparison.columns.values())]
    return f"{wrapped(title)}\n" + fitted_tables(header, rows)


def _corruptions(comparison: Comparison) -> str:
    if not comparison.corruptions:
        return ""
    rows = [
        [corruption_label(name)]
        + [
            f"{100 * report.corruption_means[name].value:.1f}" + (" <" if index in comparison.best[name] else "  ")
            for index, report in enumerate(comparison.reports)
        ]
        for name in comparison.corruptions
    ]
    return fitted_tables(["error in %, mean of severities", *(f"{cut(name, 24)}  " for name in comparison.names)], rows)


def _rises(comparison: Comparison) -> str:
    if not comparison.radii:
        return ""
    rows = [
        [cut(name), *(report.loss_rises[radius].attack.text for radius in comparison.radii)]
        for name, report in zip(comparison.marked_names, comparison.reports, strict=True)
    ]
    return text_table(
        ["rise of the loss along the attack", *(f"radius {radius:g}" for radius in comparison.radii)], rows
    )
