"""Whether the checkpoints of a study are all there, and are what was saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from sparsing.study.errors import NotFoundError
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.store.checkpoint_folders import (
    DAMAGED,
    checkpoint_folder,
    complete_steps,
    kept_steps,
    pruned_steps,
)
from sparsing.study.store.checkpoint_marker import (
    DamagedCheckpointError,
    read_checkpoint,
    verify_files,
)
from sparsing.study.store.study_store import StudyStore

Found = tuple[str, str, str]
"""Path relative to the study's folder, kind of finding, detail."""


def checkpoint_bytes(store: StudyStore) -> int:
    """How much `check_checkpoints` is going to read, about."""
    if not isinstance(store.place, Path):
        return 0
    folders = (store.place / "checkpoints").glob("*/step-*/*")
    return sum(path.stat().st_size for path in folders if path.is_file())


def check_checkpoints(
    store: StudyStore, progress: Callable[[int], None] | None = None
) -> Iterator[Found]:
    """What is damaged or gone of a study's checkpoints; reads every byte of them.

    Args:
        store: the study's store, a folder.
        progress: called with the number of bytes that were read since the last call.
    """
    for run in plan_runs(store.study):
        folder = store.path / "checkpoints" / run.id
        complete, recorded = complete_steps(store.path, run.id), _recorded(store, run)
        for step in sorted({*recorded} - {*complete} - _pruned(store, run, recorded, complete)):
            said = "the store has its rows, but its folder is gone"
            yield _path(store, run, step), "missing", said
        for step in complete:
            yield from _check(store, run, step, progress)
        for aside in sorted(folder.glob(f"*{DAMAGED}*")):
            said = "a damaged checkpoint that was set aside; nothing uses it"
            yield str(aside.relative_to(store.path)), "set aside", said


def _check(
    store: StudyStore, run: Run, step: int, progress: Callable[[int], None] | None
) -> Iterator[Found]:
    folder, path = checkpoint_folder(store.path, run.id, step), _path(store, run, step)
    try:
        checkpoint = read_checkpoint(folder)
        verify_files(folder, checkpoint, progress=progress)
    except DamagedCheckpointError as error:
        yield path, "checkpoint", error.problem
        return
    except NotFoundError:
        return  # pruned meanwhile
    if checkpoint.digests is None:
        yield path, "no digests", "of an earlier version: only the sizes of its files are checked"
    if (checkpoint.run, checkpoint.step) != (run.id, step):
        yield path, "checkpoint", f"it is of run {checkpoint.run}, step {checkpoint.step}"


def _recorded(store: StudyStore, run: Run) -> list[int]:
    """Steps of the checkpoints that the store has rows of."""
    rows = store.scan("checkpoints", run.id).select(pl.col("step").unique().sort()).collect()
    return rows["step"].to_list()


def _pruned(store: StudyStore, run: Run, recorded: list[int], complete: list[int]) -> set[int]:
    """Steps whose checkpoints were pruned, by us."""
    pruned = pruned_steps(store.path, run.id)
    if pruned is not None:
        return pruned
    # An earlier version kept no record: it left these, and no others.
    kept = kept_steps(store, run, recorded)
    return set(recorded) - kept if set(complete) == kept else set()


def _path(store: StudyStore, run: Run, step: int) -> str:
    return str(checkpoint_folder(store.path, run.id, step).relative_to(store.path))
