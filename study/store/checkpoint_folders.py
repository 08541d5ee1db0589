"""Where a run's checkpoints are, which are complete, and which nothing needs any more."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.status.study_status import newest_states
from sparsing.study.store.study_store import StudyStore

MARKER = "checkpoint.json"
"""Written last: a folder that has it holds a complete checkpoint."""


def checkpoint_folder(study_path: str | Path, run_id: str, step: int) -> Path:
    """Folder of a run's checkpoint at a step."""
    return Path(study_path) / "checkpoints" / run_id / f"step-{step:09d}"


def complete_steps(study_path: str | Path, run_id: str) -> list[int]:
    """Steps of a run's complete checkpoints, increasing."""
    folder = Path(study_path) / "checkpoints" / run_id
    return sorted(int(marker.parent.name[5:]) for marker in folder.glob(f"step-*/{MARKER}"))


def stabilizing_steps(run: Run, steps: list[int], count: int) -> list[int]:
    """The last `count` of these checkpoints before the decay stage (all where none is before)."""
    before_decay = [s for s in steps if s <= run.steps - run.decay_steps]
    return (before_decay or steps)[-count:]


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A checkpoint that was removed, or would be."""

    run: str
    step: int
    bytes: int


def prune(store: StudyStore, *, dry_run: bool = False) -> list[Removed]:
    """Remove what no measurement needs: of runs that are done, all but `kept_steps`."""
    states = newest_states(store)
    done = [r for r in plan_runs(store.study) if states.get(r.id, {}).get("state") == "done"]
    return [gone for run in done for gone in prune_run(store, run, dry_run=dry_run)]


def prune_run(store: StudyStore, run: Run, *, dry_run: bool = False) -> list[Removed]:
    """The same of one run, whose measurements are final."""
    kept = kept_steps(store, run, complete_steps(store.path, run.id))
    removed = []
    for folder in sorted((store.path / "checkpoints" / run.id).glob("step-*")):
        step = int(folder.name[5:])
        if step in kept:
            continue
        size = sum(path.stat().st_size for path in folder.iterdir())
        removed.append(Removed(run=run.id, step=step, bytes=size))
        if not dry_run:
            # First: what is half removed is not complete, and removed the next time.
            (folder / MARKER).unlink(missing_ok=True)
            shutil.rmtree(folder)
    return removed


def kept_steps(store: StudyStore, run: Run, steps: list[int]) -> set[int]:
    """Those that the run's CETT value was searched on (paper, App. E), and the newest."""
    count = store.study.measurement.stabilizing_checkpoints
    return {*stabilizing_steps(run, steps, count), *steps[-1:]}
