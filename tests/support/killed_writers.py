"""Writers that are killed at a chosen call, in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stores import step_row

from sparsing.study.store import writer as writer_module
from sparsing.study.store.care.check import check_store
from sparsing.study.store.io import durable as commits
from sparsing.study.store.study_store import StudyStore

PROCESSES = multiprocessing.get_context("forkserver")


def rows_of(seq: int) -> list[dict[str, object]]:
    """One to three rows, the same for the same number, as replayed steps are."""
    return [step_row(seq, loss=float(part)) for part in range(1 + seq % 3)]


def write_until_killed(root: Path, seed: int, acknowledgements: Connection) -> None:
    """Go on where a run's rows end, or some steps before; say which numbers are durable."""
    chance = random.Random(seed)
    writer_module.SEAL_SECONDS = 0.03
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


def die_at(root: Path, what: Callable[..., None], point: tuple[str, str, int]) -> list[int]:
    """What was acknowledged by a process that kills itself around a call."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=what, args=(root, point, theirs))
    process.start()
    theirs.close()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return received(ours)


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


def write_and_die_late(
    root: Path, point: tuple[str, str, int], acknowledgements: Connection
) -> None:
    kill_around_call(*point)
    with StudyStore.open(root, "tiny").writer("steps", run="r", attempt=1) as writer:
        writer.append(9, rows_of(9))


def rotate_and_die(root: Path, point: tuple[str, str, int], acknowledgements: Any) -> None:
    """Each commit begins a log, and the log before is sealed before the next commit."""
    writer_module.SEAL_BYTES = 0
    kill_around_call(*point)
    writer = StudyStore.open(root, "tiny").writer("steps", run="r", attempt=1)
    for seq in range(8):
        writer.append(seq, rows_of(seq))
        writer.flush()
        acknowledgements.send(seq)
        while writer._disk.is_sealing:
            time.sleep(0.001)
