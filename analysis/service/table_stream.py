"""A table of the store as an Arrow IPC stream, batch by batch."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow as pa

from sparsing.study.definition.messages import did_you_mean
from sparsing.study.errors import DefinitionError, NotFoundError
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES

ROWS_PER_BATCH, LONG_ROWS_PER_BATCH = 32768, 256
"""Rows in memory at a time; fewer where a column holds lists, which may be long."""


def stream_table(
    store: StudyStore,
    table: str,
    *,
    run: str | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
) -> Iterator[bytes]:
    """The rows of a table, or of one run, in the table's declared schema and the store's order.

    A few batches are in memory at a time, however large the table is. Raises NotFoundError for a
    table or a column that is not there, before anything is read.
    """
    schema = _schema(table, columns)
    rows = store.scan(table, run).select(schema.names)
    return _stream(rows if limit is None else rows.head(limit), schema)


def _schema(table: str, columns: Sequence[str] | None) -> pa.Schema:
    if table not in TABLES:
        raise NotFoundError(f"no table '{table}'; tables: {', '.join(TABLES)}")
    schema = TABLES[table].schema
    if columns is None:
        return schema
    for name in columns:
        if name not in schema.names:
            near = did_you_mean(name, schema.names)
            raise DefinitionError(
                f"table {table} has no column '{name}'{near}; columns: {', '.join(schema.names)}"
            )
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise DefinitionError(f"column '{twice[0]}' is asked for twice: name each column once")
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)


def _stream(rows: pl.LazyFrame, schema: pa.Schema) -> Iterator[bytes]:
    long = any(pa.types.is_list(field.type) for field in schema)
    size = LONG_ROWS_PER_BATCH if long else ROWS_PER_BATCH
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for frame in rows.collect_batches(chunk_size=size, lazy=True):
            plain = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer.write_table(plain.cast(schema))
            yield _taken(sink)
    yield _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    content = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return content
