"""Disks that refuse, fail and lie at any call; readers, sealers and compactors all at once."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from stores import SetClock, step_row, tiny_store

from sparsing.study.store.care.check import check_store
from sparsing.study.store.files import stream
from sparsing.study.store.files.stream import FileStream
from sparsing.study.store.format import partition, segments
from sparsing.study.store.io import durable as commits
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.writer import StoreError

ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS)
CALLS = ("open", "pwrite", "fsync", "fdatasync", "ftruncate", "link", "listdir", "stat")
MODULES = (commits, partition, segments, stream)


class FaultyOs:
    """`os`, whose calls fail with a probability: before or after they do their work, or halfway."""

    def __init__(self, seed: int, probability: float) -> None:
        self._chance, self._probability = random.Random(seed), probability
        self.faults = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._faulty(name, real) if name in CALLS else real

    def _faulty(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._chance.random() >= self._probability:
                return real(*arguments, **named)
            self.faults += 1
            if name == "pwrite":
                descriptor, data, offset = arguments
                written = os.pwrite(descriptor, data[: self._chance.randrange(len(data))], offset)
                if written and self._chance.random() < 0.3:
                    return written
            elif name in ("fsync", "fdatasync", "ftruncate") and self._chance.random() < 0.5:
                real(*arguments, **named)
            raise OSError(self._chance.choice(ERRORS), "injected")

        return call


@contextmanager
def faulty_disk(seed: int, probability: float) -> Iterator[FaultyOs]:
    disk = FaultyOs(seed, probability)
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(module, "os", disk)
        patch.setattr("sparsing.study.store.writer.LAST_RETRY_SECONDS", 0.05)
        yield disk


def whole(store: StudyStore) -> StudyStore:
    """Asserts that a check finds nothing that breaks a promise."""
    assert check_store(store).damage == []
    return store


def steps_in(store: StudyStore) -> list[int]:
    return store.scan("steps", "r").collect()["step"].to_list()


def write_on_a_faulty_disk(store: StudyStore, seed: int) -> int:
    """Append until 40 steps are acknowledged, over several writers; the faults that came."""
    chance, acknowledged, faults = random.Random(seed), -1, 0
    while acknowledged < 39:
        with faulty_disk(chance.randrange(2**32), 0.0) as disk:
            writer = store.writer("steps", run="r", attempt=1, commit_seconds=0.001)
            disk._probability = 0.08
            for seq in range(acknowledged + 1, min(acknowledged + 12, 40)):
                writer.append(seq, [step_row(seq)])
                if chance.random() < 0.5:
                    writer.flush()
                    acknowledged = seq
                    disk._probability, before = 0.0, disk._probability
                    assert steps_in(store)[: seq + 1] == list(range(seq + 1))
                    disk._probability = before
                if chance.random() < 0.1:
                    writer._seal()
            disk._probability = 0.0
            if chance.random() < 0.3:
                store.seal("r")
            writer.close()
            acknowledged, faults = seq, faults + disk.faults
    return faults


@pytest.mark.parametrize("seed", range(3))
def test_calls_that_fail_at_random_lose_and_double_nothing(tmp_path, seed):
    store = tiny_store(tmp_path)
    assert write_on_a_faulty_disk(store, seed) > 0
    assert steps_in(whole(store)) == list(range(40))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 103))
def test_many_calls_that_fail_at_random_lose_and_double_nothing(tmp_path, seed):
    test_calls_that_fail_at_random_lose_and_double_nothing(tmp_path, seed)


def test_a_disk_that_hangs_holds_up_neither_append_nor_readers(tmp_path, monkeypatch):
    store, answers = tiny_store(tmp_path), threading.Event()
    with store.writer("steps", run="r", attempt=1, commit_seconds=0.001) as writer:
        writer.append(0, [step_row(0)])
        writer.flush()

        def hang(descriptor: int) -> None:
            answers.wait()
            os.fdatasync(descriptor)

        slow: Any = FaultyOs(0, 0.0)
        slow.fdatasync = hang
        monkeypatch.setattr(stream, "os", slow)
        for seq in range(1, 40):
            writer.append(seq, [step_row(seq)])
            found = steps_in(store)
            assert found == list(range(len(found)))
        assert 39 not in writer._durable
        answers.set()
    assert steps_in(whole(store)) == list(range(40))


def test_a_clock_that_is_set_back_loses_and_doubles_nothing(tmp_path, monkeypatch):
    store, now, now_ns = tiny_store(tmp_path), time.time, time.time_ns
    for life in range(4):  # each an hour before the one before it, and replaying a step
        monkeypatch.setattr("time.time", lambda back=3600 * life: now() - back)
        monkeypatch.setattr("time.time_ns", lambda back=3600 * life: now_ns() - back * 10**9)
        monkeypatch.setattr(SetClock, "time", datetime(2030, 1, 1, 12 - life, tzinfo=UTC))
        monkeypatch.setattr("sparsing.study.store.rows.datetime", SetClock)
        with store.writer("steps", run="r", attempt=1 + life) as writer:
            for seq in range(max(0, 3 * life - 1), 3 * life + 3):
                writer.append(seq, [step_row(seq)])
            writer.flush()
            if life % 2:
                writer._seal()
    assert steps_in(whole(store)) == list(range(12))
    store.seal("r")
    assert steps_in(whole(store)) == list(range(12))


@pytest.mark.parametrize("name", ["pwrite", "fdatasync", "fsync", "link"])
def test_nothing_is_acknowledged_that_is_not_durable(tmp_path, name, monkeypatch):
    """Every call of a kind fails: rows wait, and what was there before is there."""
    store = tiny_store(tmp_path)
    with store.writer("steps", run="r", attempt=1, patience_seconds=0.1) as writer:
        writer.append(0, [step_row(0)])
        writer.flush()

        def fail(*arguments: Any) -> None:
            raise OSError(errno.EIO, "injected")

        faulty = FaultyOs(0, 0.0)
        setattr(faulty, name, fail)
        for module in MODULES:
            monkeypatch.setattr(module, "os", faulty)
        if name in ("fsync", "link"):
            writer._seal()
        else:
            writer.append(1, [step_row(1)])
            with pytest.raises(StoreError, match="injected"):
                writer.flush()
            assert not writer.has(1)
        monkeypatch.undo()
    assert steps_in(whole(store)) == ([0, 1] if name in ("pwrite", "fdatasync") else [0])


def read_while(store: StudyStore, work: list[Callable[[], None]], readers: int = 2) -> int:
    """Run work in threads, and read all along; every read is a prefix, longer than the last."""
    done, errors, reads = threading.Event(), [], [0]

    def read() -> None:
        last = 0
        while not done.is_set():
            steps = steps_in(store)
            if steps != list(range(len(steps))) or len(steps) < last:
                errors.append(AssertionError(f"{last} steps, then {steps}"))
                return
            last = len(steps)
            assert store.count_rows("steps") >= last
            reads[0] += 1

    def guarded(do: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            try:
                do()
            except BaseException as error:
                errors.append(error)

        return call

    reading = [threading.Thread(target=guarded(read)) for _ in range(readers)]
    working = [threading.Thread(target=guarded(each)) for each in work]
    for thread in reading + working:
        thread.start()
    for thread in working:
        thread.join()
    done.set()
    for thread in reading:
        thread.join()
    assert errors == []
    return reads[0]


def seal_and_compact(store: StudyStore, seconds: float) -> int:
    """A writer that seals, and two compactors, while there are readers; the reads made."""
    end = time.monotonic() + seconds
    written = [0]

    def write() -> None:
        with store.writer("steps", run="r", attempt=1, commit_seconds=0.001) as writer:
            while time.monotonic() < end:
                writer.append(written[0], [step_row(written[0])])
                written[0] += 1
                if written[0] % 4 == 0:
                    writer.flush()
                if written[0] % 12 == 0:
                    writer._seal()

    def compact() -> None:
        while time.monotonic() < end:
            store.seal("r")
            time.sleep(0.01)

    reads = read_while(store, [write, compact, compact])
    assert steps_in(whole(store)) == list(range(written[0]))
    return reads


def test_readers_see_no_error_while_a_stream_is_sealed_and_compacted_twice(tmp_path):
    assert seal_and_compact(tiny_store(tmp_path), 2.0) > 20


@pytest.mark.slow
def test_ten_thousand_reads_while_a_stream_is_sealed_and_compacted(tmp_path):
    store, reads = tiny_store(tmp_path), 0
    while reads < 10_000:
        reads += seal_and_compact(tiny_store(tmp_path / str(reads)), 10.0)
    assert steps_in(store) == []


def test_a_log_of_another_schema_is_sealed_before_the_next_commit(tmp_path):
    store = tiny_store(tmp_path)
    with store.writer("steps", run="r", attempt=1) as writer:
        writer.append(0, [step_row(0)])
        writer.flush()
        newer = writer._encoder._table.schema.with_metadata({"sparsing.version": "9"})
        batch = writer._encoder.batch([writer._encoder.encode([step_row(1)])])
        disk = FileStream(store.path, "steps", "r", "main")
        with disk.locked():
            disk.prepare()
            disk.append([(1, 1)], batch.cast(newer))
        writer.append(2, [step_row(2)])
    assert sorted(os.listdir(store.partition("steps", "r")))[0] == "_main-000002.log"
    assert steps_in(store) == [0, 1, 2]
    assert [f.kind for f in check_store(store).findings] == ["version"]


def test_a_log_beside_its_segment_takes_no_more_commits(tmp_path):
    """As after a sealer that was killed between linking the segment and unlinking the log."""
    store = tiny_store(tmp_path)
    with store.writer("steps", run="r", attempt=1) as writer:
        writer.append(0, [step_row(0)])
        writer.flush()
        (log,) = store.partition("steps", "r").iterdir()
        os.link(log, tmp_path / "kept")
        store.seal("r")
        os.link(tmp_path / "kept", log)
        writer.append(1, [step_row(1)])
        writer.flush()
    assert steps_in(whole(store)) == [0, 1]


def test_age_and_size_seal_a_log(tmp_path, monkeypatch):
    store = tiny_store(tmp_path)
    for name in ("SEAL_SECONDS", "SEAL_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(f"sparsing.study.store.writer.{name}", 0.0)
            with store.writer("steps", run="r", attempt=1) as writer:
                for _ in range(3):
                    writer.append(writer.next_seq, [step_row(writer.next_seq)])
                    writer.flush()
                    time.sleep(0.05)
    files = os.listdir(store.partition("steps", "r"))
    assert len([name for name in files if name.endswith(".parquet")]) >= 5
    assert len(steps_in(whole(store))) == 6
