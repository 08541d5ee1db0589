"""A log is sealed while commits go on: two logs of a stream at once, and what may befall them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from killed_writers import die_at, go_on, rotate_and_die, visible_prefix
from stores import step_row, tiny_store

from sparsing.study.store.care.check import check_store
from sparsing.study.store.care.repair import repair_store
from sparsing.study.store.files import stream
from sparsing.study.store.format import segments
from sparsing.study.store.study_store import StudyStore


def steps_in(store: StudyStore) -> list[int]:
    return store.scan("steps", "r").collect()["step"].to_list()


def logs_in(store: StudyStore) -> list[Path]:
    return sorted(store.partition("steps", "r").glob("_*.log"))


def two_logs(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 0 to 2, then 3 and 4 in a second log: what a process killed while it seals leaves."""
    with monkeypatch.context() as patch:
        patch.setattr(stream.FileStream, "convert", lambda self: None)
        with store.writer("steps", run="r", attempt=1) as writer:
            for step in range(3):
                writer.append(step, [step_row(step)])
                writer.flush()
            patch.setattr("sparsing.study.store.writer.SEAL_BYTES", 0)
            for step in range(3, 5):
                writer.append(step, [step_row(step)])
                writer.flush()
            patch.setattr("sparsing.study.store.writer.SEAL_BYTES", 4e6)
    assert len(logs_in(store)) == 2


def test_commits_go_on_while_a_log_is_sealed(tmp_path, monkeypatch):
    store, go, began = tiny_store(tmp_path), threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> segments.Draft:
        began.set()
        assert go.wait(30)
        return segments.draft_of(*arguments)

    monkeypatch.setattr(stream, "draft_of", slowly)
    monkeypatch.setattr("sparsing.study.store.writer.SEAL_BYTES", 2000)
    with store.writer("steps", run="r", attempt=1) as writer:
        for step in range(20):
            writer.append(step, [step_row(step)])
            writer.flush()
            assert steps_in(store) == list(range(step + 1))
        assert began.wait(30)
        assert [log.name for log in logs_in(store)] == ["_main-000000.log", "_main-000001.log"]
        assert check_store(store).findings == []
        go.set()
    assert steps_in(store) == list(range(20))
    assert len(list(store.partition("steps", "r").glob("*.parquet"))) > 0
    assert check_store(store).findings == []


def test_the_next_writer_seals_what_a_killed_one_began(tmp_path, monkeypatch):
    store = tiny_store(tmp_path)
    two_logs(store, monkeypatch)
    with store.writer("steps", run="r", attempt=2) as writer:
        assert not writer.append(3, [step_row(3)])
        writer.append(5, [step_row(5)])
    assert [log.name for log in logs_in(store)] == ["_main-000001.log"]
    assert store.count_rows("steps") == 6
    assert store.scan("steps", newest=True).collect()["step"].to_list() == [5]
    store.seal("r")
    assert steps_in(store) == list(range(6))
    assert check_store(store).findings == []


@pytest.mark.parametrize("heal", ["writer", "repair", "compact"])
def test_behind_a_log_that_lost_its_end_nothing_is_seen_and_all_that_is_whole_is_kept(
    tmp_path, monkeypatch, heal
):
    store = tiny_store(tmp_path)
    two_logs(store, monkeypatch)
    first = logs_in(store)[0]
    content = stream.read_log(first.read_bytes())
    os.truncate(first, content.commits[-1].start)
    assert steps_in(store) == [0, 1]
    assert store.count_rows("steps") == 2
    assert {finding.kind for finding in check_store(store).damage} == {"log"}
    if heal == "repair":
        assert len(repair_store(store)) > 0
    elif heal == "compact":
        store.seal("r")
    with store.writer("steps", run="r", attempt=2) as writer:
        assert writer.append(2, [step_row(2)])
        writer.flush()
        assert not writer.append(3, [step_row(3)])
    assert sorted(steps_in(store)) == [0, 1, 2, 3, 4]
    assert check_store(store).damage == []


def test_a_flipped_bit_in_either_log_is_found_and_reads_as_a_prefix(tmp_path, monkeypatch):
    store = tiny_store(tmp_path)
    two_logs(store, monkeypatch)
    for log in logs_in(store):
        whole = log.read_bytes()
        for at in range(0, len(whole), 97):
            log.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            found = steps_in(store)
            assert found == list(range(len(found)))
            assert len(found) < 5
            assert check_store(store).damage
        log.write_bytes(whole)
    assert check_store(store).findings == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "nth"),
    [
        ("pwrite", 3),  # the second log
        ("pwrite", 4),  # what is noted of it
        *(("fsync", nth) for nth in (6, 7, 8, 9, 10)),  # it, the folder, the draft, the folder
        ("link", 1),
        *(("unlink", nth) for nth in (1, 2)),  # the draft, the log
    ],
)
def test_killed_at_each_step_of_sealing_beside_commits(tmp_path, name, nth, when):
    store = tiny_store(tmp_path)
    acknowledged = die_at(tmp_path, rotate_and_die, (name, when, nth))
    assert 0 < len(acknowledged) < 8
    assert visible_prefix(store) > max(acknowledged)
    go_on(store)
