"""The states of a run and the ways between them: one table, one owner.

    planned -> waiting -> training -> measuring -> done
       ^          |          |            |
       +----------+----------+------------+-- a failure after which it is tried again, or
                                              failed, or stopped

`StateOwner` is the only place that changes a run's state: in the store first, where the row is what
survives, then in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sparsing.actors.orchestration.progress import RunProgress
from sparsing.study.status.failure import Kind
from sparsing.study.status.run_state import RunState
from sparsing.study.store.control.lease import Lease
from sparsing.study.store.study_store import StudyStore

log = logging.getLogger("sparsing.controller")

_ANYTIME = {RunState.FAILED, RunState.STOPPED}
"""What an ongoing run may become at any moment."""
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    state: frozenset(nexts)
    for state, nexts in {
        # Planned to measuring or done: its checkpoints, or measurements, are there already.
        # Into itself: a live measurement failed meanwhile, and is made again.
        RunState.PLANNED: {
            RunState.PLANNED,
            RunState.WAITING,
            RunState.MEASURING,
            RunState.DONE,
            *_ANYTIME,
        },
        # Into itself: what the cluster lacks has changed.
        RunState.WAITING: {RunState.WAITING, RunState.TRAINING, RunState.PLANNED, *_ANYTIME},
        RunState.TRAINING: {RunState.TRAINING, RunState.MEASURING, RunState.PLANNED, *_ANYTIME},
        # To planned: a checkpoint is damaged, and trained again.
        RunState.MEASURING: {RunState.MEASURING, RunState.DONE, RunState.PLANNED, *_ANYTIME},
        RunState.DONE: set(),
        RunState.FAILED: set(),
        # The request to stop it was withdrawn.
        RunState.STOPPED: {RunState.PLANNED},
    }.items()
}
"""Which states may follow each state."""


class IllegalTransitionError(RuntimeError):
    """A state was to be entered that cannot follow: a fault of this program."""

    def __init__(self, run: str, old: RunState, new: RunState) -> None:
        super().__init__(f"{run}: {old} -> {new} is no transition")
        self.run, self.old, self.new = run, old, new


class StateOwner:
    """Changes the states of a study's runs, in the table `runs` first.

    Args:
        store: the study's store.
        lease: checked before every row.
    """

    def __init__(self, store: StudyStore, lease: Lease) -> None:
        self._store, self._lease = store, lease

    def enter(
        self,
        progress: RunProgress,
        state: RunState,
        reason: str | None = None,
        *,
        failure_kind: Kind | None = None,
        replaced_step: int | None = None,
        device: str | None = None,
        step: int | None = None,
    ) -> None:
        """Change a run's state.

        Args:
            progress: of the run.
            state: the new one; the old one again with another reason.
            reason: for people.
            failure_kind: of the failure that makes the change.
            replaced_step: step whose batch is replaced from here on.
            device: what it trains on, and in which precision.
            step: optimizer steps done; default: those that a restart would go on from.

        Raises:
            IllegalTransitionError: the state cannot follow the one before.
            FencedError: another controller works on the study.
        """
        run, old = progress.run, progress.state
        if state not in TRANSITIONS[old]:
            raise IllegalTransitionError(run.id, old, state)
        self._lease.check()
        step = progress.saved_step if step is None else step
        row = {
            "step": step,
            "tokens": step * run.batch_tokens,
            "state": state,
            "reason": reason,
            "world_size": progress.world_size,
            "device": device,
            "failure_kind": failure_kind,
            "replaced_step": replaced_step,
        }
        stream = {"run": run.id, "attempt": progress.attempt, "stream": "controller"}
        with self._store.writer("runs", **stream) as writer:  # type: ignore[arg-type]
            writer.append(writer.next_seq, [row])
        progress.take_state(state, reason)
        log.info("%s: %s%s", run.id, state, f" ({reason})" if reason else "")
