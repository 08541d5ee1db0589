"""Which rows belong to one curve: series told apart by columns, and repeated token counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from sparsing.analysis.curves.errors import UnclearError
from sparsing.analysis.curves.names import WORD
from sparsing.analysis.laws.sparsity import Floats, Integers

Repeats = Literal["newest", "mean"]

RUN_WORDS = {
    "run", "runs", "seed", "series", "model", "experiment", "trial", "replicate", "variant",
    "curve", "group",
}  # fmt: skip
"""A column named by these tells series apart wherever it varies."""
NUMBERED = RUN_WORDS | {"layer", "fold", "rank", "domain"}
"""A column of numbers tells series apart only under such a name."""
ALONG = {
    "time", "date", "timestamp", "created", "updated", "written", "at", "host", "node", "hostname",
    "machine", "version", "commit", "path", "file", "checkpoint", "note", "notes", "comment",
    "message", "status", "state", "reason", "attempt", "index", "step", "steps", "epoch",
}  # fmt: skip
"""Columns that change along one curve."""
DATE = r"^\d{4}-\d\d-\d\d|\d\d?:\d\d"
MOST_SPREAD = 0.2
"""Values at one token count that differ by more than this part are not of one curve."""


def keys_of(frame: pl.DataFrame, tokens: Floats) -> list[str]:
    """The columns that tell series apart, among those of `frame`, row by row with `tokens`."""
    keys: list[str] = []
    for name in frame.columns:
        if _tells_apart(frame[name], certainly=True) and _divides(frame, keys, name):
            keys.append(name)
    maybe = [name for name in frame.columns if _tells_apart(frame[name], certainly=False)]
    found = [name for name in maybe if name not in keys and _alternates(frame, tokens, keys, name)]
    for name in list(found):  # one that follows another is not needed beside it
        others = [other for other in found if other != name]
        if not _alternates(frame, tokens, keys + others, name):
            found = others
    return keys + found


def _alternates(frame: pl.DataFrame, tokens: Floats, keys: list[str], name: str) -> bool:
    """Whether a column's values alternate along the tokens in any group of the keys."""
    parts = (rows for _, rows in groups(frame, keys))
    return any(_mixed(tokens[rows], frame[name].gather(rows)) for rows in parts)


def _divides(frame: pl.DataFrame, keys: list[str], name: str) -> bool:
    """Whether a column divides the rows further than the keys do."""
    if not keys:
        return True
    return frame.select(*keys, name).n_unique() > frame.select(keys).n_unique()


def groups(frame: pl.DataFrame, keys: list[str]) -> list[tuple[tuple[str, ...], Integers]]:
    """Rows of each combination of the keys' values, in the order of the file."""
    if not keys:
        return [((), np.arange(frame.height))]
    labels = frame.select(_label(key) for key in keys)
    found = labels.with_row_index("row").group_by(keys, maintain_order=True).agg("row")
    return [
        (tuple(map(str, row[:-1])), np.asarray(row[-1], dtype=np.int64)) for row in found.rows()
    ]


def _label(key: str) -> pl.Expr:
    return pl.col(key).cast(pl.String).str.strip_suffix(".0").fill_null("")


def separating(frame: pl.DataFrame, tokens: Floats) -> list[str]:
    """Other columns that would tell repeated token counts apart: what --by may name."""
    found = []
    for name in frame.columns:
        values = frame[name].cast(pl.String)
        if 1 < values.n_unique() <= frame.height / 2:
            pairs = pl.DataFrame({"tokens": tokens, "value": values})
            if pairs.n_unique() == frame.height:
                found.append(name)
    return found


def _words(name: str) -> set[str]:
    return {word.lower() for word in WORD.findall(name)}


def _tells_apart(series: pl.Series, *, certainly: bool) -> bool:
    words = _words(series.name)
    distinct = series.n_unique()
    if distinct < 2 or distinct > series.len() / 2 or words & ALONG:
        return False
    numbers = series.dtype.is_numeric()
    named = bool(words & (NUMBERED if numbers else RUN_WORDS))
    if certainly or numbers:
        return named and len(words) <= 3
    return not bool(series.str.contains(DATE).any())


def _mixed(tokens: Floats, labels: pl.Series) -> bool:
    """Whether labels alternate along the tokens, and not one after the other; holes are none."""
    table = pl.DataFrame({"tokens": tokens, "label": labels.cast(pl.String)}).drop_nulls()
    if table["label"].n_unique() < 2:
        return False
    along = table.sort("tokens", maintain_order=True)
    changes = (along["label"] != along["label"].shift(1)).fill_null(False).to_numpy()
    same_count = np.append(False, np.diff(along["tokens"].to_numpy()) == 0)
    many = changes.sum() > table["label"].n_unique() - 1
    return bool(many or (changes & same_count).any())


@dataclass(frozen=True)
class Series:
    """One series by rising token counts, each of them once: (n,) each."""

    tokens: Floats
    ratio: Floats
    weights: Floats | None
    notes: tuple[str, ...] = ()


