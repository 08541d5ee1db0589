"""What follows from failures: bounded per progress, and nothing for what no run can help."""

from __future__ import annotations

import errno
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsing.actors.orchestration.policy import (
    FREE,
    LAST_PAUSE_SECONDS,
    OWN_FAULTS,
    RESTARTS,
    UNSTABLE,
    GiveUp,
    PastFailure,
    Restart,
    decide,
    most_telling,
    pause_seconds,
    replaced_batches,
)
from sparsing.actors.training.assignment import batch_index
from sparsing.actors.training.run_failure import RunFailure, as_failure
from sparsing.study.definition.model import Stability
from sparsing.study.errors import DamagedError
from sparsing.study.status.failure import Kind
from sparsing.study.store.writer import StoreError

SPENDING = sorted(set(Kind) - FREE - UNSTABLE - OWN_FAULTS - {Kind.MEASURER_LOST})
kinds = st.sampled_from(sorted(Kind))


def played(
    events: list[tuple[Kind, int]], stability: Stability | None = None
) -> tuple[int, Restart | GiveUp]:
    """Failures (kind, checkpoints made before it) one after another, until the run is given up;
    how many were survived, and the last decision."""
    past: list[PastFailure] = []
    checkpoint = 0
    decision: Restart | GiveUp = Restart()
    for number, (kind, made) in enumerate(events):
        checkpoint += made
        batch = 1000 + number if kind in UNSTABLE else None
        decision = decide(RunFailure("x", kind, batch), past, checkpoint, stability or Stability())
        if isinstance(decision, GiveUp):
            return number, decision
        past.append(
            PastFailure(kind=kind, checkpoint_step=checkpoint, batch_step=decision.batch_step)
        )
    return len(events), decision


def test_it_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys; from sparsing.actors.orchestration import policy, watchdog;"
        "from sparsing.actors.orchestration.cluster import world_size;"
        "print([m for m in ('ray', 'torch', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@given(st.lists(st.sampled_from(SPENDING), max_size=6))
def test_without_progress_a_run_is_given_up_after_so_many_restarts(given_kinds: list[Kind]) -> None:
    survived, _ = played([(kind, 0) for kind in given_kinds])
    assert survived == min(len(given_kinds), RESTARTS)


@given(st.lists(st.sampled_from(SPENDING), max_size=40))
def test_with_a_checkpoint_between_failures_a_run_lives_on(given_kinds: list[Kind]) -> None:
    assert played([(kind, 1) for kind in given_kinds])[0] == len(given_kinds)


@given(st.lists(st.sampled_from(sorted(FREE)), max_size=60))
def test_what_no_run_can_help_spends_nothing(free: list[Kind]) -> None:
    events = [(kind, 0) for kind in free] + [(Kind.SHARD_LOST, 0)] * RESTARTS
    survived, last = played(events)
    assert survived == len(events)
    assert isinstance(last, Restart)
    assert last.pause_seconds <= LAST_PAUSE_SECONDS


@given(st.lists(st.tuples(kinds, st.integers(0, 1)), max_size=40))
def test_every_history_is_bounded_by_its_progress(events: list[tuple[Kind, int]]) -> None:
    survived, _ = played(events)
    lived = events[:survived]
    assert not any(kind in OWN_FAULTS for kind, _ in lived)
    checkpoints = 1 + sum(made for _, made in lived)
    for group, most in (
        (set(SPENDING), RESTARTS),
        ({Kind.MEASURER_LOST}, RESTARTS),
        (UNSTABLE, Stability().max_replaced),
    ):
        assert sum(kind in group for kind, _ in lived) <= most * checkpoints


@given(st.lists(st.tuples(kinds, st.integers(0, 1)), max_size=20))
def test_what_was_before_giving_up_is_forgiven(events: list[tuple[Kind, int]]) -> None:
    past = [PastFailure(kind=kind, checkpoint_step=0, forgiven=True) for kind, _ in events]
    decision = decide(RunFailure("x", Kind.SHARD_LOST), past, 0, Stability())
    assert decision == Restart()


