from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raising import raises
from stores import fit_row, step_row, tiny_store

from sparsing.study.errors import DefinitionError
from sparsing.study.store.io import durable as commits
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES
from sparsing.study.store.writer import StoreError, TableWriter
from sparsing.study.version import code_version


def open_writer(store: StudyStore, **changes: object) -> TableWriter:
    return store.writer("steps", **({"run": "r", "attempt": 1} | changes))


def steps_in(store: StudyStore) -> list[int]:
    return sorted(store.scan("steps", "r").collect()["step"].to_list())


def test_flushed_rows_are_there_with_their_provenance(tmp_path):
    store = tiny_store(tmp_path)
    with open_writer(store, attempt=3) as writer:
        assert writer.append(7, [step_row(7), step_row(7, loss=2.0)])
        writer.flush()
        rows = store.scan("steps").collect().to_dicts()
        assert (writer.has(7), writer.has(8), writer.next_seq) == (True, False, 8)
    assert [row["loss"] for row in rows] == [0.625, 2.0]
    for row in rows:
        assert (row["run"], row["attempt"]) == ("r", 3)
        assert row["code_version"] == code_version()
        assert abs(row["written_at"].timestamp() - time.time()) < 60
        assert row["memory_bytes"] is None


def test_rows_become_visible_without_a_flush(tmp_path):
    store = tiny_store(tmp_path)
    with open_writer(store, commit_seconds=0.05) as writer:
        writer.append(0, [step_row(0)])
        deadline = time.monotonic() + 20
        while not writer.has(0) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert steps_in(store) == [0]


def test_replayed_steps_are_no_ops(tmp_path):
    store = tiny_store(tmp_path)
    with open_writer(store) as writer:
        assert [writer.append(step, [step_row(step)]) for step in (0, 1, 1, 2)] == [1, 1, 0, 1]
    with open_writer(store, attempt=2) as writer:
        assert writer.next_seq == 3
        assert [writer.append(step, [step_row(step)]) for step in range(1, 5)] == [0, 0, 1, 1]
    frame = store.scan("steps").collect()
    assert frame["step"].to_list() == [0, 1, 2, 3, 4]
    assert frame["attempt"].to_list() == [1, 1, 1, 2, 2]


def test_streams_do_not_know_of_each_other(tmp_path):
    store = tiny_store(tmp_path)
    with open_writer(store) as main, open_writer(store, stream="main2") as other:
        assert main.append(0, [step_row(0)])
        main.flush()
        assert not other.has(0)
        assert other.append(0, [step_row(0)])
    assert steps_in(store) == [0, 0]


def test_has_sees_the_commits_of_other_writers(tmp_path):
    store = tiny_store(tmp_path)
    with open_writer(store) as one, open_writer(store) as other:
        one.append(3, [step_row(3)])
        one.flush()
        assert other.has(3)
        assert not other.append(3, [step_row(3)])


def test_a_number_without_rows_is_remembered(tmp_path):
    store = tiny_store(tmp_path)
    with open_writer(store) as writer:
        writer.append(4, [])
    with open_writer(store) as writer:
        assert writer.has(4)
        assert not writer.append(4, [step_row(4)])
    assert steps_in(store) == []


operations_strategy = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 25)),
        st.sampled_from(["flush", "reopen", "seal"]),
    ),
    max_size=40,
)


@given(operations=operations_strategy)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_order_of_appends_flushes_and_restarts_gives_each_number_once(
    tmp_path_factory, operations
):
    store = tiny_store(tmp_path_factory.mktemp("store"))
    attempt, expected = 1, {}
    writer = open_writer(store)
    for operation in operations:
        if operation == "flush":
            writer.flush()
        elif operation == "seal":
            store.seal("r")
        elif operation == "reopen":
            writer.close()
            attempt += 1
            writer = open_writer(store, attempt=attempt)
        else:
            _, seq = operation
            assert writer.append(seq, [step_row(seq)] * 2) == (seq not in expected)
            expected.setdefault(seq, attempt)
        assert writer.next_seq == max(expected, default=-1) + 1
    writer.close()
    rows = store.scan("steps").select("step", "attempt").collect().rows()
    assert sorted(rows) == sorted(2 * list(expected.items()))
    assert all(writer.has(seq) for seq in expected)
    assert not any(writer.has(seq) for seq in set(range(27)) - set(expected))


@pytest.mark.parametrize(
    ("row", "code", "column"),
    [
        (step_row(1) | {"los": 1.0}, "unknown_column", "los"),
        (step_row(1) | {"run": "r"}, "unknown_column", "run"),
        (step_row(1, loss=None), "missing_value", "loss"),
        ({"step": 1}, "missing_value", "tokens"),
        (step_row(1, loss="low"), "wrong_value", "loss"),
        (step_row(1.5), "wrong_value", "step"),
    ],
)
def test_rows_that_do_not_fit_are_refused_when_they_are_appended(tmp_path, row, code, column):
    store = tiny_store(tmp_path)
    with open_writer(store) as writer:
        with raises(DefinitionError, code, column=column):
            writer.append(0, [step_row(0), row])
        assert writer.append(0, [step_row(0)])  # nothing of the refused one was taken
    assert steps_in(store) == [0]