def without_repeats(
    tokens: Floats, ratio: Floats, weights: Floats | None, repeats: Repeats | None
) -> Series:
    """One value per token count: the newest of a resumed run, or the mean, and which is said.

    Rows are in the order of the file. Raises UnclearError where they may be several series.
    """
    said: list[str] = []
    if repeats is None and (first := _only_copies(tokens, ratio)) is not None:
        said.append(f"{len(tokens) - len(first)} points that repeat others to the digit left out")
        tokens, ratio = tokens[first], ratio[first]
        weights = None if weights is None else weights[first]
    down = np.flatnonzero(np.diff(tokens) < 0) + 1
    if len(down) == len(tokens) - 1:
        tokens, ratio = tokens[::-1], ratio[::-1]
        weights = None if weights is None else weights[::-1]
        down = down[:0]
    twice = len(tokens) - len(np.unique(tokens))
    blocks = 0 < len(down) < max(2, len(tokens) / 4)
    if blocks and repeats is None:
        _check_resume(tokens, ratio, down, twice)
    elif twice and repeats is None:
        _check_spread(tokens, ratio)
    if repeats == "newest" or (blocks and repeats is None):
        kept = _newest(tokens, down if blocks else down[:0])
        left = len(tokens) - len(kept)
        if left:
            said.append(
                f"{twice} token counts come twice or more, as after a resume: the newest values "
                f"are taken, {left} earlier points at or beyond where it went back are left out"
                if blocks
                else f"{twice} repeated token counts: the last value of each is taken"
            )
        tokens, ratio = tokens[kept], ratio[kept]
        weights = None if weights is None else weights[kept]
    elif twice:
        said.append(f"{twice} repeated points at the same token counts: their means are taken")
        tokens, ratio, weights = _means(tokens, ratio, weights)
    elif len(down):
        said.append("rows are not in the order of tokens: they were sorted")
    order = np.argsort(tokens, kind="stable")
    return Series(
        tokens[order], ratio[order], None if weights is None else weights[order], tuple(said)
    )


def _only_copies(tokens: Floats, ratio: Floats) -> Integers | None:
    """Rows without exact copies, where all repeated token counts are such; else None."""
    counts, pairs = np.unique(tokens), np.unique(np.stack([tokens, ratio]), axis=1)
    if not len(counts) == pairs.shape[1] < len(tokens):
        return None
    return np.sort(np.unique(tokens, return_index=True)[1])


def _check_resume(tokens: Floats, ratio: Floats, down: Integers, twice: int) -> None:
    """Refuse rows that go back as other series do, and not as a resumed run does."""
    for start in down:
        before = np.unique(tokens[:start])
        if tokens[start] <= before[min(1, len(before) - 1)]:
            raise UnclearError(
                "several series",
                f"token counts begin again in point {start + 1} (at {tokens[start]:g}), as those "
                "of another run do; say --by COLUMN, or --repeats newest or mean",
            )
    if not twice:
        start = down[0]
        raise UnclearError(
            "several series",
            f"token counts go back in point {start + 1}, from {tokens[start - 1]:g} to "
            f"{tokens[start]:g}, and none comes twice: this may be a resumed run or another one; "
            "say --by COLUMN, or --repeats newest (a resume) or mean (one curve)",
        )
    _check_spread(tokens, ratio)


def _check_spread(tokens: Floats, ratio: Floats) -> None:
    values = (
        pl.DataFrame({"tokens": tokens, "ratio": ratio})
        .group_by("tokens")
        .agg(low=pl.col("ratio").min(), high=pl.col("ratio").max())
    )
    spread = (values["high"] - values["low"]) / values["high"].clip(1e-12)
    widest = int(spread.arg_max() or 0)
    if spread[widest] > MOST_SPREAD:
        row = values.row(widest, named=True)
        raise UnclearError(
            "several series",
            f"at {row['tokens']:g} tokens there are values from {row['low']:g} to "
            f"{row['high']:g}: these are several series; say --by COLUMN, or --repeats",
        )


def _newest(tokens: Floats, down: Integers) -> Integers:
    """Rows that no later row replaces: equal counts, and all beyond the place of a resume."""
    kept = np.ones(len(tokens), bool)
    for start in down:
        kept[:start] &= tokens[:start] < tokens[start]
    order = np.lexsort((np.arange(len(tokens)), tokens))
    same = np.append(np.diff(tokens[order]) == 0, False)
    kept[order[same]] = False
    return np.flatnonzero(kept)


def _means(
    tokens: Floats, ratio: Floats, weights: Floats | None
) -> tuple[Floats, Floats, Floats | None]:
    distinct, place = np.unique(tokens, return_inverse=True)
    w = np.ones_like(ratio) if weights is None else weights
    total = np.asarray(np.bincount(place, w), float)
    mean = np.bincount(place, w * ratio) / total
    return distinct, mean, None if weights is None else total
