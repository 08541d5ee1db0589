"""What became of each run so far, from its changes of state.

Rows of `runs` come from several machines, whose clocks differ. Their order is therefore that of
attempts and, within an attempt, of the rules by which they are written; no clock decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from typing import Any

import polars as pl

from sparsing.study.store.study_store import StudyStore

Changes = list[dict[str, Any]]
"""Rows of `runs` of one run, in their order."""


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """A run's changes of state, summed up."""

    since: datetime
    """When it entered its state, by the clock of the machine that wrote so."""
    shards: int | None
    """World size of the newest attempt."""
    waits_seconds: tuple[float, ...]
    """How long each attempt waited for its place on the cluster; those that got it. An attempt
    whose shard's clock is seen to differ from the controller's is left out."""
    failures: Counter[str]
    """Failures by kind, also of measurements."""


def changes_of_state(
    store: StudyStore, runs: str | Sequence[str] | None = None, columns: Sequence[str] = ()
) -> pl.LazyFrame:
    """Rows of `runs` of all runs or some, each run's from the oldest to the newest.

    An attempt begins with the controller's `waiting`. Then its shard 0 says `training`, and on what
    device. All that follows (the controller's `training` after a failed measurement, `measuring`,
    `done`, `planned`, `failed`, `stopped`) is written after the shard's row. Rows of one writer
    are in the order in which they were committed. Attempts of which the store has no row of a
    controller come first: a shard alone cannot bring a run that has ended back to training.
    """
    waiting, training = pl.col("state") == "waiting", pl.col("state") == "training"
    by_shard = training & pl.col("device").is_not_null()
    opened = (~by_shard).any().over("run", "attempt")
    after_waiting, after_shard = ~waiting, ~waiting & ~by_shard
    phase = pl.sum_horizontal(after_waiting, after_shard, after_shard & ~training)
    ordered = store.scan("runs", runs).sort("run", opened, "attempt", phase, maintain_order=True)
    return ordered.select(columns) if columns else ordered


def read_histories(store: StudyStore, runs: list[str]) -> dict[str, RunHistory]:
    """The histories of some runs, where the store has any row of `runs` of them."""
    columns = ["run", "attempt", "state", "failure_kind", "world_size", "written_at"]
    changes: dict[str, Changes] = {}
    for row in changes_of_state(store, runs, columns).collect().iter_rows(named=True):
        changes.setdefault(row["run"], []).append(row)
    return {run: _history(rows) for run, rows in changes.items()}


def _history(rows: Changes) -> RunHistory:
    newest = rows[-1]
    same = list(takewhile(lambda row: row["state"] == newest["state"], reversed(rows)))
    sizes = [row["world_size"] for row in rows if row["world_size"] is not None]
    return RunHistory(
        since=same[-1]["written_at"],
        shards=sizes[-1] if sizes else None,
        waits_seconds=tuple(_waits(rows)),
        failures=Counter(kind for row in rows if (kind := row["failure_kind"])),
    )


def _waits(rows: Changes) -> list[float]:
    """Seconds from `waiting` to `training` of each attempt, where the two clocks may be compared.

    The shard's clock is refused where its time is not between the controller's rows around it.
    """
    times = [*(row["written_at"] for row in rows[1:]), datetime.now(UTC)]
    waits = []
    for (before, training), after in zip(pairwise(rows), times[1:], strict=True):
        if (before["state"], training["state"]) == ("waiting", "training"):
            start, end = before["written_at"], training["written_at"]
            if start <= end <= after:
                waits.append((end - start).total_seconds())
    return waits
