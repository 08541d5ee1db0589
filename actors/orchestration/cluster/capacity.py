"""How many shards of a study the connected cluster holds, now and if it were empty."""

from __future__ import annotations

import time

import ray

from sparsing.actors.orchestration.cluster.nodes import nodes_of_cluster, shard_bundle
from sparsing.actors.orchestration.cluster.world_size import room_for, world_size
from sparsing.study.definition.model import Resources
from sparsing.study.plan.runs import Run

LOOK_SECONDS = 2.0
"""Nodes come and go rarely; the head is not asked more often."""


class Room:
    """The room for gangs of one study; what it says may be LOOK_SECONDS old."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._looked = float("-inf")
        self._total = self._free = 0

    def world_size(self, run: Run) -> int:
        """Shards of the run's next attempt."""
        if self._resources.min_shards is None:
            return self._resources.shards
        self._look()
        return self._pick(run, self._total)

    def may_grow(self, run: Run, shards: int) -> bool:
        """Whether a run with this number of shards would be given more if it asked now."""
        if self._resources.min_shards is None or shards == self._resources.shards:
            return False
        self._look()
        larger = self._pick(run, self._total)
        return larger > shards and larger - shards <= self._free

    def _pick(self, run: Run, room: int) -> int:
        wanted, least = self._resources.shards, self._resources.min_shards
        return world_size(run.batch_sequences, wanted, least, room)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked, nodes = now, nodes_of_cluster()
        bundle = shard_bundle(self._resources, nodes).resources
        self._total = room_for(bundle, [node.resources for node in nodes])
        self._free = room_for(bundle, [ray.available_resources()])
