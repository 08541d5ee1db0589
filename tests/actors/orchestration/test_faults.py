"""Whatever dies on the way: the study ends, with the rows of an undisturbed one, each once."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import polars as pl
import pytest
from fault_study import (
    HANG_SECONDS,
    VICTIMS,
    LocalCluster,
    Playing,
    assert_same_rows,
    definition,
)

from sparsing.actors.orchestration import measurers
from sparsing.study.store.study_store import StudyStore

STUDIES, FAULTS, SEED = 7, 5, 8
"""Studies, and faults in each."""
ALLOWED_SECONDS = {"hung": 30.0 + 2 * HANG_SECONDS}
"""Beside a checkpoint interval; 30 s where nothing is said. A hang has to be noticed first."""
TAKES_GANGS = {"shard", "hung", "node", "disk", "controller"}
"""Faults after which another attempt has to begin."""
TOLERANCE = 0.02
"""Relative, of losses: gangs of other sizes add gradients in another order, and training
amplifies rounding as it goes on."""


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    cluster = LocalCluster.start(workers=2)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def undisturbed(local: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    playing = Playing(local, tmp_path_factory.mktemp("undisturbed") / "store", definition(shards=2))
    playing.finish()
    return playing.store


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_measurer_that_stands_still_is_replaced(
    local: LocalCluster,
    undisturbed: StudyStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGSTOP: its process is there, its connection is open, and it answers nothing."""
    monkeypatch.setattr(measurers, "SILENT_SECONDS", 8.0)
    monkeypatch.setattr(measurers, "ASK_SECONDS", 1.0)
    playing = Playing(local, tmp_path / "store", definition(shards=2))
    playing.until(lambda: bool(local.actors("Measurer")), "with a measurer")
    playing.until(lambda: playing.store.count_rows("sparsity") > 0, "measured once")
    for process in local.actors("Measurer"):
        process.send_signal(signal.SIGSTOP)
    playing.until(lambda: "measurer_lost" in playing.failures(), "its silence is noticed")
    playing.finish()
    assert_same_rows(playing.store, undisturbed, TOLERANCE)


def faults(count: int, seed: int) -> list[str]:
    """Victims at random, all kinds about equally often."""
    chance = random.Random(seed)
    rounds = [chance.sample(list(VICTIMS), len(VICTIMS)) for _ in range(-(-count // len(VICTIMS)))]
    return list(chain.from_iterable(rounds))[:count]


def play(playing: Playing, victims: list[str], seed: int) -> list[tuple[str, float]]:
    """Faults at random steps; seconds until training is further than at the fault."""
    chance, lost = random.Random(seed), []
    for name in victims:
        playing.until_training(steps=chance.randrange(10, 60))
        assert not playing.ended, f"no time for {name}"
        began, attempt = time.monotonic(), playing.attempt()
        VICTIMS[name](playing, chance)
        if name in TAKES_GANGS:
            playing.until(lambda a=attempt: playing.attempt() > a, f"noticed: {name}")
        playing.until_training()
        lost.append((name, time.monotonic() - began))
        print(f"{name}: {lost[-1][1]:.1f} s lost", flush=True)
    return lost


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a busy machine
@pytest.mark.parametrize("study_number", range(STUDIES))
def test_random_faults_leave_the_same_rows(
    local: LocalCluster, undisturbed: StudyStore, tmp_path: Path, study_number: int
) -> None:
    """In all studies together more than 30 faults; a seed replays them."""
    mine = faults(STUDIES * FAULTS, SEED)[study_number * FAULTS :][:FAULTS]
    playing = Playing(local, tmp_path / "store", definition(shards=2, min_shards=1))
    lost = play(playing, mine, SEED + study_number)
    playing.finish()
    assert_same_rows(playing.store, undisturbed, TOLERANCE)
    interval = checkpoint_seconds(undisturbed)
    for name, seconds in lost:
        assert seconds <= interval + ALLOWED_SECONDS.get(name, 30.0), (name, interval)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_gang_shrinks_and_grows_again_with_the_same_losses(
    local: LocalCluster, undisturbed: StudyStore, tmp_path: Path
) -> None:
    playing = Playing(local, tmp_path / "store", definition(shards=2, min_shards=1))
    playing.until_training(steps=30)
    local.kill_worker(0)
    playing.until(lambda: playing.world_sizes()[-1:] == [1], "training with one shard")
    local.add_worker()
    playing.finish()
    assert playing.world_sizes() == [2, 1, 2]
    assert_same_rows(playing.store, undisturbed, TOLERANCE)


def checkpoint_seconds(store: StudyStore) -> float:
    """Median time between checkpoints."""
    times = store.scan("checkpoints").group_by("step").agg(pl.col("written_at").min()).sort("step")
    return float(times.collect()["written_at"].diff().dt.total_milliseconds().median()) / 1000
