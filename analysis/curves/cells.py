"""Numbers as people write them: decimal marks, thousands, percent, units, missing values.

A column of text is read with a decimal point or a decimal comma. Which of the two is found from
all its cells; where both would do and give different numbers, the column says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import polars as pl

Mark = Literal["point", "comma"]

MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "none", "null", "nil", "-", "--", "?", ".",
           "inf", "+inf", "-inf", "infinity", "-infinity")  # fmt: skip


def _pattern(mark: str, thousands: str) -> str:
    """Numbers with this decimal mark, and this or a neutral mark between thousands."""
    groups = "|".join(rf"(?:{each}\d{{3}})+" for each in (thousands, " ", "'", "_"))
    whole = rf"[1-9]\d{{0,2}}(?:{groups})(?:{mark}\d+)?"
    return rf"^[+-]?(?:\d+{mark}?\d*|{mark}\d+|{whole})(?:[eE][+-]?\d{{1,3}})?$"


PATTERNS: dict[Mark, str] = {"point": _pattern(r"\.", ","), "comma": _pattern(",", r"\.")}
UNIT_WORDS = {
    "k": "K", "thousand": "K", "m": "M", "mn": "M", "million": "M", "b": "B", "bn": "B", "g": "B",
    "billion": "B", "t": "T", "tn": "T", "trillion": "T",
}  # fmt: skip
UNIT_AFTER_DIGIT = (
    r"(?i)([\d.,])\s*(k|m|b|g|t|mn|bn|tn|thousand|million|billion|trillion)s?"
    r"(?:\s*tok(?:en)?s?)?$"
)
FACTORS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Cells:
    """A column as it stands in the file, and the numbers in it."""

    name: str
    series: pl.Series

    @property
    def typed(self) -> bool:
        """Whether the file itself says that these are numbers."""
        return self.series.dtype.is_numeric()

    @cached_property
    def text(self) -> pl.Series:
        """Cells without blanks, unusual spaces and signs; null where a value is missing."""
        text = self.series.cast(pl.String).str.replace_all("[\u00a0\u202f\u2009]", " ")
        text = text.str.strip_chars().str.replace("^−", "-")
        return text.set(text.str.to_lowercase().is_in(MISSING), None)

    @cached_property
    def _plain(self) -> pl.Series:
        """Cells without percent signs and units."""
        text = self.text.str.replace(r"\s*%$", "")
        return text.str.replace(UNIT_AFTER_DIGIT, "${1}")

    @cached_property
    def _factor(self) -> pl.Series:
        """What the unit after each number stands for."""
        unit = self.text.str.extract(UNIT_AFTER_DIGIT, 2).str.to_lowercase()
        return unit.replace_strict(
            {word: FACTORS[name] for word, name in UNIT_WORDS.items()},
            default=1.0,
            return_dtype=pl.Float64,
        )

    @cached_property
    def present(self) -> pl.Series:
        """Which cells hold anything, number or text (booleans)."""
        if self.typed:
            return self.series.cast(pl.Float64).is_finite().fill_null(False)
        return self.text.is_not_null()

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """The decimal marks with which every cell is a number; empty for text."""
        if self.typed:
            return ("point",) if self.present.any() else ()
        cells = self._plain.drop_nulls()
        if not len(cells):
            return ()
        return tuple(
            mark for mark, pattern in PATTERNS.items() if cells.str.contains(pattern).all()
        )

    @cached_property
    def is_number(self) -> bool:
        """Whether all cells that hold anything are numbers."""
        return bool(self.marks)

    @cached_property
    def marks_differ(self) -> bool:
        """Whether both decimal marks are possible and give different numbers."""
        return len(self.marks) == 2 and not self.numbers("point").equals(self.numbers("comma"))

    @cached_property
    def percent(self) -> bool:
        """Whether every number is followed by a percent sign."""
        cells = self.text.drop_nulls()
        return not self.typed and len(cells) > 0 and bool(cells.str.ends_with("%").all())

    @cached_property
    def some_percent(self) -> bool:
        """Whether any number is followed by a percent sign."""
        return not self.typed and bool(self.text.drop_nulls().str.ends_with("%").any())

    @cached_property
    def has_units(self) -> bool:
        """Whether numbers bring their unit along, as 1.5B."""
        return not self.typed and bool((self._factor != 1).any())

    def numbers(self, mark: Mark) -> pl.Series:
        """The numbers as floats, null where missing; percent signs are not applied."""
        if self.typed:
            values = self.series.cast(pl.Float64)
            return values.set(~values.is_finite().fill_null(False), None)
        text = self._plain.str.replace_all("[ '_,]" if mark == "point" else "[ '_.]", "")
        return text.str.replace(",", ".").cast(pl.Float64, strict=False) * self._factor

    def first_text(self) -> tuple[int, str] | None:
        """Row (from 0) and words of the first cell that is no number with either mark."""
        if self.typed:
            return None
        cells = self._plain
        wrong = ~(
            cells.str.contains(PATTERNS["point"]) | cells.str.contains(PATTERNS["comma"])
        ).fill_null(True)
        rows = wrong.arg_true()
        return (int(rows[0]), str(self.text[int(rows[0])])) if len(rows) else None


_NUMBER = [re.compile(pattern) for pattern in PATTERNS.values()]


def is_missing(cell: str) -> bool:
    """Whether one cell says that there is no value."""
    return cell.strip().lower() in MISSING


def is_number(cell: str) -> bool:
    """Whether one cell is a number with some decimal mark, a percentage, or a number and a unit."""
    plain = re.sub("[\u00a0\u202f\u2009]", " ", cell).strip().replace("−", "-")
    plain = re.sub(UNIT_AFTER_DIGIT, r"\1", re.sub(r"\s*%$", "", plain))
    return any(pattern.match(plain) for pattern in _NUMBER)
