"""Every transition of a run's state, played with a fake gang and a fake clock, without Ray."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import REPORT, Played

from sparsing.actors.orchestration.controller import ROOM_SECONDS, STOP_NOTICE_SECONDS
from sparsing.actors.orchestration.past_failures import past_failures
from sparsing.actors.orchestration.transitions import (
    TRANSITIONS,
    IllegalTransitionError,
    StateOwner,
)
from sparsing.actors.training.report import ShardReport
from sparsing.actors.training.run_failure import RunFailure, as_failure
from sparsing.study.errors import FencedError
from sparsing.study.status.failure import Kind
from sparsing.study.status.run_state import RunState
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.checkpoint_folders import checkpoint_folder, complete_steps
from sparsing.study.store.checkpoint_marker import MARKER, DamagedCheckpointError
from sparsing.study.store.control.requests import request_stop, withdraw_stop

LOST = RunFailure("shard 0 was lost", Kind.SHARD_LOST)


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return Played(tmp_path)


def training(played: Played) -> Played:
    played.tick()
    played.gang.train()
    assert played.tick() == RunState.TRAINING
    return played


def measuring(played: Played) -> Played:
    training(played)
    played.gang.end()
    assert played.tick() == RunState.MEASURING
    return played


def test_an_undisturbed_run(played: Played) -> None:
    measuring(played)
    played.measured()
    assert played.tick() == RunState.DONE
    assert played.controller.ended
    assert played.states() == ["waiting", "training", "measuring", "done"]
    assert [row["attempt"] for row in played.rows()] == [1, 1, 1, 1]


def test_the_training_row_says_what_the_shard_reported(played: Played) -> None:
    played.tick()
    played.gang.train(ShardReport(start_step=8, device="H200, bfloat16, ZeRO 1"))
    played.tick()
    row = played.rows()[-1]
    assert (row["device"], row["step"], row["world_size"]) == ("H200, bfloat16, ZeRO 1", 8, 1)
    assert "from step 8" in row["reason"]


def test_a_gang_that_starts_is_not_training(played: Played) -> None:
    played.tick()
    played.gang.state = "starting"
    assert played.tick() == RunState.WAITING


def test_a_failure_while_training_or_waiting_starts_another_attempt(played: Played) -> None:
    played.tick()
    played.gang.failure = LOST
    assert played.tick() in (RunState.PLANNED, RunState.WAITING)
    assert played.gangs[0].killed
    played.tick(10.0)
    played.gang.train()
    played.tick()
    played.gang.failure = RunFailure("its node was lost", Kind.NODE_LOST)
    played.tick()
    played.tick(600.0)
    assert played.gang.assignment.attempt == 3
    assert played.states() == [
        *["waiting", "planned", "waiting"],
        *["training", "planned", "waiting"],
    ]
    kinds = [row["failure_kind"] for row in played.rows()]
    assert kinds == [None, "shard_lost", None, None, "node_lost", None]


def test_a_restart_waits_for_its_pause(played: Played) -> None:
    training(played).gang.failure = RunFailure("full", Kind.DISK)
    assert played.tick() == RunState.PLANNED
    assert played.tick(1.0) == RunState.PLANNED
    assert played.tick(600.0) == RunState.WAITING


@pytest.mark.parametrize("before", [training, measuring])
def test_a_failure_of_its_own_ends_the_run(played: Played, before: Any) -> None:
    failure = RunFailure("no memory", Kind.OUT_OF_MEMORY)
    if before(played).progress.gang:
        played.gang.failure = failure
    else:
        played.measured(failure=failure)
    assert played.tick() == RunState.FAILED
    assert played.controller.failed == {played.progress.run.id: "no memory"}
    assert played.tick(1000.0) == RunState.FAILED


def test_shards_that_end_too_early_are_a_failure(played: Played) -> None:
    training(played).gang.state = "ended"
    played.tick()
    assert "shard_failed" in [row["failure_kind"] for row in played.rows()]


def test_what_the_cluster_lacks_is_said_while_it_waits(played: Played) -> None:
    played.tick()
    played.cluster.lacks = "no node has 8 GPUs"
    assert played.tick(ROOM_SECONDS) == RunState.WAITING
    played.tick(ROOM_SECONDS)
    assert [row["reason"] for row in played.rows()] == [None, "no node has 8 GPUs"]


def test_a_gang_without_room_goes_on_smaller(played: Played) -> None:
    played.cluster.shards = 2
    played.tick()
    played.cluster.shards = 1
    assert played.tick() == RunState.WAITING
    assert [gang.assignment.world_size for gang in played.gangs] == [2, 1]
    assert played.states() == ["waiting", "planned", "waiting"]


def test_a_gang_grows_only_after_a_checkpoint(played: Played) -> None:
    training(played).cluster.grows = True
    assert played.tick() == RunState.TRAINING
    played.gang.save(played.progress.run.checkpoint_steps[0])
    played.tick()
    assert len(played.gangs) == 2
    assert played.gangs[0].killed


@pytest.mark.parametrize("before", [Played.tick, training, measuring])
def test_a_request_stops_a_run_and_its_withdrawal_goes_on(played: Played, before: Any) -> None:
    before(played)
    run = played.progress.run.id
    request_stop(played.store.path, run)
    if played.tick() == RunState.TRAINING:
        played.gang.state = "ended"
        played.tick()
    assert played.progress.state == RunState.STOPPED
    assert played.gang.killed
    assert played.tick(100.0) == RunState.STOPPED
    withdraw_stop(played.store.path, run)
    assert played.tick() in (RunState.WAITING, RunState.MEASURING)
    assert played.states()[-3:-1] == ["stopped", "planned"]


def test_live_measurements_are_made_once_and_again_after_a_failure(played: Played) -> None:
    step = training(played).progress.run.checkpoint_steps[0]
    played.gang.save(step)
    played.tick()
    assert [s for _, s in played.measurers.wanted] == [step]
    played.measured(step, RunFailure("lost", Kind.MEASURER_LOST))
    assert played.tick() == RunState.TRAINING
    played.tick(600.0)
    assert [s for _, s in played.measurers.wanted] == [step]
    played.measured(step)
    played.tick()
    assert played.measurers.wanted == []
    assert not played.gang.killed


def test_a_final_measurement_that_failed_is_made_again(played: Played) -> None:
    measuring(played).measured(failure=RunFailure("lost", Kind.MEASURER_LOST))
    assert played.tick() == RunState.MEASURING
    played.tick(600.0)
    assert [step for _, step in played.measurers.wanted] == [None]


def test_another_controller_finds_it_trained_or_measured(played: Played) -> None:
    measuring(played)
    played.controller = played.new_controller()
    assert played.tick() == RunState.MEASURING
    assert len(played.gangs) == 1
    played.controller = played.new_controller()
    played.progress.final_measured = True
    assert played.tick() == RunState.DONE


def test_what_has_not_ended_is_recorded_as_stopped(played: Played) -> None:
    gang = training(played).gang
    wait = played.cluster.wait

    def saving(awaited: list[Any], timeout_seconds: float) -> None:
        assert gang.asked_to_save
        gang.save_point(3)
        gang.state = "ended"
        wait(awaited, timeout_seconds)

    played.cluster.wait = saving  # type: ignore[method-assign]
    played.controller.stop_saved("by the user")
    assert gang.killed
    row = played.rows()[-1]
    assert (row["state"], row["reason"], row["step"]) == ("stopped", "by the user", 3)
    played.controller.stop_saved("again")
    assert played.rows()[-1]["reason"] == "by the user"


def test_a_gang_that_does_not_save_in_time_is_ended(played: Played) -> None:
    training(played)

    def nothing_comes(awaited: list[Any], timeout_seconds: float) -> None:
        played.seconds += timeout_seconds

    played.cluster.wait = nothing_comes  # type: ignore[method-assign]
    played.controller.stop_saved("by the user")
    assert STOP_NOTICE_SECONDS <= played.seconds < STOP_NOTICE_SECONDS + 10
    assert played.gang.killed
    assert played.rows()[-1]["state"] == "stopped"


def test_a_gang_on_a_node_that_is_drained_saves_and_goes_on_elsewhere(played: Played) -> None:
    first = training(played).gang
    played.cluster.drained = {"node-b": 60.0}
    assert played.tick() == RunState.TRAINING
    assert not first.asked_to_save
    played.cluster.drained = {"node-a": 60.0}
    assert played.tick() == RunState.TRAINING
    assert first.asked_to_save
    first.save_point(5)
    first.state = "ended"
    assert played.tick() == RunState.WAITING
    assert first.killed
    assert "drained" in played.rows()[-2]["reason"]
    assert played.rows()[-2]["step"] == 5
    assert played.rows()[-2]["failure_kind"] is None


def test_a_stop_while_a_node_is_drained_stops(played: Played) -> None:
    gang = training(played).gang
    played.cluster.drained = {"node-a": 60.0}
    played.tick()
    gang.state = "ended"
    played.controller.stop_saved("by the user")
    assert played.states()[-2:] == ["planned", "stopped"]


def test_a_shard_lost_while_it_leaves_is_no_failure(played: Played) -> None:
    gang = training(played).gang
    request_stop(played.store.path, played.progress.run.id)
    played.tick()
    gang.failure = LOST
    assert played.tick() == RunState.STOPPED
    assert [row["failure_kind"] for row in played.rows()] == [None] * 3


def test_each_recovery_point_is_progress_for_the_budget(played: Played) -> None:
    """A month of failures fails no run that goes on between them."""
    for number in range(1, 30):
        played.tick(600.0)
        played.gang.train()
        played.tick()
        played.gang.save_point(number)
        played.gang.failure = LOST
        assert played.tick() != RunState.FAILED
    assert len(played.gangs) >= 29


@pytest.mark.parametrize(("old", "new"), list(product(RunState, RunState)))
def test_only_the_table_s_transitions_are_possible(
    played: Played, old: RunState, new: RunState
) -> None:
    owner = StateOwner(played.store, played.lease)  # type: ignore[arg-type]
    played.progress.take_state(old, None)
    if new in TRANSITIONS[old]:
        owner.enter(played.progress, new, "because", device=REPORT.device)
        assert played.progress.state == played.rows()[-1]["state"] == new
        return
    with pytest.raises(IllegalTransitionError) as caught:
        owner.enter(played.progress, new)
    assert (caught.value.old, caught.value.new) == (old, new)
    assert played.progress.state == old
    assert played.rows() == []


def test_without_the_lease_no_state_is_written(played: Played) -> None:
    played.lease.lost = True
    with pytest.raises(FencedError):
        played.tick()
    with pytest.raises(FencedError):
        StateOwner(played.store, played.lease).enter(  # type: ignore[arg-type]
            played.progress, RunState.WAITING
        )
    assert played.rows() == []
    assert played.progress.state == RunState.PLANNED


def test_a_damaged_checkpoint_at_the_start_is_said(played: Played) -> None:
    played.tick()
    played.gang.train(ShardReport(start_step=4, device="CPU", damaged=("step 8 is damaged",)))
    played.tick()
    row = played.rows()[-1]
    assert row["failure_kind"] == Kind.CHECKPOINT_DAMAGED
    assert "step 8 is damaged" in row["reason"]
    assert StudyStatus.read(played.store).runs[0].notices == (row["reason"],)
    assert past_failures(played.store, row["run"]) == []


def test_a_replay_that_differs_is_said_once_and_training_goes_on(played: Played) -> None:
    training(played).gang.replay_difference = "replayed step 5 has loss 3"
    assert played.tick() == RunState.TRAINING
    played.tick()
    kinds = [row["failure_kind"] for row in played.rows()]
    assert kinds == [None, None, "replay_differs"]
    assert not played.gang.killed


@pytest.mark.parametrize("newest", [True, False])
def test_a_checkpoint_found_damaged_when_measured(played: Played, newest: bool) -> None:
    steps = measuring(played).progress.run.checkpoint_steps
    step = steps[-1] if newest else steps[0]
    folder = checkpoint_folder(played.store.path, played.progress.run.id, step)
    played.measured(failure=as_failure(DamagedCheckpointError(folder, "its digest differs")))
    state = played.tick()
    assert not folder.exists()
    assert len(list(folder.parent.glob("*.damaged-*"))) == 1
    if not newest:
        assert state == RunState.FAILED
        return
    assert state in (RunState.PLANNED, RunState.WAITING)
    played.tick(600.0)
    played.gang.end()
    assert played.tick() == RunState.MEASURING
    assert complete_steps(played.store.path, played.progress.run.id) == list(steps)


def test_checkpoints_that_are_gone_are_said_when_it_is_measured(played: Played) -> None:
    training(played).gang.end()
    step = played.progress.run.checkpoint_steps[0]
    (checkpoint_folder(played.store.path, played.progress.run.id, step) / MARKER).unlink()
    assert played.tick() == RunState.MEASURING
    assert str(step) in (played.rows()[-1]["reason"] or "")
