"""Whatever dies on the way: the study ends, with the rows of an undisturbed one, each once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_study import VICTIMS, LocalCluster, Playing, assert_same_rows, definition

from study.store import StudyStore

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
@pytest.mark.timeout(1800)  # on a busy machine
def test_five_random_faults_leave_the_same_rows(
    local: LocalCluster, undisturbed: StudyStore, tmp_path: Path
) -> None:
    chance = random.Random(8)
    study = definition(shards=2, min_shards=1)
    playing = Playing(local, tmp_path / "store", study)
    for name in ("shard", "hung", "node", "measurer", "disk"):
        before = playing.checkpoints()
        playing.until(lambda b=before: playing.checkpoints() > b, "at a checkpoint")
        playing.until_training()
        VICTIMS[name](playing, chance)
    playing.finish()
    assert_same_rows(playing.store, undisturbed, TOLERANCE)
