"""Runs that differ in their seed alone, pooled: the limit of such a model, and its scatter."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from sparsing.analysis.refitting.newest import newest_fits
from sparsing.study.store.study_store import StudyStore

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class PooledSeeds:
    """The limit of a model by all its seeds; ratios are shares of neurons."""

    model: str
    """Id of its runs without the seed."""
    law: str
    seeds: int
    known: int
    """Seeds whose limit is identified; all must be for a pooled limit."""
    scatter: float | None
    """Standard deviation of the limits over seeds; None with fewer than two known."""
    limit: float | None
    low: float | None
    high: float | None
    """95 % interval of the mean over seeds; None = not identified, or open."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def pool_seeds(store: StudyStore) -> list[PooledSeeds]:
    """The limit of each model with two seeds or more, by the newest fits."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in newest_fits(store).iter_rows(named=True):
        groups.setdefault((row["run"].rpartition("-s")[0], row["law"]), []).append(row)
    return [_pooled(*key, rows) for key, rows in groups.items() if len(rows) > 1]


def _pooled(model: str, law: str, rows: list[dict[str, Any]]) -> PooledSeeds:
    known = [row for row in rows if row["limit_activation_ratio"] is not None]
    values = np.array([row["limit_activation_ratio"] for row in known], dtype=float)
    scatter = float(values.std(ddof=1)) if len(known) > 1 else None
    limit = low = high = None
    if scatter is not None and len(known) == len(rows):
        limit = float(values.mean())
        half = _half_width(known, scatter, limit)
        low = limit - half if limit > half else None
        high = limit + half if limit + half < 1 else None
    return PooledSeeds(
        model=model,
        law=law,
        seeds=len(rows),
        known=len(known),
        scatter=scatter,
        limit=limit if None not in (low, high) else None,
        low=low,
        high=high,
    )


def _half_width(rows: list[dict[str, Any]], scatter: float, limit: float) -> float:
    """Of the mean's interval: scatter over seeds, each limit's own interval, the shared error.

    Seeds are measured on one text, so that their shared error does not shrink with their number.
    The scatter has the own errors in it; the larger of both counts.
    """
    count = len(rows)
    shared = ndtri(0.5 + LEVEL / 2) * max(row["shared_error"] or 0.0 for row in rows) * limit
    widths = [(row["limit_high"] - row["limit_low"]) / 2 for row in rows]
    own = np.sqrt(max(np.mean(np.square(widths)) - shared**2, 0.0) / count)
    between = stdtrit(count - 1, 0.5 + LEVEL / 2) * scatter / np.sqrt(count)
    return float(np.hypot(max(own, between), shared))
