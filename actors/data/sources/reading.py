"""The documents of a source, or of a piece of it.

A document is a string of clean UTF-8 text. The order of documents is the same at every call: files
are in the order of `files_of`, rows keep their order in the file. Pieces (see `pieces`) give, one
after the other, what the whole source gives.
"""

from __future__ import annotations

import json
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sparsing.actors.data.sources import columns
from sparsing.actors.data.sources.files import Files, SourceFile, files_of
from sparsing.actors.data.sources.lines import LineTooLongError, lines
from sparsing.actors.data.sources.piece import Piece
from sparsing.actors.data.sources.pieces import TEXT_PIECE_BYTES, whole_pieces
from sparsing.actors.data.sources.token_files import TokenIds, as_text, token_documents
from sparsing.actors.data.sources.wording import describe, no_field, unreadable
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError, SparsingError

NAMED_BROKEN = 10
"""Broken lines and files of a part that are named; more are only counted."""


@dataclass
class Tally:
    """What was read of a source, and what could not be."""

    rows: int = 0
    broken_rows: int = 0
    broken_files: int = 0
    broken: list[str] = field(default_factory=list)
    """What is wrong with the first ones."""
    reached: bool = False
    """Was there as much text as was to be read at most?"""

    def add(self, other: Tally) -> None:
        """Count what another part has counted."""
        self.rows += other.rows
        self.broken_rows += other.broken_rows
        self.broken_files += other.broken_files
        self.broken = (self.broken + other.broken)[:NAMED_BROKEN]

    def leave_out(self, error: DefinitionError, *, file: bool = False) -> None:
        """Count a row or file that cannot be read."""
        self.broken_files += file
        self.broken_rows += not file
        if len(self.broken) < NAMED_BROKEN:
            self.broken.append(str(error))

    def check(self, source: Source, files: int) -> None:
        """DefinitionError where more is broken than the source allows."""
        allowed = source.max_broken_share
        rows = self.broken_rows > allowed * (self.rows + self.broken_rows)
        if rows or self.broken_files > allowed * files:
            total = self.rows + self.broken_rows
            raise DefinitionError(
                f"{describe(source)}: {self.broken_rows} of {total} rows and {self.broken_files} "
                f"of {files} files cannot be read, more than max_broken_share = {allowed:g} "
                "allows; mend them, or allow more. The first:\n" + "\n".join(self.broken)
            )


def documents(source: Source) -> Iterator[str]:
    """The documents of `source`, none of them empty, in an order that never changes.

    Raises DefinitionError, naming source and path, for what is missing, unreadable, empty, or
    has no such column.
    """
    files, tally, found = files_of(source), Tally(), False
    for piece in whole_pieces(source, files):
        for text in piece_documents(source, files, piece, tally):
            found = True
            yield text
    tally.check(source, max(1, len(files.files)))
    if not found:
        raise empty(source)


def empty(source: Source) -> DefinitionError:
    """A source has no text."""
    return DefinitionError(f"{describe(source)} holds no text; give a source that does")


def piece_documents(
    source: Source, files: Files, piece: Piece, tally: Tally, ids: TokenIds | None = None
) -> Iterator[str]:
    """The documents of a piece, none of them empty.

    `ids` are needed where the source holds tokens, whose documents come as `token_files.as_text`.

    What cannot be read is counted in `tally` where the source allows that, else raised as
    DefinitionError.
    """
    try:
        if ids is not None and source.kind == "tokens":
            for tokens in token_documents(source, files, piece, ids):
                tally.rows += 1
                if len(tokens):
                    yield as_text(tokens)
            return
        for text in _READERS[source.kind](source, files, piece, tally):
            tally.rows += 1
            if text := clean(text):
                yield text
    except DefinitionError as error:
        if not source.max_broken_share:
            raise
        tally.leave_out(error, file=True)


