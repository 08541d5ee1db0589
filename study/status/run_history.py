"""What became of each run so far, from its changes of state: waits, failures, how long it is so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise, takewhile
from typing import Any

from sparsing.study.store.study_store import StudyStore


@dataclass(frozen=True, kw_only=True)
class RunLife:
    """A run's changes of state, summed up."""

    since: datetime
    """When it entered the state it is in."""
    shards: int | None
    """World size of the newest attempt."""
    waits_seconds: tuple[float, ...]
    """How long each attempt waited for its place on the cluster; those that got it."""
    failures: Counter[str]
    """Failures by kind, also of measurements."""


def read_lives(store: StudyStore, runs: list[str]) -> dict[str, RunLife]:
    """The lives of some runs, where the store has any row of `runs` of them."""
    columns = ["run", "state", "failure_kind", "world_size", "written_at"]
    rows = store.scan("runs", runs).select(columns).sort("written_at", maintain_order=True)
    changes: dict[str, list[dict[str, Any]]] = {}
    for row in rows.collect().iter_rows(named=True):
        changes.setdefault(row["run"], []).append(row)
    return {run: _life(rows) for run, rows in changes.items()}


def _life(rows: list[dict[str, Any]]) -> RunLife:
    newest = rows[-1]
    same = list(takewhile(lambda row: row["state"] == newest["state"], reversed(rows)))
    sizes = [row["world_size"] for row in rows if row["world_size"] is not None]
    return RunLife(
        since=same[-1]["written_at"],
        shards=sizes[-1] if sizes else None,
        waits_seconds=tuple(
            (after["written_at"] - before["written_at"]).total_seconds()
            for before, after in pairwise(rows)
            if (before["state"], after["state"]) == ("waiting", "training")
        ),
        failures=Counter(kind for row in rows if (kind := row["failure_kind"])),
    )
