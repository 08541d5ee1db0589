"""SQL over the tables of a study, with the errors of this project in place of polars' own.

The SQL is that of polars. It may read any file that the user may: it is for a user's own command
line, never for queries that come over a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import polars as pl
from polars.exceptions import PanicException, PolarsError

from sparsing.study.errors import DefinitionError
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES

Result = TypeVar("Result")
CHANGING = re.compile(
    r"(?>\s|;|--[^\n]*\n|/\*.*?\*/)*+(alter|create|delete|drop|insert|merge|truncate|update)\b",
    re.IGNORECASE | re.DOTALL,
)
"""A statement that would change tables; polars runs some, on its copy, and the store stays."""


def ask(store: StudyStore, sql: str) -> pl.LazyFrame:
    """The result of an SQL query, not yet computed; collect it with `answer` or `write`.

    Raises:
        DefinitionError: it would change tables, or is no SQL that polars understands.
    """
    if changing := CHANGING.match(sql):
        raise DefinitionError(
            f"{changing[1].upper()} changes tables, and those of a store are only read; ask with "
            "SELECT, WITH, FROM, VALUES, SHOW TABLES or EXPLAIN"
        )
    return _said(lambda: pl.SQLContext({name: store.scan(name) for name in TABLES}).execute(sql))


def answer(asked: pl.LazyFrame) -> pl.DataFrame:
    """The rows of a query; DefinitionError where polars cannot compute it."""
    return _said(asked.collect)


def write_answer(asked: pl.LazyFrame, file: Path, *, arrow: bool) -> None:
    """Write all rows of a query to a Parquet or Arrow file, or leave the file that was there."""
    part = file.with_name(f".{file.name}.part")
    try:
        _said(lambda: asked.sink_ipc(part) if arrow else asked.sink_parquet(part))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _said(compute: Callable[[], Result]) -> Result:
    """What `compute` returns; polars' errors in words."""
    try:
        return compute()
    except (PolarsError, PanicException) as error:
        raise DefinitionError(_explain(error)) from error


def _explain(error: BaseException) -> str:
    """Polars' message without its plan, and what there is to ask for."""
    said = str(error).split("\n\nResolved plan")[0].strip()
    columns = "\n".join(
        f"  {table.name}: {', '.join(table.schema.names)}" for table in TABLES.values()
    )
    return f"{said}\ntables and their columns:\n{columns}"
