"""Whether a store has room for the saves of a study."""

from __future__ import annotations

import shutil
from pathlib import Path

from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError
from sparsing.study.plan.runs import CHECKPOINT_BYTES_PER_PARAMETER, Run, plan_runs
from sparsing.study.units import bytes_text

SAVES = 2
"""Room that must be there: for the newest save, while the one before is still kept."""


def save_bytes(run: Run, vocabulary: int) -> int:
    """Bytes of one checkpoint or recovery point of a run: weights and Adam's moments."""
    return CHECKPOINT_BYTES_PER_PARAMETER * (run.parameters + vocabulary * run.d_h)


def check_room_for_saves(study: Study, folder: Path) -> None:
    """Return if the file system of a folder has room for two saves of the study's largest run.

    Raises:
        DefinitionError: it has not; says how much is needed and how much is free.
    """
    vocabulary = study.data.tokenizer.entries
    largest = max(plan_runs(study), key=lambda run: save_bytes(run, vocabulary))
    needed, free = SAVES * save_bytes(largest, vocabulary), shutil.disk_usage(folder).free
    if needed > free:
        raise DefinitionError(
            f"{folder} has {bytes_text(free)} free; two saves of {largest.id} need "
            f"{bytes_text(needed)}: free some space, or give another --store"
        )
