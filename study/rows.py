"""Rows as Python dictionaries become Arrow, checked against their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from study.errors import DefinitionError
from study.messages import did_you_mean
from study.tables import Table

FILLED = frozenset({"run", "attempt", "code_version", "written_at"})
"""Columns that the writer fills."""


class RowEncoder:
    """Encodes the rows of one table, with the same provenance in each."""

    def __init__(self, table: Table, filled: Mapping[str, Any]) -> None:
        self._table, self._filled = table, dict(filled)
        self._columns = frozenset(table.schema.names) - FILLED
        self._required = self._columns - table.optional
        self._integers = [f.name for f in table.schema if pa.types.is_integer(f.type)]
        self._integer_lists = [f.name for f in table.schema if _is_integer_list(f.type)]
        self._struct = pa.struct(list(table.schema))

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> pa.StructArray:
        """The rows as structs of the table's columns, stamped with the time.

        A column that a row lacks is null, which only the table's optional columns may be. Raises
        DefinitionError for an unknown column, a missing one, or a value of another type.
        """
        for row in rows:
            self._check(row)
        stamp = {**self._filled, "written_at": datetime.now(UTC)}
        try:
            return pa.array([{**row, **stamp} for row in rows], type=self._struct)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise DefinitionError(f"table {self._table.name}: {error}: {rows[0]}") from error

    def batch(self, batches: Sequence[pa.StructArray]) -> pa.RecordBatch:
        """Encoded rows as one record batch, in the table's schema."""
        columns = pa.concat_arrays(batches).flatten()
        return pa.RecordBatch.from_arrays(columns, schema=self._table.schema)

    def _check(self, row: Mapping[str, Any]) -> None:
        if not self._columns.issuperset(row):
            raise DefinitionError(self._unknown(next(iter(set(row) - self._columns))))
        for name in self._required:
            if row.get(name) is None:
                raise DefinitionError(f"table {self._table.name}: a row lacks {name!r}: {row}")
        # Arrow would take 1.5 for an integer, as 1.
        integers = [(name, row.get(name)) for name in self._integers]
        integers += [(name, v) for name in self._integer_lists for v in row.get(name) or ()]
        for name, value in integers:
            if value is not None and not hasattr(value, "__index__"):
                raise DefinitionError(f"table {self._table.name}: {name} = {value!r}: no integer")

    def _unknown(self, name: str) -> str:
        table, there = self._table.name, sorted(self._columns)
        if name in FILLED:
            return f"table {table}: the writer fills {name!r}; leave it out of the row"
        near = did_you_mean(name, there)
        return f"table {table} has no column {name!r}{near}; its columns: {', '.join(there)}"


def _is_integer_list(dtype: pa.DataType) -> bool:
    return pa.types.is_list(dtype) and pa.types.is_integer(dtype.value_type)
