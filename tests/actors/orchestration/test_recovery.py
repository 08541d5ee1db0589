"""A study whose measured checkpoints are far apart, killed and stopped: little is trained twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from fault_study import LocalCluster, Playing, assert_same_rows, definition

from sparsing.study.definition.model import Study
from sparsing.study.status.run_state import RunState
from sparsing.study.store.checkpoint_folders import RECOVERY, recovery_steps, starting_points
from sparsing.study.store.study_store import StudyStore

RECOVER_SECONDS, KILLS, SEED = 3.0, 20, 4
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def far_apart() -> Study:
    """One checkpoint, at the end; recovery points between."""
    study = definition(shards=1, measurers=1)
    checkpoints = {"count": 1, "recover_every": RECOVER_SECONDS}
    return Study.model_validate(study.model_dump() | {"checkpoints": checkpoints})


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    cluster = LocalCluster.start(workers=2)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def undisturbed(local: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    playing = Playing(local, tmp_path_factory.mktemp("undisturbed") / "store", far_apart())
    playing.finish()
    return playing.store


def begun_at(store: StudyStore) -> list[int]:
    """Step at which each attempt began to train."""
    training = store.scan("runs").filter(pl.col("state") == RunState.TRAINING)
    return training.filter(pl.col("device").is_not_null()).collect()["step"].to_list()


def test_killed_again_and_again_it_loses_an_interval_at_most(
    local: LocalCluster, undisturbed: StudyStore, tmp_path: Path
) -> None:
    playing, chance = Playing(local, tmp_path / "store", far_apart()), random.Random(SEED)
    (run,) = playing.controller.runs
    kills = 0
    while kills < KILLS and not playing.ended:
        playing.until_training(steps=chance.randrange(10, 60))
        if playing.ended or run.state != RunState.TRAINING:
            break
        saved = max(starting_points(playing.store.path, run.run.id), default=0)
        attempt = playing.attempt()
        playing.lose_shard(chance)
        playing.until(lambda a=attempt: playing.attempt() > a or playing.ended, "started again")
        kills += 1
        assert begun_at(playing.store)[-1] >= saved
    playing.finish()
    print(f"{kills} kills, begun at {begun_at(playing.store)}")
    assert kills >= 3
    assert_same_rows(playing.store, undisturbed, 0.0)
    assert recovery_steps(playing.store.path, run.run.id) == []
    assert not (playing.store.path / RECOVERY / run.run.id).exists()


def test_a_stop_loses_no_step(local: LocalCluster, undisturbed: StudyStore, tmp_path: Path) -> None:
    playing = Playing(local, tmp_path / "store", far_apart())
    for _ in range(2):
        playing.until_training(steps=40)
        playing.controller.stop_saved("for the night")
        newest = playing.store.scan("steps").select(pl.col("step").max()).collect().item()
        (run,) = playing.controller.runs
        assert max(starting_points(playing.store.path, run.run.id)) == newest
        playing.controller.lease.release()
        playing.controller = playing._next_controller()
    playing.finish()
    assert_same_rows(playing.store, undisturbed, 0.0)
    replays = playing.store.scan("runs").filter(pl.col("failure_kind").is_not_null()).collect()
    assert replays.is_empty()


def test_a_shard_that_stands_still_is_not_waited_for(local: LocalCluster, tmp_path: Path) -> None:
    playing = Playing(local, tmp_path / "store", far_apart())
    playing.until_training(steps=20)
    for shard in playing.shards():
        shard.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    playing.controller.stop_saved("now")
    assert time.monotonic() - began < 60
    assert playing.controller.runs[0].state == RunState.STOPPED
