from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from stores import step_row, tiny_store, tiny_study, write_rows

from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.commit_delay import read_commit_delays
from sparsing.study.store.study_store import StudyStore

RUN, OTHER = (run.id for run in plan_runs(tiny_study()))


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return tiny_store(tmp_path)


def test_the_oldest_row_of_the_newest_commit_counts(store):
    write_rows(store, "steps", RUN, [step_row(1)])
    with store.writer("steps", run=RUN, attempt=1, commit_seconds=60) as writer:
        writer.append(2, [step_row(2)])
        time.sleep(0.3)
        writer.append(3, [step_row(3)])
    delays = read_commit_delays(store, [RUN, OTHER])
    assert set(delays) == {RUN}
    assert 0.2 <= delays[RUN] < 30


def test_a_file_server_whose_clock_is_behind_gives_no_negative_delay(store):
    write_rows(store, "steps", RUN, [step_row(1)])
    (log,) = store.partition("steps", RUN).glob("_*.log")
    os.utime(log, (0, 0))
    assert read_commit_delays(store, [RUN]) == {RUN: 0.0}


def test_what_is_sealed_says_nothing(store):
    write_rows(store, "steps", RUN, [step_row(1)])
    store.seal(RUN)
    assert read_commit_delays(store, [RUN]) == {}
