"""Tables written as text: encoding, separator, header and rows, found from the text itself.

The separator is the one with which most rows have the same number of cells and most cells are
numbers. `csv` takes the rows apart; docs/decisions.md says how this compares with its Sniffer and
with clevercsv.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import polars as pl

from sparsing.analysis.curves.cells import is_missing, is_number
from sparsing.analysis.curves.errors import CurveFileError
from sparsing.analysis.curves.names import ColumnName

SEPARATORS = ("\t", ";", "|", ",", " ")
SEPARATOR_NAMES = {"\t": "tabs", ";": "';'", "|": "'|'", ",": "','", " ": "blanks"}
SAMPLE_LINES = 200
LONGEST_CELL = 100_000
MOST_CELLS = 10_000_000
"""Rows times columns that are read of a file."""
BLOCK_ROWS = 50_000
BLANKS = re.compile(r'("[^"]*")|[ \t]+')
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class TextTable:
    """Columns of text under unique names, and what was noticed while reading."""

    frame: pl.DataFrame
    notes: tuple[str, ...] = ()
    first_line: int = 1
    """Line of the file in which the first row stands."""


Collected = tuple[pl.DataFrame, int]


def decode(path: str, data: bytes) -> str:
    """The text of a file: by its byte-order mark, else UTF-8, UTF-16 or Windows-1252."""
    encoding = next((name for bom, name in BOMS if data.startswith(bom)), None)
    if encoding is None:
        encoding = _without_bom(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        _refuse(
            path, "encoding", f"this is no {encoding} text ({error.reason} at byte {error.start})"
        )
    if "\0" in text:
        _refuse(path, "encoding", "this is no text: it holds zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _without_bom(data: bytes) -> str:
    head = data[:4096]
    if head[1::2].count(0) > len(head) // 3:
        return "utf-16-le"
    if head[0::2].count(0) > len(head) // 3:
        return "utf-16-be"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def read_text(path: str, text: str) -> TextTable:
    """The table in a text. Raises CurveFileError where there is none."""
    body, line, separator, heading = _opening(text)
    if not body.strip():
        _refuse(path, "empty", "the file is empty")
    lines = (line for line in io.StringIO(body) if line.strip())
    sample = [line.rstrip("\n") for line in islice(lines, SAMPLE_LINES)]
    separator = separator or find_separator(sample)
    begin = [row for _, row in islice(_rows(path, body, separator), SAMPLE_LINES)]
    if not begin:
        _refuse(path, "empty", "no line of it holds anything")
    first = begin[0]
    header = _header(begin)
    if header is None and heading is not None:
        named = next(csv.reader(_ready([heading], separator), **_dialect(separator)))
        known = any(ColumnName(name.strip()).kind for name in named)
        header = named if known and len(named) == len(first) else None
    names = _unique(header or [f"column {i + 1}" for i in range(len(first))])
    rows = _rows(path, body, separator)
    if header is first:
        next(rows)
    collector = _Body(path, names, separator, line)
    frame, repeated = collector.collect(rows, first if header is first else None)
    notes = [f"{repeated} repeated header lines left out"] if repeated else []
    return TextTable(frame, tuple(notes), line + (header is first))


def _opening(text: str) -> tuple[str, int, str | None, str | None]:
    """The text after comments, its line, the separator that `sep=` names, the last comment."""
    separator = heading = None
    start = line = 0
    for first in io.StringIO(text):
        words = first.strip("\ufeff \n")
        if said := re.fullmatch(r'"?sep=(.?)"?', words, re.IGNORECASE):
            separator = said[1] or "\t"
        elif words.startswith("#"):
            heading = words.lstrip("# ")
        elif words:
            break
        start, line = start + len(first), line + 1
    return text[start:], line + 1, separator, heading


def find_separator(lines: list[str]) -> str:
    """The separator that makes most of the lines rows of equal width with numbers in them."""
    scores = {separator: _score(lines, separator) for separator in SEPARATORS}
    best = max(SEPARATORS, key=lambda separator: scores[separator])
    return best if scores[best] > 0 else ","


def _score(lines: list[str], separator: str) -> float:
    try:
        rows = list(csv.reader(_ready(lines, separator), **_dialect(separator)))
    except csv.Error:
        return 0.0
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    if width < 2:
        return 0.0
    regular = [row for row in rows if len(row) == width]
    body = regular[1:] or regular
    cells = [_clean(cell) for row in body for cell in row]
    return len(regular) / len(rows) * sum(cells) / len(cells)


def _clean(cell: str) -> float:
    """1 for a number or nothing, half for text, 0 for what another separator would divide."""
    if is_missing(cell):
        return 0.9
    if is_number(cell):
        return 0.5 if re.match(r"0\d", cell) else 1.0
    return 0.0 if re.search(r"[;|\t]|\d,\d", cell) else 0.5


def _dialect(separator: str) -> dict[str, Any]:
    """Options of `csv.reader`; blanks have become tabs."""
    delimiter = "\t" if separator == " " else separator
    return {"delimiter": delimiter, "skipinitialspace": True, "strict": True}


def _ready(lines: Iterable[str], separator: str) -> Iterator[str]:
    """Lines for `csv.reader`; runs of blanks outside quotes are tabs where blanks separate."""
    if separator != " ":
        yield from lines
        return
    for line in lines:
        yield BLANKS.sub(lambda found: found[1] or "\t", line.strip())


def _rows(path: str, body: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number (from 0) and cells of each row that has any."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(_ready(io.StringIO(body), separator), **_dialect(separator))
    while True:
        start = reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _refuse(path, "malformed", f"line {start + 1} cannot be read: {error}")
        if any(map(str.strip, row)) and not row[0].startswith("#"):
            yield start, row


def _header(rows: list[list[str]]) -> list[str] | None:
    """The names in the first row; None where it holds numbers, as the rows below it."""
    first = rows[0]
    body = [row for row in rows[1:] if len(row) == len(first)]
    votes: Counter[str] = Counter()
    for place, cell in enumerate(first):
        below = [row[place] for row in body if not is_missing(row[place])]
        if below and all(is_number(each) for each in below[:20]) and not is_missing(cell):
            votes["data" if is_number(cell) else "header"] += 1
    return None if votes["data"] and not votes["header"] else first


def _unique(names: list[str]) -> list[str]:
    """Names without blanks at their ends; a name that comes again gets a number."""
    seen: Counter[str] = Counter()
    unique = []
    for place, name in enumerate(names):
        name = name.strip().strip("'") or f"column {place + 1}"
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


@dataclass(frozen=True)
class _Body:
    """The rows of a text under their names, as columns of text."""

    path: str
    names: list[str]
    separator: str
    line: int
    """Of the file, in which the first row stands."""

    def collect(self, rows: Iterator[tuple[int, list[str]]], header: list[str] | None) -> Collected:
        """All rows in blocks, and how many of them say the header again."""
        empty = pl.DataFrame(schema=dict.fromkeys(self.names, pl.String))
        blocks, repeated, count = [empty], 0, 0
        while block := list(islice(rows, BLOCK_ROWS)):
            kept = [self._fitted(start, row) for start, row in block if row != header]
            repeated += len(block) - len(kept)
            count += len(kept)
            if count * len(self.names) > MOST_CELLS:
                words = f"it has over {MOST_CELLS:,} cells; leave out columns"
                _refuse(self.path, "too large", words, self.names)
            if kept:
                columns = list(map(list, zip(*kept, strict=True)))
                blocks.append(pl.DataFrame(columns, schema=empty.schema))
        return pl.concat(blocks), repeated

    def _fitted(self, start: int, row: list[str]) -> list[str]:
        """As many cells as there are names: cells that lack at the end are missing values."""
        lack = len(self.names) - len(row)
        if lack < 0 and any(cell.strip() for cell in row[lack:]):
            words = "a number with commas between commas needs quotes"
            self._refuse_row(start, row, words)
        if lack > 0 and self.separator == " ":
            self._refuse_row(start, row, "between blanks a missing value is written NA")
        return row[: len(self.names)] + [""] * lack

    def _refuse_row(self, start: int, row: list[str], words: str) -> NoReturn:
        where = f"line {self.line + start} has {len(row)} cells, the first row {len(self.names)}"
        _refuse(self.path, "ragged", f"{where}; {words}", self.names)


def _refuse(path: str, code: str, words: str, columns: list[str] | None = None) -> NoReturn:
    raise CurveFileError(path, code, words, columns or ())
