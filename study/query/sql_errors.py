"""What polars says of a query, in the words of this project, with the nearest name on a typo."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sparsing.study.errors import DefinitionError

Found = tuple[str, str, dict[str, Any]]
"""Code, words and fields of an error."""
Rule = tuple[re.Pattern[str], Callable[[re.Match[str], Mapping[str, Iterable[str]]], Found]]


def sql_error(said: str, tables: Mapping[str, Iterable[str]]) -> DefinitionError:
    """The error of a query, from polars' message; `tables` are those that may be asked.

    Its `code` is unknown_column, unknown_table, sql_syntax, sql_unsupported or wrong_sql.
    """
    plain = said.split("\n\nResolved plan")[0].split("\n\nThis error occurred")[0].strip()
    for pattern, rule in RULES:
        if match := pattern.search(plain):
            code, words, fields = rule(match, tables)
            return DefinitionError(words, code=code, **fields)
    first = plain.splitlines()[0] if plain else "the query is refused, without a reason"
    return DefinitionError(first, code="wrong_sql")


def _column(match: re.Match[str], tables: Mapping[str, Iterable[str]]) -> Found:
    name = match["name"]
    valid = re.findall(r'"([^"]*)"', match.groupdict().get("valid") or "")
    known = valid or [column for columns in tables.values() for column in columns]
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=1)
    homes = [table for table, columns in tables.items() if name in columns]
    if near:
        hint = f"did you mean '{near[0]}'?"
    elif homes:
        hint = f"it is a column of {', '.join(homes)}"
    else:
        hint = (
            f"there are {', '.join(valid)}" if valid else "DESCRIBE TABLE shows a table's columns"
        )
    return "unknown_column", f"no column '{name}' here; {hint}", {"column": name, "near": near}


def _table(match: re.Match[str], tables: Mapping[str, Iterable[str]]) -> Found:
    name = match["name"]
    near = difflib.get_close_matches(name, tables, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"the tables are {', '.join(tables)}"
    return "unknown_table", f"no table '{name}'; {hint}", {"table": name, "near": near}


def _syntax(match: re.Match[str], tables: Mapping[str, Iterable[str]]) -> Found:
    line, column = match.groupdict().get("line"), match.groupdict().get("column")
    place = f" at line {line}, column {column}" if line else ""
    what = match["what"].strip().rstrip(".")
    what = what.replace("Expected: ", "expected ").replace("found: EOF", "found its end")
    what = what.replace("found: ", "found ")
    what = what[:1].lower() + what[1:]
    return "sql_syntax", f"the SQL cannot be read{place}: {what}", {"line": line, "column": column}


def _statement(match: re.Match[str], tables: Mapping[str, Iterable[str]]) -> Found:
    words = "ask with SELECT, WITH, FROM, VALUES, SHOW TABLES, DESCRIBE TABLE or EXPLAIN"
    return "sql_unsupported", f"no such statement here; {words}", {}


def _grouped(match: re.Match[str], tables: Mapping[str, Iterable[str]]) -> Found:
    name = match["name"]
    words = f"'{name}' is neither in GROUP BY nor in a function as MAX({name})"
    return "sql_grouping", words, {"column": name}


def _function(match: re.Match[str], tables: Mapping[str, Iterable[str]]) -> Found:
    return "sql_unsupported", f"no function '{match['name']}' here", {"function": match["name"]}


def _times(match: re.Match[str], tables: Mapping[str, Iterable[str]]) -> Found:
    words = (
        "times of the store are in UTC, and TIMESTAMP '...' has no time zone; compare with text, "
        "as in written_at > '2026-01-31 12:00:00', or cast the column: "
        "CAST(written_at AS TIMESTAMP)"
    )
    return "sql_time_zone", words, {}


def _one(match: re.Match[str], tables: Mapping[str, Iterable[str]]) -> Found:
    return "sql_syntax", "one statement at a time, and one there must be", {}


RULES: list[Rule] = [
    (
        re.compile(r'unable to find column "(?P<name>[^"]*)"(; valid columns: (?P<valid>.*))?'),
        _column,
    ),
    (re.compile(r"no column named '(?P<name>[^']*)' found in table"), _column),
    (re.compile(r"relation '(?P<name>[^']*)' was not found"), _table),
    (re.compile(r"no table or struct column named '(?P<name>[^']*)' found"), _table),
    (
        re.compile(
            r"sql parser error: (?P<what>.*?)( at Line: (?P<line>\d+), Column: (?P<column>\d+))?$"
        ),
        _syntax,
    ),
    (re.compile(r"statement type is not supported"), _statement),
    (re.compile(r"one \(and only one\) statement"), _one),
    (re.compile(r"'(?P<name>[^']*)' should participate in the GROUP BY"), _grouped),
    (re.compile(r"unsupported function '(?P<name>[^']*)'"), _function),
    (re.compile(r"Datetime.*UTC|UTC.*Datetime", re.DOTALL), _times),
]
