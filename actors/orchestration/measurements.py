"""Which checkpoints are to be measured, and which are not there: pure, without Ray."""

from __future__ import annotations

from collections.abc import Iterable

from sparsing.actors.orchestration.interfaces import Wanted
from sparsing.actors.orchestration.progress import RunProgress
from sparsing.study.status.run_state import RunState


def wanted_measurements(runs: Iterable[RunProgress], now: float) -> list[Wanted]:
    """What could be measured now.

    Args:
        runs: all of the study.
        now: seconds of the controller's monotonic clock.
    """
    found: list[Wanted] = []
    for progress in runs:
        if now < progress.not_before:
            continue
        if progress.state == RunState.TRAINING:
            new = [s for s in progress.checkpoints if s not in progress.live_measured]
            found += [(progress, step) for step in new]
        if progress.state == RunState.MEASURING:
            found.append((progress, None))
    return found


def missing_checkpoints(progress: RunProgress) -> str | None:
    """Which checkpoints of a trained run are not there, in words; None where all are."""
    missing = sorted(set(progress.run.checkpoint_steps) - set(progress.checkpoints))
    if not missing:
        return None
    return f"without the checkpoints of steps {', '.join(map(str, missing))}, which are gone"
