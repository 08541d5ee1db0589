"""A controller's parts as the connected Ray cluster has them: gangs, room, measurers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from sparsing.actors.orchestration.cluster.capacity import Room
from sparsing.actors.orchestration.cluster.nodes import missing, nodes_of_cluster
from sparsing.actors.orchestration.controller import Controller
from sparsing.actors.orchestration.gang import Gang, remove_leftovers
from sparsing.actors.orchestration.interfaces import RunningGang
from sparsing.actors.orchestration.measurers import Measurer, MeasurerPool
from sparsing.actors.training.assignment import Assignment
from sparsing.study.definition.model import Resources
from sparsing.study.plan.runs import Run
from sparsing.study.store.control.lease import Lease
from sparsing.study.store.study_store import StudyStore

NOTICE_SECONDS = 30.0
"""Of a node that is drained without a deadline."""
HEAD_SECONDS = 5.0
log = logging.getLogger("sparsing.controller")


class RayCluster:
    """The connected cluster, as the controller asks it."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._room = Room(resources)
        self._head = GcsClient(address=ray.get_runtime_context().gcs_address)

    def lack(self) -> str | None:
        """What the cluster lacks for one run, were it empty, in words; None where a run fits."""
        return missing(self._resources, nodes_of_cluster())

    def world_size(self, run: Run) -> int:
        """Shards of the run's next attempt."""
        return self._room.world_size(run)

    def may_grow(self, run: Run, shards: int) -> bool:
        """Whether a run that trains with `shards` shards would be given more now."""
        return self._room.may_grow(run, shards)

    def draining(self) -> dict[str, float]:
        """Ids of nodes that are about to go, with the seconds until then."""
        try:
            found = self._head.get_draining_nodes(timeout=HEAD_SECONDS)
        except Exception as error:  # the head is busy, or about to be lost: that shows elsewhere
            log.info("which nodes are drained is not known: %s", error)
            return {}
        # In milliseconds since 1970; 0: no deadline.
        return {
            node: max(0.0, deadline / 1000 - time.time()) if deadline > 0 else NOTICE_SECONDS
            for node, deadline in found.items()
        }

    def wait(self, awaited: list[Any], timeout_seconds: float) -> None:
        """Return when one of these references is ready, or after the time."""
        if awaited:
            ray.wait(awaited, timeout=timeout_seconds)
        else:
            time.sleep(timeout_seconds)


def controller_on_ray(
    store: StudyStore,
    data_path: str,
    lease: Lease,
    *,
    start_gang: Callable[[Assignment], RunningGang] | None = None,
    measurer: type = Measurer,
) -> Controller:
    """A controller that works on the connected cluster; the places of an earlier one's gangs are
    given back.

    Args:
        store, data_path, lease: as of Controller.
        start_gang, measurer: others than ours only to time the controller.
    """
    remove_leftovers(store.path)
    resources = store.study.resources
    return Controller(
        store,
        data_path,
        lease,
        start_gang=start_gang or (lambda assignment: Gang(assignment, resources)),
        cluster=RayCluster(resources),
        measurers=MeasurerPool(store, data_path, measurer),
    )
