"""Tables: what stands in one whatever it is written as, and plain text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from mixaug._terminal import printable
from mixaug.evaluate.intervals import Estimate

#: A cell: a share in percent with its interval below; a text; or a text with smaller lines below it.
Cell = Estimate | str | tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A row of a :class:`Table`; ``total`` sets it apart as the last one, ``best`` marks cells by their position."""

    label: str
    cells: Sequence[Cell]
    total: bool = False
    best: Sequence[int] = ()


@dataclass(frozen=True)
class Table:
    """A table of the page: its header, its rows, and a sentence below it."""

    header: Sequence[str]
    rows: Sequence[Row]
    note: str = ""


#: Columns of a terminal that lines are kept to.
WIDTH = 110


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns padded to their widest cell: the first ``left`` to the left, the others to the right.

    Names may come from files and folders: what would move a terminal's cursor is written out.

    Example:
        >>> print(text_table(["name", "error"], [["a", "1.0"], ["bcdef", "10.0"]]))
        name   error
        -----  -----
        a        1.0
        bcdef   10.0
    """
    header, rows = [printable(cell) for cell in header], [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])


def fitted_tables(header: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """A table, or where it is wider than ``width`` several with some of its columns, each with the first one.

    Example:
        >>> print(fitted_tables(["name", "one", "two"], [["a", "1", "2"]], width=10))
        name  one
        ----  ---
        a       1
        <BLANKLINE>
        name  two
        ----  ---
        a       2
    """
    header, rows = [cut(header[0]), *header[1:]], [[cut(row[0]), *row[1:]] for row in rows]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    groups: list[list[int]] = [[]]
    for column in range(1, len(header)):
        if groups[-1] and sum(widths[each] + 2 for each in (*groups[-1], column)) + widths[0] > width:
            groups.append([])
        groups[-1].append(column)
    return "\n\n".join(text_table(_chosen(header, group), [_chosen(row, group) for row in rows]) for group in groups)


def wrapped(text: str, width: int = WIDTH) -> str:
    """A sentence in lines of the terminal."""
    text = printable(" ".join(text.split("\n")))
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def cut(text: str, length: int = 36) -> str:
    """A long name without its middle, and without control characters.

    Example:
        >>> cut("a-rather-long-name", 10)
        'a-rat…name'
    """
    text = printable(text)
    return text if len(text) <= length else text[: length // 2] + "…" + text[-(length - length // 2 - 1) :]


def _chosen(row: Sequence[str], columns: Sequence[int]) -> list[str]:
    return [row[0], *(row[column] for column in columns)]
