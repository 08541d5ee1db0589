"""What each table and column means, with its unit, when it is null, and a query to begin with.

From the docstrings of `study.store.tables` and `configurations`: `sparsing schema --tables`,
`DESCRIBE` in a query, and docs/tables.md say the same.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from sparsing.study.display.table import Column, Table
from sparsing.study.errors import DefinitionError
from sparsing.study.query import configurations
from sparsing.study.store.tables import TABLES

UNITS = {
    "_per_second": "tokens/s",
    "_seconds": "s",
    "_bytes": "bytes",
    "bytes": "bytes",
    "_percent": "%",
    "_ratio": "1",
    "_share": "1",
    "loss": "nats per token",
    "tokens": "tokens",
    "_at": "UTC",
}
"""Unit by the end of a column's name."""
UNITLESS = {"width_depth_ratio": "1"}
EXAMPLES = {
    "configurations": "SELECT run, activation, parameters, activation_ratio FROM configurations",
    "runs": "SELECT run, state, written_at FROM runs ORDER BY run, written_at",
    "steps": "SELECT run, COUNT(*) AS steps, MIN(loss) AS loss FROM steps GROUP BY run",
    "checkpoints": "SELECT run, tokens, validation_loss FROM checkpoints WHERE domain IS NULL",
    "sparsity": "SELECT run, tokens, activation_ratio FROM sparsity WHERE layer IS NULL "
    "AND domain IS NULL AND stage = 'final' ORDER BY run, tokens",
    "neurons": "SELECT run, layer, dead_ratio FROM neurons WHERE domain IS NULL",
    "vocabulary": "SELECT token_id, activation_ratio FROM vocabulary ORDER BY count DESC LIMIT 20",
    "pareto": "SELECT run, metric, activation_ratio, ppl_rise_percent FROM pareto "
    "WHERE domain IS NULL",
    "notes": "SELECT run, note FROM notes ORDER BY written_at",
    "fits": "SELECT run, law, limit_activation_ratio, limit_low, limit_high FROM fits",
}
"""A query of each table; of others `SELECT * FROM table LIMIT 5`."""


@dataclass(frozen=True)
class ExplainedColumn:
    """A column: what it means, and when it is null."""

    name: str
    type: str
    unit: str
    """`1` for shares and plain numbers of no unit; empty for texts and counts of things."""
    null: str
    """When it is null: `never`, `as said`, or `not known`."""
    meaning: str


@dataclass(frozen=True)
class ExplainedTable:
    """A table with its columns."""

    name: str
    about: str
    columns: tuple[ExplainedColumn, ...]
    example: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        columns = [vars(each) for each in self.columns]
        return {"table": self.name, "about": self.about, "columns": columns, "sql": self.example}

    def table(self) -> Table:
        """A row for each column."""
        heads = [Column(each) for each in ("column", "type", "unit", "null")]
        title = f"{self.name}: {self.about}"
        shown = Table([*heads, Column("meaning", prose=True)], title=title)
        for each in self.columns:
            shown.add(each.name, each.type, each.unit, each.null, each.meaning)
        shown.notes = [f"  {self.example}", ""]
        return shown


def explained_tables() -> list[ExplainedTable]:
    """All tables that can be asked, `configurations` first."""
    computed = tuple(
        ExplainedColumn(
            name, _polars_type(dtype), _unit(name), _null("null" in about, about), about
        )
        for name, (dtype, about) in configurations.COLUMNS.items()
    )
    found = [_explained(configurations.NAME, configurations.ABOUT, computed)]
    for table in TABLES.values():
        columns = tuple(
            ExplainedColumn(
                field.name,
                _arrow_type(field.type),
                _unit(field.name),
                _null(field.name in table.optional, field.metadata[b"about"].decode()),
                field.metadata[b"about"].decode(),
            )
            for field in table.schema
        )
        found.append(_explained(table.name, table.about, columns))
    return found


def explained_table(name: str) -> ExplainedTable:
    """The table of a name; DefinitionError with the nearest name where there is none."""
    tables = {table.name: table for table in explained_tables()}
    if name.lower() in tables:
        return tables[name.lower()]
    near = difflib.get_close_matches(name, tables, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"the tables are {', '.join(tables)}"
    raise DefinitionError(f"no table '{name}'; {hint}", code="unknown_table", table=name, near=near)


def described_columns(table: str) -> pl.DataFrame:
    """The answer of `DESCRIBE table`; DefinitionError where there is no such table."""
    rows = [vars(each) for each in explained_table(table).columns]
    return pl.DataFrame(rows)


def tables_markdown() -> str:
    """docs/tables.md."""
    lines = [
        "# Tables",
        "",
        "What `sparsing query STUDY`, `StudyStore.scan` and any Arrow reader find. Every row says",
        "which run, attempt, step and code version wrote it. Ratios are in [0, 1]; times are UTC.",
        "A column is null `never`, `as said` in its meaning, or where its value is `not known`.",
        "",
        "This page is printed by `sparsing schema --tables --markdown`.",
    ]
    for table in explained_tables():
        lines += ["", f"## {table.name}", "", table.about, ""]
        lines += ["| column | type | unit | null | meaning |", "|---|---|---|---|---|"]
        for each in table.columns:
            meaning = each.meaning.replace("|", "\\|")
            lines.append(f"| `{each.name}` | {each.type} | {each.unit} | {each.null} | {meaning} |")
        lines += ["", "```sql", table.example, "```"]
    return "\n".join(lines) + "\n"


def _explained(name: str, about: str, columns: tuple[ExplainedColumn, ...]) -> ExplainedTable:
    return ExplainedTable(name, about, columns, EXAMPLES.get(name, f"SELECT * FROM {name} LIMIT 5"))


def _unit(name: str) -> str:
    if name in UNITLESS:
        return UNITLESS[name]
    ends = (unit for end, unit in UNITS.items() if name.endswith(end))
    return next(ends, "")


def _null(optional: bool, about: str) -> str:
    """When a column is null: never, as its meaning says, or where the value is not known."""
    if not optional:
        return "never"
    return "as said" if "null" in about else "not known"


def _arrow_type(dtype: pa.DataType) -> str:
    return str(dtype).replace("list<item: ", "list<").replace("list<element: ", "list<")


def _polars_type(dtype: pl.DataType | type[pl.DataType]) -> str:
    known = {pl.String: "string", pl.Int64: "int64", pl.Float64: "double"}
    return next((text for kind, text in known.items() if dtype == kind), "list<string>")


COLUMNS_BY_TABLE = {configurations.NAME: tuple(configurations.COLUMNS)} | {
    table.name: tuple(table.schema.names) for table in TABLES.values()
}
"""Names of the columns of each table that can be asked."""
