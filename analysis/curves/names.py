"""Which columns hold token counts and activation ratios, by the whole words of their names.

`train/tokens_seen (billions)` has the words tokens and seen and the unit B; `duration` has the one
word duration. A name with words that are not known here is never guessed: the user is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Kind = Literal["tokens", "steps", "ratio", "sparsity", "value", ""]

UNITS = {
    "k": "K", "thousand": "K", "thousands": "K",
    "million": "M", "millions": "M", "mn": "M", "mio": "M",
    "m": "M", "b": "B", "billion": "B", "billions": "B", "bn": "B",
    "g": "B", "giga": "B", "mrd": "B",
    "trillion": "T", "trillions": "T", "tn": "T",
}  # fmt: skip
CAPITAL_UNITS = {"K": "K", "M": "M", "B": "B", "G": "B", "T": "T"}
POWERS = {3: "K", 6: "M", 9: "B", 12: "T"}
POWER = re.compile(r"[x×*·]?\s*(?:1e\+?|10\s*(?:\^|\*\*)\s*)0*(3|6|9|12)(?!\d)")
SUPERSCRIPTS = {ord(raised): f"^{digit}" for raised, digit in zip("³⁶⁹", "369", strict=True)}
WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+|%")
PERCENT = {"%", "percent", "percentage", "pct"}

TOKENS = {"tokens", "token"}
WITH_TOKENS = {
    "training", "train", "trained", "seen", "passed", "processed", "consumed", "total", "num",
    "n", "number", "no", "of", "count", "counts", "cumulative", "cum", "so", "far", "all", "global",
    "the", "in", "x", "nr",
}  # fmt: skip
TOKEN_KEYS = {("d",), ("ntokens",), ("ntok",), ("tok",)}
STEP_WORDS = {"step", "steps", "iteration", "iterations", "iter", "iters"}
NOT_OF_TRAINING = {
    "throughput", "speed", "perf", "performance", "rate", "val", "valid", "validation", "eval",
    "evaluation", "test", "batch", "per",
}  # fmt: skip
"""Sections under which tokens are no training tokens."""
WITH_STEP = {"global", "training", "train", "trainer", "optimizer", "n", "num"}
ACTIVE = {"activation", "activations", "activated", "active", "act"}
SHARE = {"ratio", "ratios", "rate", "fraction", "share", "proportion", "density"} | PERCENT
WITH_RATIO = {
    "mean", "avg", "average", "overall", "neuron", "neurons", "ffn", "mlp", "of", "the", "model",
    "final", "live", "in",
}  # fmt: skip
SPARSE = {"sparsity"}
WITH_SPARSITY = WITH_RATIO | ACTIVE | SHARE | {"level"}
VALUE_KEYS = {("activation",), ("ratio",), ("act",), ("a",), ("value",), ("values",), ("y",)}


@dataclass(frozen=True)
class ColumnName:
    """A column's name, taken apart."""

    name: str

    @cached_property
    def _parts(self) -> tuple[str, str | None]:
        """The name without its unit, and the unit if it is written as a power of ten."""
        name = self.name.translate(SUPERSCRIPTS)
        power = POWER.search(name)
        if power is None:
            return name, None
        before = name[: power.start()].rstrip(" /([{_-·*×x")
        return before + name[power.end() :], POWERS[int(power[1])]

    @cached_property
    def _path(self) -> list[list[str]]:
        """Words of each section of the name: `a/b` has two."""
        sections = re.split(r"[/:]+", self._parts[0])
        words = [WORD.findall(section) for section in sections]
        return [section for section in words if section] or [[]]

    @cached_property
    def _leaf(self) -> list[str]:
        leaf = self._path[-1]
        if len(self._path) > 1 and len(leaf) == 1 and _unit(leaf[0]):  # tokens/B
            return [*self._path[-2], *leaf]
        return leaf

    @property
    def depth(self) -> int:
        """How many sections stand before the name itself."""
        return len(self._path) - 1

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of the last section in small letters, those of token counts without units."""
        leaf = self._leaf
        counts = [i for i, word in enumerate(leaf) if word.lower() in TOKENS]
        kept = [word.lower() for i, word in enumerate(leaf) if not (i and _unit(word))]
        if not counts and tuple(kept) not in TOKEN_KEYS:
            return tuple(word.lower() for word in leaf)
        return tuple(kept[:-1] if len(kept) > 1 and kept[-1] in ("of", "in") else kept)

    @cached_property
    def unit(self) -> str | None:
        """K, M, B or T where the name says so."""
        if self._parts[1] is not None:
            return self._parts[1]
        units = [unit for word in self._leaf[1:] if (unit := _unit(word))]
        joined = re.match(r"^(giga|[GMBKT])(?=[Tt]ok)", self.name)
        if joined:
            units.append(_unit(joined[1]) or "")
        return units[-1] if units else None

    @cached_property
    def percent(self) -> bool:
        """Whether the name says that the numbers are percentages."""
        return bool(PERCENT & set(self.words))

    @cached_property
    def kind(self) -> Kind:
        """What a column of this name holds, as far as all its words are known."""
        words = set(self.words)
        sections = {word.lower() for section in self._path[:-1] for word in section}
        if sections & NOT_OF_TRAINING and words & (TOKENS | STEP_WORDS):
            return ""
        if self.words in TOKEN_KEYS or (words & TOKENS and words <= TOKENS | WITH_TOKENS):
            return "tokens"
        if words & STEP_WORDS and words <= STEP_WORDS | WITH_STEP:
            return "steps"
        if words & SPARSE and words <= SPARSE | WITH_SPARSITY and not self._activation_ratio:
            return "sparsity"
        if words & ACTIVE and words & SHARE and words <= ACTIVE | SHARE | WITH_RATIO | SPARSE:
            return "ratio"
        return "value" if self.words in VALUE_KEYS and not sections & SPARSE else ""

    @property
    def _activation_ratio(self) -> bool:
        """Whether a word for active is followed at once by one for a share."""
        pairs = zip(self.words, self.words[1:], strict=False)
        return any(first in ACTIVE and second in SHARE for first, second in pairs)

    @property
    def nameless(self) -> bool:
        """Whether the name says nothing: none in the file, or a number."""
        return bool(re.fullmatch(r"(column )?\d+|", self.name))

    @property
    def index(self) -> bool:
        """Whether this is the row number that pandas writes."""
        return self.words in {("index",), ("unnamed", "0"), ("index", "level", "0")}


def _unit(word: str) -> str | None:
    return CAPITAL_UNITS.get(word) or UNITS.get(word.lower())
