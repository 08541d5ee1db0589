"""What is not stable is said with the step whose batch is to blame, and a restart says the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from stores import state_row, step_row, tiny_store, write_rows

from sparsing.actors.orchestration.past_failures import past_failures
from sparsing.actors.orchestration.policy import replaced_batches
from sparsing.actors.training.loss_guard import SPIKE_WINDOW_STEPS, LossGuard
from sparsing.actors.training.run_failure import RunFailure
from sparsing.study.definition.model import Stability, Study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.status.failure import Kind
from sparsing.study.store.study_store import StudyStore


def spiky_store(root: Path) -> StudyStore:
    return tiny_store(root, stability=Stability(spike_factor=2.0))


def spike(guard: LossGuard, losses: list[float], start: int) -> int | None:
    """The first step that the guard refuses as a spike."""
    for step, loss in enumerate(losses, start=start + 1):
        try:
            guard.check(step, loss, 1.0)
        except RunFailure as failure:
            return failure.batch_step if failure.kind == Kind.SPIKE else None
    return None


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (2.0, math.nan), (math.inf, 1.0)])
def test_what_is_not_finite_is_refused(tmp_path: Path, loss: float, norm: float) -> None:
    store = tiny_store(tmp_path)
    guard = LossGuard(store, plan_runs(store.study)[0], 0)
    guard.check(1, 1e9, 1e9)
    with pytest.raises(RunFailure, match="at step 2") as caught:
        guard.check(2, loss, norm)
    assert (caught.value.kind, caught.value.batch_step) == (Kind.NOT_FINITE, 2)


def test_a_restart_finds_the_spike_that_an_undisturbed_run_finds(tmp_path: Path) -> None:
    store = spiky_store(tmp_path)
    run = plan_runs(store.study)[0]
    losses = [4.0 - 0.02 * step for step in range(100)]
    losses[30] = 50.0  # too early to tell
    losses[80] = 9.0
    write_rows(store, "steps", run.id, [step_row(i + 1, loss=x) for i, x in enumerate(losses[:70])])
    assert spike(LossGuard(store, run, 0), losses, 0) == 81
    for start in (SPIKE_WINDOW_STEPS, 60, 70):
        assert spike(LossGuard(store, run, start), losses[start:], start) == 81


def test_the_store_remembers_failures_and_replaced_batches(tmp_path: Path) -> None:
    store = tiny_store(tmp_path)
    rows = [
        state_row("planned", 4, failure_kind="not_finite", replaced_step=6),
        state_row("failed", 4, failure_kind="out_of_memory"),
        state_row("planned", 4, failure_kind="node_lost"),
        state_row("planned", 8, failure_kind="of a later version"),
        state_row("waiting", 8),
    ]
    write_rows(store, "runs", "r", rows, stream="controller")
    past = past_failures(store, "r")
    assert [(p.kind, p.forgiven) for p in past] == [
        (Kind.NOT_FINITE, True),
        (Kind.OUT_OF_MEMORY, True),
        (Kind.NODE_LOST, False),
    ]
    assert replaced_batches(past) == (6,)
    assert past_failures(store, "another") == []


def test_a_policy_that_is_not_the_default_makes_another_study(tmp_path: Path) -> None:
    usual = tiny_store(tmp_path).study
    assert "stability" not in usual.canonical_json
    other = Study.model_validate(usual.model_dump() | {"stability": {"spike_factor": 3.0}})
    assert other.study_id != usual.study_id
