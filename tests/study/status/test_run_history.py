from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import SetClock, state_row, tiny_store, tiny_study, write_rows

from sparsing.study.plan.runs import plan_runs
from sparsing.study.status.run_history import changes_of_state, read_histories
from sparsing.study.status.study_status import newest_states
from sparsing.study.store.study_store import StudyStore

RUN, OTHER = (run.id for run in plan_runs(tiny_study()))
ORDER = ["waiting", "training", "measuring", "planned", "done"]
START = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return tiny_store(tmp_path)


def write_states(
    store: StudyStore, *states: tuple[float, int, str, str | None], ahead_seconds: float = 0.0
) -> None:
    """Rows of: second, attempt, state, kind of failure; `training` is written by the shard.

    ahead_seconds: how far the shard's clock is before the controller's.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sparsing.study.store.rows.datetime", SetClock)
        for second, attempt, state, kind in states:
            shard = state == "training"
            off = ahead_seconds if shard else 0.0
            patched.setattr(SetClock, "time", START + timedelta(seconds=second + off))
            row = state_row(state, failure_kind=kind, world_size=4)
            row |= {"device": "CPU"} if shard else {}
            stream = "shard" if shard else "controller"
            write_rows(store, "runs", RUN, [row], attempt=attempt, stream=stream)


TWO_ATTEMPTS = (
    (0, 1, "waiting", None),
    (30, 1, "training", None),
    (100, 1, "planned", "shard_lost"),
    (101, 2, "waiting", None),
    (111, 2, "training", None),
    (200, 2, "failed", "not_finite"),
    (300, 3, "waiting", None),
    (310, 3, "waiting", None),
)


def test_waits_and_failures_of_all_attempts_are_counted(store):
    write_states(store, *TWO_ATTEMPTS)
    history = read_histories(store, [RUN, OTHER])[RUN]
    assert history.waits_seconds == (30.0, 10.0)
    assert history.failures == {"shard_lost": 1, "not_finite": 1}
    assert history.since == START + timedelta(seconds=300)
    assert history.shards == 4
    assert OTHER not in read_histories(store, [RUN, OTHER])


@pytest.mark.parametrize("ahead_seconds", [3600.0, -3600.0, 86_400.0 * 400])
def test_no_clock_decides_the_order(store, ahead_seconds):
    write_states(store, *TWO_ATTEMPTS, ahead_seconds=ahead_seconds)
    found = changes_of_state(store, RUN, ["attempt", "state"]).collect().rows()
    assert found == [(attempt, state) for _, attempt, state, _ in TWO_ATTEMPTS]
    history = read_histories(store, [RUN])[RUN]
    assert history.waits_seconds == ()  # those clocks cannot be compared
    assert history.since == START + timedelta(seconds=300)


ATTEMPT = st.lists(
    st.sampled_from(["training", "measuring"]), min_size=0, max_size=2, unique=True
).flatmap(lambda told: st.sampled_from([["waiting", *told, end] for end in ("planned", "done")]))


@settings(max_examples=15, deadline=None)
@given(attempts=st.lists(ATTEMPT, min_size=1, max_size=3), seconds=st.data())
def test_whatever_the_clocks_say_the_newest_state_is_the_last_one_entered(attempts, seconds):
    told = [(number, state) for number, states in enumerate(attempts, 1) for state in states]
    told = [(n, s) for n, s in told if s != "training" or (n, "waiting") in told]
    with tempfile.TemporaryDirectory() as folder:
        store = tiny_store(Path(folder))
        clock = st.floats(-1e7, 1e7)
        order = sorted(told, key=lambda row: (row[0], ORDER.index(row[1])))
        write_states(store, *((seconds.draw(clock), n, state, None) for n, state in order))
        assert newest_states(store)[RUN]["state"] == order[-1][1]
        assert changes_of_state(store, RUN, ["attempt", "state"]).collect().rows() == order


def test_a_shard_alone_does_not_bring_a_run_back(store):
    write_states(store, (0, 1, "waiting", None), (5, 1, "training", None), (9, 1, "done", None))
    write_states(store, (99, 2, "training", None))
    assert newest_states(store)[RUN]["state"] == "done"


def test_a_failed_measurement_while_training_is_newer_than_the_shards_row(store):
    write_states(store, (0, 1, "waiting", None), (5, 1, "training", None))
    again = state_row("training", reason="once more", failure_kind="measurer_lost")
    write_rows(store, "runs", RUN, [again], stream="controller")
    assert newest_states(store)[RUN]["reason"] == "once more"


def test_a_run_that_waits_from_its_first_row_on(store):
    write_states(store, (5, 1, "waiting", None))
    history = read_histories(store, [RUN])[RUN]
    assert history.since == START + timedelta(seconds=5)
    assert (history.waits_seconds, history.failures.total()) == ((), 0)
