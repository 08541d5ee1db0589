"""How rows of a table look: as a table for people, as CSV or JSON for programs."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click
import polars as pl

from sparsing.study.display.table import Column, Table, show

MAX_SHOWN_ROWS = 500


def print_rows(frame: pl.DataFrame, form: str | None) -> None:
    """Print rows on standard output: `json`, `csv`, or a table for people where `form` is None.

    JSON and CSV are UTF-8, whatever the terminal's encoding is: names must arrive as they are.
    """
    if form == "json":
        click.echo(f"{frame.write_json()}\n".encode(), nl=False)
    elif form == "csv":
        click.echo(_flat(frame).write_csv().encode(), nl=False)
    else:
        show(rows_table(frame))
        if frame.height > MAX_SHOWN_ROWS:
            told = f"the first {MAX_SHOWN_ROWS} of {frame.height} rows; --csv gives all"
            click.echo(told, err=True)


def rows_table(frame: pl.DataFrame, most: int = MAX_SHOWN_ROWS) -> Table:
    """The first rows of a frame; numbers have six digits at most, lists are shortened."""
    columns = [Column(name, right=dtype.is_numeric()) for name, dtype in frame.schema.items()]
    table = Table(columns)
    for row in frame.head(most).iter_rows():
        table.add(*(cell_text(value) for value in row))
    return table


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Lists and structs as JSON, which a CSV file can hold."""
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    texts = [
        pl.Series(name, [None if v is None else json.dumps(v) for v in frame[name].to_list()])
        for name in nested
    ]
    return frame.with_columns(texts)


def cell_text(value: Any) -> str:
    """A value in a cell of a table."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    if isinstance(value, list):
        shown = ", ".join(cell_text(item) for item in value[:4])
        return f"[{shown}{f', ... {len(value)} in all' if len(value) > 4 else ''}]"
    return "" if value is None else str(value)
