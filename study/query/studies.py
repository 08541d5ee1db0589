"""The studies of a store, a row each: how they stand, since when, how large they are."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sparsing.study.errors import SparsingError
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.care.removal import folder_bytes
from sparsing.study.store.io.objects import place_of
from sparsing.study.store.study_store import DEFINITION, StudyStore, list_studies


def listed_studies(root: str) -> list[dict[str, Any]]:
    """A row for each study; `error` where it cannot be read, which must not hide the others.

    `bytes` are those of its folder, and `made_at` when it was defined; None on an object store.
    """
    return [_row(root, each) for each in list_studies(root)]


def _row(root: str, study_id: str) -> dict[str, Any]:
    place = place_of(root) / study_id
    size = made = None
    if isinstance(place, Path):
        size = folder_bytes(place)
        made = datetime.fromtimestamp((place / DEFINITION).stat().st_mtime, UTC)
    about: dict[str, Any] = {"study": study_id, "made_at": made, "bytes": size}
    try:
        return about | StudyStatus.read(StudyStore.open(root, study_id)).summary()
    except SparsingError as error:
        return about | {"error": str(error)}
