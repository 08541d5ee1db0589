"""Values of one column: of Parquet and Arrow files, and of Hugging Face data sets."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sparsing.actors.data.sources.files import Files
from sparsing.actors.data.sources.piece import Piece
from sparsing.actors.data.sources.wording import describe, no_field
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError

BATCH_ROWS = 256
BUFFER_BYTES = 2**20
"""Of a column that is read at once: a row group may be larger than memory."""


def passes(source: Source, value: Any) -> bool:
    """Whether a row whose filter column holds this value is taken."""
    rule = source.filter
    if rule is None:
        return True
    if rule.values is not None and value not in rule.values:
        return False
    if rule.minimum is None and rule.maximum is None:
        return True
    if not isinstance(value, int | float):
        return False
    return (rule.minimum is None or value >= rule.minimum) and (
        rule.maximum is None or value <= rule.maximum
    )


def open_parquet(files: Files, number: int) -> pq.ParquetFile:
    """A file of a source; ArrowException or OSError where it is none."""
    file = files.open(files.files[number])
    return pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)


def _parquet(source: Source, files: Files, piece: Piece) -> Iterator[Any]:
    file = open_parquet(files, piece.file)
    try:
        names = [top for top, _ in _wanted(source, file.schema_arrow, files, piece)]
        groups = list(range(file.num_row_groups))[piece.start : piece.end]
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=sorted(set(names))):
            yield from _values(source, batch)
    finally:
        file.close(force=True)


def open_arrow(file: Any) -> Any:
    """A reader of an IPC file, or of a stream, which Hugging Face writes."""
    try:
        return pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_stream(file)


def batches(reader: Any, start: int = 0, end: int | None = None) -> Iterator[pa.RecordBatch]:
    """Record batches of a reader of `open_arrow`; a range only of files."""
    if not isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from reader
        return
    for number in range(reader.num_record_batches)[start:end]:
        yield reader.get_batch(number)


def _arrow(source: Source, files: Files, piece: Piece) -> Iterator[Any]:
    with files.open(files.files[piece.file]) as file:
        reader = open_arrow(file)
        _wanted(source, reader.schema, files, piece)
        for batch in batches(reader, piece.start, piece.end):
            yield from _values(source, batch)


def _huggingface(source: Source, files: Files, piece: Piece) -> Iterator[Any]:
    rows = dataset(source)
    top = source.field if source.field in rows.column_names else source.field.split(".")[0]
    wanted = {top}
    if source.filter:
        named = source.filter.field
        wanted.add(named if named in rows.column_names else named.split(".")[0])
    if missing := wanted - set(rows.column_names):
        raise (
            no_field(source, str(source.name), rows.column_names)
            if top in missing
            else (
                DefinitionError(
                    f"{describe(source)}: no column {sorted(missing)[0]!r} to filter by, only "
                    f"{rows.column_names}"
                )
            )
        )
    end = len(rows) if piece.end is None else piece.end
    for row in rows.select(range(piece.start, end)).select_columns(sorted(wanted)):
        if source.filter is None or passes(source, _inside(row, source.filter.field)):
            yield _inside(row, source.field)


def _inside(row: dict[str, Any], path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


@functools.cache
def dataset(source: Source) -> Any:
    """The Hugging Face data set of `source`, which its library downloads once and caches."""
    try:
        import datasets
    except ImportError as error:
        message = f"{describe(source)} needs the package 'datasets'; pip install datasets"
        raise DefinitionError(message) from error
    try:
        return datasets.load_dataset(source.name, source.config, split=source.split)
    except Exception as error:  # the library's errors have no common root
        version = importlib.metadata.version("datasets")
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DefinitionError(
            f"{describe(source)}: datasets {version} cannot load it ({first_line}); "
            "check name, config, split and the network"
        ) from error


def _wanted(
    source: Source, schema: pa.Schema, files: Files, piece: Piece
) -> list[tuple[str, list[str]]]:
    """Columns to read, and the way inside each: of the text, then of the filter."""
    where = files.place(files.files[piece.file])
    found = [_way(schema, source.field)]
    if found[0] is None:
        raise no_field(source, where, schema.names)
    if source.filter is not None:
        found.append(_way(schema, source.filter.field))
        if found[1] is None:
            raise DefinitionError(
                f"{describe(source)}: {where}: no column '{source.filter.field}' to filter by, "
                f"only {schema.names}"
            )
    return [way for way in found if way is not None]


def _way(schema: pa.Schema, path: str) -> tuple[str, list[str]] | None:
    """The column that a path leads into, and the fields inside it."""
    if path in schema.names:
        return path, []
    top, *inside = path.split(".")
    if top not in schema.names:
        return None
    dtype = schema.field(top).type
    for name in inside:
        if not pa.types.is_struct(dtype) or dtype.get_field_index(name) < 0:
            return None
        dtype = dtype.field(name).type
    return top, inside


def _values(source: Source, batch: pa.RecordBatch) -> Iterator[Any]:
    texts = _column(batch, source.field)
    if source.filter is None:
        yield from texts.to_pylist()
        return
    judged = _column(batch, source.filter.field).to_pylist()
    for text, value in zip(texts.to_pylist(), judged, strict=True):
        if passes(source, value):
            yield text


def _column(batch: pa.RecordBatch, path: str) -> Any:
    way = _way(batch.schema, path)
    assert way is not None
    column = batch.column(way[0])
    return pc.struct_field(column, way[1]) if way[1] else column


READERS: dict[str, Callable[[Source, Files, Piece], Iterator[Any]]] = {
    "parquet": _parquet,
    "arrow": _arrow,
    "huggingface": _huggingface,
}
