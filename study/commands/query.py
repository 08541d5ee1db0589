"""`sparsing query`: SQL over the tables of a study.

The SQL is that of polars. It may read any file that the user may: it is for a user's own command
line, never for queries that come over a network.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import polars as pl
from polars.exceptions import PanicException, PolarsError
from rich.console import Console
from rich.table import Table

from sparsing.study.commands.options import store_option
from sparsing.study.errors import DefinitionError
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES

MAX_SHOWN_ROWS = 500
UNLIMITED_WIDTH = 10_000
"""Columns where the output is no terminal: nothing is cut or wrapped."""
CHANGING = re.compile(
    r"(?>\s|;|--[^\n]*\n|/\*.*?\*/)*+(alter|create|delete|drop|insert|merge|truncate|update)\b",
    re.IGNORECASE | re.DOTALL,
)
"""A statement that would change tables; polars runs some, on its copy, and the store stays."""


@click.command()
@click.argument("study")
@click.argument("sql")
@store_option
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values.")
@click.option("--json", "form", flag_value="json", help="One JSON document, a list of rows.")
@click.option("--parquet", metavar="FILE", type=click.Path(dir_okay=False), help="A Parquet file.")
@click.option("--arrow", metavar="FILE", type=click.Path(dir_okay=False), help="An Arrow IPC file.")
def query(
    study: str, sql: str, root: str, form: str | None, parquet: str | None, arrow: str | None
) -> None:
    """Ask the tables of STUDY in SQL.

    Tables: runs, steps, checkpoints, sparsity, neurons, vocabulary, pareto, fits. `SELECT * FROM
    steps LIMIT 3` shows the columns of one. In sparsity, `layer IS NULL` is the mean over layers
    and `domain IS NULL` the mixture.

    \b
    Examples:
      sparsing query quickstart "SELECT run, tokens, activation_ratio FROM sparsity
          WHERE layer IS NULL AND domain IS NULL AND stage = 'final' ORDER BY run, tokens"
      sparsing query quickstart "SELECT run, MIN(loss) AS loss FROM steps GROUP BY run" --json
      sparsing query quickstart "SELECT * FROM steps" --parquet steps.parquet
    """
    if sum(option is not None for option in (form, parquet, arrow)) > 1:
        raise click.UsageError("--csv, --json, --parquet and --arrow exclude each other")
    store = StudyStore.open(root, study)
    if changing := CHANGING.match(sql):
        raise DefinitionError(
            f"{changing[1].upper()} changes tables, and those of a store are only read; ask with "
            "SELECT, WITH, FROM, VALUES, SHOW TABLES or EXPLAIN"
        )
    try:
        result = ask(store, sql)
        if parquet:
            _write(Path(parquet), result.sink_parquet)
        elif arrow:
            _write(Path(arrow), result.sink_ipc)
        else:
            frame = result.collect()
    except (PolarsError, PanicException) as error:
        raise DefinitionError(_explain(error)) from error
    if not parquet and not arrow:
        _print(frame, form)


def ask(store: StudyStore, sql: str) -> pl.LazyFrame:
    """The result of an SQL query, not yet computed; raises polars' errors."""
    return pl.SQLContext({name: store.scan(name) for name in TABLES}).execute(sql)


def _write(file: Path, sink: Callable[[Path], object]) -> None:
    """Write all of a file, or leave the one that was there."""
    part = file.with_name(f".{file.name}.part")
    try:
        sink(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _explain(error: BaseException) -> str:
    """Polars' message without its plan, and what there is to ask for."""
    said = str(error).split("\n\nResolved plan")[0].strip()
    columns = "\n".join(
        f"  {table.name}: {', '.join(table.schema.names)}" for table in TABLES.values()
    )
    return f"{said}\ntables and their columns:\n{columns}"


def _print(frame: pl.DataFrame, form: str | None) -> None:
    if form == "json":
        click.echo(frame.write_json())
    elif form == "csv":
        click.echo(_flat(frame).write_csv(), nl=False)
    else:
        _show(frame)


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Lists and structs as JSON, which a CSV file can hold."""
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    texts = [
        pl.Series(name, [None if v is None else json.dumps(v) for v in frame[name].to_list()])
        for name in nested
    ]
    return frame.with_columns(texts)


def _show(frame: pl.DataFrame) -> None:
    terminal = sys.stdout.isatty()
    table = Table(box=None)
    for name, dtype in frame.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", no_wrap=True)
    for row in frame.head(MAX_SHOWN_ROWS).iter_rows():
        table.add_row(*(_cell(value) for value in row))
    console = Console(width=None if terminal else UNLIMITED_WIDTH, markup=False, highlight=False)
    console.print(table)
    if frame.height > MAX_SHOWN_ROWS:
        click.echo(f"the first {MAX_SHOWN_ROWS} of {frame.height} rows; --csv gives all", err=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    if isinstance(value, list):
        shown = ", ".join(_cell(item) for item in value[:4])
        return f"[{shown}{f', ... {len(value)} in all' if len(value) > 4 else ''}]"
    return "" if value is None else str(value)
