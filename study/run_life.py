"""What became of each run so far, from its changes of state: waits, failures, how long it is so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise, takewhile
from typing import Any

from study.store import StudyStore

FAILURE_KINDS: dict[str, tuple[str, ...]] = {
    "loss": ("the loss is",),
    "memory": ("out of memory", "OutOfMemory"),
    "hung": ("hung", "no step for"),
    "lost": ("was lost", "were lost"),
}
"""Kinds of failure by the words of their reasons; what has none of them is `other`."""
KINDS = (*FAILURE_KINDS, "other")
RESTARTING = "restarting: "
"""How the reason begins with which a failed attempt makes its run `planned` again."""


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
    """Attempts that failed, by KINDS."""


def read_lives(store: StudyStore, runs: list[str]) -> dict[str, RunLife]:
    """The lives of some runs, where the store has any row of `runs` of them."""
    columns = ["run", "state", "reason", "world_size", "written_at"]
    rows = store.scan("runs", runs).select(columns).sort("written_at", maintain_order=True)
    changes: dict[str, list[dict[str, Any]]] = {}
    for row in rows.collect().iter_rows(named=True):
        changes.setdefault(row["run"], []).append(row)
    return {run: _life(rows) for run, rows in changes.items()}


def failure_kind(reason: str) -> str:
    """One of KINDS."""
    found = (kind for kind, words in FAILURE_KINDS.items() if any(w in reason for w in words))
    return next(found, "other")


def _life(rows: list[dict[str, Any]]) -> RunLife:
    newest = rows[-1]
    same = list(takewhile(lambda row: row["state"] == newest["state"], reversed(rows)))
    sizes = [row["world_size"] for row in rows if row["world_size"] is not None]
    failed = [row["reason"] or "" for row in rows if _is_failure(row)]
    return RunLife(
        since=same[-1]["written_at"],
        shards=sizes[-1] if sizes else None,
        waits_seconds=tuple(
            (after["written_at"] - before["written_at"]).total_seconds()
            for before, after in pairwise(rows)
            if (before["state"], after["state"]) == ("waiting", "training")
        ),
        failures=Counter(map(failure_kind, failed)),
    )


def _is_failure(row: dict[str, Any]) -> bool:
    restarted = row["state"] == "planned" and (row["reason"] or "").startswith(RESTARTING)
    return row["state"] == "failed" or restarted