def clean(text: str) -> str:
    """Lines end in one newline, lone surrogates (not encodable as UTF-8) become `?`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n\ufeff")
    return text.encode("utf-8", "replace").decode("utf-8")


def _read_python(source: Source, files: Files, piece: Piece, tally: Tally) -> Iterator[str]:
    path = files.place(files.files[piece.file])
    try:
        with tokenize.open(str(path)) as file:
            yield file.read()
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise unreadable(source, path, error, "mend the Python installation") from error


def _read_text(source: Source, files: Files, piece: Piece, tally: Tally) -> Iterator[str]:
    found = files.files[piece.file]
    path = files.place(found)
    try:
        with files.open(found) as file:
            if piece.is_whole:
                yield file.read().decode("utf-8")
            else:
                yield from _texts_of_range(file, found, piece)
    except UnicodeDecodeError as error:
        remedy = "convert it to UTF-8, or keep only text files in the folder"
        raise unreadable(source, path, error, remedy) from error
    except (OSError, LineTooLongError) as error:
        raise unreadable(source, path, error, "make it readable") from error


def _texts_of_range(file: Any, found: SourceFile, piece: Piece) -> Iterator[str]:
    """A long text as documents of about TEXT_PIECE_BYTES, cut at ends of lines."""
    texts: list[bytes] = []
    size = 0
    for _, line in lines(file, found.name, piece.start, piece.end):
        texts.append(line)
        size += len(line) + 1
        if size >= TEXT_PIECE_BYTES:
            yield b"\n".join(texts).decode("utf-8") + "\n"
            texts, size = [], 0
    if texts:
        yield b"\n".join(texts).decode("utf-8")


def _read_jsonl(source: Source, files: Files, piece: Piece, tally: Tally) -> Iterator[str]:
    found = files.files[piece.file]
    path = files.place(found)
    number = 0

    def where(offset: int) -> str:
        return f"{path}, byte {offset}" if piece.start else f"{path}:{number}"

    try:
        with files.open(found) as file:
            for offset, line in lines(file, found.name, piece.start, piece.end):
                number += 1
                if line.isspace() or not line:
                    continue
                try:
                    text = _json_text(source, where(offset), line)
                except DefinitionError as error:
                    if not source.max_broken_share:
                        raise
                    tally.leave_out(error)
                    continue
                if text is not None:
                    yield text
    except LineTooLongError as error:
        number += 1
        remedy = "split it into documents, or leave it out"
        raise unreadable(source, where(error.offset), error, remedy) from error
    except (UnicodeError, OSError, EOFError) as error:
        raise unreadable(source, path, error, "make it a readable UTF-8 file") from error


def _json_text(source: Source, where: str, line: bytes) -> str | None:
    """The text of a line; None where the filter leaves it out."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise unreadable(source, where, error, "make it a readable UTF-8 file") from error
    except (ValueError, RecursionError) as error:
        raise unreadable(source, where, error, "one JSON object a line") from error
    if not isinstance(row, dict):
        raise no_field(source, where, type(row).__name__)
    if source.filter is not None and not columns.passes(source, value_at(row, source.filter.field)):
        return None
    value = value_at(row, source.field, _MISSING)
    if value is _MISSING:
        raise no_field(source, where, sorted(row))
    return text_of(source, where, value)


_MISSING = object()


def value_at(row: dict[str, Any], path: str, default: Any = None) -> Any:
    """The value of a key, or of a way to a key inside others."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return default
        value = value[key]
    return value


def text_of(source: Source, where: object, value: object) -> str:
    """`value` if it is text, "" if it is null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DefinitionError(
            f"{describe(source)}: {where}: '{source.field}' holds {type(value).__name__}, not "
            "text; give the 'field' that holds the text"
        )
    return value


def _read_columns(source: Source, files: Files, piece: Piece, tally: Tally) -> Iterator[str]:
    """Rows of Parquet, Arrow or a Hugging Face data set."""
    where = files.place(files.files[piece.file]) if files.files else str(source.name)
    try:
        for value in columns.READERS[source.kind](source, files, piece):
            try:
                yield text_of(source, where, value)
            except DefinitionError as error:
                if not source.max_broken_share:
                    raise
                tally.leave_out(error)
    except (pa.ArrowException, OSError) as error:
        remedy = f"give a complete {source.kind.capitalize()} file"
        raise unreadable(source, where, error, remedy) from error


Reader = Callable[[Source, Files, Piece, Tally], Iterator[str]]


def _no_text(source: Source, files: Files, piece: Piece, tally: Tally) -> Iterator[str]:
    raise SparsingError(f"{describe(source)} holds tokens, not text")


_READERS: dict[str, Reader] = {
    "python-stdlib": _read_python,
    "text": _read_text,
    "jsonl": _read_jsonl,
    "fetched": _read_jsonl,
    "parquet": _read_columns,
    "arrow": _read_columns,
    "huggingface": _read_columns,
    "tokens": _no_text,
}
