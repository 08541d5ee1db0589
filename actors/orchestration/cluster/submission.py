"""Handing a study to a Ray cluster: checks that it has room there, and that it has taken it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sparsing.actors.orchestration.cluster.jobs import (
    connect_jobs,
    follow_start,
    nodes_there,
    submit_study,
)
from sparsing.actors.orchestration.cluster.nodes import check_room
from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.control.lease import holder_of
from sparsing.study.store.control.lease_watch import is_held
from sparsing.study.store.study_store import need_folder

DRIVER_SECONDS = 20.0
"""A job's driver ends within this time after its study."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What became of a study that was handed to a cluster."""

    study_id: str
    root: str
    """Root of its store, as the cluster's nodes see it."""
    submitted: bool
    """False where it was at work there already."""

    def as_dict(self) -> dict[str, Any]:
        """The document of `sparsing submit --json`."""
        return {"study": self.study_id, "store": self.root, "submitted": self.submitted}


def hand_over(
    study: Study | str, root: str, address: str, *, ship_code: bool = True, python: str = "python"
) -> Submission:
    """Have a study brought to its end on the cluster at `address`; returns at once.

    Args:
        study: its definition, or its id where the store has the definition.
        root: root of the store, as the cluster's nodes see it.
        address: the cluster's dashboard, `http://head:8265`.
        ship_code: bring this installation's code; else the nodes have it.
        python: of the nodes.

    Raises:
        DefinitionError: the definition is wrong, the store is no folder, or the cluster has no
            room for a run.
        NotFoundError: no cluster answers there.
        SparsingError: the cluster refuses the study.
    """
    root = str(need_folder(root))
    definition = study if isinstance(study, Study) else None
    if definition:
        plan_runs(definition)
    study_id = definition.study_id if definition else str(study)
    client = connect_jobs(address)
    if definition:
        check_room(definition.resources, nodes_there(address))
    once = partial(
        submit_study, client, study_id, root, definition, ship_code=ship_code, python=python
    )
    path, deadline = Path(root) / study_id, time.monotonic() + DRIVER_SECONDS
    while not (new := once()) and path.exists() and time.monotonic() < deadline:
        if is_held(path):
            break
        time.sleep(1)  # the driver of a study that has just been stopped is about to end
    return Submission(study_id=study_id, root=root, submitted=new)


def resume_there(
    study_id: str, root: str, address: str, *, ship_code: bool = True, python: str = "python"
) -> tuple[Submission, str]:
    """Resume a study of the store on the cluster; returns as well what became of it, in words.

    Args:
        study_id: of a study whose definition is in the store.
        root, address, ship_code, python: as for `hand_over`.

    Raises:
        NotFoundError, SparsingError: as `hand_over`.
    """
    path = need_folder(root) / study_id
    before = holder_of(path) if path.exists() else None
    done = hand_over(study_id, root, address, ship_code=ship_code, python=python)

    def at_work() -> bool:
        now = holder_of(path) if path.exists() else None
        return now is not None and not now.released and now.token > (before.token if before else 0)

    if not done.submitted:
        return done, "is at work there already"
    return done, follow_start(connect_jobs(address), study_id, at_work)
