from __future__ import annotations

from pathlib import Path

import pytest
from stores import step_row, tiny_store, tiny_study, write_rows

from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.by_run import ByRun
from sparsing.study.store.study_store import StudyStore

RELU, SILU = (run.id for run in plan_runs(tiny_study()))


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return tiny_store(tmp_path)


class Reads:
    """Counts the rows of each run, and notes which runs it was asked for."""

    def __init__(self, store: StudyStore) -> None:
        self.store = store
        self.runs: list[set[str]] = []

    def __call__(self, runs: list[str]) -> dict[str, int]:
        self.runs.append(set(runs))
        return {run: self.store.count_rows("steps", run) for run in runs}


def test_only_runs_with_new_rows_are_read_again(store) -> None:
    reads = Reads(store)
    steps = ByRun(store, "steps", reads)
    assert steps.now() == {}
    write_rows(store, "steps", RELU, [step_row(1)])
    write_rows(store, "steps", SILU, [step_row(1), step_row(2)])
    assert steps.now() == {RELU: 1, SILU: 2}
    assert steps.now() == {RELU: 1, SILU: 2}
    write_rows(store, "steps", RELU, [step_row(2), step_row(3)])
    assert steps.now() == {RELU: 3, SILU: 2}
    assert reads.runs == [{RELU, SILU}, {RELU}]


def test_new_rows_are_seen_at_once_and_sealed_ones_are_the_same(store) -> None:
    steps = ByRun(store, "steps", Reads(store))
    for count in range(1, 20):
        write_rows(store, "steps", RELU, [step_row(count)])
        assert steps.now() == {RELU: count}
        if count % 5 == 0:
            store.seal(RELU)
            assert steps.now() == {RELU: count}


def test_what_was_read_before_is_not_changed_under_its_reader(store) -> None:
    steps = ByRun(store, "steps", Reads(store))
    write_rows(store, "steps", RELU, [step_row(1)])
    before = steps.now()
    write_rows(store, "steps", SILU, [step_row(1)])
    steps.now()
    assert before == {RELU: 1}


def test_a_read_that_fails_is_made_again(store) -> None:
    failures = [OSError("away")]

    def read(runs: list[str]) -> dict[str, int]:
        if failures:
            raise failures.pop()
        return dict.fromkeys(runs, 1)

    steps = ByRun(store, "steps", read)
    write_rows(store, "steps", RELU, [step_row(1)])
    with pytest.raises(OSError, match="away"):
        steps.now()
    assert steps.now() == {RELU: 1}
