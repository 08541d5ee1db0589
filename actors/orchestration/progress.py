"""A run as the controller sees it, what the store remembers of it, and the order of runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from sparsing.actors.orchestration.interfaces import RunningGang
from sparsing.actors.orchestration.past_failures import past_failures
from sparsing.actors.orchestration.policy import PastFailure
from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import Run, training_flops
from sparsing.study.status.run_state import RunState
from sparsing.study.store.study_store import StudyStore


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """A gang was asked to save a recovery point and to end."""

    deadline: float
    """Monotonic time of this process at which it is ended, saved or not."""
    state: RunState
    """Of the run when the gang has ended."""
    reason: str


@dataclass
class RunProgress:
    """A run as the controller sees it; its state is changed by `transitions.StateOwner` alone."""

    run: Run
    attempt: int = 0
    world_size: int | None = None
    """Shards of the newest attempt; None before one was started by this controller."""
    gang: RunningGang | None = None
    live_measured: set[int] = field(default_factory=set)
    final_measured: bool = False
    failures: list[PastFailure] = field(default_factory=list)
    not_before: float = 0.0
    """Monotonic time of this process until which nothing is started for the run."""
    checkpoints_at_start: int = 0
    """Complete ones when the newest attempt began."""
    checkpoints: list[int] = field(default_factory=list)
    """Steps of the complete ones, as they were seen last."""
    recovery_step: int = 0
    """Of the newest recovery point, as it was seen last; 0 without one."""
    leaving: Leaving | None = None
    """Its gang was asked to save and to end."""
    replay_reported: bool = False
    """Of the newest attempt: a difference between a replay and the store was written down."""
    _state: RunState = RunState.PLANNED
    _reason: str | None = None

    @property
    def state(self) -> RunState:
        """The run's state."""
        return self._state

    @property
    def reason(self) -> str | None:
        """Why it is in that state."""
        return self._reason

    @property
    def newest_step(self) -> int:
        """Of the newest complete checkpoint; 0 before the first."""
        return self.checkpoints[-1] if self.checkpoints else 0

    @property
    def saved_step(self) -> int:
        """Of what a restart would go on from; 0: from the beginning."""
        return max(self.newest_step, self.recovery_step)

    @property
    def trained(self) -> bool:
        """Whether the checkpoint of its last step is complete."""
        return self.newest_step == self.run.steps

    def take_state(self, state: RunState, reason: str | None) -> None:
        """For `transitions.StateOwner`, which has written the change to the store."""
        self._state, self._reason = state, reason


def recall(store: StudyStore, run: Run) -> RunProgress:
    """A run's progress, from the store alone."""
    attempts = store.scan("runs", run=run.id).select(pl.col("attempt").max()).collect()
    measured = store.scan("sparsity", run=run.id).select("stage", "step").unique().collect()
    by_stage = {
        stage: set(measured.filter(pl.col("stage") == stage)["step"].to_list())
        for stage in ("live", "final")
    }
    return RunProgress(
        run=run,
        attempt=attempts.item() or 0,
        live_measured=by_stage["live"],
        final_measured=by_stage["final"] >= set(run.checkpoint_steps),
        failures=past_failures(store, run.id),
    )


def in_order(study: Study, runs: list[RunProgress]) -> list[RunProgress]:
    """The order in which runs start, as resources.order says."""
    if study.resources.order == "as_defined":
        return runs
    vocabulary = study.data.tokenizer.entries
    return sorted(runs, key=lambda p: -training_flops(p.run, vocabulary))
