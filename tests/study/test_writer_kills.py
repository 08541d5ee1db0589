"""Writers that are really killed: what was acknowledged is there, and everything is there once."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from stores import step_row, tiny_store

import study.writer
from study import commits
from study.store import StudyStore
from study.store_check import check_store

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["study.store"])
KILLS, SLOW_KILLS = 25, 1000


def rows_of(seq: int) -> list[dict[str, object]]:
    """One to three rows, the same for the same number, as replayed steps are."""
    return [step_row(seq, loss=float(part)) for part in range(1 + seq % 3)]


def write_until_killed(root: Path, seed: int, acknowledgements: Connection) -> None:
    """Go on where a run's rows end, or some steps before; say which numbers are durable."""
    chance = random.Random(seed)
    study.writer.SEAL_SECONDS = 0.03
    store = StudyStore.open(root, "tiny")
    writer = store.writer("steps", run="r", attempt=seed + 1, commit_seconds=0.01)
    seq = max(0, writer.next_seq - chance.randrange(20))
    acknowledgements.send(-1)
    while True:
        writer.append(seq, rows_of(seq))
        if chance.random() < 0.3:
            writer.flush()
            acknowledgements.send(seq)
        seq += 1


def compact_until_killed(root: Path, seed: int) -> None:
    chance = random.Random(seed)
    store = StudyStore.open(root, "tiny")
    while True:
        store.seal("r", patience_seconds=60)
        time.sleep(chance.uniform(0.0, 0.1))


def kill_around_call(name: str, when: str, nth: int) -> None:
    """Make this process kill itself before or after the nth call of a function of `os`."""
    real: Callable[..., object] = getattr(os, name)
    calls = 0

    def call(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **named)
        if calls == nth and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(commits.os, name, call)


def write_and_die(root: Path, point: tuple[str, str, int], acknowledgements: Connection) -> None:
    kill_around_call(*point)
    writer = StudyStore.open(root, "tiny").writer("steps", run="r", attempt=1)
    for seq in range(8):
        writer.append(seq, rows_of(seq))
        if seq % 2:
            writer.flush()
            acknowledgements.send(seq)


def received(connection: Connection) -> list[int]:
    """All that a process which is gone has sent."""
    numbers = []
    try:
        while connection.poll():
            numbers.append(connection.recv())
    except EOFError:
        pass
    return numbers


def visible_prefix(store: StudyStore) -> int:
    """The number of sequence numbers that are there; asserts that each is whole and there once."""
    found = store.scan("steps", "r").select("step", "loss").collect().rows()
    count = max((step for step, _ in found), default=-1) + 1
    expected = [(row["step"], row["loss"]) for seq in range(count) for row in rows_of(seq)]
    assert sorted(found) == sorted(expected)
    return count


class Reader:
    """Reads again and again, and asserts that what is there is whole, once, and only grows."""

    def __init__(self, store: StudyStore) -> None:
        self._store, self._done = store, threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.counts, self.errors = [0], []

    def _read(self) -> None:
        try:
            while not self._done.is_set():
                self.counts.append(visible_prefix(self._store))
                assert self.counts[-1] >= self.counts[-2]
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        assert self.errors == []


def kill_again_and_again(root: Path, kills: int, seed: int) -> None:
    """Two in three kills are of a writer, the others of a compactor, each in the middle of work."""
    store, chance, acknowledged = tiny_store(root), random.Random(seed), -1
    compactors: list[multiprocessing.process.BaseProcess] = []
    with Reader(store) as reader:
        for life in range(kills):
            if life % 3 == 0:
                compactors.append(
                    PROCESSES.Process(target=compact_until_killed, args=(root, life), daemon=True)
                )
                compactors[-1].start()
            if len(compactors) == 3:
                compactors[0].kill()
                compactors.pop(0).join()
                continue
            ours, theirs = PROCESSES.Pipe(duplex=False)
            process = PROCESSES.Process(target=write_until_killed, args=(root, life, theirs))
            process.start()
            theirs.close()
            assert ours.recv() == -1  # it has opened its writer
            # Counted in acknowledgements, so that a slow machine kills as late as a fast one.
            news = [ours.recv() for _ in range(chance.randrange(12))]
            time.sleep(chance.uniform(0.0, 0.05))
            process.kill()
            process.join()
            acknowledged = max([acknowledged, *news, *received(ours)])
            assert visible_prefix(store) > acknowledged, f"seed {seed}, life {life}"
        for compactor in compactors:
            compactor.kill()
            compactor.join()
    store.seal("r")
    assert visible_prefix(store) > acknowledged > 10
    assert check_store(store).damage == []
    assert len(reader.counts) > kills


