"""A table of text: for a terminal of any width, for a pipe, and as HTML for a notebook.

Numbers are never cut. Where a terminal is too narrow, columns of prose are wrapped; if that is not
enough, whole columns are left out, and a line below says which.
"""

from __future__ import annotations

import html
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

GAP = "  "
NARROWEST_PROSE = 16
"""Columns of prose are wrapped to no less than this many characters."""
COLOURS = {
    **{"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36},
    **{"bold": 1, "dim": 2},
}


@dataclass(frozen=True)
class Column:
    """A column: its heading, and how its cells stand."""

    heading: str
    right: bool = False
    """Aligned at the right, as numbers are."""
    prose: bool = False
    """May be broken between words."""


@dataclass(frozen=True)
class Cell:
    """A cell with a colour of COLOURS, which a terminal shows."""

    text: str
    colour: str | None = None


@dataclass
class Table:
    """Rows under columns, with a title above and notes below; `str` gives the text for a pipe."""

    columns: Sequence[Column]
    title: str | None = None
    notes: list[str] = field(default_factory=list)
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: str | Cell) -> None:
        """Add a row."""
        assert len(cells) == len(self.columns)
        row = (each if isinstance(each, Cell) else Cell(each) for each in cells)
        self.rows.append(tuple(Cell(_one_line(each.text), each.colour) for each in row))

    def text(self, width: int | None = None, *, colour: bool = False) -> str:
        """The table as lines.

        Args:
            width: characters of a line; None = as wide as the cells.
            colour: with the terminal's codes for colours.
        """
        widths = [self._natural(at) for at in range(len(self.columns))]
        shown = list(range(len(self.columns)))
        if width is not None:
            self._wrap(widths, width)
            while len(shown) > 1 and _total([widths[at] for at in shown]) > width:
                shown.pop()
        lines = [self.title] if self.title else []
        headings = [Cell(each.heading, "bold") for each in self.columns]
        if any(each.text for each in headings):
            lines += self._lines(headings, shown, widths, colour)
        for row in self.rows:
            lines += self._lines(row, shown, widths, colour)
        hidden = [each.heading for each in self.columns[len(shown) :]]
        if hidden:
            lines.append(f"no room for the columns {', '.join(hidden)} in {width} characters")
        return "\n".join([*lines, *self.notes])

    def html(self) -> str:
        """The table as an HTML element; all texts are escaped."""
        headings = "".join(f"<th>{html.escape(each.heading)}</th>" for each in self.columns)
        rows = "".join(f"<tr>{self._html_cells(row)}</tr>" for row in self.rows)
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        head = f"<thead><tr>{headings}</tr></thead>"
        return f"<table>{caption}{head}<tbody>{rows}</tbody></table>{notes}"

    def __str__(self) -> str:
        return self.text()

    def _natural(self, at: int) -> int:
        cells = (_width(row[at].text) for row in self.rows)
        return max([_width(self.columns[at].heading), *cells])

    def _wrap(self, widths: list[int], width: int) -> None:
        """Narrow the columns of prose until the table fits, or they are at their narrowest."""
        prose = [at for at, each in enumerate(self.columns) if each.prose]
        while (over := _total(widths) - width) > 0:
            wide = [at for at in prose if widths[at] > NARROWEST_PROSE]
            if not wide:
                return
            widest = max(wide, key=lambda at: widths[at])
            widths[widest] = max(NARROWEST_PROSE, widths[widest] - over)

    def _lines(
        self, row: Sequence[Cell], shown: list[int], widths: list[int], colour: bool
    ) -> Iterable[str]:
        parts = {at: self._parts(row[at].text, at, widths[at]) for at in shown}
        for line in range(max(len(each) for each in parts.values())):
            cells = []
            for at in shown:
                text = parts[at][line] if line < len(parts[at]) else ""
                pad = " " * (widths[at] - _width(text))
                code = COLOURS.get(row[at].colour or "") if colour and text else None
                text = f"\x1b[{code}m{text}\x1b[0m" if code is not None else text
                cells.append(pad + text if self.columns[at].right else text + pad)
            yield GAP.join(cells).rstrip()

    def _parts(self, text: str, at: int, width: int) -> list[str]:
        if self.columns[at].prose and _width(text) > width:
            return textwrap.wrap(text, width) or [""]
        return [text]

    def _html_cells(self, row: Sequence[Cell]) -> str:
        styles = (' style="text-align: right"' if each.right else "" for each in self.columns)
        cells = zip(styles, row, strict=True)
        return "".join(f"<td{style}>{html.escape(cell.text)}</td>" for style, cell in cells)


def table(headings: Iterable[str], *, right: Iterable[str] = (), title: str | None = None) -> Table:
    """An empty table; `right` names the columns of numbers."""
    numbers = set(right)
    return Table([Column(each, right=each in numbers) for each in headings], title=title)


def show(shown: Table, file: TextIO | None = None) -> None:
    """Print a table: as wide as the terminal and in colours, or whole into a pipe or file."""
    file = file or sys.stdout
    if file is None:  # closed
        return
    terminal = file.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    print(shown.text(width, colour=terminal and "NO_COLOR" not in os.environ), file=file)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _one_line(text: str) -> str:
    """The text without line breaks and control characters, which would break the table."""
    return "".join(each if each.isprintable() else " " for each in text)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) > 0 for each in text)
