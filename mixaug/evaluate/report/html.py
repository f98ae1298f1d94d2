"""HTML and files of a page: escaping, style, whole or absent."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixaug._files import atomic_path
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import interval_text

if TYPE_CHECKING:
    from mixaug._drawing import FigureImage
    from mixaug.evaluate.tables import Table


CSS = """
:root { color-scheme: light dark; --ground: #f6f6f4; --card: #ffffff; --ink: #1d1d1f; --soft: #65656b;
  --line: #dededa; --best: #dff0e6; --good: #00734f; --bad: #b3400a; --heat: 179, 64, 10; --odd: #8a5a00;
  --bad-ground: #fde9e0; --good-ground: #e2f3ea; --open-ground: #ececea; }
@media (prefers-color-scheme: dark) { :root { --ground: #19191b; --card: #232326; --ink: #ececee; --soft: #a2a2a9;
  --line: #3a3a3f; --best: #1d3d2e; --good: #5fd0a0; --bad: #ff9d6b; --heat: 255, 140, 80; --odd: #f0c060;
  --bad-ground: #47261a; --good-ground: #1b3a2d; --open-ground: #2d2d31; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; overflow-wrap: anywhere; } .soft, figcaption, .note { color: var(--soft); font-size: .88rem; }
.banner { display: flex; gap: .9rem; align-items: center; margin: 1rem 0; padding: .8rem 1rem; border-radius: 10px;
  border: 2px solid var(--soft); border-left-width: 10px; background: var(--open-ground); }
.banner .sign { font-size: 2rem; line-height: 1; font-weight: 700; min-width: 1.4rem; text-align: center; }
.banner b { font-size: 1.2rem; line-height: 1.3; } .banner p { margin: .1rem 0 0; }
.banner.masked { border-color: var(--bad); background: var(--bad-ground); } .masked .sign { color: var(--bad); }
.banner.clear { border-color: var(--good); background: var(--good-ground); } .clear .sign { color: var(--good); }
.notice { margin: .6rem 0; padding: .6rem .9rem; border-left: 6px solid var(--odd); border-radius: 6px;
  background: var(--card); overflow-wrap: anywhere; }
.notice ul { margin: .2rem 0 0; padding-left: 1.2rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .75rem;
  margin: 1.2rem 0 .6rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem .9rem; }
.card b { display: block; font-size: 1.65rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.card span { display: block; font-size: .82rem; color: var(--soft); }
.card .label { color: var(--ink); font-size: .88rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.scroll + .scroll { margin-top: .8rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } tr:last-child > * { border-bottom: 0; } thead th { color: var(--soft); font-size: .82rem; }
thead th { white-space: normal; vertical-align: bottom; overflow-wrap: break-word; min-width: 4.4rem; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); white-space: normal;
  min-width: 7.6rem; max-width: 17rem; overflow-wrap: anywhere; }
tr.total > * { border-top: 2px solid var(--line); font-weight: 650; }
td.best { background: var(--best); font-weight: 650; } .better { color: var(--good); } .worse { color: var(--bad); }
td.distrusted { color: var(--soft); }
td small { display: block; color: var(--soft); font-size: .76rem; font-weight: 400; }
.differences td { min-width: 6rem; } .differences td small { white-space: normal; }
.audit th, .audit td { text-align: left; vertical-align: top; } .audit thead th { min-width: 0; }
.audit td.text { white-space: normal; min-width: 13rem; } .audit td.source { font-size: .8rem; color: var(--soft); }
.audit td.limit { white-space: normal; }
.chip { display: inline-block; padding: 0 .55rem; border-radius: 99px; border: 1.5px solid var(--soft);
  font-weight: 650; font-size: .84rem; background: var(--open-ground); white-space: nowrap; }
.chip.pass { border-color: var(--good); color: var(--good); background: var(--good-ground); }
.chip.fail { border-color: var(--bad); color: var(--bad); background: var(--bad-ground); }
.chip.warn { border-color: var(--odd); color: var(--odd); }
.figures { columns: 2 420px; column-gap: 1rem; }
figure { margin: 0 0 1rem; break-inside: avoid;
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem; }
figure h3 { margin: 0 0 .5rem; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption { margin-top: .5rem; overflow-wrap: anywhere; }
details { margin-top: 1.6rem; } summary { cursor: pointer; font-weight: 600; margin-bottom: .6rem; }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; font-variant-numeric: normal;
  min-width: 9rem; }
@media (max-width: 520px) { main { padding: 1rem .7rem 2rem; } th, td { padding: .34rem .5rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: .5rem; } .card b { font-size: 1.4rem; } figure { padding: .6rem; }
  .banner { padding: .7rem .8rem; gap: .7rem; align-items: flex-start; }
  th:first-child { min-width: 6.9rem; max-width: 8.5rem; }
  /* Sentences in a table that scrolls cannot be read: each check is a block of its own. */
  .audit thead { display: none; } .audit, .audit tbody, .audit tr, .audit th, .audit td { display: block; }
  .audit tr { padding: .6rem .7rem; border-bottom: 1px solid var(--line); }
  .audit th, .audit td { border: 0; padding: .12rem 0; } .audit th:first-child { max-width: none; }
  .audit td.limit::before { content: "threshold "; } .audit tr:last-child { border-bottom: 0; } }
@page { size: A4; margin: 13mm 12mm; }
@media print { :root { color-scheme: light; --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
  --best: #e4f2ea; --good: #00734f; --bad: #b3400a; --heat: 179, 64, 10; --odd: #7a5000;
  --bad-ground: #fde9e0; --good-ground: #e2f3ea; --open-ground: #ececea; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  .scroll { overflow: visible; } table { font-size: 8pt; } thead { display: table-header-group; }
  th, td { padding: .2rem .3rem; white-space: normal; } th:first-child { position: static; min-width: 4.6rem; }
  .audit td small, .differences td small { white-space: normal; } .differences td { min-width: 0; }
  thead th:not(:first-child), .audit td.text, .settings td { min-width: 0; font-size: 7.5pt; }
  td small { font-size: 6.5pt; white-space: nowrap; } .audit td.source { font-size: 7pt; width: 24%; }
  .audit th:first-child { width: 19%; }
  .card, .banner, .notice, tr, figure { break-inside: avoid; } .figures { columns: 2; } h2, h3 { break-after: avoid; }
  .cards { grid-template-columns: repeat(5, 1fr); gap: .4rem; } .card { padding: .4rem .5rem; }
  .card b { font-size: 1.3rem; }
  figure { padding: .5rem; } details::details-content { content-visibility: visible; display: block; }
  details.more { display: none; } .wide table { font-size: 6.5pt; } .wide th, .wide td { padding: .15rem .2rem; }
  .wide td small { font-size: 5.5pt; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""


# The browser itself refuses anything that is not in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MANY = 9  # columns above which a table is set smaller on paper


def whole_page(title: str, body: Iterable[str]) -> str:
    """The page around its body."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{CSS}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def section(title: str, *parts: str) -> list[str]:
    """A heading with what follows it; nothing if nothing follows."""
    found = [part for part in parts if part]
    return [f"<h2>{escape(title)}</h2>", *found] if found else []


def note(text: str) -> str:
    """A sentence below a table."""
    return f'<p class="note">{escape(text)}</p>'


def card(label: str, estimate: Estimate, hint: str = "") -> str:
    """A headline estimate by itself."""
    extra = f"<span>{escape(hint)}</span>" if hint else ""
    return (
        f'<div class="card"><span class="label">{escape(label)}</span><b>{escape(estimate.text)}</b>'
        f"<span>[{interval_text(estimate)}]</span><span>n = {estimate.n:,}</span>{extra}</div>"
    )


def picture(figure: FigureImage) -> str:
    """A figure with its title and caption, inside the file."""
    data = base64.b64encode(figure.png).decode()
    return (
        f'<figure><h3>{escape(figure.title)}</h3><img alt="{escape(figure.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def pictures(figures: Iterable[FigureImage]) -> str:
    """Figures beside each other where there is room."""
    found = "".join(picture(figure) for figure in figures)
    return f'<div class="figures">{found}</div>' if found else ""


def table(header: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """A table in a box of its own, which scrolls where the table is wider than the screen."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    thead = f"<thead><tr>{head}</tr></thead>" if header else ""
    # A box that scrolls must be reached by the keyboard too.
    return f'<div class="scroll" tabindex="0"><table class="{kind}">{thead}<tbody>{"".join(rows)}</tbody></table></div>'


def row(label: str, cells: Iterable[str], kind: str = "") -> str:
    """A table's row; the label stays in sight when the table scrolls."""
    attribute = f' class="{kind}"' if kind else ""
    return f'<tr{attribute}><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>'


def cell(text: str, *small: str, kind: str = "", style: str = "", span: int = 1) -> str:
    """A cell over ``span`` columns; ``small`` are lines below its text."""
    given = {"class": kind, "style": style, "colspan": str(span) if span > 1 else ""}
    attributes = "".join(f' {name}="{value}"' for name, value in given.items() if value)
    lines = "".join(f"<small>{escape(line)}</small>" for line in small if line)
    return f"<td{attributes}>{escape(text)}{lines}</td>"


def chip(kind: str, text: str) -> str:
    """A cell with a word in a coloured frame."""
    return f'<td><span class="chip {kind}">{escape(text)}</span></td>'


def percent(estimate: Estimate | None, kind: str = "", heat: bool = False) -> str:
    """A share in percent with its interval; with ``heat`` on a ground that darkens with it."""
    if estimate is None:
        return cell("–", kind=kind)
    style = f"background: rgba(var(--heat), {0.5 * estimate.value:.3f})" if heat else ""
    return cell(estimate.text.removesuffix("%"), "–".join(estimate.ends), kind=kind, style=style)


def table_of(found: Table) -> str:
    """A measure's table with the sentence below it."""
    rows = []
    for each in found.rows:
        cells = [
            percent(content, "best" if index in each.best else "")
            if isinstance(content, Estimate)
            else cell(content)
            if isinstance(content, str)
            else cell(*content)
            for index, content in enumerate(each.cells)
        ]
        rows.append(row(each.label, cells, "total" if each.total else ""))
    return table(found.header, rows) + (note(found.note) if found.note else "")


def details(summary: str, content: str, kind: str = "") -> str:
    """A part that opens on a touch; on paper it is open, or with the kind ``more`` left out."""
    return f'<details class="{kind}"><summary>{escape(summary)}</summary>{content}</details>' if content else ""


def save_files(path: str | os.PathLike[str], page: str, data: dict[str, Any], pictures: dict[str, bytes]) -> Path:
    """Writes a page, its JSON and its pictures side by side, the page last."""
    target = Path(path)
    if target.suffix != ".html":
        raise ValueError(f"path must end in .html, got {str(path)!r}")
    for name, png in pictures.items():
        with atomic_path(target.with_name(f"{target.stem}-{name}.png")) as temporary:
            temporary.write_bytes(png)
    with atomic_path(target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target
