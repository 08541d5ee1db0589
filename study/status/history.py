"""What happened to a study: changes of its runs' states with reasons, its controllers' words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate
from operator import itemgetter
from typing import Any

from sparsing.study.plan.runs import find_run, plan_runs
from sparsing.study.status.run_history import changes_of_state
from sparsing.study.store.control.journal import JOURNAL
from sparsing.study.store.control.lease import holder_of
from sparsing.study.store.study_store import StudyStore


def history(store: StudyStore, run: str | None = None) -> list[str]:
    """A line for each event of a study, or of one run, in the order of their times.

    Raises:
        NotFoundError: the study has no such run.
    """
    if run:
        find_run(plan_runs(store.study), run, store.study_id)
    events = [*_changes(store, run), *([] if run else _said(store))]
    lines = [line for _, line in sorted(events, key=itemgetter(0))]
    holder = holder_of(store.path)
    if holder and not run:
        ended = ", which has ended" if holder.released or holder.process.gone else ""
        lines.append(f"newest controller: {holder.owner}, token {holder.token}{ended}")
    return lines


def _changes(store: StudyStore, run: str | None) -> Iterator[tuple[str, str]]:
    """A line for each change of state, each run's in their order, and the time to sort it by.

    The line says the time of the machine that wrote the row. It is sorted by that time only as
    far as the run's other rows allow it: a shard's clock may be ahead or behind.
    """
    columns = ["run", "written_at", "attempt", "state", "reason", "device"]
    by_run = changes_of_state(store, run, columns).collect().partition_by("run")
    for rows in by_run:
        changes = list(rows.iter_rows(named=True))
        for row, when in zip(changes, _times_in_order(changes), strict=True):
            said = f"{row['run']}: {row['state']}, attempt {row['attempt']}"
            reason = f": {row['reason']}" if row["reason"] else ""
            yield _time_text(when), f"{_time_text(row['written_at'])} {said}{reason}"


def _times_in_order(changes: list[dict[str, Any]]) -> Iterator[datetime]:
    """Times of a run's rows that never decrease; a shard's is not after the next controller's."""
    times = [row["written_at"] for row in changes]
    for i in range(len(times) - 2, -1, -1):
        if changes[i]["device"] is not None:
            times[i] = min(times[i], times[i + 1])
    return accumulate(times, max)


def _time_text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds")


def _said(store: StudyStore) -> Iterator[tuple[str, str]]:
    """What the controllers said, with its time."""
    file = store.path / JOURNAL
    for line in file.read_text("utf-8", "replace").splitlines() if file.exists() else []:
        yield line.partition(" ")[0], line
