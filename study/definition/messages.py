"""The words of messages about a definition: places, values, what is allowed, the nearest name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

from sparsing.study.definition.points import Path

MAX_VALUE_CHARACTERS = 60


def path_text(path: Path) -> str:
    """`axes.scale[2]` for ("axes", "scale", 2)."""
    text = ""
    for piece in path:
        text += f"[{piece}]" if isinstance(piece, int) else f".{_key_text(piece)}"
    return text.removeprefix(".")


def _key_text(key: str) -> str:
    """A key as written, or with escapes where it would break or garble the line."""
    text = key if key.isprintable() else repr(key)[1:-1]
    return _shortened(text)


def value_text(value: Any) -> str:
    """A short one-line spelling of a scalar, as in YAML; empty for mappings and lists."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        return ""
    text = repr(value) if isinstance(value, str) else number_text(value)
    return _shortened(text)


def number_text(value: float) -> str:
    """A number in few characters; integers of any length, which `str` may refuse, by their size."""
    if isinstance(value, int) and abs(value) >= 10**MAX_VALUE_CHARACTERS:
        return f"a number over 1e{MAX_VALUE_CHARACTERS}"
    if math.isinf(value):
        return "infinite, or over 1e308"
    return str(value)


def did_you_mean(word: Any, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the choice nearest to a mistyped word, else nothing.

    Abbreviations count: `peak_lr` is near `peak_learning_rate`.
    """
    if not isinstance(word, str) or not word:
        return ""
    by_case = {choice.lower(): choice for choice in choices}
    short = word.lower()[:100]
    nearest = difflib.get_close_matches(short, by_case, n=1, cutoff=0.6) or [
        choice for choice in by_case if len(short) > 3 and _abbreviates(short, choice)
    ]
    return f"; did you mean '{by_case[nearest[0]]}'?" if nearest else ""


def _abbreviates(short: str, word: str) -> bool:
    """Whether the letters of `short` occur in `word` in this order, from the first one on."""
    letters = iter(word)
    return word[0] == short[0] and all(letter in letters for letter in short)


def nearest_key(word: str, choices: Iterable[str]) -> str | None:
    """The valid key that a mistyped one most likely means."""
    meant = did_you_mean(word, choices)
    return meant.split("'")[1] if meant else None


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 3] + "..."
