"""SQL over the tables of a study, with the errors of this project in place of polars' own.

The SQL is that of polars. It may read any file that the user may: it is for a user's own command
line, never for queries that come over a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import polars as pl
from polars.exceptions import PanicException, PolarsError

from sparsing.study.errors import DefinitionError
from sparsing.study.query.configurations import NAME, lazy_configurations
from sparsing.study.query.explained import COLUMNS_BY_TABLE, described_columns
from sparsing.study.query.sql_errors import sql_error
from sparsing.study.query.sql_products import as_floats
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES

Result = TypeVar("Result")
LARGEST_EXACT = 2**53
"""The largest whole number up to which floating point holds each."""
CHANGING = re.compile(
    r"(?>\s|;|--[^\n]*\n|/\*.*?\*/)*+(alter|create|delete|drop|insert|merge|truncate|update)\b",
    re.IGNORECASE | re.DOTALL,
)
"""A statement that would change tables; polars runs some, on its copy, and the store stays."""
DESCRIBING = re.compile(
    r"\s*(describe|desc|show\s+columns\s+(from|in))\s+(table\s+)?\"?(?P<table>\w+)\"?\s*;?\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Query:
    """A query, not yet computed: get one from `ask`."""

    rows: pl.LazyFrame
    whole: dict[str, pl.DataType]
    """Columns that are integers but for their products, which are computed as floating point."""

    def collect(self) -> pl.DataFrame:
        """The rows; integers where all values of a column are whole and no larger than 2^53.

        Raises DefinitionError where polars cannot compute them.
        """
        frame = said_in_words(self.rows.collect)
        return frame.with_columns(_as_integers(frame[name]) for name in self.whole)

    def write(self, file: Path, *, arrow: bool) -> None:
        """Write all rows to a Parquet or Arrow file, or leave the file that was there."""
        part = file.with_name(f".{file.name}.part")
        rows = self.collect().lazy() if self.whole else self.rows
        try:
            said_in_words(lambda: rows.sink_ipc(part) if arrow else rows.sink_parquet(part))
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


def ask(store: StudyStore, sql: str, *, verify: bool = False) -> Query:
    """An SQL query over a study's tables. Products are floating point where integers would wrap.

    verify: read nothing that is damaged, as `StudyStore.scan` does.

    Raises:
        DefinitionError: it would change tables, or is no SQL that polars understands.
    """
    if changing := CHANGING.match(sql):
        raise DefinitionError(
            f"{changing[1].upper()} changes tables, and those of a store are only read; ask with "
            "SELECT, WITH, FROM, VALUES, SHOW TABLES, DESCRIBE or EXPLAIN",
            code="changing_sql",
        )
    if described := DESCRIBING.match(sql):
        return Query(described_columns(described["table"]).lazy(), {})
    tables = {name: store.scan(name, verify=verify) for name in TABLES}
    context = pl.SQLContext(tables | {NAME: lazy_configurations(store)})
    asked = said_in_words(lambda: context.execute(sql))
    if (floats := as_floats(sql)) == sql:
        return Query(asked, {})
    rows = said_in_words(lambda: context.execute(floats))
    schema, computed = said_in_words(asked.collect_schema), said_in_words(rows.collect_schema)
    rows = rows.rename(dict(zip(computed.names(), schema.names(), strict=True)))
    pairs = zip(schema.items(), computed.dtypes(), strict=True)
    whole = {name: dtype for (name, dtype), now in pairs if dtype.is_integer() and now.is_float()}
    return Query(rows, whole)


def _as_integers(column: pl.Series) -> pl.Series:
    """A column of whole numbers as integers, where floating point has held each exactly."""
    known = column.drop_nulls()
    exact = known.is_finite().all() and (known == known.round()).all()
    largest = known.abs().max()
    if exact and (largest is None or float(largest) <= LARGEST_EXACT):  # type: ignore[arg-type]
        return column.cast(pl.Int64)
    return column


def said_in_words(compute: Callable[[], Result]) -> Result:
    """What `compute` returns; polars' errors in words, with the nearest name on a typo."""
    try:
        return compute()
    except (PolarsError, PanicException) as error:
        raise sql_error(str(error), COLUMNS_BY_TABLE) from error
