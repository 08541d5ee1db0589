"""A run as the controller sees it, what the store remembers of it, and the order of runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from sparsing.actors.orchestration.gang import Gang
from sparsing.actors.orchestration.past_failures import past_failures
from sparsing.actors.orchestration.policy import PastFailure
from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import Run, training_flops
from sparsing.study.store.study_store import StudyStore


@dataclass
class RunProgress:
    """A run as the controller sees it."""

    run: Run
    state: str = "planned"
    reason: str | None = None
    attempt: int = 0
    world_size: int | None = None
    """Shards of the newest attempt; None before one was started by this controller."""
    gang: Gang | None = None
    live_measured: set[int] = field(default_factory=set)
    final_measured: bool = False
    failures: list[PastFailure] = field(default_factory=list)
    not_before: float = 0.0
    """Monotonic time of this process until which nothing is started for the run."""
    checkpoints_at_start: int = 0
    """Complete ones when the newest attempt began."""
    checkpoints: list[int] = field(default_factory=list)
    """Steps of the complete ones, as they were seen last."""


def recall(store: StudyStore, run: Run) -> RunProgress:
    """A run's progress, from the store alone."""
    states = store.scan("runs", run=run.id).sort("written_at").collect()
    measured = store.scan("sparsity", run=run.id).select("stage", "step").unique().collect()
    by_stage = {
        stage: set(measured.filter(pl.col("stage") == stage)["step"].to_list())
        for stage in ("live", "final")
    }
    return RunProgress(
        run=run,
        attempt=max(states["attempt"].to_list(), default=0),
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
