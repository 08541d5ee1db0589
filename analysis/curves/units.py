"""The unit of token counts and whether ratios are percentages: by option, name and size."""

from __future__ import annotations

import numpy as np

from sparsing.analysis.curves.columns import CurveColumn
from sparsing.analysis.curves.errors import UnclearError
from sparsing.analysis.laws.sparsity import Floats
from sparsing.study.definition.values import COUNT_UNITS

FEWEST_TOKENS = 1e6
"""A training that ends before this many tokens is taken for one with a unit unsaid."""
MOST_TOKENS = 1e15
MOST_NAMELESS = 0.6
"""A nameless column of higher values may hold sparsity."""


def unit_of(column: CurveColumn, option: str | None) -> tuple[str, list[str]]:
    """Unit of a token column (1, K, M, B, T) and what is to be said about it."""
    named = column.label.unit
    if column.cells.has_units:
        if option is not None or named is not None:
            raise UnclearError(
                "two units", f"'{column.name}' has units in its cells and another beside them"
            )
        return "1", [f"token counts of '{column.name}' are read with the units in its cells"]
    if option is None:
        return named or "1", []
    differ = named is not None and option != named
    said = f"the name '{column.name}' says {named}, but --unit {option} was given and is used"
    return option, [said] * differ


def check_size(column: CurveColumn, tokens: Floats, unit: str, *, given: bool) -> None:
    """Question token counts that no training has. Raises UnclearError."""
    if not len(tokens):
        return
    low, high = float(np.min(tokens)), float(np.max(tokens))
    if high >= FEWEST_TOKENS and high <= MOST_TOKENS:
        return
    if high < FEWEST_TOKENS and given:
        return
    factor = COUNT_UNITS["" if unit == "1" else unit]
    how = "in plain tokens" if unit == "1" else f"in units of {unit}"
    asked = "billions are --unit B, and --unit 1 says that it is right"
    if high > MOST_TOKENS:
        asked = "plain counts are --unit 1"
    raise UnclearError(
        "implausible unit",
        f"'{column.name}' goes from {low / factor:g} to {high / factor:g}; {how} that is "
        f"{low:g} to {high:g} tokens, which no training has. Say --unit: {asked}",
    )


def as_ratio(column: CurveColumn, values: Floats) -> tuple[Floats, list[str]]:
    """Plain activation ratios from a column: percent divided by 100, sparsity turned round."""
    notes = []
    cells = column.cells
    if cells.has_units or (cells.some_percent and not cells.percent):
        words = f"some numbers of '{column.name}' have a percent sign or a unit and some have none"
        raise UnclearError("mixed percent", words)
    highest = float(np.max(values)) if len(values) else 0.0
    if column.label.percent and not cells.percent and highest <= 1:
        words = (
            f"'{column.name}' is named a percentage, but goes up to {highest:g} only; rename the "
            "column if it holds ratios from 0 to 1"
        )
        raise UnclearError("implausible percent", words)
    if cells.percent or column.label.percent:
        values = values / 100
        notes.append(f"'{column.name}' is read as percent")
    if len(values) and (float(np.min(values)) < 0 or float(np.max(values)) > 1):
        low, high = float(np.min(values)), float(np.max(values))
        remedy = "; divide percentages by 100, or write % into the column's name"
        words = f"'{column.name}' goes from {low:g} to {high:g}, but a ratio lies between 0 and 1"
        raise UnclearError("no ratio", words + (remedy if 1 < high <= 100 else ""))
    if column.label.nameless and len(values) and float(np.median(values)) > MOST_NAMELESS:
        words = (
            f"the ratios of '{column.name}' are mostly above {MOST_NAMELESS:g}, as sparsity is, "
            "and the file has no names; write a header (activation_ratio or sparsity)"
        )
        raise UnclearError("ratio or sparsity", words)
    if column.label.kind == "sparsity":
        values = 1 - values
        notes.append(f"activation ratio is 1 - '{column.name}'")
    return values, notes
