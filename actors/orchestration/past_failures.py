"""The failures of a run that its store remembers: what the policy decides by."""

from __future__ import annotations

from sparsing.actors.orchestration.policy import PastFailure
from sparsing.study.status.failure import NOTICES, Kind
from sparsing.study.status.run_state import RunState
from sparsing.study.store.study_store import StudyStore

FAILURES = set(Kind) - NOTICES


def past_failures(store: StudyStore, run: str) -> list[PastFailure]:
    """All failures of a run, oldest first; those before it was last given up are forgiven.

    Those of a kind that this version does not know are left out.
    """
    columns = ["state", "failure_kind", "step", "replaced_step"]
    # In the order of commits: all such rows are of one stream.
    rows = store.scan("runs", run).select(columns).collect().rows(named=True)
    given_up = max((i for i, row in enumerate(rows) if row["state"] == RunState.FAILED), default=-1)
    return [
        PastFailure(
            kind=Kind(row["failure_kind"]),
            checkpoint_step=row["step"],
            batch_step=row["replaced_step"],
            forgiven=i <= given_up,
        )
        for i, row in enumerate(rows)
        if row["failure_kind"] in FAILURES
    ]
