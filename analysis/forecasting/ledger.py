"""The ledger: what was said of runs, kept in the store's table `verdicts`, and how it fared.

`advise` keeps each verdict, `predict --register` each forecast, with the points known by then and
a digest over both. When more tokens have come, each is scored against what was measured since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

from sparsing.analysis.forecasting.advice import Advice
from sparsing.analysis.forecasting.run_advice import known_well
from sparsing.analysis.forecasting.target import Wish
from sparsing.analysis.refitting.fit_rows import weigh_again
from sparsing.analysis.refitting.newest import Curve, newest_fits, read_curves
from sparsing.study.display.table import Table, table
from sparsing.study.store.study_store import StudyStore
from sparsing.study.units import count_text

TABLE = "verdicts"
Score = Literal["held", "missed", "open", "broken seal"]

MORE_TOKENS = 1.25
"""A limit is scored once the tokens measured have grown by this factor."""
SEALED = (
    "run",
    "kind",
    "quantity",
    "at_tokens",
    "at_ratio",
    "precision",
    "absolute",
    "verdict",
    "value",
    "low",
    "high",
    "level",
    "to_tokens_low",
    "to_tokens_high",
    "law",
    "law_verdict",
    "known_tokens",
    "points",
)
"""Columns under the digest, besides the points known."""


@dataclass(frozen=True)
class Scored:
    """An entry of the ledger, and how it fared."""

    entry: dict[str, Any]
    """A row of the table `verdicts`."""
    score: Score
    """`open`: more tokens are needed to tell. `broken seal`: entry or points were changed since."""
    later: str
    """What is known now, in words."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        said = self.entry | {"written_at": str(self.entry["written_at"])}
        return said | {"score": self.score, "later": self.later}


def keep_advice(store: StudyStore, advice: Advice) -> int:
    """Append the verdicts of an advice that are not in the ledger yet; returns their number."""
    wish = advice.wish
    entries = [
        {
            "run": each.run,
            "kind": "advice",
            "quantity": wish.quantity,
            "at_tokens": wish.tokens,
            "at_ratio": wish.ratio,
            "precision": wish.precision,
            "absolute": wish.absolute,
            "verdict": each.verdict,
            "value": each.value,
            "low": each.low,
            "high": each.high,
            "level": each.level,
            "to_tokens_low": each.to_tokens_low,
            "to_tokens_high": each.to_tokens_high,
            "law": each.law,
            "law_verdict": each.law_verdict,
        }
        for each in advice.runs
        if each.points is not None
    ]
    return _append(store, entries)


def register(store: StudyStore, predictions: Mapping[str, Any], level: float = 0.95) -> int:
    """Seal the forecasts of a document of `sparsing predict`; returns the number of new ones."""
    entries = [
        {
            "run": each["run"],
            "kind": "forecast",
            "quantity": "tokens" if "ratio" in each else "ratio",
            "at_tokens": None if "ratio" in each else each["tokens"],
            "at_ratio": each.get("ratio"),
            "precision": None,
            "absolute": None,
            "verdict": each["verdict"],
            "value": each["tokens"] if "ratio" in each else each["activation_ratio"],
            "low": each["interval"][0],
            "high": each["interval"][1],
            "level": level,
            "to_tokens_low": None,
            "to_tokens_high": None,
            "law": each["law"],
            "law_verdict": each["law_verdict"],
        }
        for each in predictions["predictions"]
    ]
    return _append(store, entries)


def _append(store: StudyStore, entries: Iterable[dict[str, Any]]) -> int:
    fits = {(row["run"], row["law"]): row for row in newest_fits(store).iter_rows(named=True)}
    known = {row["digest"] for row in read_ledger(store)}
    appended = 0
    for entry in entries:
        row = fits[entry["run"], entry["law"]]
        points = len(row["rows_tokens"])
        sealed = entry | {"known_tokens": int(row["rows_tokens"][-1]), "points": points}
        digest = digest_of(sealed, row["rows_tokens"], row["rows_activation_ratio"])
        if digest in known:
            continue
        with store.writer(TABLE, run=entry["run"], attempt=row["attempt"]) as writer:
            stored = {name: value for name, value in sealed.items() if name != "run"}
            writer.append(writer.next_seq, [stored | {"digest": digest, "step": row["step"]}])
        appended += 1
    return appended


