"""Where a run's checkpoints are, which are complete, and which nothing needs any more.

Only folders called `step-` and digits are checkpoints; copies and conversions beside them
(`step-000000580-hf`) belong to whoever made them. A checkpoint folder may be a link.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as counted
from pathlib import Path

from sparsing.study.plan.runs import Run
from sparsing.study.store.checkpoint_marker import MARKER
from sparsing.study.store.io.durable import replace, sync_folder
from sparsing.study.store.study_store import StudyStore

STEP = re.compile(r"step-(\d+)")
DAMAGED = ".damaged-"
"""In the names of checkpoints that were set aside."""
RECOVERY = "recovery"
"""Folder of recovery points, beside `checkpoints`."""
PRUNED = "pruned.json"
"""Beside a run's checkpoints: the steps of those that were pruned."""


def checkpoint_folder(study_path: str | Path, run_id: str, step: int) -> Path:
    """Folder of a run's checkpoint at a step."""
    return Path(study_path) / "checkpoints" / run_id / f"step-{step:09d}"


def recovery_folder(study_path: str | Path, run_id: str, step: int) -> Path:
    """Folder of a run's recovery point at a step: a checkpoint that is not measured."""
    return Path(study_path) / RECOVERY / run_id / f"step-{step:09d}"


def recovery_steps(study_path: str | Path, run_id: str) -> list[int]:
    """Steps of a run's complete recovery points, increasing."""
    found = _step_folders(Path(study_path) / RECOVERY / run_id)
    return sorted(step for step, folder in found if (folder / MARKER).is_file())


def starting_points(study_path: str | Path, run_id: str) -> dict[int, Path]:
    """Steps that a run can go on from, increasing, and the folders of their checkpoints.

    Where a step has both, that is the checkpoint, not the recovery point.
    """
    found = {s: recovery_folder(study_path, run_id, s) for s in recovery_steps(study_path, run_id)}
    complete = complete_steps(study_path, run_id)
    found |= {step: checkpoint_folder(study_path, run_id, step) for step in complete}
    return dict(sorted(found.items()))


def remove_recovery_points(study_path: str | Path, run_id: str, *, keep: int = 0) -> None:
    """Remove a run's recovery points but for the newest `keep`."""
    steps = recovery_steps(study_path, run_id)
    for step in steps[: len(steps) - keep]:
        folder = recovery_folder(study_path, run_id, step)
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    if not keep:
        shutil.rmtree(Path(study_path) / RECOVERY / run_id, ignore_errors=True)


def complete_steps(study_path: str | Path, run_id: str) -> list[int]:
    """Steps of a run's complete checkpoints, increasing."""
    found = _step_folders(Path(study_path) / "checkpoints" / run_id)
    return sorted(step for step, folder in found if (folder / MARKER).is_file())


def _step_folders(run_folder: Path) -> Iterator[tuple[int, Path]]:
    """Steps and folders of checkpoints, complete or not; also links that lead nowhere."""
    for folder in sorted(run_folder.glob("step-*")):
        match = STEP.fullmatch(folder.name)
        # The one name that `checkpoint_folder` gives: `step-7` is nobody's either.
        if match and folder.name == checkpoint_folder("", "", int(match[1])).name:
            yield int(match[1]), folder


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it is none any more; returns where it is now."""
    for number in counted(1):
        target = folder.with_name(f"{folder.name}{DAMAGED}{number}")
        if not target.exists():
            folder.rename(target)
            sync_folder(folder.parent)
            return target
    raise AssertionError


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
    """What is freed: 0 of a link."""
    leads_to: str | None = None
    """Of a link: the folder that it leads to, which is left as it is."""


def prune_run(store: StudyStore, run: Run, *, dry_run: bool = False) -> list[Removed]:
    """The same of one run, whose measurements are final.

    Of a checkpoint that is a link, the link is removed and what it leads to is left.
    """
    kept = kept_steps(store, run, complete_steps(store.path, run.id))
    removed = []
    folders = _step_folders(store.path / "checkpoints" / run.id)
    going = [each for each in folders if each[0] not in kept]
    if not dry_run:
        _record_pruned(store.path, run.id, {step for step, _ in going})
    for step, folder in going:
        if folder.is_symlink():
            there = str(folder.readlink())
            removed.append(Removed(run=run.id, step=step, bytes=0, leads_to=there))
            if not dry_run:
                folder.unlink()
            continue
        size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
        removed.append(Removed(run=run.id, step=step, bytes=size))
        if not dry_run:
            # First: what is half removed is not complete, and removed the next time.
            (folder / MARKER).unlink(missing_ok=True)
            shutil.rmtree(folder)
    return removed


def pruned_steps(study_path: Path, run_id: str) -> set[int] | None:
    """Steps of a run's checkpoints that were pruned; None where nothing was ever recorded."""
    try:
        return set(json.loads((study_path / "checkpoints" / run_id / PRUNED).read_text()))
    except (FileNotFoundError, ValueError):
        return None


def _record_pruned(study_path: Path, run_id: str, steps: set[int]) -> None:
    known = pruned_steps(study_path, run_id) or set()
    if steps - known:
        content = json.dumps(sorted(known | steps)).encode()
        replace(content, study_path / "checkpoints" / run_id / PRUNED)


def kept_steps(store: StudyStore, run: Run, steps: list[int]) -> set[int]:
    """Those that the run's CETT value was searched on (paper, App. E), and the newest."""
    count = store.study.measurement.stabilizing_checkpoints
    return {*stabilizing_steps(run, steps, count), *steps[-1:]}
