"""Curves from anyone's files: `read_curves` gives one per series, and says what it read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from sparsing.analysis.curves.cells import Mark
from sparsing.analysis.curves.columns import Chooser, CurveColumn
from sparsing.analysis.curves.errors import CurveFileError, UnclearError
from sparsing.analysis.curves.names import ColumnName
from sparsing.analysis.curves.series import (
    Repeats,
    Series,
    groups,
    keys_of,
    separating,
    without_repeats,
)
from sparsing.analysis.curves.tables import read_table
from sparsing.analysis.curves.text import TextTable
from sparsing.analysis.curves.units import as_ratio, check_size, unit_of
from sparsing.analysis.laws.sparsity import Floats
from sparsing.study.definition.values import COUNT_UNITS

RUN_METRIC = re.compile(r"^(.+) - (.+?)$")
"""W&B writes one column per run: `run - metric`."""
BAND = re.compile(r"__(MIN|MAX)$")
MOST_SERIES = 1000
ROW = "index of the row"


@dataclass(frozen=True, kw_only=True)
class CurveSource:
    """Where the points of a curve stand in a file, and how they were read."""

    file: str
    rows: int
    """Of the series, with a token count and a ratio."""
    left_out: int
    """Rows of the file without a token count or a ratio."""
    tokens_column: str
    ratio_column: str
    unit: str
    """Of the token counts: 1, K, M, B, T."""
    quantity: str
    """What the ratio column holds: activation ratio or sparsity."""
    percent: bool
    series: dict[str, str]
    """What tells this series from others of the file."""

    def as_dict(self) -> dict[str, Any]:
        """The fields, as `sparsing fit --json` shows them."""
        return asdict(self)

    def __str__(self) -> str:
        series = ", ".join(f"{key} {value}" for key, value in self.series.items())
        unit = "" if self.unit == "1" else f" in {self.unit}"
        percent = " in %" if self.percent else ""
        return (
            f"read {self.file}: {self.rows} rows, tokens from '{self.tokens_column}'{unit}, "
            f"{self.quantity} from '{self.ratio_column}'{percent}"
            + (f", series {series}" if series else "")
        )


@dataclass(frozen=True, kw_only=True)
class FileCurve:
    """A curve as read: plain tokens, ratios, weights if asked for, (n,) each; what was noticed."""

    name: str
    tokens: Floats
    activation_ratio: Floats
    weights: Floats | None
    notes: tuple[str, ...]
    source: CurveSource


def read_curves(
    path: str,
    *,
    tokens_column: str | None = None,
    ratio_column: str | None = None,
    error_column: str | None = None,
    unit: str | None = None,
    by: Sequence[str] = (),
    repeats: Repeats | None = None,
) -> list[FileCurve]:
    """Read the curves of a file, one per series.

    `unit` of the token counts (1, K, M, B, T): None takes it from the column's name, and refuses
    counts that no training has. `error_column` holds standard errors of the ratios; weights are
    their inverse squares. `by`: columns that tell series apart; without it, those that do so by
    their name or values. `repeats`: what counts at one token count; None takes the newest after a
    resume, else the mean, and refuses what looks like several series. Raises NotFoundError where
    there is no such file, CurveFileError where it is not clear what it holds.
    """
    table = read_table(path)
    options = _Options(tokens_column, ratio_column, error_column, unit, tuple(by), repeats)
    curves = []
    for run, frame, shown in _runs(table.frame, options):
        found = _TableReader(path, table, frame, shown, options).curves()
        curves += [(run | curve.source.series, curve) for curve in found]
    if len(curves) > MOST_SERIES:
        words = f"it has {len(curves)} series, over {MOST_SERIES}; say --by COLUMN"
        raise CurveFileError(path, "too many series", words, table.frame.columns)
    return [_labelled(path, curve, series, len(curves)) for series, curve in curves]


@dataclass(frozen=True)
class _Options:
    tokens: str | None
    ratio: str | None
    error: str | None
    unit: str | None
    by: tuple[str, ...]
    repeats: Repeats | None


def _labelled(path: str, curve: FileCurve, series: dict[str, str], count: int) -> FileCurve:
    """The curve with what tells it from others of its file."""
    notes = curve.notes
    if count > 1:
        keys = ", ".join(series)
        notes = (f"the file holds several series, {count} by {keys}: one fit each", *notes)
    label = ", ".join(series.values())
    name = f"{path} [{label}]" if label else path
    return replace(curve, name=name, notes=notes, source=replace(curve.source, series=series))


def _runs(
    frame: pl.DataFrame, options: _Options
) -> list[tuple[dict[str, str], pl.DataFrame, dict[str, str]]]:
    """The table of each run: W&B's columns `run - metric` under the names of the metrics.

    With each its label, its frame and the columns' names in the file.
    """
    split = {name: found for name in frame.columns if (found := RUN_METRIC.match(name))}
    split = {name: found for name, found in split.items() if not BAND.search(name)}
    ratios = [
        f[1] for f in split.values() if ColumnName(f[2]).kind in ("ratio", "sparsity", "value")
    ]
    if not ratios or options.ratio in frame.columns:
        return [({}, frame, {})]
    common = [n for n in frame.columns if n not in split and not BAND.search(n)]
    tables = []
    for run in dict.fromkeys(ratios):
        own = {name: found[2] for name, found in split.items() if found[1] == run}
        own = {name: metric for name, metric in own.items() if metric not in common}
        renamed = frame.select(*common, *own).rename(own)
        tables.append(({"run": run}, renamed, {metric: name for name, metric in own.items()}))
    return tables


class _TableReader:
    """Reads the curves of one table."""

    def __init__(
        self,
        path: str,
        table: TextTable,
        frame: pl.DataFrame,
        shown: dict[str, str],
        options: _Options,
    ):
        self.path, self.table, self.frame, self.options = path, table, frame, options
        self.chooser = Chooser(path, frame, shown)

    def curves(self) -> list[FileCurve]:
        """One curve per series of the table."""
        try:
            return self._curves()
        except UnclearError as error:
            raise self._error(error.code, str(error)) from error

    def _curves(self) -> list[FileCurve]:
        tokens, ratio, error = self._columns()
        columns = [tokens, ratio] if error is None else [tokens, ratio, error]
        mark = self._mark(columns)
        numbers = [column.numbers(mark) for column in columns]
        rows = np.flatnonzero(np.logical_and.reduce([n.is_not_null() for n in numbers]))
        if not len(rows):
            raise self._error("empty", "no row has a token count and a ratio")
        read = [np.asarray(n.gather(rows).to_numpy(), float) for n in numbers]
        plain, unit, notes = self._plain_tokens(tokens, read[0])
        ratios, ratio_notes = as_ratio(ratio, read[1])
        left_out = self.frame.height - len(rows)
        notes = [*self.table.notes, *self._guessed(tokens, ratio), *notes, *ratio_notes]
        if left_out:
            notes.append(f"{left_out} of {self.frame.height} rows lack a number and are left out")
        weights = None if error is None else self._weights(error, read[2])
        whole = CurveSource(
            file=self.path,
            rows=len(rows),
            left_out=left_out,
            tokens_column=tokens.name,
            ratio_column=ratio.name,
            unit=unit,
            quantity="sparsity" if ratio.label.kind == "sparsity" else "activation ratio",
            percent=ratio.cells.percent or ratio.label.percent,
            series={},
        )
        others = self._others(columns)[rows]
        return list(self._series(whole, others, plain, ratios, weights, notes))

    def _columns(self) -> tuple[CurveColumn, CurveColumn, CurveColumn | None]:
        """Columns of tokens, ratios and errors: as the options name them, else by their names."""
        error = self._named(self.options.error, "--error-column")
        tokens = self._named(self.options.tokens, "--tokens-column")
        ratio = self._named(self.options.ratio, "--ratio-column")
        taken = [each.cells.name for each in (error, tokens, ratio) if each]
        tokens = tokens or self.chooser.tokens(taken)
        return tokens, ratio or self.chooser.ratio([*taken, tokens.cells.name]), error

    def _plain_tokens(self, column: CurveColumn, tokens: Floats) -> tuple[Floats, str, list[str]]:
        """Token counts without their unit, the unit, and what is to be said about it."""
        if (tokens < 0).any():
            raise self._error("negative", f"'{column.name}' holds negative token counts")
        unit, notes = unit_of(column, self.options.unit)
        plain = tokens * COUNT_UNITS["" if unit == "1" else unit]
        given = self.options.unit is not None or column.cells.has_units
        check_size(column, plain, unit, given=given)
        return plain, unit, notes

    def _series(
        self,
        whole: CurveSource,
        others: pl.DataFrame,
        tokens: Floats,
        ratios: Floats,
        weights: Floats | None,
        notes: list[str],
    ) -> Iterator[FileCurve]:
        """The curve of each series among the rows read."""
        keys = list(self.options.by) or keys_of(others, tokens)
        for label, rows in groups(others, keys):
            own_weights = None if weights is None else weights[rows]
            curve = self._once_each(others[rows], tokens[rows], ratios[rows], own_weights)
            yield FileCurve(
                name=self.path,
                tokens=curve.tokens,
                activation_ratio=curve.ratio,
                weights=curve.weights,
                notes=(*notes, *curve.notes),
                source=replace(whole, rows=len(rows), series=dict(zip(keys, label, strict=True))),
            )

    def _named(self, name: str | None, option: str) -> CurveColumn | None:
        return None if name is None else self.chooser.named(name, option, self.table.first_line)

    def _guessed(self, tokens: CurveColumn, ratio: CurveColumn) -> list[str]:
        """Which columns were found by other names than the plain ones."""
        notes = []
        if self.options.tokens is None and tokens.name != "tokens":
            notes.append(f"tokens read from column '{tokens.name}'")
        if self.options.ratio is None and ratio.name != "activation_ratio":
            notes.append(f"activation ratio read from column '{ratio.name}'")
        return notes

    def _mark(self, columns: list[CurveColumn]) -> Mark:
        """Decimal point or comma, as all the columns allow; other columns decide where both do."""
        possible: set[Mark] = {"point", "comma"}
        for column in columns:
            possible &= set(column.cells.marks)
        if not possible:
            names = " and ".join(f"'{each.name}'" for each in columns)
            raise self._error("mixed marks", f"{names} are written with different decimal marks")
        if len(possible) == 1 or not any(each.cells.marks_differ for each in columns):
            return possible.pop() if len(possible) == 1 else "point"
        decided = {c.cells.marks[0] for c in self.chooser.columns if len(c.cells.marks) == 1}
        if len(decided) == 1:
            return decided.pop()
        unclear = next(each for each in columns if each.cells.marks_differ)
        raise self._error(
            "ambiguous marks",
            f"'{unclear.name}' may be written with decimal marks or with marks between thousands; "
            "write its numbers without the latter",
        )

    def _weights(self, column: CurveColumn, errors: Floats) -> Floats:
        if not (errors > 0).all():
            raise self._error("errors", f"standard errors in '{column.name}' must be above 0")
        return errors**-2

    def _others(self, columns: list[CurveColumn]) -> pl.DataFrame:
        """The columns that hold no part of the curve: numbers as such, all else as text."""
        used = {each.cells.name for each in columns}
        for name in self.options.by:
            if name not in self.frame.columns:
                raise self._error("no such column", f"--by: there is no column '{name}'")
        rows = self.frame.select(pl.int_range(pl.len()).alias(ROW))
        return rows.with_columns(
            [
                each.cells.numbers(each.cells.marks[0]).alias(each.cells.name)
                if each.cells.is_number and each.cells.name not in self.options.by
                else each.cells.text.alias(each.cells.name)
                for each in self.chooser.columns
                if each.cells.name not in used
            ]
        )

    def _once_each(
        self, others: pl.DataFrame, tokens: Floats, ratio: Floats, weights: Floats | None
    ) -> Series:
        """Each token count once; where that is unclear, the columns that would help are named."""
        try:
            return without_repeats(tokens, ratio, weights, self.options.repeats)
        except UnclearError as error:
            helpful = separating(others, tokens)
            words = str(error)
            if helpful:
                words += "; told apart by " + ", ".join(f"--by '{name}'" for name in helpful)
            raise UnclearError(error.code, words) from error

    def _error(self, code: str, words: str) -> CurveFileError:
        return CurveFileError(self.path, code, words, [c.name for c in self.chooser.columns])