def digest_of(entry: Mapping[str, Any], tokens: Iterable[int], ratios: Iterable[float]) -> str:
    """SHA-256 over an entry and the points that were known, as hexadecimal digits."""
    told = [entry[name] for name in SEALED]
    told = [float(each) if isinstance(each, int | float) else each for each in told]
    said = [*told, list(map(float, tokens)), list(map(float, ratios))]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def read_ledger(store: StudyStore) -> list[dict[str, Any]]:
    """The entries of a study's ledger, oldest first."""
    rows = store.scan(TABLE).collect().sort("written_at", maintain_order=True)
    return [
        {name: None if _is_nan(value) else value for name, value in row.items()}
        for row in rows.iter_rows(named=True)
    ]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not isfinite(value)


def score(store: StudyStore, kind: Literal["advice", "forecast"] | None = None) -> list[Scored]:
    """How the ledger's entries fared, oldest first."""
    entries = [entry for entry in read_ledger(store) if kind in (None, entry["kind"])]
    if not entries:
        return []
    runs = sorted({entry["run"] for entry in entries})
    curves = read_curves(store, runs)
    fits = {(row["run"], row["law"]): row for row in newest_fits(store, runs).iter_rows(named=True)}
    return list(_scored(entries, curves, fits))


def _scored(
    entries: list[dict[str, Any]],
    curves: dict[str, Curve],
    fits: dict[tuple[str, str], dict[str, Any]],
) -> Iterator[Scored]:
    for entry in entries:
        row, curve = fits.get((entry["run"], entry["law"])), curves.get(entry["run"])
        if row is None or curve is None:
            yield Scored(entry, "open", "its fit is not there any more")
            continue
        known = entry["points"]
        points = row["rows_tokens"][:known], row["rows_activation_ratio"][:known]
        if digest_of(entry, *points) != entry["digest"]:
            yield Scored(
                entry, "broken seal", "the entry, or the points that it knew, have changed"
            )
        elif entry["to_tokens_high"] is not None:
            yield Scored(entry, *_score_extension(entry, row))
        elif entry["quantity"] == "limit":
            yield Scored(entry, *_score_limit(entry, row))
        elif entry["quantity"] == "ratio":
            yield Scored(entry, *_score_ratio(entry, curve))
        else:
            yield Scored(entry, *_score_tokens(entry, curve))


def _inside(entry: Mapping[str, Any], value: float) -> Score:
    above = entry["low"] is None or entry["low"] <= value
    below = entry["high"] is None or value <= entry["high"]
    return "held" if above and below else "missed"


