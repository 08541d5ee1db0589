from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stores import SetClock, state_row, tiny_store, tiny_study, write_rows

from sparsing.study.plan.runs import plan_runs
from sparsing.study.status.run_history import read_lives
from sparsing.study.store.study_store import StudyStore

RUN, OTHER = (run.id for run in plan_runs(tiny_study()))
START = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return tiny_store(tmp_path)


def write_states(store: StudyStore, *states: tuple[float, str, str | None]) -> None:
    """Rows of: second, state, kind of failure."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sparsing.study.store.rows.datetime", SetClock)
        for second, state, kind in states:
            patched.setattr(SetClock, "time", START + timedelta(seconds=second))
            write_rows(store, "runs", RUN, [state_row(state, failure_kind=kind, world_size=4)])


def test_waits_and_failures_of_all_attempts_are_counted(store):
    write_states(
        store,
        (0, "waiting", None),
        (30, "training", None),
        (100, "planned", "shard_lost"),
        (101, "waiting", None),
        (111, "training", None),
        (200, "failed", "not_finite"),
        (300, "waiting", None),
        (310, "waiting", None),
    )
    life = read_lives(store, [RUN, OTHER])[RUN]
    assert life.waits_seconds == (30.0, 10.0)
    assert life.failures == {"shard_lost": 1, "not_finite": 1}
    assert life.since == START + timedelta(seconds=300)
    assert life.shards == 4
    assert OTHER not in read_lives(store, [RUN, OTHER])


def test_a_run_that_waits_from_its_first_row_on(store):
    write_states(store, (5, "waiting", None))
    life = read_lives(store, [RUN])[RUN]
    assert (life.since, life.waits_seconds, life.failures.total()) == (
        START + timedelta(seconds=5),
        (),
        0,
    )
