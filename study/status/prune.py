"""Removing checkpoints that nothing needs any more, of all runs that are done."""

from __future__ import annotations

from sparsing.study.plan.runs import plan_runs
from sparsing.study.status.run_state import RunState
from sparsing.study.status.study_status import newest_states
from sparsing.study.store.checkpoint_folders import Removed, prune_run
from sparsing.study.store.study_store import StudyStore


def prune(store: StudyStore, *, dry_run: bool = False) -> list[Removed]:
    """Remove what no measurement needs: of runs that are done, all but `kept_steps`."""
    states = newest_states(store)
    done = [
        run
        for run in plan_runs(store.study)
        if states.get(run.id, {}).get("state") == RunState.DONE
    ]
    return [gone for run in done for gone in prune_run(store, run, dry_run=dry_run)]
