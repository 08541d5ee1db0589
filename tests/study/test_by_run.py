from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from stores import step_row, tiny_store, tiny_study, write_rows

from study.by_run import ByRun
from study.plan import plan_runs
from study.store import StudyStore

RELU, SILU = (run.id for run in plan_runs(tiny_study()))


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return tiny_store(tmp_path)


class Reads:
    """Counts the rows of each run, and notes of which runs it was given rows."""

    def __init__(self) -> None:
        self.runs: list[set[str]] = []

    def __call__(self, rows: pl.LazyFrame) -> dict[str, int]:
        counts = dict(rows.group_by("run").len().collect().iter_rows())
        self.runs.append(set(counts))
        return counts


def test_only_runs_with_new_rows_are_read_again(store) -> None:
    reads = Reads()
    steps = ByRun(store, "steps", reads)
    assert steps.now() == {}
    write_rows(store, "steps", RELU, [step_row(1)])
    write_rows(store, "steps", SILU, [step_row(1), step_row(2)])
    assert steps.now() == {RELU: 1, SILU: 2}
    assert steps.now() == {RELU: 1, SILU: 2}
    write_rows(store, "steps", RELU, [step_row(2), step_row(3)])
    assert steps.now() == {RELU: 3, SILU: 2}
    assert reads.runs == [{RELU, SILU}, {RELU}]


def test_newest_gives_the_last_commit_only(store) -> None:
    steps = ByRun(store, "steps", Reads(), newest=True)
    for step in (1, 2, 3):
        write_rows(store, "steps", RELU, [step_row(step)])
    assert steps.now() == {RELU: 1}


def test_what_was_read_before_is_not_changed_under_its_reader(store) -> None:
    steps = ByRun(store, "steps", Reads())
    write_rows(store, "steps", RELU, [step_row(1)])
    before = steps.now()
    write_rows(store, "steps", SILU, [step_row(1)])
    steps.now()
    assert before == {RELU: 1}


def test_a_read_that_fails_is_made_again(store) -> None:
    failures = [OSError("away")]

    def read(rows: pl.LazyFrame) -> dict[str, int]:
        if failures:
            raise failures.pop()
        return dict(rows.group_by("run").len().collect().iter_rows())

    steps = ByRun(store, "steps", read)
    write_rows(store, "steps", RELU, [step_row(1)])
    with pytest.raises(OSError, match="away"):
        steps.now()
    assert steps.now() == {RELU: 1}