def test_killed_at_random_moments_nothing_is_lost_or_doubled(tmp_path):
    kill_again_and_again(tmp_path, KILLS, seed=time.time_ns())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_a_thousand_times_nothing_is_lost_or_doubled(tmp_path):
    for seed in range(SLOW_KILLS // 100):
        kill_again_and_again(tmp_path / str(seed), 100, seed)


def die_at(root: Path, what: Callable[..., None], point: tuple[str, str, int]) -> list[int]:
    """What was acknowledged by a process that kills itself around a call."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=what, args=(root, point, theirs))
    process.start()
    theirs.close()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return received(ours)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "nth"),
    [("pwrite", 1), ("pwrite", 2), ("fsync", 4), ("fsync", 5), ("fdatasync", 1), ("fdatasync", 2)],
)
def test_killed_at_each_step_of_a_commit(tmp_path, name, nth, when):
    store = tiny_store(tmp_path)
    acknowledged = die_at(tmp_path, write_and_die, (name, when, nth))
    assert len(acknowledged) < 4
    assert visible_prefix(store) > max(acknowledged, default=-1)
    go_on(store)


def go_on(store: StudyStore) -> None:
    """Write the steps to the twelfth, and see that all is there and whole."""
    with store.writer("steps", run="r", attempt=2) as writer:
        for seq in range(12):
            writer.append(seq, rows_of(seq))
    assert visible_prefix(store) == 12
    assert check_store(store).damage == []


def seal_and_die(root: Path, point: tuple[str, str, int], acknowledgements: Connection) -> None:
    kill_around_call(*point)
    StudyStore.open(root, "tiny").seal("r")


def write_generations(store: StudyStore) -> None:
    """Two segments and a log."""
    for generation in range(3):
        with store.writer("steps", run="r", attempt=1) as writer:
            for seq in range(3 * generation, 3 * generation + 3):
                writer.append(seq, rows_of(seq))
            writer.flush()
            if generation < 2:
                writer._seal()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "nth"),
    [("fsync", 1), ("link", 1), ("fsync", 2), *(("unlink", nth) for nth in (1, 2, 3, 4))],
)
def test_killed_at_each_step_of_sealing_and_compaction(tmp_path, name, nth, when):
    store = tiny_store(tmp_path)
    write_generations(store)
    assert len(list(store.partition("steps", "r").iterdir())) == 3
    die_at(tmp_path, seal_and_die, (name, when, nth))
    assert visible_prefix(store) == 9
    assert store.count_rows("steps") == 18
    go_on(store)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["ftruncate", "fdatasync"])
def test_killed_while_a_torn_log_is_mended(tmp_path, name, when):
    store = tiny_store(tmp_path)
    write_generations(store)
    (log,) = store.partition("steps", "r").glob("_*.log")
    with open(log, "ab") as file:
        file.write(b"torn")
    nth = 2 if name == "fdatasync" else 1
    die_at(tmp_path, write_and_die_late, (name, when, nth))
    assert visible_prefix(store) == 9
    go_on(store)


def write_and_die_late(
    root: Path, point: tuple[str, str, int], acknowledgements: Connection
) -> None:
    kill_around_call(*point)
    with StudyStore.open(root, "tiny").writer("steps", run="r", attempt=1) as writer:
        writer.append(9, rows_of(9))


FULL_DISK = """
import json, os, subprocess, sys
sys.path.insert(0, sys.argv[2])
from stores import step_row, tiny_store
from study.writer import StoreError
disk = sys.argv[1]
def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
mount("size=256k")
store = tiny_store(disk)
messages, steps, ballast = [], 400, os.path.join(disk, "ballast")
writer = store.writer("steps", run="r", attempt=1, patience_seconds=0.2, commit_seconds=0.01)
def refused(call):
    try:
        call()
    except StoreError as error:
        messages.append(str(error))
for step in range(10):
    writer.append(step, [step_row(step)])
writer.flush()
with open(ballast, "wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError:
        pass
writer.append(10, [step_row(10)])
refused(writer.flush)
os.unlink(ballast)
writer.flush()
mount("remount,ro,size=256k")
writer.append(11, [step_row(11)])
refused(writer.flush)
mount("remount,rw,size=256k")
writer.close()
print(json.dumps([messages, store.scan("steps").collect()["step"].to_list()]))
"""


def _may_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and not subprocess.call(command)


def test_a_full_and_a_read_only_disk(tmp_path):
    if not _may_mount():
        pytest.skip("needs `unshare -rm` and the right to mount a tmpfs in it")
    script = ["-c", FULL_DISK, str(tmp_path), str(Path(__file__).parent)]
    command = ["unshare", "-rm", sys.executable, *script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (full, read_only), steps = json.loads(done.stdout)
    assert "No space left on device" in full
    assert "Read-only file system" in read_only
    assert steps == list(range(12))
