"""The pieces of an HTML page: its frame, tables, cells, cards and figures. All text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from mixaug.evaluate._style import CSS
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.labels import interval_text

if TYPE_CHECKING:
    from mixaug._drawing import FigureImage

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


def card(label: str, figure: Estimate, hint: str = "") -> str:
    """A headline figure by itself."""
    extra = f"<span>{escape(hint)}</span>" if hint else ""
    return (
        f'<div class="card"><span class="label">{escape(label)}</span><b>{escape(figure.text)}</b>'
        f"<span>[{interval_text(figure)}]</span><span>n = {figure.n:,}</span>{extra}</div>"
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


def percent(figure: Estimate | None, kind: str = "", heat: bool = False) -> str:
    """A share in percent with its interval; with ``heat`` on a ground that darkens with it."""
    if figure is None:
        return cell("–", kind=kind)
    style = f"background: rgba(var(--heat), {0.5 * figure.value:.3f})" if heat else ""
    return cell(figure.text.removesuffix("%"), "–".join(figure.ends), kind=kind, style=style)


def details(summary: str, content: str, kind: str = "") -> str:
    """A part that opens on a touch; on paper it is open, or with the kind ``more`` left out."""
    return f'<details class="{kind}"><summary>{escape(summary)}</summary>{content}</details>' if content else ""
