"""Which studies of a store were lost with a cluster, and which are left to people."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from stores import state_row, tiny_study, write_rows

from sparsing.actors.orchestration.cluster.lost_studies import lost_studies, resume_lost
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.control.lease import Process, Record, study_cell
from sparsing.study.store.control.requests import mark_submitted
from sparsing.study.store.study_store import StudyStore

GONE = Record(
    owner="head, process 7",
    holder="x",
    token=1,
    seconds=0.1,
    process=Process(machine="another", pid=1, started="1"),
)


def made(root: Path, name: str, lease: Record | None, *, submitted: bool = True) -> StudyStore:
    store = StudyStore.create(root, tiny_study(name=name))
    if submitted:
        mark_submitted(store.path)
    if lease:
        study_cell(store.path).write(lease.to_bytes(), None)
    return store


@pytest.fixture
def lost(tmp_path: Path) -> StudyStore:
    """Among studies that are not lost, the one that is."""
    made(tmp_path, "never-begun", None)
    made(tmp_path, "gave-its-lease-back", replace(GONE, released=True))
    made(tmp_path, "of-a-terminal", GONE, submitted=False)
    done = made(tmp_path, "done", GONE)
    for run in plan_runs(done.study):
        write_rows(done, "runs", run.id, [state_row("done")], stream="controller")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "study.yaml").write_text("name: [")
    vanished = made(tmp_path, "vanished", GONE)
    time.sleep(2 * GONE.seconds)  # what was written within a lease's span counts as renewed
    return vanished


def test_lost_is_what_was_submitted_and_whose_controller_vanished(lost: StudyStore) -> None:
    assert lost_studies(str(lost.path.parent)) == [lost.study_id]


def test_what_cannot_be_resumed_now_is_said_and_ends_nothing(lost: StudyStore) -> None:
    said: list[str] = []
    resume_lost(str(lost.path.parent), "http://127.0.0.1:1", said.append)
    (line,) = said
    assert line.startswith(f"{lost.study_id} cannot be resumed now: no Ray dashboard")
