"""An orphaned gang writes nothing more, and of two that commit one checkpoint, one does."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from stores import tiny_store, write_rows

from sparsing.actors.models.checkpoint_read import read_tensors
from sparsing.actors.training.checkpoint_write import write_marker, write_shard
from sparsing.actors.training.fence import Fence
from sparsing.study.errors import FencedError
from sparsing.study.store.checkpoint_marker import MARKER, Checkpoint, read_checkpoint
from sparsing.study.store.study_store import StudyStore

SHARDS = 2


def record(store: StudyStore, attempt: int) -> None:
    write_rows(
        store, "runs", "r", [{"step": 0, "state": "waiting"}], attempt=attempt, stream="controller"
    )


class Weights:
    """What `write_shard` needs of an engine: tensors that tell who wrote them."""

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {str(number): (5, 10) for number in range(4)}

    def state(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in self.shapes().items():
            for kind in ("weight", "exp_avg", "exp_avg_sq"):
                if wanted(name):
                    yield f"{kind}/{name}", torch.full(shape, float(self._attempt))


def commit(folder: Path, attempt: int) -> str:
    """As a gang does it, without the fence: who committed in the end, or that it was fenced."""
    try:
        files: dict[str, tuple[int, str]] = {}
        for rank in range(SHARDS):
            files |= write_shard(Weights(attempt), folder, attempt, rank, SHARDS)
        about = Checkpoint(
            run="r",
            attempt=attempt,
            step=5,
            tokens=5,
            files={name: size for name, (size, _) in files.items()},
            digests={name: digest for name, (_, digest) in files.items()},
            config={},
            code_version="test",
            save_seconds=0.0,
        )
        return str(write_marker(folder, about).attempt)
    except FencedError:
        return "fenced"


def orphan(tasks: Connection) -> None:
    while (folder := tasks.recv()) is not None:
        tasks.send(commit(folder, attempt=1))


def test_100_orphans_stopped_anywhere_never_commit_twice(tmp_path: Path) -> None:
    """An orphan is stopped at a random moment of its commit, and goes on after the newer one's."""
    context = multiprocessing.get_context("fork")
    tasks, theirs = context.Pipe()
    process = context.Process(target=orphan, args=(theirs,), daemon=True)
    process.start()
    assert process.pid
    chance, outcomes = random.Random(5), set()
    for repeat in range(100):
        folder = tmp_path / str(repeat)
        tasks.send(folder)
        time.sleep(chance.random() * 0.08)
        os.kill(process.pid, signal.SIGSTOP)
        mine = commit(folder, attempt=2)
        seen = (folder / MARKER).read_bytes()
        os.kill(process.pid, signal.SIGCONT)
        orphans = tasks.recv()
        assert (folder / MARKER).read_bytes() == seen
        committed = read_checkpoint(folder).attempt
        assert str(committed) == mine
        assert orphans == ("1" if committed == 1 else "fenced")
        tensors = read_tensors(folder)
        assert len(tensors) == 12
        assert all((tensor == committed).all() for tensor in tensors.values())
        outcomes.add(committed)
    tasks.send(None)
    process.join()
    assert outcomes == {1, 2}


def test_the_newest_attempt_passes_and_an_older_one_does_not(tmp_path: Path) -> None:
    store = tiny_store(tmp_path)
    record(store, 1)
    fence = Fence(store, "r", 1, token=0)
    fence.check()
    fence.check()
    record(store, 2)
    with pytest.raises(FencedError, match="attempt 2 has been started; attempt 1 stops"):
        fence.check()
    Fence(store, "r", 2, token=0).check()
    # What another process records is seen without being told.
    with pytest.raises(FencedError):
        Fence(StudyStore.open(tmp_path, store.study_id), "r", 1, token=0).check_at_times()


def test_at_every_step_it_looks_only_at_times(tmp_path: Path) -> None:
    store = tiny_store(tmp_path)
    record(store, 1)
    fence = Fence(store, "r", 1, token=0)
    fence.check_at_times()
    record(store, 2)
    fence.check_at_times()  # so soon it does not look again
    with pytest.raises(FencedError):
        fence.check()
