"""Choosing the columns of a curve, and saying why none could be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from sparsing.analysis.curves.cells import Cells, Mark
from sparsing.analysis.curves.errors import CurveFileError
from sparsing.analysis.curves.names import ColumnName

LEAST_TOKENS_OF_STEPS = 1e8
"""No training makes as many steps: a step column that goes beyond this counts tokens."""

PLAIN = {("activation", "ratio"), ("sparsity",)}


@dataclass(frozen=True)
class CurveColumn:
    """A chosen column: its numbers are plain but for the unit of token counts."""

    name: str
    """As in the file."""
    cells: Cells
    label: ColumnName

    def numbers(self, mark: Mark) -> pl.Series:
        """Floats with nulls where a value is missing."""
        return self.cells.numbers(mark)


class Chooser:
    """The columns of one table; `shown` names them as they are called in the file."""

    def __init__(self, path: str, frame: pl.DataFrame, shown: dict[str, str] | None = None):
        self.path, self.frame = path, frame
        shown = shown or {}
        self.columns = [
            CurveColumn(shown.get(name, name), Cells(name, frame[name]), ColumnName(name))
            for name in frame.columns
        ]

    def named(self, name: str, option: str, first_row: int) -> CurveColumn:
        """The column that an option names. Raises CurveFileError unless it holds numbers."""
        found = [each for each in self.columns if name in (each.name, each.cells.name)]
        found = found or [each for each in self.columns if each.name.strip() == name.strip()]
        if not found:
            raise self._error("no such column", f"{option}: there is no column '{name}'")
        if not found[0].cells.is_number:
            where = found[0].cells.first_text()
            held = "holds no number"
            if where is not None:
                held = f"holds '{where[1][:40]}' in line {where[0] + first_row}, which is no number"
            raise self._error("not a number", f"{option}: column '{name}' {held}")
        return found[0]

    def tokens(self, taken: Sequence[str]) -> CurveColumn:
        """The column of training tokens by name; a step column only where it must be tokens."""
        free = self._free(taken)
        if found := self._alike([each for each in free if each.label.kind == "tokens"], "tokens"):
            return found
        steps = [each for each in free if each.label.kind == "steps"]
        if huge := [each for each in steps if _largest(each) >= LEAST_TOKENS_OF_STEPS]:
            found = self._alike(huge, "tokens")
            assert found is not None
            return found
        if found := self._nameless(free, ratio=False):
            return found
        if steps:
            raise self._error(
                "steps",
                f"'{steps[0].name}' counts steps (up to {_largest(steps[0]):g}), and no column "
                "counts tokens; say --tokens-column, or write tokens into the file",
            )
        raise self._missing("tokens", "the training tokens", "--tokens-column")

    def ratio(self, taken: Sequence[str]) -> CurveColumn:
        """The column of activation ratios, or of sparsity, by name."""
        free = self._free(taken)
        for kind in ("ratio", "sparsity", "value"):
            candidates = [each for each in free if each.label.kind == kind]
            if found := self._alike(candidates, "activation ratios"):
                return found
        if found := self._nameless(free, ratio=True):
            return found
        raise self._missing("ratio", "the activation ratios", "--ratio-column")

    def _free(self, taken: Sequence[str]) -> list[CurveColumn]:
        return [
            each
            for each in self.columns
            if each.cells.name not in taken and each.cells.is_number and not each.label.index
        ]

    def _alike(self, candidates: list[CurveColumn], what: str) -> CurveColumn | None:
        """The one candidate, or the first of some that hold the same.

        Ratios under fewer sections go first, then those with the plain name; constants are no
        token counts.
        """
        if what == "tokens":
            candidates = [each for each in candidates if _varies(each)] or candidates
        elif candidates:
            depth = min(each.label.depth for each in candidates)
            candidates = [each for each in candidates if each.label.depth == depth]
            plain = [each for each in candidates if each.label.words in PLAIN]
            candidates = plain or candidates
        if any(_differ(candidates[0], other) for other in candidates[1:]):
            raise self._several(what, candidates)
        return candidates[0] if candidates else None

    def _several(self, what: str, candidates: list[CurveColumn]) -> CurveFileError:
        option = "--tokens-column" if what == "tokens" else "--ratio-column"
        names = ", ".join(f"'{each.name}'" for each in candidates)
        return self._error(
            "ambiguous columns", f"several columns may hold the {what}: {names}; say {option}"
        )

    def _nameless(self, free: list[CurveColumn], *, ratio: bool) -> CurveColumn | None:
        """In a table of two columns of numbers: the nameless one whose values fit."""
        unnamed = [each for each in free if each.label.nameless]
        numbers = [each for each in self.columns if each.cells.is_number and not each.label.index]
        if len(numbers) != 2 or not unnamed:
            return None
        fitting = [each for each in unnamed if _is_ratio(each) == ratio]
        return fitting[0] if len(fitting) == 1 else None

    def _missing(self, code: str, what: str, option: str) -> CurveFileError:
        return self._error(f"no {code} column", f"no column is known to hold {what}; say {option}")

    def _error(self, code: str, words: str) -> CurveFileError:
        names = [each.name for each in self.columns]
        return CurveFileError(self.path, code, words, names)


def _varies(column: CurveColumn) -> bool:
    return column.numbers(column.cells.marks[0]).n_unique() > 1


def _differ(one: CurveColumn, other: CurveColumn) -> bool:
    """Whether two columns differ where both hold a number."""
    pair = one.numbers(one.cells.marks[0]) != other.numbers(other.cells.marks[0])
    return bool(pair.any())


def _largest(column: CurveColumn) -> float:
    largest = column.numbers(column.cells.marks[0]).max()
    return float(largest) if isinstance(largest, (int, float)) else 0.0


def _is_ratio(column: CurveColumn) -> bool:
    cells = column.cells
    if cells.percent:
        return True
    return any(
        bool(column.numbers(mark).drop_nulls().is_between(0, 1).all()) for mark in cells.marks
    )