def _score_limit(entry: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[Score, str]:
    """Against the limit that the curve has now, once it is longer; a limit not told is open."""
    if entry["value"] is None:
        return "open", "no limit was told"
    now = row["rows_tokens"][-1]
    if now < MORE_TOKENS * entry["known_tokens"]:
        return "open", f"measured to {now / entry['known_tokens']:.3g} times the tokens known then"
    limit = weigh_again(row).limit()
    if not limit.identified or limit.value is None:
        return "open", "the limit is not identified now"
    return _inside(entry, limit.value), f"limit now {limit.value:.4g}"


def _score_ratio(entry: Mapping[str, Any], curve: Curve) -> tuple[Score, str]:
    """Against what was measured there, between the two nearest checkpoints."""
    at = entry["at_tokens"]
    if entry["value"] is None:
        return "open", "no ratio was told"
    if curve.tokens[-1] < at:
        return "open", f"measured up to {curve.tokens[-1]:.4g} tokens"
    measured = float(np.interp(np.log(at), np.log(curve.tokens), curve.activation_ratio))
    return _inside(entry, measured), f"measured {measured:.4g}"


def _score_tokens(entry: Mapping[str, Any], curve: Curve) -> tuple[Score, str]:
    """Against where the measured curve first passed the ratio, after the points known then."""
    tokens, ratios = np.array(curve.tokens, float), np.array(curve.activation_ratio)
    passed = np.flatnonzero(
        np.sign(ratios - entry["at_ratio"]) != np.sign(ratios[0] - entry["at_ratio"])
    )
    last = float(tokens[-1])
    if not len(passed):
        late = entry["verdict"] == "reached" and entry["high"] is not None and last > entry["high"]
        return ("missed" if late else "open"), f"not reached by {last:.4g} tokens"
    first = float(tokens[passed[0]])
    before = float(tokens[max(passed[0] - 1, 0)])
    said = f"reached between {before:.4g} and {first:.4g} tokens"
    if entry["verdict"] == "never":
        return "missed", said
    low, high = entry["low"], entry["high"]
    early = low is not None and first < low
    late = high is not None and before > high
    return ("missed" if early or late else "held"), said


def _score_extension(entry: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[Score, str]:
    """Whether the quantity came to be known between the tokens that were told."""
    low, high = entry["to_tokens_low"], entry["to_tokens_high"]
    last = row["rows_tokens"][-1]
    if last < high:
        return "open", f"measured up to {last:.4g} tokens"
    wish = Wish(
        tokens=entry["at_tokens"],
        ratio=entry["at_ratio"],
        precision=entry["precision"],
        absolute=bool(entry["absolute"]),
    )
    if not _known_by(row, wish, high):
        return "missed", f"not known by {high:.4g} tokens"
    if low > entry["known_tokens"] and _known_by(row, wish, np.nextafter(low, 0)):
        return "missed", f"known before {low:.4g} tokens"
    return "held", f"known between {low:.4g} and {high:.4g} tokens"


def _known_by(row: Mapping[str, Any], wish: Wish, tokens: float) -> bool:
    """Whether a quantity was known by the points up to some tokens."""
    count = int(np.searchsorted(row["rows_tokens"], tokens, side="right"))
    weights = row["rows_weight"]
    first = {
        "rows_tokens": row["rows_tokens"][:count],
        "rows_activation_ratio": row["rows_activation_ratio"][:count],
        "rows_weight": None if weights is None else weights[:count],
    }
    return known_well(wish, weigh_again(dict(row) | first))


def told(entry: Mapping[str, Any]) -> str:
    """What an entry said, in words: `stop: limit 0.07 [0.065, 0.075]`."""
    what: dict[str, str] = {
        "limit": "limit",
        "ratio": f"ratio at {count_text(entry['at_tokens'] or 0)} tokens",
        "tokens": f"tokens to {entry['at_ratio']}",
    }
    said = f"{entry['verdict']}: {what[entry['quantity']]}"
    if entry["value"] is not None:
        ends = (entry[end] for end in ("low", "high"))
        low, high = ("open" if end is None else f"{end:.4g}" for end in ends)
        said += f" {entry['value']:.4g} [{low}, {high}]"
    if entry["to_tokens_high"] is not None:
        low, high = (count_text(entry[f"to_tokens_{end}"]) for end in ("low", "high"))
        said += f", known at {low} to {high} tokens"
    return said


def scores_table(scored: list[Scored]) -> Table:
    """A line for each entry: when, what was told, how it fared."""
    shown = table(("run", "said at", "told", "law", "fared", "now"))
    for each in scored:
        entry = each.entry
        at = f"{count_text(entry['known_tokens'])} tokens"
        law = f"{entry['law']} {entry['law_verdict']}"
        shown.add(entry["run"], at, told(entry), law, each.score, each.later)
    return shown


def summary(scored: list[Scored]) -> str:
    """`12 told, 7 held, 1 missed, 4 open`."""
    scores = [each.score for each in scored]
    names: tuple[Score, ...] = ("held", "missed", "open", "broken seal")
    counts = [f"{scores.count(name)} {name}" for name in names if name in scores]
    return ", ".join([f"{len(scored)} told", *counts])
