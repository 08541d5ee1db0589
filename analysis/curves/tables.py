"""Tables from files of any kind: CSV and its like, JSON, Parquet, Arrow; all bounded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sparsing.analysis.curves.errors import CurveFileError
from sparsing.analysis.curves.text import MOST_CELLS, TextTable, decode, read_text
from sparsing.study.errors import NotFoundError
from sparsing.study.guarded_json import JsonProblem, read_json
from sparsing.study.units import bytes_text

MOST_BYTES = 256_000_000
MOST_JSON_BYTES = 64_000_000
"""JSON takes ten times its size while it is read."""
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
SUFFIXES = ".csv, .tsv, .txt, .dat, .json, .jsonl, .ndjson, .parquet, .arrow, .feather, .ipc"


def read_table(path: str) -> TextTable:
    """The columns in a file. Raises NotFoundError, and CurveFileError where it holds no table."""
    file = Path(path)
    if not file.is_file():
        raise NotFoundError(f"no file {path}")
    suffix = file.suffix.lower()
    most = MOST_JSON_BYTES if suffix in JSON_SUFFIXES else MOST_BYTES
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    except OSError as error:
        raise CurveFileError(path, "unreadable", f"cannot be read: {error.strerror}") from error
    if len(data) > most:
        size = bytes_text(file.stat().st_size)
        words = f"it has {size}; curves are read up to {bytes_text(most)}; leave out columns"
        raise CurveFileError(path, "too large", words)
    if suffix not in _KINDS:
        raise CurveFileError(path, "suffix", f"curves are read from files ending in {SUFFIXES}")
    try:
        table = _KINDS[suffix](path, data)
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        words = f"it cannot be read as a {suffix} curve: {first[:300]}"
        raise CurveFileError(path, "malformed", words) from error
    if table.frame.width * table.frame.height > MOST_CELLS:
        words = f"it has over {MOST_CELLS:,} cells; leave out columns"
        raise CurveFileError(path, "too large", words, table.frame.columns)
    return table


def _text(path: str, data: bytes) -> TextTable:
    return read_text(path, decode(path, data))


def _json(path: str, data: bytes) -> TextTable:
    text = decode(path, data)
    try:
        return TextTable(_from_json(read_json(text, most_bytes=MOST_JSON_BYTES)))
    except JsonProblem:
        if len(lines := text.strip().split("\n")) > 1 and lines[0].strip().endswith("}"):
            return _json_lines(path, data)
        raise


def _json_lines(path: str, data: bytes) -> TextTable:
    """One object a line; a key that comes late is a column like any other."""
    rows = []
    for number, line in enumerate(decode(path, data).split("\n"), start=1):
        if not line.strip():
            continue
        row = read_json(line, f"line {number}", most_bytes=MOST_JSON_BYTES)
        if not isinstance(row, dict):
            raise CurveFileError(path, "malformed", f"line {number} holds no object {{...}}")
        rows.append(row)
    return TextTable(_from_records(rows))


def _from_json(data: Any) -> pl.DataFrame:
    """A frame from what people write: lists by column, a list of rows, pandas' ways."""
    if isinstance(data, list) and data:
        if all(isinstance(row, dict) for row in data):
            return _from_records(data)
        if all(isinstance(row, list) and len(row) == len(data[0]) for row in data):
            names = [f"column {i + 1}" for i in range(len(data[0]))]
            return _from_records([dict(zip(names, row, strict=True)) for row in data])
    if not isinstance(data, dict):
        raise ValueError("expected an object of lists, or a list of objects")
    if isinstance(data.get("data"), list):  # pandas: orient="split" and orient="table"
        head, rows = data.get("columns"), data["data"]
        if isinstance(head, list) and all(isinstance(row, list) for row in rows):
            return _from_records([dict(zip(map(str, head), row, strict=True)) for row in rows])
        if "schema" in data:
            return _from_json(rows)
    columns = {name: column for name, column in data.items() if isinstance(column, list)}
    mappings = [column for column in data.values() if isinstance(column, dict)]
    if not columns and mappings and len(mappings) == len(data):
        return _from_mappings(data)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    return _columns(columns)


def _from_mappings(data: dict[str, dict[str, Any]]) -> pl.DataFrame:
    """pandas' `to_json()`: {column: {row: value}}, or {row: {column: value}} as `index` has it."""
    inner = list(data.values())
    if all(list(each) == list(inner[0]) for each in inner) and not any(
        key.isdigit() for key in inner[0]
    ):
        return _from_records(inner)
    rows = list(dict.fromkeys(key for column in inner for key in column))
    return _columns({name: [column.get(row) for row in rows] for name, column in data.items()})


def _from_records(rows: list[dict[str, Any]]) -> pl.DataFrame:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) * len(rows) > MOST_CELLS:
        raise ValueError(f"it has over {MOST_CELLS:,} cells; leave out columns")
    return _columns({name: [row.get(name) for row in rows] for name in names})


def _columns(columns: dict[str, list[Any]]) -> pl.DataFrame:
    return pl.DataFrame([_column(name, values) for name, values in columns.items()])


def _column(name: str, values: list[Any]) -> pl.Series:
    """Numbers where all are, else text as written."""
    if all(value is None or _is_number(value) for value in values):
        return pl.Series(name, [_float(value) for value in values], dtype=pl.Float64)
    return pl.Series(name, [_as_text(value) for value in values], dtype=pl.String)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: Any) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return repr(value) if _is_number(value) else json.dumps(value)[:200]


def _parquet(path: str, data: bytes) -> TextTable:
    file = pq.ParquetFile(pa.BufferReader(data))
    plain = [field.name for field in file.schema_arrow if _plain_type(field.type)]
    if file.metadata.num_rows * len(plain) > MOST_CELLS:
        rows = file.metadata.num_rows
        words = f"it has {rows:,} rows and {len(plain)} columns, over {MOST_CELLS:,} cells"
        raise CurveFileError(path, "too large", f"{words}; leave out columns", plain)
    return TextTable(_from_arrow(file.read(plain)))


def _arrow(path: str, data: bytes) -> TextTable:
    buffer = pa.BufferReader(data)
    try:
        table = pa.ipc.open_file(buffer).read_all()
    except pa.ArrowInvalid:
        buffer.seek(0)
        table = pa.ipc.open_stream(buffer).read_all()
    return TextTable(
        _from_arrow(table.select([f.name for f in table.schema if _plain_type(f.type)]))
    )


def _plain_type(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_decimal,
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_boolean,
            pa.types.is_temporal,
        )
    )


def _from_arrow(table: pa.Table) -> pl.DataFrame:
    """Numbers as they are, all else as text."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    return frame.with_columns(
        pl.col(numbers).cast(pl.Float64), pl.exclude(numbers).cast(pl.String, strict=False)
    )


_KINDS: dict[str, Callable[[str, bytes], TextTable]] = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".dat"), _text),
    ".json": _json,
    **dict.fromkeys((".jsonl", ".ndjson"), _json_lines),
    ".parquet": _parquet,
    **dict.fromkeys((".arrow", ".feather", ".ipc"), _arrow),
}