def test_a_batch_is_replaced_once_and_only_so_often() -> None:
    first = decide(RunFailure("nan", Kind.NOT_FINITE, 7), [], 5, Stability())
    assert first == Restart(batch_step=7)
    past = [PastFailure(kind=Kind.NOT_FINITE, checkpoint_step=5, batch_step=7)]
    again = decide(RunFailure("nan", Kind.NOT_FINITE, 7), past, 5, Stability())
    assert isinstance(again, GiveUp)
    assert "another batch" in (again.why or "")
    assert played([(Kind.NOT_FINITE, 0)] * 9)[0] == 3
    assert played([(Kind.NOT_FINITE, 1)] * 9)[0] == 9
    assert played([(Kind.NOT_FINITE, 0)], Stability(not_finite="fail"))[0] == 0
    assert played([(Kind.SPIKE, 0)], Stability(not_finite="fail"))[0] == 1


@given(st.integers(1, 200), st.data())
def test_replaced_batches_come_from_after_the_end_and_none_twice(
    steps: int, data: st.DataObject
) -> None:
    replaced = data.draw(st.lists(st.integers(1, steps), unique=True, max_size=5))
    indices = [batch_index(step, steps, replaced) for step in range(1, steps + 1)]
    assert len(set(indices)) == steps
    for step, index in enumerate(indices, start=1):
        assert index == (steps + replaced.index(step) if step in replaced else step - 1)
    # A later replacement changes no earlier one: a restart takes the same way.
    for step in replaced[:-1]:
        assert batch_index(step, steps, replaced[:-1]) == batch_index(step, steps, replaced)


def test_replaced_batches_keep_their_order() -> None:
    past = [
        PastFailure(kind=Kind.NOT_FINITE, checkpoint_step=0, batch_step=9, forgiven=True),
        PastFailure(kind=Kind.SHARD_LOST, checkpoint_step=0),
        PastFailure(kind=Kind.SPIKE, checkpoint_step=4, batch_step=5),
    ]
    assert replaced_batches(past) == (9, 5)


def test_pauses_double_up_to_a_bound() -> None:
    assert [pause_seconds(n) for n in range(4)] == [0.0, 5.0, 10.0, 20.0]
    assert pause_seconds(10**6) == LAST_PAUSE_SECONDS


class OutOfMemoryError(RuntimeError):
    """Named as torch's and Ray's are."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "full"), Kind.DISK),
        (StoreError("full"), Kind.DISK),
        (MemoryError(), Kind.OUT_OF_MEMORY),
        (OutOfMemoryError("CUDA"), Kind.OUT_OF_MEMORY),
        (DamagedError("data"), Kind.BAD_INPUT),
        (ConnectionError("closed by peer"), Kind.SHARD_FAILED),
        (RunFailure("nan", Kind.NOT_FINITE, 3), Kind.NOT_FINITE),
    ],
)
def test_errors_have_kinds(error: Exception, kind: Kind) -> None:
    failure = as_failure(error)
    assert failure.kind == kind
    assert str(failure)
    copy = pickle.loads(pickle.dumps(failure))
    assert (str(copy), copy.kind, copy.batch_step) == (
        str(failure),
        failure.kind,
        failure.batch_step,
    )


def test_a_disk_error_is_found_below_what_was_raised() -> None:
    error = RuntimeError("safetensors")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert as_failure(error).kind == Kind.DISK


def test_the_cause_is_told_and_not_its_echo() -> None:
    echo = RunFailure("connection closed by peer", Kind.SHARD_FAILED)
    for kind in (Kind.SHARD_LOST, Kind.NODE_LOST, Kind.OUT_OF_MEMORY, Kind.NOT_FINITE):
        assert most_telling([echo, RunFailure("cause", kind), echo]).kind == kind