def test_lists_of_integers_are_of_integers(tmp_path):
    store = tiny_store(tmp_path)
    with (
        store.writer("fits", run="r", attempt=1) as writer,
        raises(DefinitionError, "wrong_value", column="rows_tokens"),
    ):
        writer.append(0, [fit_row(1, rows_tokens=[1, 2.5])])


@pytest.mark.parametrize("seq", [-1, 1.0, "1", True, None, 2**63])
def test_sequence_numbers_are_whole(tmp_path, seq):
    with open_writer(tiny_store(tmp_path)) as writer, pytest.raises(DefinitionError):
        writer.append(seq, [])


def test_unknown_tables_list_the_tables(tmp_path):
    with raises(DefinitionError, "unknown_table", table="step", known=list(TABLES)):
        tiny_store(tmp_path).writer("step", run="r", attempt=1)


def test_two_writers_of_one_stream_publish_each_number_once(tmp_path):
    store = tiny_store(tmp_path)

    def write(attempt: int) -> None:
        with open_writer(store, attempt=attempt) as writer:
            for step in range(60):
                writer.append(step, [step_row(step)])
                if step % (2 + attempt) == 0:
                    writer.flush()

    threads = [threading.Thread(target=write, args=(attempt,)) for attempt in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps_in(store) == list(range(60))


def test_a_reader_sees_whole_appends_in_order_while_they_are_written(tmp_path):
    store, done = tiny_store(tmp_path), threading.Event()

    def write() -> None:
        with open_writer(store, commit_seconds=0.001) as writer:
            for step in range(150):
                writer.append(step, [step_row(step)] * 3)
                time.sleep(0.002)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reads = 0
    while not done.is_set():
        steps = store.scan("steps").collect()["step"].to_list()
        assert steps == [step for step in range(len(steps) // 3) for _ in range(3)]
        reads += 1
    thread.join()
    assert reads > 1
    assert len(steps_in(store)) == 450


def block(store: StudyStore) -> Path:
    """Put a file where the writer's folder for temporary files would be: a disk that refuses."""
    folder = store.path / ".writing" / "steps"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    return folder


def test_rows_wait_for_a_disk_that_refuses_and_are_there_once_when_it_does_not(tmp_path):
    store = tiny_store(tmp_path)
    obstacle = block(store)
    with open_writer(store, patience_seconds=0.3, commit_seconds=0.01) as writer:
        writer.append(0, [step_row(0)])
        with pytest.raises(StoreError, match=r"table steps, run r: 1 appends.*Not a directory"):
            writer.flush()
        with pytest.raises(StoreError):
            writer.append(1, [step_row(1)])
        obstacle.unlink()
        writer.flush()
        assert writer.append(1, [step_row(1)])
    assert steps_in(store) == [0, 1]


def test_a_full_buffer_makes_append_wait_and_drops_nothing(tmp_path):
    store = tiny_store(tmp_path)
    obstacle = block(store)
    with open_writer(store, patience_seconds=30, max_buffer_bytes=10_000) as writer:
        appended: list[int] = []

        def write() -> None:
            for step in range(50):
                writer.append(step, [step_row(step)])
                appended.append(step)

        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(0.3)
        assert 0 < len(appended) < 10
        obstacle.unlink()
        thread.join(timeout=20)
        assert len(appended) == 50
    assert steps_in(store) == list(range(50))


def test_closing_says_what_is_lost(tmp_path):
    store = tiny_store(tmp_path)
    block(store)
    writer = open_writer(store, patience_seconds=0.1)
    writer.append(0, [step_row(0)])
    with pytest.raises(StoreError, match="1 appends could not be stored"):
        writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.append(1, [step_row(1)])


def test_the_error_of_the_body_is_the_one_that_is_raised(tmp_path):
    store = tiny_store(tmp_path)
    block(store)

    def body() -> None:
        with open_writer(store, patience_seconds=1e6) as writer:
            writer.append(0, [step_row(0)])
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        body()
    assert "could not be stored" in raised.value.__notes__[0]


def test_a_stuck_writer_of_the_same_stream_is_named(tmp_path):
    store = tiny_store(tmp_path)
    lock = store.path / ".writing" / "steps" / "r" / "main.lock"
    with open_writer(store, patience_seconds=0.2) as writer:
        with commits.stream_lock(lock):
            writer.append(0, [step_row(0)])
            with pytest.raises(StoreError, match="another writer holds"):
                writer.flush()
        writer.flush()
    assert steps_in(store) == [0]


def test_what_killed_writers_left_is_removed_by_age(tmp_path):
    store = tiny_store(tmp_path)
    open_writer(store).close()
    scratch = store.path / ".writing" / "steps" / "r"
    scratch.mkdir(parents=True, exist_ok=True)
    old, young = scratch / "old.tmp", scratch / "young.tmp"
    for file in (old, young):
        file.write_bytes(b"half a comm")
    os.utime(old, (time.time() - 3600,) * 2)
    assert store.scan("steps").collect().height == 0
    open_writer(store).close()
    assert (old.exists(), young.exists()) == (False, True)
