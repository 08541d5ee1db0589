"""Rows as Python dictionaries become Arrow, checked against their table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from sparsing.study.definition.messages import did_you_mean
from sparsing.study.errors import DefinitionError
from sparsing.study.store.tables import TIME, Table

FILLED = frozenset({"run", "attempt", "code_version", "written_at"})
"""Columns that the writer fills."""
PLAIN = frozenset({int, type(None)})


class RowEncoder:
    """Encodes the rows of one table, with the same provenance in each."""

    def __init__(self, table: Table, filled: Mapping[str, Any]) -> None:
        self._table = table
        self._columns = frozenset(table.schema.names) - FILLED
        self._required = self._columns - table.optional
        self._given = [field for field in table.schema if field.name in self._columns]
        self._constant = {
            name: pa.scalar(value, table.schema.field(name).type) for name, value in filled.items()
        }

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """The rows as a batch in the table's schema, stamped with the time.

        A column that a row lacks is null, which only the table's optional columns may be. Raises
        DefinitionError for an unknown column, a missing one, or a value of another type.
        """
        for row in rows:
            if not self._columns.issuperset(row):
                unknown = next(iter(set(row) - self._columns))
                raise DefinitionError(self._unknown(unknown), code="unknown_column", column=unknown)
        columns = {field.name: self._column(field, rows) for field in self._given}
        for name, value in (self._constant | {"written_at": _now()}).items():
            columns[name] = pa.repeat(value, len(rows))
        arrays = [columns[name] for name in self._table.schema.names]
        return pa.RecordBatch.from_arrays(arrays, schema=self._table.schema)

    def batch(self, batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
        """Encoded rows as one record batch."""
        return batches[0] if len(batches) == 1 else pa.concat_batches(batches)

    def _column(self, field: pa.Field, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
        name = field.name
        values = [row.get(name) for row in rows]
        try:
            array = pa.array(values, type=field.type)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise DefinitionError(
                f"table {self._table.name}: {name}: {error}", code="wrong_value", column=name
            ) from error
        if array.null_count and name in self._required:
            row = rows[values.index(None)]
            raise DefinitionError(
                f"table {self._table.name}: a row lacks {name!r}: {row}",
                code="missing_value",
                column=name,
            )
        for value in _integers(field.type, values):
            if not hasattr(value, "__index__"):
                raise DefinitionError(
                    f"table {self._table.name}: {name} = {value!r}: no integer",
                    code="wrong_value",
                    column=name,
                )
        return array

    def _unknown(self, name: str) -> str:
        table, there = self._table.name, sorted(self._columns)
        if name in FILLED:
            return f"table {table}: the writer fills {name!r}; leave it out of the row"
        near = did_you_mean(name, there)
        return f"table {table} has no column {name!r}{near}; its columns: {', '.join(there)}"


def _now() -> pa.Scalar:
    return pa.scalar(datetime.now(UTC), TIME)


def _integers(dtype: pa.DataType, values: Sequence[Any]) -> Iterator[Any]:
    """Of a column's values those that have to be integers, and are no Python ones already.

    (Arrow takes 1.5 for an integer, as 1.)
    """
    if pa.types.is_integer(dtype) and not PLAIN.issuperset(map(type, values)):
        yield from (value for value in values if value is not None)
    elif pa.types.is_list(dtype) and pa.types.is_integer(dtype.value_type):
        yield from (value for some in values for value in some or ())
