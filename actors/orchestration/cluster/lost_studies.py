"""Studies that were submitted to a cluster and lost with it: the head's loss takes their actors."""

from __future__ import annotations

from collections.abc import Callable

from sparsing.actors.orchestration.cluster.submission import resume_there
from sparsing.study.errors import SparsingError
from sparsing.study.status.study_status import StatusReader
from sparsing.study.store.control.requests import was_submitted
from sparsing.study.store.study_store import StudyStore, list_studies, need_folder


def lost_studies(root: str) -> list[str]:
    """Ids of a store's studies that were submitted, have runs left, and whose controller vanished.

    A controller that ended by itself, by request or by an error, gave its lease back: what it left
    is left to people. Takes the lease's span for each study of which that is not certain.
    """
    return [study_id for study_id in list_studies(need_folder(root)) if _is_lost(root, study_id)]


def resume_lost(root: str, address: str, say: Callable[[str], None], **how: object) -> None:
    """Resume the lost studies of a store on a cluster; what cannot be resumed now is said.

    Args:
        root: of the store, as this machine and the cluster's nodes see it.
        address: of the cluster's dashboard.
        say: is told what became of each.
        how: `ship_code` and `python`, as for `hand_over`.
    """
    for study_id in lost_studies(root):
        try:
            _, what = resume_there(study_id, root, address, **how)  # type: ignore[arg-type]
        except SparsingError as error:
            what = f"cannot be resumed now: {error}"
        say(f"{study_id} {what}")


def _is_lost(root: str, study_id: str) -> bool:
    try:
        store = StudyStore.open(need_folder(root), study_id)
        if not was_submitted(store.path):
            return False
        now = StatusReader(store).read_certain()
    except (SparsingError, OSError):
        return False  # a store that is damaged needs people
    record = now.lease.record
    return now.unattended and record is not None and not record.released
